"""What the tests of the sources share: plan rows out of items, whole reads, and tars made in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from clip_transforms.elements import Failure, ImageRef, UnitKind
from clip_transforms.sources import PlanItem, SourceOptions, read_unit, scan
from schemas.plan import PLAN


def plan_of(items: Iterable[PlanItem]) -> pa.Table:
    """The items as rows of one unit."""
    rows = [
        {name: getattr(item, name) for name in PLAN.names if name not in ("unit", "kind")}
        | {"unit": 0, "kind": item.kind.value}
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=PLAN)


def read_items(items: Iterable[PlanItem], options: SourceOptions) -> list[ImageRef | Failure]:
    """What a worker makes of the items, each a unit of its own."""
    found: list[ImageRef | Failure] = []
    for item in items:
        found.extend(read_unit(item.kind, plan_of([item]), options))
    return found


def read_all(inputs: Sequence[str | Path], options: SourceOptions | None = None) -> list[ImageRef | Failure]:
    """Scan and read, as launcher and worker would."""
    options = options or SourceOptions()
    return read_items(scan([str(entry) for entry in inputs], options), options)


def summary(found: Iterable[ImageRef | Failure]) -> list[tuple[str, str]]:
    """(uri, payload's text or failure's reason) of each row."""
    return [
        (row.uri, row.reason.value) if isinstance(row, Failure) else (row.uri, (row.payload or b"").decode())
        for row in found
    ]


def tar_bytes(members: Sequence[tuple[str, bytes]], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed tar with these members in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_item(path: Path, **fields: object) -> PlanItem:
    """A shard as an item of the plan."""
    size = path.stat().st_size if path.exists() else None
    return PlanItem(kind=UnitKind.TAR, uri=str(path), rows=None, **({"size": size} | fields))  # type: ignore[arg-type]
