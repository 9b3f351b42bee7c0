"""The flags of `beamclip review export`, and which go together."""

from __future__ import annotations

import argparse

from clip_transforms.elements import RequestError
from clip_transforms.review.queue import QueueOptions
from pipelines.flags import add_run, positive_int

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
    add_run(parser)
    parser.add_argument("--to", required=True, choices=TOOLS, help="the tool, or the kind of file")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files, on any store")
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
