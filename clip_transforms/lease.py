"""The lease on an output: keeps two launchers from double work. Commits alone guard the data."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from clip_transforms.elements import HeldError, StoreError
from clip_transforms.processes import ProcessId, is_alive, this_process
from clip_transforms.storage import Store

LIFETIME = 120.0  # seconds
RENEWAL = 20.0
_NAME = re.compile(r"lease/(\d+)\.json")
_TRIES = 10
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The content of `lease/<n>.json`; the highest n holds."""

    token: str  # of the launcher's lease, new with every launch
    holder: ProcessId
    run_id: str
    since: float  # seconds since 1970
    expires: float | None  # None: with the runner's job alone
    runner_job: str | None = None  # of a remote runner: the job outlives its launcher
    released: bool = False

    def to_json(self) -> bytes:
        """What its object holds."""
        return json.dumps({"version": 1, **asdict(self)}, sort_keys=True).encode()


def parse_record(data: bytes) -> LeaseRecord:
    """The record in an object's bytes; StoreError where they are none."""
    try:
        body: dict[str, Any] = json.loads(data)
        if body.pop("version") != 1:
            raise ValueError("written by another version of beamclip")
        return LeaseRecord(**{**body, "holder": ProcessId(**body["holder"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"not a readable lease: {error!r}") from error


class Lease:
    """The right to work on one output, from `acquire` to `release`; a context manager that does both ends.

    Each step (take, renew, hand over, release) creates the next number only if it is absent and then looks
    whether it is the highest. Numbers only grow, and the last of a lease stays to mark that it was released.
    So a launcher that was paused past its expiry, while another took over, fails its next renewal, even if
    the other has ended since. It is told by `lost`, and by `check()`, which it calls before each step that is
    not guarded by a commit (plan, sweep, run.json). Between a check and its step it may still be paused: what
    it then writes is guarded by create-only puts, or written again by the other.
    Expiry compares the clocks of two hosts, so theirs should agree within a minute.
    """

    def __init__(
        self, store: Store, *, number: int, record: LeaseRecord, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._number = number
        self._record = record
        self._clock = clock
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = threading.Event()  # another launcher holds the output now

    @classmethod
    def acquire(
        cls,
        store: Store,
        *,
        run_id: str,
        take_over: bool = False,
        job_ended: Callable[[str], bool | None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Lease:
        """Take the lease, or raise HeldError naming who holds it.

        take_over: whoever holds it. job_ended: asks the runner whether a submitted job has ended, and answers
        None where that is unknown.
        """
        for _ in range(_TRIES):
            number, held = _highest(store, unreadable_is_free=take_over)
            now = clock()
            if held is not None and not take_over and not _is_free(held, now, job_ended):
                raise HeldError(_held_message(store, held, now))
            record = LeaseRecord(
                token=uuid.uuid4().hex,
                holder=this_process(),
                run_id=run_id,
                since=now,
                expires=now + LIFETIME,
            )
            taken = _put(store, number + 1, record)
            if taken is not None:
                return cls(store, number=taken, record=record, clock=clock)
        raise StoreError(f"{store.join('lease')} changes all the time; try again")

    def renew(self) -> None:
        """Extend the lease by its lifetime; HeldError if it is another's by now."""
        with self._lock:
            if self._record.expires is not None and not self._record.released:
                self._advance(replace(self._record, expires=self._clock() + LIFETIME))

    def set_runner_job(self, job: str) -> None:
        """Note the job of a remote runner, which goes on if this process dies."""
        with self._lock:
            self._advance(replace(self._record, runner_job=job, expires=self._clock() + LIFETIME))

    def hand_over(self, job: str) -> None:
        """Leave the lease to a submitted job: held until the runner says it ended, or someone takes over.

        Where the store cannot be told, the lease at least is not given back while the job runs: it expires.
        """
        self._stop_renewing()
        with self._lock:
            left = replace(self._record, runner_job=job, expires=None)
            try:
                self._advance(left)
            except StoreError:
                self._record = left
                raise

    def check(self) -> None:
        """Raise HeldError if another launcher holds the output by now, as far as the last renewal knows."""
        with self._lock:
            if self.lost.is_set():
                raise HeldError(self._lost_message())
            if self._record.expires is not None and self._clock() >= self._record.expires:
                self.renew()  # paused for long, or the store was out of reach: ask now

    def start(self) -> Lease:
        """Renew in the background, every 20 seconds, until released."""
        self._thread = threading.Thread(target=self._renew_on, name="beamclip-lease", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Give the lease back, unless it is lost or was handed over to a job."""
        self._stop_renewing()
        with self._lock:
            if self.lost.is_set() or self._record.expires is None or self._record.released:
                return
            try:
                self._advance(replace(self._record, released=True))
            except (HeldError, StoreError) as error:  # it expires by itself
                _logger.warning("the lease on %s could not be given back: %s", self._store.root, error)

    def __enter__(self) -> Lease:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _advance(self, record: LeaseRecord) -> None:
        number = None if self.lost.is_set() else _put(self._store, self._number + 1, record)
        if number is None:
            self.lost.set()
            raise HeldError(self._lost_message())
        self._number, self._record = number, record

    def _lost_message(self) -> str:
        return f"another launcher has taken over {self._store.root}; this one stops"

    def _renew_on(self) -> None:
        while not self._stop.wait(RENEWAL):
            try:
                self.renew()
            except HeldError as error:
                _logger.error("%s", error)
                return
            except StoreError as error:  # still ours until it expires, and after, if nobody takes it
                _logger.warning("the lease on %s could not be renewed: %s", self._store.root, error)

    def _stop_renewing(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def read_lease(store: Store) -> LeaseRecord | None:
    """Who holds the output; None where nobody does. An expired lease is still shown."""
    held = _highest(store, unreadable_is_free=False)[1]
    return None if held is None or held.released else held


def launcher_gone(held: LeaseRecord, now: float) -> bool:
    """Whether nobody renews the lease any more: its process is dead, it has expired, or a job holds it alone."""
    dead = this_process().same_machine(held.holder) and not is_alive(held.holder)
    return dead or held.expires is None or now >= held.expires


def _numbers(store: Store) -> list[int]:
    matches = (_NAME.fullmatch(entry.name) for entry in store.list("lease"))
    return sorted(int(match[1]) for match in matches if match)


def _name(number: int) -> str:
    return f"lease/{number}.json"


def _highest(store: Store, *, unreadable_is_free: bool) -> tuple[int, LeaseRecord | None]:
    for _ in range(_TRIES):
        numbers = _numbers(store)
        if not numbers:
            return 0, None
        try:
            return numbers[-1], parse_record(store.read(_name(numbers[-1])))
        except FileNotFoundError:
            continue  # the holder went on to the next number meanwhile
        except StoreError:
            if unreadable_is_free:
                return numbers[-1], None
            raise
    raise StoreError(f"{store.join('lease')} changes all the time; try again")


def _put(store: Store, number: int, record: LeaseRecord) -> int | None:
    """Create this number, or a next one, for the record; None if that or a higher one is another's."""
    while not store.create(_name(number), record.to_json()):
        try:
            there = parse_record(store.read(_name(number)))
        except FileNotFoundError:
            return None
        if there.token != record.token:
            return None
        if there == record:
            break  # the answer to our own put was lost
        number += 1  # so was that to an earlier one of ours, which raised
    numbers = _numbers_with(store, number)
    if numbers[-1] > number:
        # The number was free because others had gone past it and cleaned up.
        store.delete([_name(number)])
        return None
    # The one before stays for readers that have just listed it.
    store.delete(_name(old) for old in numbers if old < number - 1)
    return number


def _numbers_with(store: Store, number: int) -> list[int]:
    """The numbers as listed once `number`, just created, or a higher one is among them.

    A listing that lacks it is not to be believed: some stores list nothing while an object goes.
    """
    for _ in range(_TRIES):
        numbers = _numbers(store)
        if numbers and numbers[-1] >= number:
            return numbers
    raise StoreError(f"{store.join(_name(number))} was created and is not listed; try again")


def _is_free(held: LeaseRecord, now: float, job_ended: Callable[[str], bool | None] | None) -> bool:
    if held.released:
        return True
    gone = launcher_gone(held, now)
    if held.runner_job is None or not gone:
        return gone
    return bool(job_ended and job_ended(held.runner_job))


def _held_message(store: Store, held: LeaseRecord, now: float) -> str:
    since = datetime.fromtimestamp(held.since, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = f"host {held.holder.host}, pid {held.holder.pid}, run {held.run_id}, since {since}"
    if held.runner_job is not None:
        who += f", job {held.runner_job} of its runner"
    if held.expires is not None and held.expires > now:
        mend = f"wait until it ends (a lease that is not renewed expires in {held.expires - now:.0f} s)"
    else:
        mend = "wait until that job has ended"
    return f"{store.root} is held by another launcher: {who}; {mend}, or give --take-over"
