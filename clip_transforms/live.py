"""What of a run's commits holds: the parts that no later commit supersedes, and the counts over them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from clip_transforms.commits import COMMITS, EMBEDDINGS, FAILURES, Commit, iter_commits, plan_ids, read_commit
from clip_transforms.elements import ContractError
from clip_transforms.sink import Part
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS, View

_LABELS = "labels"
_LOST_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCommit:
    """A commit and those of its parts that hold; none where the whole commit was superseded."""

    commit: Commit
    parts: Mapping[str, tuple[Part, ...]]  # by folder

    @property
    def failures_hold(self) -> bool:
        """Whether its failures were not retried since."""
        return bool(self.parts.get(FAILURES))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """What is committed of one unit."""

    commits: tuple[LiveCommit, ...]

    def parts(self, folder: str) -> tuple[Part, ...]:
        """The parts of a folder that hold."""
        return tuple(part for live in self.commits for part in live.parts.get(folder, ()))

    def without(self, view: View) -> tuple[Part, ...]:
        """The embedding parts that have no rows of the view yet."""
        done: set[str] = set()
        for live in self.commits:
            if live.parts.get(view.folder) or live.commit.task == view.task:
                done.update(live.commit.sources)
            if live.parts.get(view.folder):
                done.update(part.name for part in live.parts.get(EMBEDDINGS, ()))
        return tuple(part for part in self.parts(EMBEDDINGS) if part.name not in done)

    @property
    def next_retry(self) -> int:
        """The n of the next `retry-<n>`.

        Counted within the unit: attempts that saw the same failures want the same commit, and one wins.
        """
        numbers = {live.commit.number for live in self.commits if live.commit.task.startswith("retry-")}
        return next(number for number in itertools.count(1) if number not in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A run's totals, recomputed from its commits."""

    embedded: int
    failed: int
    failures_by_reason: Mapping[str, int]
    labels: Mapping[str, int]  # rows by `<set>@<hash8>`
    units: Mapping[str, int]  # commits by task
    fingerprints: Mapping[str, int]  # embedded rows by fingerprint; more than one is an error
    scored: int = 0  # image-text pairs
    lost_shards: int = 0  # that could not be read, or not to their end
    lost_examples: tuple[str, ...] = ()  # the first few of them, by name

    @property
    def inputs(self) -> int:
        """Every input is one row: embedded, or failed."""
        return self.embedded + self.failed


def resolve_unit(commits: Iterable[Commit]) -> UnitState:
    """Which parts of one unit's commits hold.

    The highest `redo-<n>`, else `embed`, is the base: it supersedes every other of them, and all that builds
    on those. A retry holds if the failure parts it names are of commits that hold, and supersedes them. Rows
    of views hold if the embedding parts they are of do. "Later" is thus a matter of what a commit was made
    from, never of clocks. Where the unit has no base (labels of another run) everything holds that no other
    commit supersedes.
    Raises ContractError where two commits supersede one part, or one supersedes some failure parts of a
    commit and not the others: no attempt does, and the counts would not add up.
    """
    found = sorted(commits, key=lambda commit: (_rank(commit.task), commit.number))
    bases = [commit for commit in found if _rank(commit.task) == 0]
    holding: set[str] = set()  # names of all parts of commits that hold
    superseded: set[str] = set()
    held: list[Commit] = []
    for commit in [*bases[-1:], *(each for each in found if _rank(each.task))]:
        needed = {*commit.supersedes, *commit.sources}
        if bases and commit is not bases[-1] and not needed <= holding:
            continue
        twice = superseded.intersection(commit.supersedes)
        if twice:
            raise ContractError(f"{commit.name} supersedes {min(twice)}, which another commit superseded")
        superseded.update(commit.supersedes)
        holding.update(commit.part_names())
        held.append(commit)
    return UnitState(commits=tuple(_live(commit, commit in held, superseded) for commit in found))


def live_commits(store: Store, *, plans: Collection[str] | None = None) -> Iterator[LiveCommit]:
    """All commits of a run, each with those of its parts that hold.

    Memory: the commits of units that were retried or redone; all others pass through one by one.
    """
    known = plan_ids(store) if plans is None else plans
    tasks = store.folders(COMMITS)
    later = [task for task in tasks if task.startswith(("retry-", "redo-"))]
    touched: dict[str, list[Commit]] = {}
    for task in later:
        for commit in iter_commits(store, task, plans=known):
            touched.setdefault(commit.unit, []).append(commit)
    for task in tasks:
        if task in later:
            continue
        for commit in iter_commits(store, task, plans=known):
            if commit.unit in touched:
                touched[commit.unit].append(commit)
            else:
                yield LiveCommit(commit=commit, parts=commit.parts)
    for commits in touched.values():
        yield from resolve_unit(commits).commits


def live_parts(store: Store, *, plans: Collection[str] | None = None) -> dict[str, tuple[Part, ...]]:
    """By folder, the parts that commits list and no later commit supersedes, by name: the data of the run."""
    found: dict[str, list[Part]] = {}
    for live in live_commits(store, plans=plans):
        for folder, parts in live.parts.items():
            found.setdefault(folder, []).extend(parts)
    return {folder: tuple(sorted(found[folder], key=lambda part: part.name)) for folder in sorted(found)}


def unit_state(store: Store, unit: str, *, tasks: Iterable[str] | None = None) -> UnitState:
    """What is committed of one unit. tasks: those to look for; default: all that any unit has."""
    wanted = store.folders(COMMITS) if tasks is None else tasks
    read = (read_commit(store, task, unit) for task in wanted)
    return resolve_unit(commit for commit in read if commit is not None)


def count(store: Store, *, plans: Collection[str] | None = None) -> Counts:
    """The totals over the commits of a run."""
    embedded, failed = 0, 0
    reasons: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    scored = 0
    lost = 0
    lost_examples: list[str] = []
    units: Counter[str] = Counter()
    fingerprints: Counter[str] = Counter()
    for live in live_commits(store, plans=plans):
        commit = live.commit
        units[commit.task] += 1
        rows = sum(part.rows for part in live.parts.get(EMBEDDINGS, ()))
        embedded += rows
        if rows:
            fingerprints[commit.fingerprint] += rows
        if live.failures_hold:
            failed += commit.failed
            reasons.update(commit.failures_by_reason)
            lost += len(commit.lost_shards)
            lost_examples = sorted([*lost_examples, *commit.lost_shards])[:_LOST_EXAMPLES]
        scored += sum(part.rows for part in live.parts.get(PAIRS.folder, ()))
        for folder, parts in live.parts.items():
            if folder.startswith(f"{_LABELS}/"):
                labels[folder[len(_LABELS) + 1 :]] += sum(part.rows for part in parts)
    return Counts(
        embedded=embedded,
        failed=failed,
        failures_by_reason=dict(sorted(reasons.items())),
        labels=dict(sorted(labels.items())),
        scored=scored,
        units=dict(sorted(units.items())),
        fingerprints=dict(sorted(fingerprints.items())),
        lost_shards=lost,
        lost_examples=tuple(lost_examples),
    )


def _rank(task: str) -> int:
    """Bases first, then what builds on them, then views of either."""
    kind = task.split("-", 1)[0]
    return {"embed": 0, "redo": 0, "retry": 1}.get(kind, 2)


def _live(commit: Commit, holds: bool, superseded: Collection[str]) -> LiveCommit:
    if not holds:
        return LiveCommit(commit=commit, parts={})
    failures = commit.parts.get(FAILURES, ())
    left = tuple(part for part in failures if part.name not in superseded)
    if left and len(left) < len(failures):
        raise ContractError(f"only some failure parts of {commit.name} are superseded: {left[0].name} is not")
    parts = {
        folder: tuple(part for part in parts if part.name not in superseded)
        for folder, parts in commit.parts.items()
        if folder != FAILURES
    }
    parts = {folder: found for folder, found in parts.items() if found}
    return LiveCommit(commit=commit, parts={**parts, FAILURES: left} if left else parts)
