"""`beamclip evaluate`: labels held against known truths, on images that are embedded for it or on a run's."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence

from clip_transforms.evaluation.text import Table, notes, tables, verdicts
from pipelines.evaluating import Evaluated, evaluate
from pipelines.flags import build_parser
from pipelines.launch import configure_logging, guarded, parse

DESCRIPTION = (
    "Hold the labels that prompt sets give against known truths: top-1 and top-5, each class, confusion, "
    "calibration error, all with 95% intervals; prompts against prompts, and few-shot probes against zero-shot. "
    "Images of --input are embedded into --output first, as `beamclip embed` does; then the stored embeddings "
    "are scored. Writes evaluation/evaluation.json, evaluation.html and plots; older ones are replaced."
)


def build_evaluate_parser() -> argparse.ArgumentParser:
    """The options: those of `beamclip embed`, and what and how to evaluate."""
    parser = build_parser("evaluate", DESCRIPTION, labels=False)
    group = parser.add_argument_group("what is evaluated")
    group.add_argument(
        "--from-run", metavar="RUN", help="evaluate the stored embeddings of RUN; no image is read"
    )
    group.add_argument(
        "--labels-from",
        metavar="folder|COLUMN",
        help="an image's truth: the name of its folder, or a column (of a manifest or Parquet file, a field of a "
        "shard's json, its txt or cls); matched to ids, names and synonyms in any case, - and _ as spaces",
    )
    group.add_argument(
        "--prompts",
        nargs="+",
        action="extend",
        metavar="NAME|FILE",
        help="prompt sets: shipped names, YAML, classnames.txt or CuPL JSON files",
    )
    group.add_argument(
        "--label-map",
        metavar="FILE|index",
        help="a JSON object of truths to labels; or index: truths are places in the set's file, from 0",
    )
    group.add_argument(
        "--delimiter", metavar="TEXT", help="between an image's truths, for multi-label sets (default ,)"
    )
    group.add_argument(
        "--compare",
        nargs="+",
        action="extend",
        metavar="bare|TEMPLATES|SET",
        help="hold each set against others on the same images: bare (the class name alone), a template such as "
        "'a photo of a {}', a shipped template set, or a prompt set",
    )
    _add_statistics(parser)
    return parser


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is evaluated")
    group.add_argument(
        "--few-shot",
        nargs="*",
        type=of_numbers(int, low=1, high=10_000),
        metavar="K",
        help="also train linear probes on K images a class (default 1 2 4 8 16), and test zero-shot and them on "
        "the same images",
    )
    group.add_argument(
        "--few-shot-draws",
        type=of_numbers(int, low=1, high=1000),
        metavar="N",
        help="random choices of the K images (default 5)",
    )
    group.add_argument(
        "--few-shot-test",
        type=of_numbers(float, low=0.05, high=0.95),
        metavar="P",
        help="share of each class that is kept to test on (default 0.5)",
    )
    group.add_argument(
        "--resamples",
        type=of_numbers(int, low=0, high=1_000_000),
        metavar="N",
        help="of the bootstrap (default 1000; 0: no bootstrap intervals)",
    )
    group.add_argument(
        "--evaluation-seed",
        type=of_numbers(int, low=0, high=2**32 - 1),
        metavar="S",
        help="of the bootstrap and the few-shot draws (default 0)",
    )
    group.add_argument("--json", action="store_true", help="print the JSON alone: no tables, no progress")


def of_numbers(kind: type[int] | type[float], *, low: float, high: float) -> Callable[[str], float]:
    """An argparse type for numbers from low to high.

    >>> of_numbers(int, low=1, high=9)("3")
    3
    """

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {word} from {low:g} to {high:g}")
        return value

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_evaluate_parser()
    args, rest, unchecked = parse(parser, argv)

    def work() -> int:
        configure_logging(verbose=hasattr(args, "verbose"))
        return evaluate(parser, args, rest, unchecked, show=lambda found: show(found, args))

    return guarded(work, verbose=hasattr(args, "verbose"), on_interrupt=lambda: _resume(args))


def show(found: Evaluated, args: argparse.Namespace) -> None:
    """Print the figures: rich tables on a terminal, plain ones elsewhere, or the JSON."""
    if hasattr(args, "json"):
        print(json.dumps(found.content, indent=1, ensure_ascii=False))
        return
    if hasattr(args, "quiet"):
        return
    for one in found.sets:
        for table in tables(one):
            _print_table(table)
        for words in (*notes(one), *verdicts(one)):
            print(words)
        print()
    print(f"written: {found.report}")


def _print_table(table: Table) -> None:
    if not sys.stdout.isatty():
        print(f"{table.plain()}\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(table.head):
        drawn.add_column(Text(name), justify="left" if place == 0 else "right")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _resume(args: argparse.Namespace) -> str:
    if hasattr(args, "from_run"):
        return "; nothing was written"
    again = ["beamclip", "evaluate", "--output", getattr(args, "output", ""), "--resume"]
    again += ["--labels-from", getattr(args, "labels_from", ""), "--prompts", *getattr(args, "prompts", [])]
    return f"; what is committed stays. Go on with: {shlex.join(again)}"


if __name__ == "__main__":
    sys.exit(main())
