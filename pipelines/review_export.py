"""`beamclip review export`: what the model is least sure of, and a random audit, as files for an annotation tool."""

from __future__ import annotations

import argparse
import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence

from clip_transforms.calibration import read_calibration
from clip_transforms.elements import RequestError, StoreError
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
from clip_transforms.review.queue import Queue, build_queue
from clip_transforms.review.queues import FOLDER as QUEUES
from clip_transforms.review.queues import QueueFacts, earlier_queues, queue_name, store_queue
from clip_transforms.storage import Store
from clip_transforms.summary import printable
from pipelines.launch import Exit, configure_logging, guarded
from pipelines.rereading import image_lookup
from pipelines.review_export_flags import build_export_parser, check_flags, queue_options
from pipelines.storage_options import storage_options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_export_parser().parse_args(argv)
    return guarded(lambda: export(args), verbose=args.verbose)


def export(args: argparse.Namespace) -> int:
    """Choose the queue, write its images, the queue and the files."""
    configure_logging(verbose=args.verbose)
    options = queue_options(args)
    check_flags(args)
    store = Store(args.run, storage_options(args.storage_option or []))
    run = LabelledRun(store, find_set(store, args.set))
    temperature = None
    if run.label_set.calibration:
        temperature = read_calibration(store, run.tag).temperature
    output = Store(args.output, store.storage_options)
    if output.root == store.join(QUEUES):
        raise RequestError(f"--output {output.root} is where the run keeps its queues; give another folder")
    if args.tasks:
        return _predictions(args, run, output, temperature)
    queue = build_queue(run, options)
    if not queue.rows.num_rows:
        if queue.facts.drawn and _has_grown(store, queue.facts):
            store_queue(
                store, queue.id, queue.rows, queue.facts
            )  # its audit is of the new images too, but has none
        return _tell(
            args, [f"nothing to review: all {queue.facts.images} images have reviews, or are accepted"]
        )
    items = queue_items(queue, run.label_set.prompt_set, temperature=temperature)
    documents = _documents(args, run, queue, items)
    if args.to == "csv":
        _keep_answers(output, documents)
    if args.images:
        lookup = image_lookup(run.source, allow_private_urls=args.allow_private_urls)
        copy_images(items, Store(args.images, store.storage_options), lookup)
    _write(output, documents[:1])  # says whether the folder can be written at all
    store_queue(store, queue.id, queue.rows, queue.facts)
    _write(output, documents[1:])
    return _tell(args, _queue_lines(args, queue, output, documents))


def _has_grown(store: Store, facts: QueueFacts) -> bool:
    """Whether there are audits of this set and seed, all of fewer images than the run has now."""
    audits = [found.facts for found in earlier_queues(store, facts.set_name) if found.facts.audit]
    images = [audit.images for audit in audits if audit.seed == facts.seed]
    return bool(images) and max(images) < facts.images


def _keep_answers(output: Store, documents: Sequence[Document]) -> None:
    """Raise RequestError where a table of this queue is there that somebody has begun to fill in."""
    for document in documents:
        if output.exists(document.name) and output.read(document.name) != document.data:
            raise RequestError(
                f"{output.join(document.name)} is there and was changed since it was written: it may hold answers. "
                "Import it first, or give another --output"
            )


def _write(output: Store, documents: Sequence[Document]) -> None:
    for document in documents:
        try:
            output.write(document.name, document.data)
        except StoreError as error:
            raise RequestError(f"--output {output.root} cannot be written: {error}") from error


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
        label_studio_urls(places, document_root(args)),
        prompts,
        queue=queue.id,
        export=uuid.uuid4().hex[:8],
        shard_size=args.shard_size,
        lines=args.task_format == "jsonl",
    )


def document_root(args: argparse.Namespace) -> str | None:
    """What Label Studio serves local files from: of copies, unless told, the folder above theirs."""
    if args.document_root or not args.images:
        return args.document_root and Store(args.document_root).root
    return Store(args.images).root.rpartition("/")[0] or "/"


def _places(args: argparse.Namespace, run: LabelledRun, items: list[Item]) -> list[Place]:
    if args.images:
        return copied_places(items, Store(args.images, run.store.storage_options))
    if args.to == "datumaro":  # its paths are notes: nothing opens them
        return [Place(uri=item.uri) for item in items]
    return own_places(items)


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
    _write(output, documents)
    count = sum(len(tasks[item.image_id]) for item in items)
    lines = [
        f"set       {run.tag}",
        f"tasks     {count} of {sum(map(len, tasks.values()))} get a prediction; blind and unknown ones do not",
        *_file_lines(output, documents),
        "next      post each file to /api/projects/ID/import/predictions",
    ]
    return _tell(args, lines)


def _tell(args: argparse.Namespace, lines: Iterable[str]) -> int:
    """Print them unless asked not to."""
    if not args.quiet:
        for line in lines:
            print(printable(line))
    return Exit.DONE


def _queue_lines(
    args: argparse.Namespace, queue: Queue, output: Store, documents: Sequence[Document]
) -> Iterator[str]:
    facts = queue.facts
    audit = sum(queue.rows["audit"].to_pylist())
    margin = queue.rows.num_rows - audit
    before = (
        f"; {facts.drawn_before} of {facts.drawn} drawn ones were reviewed before"
        if facts.drawn_before
        else ""
    )
    over = f", over {facts.clusters} clusters" if margin and facts.clusters else ""
    blind = ", blind" if facts.blind else ""
    yield f"queue     {queue.id} of {facts.tag}, kept as {queue_name(queue.id)}"
    yield (
        f"images    {queue.rows.num_rows} of {facts.images}: {margin} of least margin{over}; {audit} audit{blind}"
    )
    if facts.drawn:
        yield f"audit     each image with probability {facts.audit_prob:.6g}{before}"
    if args.images:
        yield f"copies    {Store(args.images).root}"
    if args.to == "label-studio" and (root := document_root(args)):
        folder = Store(args.images).root if args.images else f"{root}/..."
        yield (
            f"serve     LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}, with a Local Files storage of {folder}"
        )
    yield from _file_lines(output, documents)
    manifests = [document.name for document in documents if document.name.endswith(".jsonl")]
    answers = {
        "label-studio": "EXPORT.json",
        "cvat": " ".join(["ANNOTATIONS.xml", *(shlex.quote(output.join(name)) for name in manifests)]),
        "csv": shlex.quote(output.join(documents[0].name)),
    }
    if args.to in answers:
        run = f"{shlex.quote(args.run)} --set {shlex.quote(facts.set_name)}"
        yield f"next      beamclip review import {run} --from {args.to} {answers[args.to]}"


def _file_lines(output: Store, documents: Sequence[Document]) -> Iterator[str]:
    for document in documents[:3]:
        yield f"written   {output.join(document.name)}"
    if len(documents) > 3:
        yield f"          {len(documents) - 3} more"


if __name__ == "__main__":
    sys.exit(main())
