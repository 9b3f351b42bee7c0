"""The closing table of a run: what is read for it, and how it looks on a terminal and in a plain log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from clip_transforms.prompts.rules import NONE
from clip_transforms.review.report_data import iter_batches, part_names, read_failures
from clip_transforms.review.report_format import percent
from clip_transforms.review.report_labels import label_sets
from clip_transforms.review.report_values import FailureGroup

if TYPE_CHECKING:
    from clip_transforms.storage import Store

_BAR = 20  # characters
_LONGEST_LABEL = 40
_WORDS: Mapping[str | None, str] = {NONE: "none of these", None: "no label"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCounts:
    """How often each label of one prompt set was given.

    labels: by label; None for images without any. images: rows of the set (in a multi-label set an image may
    have several labels).
    """

    tag: str
    images: int
    labels: Mapping[str | None, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a closing table says. next_command: what to type next, if anything."""

    run: Mapping[str, Any]  # the content of run.json
    sets: tuple[SetCounts, ...] = ()
    failures: tuple[FailureGroup, ...] = ()
    report: str | None = None  # where report.html is
    next_command: str | None = None
    notes: tuple[str, ...] = field(default=())  # lines of the caller's own


def read_set_counts(
    store: Store, *, sets: Sequence[str] | None = None, parts: Sequence[str] | None = None
) -> tuple[SetCounts, ...]:
    """The labels of each prompt set, counted over all rows in bounded memory.

    sets: tags, those without rows are left out; None: of every set the newest. parts: the live parts; None:
    whatever the folders hold.
    """
    if sets is not None:  # where every input failed, a set has no rows, and nothing to show
        sets = [tag for tag in sets if part_names(store, f"labels/{tag}", parts)]
    found = []
    for tag, names in label_sets(store, asked=sets, parts=parts).items():
        images, counts = 0, Counter[str | None]()
        for batch in iter_batches(store, names, ("label", "labels")):
            images += batch.num_rows
            lists = batch["labels"]
            several = lists.null_count < batch.num_rows
            values = pc.list_flatten(lists) if several else batch["label"].cast(pa.string())
            for entry in pc.value_counts(values).to_pylist():
                counts[entry["values"]] += entry["counts"]
            if several:
                sizes = pc.fill_null(pc.list_value_length(lists), 0)
                counts[None] += pc.sum(pc.equal(sizes, 0)).as_py()
        found.append(SetCounts(tag=tag, images=images, labels={k: n for k, n in counts.items() if n}))
    return tuple(found)


def read_failure_examples(store: Store, *, parts: Sequence[str] | None = None) -> tuple[FailureGroup, ...]:
    """The failures by reason, most frequent first, each with one example: the same for the same rows."""
    return read_failures(store, part_names(store, "failures", parts), examples=1, seed=0)


def closing_table(summary: Summary, *, top: int = 8, encoding: str = "utf-8") -> RenderableType:
    """The summary for rich to print: counts, labels by frequency, failures with an example, what is next.

    top: labels shown of a set. What came from outside is plain text, without markup or control characters;
    characters that `encoding` lacks are shown as escapes.
    """
    return Group(*_blocks(summary, top=top, encoding=encoding))


def print_summary(summary: Summary, *, file: IO[str], top: int = 8) -> None:
    """Print the closing table; plain text of COLUMNS (default 80) characters where `file` is no terminal."""
    console = Console(file=file, highlight=False, soft_wrap=False)
    table = closing_table(summary, top=top, encoding=console.encoding)
    if console.is_terminal:
        console.print(table, crop=False)
        return
    with console.capture() as captured:
        console.print(table, crop=False)
    file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def printable(text: str, *, encoding: str = "utf-8") -> str:
    """Text from outside that is safe on a terminal: control and unencodable characters become escapes.

    >>> printable("a\\x1b[31mb\\u202e\\n")
    'a\\\\x1b[31mb\\\\u202e\\\\n'
    >>> printable("café ☕", encoding="latin-1")
    'café \\\\u2615'
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def _blocks(summary: Summary, *, top: int, encoding: str) -> list[RenderableType]:
    counts = _counts(summary.run)
    found: list[RenderableType] = [counts] if counts.row_count else []
    found += [_labels(counts, top=top, encoding=encoding) for counts in summary.sets]
    found += [_failures(summary.failures, encoding=encoding)] if summary.failures else []
    last = _lines(summary, encoding=encoding)
    found += [Group(*last)] if last else []
    return [part for block in found for part in ("", block)][1:]


def _lines(summary: Summary, *, encoding: str) -> list[Text]:
    """What is to be copied is no table, whose columns would be cut to the width."""
    pairs = [
        ("output", summary.run.get("output")),
        ("report", summary.report),
        ("next", summary.next_command),
    ]
    known = [(key, printable(str(value), encoding=encoding)) for key, value in pairs if value]
    width = max((len(key) for key, _ in known), default=0)
    whole: dict[str, Any] = {"no_wrap": True, "overflow": "ignore"}
    found = [
        Text(f"{key:<{width}}  ", style="dim", **whole).append(value, style="not dim") for key, value in known
    ]
    notes = [printable(note, encoding=encoding) for note in summary.notes]
    return [*found, *(Text(note, style="yellow", **whole) for note in notes)]


def _counts(run: Mapping[str, Any]) -> Table:
    table = _table()
    table.add_column(min_width=10)
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    inputs, failed = run.get("inputs"), run.get("failed")
    for key in ("inputs", "embedded", "failed"):
        if run.get(key) is not None and not run.get("from_run"):
            note = percent(failed / inputs) if key == "failed" and failed and inputs else ""
            style = "red" if key == "failed" and failed else None
            table.add_row(key, Text(f"{run[key]:,}", style=style or ""), note)
    if run.get("duplicate_ids"):
        table.add_row("repeated", f"{run['duplicate_ids']:,}", "ids, see duplicates.parquet")
    rate = run.get("images_per_second")
    if isinstance(rate, (int, float)) and rate > 0:
        table.add_row("images/s", f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}", "")
    _funnel(table, run.get("filter"))
    return table


def _funnel(table: Table, funnel: Mapping[str, Any] | None) -> None:
    """What became of the pairs of a filter run: each reason to drop, then what is kept."""
    if not funnel:
        return
    for reason, count in funnel["dropped"].items():
        table.add_row(printable(reason), f"-{count:,}", percent(count / max(1, funnel["inputs"])))
    cut = funnel.get("threshold")
    share = percent(funnel["kept"] / max(1, funnel["inputs"]))
    table.add_row("kept", f"{funnel['kept']:,}", share if cut is None else f"{share}, cut at {cut:.4f}")


def _labels(counts: SetCounts, *, top: int, encoding: str) -> Table:
    table = _table(title=printable(counts.tag, encoding=encoding))
    table.add_column(overflow="fold", min_width=10)
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="crop", style="green")  # the first to give way where it is narrow
    named = [(label, count) for label, count in counts.labels.items() if label not in _WORDS]
    named.sort(key=lambda entry: (-entry[1], str(entry[0])))
    special = [(_WORDS[label], counts.labels[label]) for label in (NONE, None) if counts.labels.get(label)]
    top = top + 1 if len(named) == top + 1 else top  # "1 more" would take the line that it spares
    rest = named[top:]
    lines = [(_short(printable(str(label), encoding=encoding)), count, "") for label, count in named[:top]]
    if rest:
        lines.append((f"{len(rest):,} more", sum(count for _, count in rest), "dim"))
    lines += [(words, count, "italic dim") for words, count in special]
    largest = max((count for _, count, _ in lines), default=1)
    block = "█" if encoding.lower().replace("-", "") == "utf8" else "#"
    for words, count, style in lines:
        bar = block * max(1, round(_BAR * count / largest)) if style != "dim" else ""
        table.add_row(Text(words, style=style), f"{count:,}", percent(count / max(1, counts.images)), bar)
    return table


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST_LABEL else f"{words[: _LONGEST_LABEL - 3]}..."


def _failures(failures: Sequence[FailureGroup], *, encoding: str) -> Table:
    table = _table(title="failed")
    table.add_column(no_wrap=True, min_width=10, style="red")
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for group in failures:
        example = ""
        if group.examples:
            first = group.examples[0]
            example = printable(f"{first.uri}: {first.message}", encoding=encoding)
        table.add_row(Text(printable(group.reason, encoding=encoding)), f"{group.count:,}", Text(example))
    return table


def _table(*, title: str | None = None) -> Table:
    return Table(
        title=None if title is None else Text(title, style="bold"),
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
