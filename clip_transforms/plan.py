"""The plan of a run: plan items cut into work units, written as append-only extensions and read back."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.elements import RequestError, UnitKind, WorkUnit
from clip_transforms.sources import PlanItem
from clip_transforms.storage import Store
from schemas.plan import PLAN
from schemas.version import SCHEMA_VERSION

FIRST_UNIT_ROWS = 64
LAST_UNIT_ROWS = 1024
_UNITS_A_STEP = 40
_ROW_GROUP_ROWS = 4096
_FILE_ROWS = 65_536
_CHUNK = 8192
#: What two plan rows have in common that point at the same thing.
KEY_COLUMNS = ("kind", "uri", "image_id", "row_groups")
#: The version of what was planned and is no more.
VANISHED = "vanished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One closed piece of the plan: it counts once its `plan.json` is there, and never changes after."""

    name: str
    plan_id: str  # 8 random hex digits, the beginning of its units' names
    run_id: str
    files: tuple[str, ...]
    units: int
    rows: int | None  # images; None where a tar's count is not known before reading
    total_bytes: int  # of images and shards, as far as the listing told
    inputs: tuple[str, ...]  # canonical
    config: Mapping[str, object]
    redo: Mapping[str, int] = field(
        default_factory=dict
    )  # unit of an earlier extension -> times to be redone
    changed_files: tuple[str, ...] = ()  # new versions of items of earlier extensions
    created_at: str = ""

    def to_json(self) -> bytes:
        """The content of `plan.json`."""
        body = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"beamclip": SCHEMA_VERSION, **body}, indent=1, sort_keys=True).encode()


def unit_rows_at(number: int, *, unit_size: int | None) -> int:
    """References in unit `number`: `unit_size`, or sizes that double from 64 to 1,024.

    Small first units give a small input enough units to share out, without the planner knowing its size.

    >>> [unit_rows_at(n, unit_size=None) for n in (0, 39, 40, 160, 10_000)]
    [64, 64, 128, 1024, 1024]
    >>> unit_rows_at(7, unit_size=100)
    100
    """
    if unit_size is not None:
        return unit_size
    return int(min(LAST_UNIT_ROWS, FIRST_UNIT_ROWS * 2 ** min(number // _UNITS_A_STEP, 10)))


def write_extension(
    store: Store,
    items: Iterable[PlanItem],
    *,
    name: str,
    run_id: str,
    inputs: Iterable[str],
    config: Mapping[str, object],
    unit_size: int | None,
    created_at: str,
) -> Extension:
    """Write the units of `items` and return the extension, still open: `close_extension` makes it count.

    Memory is bounded by one plan file. If `items` raises, what was written is removed again.
    """
    writer = _PlanWriter(store, name=name, plan_id=secrets.token_hex(4))
    try:
        for item in items:
            writer.add(item, unit_rows=unit_rows_at(writer.unit, unit_size=unit_size))
        writer.flush_file()
    except BaseException:
        store.delete(writer.files)
        raise
    return Extension(
        name=name,
        plan_id=writer.plan_id,
        run_id=run_id,
        files=tuple(file.rsplit("/", 1)[1] for file in writer.files),
        units=writer.units,
        rows=writer.rows,
        total_bytes=writer.bytes,
        inputs=tuple(inputs),
        config=config,
        created_at=created_at,
    )


def close_extension(store: Store, extension: Extension) -> None:
    """Create the extension's `plan.json`; raises RequestError if another launcher has made it meanwhile."""
    name, content = f"plan/{extension.name}/plan.json", extension.to_json()
    # One that is there and says just this is our own: the answer to the put was lost, and it was put again.
    if not store.create(name, content) and store.read(name) != content:
        raise RequestError(
            f"{store.root}: the plan extension {extension.name} was written by another launcher; "
            "run the command again with --resume"
        )


def read_extensions(store: Store) -> list[Extension]:
    """The closed extensions in order; empty where `store` holds no run."""
    names = sorted(
        entry.name
        for entry in store.list("plan/")
        if entry.name.endswith("/plan.json") and entry.name.count("/") == 2
    )
    return [_parse_extension(store.read(name), store.join(name)) for name in names]


def next_extension_name(extensions: Iterable[Extension]) -> str:
    """The name after the last: four digits, so that names sort.

    >>> next_extension_name([])
    '0000'
    """
    return f"{max((int(extension.name) for extension in extensions), default=-1) + 1:04d}"


def iter_units(store: Store, extension: Extension, plan_file: str) -> Iterator[WorkUnit]:
    """The unit descriptors of one plan file, without reading uris."""
    with store.open(f"plan/{extension.name}/{plan_file}") as handle:
        file = pq.ParquetFile(handle)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["unit", "kind", "rows", "size"])
            yield from _group_units(table, group, extension, plan_file)


def read_unit_rows(store: Store, unit: WorkUnit) -> pa.Table:
    """The rows of schemas.plan.PLAN that make up the unit; of a redone one, as they were last seen."""
    with store.open(f"plan/{unit.extension}/{unit.plan_file}") as handle:
        table = pq.ParquetFile(handle).read_row_group(unit.row_group)
    table = table.slice(unit.offset, unit.length)
    if not unit.redo:
        return table
    changed = {
        _row_key(row): row
        for extension in read_extensions(store)
        for file in extension.changed_files
        for row in read_plan_rows(store, f"plan/{extension.name}/{file}", None)
    }
    rows = [{**changed.get(_row_key(row), row), "unit": row["unit"]} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=PLAN)


def read_plan_rows(store: Store, name: str, columns: list[str] | None) -> Iterator[dict[str, object]]:
    """The rows of one plan file, a few thousand in memory at a time."""
    with store.open(name) as handle:
        for batch in pq.ParquetFile(handle).iter_batches(batch_size=_CHUNK, columns=columns):
            yield from batch.to_pylist()


def _row_key(row: Mapping[str, object]) -> str:
    return repr([row[name] for name in KEY_COLUMNS])


def unit_name(extension: Extension, number: int) -> str:
    """`<plan id>-<extension>-<number>`."""
    return f"{extension.plan_id}-{extension.name}-{number:06d}"


def plan_table(items: Iterable[PlanItem]) -> pa.Table:
    """Plan items as the rows of one unit, not written anywhere."""
    return pa.Table.from_pylist([plan_row(item, 0) for item in items], schema=PLAN)


def _group_units(table: pa.Table, group: int, extension: Extension, plan_file: str) -> Iterator[WorkUnit]:
    numbers = table.column("unit").to_pylist()
    rows = table.column("rows").to_pylist()
    sizes = table.column("size").to_pylist()
    start = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[start]:
            continue
        known = None if None in rows[start:end] else sum(rows[start:end])
        yield WorkUnit(
            name=unit_name(extension, numbers[start]),
            kind=UnitKind(table.column("kind")[start].as_py()),
            extension=extension.name,
            plan_file=plan_file,
            row_group=group,
            offset=start,
            length=end - start,
            rows=known,
            bytes=None if None in sizes[start:end] else sum(sizes[start:end]),
        )
        start = end


def _parse_extension(data: bytes, where: str) -> Extension:
    try:
        body = json.loads(data)
        version = body.pop("beamclip")
        body = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
        extension = Extension(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{where} is not a plan of beamclip: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise RequestError(
            f"{where} was written with schema version {version}, this is version {SCHEMA_VERSION}: "
            "use the beamclip that wrote it, or give another --output"
        )
    return extension


class _PlanWriter:
    """Cuts items into units and packs units into row groups and files."""

    def __init__(self, store: Store, *, name: str, plan_id: str) -> None:
        self.plan_id = plan_id
        self.files: list[str] = []
        self.unit = 0  # number of the unit now open
        self.rows: int | None = 0
        self.bytes = 0
        self._store = store
        self._name = name
        self._open_refs = 0  # references in the open unit
        self._pending: list[dict[str, object]] = []  # rows not yet in a row group
        self._buffer: io.BytesIO | None = None
        self._writer: pq.ParquetWriter | None = None
        self._file_rows = 0

    @property
    def units(self) -> int:
        return self.unit + (1 if self._open_refs else 0)

    def add(self, item: PlanItem, *, unit_rows: int) -> None:
        """One more item; only references share units."""
        alone = item.kind is not UnitKind.REFS
        if self._open_refs and (alone or self._open_refs >= unit_rows):
            self._close_unit()
        self._pending.append(plan_row(item, self.unit))
        self.rows = None if self.rows is None or item.rows is None else self.rows + item.rows
        self.bytes += item.size or 0
        if alone:
            self._close_unit()
        else:
            self._open_refs += 1

    def _close_unit(self) -> None:
        self.unit += 1
        self._open_refs = 0
        if len(self._pending) >= _ROW_GROUP_ROWS:
            self._flush_group()
        if self._file_rows >= _FILE_ROWS:
            self.flush_file()

    def _flush_group(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._buffer = io.BytesIO()
            self._writer = pq.ParquetWriter(self._buffer, PLAN, compression="zstd")
        table = pa.Table.from_pylist(self._pending, schema=PLAN)
        self._writer.write_table(table, row_group_size=len(self._pending))
        self._file_rows += len(self._pending)
        self._pending = []

    def flush_file(self) -> None:
        """Send what is buffered as one plan file."""
        self._flush_group()
        if self._writer is None or self._buffer is None:
            return
        self._writer.close()
        name = f"plan/{self._name}/units-{self.plan_id}-{len(self.files):05d}.parquet"
        self.files.append(name)
        self._store.write(name, self._buffer.getvalue())
        self._writer = self._buffer = None
        self._file_rows = 0


def plan_row(item: PlanItem, unit: int) -> dict[str, object]:
    """The row of schemas.plan.PLAN of an item."""
    row = {name: getattr(item, name) for name in PLAN.names if name != "unit"}
    return {**row, "unit": unit, "kind": item.kind.value}
