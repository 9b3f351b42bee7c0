"""`beamclip review migrate`: labels and reviews of a run carried over to a changed prompt set; no image is read."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clip_transforms.accounting import versions
from clip_transforms.elements import RequestError
from clip_transforms.labelled import LabelledRun, embeddings_run, find_set
from clip_transforms.labelsets import LabelSet
from clip_transforms.prompts import load_prompt_set
from clip_transforms.review.diff import compare
from clip_transforms.review.diff_page import Change, as_json, printed, render
from clip_transforms.review.migrated_audit import carry_audits
from clip_transforms.review.migrating import Migrated, hints_csv, migrate_reviews
from clip_transforms.review.reviews import append_reviews, verdicts_of
from clip_transforms.storage import Store
from clip_transforms.summary import printable
from clip_transforms.taxonomy import LabelMap, kept_map, read_map
from pipelines.flags import build_relabel_parser
from pipelines.from_run import label_stored
from pipelines.launch import Exit, configure_logging, guarded, parse
from pipelines.review_files import read_file
from pipelines.storage_options import storage_options

DESCRIPTION = (
    "Label the stored embeddings of RUN with a changed prompt set, carry the reviews over, and write what changed: "
    "diffs/OLD--NEW.json and .html, and .csv with what must be reviewed again. No image is read; the old labels and "
    "reviews stay. A second run goes on where the first stopped and changes nothing else."
)
#: What is passed on to the labelling job.
_JOB = (
    "device",
    "threads",
    "runner",
    "accelerator",
    "min_ram",
    "wait",
    "quiet",
    "verbose",
    "storage_option",
    "take_over",
)


def build_parser() -> argparse.ArgumentParser:
    """The options; those not given are absent."""
    parser = build_relabel_parser("review migrate", DESCRIPTION)
    parser.add_argument("--prompts", required=True, metavar="NAME|FILE", help="the new prompt set")
    parser.add_argument(
        "--map",
        metavar="FILE",
        help="what becomes of the old labels, YAML: rename: {old: new}, merge: {new: [old, old2]}, split: {old: "
        "[new1, new2]}, remove: [old]; labels of the same id need not be named",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser()
    args, rest, unchecked = parse(parser, argv)
    return guarded(
        lambda: migrate(parser, args, rest, unchecked),
        verbose=hasattr(args, "verbose"),
        on_interrupt=lambda: "; what is committed stays, the same command goes on with it",
    )


def migrate(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """Check the map, label, carry the reviews over, write and print the diff."""
    configure_logging(verbose=hasattr(args, "verbose"))
    options = storage_options(getattr(args, "storage_option", []))
    store = Store(args.run, options)
    run = LabelledRun(store, find_set(store, getattr(args, "set", None)))
    new = LabelSet(
        prompt_set=load_prompt_set(args.prompts, storage_options=options), top_k=run.label_set.top_k
    )
    if new.prompt_set.hash == run.label_set.prompt_set.hash:
        raise RequestError(
            f"--prompts {args.prompts} is what {run.tag} was made with: there is nothing to migrate"
        )
    label_map = _label_map(args, run, new, options)
    now = datetime.datetime.now(datetime.timezone.utc)
    migrated = migrate_reviews(store, label_map, new_tag=new.tag, now=now)
    _check_name(label_map, migrated)
    if hasattr(args, "dry_run"):
        _tell_plan(run, new, label_map, migrated)
        return Exit.DONE
    code = label_stored(parser, _label_args(args, store, new), rest, unchecked)
    if code != Exit.DONE:
        return code
    change = _carry(store, run, new, label_map, migrated)
    if not hasattr(args, "quiet"):
        print()
        for line in printed(change):
            print(printable(line))
        print(f"diff  {store.join(f'{change.stem}.html')}")
    return Exit.DONE


def _label_map(
    args: argparse.Namespace, run: LabelledRun, new: LabelSet, options: Mapping[str, object]
) -> LabelMap:
    old = run.label_set.prompt_set
    if not hasattr(args, "map"):
        return kept_map(old, new.prompt_set)
    return read_map(read_file(args.map, options, flag="--map"), source=args.map, old=old, new=new.prompt_set)


def _check_name(label_map: LabelMap, migrated: Migrated) -> None:
    """Raise RequestError where open answers would go on counting, as answers to the new set of the same name."""
    if label_map.old.name != label_map.new.name or not migrated.hints:
        return
    hint = migrated.hints[0]
    told = f"{' | '.join(hint.labels) or 'none'} for {hint.uri or hint.image_id}"
    raise RequestError(
        f"{len(migrated.hints)} answers must be given anew (e.g. {told}), and would count as they are while both sets "
        f"are called '{label_map.new.name}': give the new set a name of its own, such as `name: {label_map.new.name}-2`"
    )


def _label_args(args: argparse.Namespace, store: Store, new: LabelSet) -> argparse.Namespace:
    """The request to label the run's embeddings into the run itself, also where they are another run's."""
    kept = {name: getattr(args, name) for name in _JOB if hasattr(args, name)}
    kept |= {"prompts": [args.prompts], "top_k": new.top_k, "from_run": args.run}
    other = embeddings_run(store)
    if other is not None:
        kept |= {"from_run": other, "output": args.run, "resume": True}
    return argparse.Namespace(**kept)


def _carry(store: Store, run: LabelledRun, new: LabelSet, label_map: LabelMap, migrated: Migrated) -> Change:
    """Store the carried reviews and the diff."""
    answers = {
        verdict.image_id: verdict.labels
        for verdict in verdicts_of(migrated.reviews)
        if verdict.labels is not None
    }
    diff = compare(
        run, new.tag, label_map, answers=answers, wanted=[hint.image_id for hint in migrated.hints]
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    audit = carry_audits(store, label_map.old.name, new.tag, now=now)
    change = Change(
        old_tag=run.tag,
        new_tag=new.tag,
        label_map=label_map,
        diff=diff,
        carried=migrated.reviews.num_rows,
        new_reviews=append_reviews(store, migrated.reviews),
        already=migrated.already,
        hints=migrated.hints,
        audit=audit,
        facts=_facts(store, now),
    )
    if migrated.hints:
        store.write(f"{change.stem}.csv", hints_csv(migrated.hints, tag=new.tag, shown=diff.shown))
    else:
        store.delete([f"{change.stem}.csv"])  # of an earlier run: all is answered
    store.write(f"{change.stem}.html", render(change))
    store.write(f"{change.stem}.json", as_json(change))
    return change


def _facts(store: Store, now: datetime.datetime) -> dict[str, Any]:
    return {
        "run": store.root,
        "created_at": now.isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _tell_plan(run: LabelledRun, new: LabelSet, label_map: LabelMap, migrated: Migrated) -> None:
    print(f"would label {run.store.root} with {new.tag} and hold it against {run.tag}")
    for old, targets in sorted(label_map.targets.items()):
        if targets != (old,):
            print(f"  {printable(old)} -> {printable(', '.join(targets)) or 'removed'}")
    for label in label_map.added:
        print(f"  new: {printable(label)}")
    print(f"reviews   {migrated.reviews.num_rows} carried over, {len(migrated.hints)} to be reviewed again")


if __name__ == "__main__":
    sys.exit(main())
