"""`beamclip review export`: what the model is least sure of, and a random audit, as files for an annotation tool."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Callable, Sequence

from clip_transforms.calibration import read_calibration
from clip_transforms.elements import RequestError
from clip_transforms.labelled import LabelledRun, find_set
from clip_transforms.review.exporters.cvat import cvat_documents
from clip_transforms.review.exporters.datumaro import datumaro_documents
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.fiftyone import fiftyone_documents
from clip_transforms.review.exporters.images import (
    Place,
    copied_places,
    copy_images,
    label_studio_urls,
    name_in_task,
    own_places,
)
from clip_transforms.review.exporters.items import Item, queue_items
from clip_transforms.review.exporters.label_studio import prediction_documents, read_tasks, task_documents
from clip_transforms.review.exporters.tables import csv_documents, parquet_documents
from clip_transforms.review.predictions import predicted_items
from clip_transforms.review.queue import Queue, QueueOptions, build_queue
from clip_transforms.review.queues import queue_name, store_queue
from clip_transforms.storage import Store
from pipelines.flags import _positive_int as positive_int
from pipelines.launch import Exit, configure_logging, guarded
from pipelines.storage_options import storage_options

DESCRIPTION = (
    "Choose the images of a run that people should review, and write them for an annotation tool: those that the "
    "model is least sure of, over clusters of embeddings in turn, and a uniform random audit. The queue is kept in "
    "RUN (queues/), for `beamclip review import`. Images with a review of the set do not come again."
)
TOOLS = ("label-studio", "cvat", "datumaro", "fiftyone", "csv", "parquet")


def build_export_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="beamclip review export", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run that has labels")
    parser.add_argument("--to", required=True, choices=TOOLS, help="the tool, or the kind of file")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files, on any store")
    parser.add_argument("--set", metavar="NAME[@HASH8]", help="the label set, where RUN has several")
    group = parser.add_argument_group("the queue")
    group.add_argument(
        "--queue", choices=("margin",), default="margin", help="what it is by: margin (the default)"
    )
    group.add_argument(
        "--limit", type=int, default=2000, metavar="N", help="images at most, the audit's too (default 2000)"
    )
    group.add_argument(
        "--audit",
        type=int,
        metavar="N",
        help="images drawn at random from all, for `calibrate` (default 500, or a quarter of a smaller --limit)",
    )
    group.add_argument("--blind", action="store_true", help="show audit images without a prediction")
    group.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the audit and the clusters (default 0)"
    )
    _add_images(parser)
    _add_files(parser)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the images")
    group.add_argument(
        "--document-root",
        metavar="DIR",
        help="the folder that Label Studio serves local files from, or CVAT's share: names are relative to it",
    )
    group.add_argument(
        "--images",
        metavar="DIR",
        help="write the queue's images into DIR, and name those: for shards, Parquet files and other stores",
    )
    group.add_argument(
        "--allow-private-urls", action="store_true", help="with --images, as the run was given it"
    )
    group.add_argument(
        "--storage-option", action="append", default=[], metavar="K=V", help="of the file system of RUN"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the files")
    group.add_argument(
        "--shard-size",
        type=positive_int,
        default=1000,
        metavar="N",
        help="Label Studio tasks a file (default 1000)",
    )
    group.add_argument(
        "--task-format",
        choices=("jsonl", "json"),
        default="jsonl",
        help="of Label Studio's tasks: lines for a source storage, arrays for its Import page and API",
    )
    group.add_argument(
        "--tasks",
        metavar="FILE",
        help="predictions alone, for the tasks in this JSON export of a Label Studio project; no queue is made",
    )
    group.add_argument(
        "--task-size", type=positive_int, default=500, metavar="N", help="images a CVAT task (default 500)"
    )
    group.add_argument("--verbose", action="store_true", help="log what is done, show tracebacks")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_export_parser().parse_args(argv)
    return guarded(lambda: export(args), verbose=args.verbose)


def export(args: argparse.Namespace) -> int:
    """Choose the queue, write its images, the queue and the files."""
    configure_logging(verbose=args.verbose)
    options = queue_options(args)
    check_flags(args)
    store = Store(args.run, storage_options(args.storage_option))
    run = LabelledRun(store, find_set(store, args.set))
    temperature = None
    if run.label_set.calibration:
        temperature = read_calibration(store, run.tag).temperature
    output = Store(args.output, store.storage_options)
    if args.tasks:
        return _predictions(args, run, output, temperature)
    queue = build_queue(run, options)
    if not queue.rows.num_rows:
        print(f"nothing to review: all {queue.facts.images} images have reviews, or are accepted")
        return Exit.DONE
    items = queue_items(queue, run.label_set.prompt_set, temperature=temperature)
    documents = _documents(args, run, queue, items)
    if args.images:
        copy_images(items, Store(args.images, store.storage_options), image_lookup(run, args))
    store_queue(store, queue.id, queue.rows, queue.facts)
    for document in documents:
        output.write(document.name, document.data)
    _tell(args, queue, output, documents)
    return Exit.DONE


def queue_options(args: argparse.Namespace) -> QueueOptions:
    """What is asked for; RequestError for numbers out of range."""
    audit = min(500, max(args.limit, 0) // 4) if args.audit is None else args.audit
    return QueueOptions(limit=args.limit, audit=audit, blind=args.blind, seed=args.seed)


def check_flags(args: argparse.Namespace) -> None:
    """Raise RequestError for options of another tool: they would be ignored."""
    tools = {
        "document_root": ("label-studio", "cvat"),
        "tasks": ("label-studio",),
        "images": ("label-studio", "cvat", "datumaro", "fiftyone"),
    }
    for name, fitting in tools.items():
        if getattr(args, name) and args.to not in fitting:
            raise RequestError(
                f"--{name.replace('_', '-')} does not go with --to {args.to}: it is for {', '.join(fitting)}"
            )
    if args.tasks and (args.images or args.document_root):
        raise RequestError("--tasks writes predictions alone: leave --images and --document-root out")
    if args.allow_private_urls and not args.images:
        raise RequestError("--allow-private-urls is for --images: nothing else reads an image")


def _documents(args: argparse.Namespace, run: LabelledRun, queue: Queue, items: list[Item]) -> list[Document]:
    """The files of the export, checked; nothing is written yet."""
    prompts = run.label_set.prompt_set
    if args.to == "csv":
        return csv_documents(items, prompts, queue=queue.id)
    if args.to == "parquet":
        return parquet_documents(queue.rows, queue=queue.id)
    places = _places(args, run, items)
    root = args.document_root or args.images
    if args.to == "cvat":
        names = [name_in_task(place, root) for place in places]
        return cvat_documents(items, names, prompts, queue=queue.id, task_size=args.task_size)
    if args.to == "datumaro":
        return datumaro_documents(items, places, prompts)
    if args.to == "fiftyone":
        return fiftyone_documents(items, places, prompts, queue=queue.id)
    return task_documents(
        items,
        label_studio_urls(places, root),
        prompts,
        queue=queue.id,
        export=uuid.uuid4().hex[:8],
        shard_size=args.shard_size,
        lines=args.task_format == "jsonl",
    )


def _places(args: argparse.Namespace, run: LabelledRun, items: list[Item]) -> list[Place]:
    if args.images:
        return copied_places(items, Store(args.images, run.store.storage_options))
    if args.to == "datumaro":  # its paths are notes: nothing opens them
        return [Place(uri=item.uri) for item in items]
    return own_places(items)


def image_lookup(run: LabelledRun, args: argparse.Namespace) -> Callable[[str], bytes | None]:
    """The bytes of a run's images by uri, guarded as they were for the run."""
    from clip_transforms.fetch import FetchOptions
    from clip_transforms.plan import read_extensions
    from clip_transforms.sources.lookup import ImageLookup
    from clip_transforms.url_guard import schemes_of
    from pipelines.job import source_options, stored_identity
    from pipelines.options import identity_from

    identity = identity_from({}, stored_identity(read_extensions(run.source)))
    fetching = FetchOptions(
        max_bytes=identity.max_bytes,
        storage_options=run.store.storage_options,
        allow_private_urls=args.allow_private_urls,
        schemes=schemes_of(identity.input),
    )
    return ImageLookup(source_options(identity, identity.input, run.store.storage_options), fetching)


def _predictions(args: argparse.Namespace, run: LabelledRun, output: Store, temperature: float | None) -> int:
    """New predictions for the tasks of a Label Studio project."""
    given = Store(args.tasks.rpartition("/")[0] or ".", run.store.storage_options)
    try:
        data = given.read(args.tasks.rpartition("/")[2])
    except FileNotFoundError:
        raise RequestError(f"--tasks {args.tasks}: there is no such file") from None
    tasks = read_tasks(data, args.tasks)
    items = list(predicted_items(run, tasks, temperature=temperature))
    documents = prediction_documents(
        items, tasks, run.label_set.prompt_set, export=uuid.uuid4().hex[:8], shard_size=args.shard_size
    )
    for document in documents:
        output.write(document.name, document.data)
    count = sum(len(tasks[item.image_id]) for item in items)
    print(f"set       {run.tag}")
    print(
        f"tasks     {count} of {sum(map(len, tasks.values()))} get a prediction; blind and unknown ones do not"
    )
    _tell_files(output, documents)
    print("next      post each file to /api/projects/ID/import/predictions")
    return Exit.DONE


def _tell(args: argparse.Namespace, queue: Queue, output: Store, documents: Sequence[Document]) -> None:
    facts = queue.facts
    audit = sum(queue.rows["audit"].to_pylist())
    margin = queue.rows.num_rows - audit
    before = f", {facts.drawn_before} more were reviewed before" if facts.drawn_before else ""
    over = f", over {facts.clusters} clusters" if margin and facts.clusters else ""
    blind = ", blind" if facts.blind else ""
    print(f"queue     {queue.id} of {facts.tag}, kept as {queue_name(queue.id)}")
    print(
        f"images    {queue.rows.num_rows} of {facts.images}: {margin} of least margin{over}; {audit} audit{blind}"
    )
    if audit:
        print(f"audit     each image with probability {facts.audit_prob:.6g}{before}")
    if args.images:
        print(f"copies    {Store(args.images).root}")
    _tell_files(output, documents)
    source = {"label-studio": "EXPORT.json", "cvat": "annotations.xml"}.get(args.to)
    if args.to in ("csv", "label-studio", "cvat"):
        answer = source or output.join(documents[0].name)
        print(f"next      beamclip review import {args.run} --from {args.to} {answer}")


def _tell_files(output: Store, documents: Sequence[Document]) -> None:
    for document in documents[:3]:
        print(f"written   {output.join(document.name)}")
    if len(documents) > 3:
        print(f"          {len(documents) - 3} more")


if __name__ == "__main__":
    sys.exit(main())
