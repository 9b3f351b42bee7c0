"""What of a unit is to be embedded: all of it, all of it again, or only what failed; and the items of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from clip_transforms.commits import FAILURES
from clip_transforms.elements import Failure, ImageRef, Reason, Stage, UnitKind, WorkUnit
from clip_transforms.live import UnitState
from clip_transforms.plan import read_unit_rows
from clip_transforms.sources import SourceOptions, read_unit
from clip_transforms.storage import Store

_Key = tuple[str, str]  # (image_id, uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One task of a unit. only: of a retry, how often each key failed; None: everything."""

    task: str  # embed, retry-<n> or redo-<n>
    redo: int = 0  # the n of a redo
    supersedes: tuple[str, ...] = ()  # failure parts
    only: Mapping[_Key, int] | None = None
    tries: Mapping[_Key, int] = field(default_factory=dict)  # attempts so far
    killers: bool = False  # among them are images that killed a process


def wanted_task(store: Store, unit: WorkUnit, state: UnitState, *, retry_failed: bool) -> Wanted | None:
    """The task that a unit in this state still needs; None where its images are done."""
    tasks = {live.commit.task for live in state.commits}
    redone = sum(task.startswith("redo-") for task in tasks)
    if not redone and "embed" not in tasks:
        return Wanted(task="embed")
    if redone < unit.redo:
        return Wanted(task=f"redo-{redone + 1}", redo=redone + 1)
    failures = state.parts(FAILURES) if retry_failed else ()
    if not failures:
        return None
    rows = [row for part in failures for row in _read(store, part.name)]
    tries = {(str(row["image_id"]), str(row["uri"])): int(str(row["attempts"])) for row in rows}
    reasons = {row["reason"] for row in rows}
    killers = Reason.CRASHED_WORKER.value in reasons
    if Reason.TRUNCATED_SHARD.value in reasons or _lost_whole(store, unit, rows):
        return Wanted(task=f"redo-{redone + 1}", redo=redone + 1, tries=tries, killers=killers)
    return Wanted(
        task=f"retry-{state.next_retry}",
        supersedes=tuple(part.name for part in failures),
        only=Counter((str(row["image_id"]), str(row["uri"])) for row in rows),
        tries=tries,
        killers=killers,
    )


def _lost_whole(store: Store, unit: WorkUnit, rows: list[dict[str, object]]) -> bool:
    """Whether a shard or file itself failed: none of its images has the key of that failure."""
    if unit.kind is UnitKind.REFS:
        return False
    files = [str(uri) for uri in read_unit_rows(store, unit).column("uri").to_pylist()]
    starts = tuple(f"{file} " for file in files)
    return any(row["uri"] in files or str(row["message"]).startswith(starts) for row in rows)


def wanted_items(
    store: Store, unit: WorkUnit, wanted: Wanted, *, options: SourceOptions
) -> Iterator[ImageRef | Failure]:
    """The inputs of a task, read from where the plan points; a retry's are those that failed, each as often."""
    items = read_unit(unit.kind, read_unit_rows(store, unit), options)
    if wanted.only is None:
        yield from items
        return
    left = Counter(wanted.only)
    for item in items:
        key = (item.image_id, item.uri)
        if left[key] > 0:
            left[key] -= 1
            yield item
    for (image_id, uri), times in left.items():
        for _ in range(times):  # gone from its shard or file since: still a failure, never a lost row
            yield Failure(
                image_id=image_id,
                uri=uri,
                stage=Stage.LIST,
                reason=Reason.NOT_FOUND,
                message="no longer in its file",
            )


def _read(store: Store, name: str) -> list[dict[str, object]]:
    with store.open(name) as handle:
        rows: list[dict[str, object]] = pq.read_table(handle, use_threads=False).to_pylist()
    return rows
