"""`beamclip review import`: annotators' answers come back into a run."""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
from collections.abc import Sequence

from clip_transforms.elements import RequestError
from clip_transforms.labelled import find_set
from clip_transforms.review.importers import (
    SOURCES,
    Collected,
    Named,
    Reviewers,
    collect,
    read_answers,
    read_manifest,
)
from clip_transforms.review.importers.told import Fresh, by_reason, fresh, progress, rejected_csv
from clip_transforms.review.reviews import append_reviews
from clip_transforms.storage import Store
from clip_transforms.summary import printable
from pipelines.flags import add_run
from pipelines.launch import Exit, configure_logging, guarded
from pipelines.review_files import read_file, write_file
from pipelines.storage_options import storage_options

DESCRIPTION = (
    "Store what annotators answered in RUN/reviews. Images are found by image_id, uri or file name; labels by id, "
    "name or synonym. What cannot be taken is counted by reason and told, and the exit code is 1; answers that the "
    "run has already change nothing. An answer in CVAT is a tag that a person made or changed."
)
_EXAMPLES = 3


def build_parser() -> argparse.ArgumentParser:
    """The options; those not given are absent."""
    parser = argparse.ArgumentParser(
        prog="beamclip review import",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_run(parser)
    parser.add_argument(
        "--from",
        dest="source",
        choices=SOURCES,
        required=True,
        help="what wrote the files: Label Studio's JSON, CVAT for images 1.1 (XML), a review CSV, or the CSV that "
        "report.html downloads",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="the files, on disk or in any store; of CVAT with the manifests of the exported tasks (.jsonl), which say "
        "which image a name is",
    )
    parser.add_argument(
        "--reviewer",
        action="append",
        metavar="[GIVEN=]NAME",
        help="who answered where a file does not say; with GIVEN= what a reviewer of the files is called here, "
        "such as 1=anna; may be repeated",
    )
    parser.add_argument(
        "--accept-untouched",
        action="store_true",
        help="CVAT: predictions that nobody touched are agreement; for tasks in which every image was looked at",
    )
    parser.add_argument("--rejected", metavar="FILE", help="write every rejected row to this CSV")
    parser.add_argument("--dry-run", action="store_true", help="say what would come in; write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where rows were rejected."""
    args = build_parser().parse_intermixed_args(argv)  # files before and after the options
    return guarded(lambda: import_reviews(args), verbose=hasattr(args, "verbose"))


def import_reviews(args: argparse.Namespace) -> int:
    """Read the files, store what is new, say what came of it."""
    configure_logging(verbose=hasattr(args, "verbose"))
    options = storage_options(getattr(args, "storage_option", []))
    store = Store(args.run, options)
    untouched = hasattr(args, "accept_untouched")
    if untouched and args.source != "cvat":
        raise RequestError(
            f"--accept-untouched is for --from cvat: {args.source} has no untouched predictions"
        )
    reviewers = _reviewers(getattr(args, "reviewer", []))
    tag = find_set(store, getattr(args, "set", None))
    contents = [(url.rpartition("/")[2], read_file(url, options)) for url in args.files]
    names: dict[str, Named] = {}
    for name, data in contents:
        if _is_manifest(args.source, name):
            names |= read_manifest(data, name=name)
    entries = itertools.chain.from_iterable(
        read_answers(data, source=args.source, name=name, untouched=untouched)
        for name, data in contents
        if not _is_manifest(args.source, name)
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    found = collect(store, tag, entries, source=args.source, reviewers=reviewers, names=names, now=now)
    new = fresh(store, tag.partition("@")[0], found.reviews)
    dry = hasattr(args, "dry_run")
    if not dry:
        if hasattr(args, "rejected"):
            write_file(args.rejected, rejected_csv(found.rejected), options)
        append_reviews(store, new.reviews)
    if not hasattr(args, "quiet"):
        for line in _table(store, tag, found, new):
            print(printable(line))
        if dry:
            print("nothing was written (--dry-run)")
    return Exit.CONTRACT if found.rejected else Exit.DONE


def _is_manifest(source: str, name: str) -> bool:
    return source == "cvat" and name.lower().endswith(".jsonl")


def _reviewers(given: Sequence[str]) -> Reviewers:
    """What `--reviewer` says; RequestError where it says two things of one name.

    >>> _reviewers(["ann", "1=bob"]).name(None), _reviewers(["ann", "1=bob"]).name("1")
    ('ann', 'bob')
    """
    default: str | None = None
    renamed: dict[str, str] = {}
    for text in given:
        old, equals, name = text.partition("=")
        name = (name if equals else old).strip()
        if not name or (equals and not old.strip()):
            raise RequestError(f"--reviewer {text!r}: expected NAME, or GIVEN=NAME such as 1=anna")
        if (equals and old.strip() in renamed) or (not equals and default is not None):
            raise RequestError(f"--reviewer {text!r}: there is another one for the same answers")
        if equals:
            renamed[old.strip()] = name
        else:
            default = name
    return Reviewers(renamed=renamed) if default is None else Reviewers(default=default, renamed=renamed)


def _table(store: Store, tag: str, found: Collected, new: Fresh) -> list[str]:
    """The closing table, a line each."""
    set_name = tag.partition("@")[0]
    lines = [
        f"{tag}",
        _line("read", found.read, "rows"),
        _line("new", new.reviews.num_rows),
        _line("  agreed", new.counted(True), "with what was shown"),
        _line("  changed", new.counted(False)),
        _line("  not shown", new.counted(None), "any label, or it is not known"),
        _line("known", new.known + found.repeated, "already"),
    ]
    lines += [_line(why.value, count) for why, count in found.unanswered.items()]
    lines.append(_line("rejected", len(found.rejected)))
    for reason, count, first in by_reason(found.rejected):
        lines.append(_line(f"  {reason.value}", count, f"{first.place}: {first.message}"))
    if new.outdated:
        lines.append(
            _line("outdated", new.outdated, "known answers without a time: later ones of the reviewers hold")
        )
    return [*lines, *_so_far(store, set_name)]


def _so_far(store: Store, set_name: str) -> list[str]:
    """The lines on all reviews of the set."""
    found = progress(store, set_name)
    told = f"{found.images:,} images, {found.reviewers:,} reviewer{'' if found.reviewers == 1 else 's'}"
    lines = ["", _line("reviews", found.reviews, f"of {set_name} so far: {told}")]
    if found.conflicts:
        examples = "; ".join(
            f"{verdict.uri or verdict.image_id}: "
            + ", ".join(f"{name} {' | '.join(labels) or 'none'}" for name, labels in verdict.answers)
            for verdict in found.conflicts[:_EXAMPLES]
        )
        lines.append(_line("conflicts", len(found.conflicts), f"images, reviewers differ: {examples}"))
    if found.earlier:
        lines.append(
            _line(
                "earlier pictures",
                found.earlier,
                "images changed since: their reviews do not count, export asks again",
            )
        )
    if found.audit_drawn:
        lines.append(_line("audit", found.audit_done, f"of {found.audit_drawn:,} drawn images are reviewed"))
    return lines


def _line(words: str, count: int, note: str = "") -> str:
    return f"{words:<22}{count:>9,}  {note}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
