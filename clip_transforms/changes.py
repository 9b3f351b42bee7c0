"""What is new, changed or vanished in the input since it was planned; extends the plan by it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.commits import read_commit
from clip_transforms.elements import RequestError
from clip_transforms.plan import (
    KEY_COLUMNS,
    VANISHED,
    Extension,
    close_extension,
    next_extension_name,
    plan_row,
    read_plan_rows,
    unit_name,
    write_extension,
)
from clip_transforms.sources import PlanItem
from clip_transforms.storage import Store
from schemas.plan import PLAN

_CHUNK = 8192
_EXAMPLES = 5

UInt64 = npt.NDArray[np.uint64]


def extend_plan(
    store: Store,
    extensions: list[Extension],
    items: Iterable[PlanItem],
    *,
    run_id: str,
    created_at: str,
    unit_size: int | None,
    on_changed: str | None,
    closed: bool = False,
) -> Extension | None:
    """Add an extension for what `items` holds and the plan does not; None where there is nothing to add.

    on_changed: "redo" plans the units of changed and vanished items again, "keep" leaves their rows as they
    are, None raises RequestError naming some. closed: the input was limited, so nothing new is added.
    Memory: about 35 bytes a planned row.
    """
    index = _PlanIndex(store, extensions)
    new = index.new_items(items)
    extension = write_extension(
        store,
        (item for item in new if not closed),
        name=next_extension_name(extensions),
        run_id=run_id,
        inputs=extensions[0].inputs,
        config=extensions[0].config,
        unit_size=unit_size,
        created_at=created_at,
    )
    differences = list(index.differences())
    if differences and on_changed is None:
        _delete_files(store, extension)
        raise RequestError(_difference_message(differences))
    if differences and on_changed == "redo":
        extension = replace(
            extension,
            rows=None
            if extension.rows is None
            else extension.rows + sum(item.more_rows for item in differences),
            redo=_redo_units(store, differences),
            changed_files=(_write_changed(store, extension, differences),),
        )
    if not extension.units and not extension.changed_files:
        return None
    close_extension(store, extension)
    return extension


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """One planned row whose object is not what it was."""

    unit: str
    row: Mapping[str, object]  # of schemas.plan.PLAN, as planned
    now: Mapping[str, object] | None  # the row as it would be planned now; None where it vanished

    @property
    def more_rows(self) -> int:
        """How many more images are behind it than were planned."""
        if self.now is None or self.now["rows"] is None or self.row["rows"] is None:
            return 0
        return int(str(self.now["rows"])) - int(str(self.row["rows"]))

    def to_row(self) -> dict[str, object]:
        """Its row in a `changed-*.parquet`."""
        if self.now is None:
            return {**self.row, "version": VANISHED}
        return {**self.now, "unit": self.row["unit"]}


class _PlanIndex:
    """The planned rows as sorted 128-bit hashes of what they point at, with a hash of their versions."""

    def __init__(self, store: Store, extensions: list[Extension]) -> None:
        self._store = store
        self._extensions = extensions
        keys, versions = _hash_rows(self._rows())
        self._order = np.argsort(keys["high"], kind="stable")
        self._high: UInt64 = keys["high"][self._order]
        self._low: UInt64 = keys["low"][self._order]
        self._version: UInt64 = versions[self._order]
        self._seen = np.zeros(len(self._order), np.bool_)
        self._now: dict[int, PlanItem | None] = {}  # planned row -> what it is now, where that differs
        self._override()

    def _rows(self) -> Iterator[Mapping[str, object]]:
        for extension in self._extensions:
            for file in extension.files:
                yield from read_plan_rows(
                    self._store, f"plan/{extension.name}/{file}", [*KEY_COLUMNS, "version"]
                )

    def _override(self) -> None:
        """Versions written down by later extensions replace those first planned."""
        for extension in self._extensions:
            for file in extension.changed_files:
                for row in read_plan_rows(
                    self._store, f"plan/{extension.name}/{file}", [*KEY_COLUMNS, "version"]
                ):
                    for position in self._find(_key(row)):
                        self._version[position] = _hash(row["version"])

    def _find(self, key: tuple[int, int]) -> Iterator[int]:
        position = int(np.searchsorted(self._high, np.uint64(key[0])))
        while position < len(self._high) and int(self._high[position]) == key[0]:
            if int(self._low[position]) == key[1]:
                yield position
            position += 1

    def new_items(self, items: Iterable[PlanItem]) -> Iterator[PlanItem]:
        """The items that the plan does not hold; notes on the way which ones it does, and how they are now."""
        for item in items:
            row = {name: getattr(item, name) for name in (*KEY_COLUMNS, "version")}
            row["kind"] = item.kind.value
            free = next((place for place in self._find(_key(row)) if not self._seen[place]), None)
            if free is None:
                yield item
                continue
            self._seen[free] = True
            now, then = _hash(item.version), int(self._version[free])
            if now and then and now != then:
                self._now[int(self._order[free])] = item

    def differences(self) -> Iterator[_Difference]:
        """The planned rows that changed or vanished, once `new_items` has been read to its end."""
        gone = _hash(VANISHED)
        missing = self._order[~self._seen & (self._version != np.uint64(gone))]
        now = {**self._now, **{int(row): None for row in missing}}
        if not now:
            return
        number = -1
        for extension in self._extensions:
            for file in extension.files:
                for row in read_plan_rows(self._store, f"plan/{extension.name}/{file}", None):
                    number += 1
                    if number in now:
                        unit = unit_name(extension, int(str(row["unit"])))
                        item = now[number]
                        yield _Difference(unit=unit, row=row, now=None if item is None else plan_row(item, 0))


def _hash_rows(rows: Iterable[Mapping[str, object]]) -> tuple[dict[str, UInt64], UInt64]:
    chunks: list[npt.NDArray[np.uint64]] = []
    chunk: list[tuple[int, int, int]] = []
    for row in rows:
        chunk.append((*_key(row), _hash(row["version"])))
        if len(chunk) == _CHUNK:
            chunks.append(np.array(chunk, np.uint64))
            chunk = []
    chunks.append(np.array(chunk, np.uint64).reshape(-1, 3))
    table = np.concatenate(chunks)
    return {"high": table[:, 0].copy(), "low": table[:, 1].copy()}, table[:, 2].copy()


def _key(row: Mapping[str, object]) -> tuple[int, int]:
    groups: Any = row["row_groups"]  # a tuple as scanned, a list as read from the plan
    text = repr((row["kind"], row["uri"], row["image_id"], None if groups is None else list(groups)))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def _hash(version: object) -> int:
    """64 bits of a version; 0 where the listing told none."""
    if version is None:
        return 0
    return int.from_bytes(hashlib.blake2b(str(version).encode(), digest_size=8).digest(), "big")


def _redo_units(store: Store, differences: Iterable[_Difference]) -> dict[str, int]:
    """How often each touched unit must have been redone; a unit that was never done reads the new input anyway."""
    units = sorted({difference.unit for difference in differences})
    return {
        unit: _times_redone(store, unit) + 1
        for unit in units
        if read_commit(store, "embed", unit) is not None
    }


def _times_redone(store: Store, unit: str) -> int:
    times = 0
    while read_commit(store, f"redo-{times + 1}", unit) is not None:
        times += 1
    return times


def _write_changed(store: Store, extension: Extension, differences: Iterable[_Difference]) -> str:
    name = f"changed-{extension.plan_id}.parquet"
    rows = [difference.to_row() for difference in differences]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PLAN), buffer, compression="zstd")
    store.write(f"plan/{extension.name}/{name}", buffer.getvalue())
    return name


def _delete_files(store: Store, extension: Extension) -> None:
    store.delete(f"plan/{extension.name}/{file}" for file in extension.files)


def _difference_message(differences: list[_Difference]) -> str:
    gone = [str(item.row["uri"]) for item in differences if item.now is None]
    changed = [str(item.row["uri"]) for item in differences if item.now is not None]
    parts = []
    for names, what in ((changed, "changed"), (gone, "vanished")):
        if names:
            more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
            parts.append(f"{what}: {', '.join(names[:_EXAMPLES])}{more}")
    return (
        f"{len(differences)} inputs are not what they were when the run was planned ({'; '.join(parts)}); "
        "--on-changed redo reads them again, --on-changed keep leaves their rows as they are"
    )
