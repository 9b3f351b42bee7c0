"""Commits: one small object for one task of one unit, created only if absent; what they say is done."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from clip_transforms.elements import ContractError, StoreError
from clip_transforms.sink import Part
from clip_transforms.storage import Store

COMMITS = "commits"
EMBEDDINGS = "embeddings"
FAILURES = "failures"
_VERSION = 1
_TASK = re.compile(r"embed|pairs|labels-[^/]+@[0-9a-f]{8}|(?:retry|redo)-[1-9]\d*")
_READERS = 16
_AHEAD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one attempt made of one task of one unit; raises ContractError where its numbers contradict.

    Tasks: `embed`; `labels-<set>@<hash8>` and `pairs`, rows of a view (clip_transforms.views) of the embedding
    parts in `sources`; `retry-<n>`, new rows for the inputs of the failure parts in `supersedes`, n counting
    up within the unit (in a run that views another one's embeddings, rows of a view of what was embedded there
    since); `redo-<n>`, the whole unit anew, which supersedes all that was committed for the unit before.
    """

    task: str
    unit: str
    attempt: str  # sink.new_attempt()
    run_id: str
    fingerprint: str
    created_at: str  # ISO 8601, UTC
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)  # by folder
    embedded: int = 0  # rows in embeddings/
    failed: int = 0  # rows in failures/
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)
    lost_shards: tuple[str, ...] = ()  # uris of shards that could not be read, or not to their end
    # of failure parts, all that were live in the unit; in a run of views alone, of parts whose embeddings are gone
    supersedes: tuple[str, ...] = ()
    sources: tuple[
        str, ...
    ] = ()  # names of the embedding parts of other commits that rows of views here are of
    stats: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _contradiction(self)
        if problem:
            raise ContractError(f"commit {self.name}: {problem}")

    @property
    def name(self) -> str:
        """Of its object, below the run's folder."""
        return commit_name(self.task, self.unit)

    @property
    def number(self) -> int:
        """The n of `retry-<n>` and `redo-<n>`; 0 for other tasks."""
        kind, _, number = self.task.partition("-")
        return int(number) if kind in ("retry", "redo") else 0

    def part_names(self) -> Iterator[str]:
        """Of all folders."""
        return (part.name for parts in self.parts.values() for part in parts)

    def to_json(self) -> bytes:
        """What its object holds."""
        parts = {
            folder: [{"name": part.name, "rows": part.rows, "bytes": part.bytes} for part in found]
            for folder, found in self.parts.items()
        }
        body = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"version": _VERSION, **body, "parts": parts}, sort_keys=True).encode()


def commit_name(task: str, unit: str) -> str:
    """The name of a commit's object.

    >>> commit_name("embed", "0123abcd-0000-000007")
    'commits/embed/0123abcd-0000-000007.json'
    """
    return f"{COMMITS}/{task}/{unit}.json"


def parse_commit(data: bytes) -> Commit:
    """The commit in an object's bytes; StoreError where they are none."""
    try:
        body: dict[str, Any] = json.loads(data)
        if body.pop("version") != _VERSION:
            raise ValueError("written by another version of beamclip")
        body["parts"] = {
            folder: tuple(Part(**part) for part in parts) for folder, parts in body["parts"].items()
        }
        body["supersedes"], body["sources"] = tuple(body["supersedes"]), tuple(body["sources"])
        body["lost_shards"] = tuple(body.get("lost_shards", ()))  # which older commits have not
        return Commit(**body)
    except (ValueError, KeyError, TypeError, AttributeError, ContractError) as error:
        raise StoreError(f"not a readable commit: {error!r}") from error


def read_commit(store: Store, task: str, unit: str) -> Commit | None:
    """The commit of a task of a unit; None where it is not committed. Raises StoreError where unreadable."""
    name = commit_name(task, unit)
    try:
        commit = parse_commit(store.read(name))
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise StoreError(f"{store.join(name)}: {error}") from error
    if (commit.task, commit.unit) != (task, unit):
        raise StoreError(f"{store.join(name)} is the commit of {commit.task} of {commit.unit}")
    return commit


def write_commit(store: Store, commit: Commit) -> Commit:
    """Commit an attempt whose parts are written; returns the commit that holds, which may be another's.

    Creates the commit's object only if it is absent. If it is there, its attempt id decides: the own one (a
    client repeats a put inside when the answer is lost) is success; with another's, that attempt won, and the
    own parts are deleted. Where it cannot be read, nothing is deleted and StoreError is raised: it may be the
    own. Whatever kills a caller here leaves a commit with all its parts, or parts that no commit lists, which
    `sweep` removes.
    """
    if store.create(commit.name, commit.to_json()):
        return commit
    winner = read_commit(store, commit.task, commit.unit)
    if winner is None:
        raise StoreError(f"{store.join(commit.name)} was there, and is gone: is the run being overwritten?")
    if winner.attempt != commit.attempt:
        kept = set(winner.part_names())
        store.delete(name for name in commit.part_names() if name not in kept)
    return winner


def iter_commits(
    store: Store, task: str | None = None, *, plans: Collection[str] | None = None
) -> Iterator[Commit]:
    """All commits (of one task), in no order, read by 16 threads; at most 256 are in memory.

    Commits of units of other plans, which workers of an overwritten run may leave, are passed over. plans:
    the ids that count; default: `plan_ids(store)`. Raises StoreError for one that is unreadable.
    """
    known = plan_ids(store) if plans is None else frozenset(plans)
    names = (entry.name for entry in store.list(f"{COMMITS}/{task}" if task else COMMITS))
    wanted = (key for key in map(_split_name, names) if key and is_planned(key[1], known))
    waiting: deque[Future[Commit]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="beamclip-commits") as pool:
        try:
            for found_task, unit in wanted:
                waiting.append(pool.submit(_read_listed, store, found_task, unit))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def committed_units(store: Store, task: str, *, plans: Collection[str] | None = None) -> Iterator[str]:
    """The units whose task is committed, from the listing alone."""
    known = plan_ids(store) if plans is None else frozenset(plans)
    for entry in store.list(f"{COMMITS}/{task}"):
        key = _split_name(entry.name)
        if key and key[0] == task and is_planned(key[1], known):
            yield key[1]


def plan_ids(store: Store) -> frozenset[str]:
    """The ids of the plans whose units live in this store, from `plan/*/plan.json`.

    Empty where none has units (labels of another run's embeddings): then the units are that run's. A unit's
    name begins with its plan's id.
    """
    bodies = list(_plan_bodies(store))
    if not any(body.get("units") for body in bodies):
        return frozenset()
    return frozenset(str(body["plan_id"]) for body in bodies if body.get("plan_id"))


def is_planned(unit: str, plans: Collection[str]) -> bool:
    """Whether a unit belongs to one of these plans; to none given, every unit does.

    >>> is_planned("0123abcd-0000-000007", {"0123abcd"}), is_planned("0123abcd-0000-000007", set())
    (True, True)
    """
    return not plans or unit.split("-", 1)[0] in plans


def _plan_bodies(store: Store) -> Iterator[dict[str, Any]]:
    for extension in store.folders("plan"):
        try:
            body = json.loads(store.read(f"plan/{extension}/plan.json"))
        except FileNotFoundError:
            continue  # an extension counts once its plan.json is there
        except ValueError as error:
            raise StoreError(f"{store.join('plan', extension, 'plan.json')} is not JSON: {error}") from error
        if isinstance(body, dict):
            yield body


def _read_listed(store: Store, task: str, unit: str) -> Commit:
    commit = read_commit(store, task, unit)
    if commit is None:
        raise StoreError(f"{store.join(commit_name(task, unit))} was deleted while the commits were read")
    return commit


def _split_name(name: str) -> tuple[str, str] | None:
    pieces = name.split("/")
    if len(pieces) != 3 or not pieces[2].endswith(".json") or not _TASK.fullmatch(pieces[1]):
        return None
    return pieces[1], pieces[2][: -len(".json")]


def _contradiction(commit: Commit) -> str | None:
    """What is wrong with the numbers, so that a bug stops at the unit it is in and not at the totals."""
    if not _TASK.fullmatch(commit.task):
        return f"unknown task {commit.task!r}"
    if sum(commit.failures_by_reason.values()) != commit.failed:
        return f"{commit.failed} failed, but by reason they are {dict(commit.failures_by_reason)}"
    for folder, rows in ((FAILURES, commit.failed), (EMBEDDINGS, commit.embedded)):
        written = sum(part.rows for part in commit.parts.get(folder, ()))
        if written != rows:
            return f"{rows} rows were counted for {folder}/, {written} are in its parts"
    wrong = [part.name for folder, parts in commit.parts.items() for part in parts if part.folder != folder]
    wrong += [name for name in commit.supersedes if name.startswith(f"{EMBEDDINGS}/")]
    wrong += [name for name in commit.sources if not name.startswith(f"{EMBEDDINGS}/")]
    if wrong:
        return f"parts in the wrong folder: {', '.join(wrong[:3])}"
    return _misplaced(commit.task, commit.supersedes, commit.sources, any(commit.part_names()))


def _misplaced(task: str, supersedes: Iterable[str], sources: Iterable[str], parts: bool) -> str | None:
    kind = task.split("-", 1)[0]
    if kind in ("labels", "pairs") and parts and not tuple(sources):
        return "rows of a view need the embedding parts that they are of, as `sources`"
    if kind != "retry" and tuple(supersedes):
        return "only a retry names what it supersedes"
    if kind in ("embed", "redo") and tuple(sources):
        return "only views and retries have sources"
    return None
