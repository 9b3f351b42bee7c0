"""The launcher's side: what `--input` names, as rows of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice

from clip_transforms.elements import RequestError, UnitKind
from clip_transforms.sources.braces import expand_inputs
from clip_transforms.sources.inputs import open_one
from clip_transforms.sources.options import PlanItem, SourceOptions, is_kept
from clip_transforms.sources.reading import read_row
from clip_transforms.sources.urls import is_local

#: Inputs that are checked before the first row is given out, and then at a time.
CHECKED_AHEAD = 256
_CHECK_THREADS = 16
_ROW_FIELDS = ("uri", "size", "rows", "row_groups", "max_rows", "pointer_offset")


def scan(inputs: Sequence[str], options: SourceOptions) -> Iterator[PlanItem]:
    """All that the inputs name, lazily, in the order of the inputs and within them as the store lists.

    inputs: `--input` values; braces are expanded here. Each of the first 256 inputs is checked before this
    returns (a file is there, a glob or folder has a match, a manifest has its columns), the rest in turn.
    Raises RequestError, naming what was looked for, and StoreError where the store does not answer.
    """
    expanded = expand_inputs(inputs)
    if not expanded:
        raise RequestError("no --input was given; expected folders, globs, manifests, shards or urls")
    items = chain(_opened(expanded[:CHECKED_AHEAD], options), _later(expanded[CHECKED_AHEAD:], options))
    first = next(items, None)
    if first is None:
        raise RequestError(f"--input {' '.join(inputs[:3])}: the tables have no rows")
    return (item for item in chain([first], items) if _is_kept(item, options))


def limit_items(items: Iterator[PlanItem], limit: int, options: SourceOptions) -> Iterator[PlanItem]:
    """The first `limit` images that `--sample` keeps; the last item is cut by its max_rows.

    A tar is read for it as far as the limit goes, and so is a Parquet file under `--sample`. Raises
    RequestError for a limit below 1.
    """
    if limit < 1:
        raise RequestError(f"--limit {limit}: expected 1 or more")
    return _limited(items, limit, options)


def _limited(items: Iterator[PlanItem], left: int, options: SourceOptions) -> Iterator[PlanItem]:
    for item in items:
        found = 1
        if item.kind is UnitKind.PARQUET and options.sample is None:
            found = min(left, item.rows or 0)
        elif item.kind is not UnitKind.REFS:
            row = {name: getattr(item, name) for name in _ROW_FIELDS}
            found = sum(1 for _ in islice(read_row(item.kind, row, options), left))
        if item.kind is not UnitKind.REFS and found == left:
            known = item.rows if options.sample is not None or item.rows is None else min(item.rows, left)
            item = replace(item, max_rows=left, rows=known)
        yield item
        left -= found
        if left <= 0:
            return


def _is_kept(item: PlanItem, options: SourceOptions) -> bool:
    """The sampling rule for single images; those in tars and Parquet files are sampled as they are read."""
    return item.kind is not UnitKind.REFS or is_kept(options, item.image_id or item.uri)


def _opened(inputs: Sequence[str], options: SourceOptions) -> Iterator[PlanItem]:
    """Check some inputs, all at once where they are remote, then give their items in order."""
    if len(inputs) == 1 or all(is_local(url) for url in inputs):
        opened = [open_one(url, options) for url in inputs]
    else:
        with ThreadPoolExecutor(_CHECK_THREADS) as pool:
            opened = list(pool.map(lambda url: open_one(url, options), inputs))
    return chain.from_iterable(opened)


def _later(inputs: Sequence[str], options: SourceOptions) -> Iterator[PlanItem]:
    for start in range(0, len(inputs), CHECKED_AHEAD):
        yield from _opened(inputs[start : start + CHECKED_AHEAD], options)
