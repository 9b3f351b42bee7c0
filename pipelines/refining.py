"""The work of `beamclip refine`: reviews read, a probe fitted and judged, the run relabelled."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from clip_transforms.calibration import read_calibration
from clip_transforms.elements import ContractError
from clip_transforms.evaluation.judges import TextModel
from clip_transforms.evaluation.metrics import PairedDifference
from clip_transforms.labelled import LabelledRun, find_set
from clip_transforms.labelsets import LabelSet
from clip_transforms.probe import Probe, probe_name, read_probe
from clip_transforms.refining.fit import require_extra
from clip_transforms.refining.flips import flips_name
from clip_transforms.refining.held_out import judge_held_out
from clip_transforms.refining.label_errors import LabelError, find_label_errors, label_errors_parquet
from clip_transforms.refining.refit import Refit, difference_figures, enough, figures, refit
from clip_transforms.refining.reviewed import Reviewed, read_reviewed
from clip_transforms.refining.text import errors_table, refit_lines, reviewed_lines
from clip_transforms.review.reviews import set_reviews
from clip_transforms.storage import Store
from pipelines.launch import Exit, beam_options
from pipelines.relabel import make_ready, relabel, stored_job
from pipelines.runners import launch_of
from pipelines.storage_options import storage_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """A refit of a label set of a run, and what it is to be stored as."""

    found: Refit
    probe: Probe  # with its figures
    label_set: LabelSet
    trained: Reviewed
    held: PairedDifference | None
    errors: tuple[LabelError, ...]

    def objects(self) -> dict[str, bytes]:
        """What the run keeps of it, by name."""
        tag = self.label_set.tag
        listed = json.dumps([asdict(one) for one in self.errors], indent=1, ensure_ascii=False)
        return {
            probe_name(tag): self.probe.to_json(),
            f"probes/{tag}/label_errors.parquet": label_errors_parquet(self.errors),
            f"probes/{tag}/label_errors.json": listed.encode(),
        }


def refine(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """Run the command; returns the exit code. Raises RequestError, and ContractError for too few reviews."""
    require_extra()
    launch = launch_of(args, beam_options(parser, getattr(args, "runner", None), rest, unchecked))
    store = Store(args.run, storage_options(getattr(args, "storage_option", [])))
    run = _whole(store, find_set(store, getattr(args, "set", None)))
    tell = _silent if hasattr(args, "quiet") else _tell
    job = stored_job(args, store)
    reviewed = _reviewed(run)
    tell(reviewed_lines(reviewed))
    ready = make_ready(job, launch)
    refined = _refit(run, reviewed, ready.model)
    tell(refit_lines(refined.found, refined.trained, refined.held))
    if refined.errors:
        tell(["", errors_table(refined.errors).plain(), ""])
    if not refined.found.adopted:
        tell([f"not adopted: {_why_not(refined.found)}; {run.tag} stays as it is, nothing was written"])
        return Exit.DONE
    tag = refined.label_set.tag
    if _is_there(store, tag):
        tell(
            [f"adopted: {tag}, which the run has already; nothing was written", f"next  {_next(store, tag)}"]
        )
        return Exit.DONE
    tell([f"adopted: {run.tag} is refined as {tag}", *_dropped(run)])
    if hasattr(args, "dry_run"):
        return Exit.DONE
    return relabel(
        ready,
        label_set=refined.label_set,
        base=run.tag,
        objects=refined.objects(),
        command="refine",
    )


def _whole(store: Store, tag: str) -> LabelledRun:
    """The labels of this set; of one that an interrupted job left unfinished, those that it was made from."""
    run = LabelledRun(store, tag)
    if _is_whole(run):
        return run
    if run.label_set.calibration:
        return _whole(store, read_calibration(store, tag).base)
    if run.label_set.probe:
        return _whole(store, read_probe(store, tag).figures["refined"])
    return run  # says what it lacks once its rows are read


def _is_whole(run: LabelledRun) -> bool:
    """Whether every image has a label."""
    try:
        return run.rows >= 0
    except ContractError:
        return False


def _reviewed(run: LabelledRun) -> Reviewed:
    """The reviewed images; ContractError where nothing can be learnt from them."""
    name = run.label_set.prompt_set.name
    reviews = set_reviews(run.store, name)
    reviewed = read_reviewed(run, reviews.verdicts(), earlier=len(reviews.earlier()))
    try:
        enough(reviewed.rows(~reviewed.held_out))
    except ContractError as error:
        left = "".join(f"; {count} left out: {why}" for why, count in reviewed.left_out.items())
        held = int(reviewed.held_out.sum())
        kept = f"; {held} of the audit are held out for calibrate" if held else ""
        mend = f"beamclip review export {shlex.quote(run.store.root)} --set {name} --to ... --output ..."
        raise ContractError(f"{error}{left}{kept}; more to review: {mend}") from None
    return reviewed


def _refit(run: LabelledRun, reviewed: Reviewed, model: TextModel) -> Refined:
    """Fit and judge; the base is always the zero-shot set: a probe is replaced, never built upon."""
    label_set, features = run.label_set, run.text_features()
    plain = replace(label_set, calibration=None, probe=None)
    trained = reviewed.rows(~reviewed.held_out)
    logits = model.logits(trained.embeddings, features, label_set.prompt_set)
    found = refit(trained, logits, base=plain.tag)
    held = judge_held_out(reviewed, label_set.prompt_set, features, model, found.probe)
    errors = tuple(find_label_errors(trained, found.predicted))
    said = {
        **figures(found, trained),
        "refined": run.tag,
        "held_out": difference_figures(held) if held else None,
        "label_errors": len(errors),
    }
    return Refined(
        found=found,
        probe=replace(found.probe, figures=said),
        label_set=replace(plain, probe=found.probe.hash),
        trained=trained,
        held=held,
        errors=errors,
    )


def _is_there(store: Store, tag: str) -> bool:
    """Whether the run is labelled with this set, units that were added since too, and its changes are counted."""
    return store.exists(flips_name(tag)) and _is_whole(LabelledRun(store, tag))


def _why_not(found: Refit) -> str:
    low, high = found.loss.interval
    if not found.choice.blend:
        return "the folds chose zero-shot alone"
    if high < 0:
        return f"the probe is worse than zero-shot out of fold (gain {found.loss.gain:+.3f} nats an image)"
    told = f"gain {found.loss.gain:+.3f} nats an image [{low:+.3f}, {high:+.3f}]"
    return f"the probe is not shown to beat zero-shot out of fold ({told})"


def _dropped(run: LabelledRun) -> list[str]:
    lines = []
    if run.label_set.probe:
        lines.append(f"its probe takes the place of that of {run.tag}")
    if run.label_set.calibration:
        lines.append(f"the calibration of {run.tag} does not hold for the new scores: calibrate again")
    return lines


def _next(store: Store, tag: str) -> str:
    return f"beamclip calibrate {shlex.quote(store.root)} --set {tag}"


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _silent(lines: Sequence[str]) -> None:
    """With --quiet."""
