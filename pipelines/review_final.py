"""`beamclip review final`: the final labels of a run as a data set, each with who decided it."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.accounting import versions
from clip_transforms.elements import RequestError
from clip_transforms.fingerprint import labels_fingerprint
from clip_transforms.labelled import LabelledRun, find_set
from clip_transforms.pairs.shards import plan_units
from clip_transforms.plan import read_extensions
from clip_transforms.review.deciding import DECIDERS, UNDECIDED, Decisions
from clip_transforms.review.final_card import card
from clip_transforms.review.final_facts import Written, as_json, facts, images_since, refinements
from clip_transforms.review.final_files import Sink, create, csv_files, parquet_files
from clip_transforms.review.final_images import ImageCopier, folder_names
from clip_transforms.review.importers.selection import audit_ids
from clip_transforms.storage import Store
from clip_transforms.summary import printable
from pipelines.flags import add_run
from pipelines.launch import Exit, configure_logging, guarded
from pipelines.rereading import rereading
from pipelines.storage_options import storage_options
from schemas.final import FINAL

DESCRIPTION = (
    "Write the final labels of a run into an empty folder, each with who decided it: reviewers, a threshold with a "
    "guarantee (after `beamclip calibrate`), or nobody. dataset.json and DATASET_CARD.md say how many, by whom, and "
    "how often the model was wrong on the audit."
)
WAYS = ("imagefolder", "csv", "parquet")
#: Images that could not be copied.
_FAILED = pa.schema([pa.field(name, pa.string()) for name in ("image_id", "uri", "label", "problem")])


def build_parser() -> argparse.ArgumentParser:
    """The options; those not given are absent."""
    parser = argparse.ArgumentParser(
        prog="beamclip review final",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_run(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder, on any store")
    parser.add_argument(
        "--write",
        nargs="+",
        action="extend",
        choices=WAYS,
        required=True,
        help="imagefolder: a copy of each labelled image in DIR/LABEL (single-label sets); csv, parquet: every image "
        "with its label, or undecided",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="take the model's label where nobody and no guarantee decided (decided_by: model)",
    )
    parser.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="let image urls lead to private addresses, as the run was given it",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where an image could not be copied."""
    args = build_parser().parse_args(argv)
    return guarded(
        lambda: write_final(args),
        verbose=hasattr(args, "verbose"),
        on_interrupt=lambda: (
            f"; {args.output} is not complete (it has no dataset.json): empty it, and start again"
        ),
    )


def write_final(args: argparse.Namespace) -> int:
    """Check the request, write rows and images unit by unit, then the card."""
    configure_logging(verbose=hasattr(args, "verbose"))
    options = storage_options(getattr(args, "storage_option", []))
    store, output = Store(args.run, options), Store(args.output, options)
    tag = find_set(store, getattr(args, "set", None))
    run = LabelledRun(store, tag)
    ways = set(args.write)
    if "imagefolder" in ways and run.label_set.prompt_set.task == "multi":
        raise RequestError(
            f"--write imagefolder: images of {tag} have several labels, and a folder each; write csv or parquet"
        )
    if next(output.list(), None) is not None:
        raise RequestError(f"--output {output.root} is not empty; give a new folder, or empty that one")
    more = {**_run_facts(run), **refinements(run)}
    output.probe()
    decisions = Decisions(run, everything=hasattr(args, "all"))
    written = _write(args, run, decisions, output, ways)
    content = facts(
        run,
        decisions.counts,
        written,
        reviewed=len(decisions.verdicts),
        earlier=len(decisions.earlier),
        audit_drawn=len(audit_ids(store, run.label_set.prompt_set.name)),
        more=more,
    )
    create(output, "DATASET_CARD.md", card(content))
    create(output, "dataset.json", as_json(content))
    if not hasattr(args, "quiet"):
        for line in _table(content, output):
            print(printable(line))
    if written.not_copied:
        sys.stderr.write(
            f"beamclip: {written.not_copied} images could not be copied; failed-00000.csv says why\n"
        )
        return Exit.CONTRACT
    return Exit.DONE


def _write(
    args: argparse.Namespace, run: LabelledRun, decisions: Decisions, output: Store, ways: set[str]
) -> Written:
    sinks: list[Sink] = []
    if "parquet" in ways:
        sinks.append(parquet_files(output, stem="labels", schema=FINAL))
    if "csv" in ways:
        sinks.append(csv_files(output, stem="labels", schema=FINAL))
    failed = csv_files(output, stem="failed", schema=_FAILED, always=False)
    prompts = run.label_set.prompt_set
    folders = folder_names([*prompts.classes, *prompts.groups, "__none__"])
    copier = _copier(args, run, decisions.unit_names(), output, folders) if "imagefolder" in ways else None
    copied = missed = 0
    for unit, rows in decisions.units():
        if copier is not None:
            rows, problems = _copy(copier, unit, rows)
            copied += rows.num_rows - rows["file"].null_count
            missed += problems.num_rows
            failed.add(problems)
        for sink in sinks:
            sink.add(rows)
    files = [name for sink in (*sinks, failed) for name in sink.close()]
    return Written(
        files=tuple(files),
        folders=folders if copier is not None else {},
        copied=copied if copier is not None else None,
        not_copied=missed,
    )


def _copy(copier: ImageCopier, unit: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows with the names of their copies, and those that should have one and have none."""
    wanted = pc.not_equal(rows["decided_by"].cast(pa.string()), UNDECIDED)
    chosen = rows.filter(wanted)
    copies = copier.copy(unit, chosen.select(["image_id", "uri", "label", "format", "sha256"]))
    names = iter(copies)
    files = [next(names).file if has else None for has in wanted.to_pylist()]
    place = FINAL.get_field_index("file")
    rows = rows.set_column(place, FINAL.field("file"), pa.array(files, pa.string()))
    lost = [number for number, copy in enumerate(copies) if copy.file is None]
    found = chosen.take(pa.array(lost, pa.int64()))
    columns = [found[name].cast(pa.string()) for name in ("image_id", "uri", "label")]
    problems = pa.array([copies[number].problem for number in lost], pa.string())
    return rows, pa.table([*columns, problems], schema=_FAILED)


def _copier(
    args: argparse.Namespace, run: LabelledRun, units: set[str], output: Store, folders: dict[str, str]
) -> ImageCopier:
    """Reads the run's input again, guarded as it was for the run."""
    sources, fetching = rereading(run.source, allow_private_urls=hasattr(args, "allow_private_urls"))
    return ImageCopier(
        run.source,
        output,
        units=plan_units(run.source, units),
        sources=sources,
        fetching=fetching,
        folders=folders,
    )


def _run_facts(run: LabelledRun) -> dict[str, Any]:
    """What the run's plan says: encoder, fingerprints, where the images came from."""
    extensions = read_extensions(run.source)
    config = extensions[0].config
    label_set = run.label_set
    embedding = str(config["fingerprint"])
    return {
        "embeddings_run": run.source.root,
        "encoder": config["encoder_name"],
        "embedding_fingerprint": embedding,
        "fingerprint": labels_fingerprint(
            embedding,
            prompt_set=label_set.prompt_set.hash,
            calibration=label_set.calibration,
            probe=label_set.probe,
        ),
        "sources": sorted({url for extension in extensions for url in extension.inputs}),
        "versions": versions(),
        "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _table(content: dict[str, Any], output: Store) -> list[str]:
    """The closing table, a line each."""
    lines = [str(content["prompt_set"])]
    for name in DECIDERS:
        count = content["decided_by"].get(name, 0)
        lines.append(f"{name:<20}{count:>9,}  {100 * count / max(1, content['images']):5.1f}%")
    audit = content["audit"]["all"]
    if audit["images"]:
        low, high = audit["error_wilson_95"]
        lines.append(
            f"{'audit':<20}{audit['images']:>9,}  the model was wrong on {100 * audit['error']:.1f}% "
            f"({100 * low:.1f} to {100 * high:.1f})"
        )
    if since := images_since(content):
        lines.append(
            f"{'not promised':<20}{since:>9,}  images that came after `beamclip calibrate`; calibrate again"
        )
    if earlier := content["reviews"]["of_earlier_pictures"]:
        lines.append(
            f"{'not counted':<20}{earlier:>9,}  images changed after their reviews; review them again"
        )
    if content["images_copied"] is not None:
        lines.append(f"{'images copied':<20}{content['images_copied']:>9,}")
        lines.append(f"{'images not copied':<20}{content['images_not_copied']:>9,}")
    for conflict in content["conflicts"][:3]:
        answers = ", ".join(f"{name} {' | '.join(labels)}" for name, labels in conflict["answers"].items())
        lines.append(f"{'conflict':<20}{'':>9}  {conflict['uri'] or conflict['image_id']}: {answers}")
    return [*lines, f"output  {output.root}"]


if __name__ == "__main__":
    sys.exit(main())
