"""`beamclip models`: list the architectures that open_clip knows, pull a model's files to this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from clip_transforms.elements import RequestError
from pipelines.storage_options import storage_options

if TYPE_CHECKING:
    from clip_transforms.encoders.catalogue import CatalogueEntry
    from clip_transforms.encoders.weights import Progress

_HEAD = ("architecture", "input", "parameters", "dim", "context", "family", "tokenizer", "tags")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    root = argparse.ArgumentParser(
        prog="beamclip models",
        description="List the models that open_clip knows, or fetch one.",
        allow_abbrev=False,
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="list|pull")
    listing = commands.add_parser(
        "list",
        help="architectures with their tags, input size and parameters",
        description="A model is named open_clip:ARCHITECTURE/TAG.",
        allow_abbrev=False,
    )
    listing.add_argument("--match", metavar="TEXT", default="", help="only names and tags with TEXT")
    listing.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    pull = commands.add_parser(
        "pull",
        help="fetch weights and tokenizer into this machine's cache",
        description="Prints where the weights are. Files of a store are in $BEAMCLIP_CACHE (default: the "
        "user's cache folder), files of the Hugging Face hub in that library's cache ($HF_HOME).",
        allow_abbrev=False,
    )
    pull.add_argument("name", metavar="NAME", nargs="?", help="a name as for --encoder")
    pull.add_argument("--weights", metavar="URL", help="weights at any fsspec url instead of the name's own")
    pull.add_argument("--model-config", metavar="URL", help="the model JSON of --weights, at any fsspec url")
    pull.add_argument(
        "--storage-option",
        metavar="K=V",
        action="append",
        default=[],
        help="an option of the file system that holds the weights; may be repeated",
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the model is unknown or cannot be had."""
    options = parser().parse_args(argv)
    try:
        return _list(options) if options.command == "list" else _pull(options)
    except RequestError as error:
        print(f"beamclip models: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("beamclip models: interrupted", file=sys.stderr)
        return 130


def _list(options: argparse.Namespace) -> int:
    from clip_transforms.encoders.catalogue import catalogue

    entries = catalogue(match=options.match)
    if not entries:
        raise RequestError(f"no architecture or tag of open_clip contains {options.match!r}")
    if options.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
    else:
        print(table([_HEAD, *map(_row, entries)]))
    return 0


def _row(entry: CatalogueEntry) -> tuple[str, ...]:
    parameters = "-" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M"
    size = f"{entry.height}x{entry.width}"
    facts = (entry.architecture, size, parameters, str(entry.dim), str(entry.context_length), entry.family)
    return (*facts, entry.tokenizer, " ".join(entry.tags) or "-")


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of equal length as columns; the last one is as wide as it is.

    >>> print(table([("a", "b"), ("long", "c")]))
    a     b
    long  c
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(lines)


def _pull(options: argparse.Namespace) -> int:
    from huggingface_hub.utils import logging as hub_logging

    from clip_transforms.encoders import EncoderSpec, default_name
    from clip_transforms.encoders.catalogue import pull

    if options.name is None and not options.weights:
        raise RequestError(
            "models pull needs a NAME, such as open_clip:ViT-B-32/laion2b_s34b_b79k, or --weights"
        )
    name = options.name or default_name(weights=options.weights, model_config=options.model_config)
    spec = EncoderSpec(
        name=name,
        weights=options.weights,
        model_config=options.model_config,
        storage_options=storage_options(options.storage_option),
    )
    hub_logging.set_verbosity_error()  # it tells each of its retries, which the error at their end sums up
    with progress_of(name) as progress:
        pulled = pull(spec, progress=progress)
    if pulled.weights is None:
        print(f"{pulled.name} has no weights to fetch", file=sys.stderr)
        return 0
    print(f"{pulled.name}: weights {pulled.weights_id}, tokenizer {pulled.tokenizer}", file=sys.stderr)
    print(pulled.weights)
    return 0


@contextmanager
def progress_of(name: str) -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth of the file elsewhere; on standard error."""
    if not sys.stderr.isatty():
        yield _plain_progress(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def advance(count: int, size: int | None) -> None:
            bar.update(task, completed=count, total=size)

        yield advance


def _plain_progress(name: str) -> Progress:
    told = -1  # tenths

    def advance(count: int, size: int | None) -> None:
        nonlocal told
        if size and 10 * count // size > told:
            told = 10 * count // size
            print(f"{name}: {count / 1e6:.1f} of {size / 1e6:.1f} MB", file=sys.stderr)

    return advance


if __name__ == "__main__":
    sys.exit(main())
