"""What a worker does with a unit: read, embed, label, commit; the same code first time, on resume and on retry."""

from __future__ import annotations

import datetime
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass

from clip_transforms.attempts import Attempts
from clip_transforms.commits import EMBEDDINGS, Commit, read_commit, write_commit
from clip_transforms.config import RunConfig, UnitReport
from clip_transforms.elements import ContractError, WorkUnit
from clip_transforms.engine import Engine, EngineStats, engine_for
from clip_transforms.labelling import Labeller, LabelMaker
from clip_transforms.live import UnitState, unit_state
from clip_transforms.memory import limit_malloc, release_memory
from clip_transforms.pairs.scores import PairScorer
from clip_transforms.rows import UnitRows
from clip_transforms.sink import new_attempt, part_stem
from clip_transforms.unit_tasks import wanted_items, wanted_task
from clip_transforms.views import PAIRS, View, ViewMaker, label_view

ALL_FAIL_LIMIT = 1000
_LEAST_UNITS = 2  # in flight, so that the overlap does not drain at a unit's end
_LEAST_IMAGES = 512  # in flight, so that it does not with small units either

_workers: dict[tuple[str, str], Worker] = {}
_lock = threading.Lock()


def worker_for(config: RunConfig) -> Worker:
    """The process-wide worker of a job: one a process, however many threads call."""
    with _lock:
        key = (config.output, config.run_id)
        if key not in _workers:
            limit_malloc()
            _workers.clear()  # a process works on one job at a time
            _workers[key] = Worker(config)
        return _workers[key]


def enough_in_flight(images: Sequence[int | None]) -> bool:
    """Whether these units, by their numbers of images (None: unknown), keep the engine busy.

    >>> enough_in_flight([64, 64]), enough_in_flight([64] * 8), enough_in_flight([None]), enough_in_flight([None, 1024])
    (False, True, False, True)
    """
    known = sum(_LEAST_IMAGES if count is None else count for count in images)
    return len(images) >= _LEAST_UNITS and known >= _LEAST_IMAGES


@dataclass(slots=True, kw_only=True)
class PendingUnit:
    """A unit whose images are on their way through the engine, or one with nothing to embed."""

    unit: WorkUnit
    state: UnitState  # of the embeddings' run, when the unit was started
    task: str | None = None  # embed, retry-<n> or redo-<n>
    supersedes: tuple[str, ...] = ()
    rows: UnitRows | None = None
    attempt: str = ""
    done: Future[EngineStats] | None = None


class Worker:
    """A process's part in a job. Safe for several threads."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._store = config.store()
        self._embeddings = config.embeddings_store()
        self._labeller = Labeller(config, engine=self.engine)
        self._scorer = PairScorer(config, engine=self.engine)
        self._makers: dict[View, ViewMaker] = {PAIRS: self._scorer}
        self._makers |= {label_view(tag): LabelMaker(self._labeller, tag) for tag in config.label_sets}
        self._attempts = Attempts(self._store, run_id=config.run_id)
        self._outcomes: Counter[str] = Counter()
        self._outcomes_lock = threading.Lock()

    def engine(self) -> Engine:
        """The process's engine; ContractError where its weights are not the run's."""
        engine = engine_for(self._config.encoder, self._config.engine)
        if engine.encoder.weights_id != self._config.weights_id:
            raise ContractError(
                f"this worker's weights of {self._config.encoder_name} are {engine.encoder.weights_id}, "
                f"the run's are {self._config.weights_id}: is another file behind that name here?"
            )
        return engine

    def text_features(self, tag: str) -> None:
        """Make sure that the label set's text features are in `text/`."""
        self._labeller.applied(tag)

    @property
    def viewed(self) -> int:
        """Rows of views so far: labels and scores."""
        return self._labeller.labelled + self._scorer.scored

    def start(self, unit: WorkUnit) -> PendingUnit:
        """Send what is to be embedded of the unit into the engine; does not wait for it."""
        state = unit_state(self._embeddings, unit.name)
        wanted = (
            None
            if self._config.embeddings_run
            else wanted_task(self._store, unit, state, retry_failed=self._config.retry_failed)
        )
        if wanted is None:
            return PendingUnit(unit=unit, state=state)
        contained = self._attempts.begin(wanted.task, unit.name) or wanted.killers
        attempt = new_attempt()
        rows = UnitRows(
            store=self._store,
            config=self._config,
            stem=part_stem(unit.name, task=wanted.task, attempt=attempt),
            tries_before=wanted.tries,
        )
        return PendingUnit(
            unit=unit,
            state=state,
            task=wanted.task,
            supersedes=wanted.supersedes,
            rows=rows,
            attempt=attempt,
            done=self.engine().submit(
                wanted_items(self._store, unit, wanted, options=self._config.sources),
                rows,
                contained=contained,
            ),
        )

    def finish(self, pending: PendingUnit) -> Iterator[UnitReport]:
        """Wait for the unit's images, commit them, then every view that the unit has not got yet."""
        if pending.done is None:
            if not self._config.embeddings_run:
                yield UnitReport(unit=pending.unit.name, task="embed", done_before=True)
        else:
            stats = pending.done.result()
            release_memory()  # of what decoding left, before the parts are built
            yield self._commit_images(pending, stats)
            release_memory()
        for view in self._config.views():
            yield self._commit_view(pending, view)
        release_memory()

    def _commit_images(self, pending: PendingUnit, stats: EngineStats) -> UnitReport:
        assert pending.rows is not None and pending.task is not None
        parts = pending.rows.close()
        if pending.task != "embed":  # what builds on an older commit carries the views of its own rows
            for view in self._config.views():
                made = self._makers[view].write(parts.get(EMBEDDINGS, ()), stem=pending.rows.stem)
                if made:
                    parts[view.folder] = made
        rows = pending.rows
        mine = Commit(
            task=pending.task,
            unit=pending.unit.name,
            attempt=pending.attempt,
            run_id=self._config.run_id,
            fingerprint=self._config.fingerprint,
            created_at=_now().isoformat(),
            parts=parts,
            embedded=rows.embedded_rows,
            failed=rows.failed_rows,
            failures_by_reason=dict(rows.by_reason),
            lost_shards=tuple(sorted(rows.lost_shards)),
            supersedes=pending.supersedes,
            stats=_plain_stats(stats),
        )
        held = write_commit(self._store, mine)
        pending.state = unit_state(self._store, pending.unit.name)
        won = held.attempt == pending.attempt
        if won and not pending.task.startswith("retry-"):  # of a retry all have failed before
            self._check_hopeless(rows)
        return UnitReport(
            unit=pending.unit.name,
            task=pending.task,
            embedded=held.embedded,
            failed=held.failed,
            failed_by=dict(rows.by_stage_and_reason) if won else {},
            done_before=not won,
            stats=stats if won else None,
        )

    def _commit_view(self, pending: PendingUnit, view: View) -> UnitReport:
        """Make the view of what of the unit has no rows of it; an empty commit where it has no image at all."""
        unit, task, maker = pending.unit.name, view.task, self._makers[view]
        there = read_commit(self._store, task, unit)
        own = pending.state
        gone: tuple[str, ...] = ()
        if self._config.embeddings_run:  # what was embedded there since has no rows here yet
            own = unit_state(self._store, unit)
            # Read after the own one, so that it knows all that those rows are of.
            source = unit_state(self._embeddings, unit)
            done = {name for live in own.commits if view.folder in live.parts for name in live.commit.sources}
            now = {part.name for part in source.parts(EMBEDDINGS)}
            todo = tuple(part for part in source.parts(EMBEDDINGS) if part.name not in done)
            gone = tuple(
                part.name
                for live in own.commits
                if now.isdisjoint(live.commit.sources)
                for part in live.parts.get(view.folder, ())
            )
        else:
            todo = pending.state.without(view)
        if not todo and not gone and (there is not None or _carries(pending.state, view)):
            return UnitReport(unit=unit, task=task, done_before=True)
        if there is not None:  # it was made before a redo or a retry whose rows it does not know
            task = f"retry-{own.next_retry}"
        attempt = new_attempt()
        made = maker.write(todo, stem=part_stem(unit, task=task, attempt=attempt))
        mine = Commit(
            task=task,
            unit=unit,
            attempt=attempt,
            run_id=self._config.run_id,
            fingerprint=maker.fingerprint(),
            created_at=_now().isoformat(),
            parts={view.folder: made} if made else {},
            supersedes=gone,
            sources=tuple(part.name for part in todo),
        )
        held = write_commit(self._store, mine)
        if task.startswith("retry-") and not self._config.embeddings_run:
            pending.state = unit_state(self._store, unit)
        rows = sum(part.rows for parts in held.parts.values() for part in parts)
        return UnitReport(
            unit=unit,
            task=task,
            scored=rows if view == PAIRS else 0,
            labelled=0 if view == PAIRS else rows,
            done_before=held.attempt != attempt,
        )

    def _check_hopeless(self, rows: UnitRows) -> None:
        """Stop a job whose first 1,000 inputs (of this process) all fail for one reason."""
        with self._outcomes_lock:
            self._outcomes["embedded"] += rows.embedded_rows
            self._outcomes.update(rows.by_reason)
            outcomes = Counter({name: times for name, times in self._outcomes.items() if times})
        if len(outcomes) == 1 and "embedded" not in outcomes and outcomes.total() >= ALL_FAIL_LIMIT:
            (reason, times) = outcomes.most_common(1)[0]
            raise ContractError(
                f"the first {times} inputs all failed with {reason} ({rows.example}); the job was stopped. What was "
                "written stays: mend the cause, then run --resume --retry-failed"
            )


def _carries(state: UnitState, view: View) -> bool:
    """Whether the unit has commits, and their embeddings (if any) all have rows of the view."""
    return any(live.commit.task != "embed" and live.parts.get(view.folder) for live in state.commits)


def _plain_stats(stats: EngineStats) -> dict[str, float]:
    """Engine statistics as the flat numbers that a commit keeps: seconds and bytes."""
    flat: dict[str, float] = {}
    for name, value in asdict(stats).items():
        if isinstance(value, Mapping):
            flat.update(
                {f"{name}_{part}": float(number) for part, number in value.items() if number is not None}
            )
        else:
            flat[name] = float(value)
    return flat


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
