"""The lease: who holds an output, when it is taken over, and how a paused launcher learns that it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from clip_transforms import lease as lease_module
from clip_transforms.elements import HeldError, StoreError
from clip_transforms.lease import LIFETIME, Lease, LeaseRecord, parse_record, read_lease
from clip_transforms.processes import start_of, this_process
from clip_transforms.storage import Store
from pipelines import running
from pipelines.runner_jobs import JobState
from tests import faulty_store


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["local", "faulty"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    prefix = "" if request.param == "local" else "faulty://"
    return Store(f"{prefix}{tmp_path}/run")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another living process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def hold(
    store: Store, clock: Clock, *, job: str | None = None, expires: bool = True, **process: object
) -> LeaseRecord:
    """A lease of a process described by its differences from this one."""
    record = LeaseRecord(
        token="other",
        holder=replace(this_process(), **process),  # type: ignore[arg-type]
        run_id="other-run",
        since=clock.now,
        expires=clock.now + LIFETIME if expires else None,
        runner_job=job,
    )
    assert store.create("lease/7.json", record.to_json())
    return record


def names(store: Store) -> list[str]:
    return sorted(entry.name for entry in store.list("lease"))


def test_it_is_taken_held_and_given_back(store: Store, clock: Clock) -> None:
    assert read_lease(store) is None
    lease = Lease.acquire(store, run_id="one", clock=clock)
    held = read_lease(store)
    assert held is not None
    assert (held.run_id, held.holder, held.since, held.expires) == (
        "one",
        this_process(),
        clock.now,
        clock.now + 120,
    )
    assert parse_record(held.to_json()) == held
    with pytest.raises(HeldError) as caught:
        Lease.acquire(store, run_id="two", clock=clock)
    message = str(caught.value)
    assert f"host {held.holder.host}, pid {os.getpid()}, run one, since 1970-01-12 13:46:40 UTC" in message
    assert "expires in 120 s" in message and "--take-over" in message
    lease.release()
    assert read_lease(store) is None
    Lease.acquire(store, run_id="two", clock=clock).release()
    assert names(store) == ["lease/3.json", "lease/4.json"]  # old ones are cleaned up, numbers only grow


def test_renewing_extends_it_and_cleans_up(store: Store, clock: Clock) -> None:
    lease = Lease.acquire(store, run_id="one", clock=clock)
    for _ in range(5):
        clock.now += 100
        lease.renew()
    held = read_lease(store)
    assert held is not None and held.expires == clock.now + 120 and held.since == 1_000_000.0
    assert names(store) == ["lease/5.json", "lease/6.json"]
    clock.now += 119
    with pytest.raises(HeldError):
        Lease.acquire(store, run_id="two", clock=clock)
    lease.release()


def test_another_hosts_lease_is_taken_over_after_expiry(store: Store, clock: Clock) -> None:
    hold(store, clock, host="elsewhere", pid=1)
    clock.now += 119
    with pytest.raises(HeldError, match="host elsewhere, pid 1, run other-run"):
        Lease.acquire(store, run_id="mine", clock=clock)
    clock.now += 1
    Lease.acquire(store, run_id="mine", clock=clock)
    assert names(store) == ["lease/7.json", "lease/8.json"]


@pytest.mark.parametrize("difference", ["host", "boot_id", "pid_namespace"])
def test_a_pid_means_nothing_on_another_machine(store: Store, clock: Clock, difference: str) -> None:
    hold(store, clock, pid=2**22 + 1, **{difference: "another"})
    with pytest.raises(HeldError):
        Lease.acquire(store, run_id="mine", clock=clock)


def test_a_dead_process_is_taken_over_at_once(
    store: Store, clock: Clock, sleeper: subprocess.Popen[bytes]
) -> None:
    hold(store, clock, pid=sleeper.pid, started=start_of(sleeper.pid))
    with pytest.raises(HeldError, match=f"pid {sleeper.pid}"):
        Lease.acquire(store, run_id="mine", clock=clock)
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has waited for it
    assert start_of(sleeper.pid) is None
    Lease.acquire(store, run_id="mine", clock=clock)


def test_a_pid_that_came_back_is_another_process(store: Store, clock: Clock) -> None:
    hold(store, clock, started="1")
    Lease.acquire(store, run_id="mine", clock=clock)


def test_taking_over_asks_nobody(store: Store, clock: Clock) -> None:
    first = Lease.acquire(store, run_id="one", clock=clock)
    second = Lease.acquire(store, run_id="two", take_over=True, clock=clock)
    with pytest.raises(HeldError, match="another launcher has taken over"):
        first.renew()
    assert first.lost.is_set()
    with pytest.raises(HeldError):
        first.check()
    first.release()  # is not ours to give back
    held = read_lease(store)
    assert held is not None and held.run_id == "two"
    second.check()


def test_an_unreadable_lease_is_an_error_or_taken_over(store: Store, clock: Clock) -> None:
    store.write("lease/3.json", b"{")
    with pytest.raises(StoreError, match="not a readable lease"):
        Lease.acquire(store, run_id="one", clock=clock)
    Lease.acquire(store, run_id="one", take_over=True, clock=clock)
    assert names(store)[-1] == "lease/4.json"


def test_a_submitted_job_holds_until_its_runner_says_it_ended(store: Store, clock: Clock) -> None:
    lease = Lease.acquire(store, run_id="one", clock=clock)
    lease.hand_over("job-1")
    lease.release()
    lease.renew()  # neither gives it back nor lets it expire
    clock.now += 1_000_000
    asked: list[str] = []
    for answer in (False, None):
        with pytest.raises(
            HeldError, match=r"job job-1 of its runner; wait until that job has ended, or give --take-over"
        ):
            Lease.acquire(
                store,
                run_id="two",
                clock=clock,
                job_ended=lambda job, answer=answer: asked.append(job) or answer,
            )
    with pytest.raises(HeldError):
        Lease.acquire(store, run_id="two", clock=clock)
    Lease.acquire(store, run_id="two", clock=clock, job_ended=lambda job: True)
    assert asked == ["job-1", "job-1"]


def broken_puts(patch: pytest.MonkeyPatch, times: int) -> None:
    """The next so many creations of objects fail."""
    left, create = iter(range(times)), Store.create

    def broken(self: Store, name: str, data: bytes) -> bool:
        if next(left, None) is not None:
            raise StoreError("the store is out of reach")
        return create(self, name, data)

    patch.setattr(Store, "create", broken)


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_that_could_not_be_noted_keeps_the_lease_while_it_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(running, "job_state", lambda job: JobState(name="any", ended=ended))
    with pytest.raises(StoreError, match="out of reach"), Lease.acquire(store, run_id="one") as lease:
        broken_puts(monkeypatch, 1)
        running._wait(None, "job-4", lease)
    held = read_lease(store)
    assert (held and (held.runner_job, held.expires)) == (None if ended else ("job-4", None))


def test_a_lease_that_cannot_be_handed_over_is_not_given_back(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease.acquire(store, run_id="one", clock=clock)
    broken_puts(monkeypatch, 1)
    with pytest.raises(StoreError, match="out of reach"):
        lease.hand_over("job-5")
    lease.release()
    held = read_lease(store)
    assert held is not None and held.expires == clock.now + LIFETIME


def test_a_waiting_launcher_that_died_leaves_its_job_running(store: Store, clock: Clock) -> None:
    hold(store, clock, job="job-2", started="1")
    with pytest.raises(HeldError, match="job job-2"):
        Lease.acquire(store, run_id="mine", clock=clock, job_ended=lambda job: False)
    Lease.acquire(store, run_id="mine", clock=clock, job_ended=lambda job: True)


def test_a_living_launcher_of_an_ended_job_still_holds(store: Store, clock: Clock) -> None:
    lease = Lease.acquire(store, run_id="one", clock=clock)
    lease.set_runner_job("job-3")
    with pytest.raises(HeldError, match="job job-3"):
        Lease.acquire(store, run_id="two", clock=clock, job_ended=lambda job: True)


def test_a_paused_launcher_learns_that_another_came_and_went(store: Store, clock: Clock) -> None:
    paused = Lease.acquire(store, run_id="one", clock=clock)
    clock.now += 200
    with pytest.MonkeyPatch.context() as patch:  # the other is on another host
        patch.setattr(lease_module, "this_process", lambda: replace(this_process(), host="elsewhere"))
        other = Lease.acquire(store, run_id="two", clock=clock)
        for _ in range(4):
            other.renew()
        other.release()
    assert read_lease(store) is None
    with pytest.raises(HeldError):
        paused.check()  # the own number 2 was free again: cleaned up by the other
    assert paused.lost.is_set() and read_lease(store) is None
    assert names(store) == ["lease/6.json", "lease/7.json"]


def test_a_paused_launcher_that_nobody_followed_goes_on(store: Store, clock: Clock) -> None:
    lease = Lease.acquire(store, run_id="one", clock=clock)
    clock.now += 10_000
    lease.check()
    held = read_lease(store)
    assert held is not None and held.expires == clock.now + 120


def test_of_racing_launchers_one_holds(store: Store, clock: Clock) -> None:
    def acquire(number: int) -> Lease | None:
        try:
            return Lease.acquire(store, run_id=str(number), clock=clock)
        except HeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            taken = [lease for lease in pool.map(acquire, range(8)) if lease]
            assert len(taken) == 1
            taken[0].release()


def test_a_lost_answer_is_no_lost_lease(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when the client repeats the put, nor when it raised although the object was made."""
    store = Store(f"faulty://{tmp_path}/run")
    for action in ("flaky", "raise"):
        monkeypatch.setenv("FAULTY_AT", "0")
        lease = Lease.acquire(store, run_id=action, clock=clock)
        monkeypatch.setattr(faulty_store, "_count", 0)
        for name, value in {"AT": "1", "WHEN": "after", "ACTION": action}.items():
            monkeypatch.setenv(f"FAULTY_{name}", value)
        clock.now += 20
        if action == "raise":
            with pytest.raises(StoreError):
                lease.renew()
            clock.now += 20
        lease.renew()
        held = read_lease(store)
        assert held is not None and held.expires == clock.now + 120 and held.run_id == action
        lease.release()


def test_it_is_renewed_in_the_background(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEWAL", 0.01)
    with Lease.acquire(store, run_id="one", clock=clock) as lease:
        clock.now += 60
        while (held := read_lease(store)) is None or held.expires != clock.now + 120:
            pass
        Lease.acquire(store, run_id="two", take_over=True, clock=clock)
        assert lease.lost.wait(10)
    held = read_lease(store)
    assert held is not None and held.run_id == "two"


def test_an_interrupted_launcher_gives_it_back(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), Lease.acquire(store, run_id="one"):
        raise KeyboardInterrupt
    assert read_lease(store) is None


def test_a_listing_that_shows_nothing_gives_no_second_lease(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Lease.acquire(store, run_id="one", clock=clock)
    for _ in range(3):
        first.renew()  # lease/1.json is free again
    listed = lease_module._numbers
    blind = iter([True, True])

    def numbers(where: Store) -> list[int]:
        return [] if next(blind, False) else listed(where)

    monkeypatch.setattr(lease_module, "_numbers", numbers)
    with pytest.raises(HeldError):
        Lease.acquire(store, run_id="two", clock=clock)
    assert not first.lost.is_set()
    first.check()
