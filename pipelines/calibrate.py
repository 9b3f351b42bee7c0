"""`beamclip calibrate`: audited images become a temperature, and cuts from which on labels are accepted unseen."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from clip_transforms.auto_accept import check_claim
from clip_transforms.calibrating import Claim, calibrate_set
from clip_transforms.calibration import calibration_name, read_calibration
from clip_transforms.elements import ContractError, RequestError
from clip_transforms.labelled import LabelledRun, find_set
from clip_transforms.labelsets import LabelSet, label_set_tags, read_label_set
from clip_transforms.probe import probe_name
from clip_transforms.storage import Store
from pipelines.calibrate_text import found_lines
from pipelines.flags import build_relabel_parser
from pipelines.launch import Exit, beam_options, configure_logging, guarded, parse
from pipelines.relabel import make_ready, relabel, stored_job
from pipelines.runners import launch_of
from pipelines.storage_options import storage_options

DESCRIPTION = (
    "Calibrate a label set of RUN on the reviews of its audit images, which were drawn at random: a temperature for "
    "its probabilities, and the score from which on labels are accepted unseen, so that with the given confidence "
    "at least the target share of what is accepted is right. Then labels the stored embeddings again, into a new "
    "folder; no image is read. Where the audit does not carry the claim it says what is missing, exits 1 and writes "
    "nothing."
)


def build_calibrate_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = build_relabel_parser("calibrate", DESCRIPTION)
    parser.add_argument(
        "--allow-private-urls", action="store_true", help="as the run was given it, for the report's pictures"
    )
    group = parser.add_argument_group("what is claimed")
    group.add_argument(
        "--target-precision",
        type=float,
        metavar="P",
        help="the share of the accepted labels that must be right (default 0.95)",
    )
    group.add_argument(
        "--confidence", type=float, metavar="C", help="at which that is promised (default 0.95)"
    )
    group.add_argument(
        "--per-class",
        action="store_true",
        help="a cut and a promise for each label with enough audit images, all at once at the confidence; the other "
        "labels are never accepted",
    )
    group.add_argument(
        "--unreviewed",
        choices=("wrong", "skip"),
        help="audit images that nobody has reviewed yet: count as wrong (default), which keeps the promise, or are "
        "left out, which keeps it only if they are a random part of the audit",
    )
    group.add_argument(
        "--temperature-only", action="store_true", help="accept nothing; the way for multi-label sets"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where the audit does not carry the claim."""
    parser = build_calibrate_parser()
    args, rest, unchecked = parse(parser, argv)

    def work() -> int:
        configure_logging(verbose=hasattr(args, "verbose"))
        return calibrate(parser, args, rest, unchecked)

    return guarded(work, verbose=hasattr(args, "verbose"), on_interrupt=lambda: _again(args))


def calibrate(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """Calibrate a set of `args.run` and label the run with it; the exit code."""
    claim = read_claim(args)
    _require_scipy()
    store = Store(args.run, storage_options(getattr(args, "storage_option", [])))
    base = base_of(store, find_set(store, getattr(args, "set", None)))
    run = LabelledRun(store, base)
    _check_task(run.label_set, claim)
    job = stored_job(args, store)
    launch = launch_of(job.args, beam_options(parser, getattr(args, "runner", None), rest, unchecked))
    ready = make_ready(job, launch)
    found = calibrate_set(run, ready.model, claim)
    label_set = replace(run.label_set, calibration=found.calibration.hash)
    told = found_lines(found, label_set.tag)
    if hasattr(args, "dry_run"):
        print("\n".join([*told, f"would label {store.root} with {label_set.tag}; nothing was written"]))
        return Exit.DONE
    objects = {calibration_name(label_set.tag): found.calibration.to_json()}
    if label_set.probe:
        objects[probe_name(label_set.tag)] = store.read(probe_name(base))
    code: int = Exit.DONE
    if _is_done(store, label_set.tag, objects):
        told.append(f"{store.root} has these labels already; nothing was written")
        newest = find_set(store, run.label_set.prompt_set.name)
        if newest != label_set.tag:
            told.append(f"readers that are not told take the newest, {newest}; to mean this one, name it")
    else:
        told.insert(0, "")
        try:
            code = relabel(ready, label_set=label_set, base=base, objects=objects, command="calibrate")
        except ContractError:  # the run lacks something else, such as the end of a shard
            if _is_done(store, label_set.tag, objects) and not hasattr(args, "quiet"):
                print("\n".join(told))
            raise
    if not hasattr(args, "quiet"):
        print("\n".join(told))
    return code


def read_claim(args: argparse.Namespace) -> Claim:
    """What the options claim; raises RequestError."""
    only = hasattr(args, "temperature_only")
    for name in ("target_precision", "confidence", "per_class"):
        if only and hasattr(args, name):
            raise RequestError(
                f"--temperature-only and --{name.replace('_', '-')} exclude each other: nothing is accepted"
            )
    renamed = {"target_precision": "target", "confidence": "confidence", "unreviewed": "unreviewed"}
    given = {new: getattr(args, old) for old, new in renamed.items() if hasattr(args, old)}
    claim = Claim(per_class=hasattr(args, "per_class"), accept=not only, **given)
    check_claim(claim.target, claim.confidence)
    return claim


def base_of(store: Store, tag: str) -> str:
    """The set that a calibrated one was made from: its scores were stored before the audit. Any other: itself."""
    base = tag
    try:
        while read_label_set(store, base).calibration:
            base = read_calibration(store, base).base
    except FileNotFoundError as error:
        raise RequestError(
            f"{store.root}: what the set {tag} was made with is not there any more ({error})"
        ) from error
    return base


def _check_task(label_set: LabelSet, claim: Claim) -> None:
    if claim.accept and label_set.prompt_set.task == "multi":
        raise RequestError(
            f"{label_set.tag} is a multi-label set: what is accepted unseen, and promised to be right, are single "
            "labels. --temperature-only fits a temperature for its probabilities"
        )


def _is_done(store: Store, tag: str, objects: dict[str, bytes]) -> bool:
    """Whether the run has exactly these labels, all of them."""
    if tag not in label_set_tags(store):
        return False
    if any(not store.exists(name) or store.read(name) != data for name, data in objects.items()):
        return False
    try:
        return LabelledRun(store, tag).rows >= 0
    except ContractError:
        return False


def _require_scipy() -> None:
    try:
        import scipy.stats  # noqa: F401
    except ImportError:
        raise RequestError("calibrate needs scipy: pip install 'beamclip[review]'") from None


def _again(args: argparse.Namespace) -> str:
    return f"; what is committed stays. Go on with the same command: beamclip calibrate {shlex.quote(args.run)} ..."


if __name__ == "__main__":
    sys.exit(main())
