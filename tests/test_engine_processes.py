"""Fetching and decoding in processes: the same results, and a process that dies takes no image with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.elements import ImageError, ImageRef, Reason, RequestError, Stage
from clip_transforms.engine import EncodedBatch, Engine, EngineClosed, TrialDecoder
from clip_transforms.engine.contained import ContainedStages
from clip_transforms.engine.process import DecodeProcessError
from clip_transforms.engine.processes import ProcessStages
from clip_transforms.fetch import FetchOptions
from tests.engine_kit import (
    WAIT_S,
    RecordingSink,
    drained,
    expected_row,
    fake,
    good,
    mixed_items,
    options,
    ref,
    run_all,
    run_one,
    run_script,
    stepped,
)
from tests.helpers import image_bytes, make_image

#: Runs in each decode process before anything else: stores whose reading ends or holds the process.
SITE = """
import os, signal, time
import fsspec
from fsspec.spec import AbstractFileSystem

class Crash(AbstractFileSystem):
    protocol = "crash"
    def cat_file(self, path, start=None, end=None, **_):
        os.kill(os.getpid(), signal.SIGKILL)

class Slow(AbstractFileSystem):
    protocol = "slow"
    def cat_file(self, path, start=None, end=None, **_):
        path = "/" + path.split("://")[-1].lstrip("/")
        open(path + ".begun", "w").close()
        while not os.path.exists(path):
            time.sleep(0.01)
        with open(path, "rb") as file:
            return file.read()

class Twice(AbstractFileSystem):
    protocol = "twice"
    def cat_file(self, path, start=None, end=None, **_):
        path = "/" + path.split("://")[-1].lstrip("/")
        for number in (1, 2):
            if not os.path.exists(path + f".{number}"):
                open(path + f".{number}", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        with open(path, "rb") as file:
            return file.read()

fsspec.register_implementation("crash", Crash)
fsspec.register_implementation("twice", Twice)
fsspec.register_implementation("slow", Slow)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode processes know `crash://` and `slow://`."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Engines that a test made; closed after it, and their processes must then be gone."""
    made: list[Engine] = []
    yield made
    for engine in made:
        stages = engine._stages
        assert isinstance(stages, ProcessStages)
        pids = stages.pids
        engine.close()
        assert stages.pids == []
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_the_same_as_in_threads(tmp_path: Path, engines: list[Engine]) -> None:
    encoder = fake()
    engine = Engine(encoder, options(fetch_processes=2))
    engines.append(engine)
    units = [mixed_items(seed, tmp_path) for seed in range(4)]
    sinks = run_all(engine, [items for items, _ in units])
    for sink, (_, wanted) in zip(sinks, units, strict=True):
        assert sorted(sink.order) == sorted(wanted)
        assert sink.reasons() == {k: v for k, v in wanted.items() if isinstance(v, Reason)}
        for image_id, row in sink.rows.items():
            data = wanted[image_id]
            assert isinstance(data, bytes)
            assert (row == expected_row(data, encoder)).all()
    assert drained(engine)


@pytest.mark.usefixtures("site")
def test_an_image_that_kills_its_process_fails_alone(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(fetch_processes=1, fetch_threads=2))
    engines.append(engine)
    items: list[ImageRef] = good(60)
    items[10] = ref("10", url="crash://first")
    items[40] = ref("40", url="crash://second")
    sink, stats = run_one(engine, items)
    assert sink.reasons() == {"10": Reason.CRASHED_WORKER, "40": Reason.CRASHED_WORKER}
    assert {failure.stage for failure in sink.failures.values()} == {Stage.DECODE}
    assert {failure.attempts for failure in sink.failures.values()} <= {3, 4}
    assert {failure.message for failure in sink.failures.values()} == {
        "the process that read it died, and so did two more that had only this image"
    }
    assert (stats.embedded, stats.failed) == (58, 2)
    assert sorted(sink.order) == sorted(item.image_id for item in items)


@pytest.mark.usefixtures("site")
def test_what_dies_alone_once_is_not_blamed_yet(tmp_path: Path, engines: list[Engine]) -> None:
    engine = Engine(fake(), options(fetch_processes=1))
    engines.append(engine)
    path = tmp_path / "innocent.jpg"
    path.write_bytes(image_bytes(make_image(3)))
    sink, stats = run_one(engine, [*good(10), ref("innocent", url=f"twice://{path}")])
    assert (stats.embedded, sink.failures) == (11, {})
    assert Path(f"{path}.2").exists()


@pytest.mark.usefixtures("site")
def test_contained_units_run_beside_others_with_the_same_rows(tmp_path: Path) -> None:
    encoder = fake()
    engine = Engine(encoder, options())
    units = [mixed_items(seed, tmp_path) for seed in range(4)]
    sinks = [RecordingSink() for _ in units]
    killers = [ref("first", url="crash://a"), ref("second", url="crash://b")]
    futures = [
        engine.submit(
            iter([killers[0], *items, killers[1]] if number % 2 else items), sink, contained=bool(number % 2)
        )
        for number, ((items, _), sink) in enumerate(zip(units, sinks, strict=True))
    ]
    for future in futures:
        future.result(WAIT_S)
    for number, (sink, (_, wanted)) in enumerate(zip(sinks, units, strict=True)):
        crashed = {"first": Reason.CRASHED_WORKER, "second": Reason.CRASHED_WORKER} if number % 2 else {}
        assert sink.reasons() == {k: v for k, v in wanted.items() if isinstance(v, Reason)} | crashed
        assert sorted(sink.order) == sorted([*wanted, *crashed])
        for image_id, row in sink.rows.items():
            data = wanted[image_id]
            assert isinstance(data, bytes)
            assert (row == expected_row(data, encoder)).all()
    assert drained(engine)
    engine.close()


def test_no_process_is_started_for_units_that_are_not_contained_and_one_for_all_that_are() -> None:
    engine = Engine(fake(), options())
    stages = engine._stages
    assert isinstance(stages, ContainedStages)
    run_one(engine, good(20))
    assert stages._process is None
    pids = set()
    for _ in range(2):
        assert engine.submit(iter(good(20)), RecordingSink(), contained=True).result(WAIT_S).embedded == 20
        assert isinstance(stages._process, ProcessStages)
        pids |= set(stages._process.pids)
    (pid,) = pids
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"  # memory that runs out ends it first
    assert Path("/proc/self/oom_score_adj").read_text() != "1000\n"
    engine.close()
    assert not _runs(pid)


def test_where_no_process_can_be_had_it_is_said_and_threads_do_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    engine = Engine(fake(), options())
    for _ in range(2):
        assert engine.submit(iter(good(20)), RecordingSink(), contained=True).result(WAIT_S).embedded == 20
    assert [record.message for record in caplog.records] == [
        "decode processes need a POSIX system and sys.executable: decoding in this one"
    ]
    engine.close()
    data = image_bytes(make_image(3))
    with TrialDecoder(options(), fake().preprocess) as decoder:
        here = decoder.decode(data)
    monkeypatch.undo()
    with TrialDecoder(options(), fake().preprocess) as decoder:
        assert (decoder.decode(data) == here).all()
        with pytest.raises(ImageError, match="looks like text"):
            decoder.decode(b"only text")
        assert (decoder.decode(data) == here).all()


def test_an_engine_that_closes_drops_what_is_contained() -> None:
    engine = Engine(fake(), options())
    steps = threading.Semaphore(5)
    future = engine.submit(stepped(good(20), steps), RecordingSink(), contained=True)
    wait = threading.Event()
    while engine.progress().embedded < 5:
        assert not wait.wait(0.01)
    engine.close()
    with pytest.raises(EngineClosed):
        future.result(WAIT_S)
    steps.release(15)
    assert drained(engine)


@pytest.mark.usefixtures("site")
def test_a_process_that_is_killed_loses_nothing(tmp_path: Path, engines: list[Engine]) -> None:
    engine = Engine(fake(), options(fetch_processes=2, fetch_threads=16))
    engines.append(engine)
    paths = [tmp_path / f"{number}.jpg" for number in range(6)]
    items = [*good(40), *(ref(f"slow{n}", url=f"slow://{path}") for n, path in enumerate(paths))]
    sink = RecordingSink()
    future = engine.submit(iter(items), sink)
    stages = engine._stages
    assert isinstance(stages, ProcessStages)
    wait = threading.Event()
    while not all(Path(f"{path}.begun").exists() for path in paths):
        assert not wait.wait(0.01)
    before = stages.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)  # all slow images are being fetched
    for number, path in enumerate(paths):
        path.write_bytes(image_bytes(make_image(number)))
    assert future.result(WAIT_S).embedded == 46
    assert sink.failures == {}
    assert not set(before) & set(stages.pids)


def test_a_store_that_cannot_be_read_there_fails_the_unit(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(fetch_processes=1, fetch=FetchOptions(storage_options={"nonsense": 1})))
    engines.append(engine)
    with pytest.raises(RequestError):
        engine.submit(iter([ref("a", url="s3://bucket/a")]), RecordingSink()).result(WAIT_S)


def test_processes_that_do_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "numpy.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    engine = Engine(fake(), options(fetch_processes=1))
    with pytest.raises(DecodeProcessError, match="ended with exit code"):
        engine.submit(iter(good(3)), RecordingSink()).result(WAIT_S)
    engine.close()


def test_it_works_where_main_cannot_be_imported() -> None:
    done = run_script(
        """
from tests.engine_kit import *
engine = Engine(fake(), options(fetch_processes=2))
sink, stats = run_one(engine, good(20))
print(stats.embedded, stats.failed)
"""
    )
    assert done.stdout == "20 0\n"
    assert done.stderr == ""


def test_processes_end_with_a_parent_that_is_killed() -> None:
    done = run_script(
        """
import os, signal
from tests.engine_kit import *
engine = Engine(fake(), options(fetch_processes=2))
run_one(engine, good(20))
print(*engine._stages.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    wait = threading.Event()
    for _ in range(500):
        if not any(_runs(pid) for pid in pids):
            return
        wait.wait(0.01)
    pytest.fail("decode processes outlive their parent")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


def test_a_slow_sink_does_not_stop_processes(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(fetch_processes=1, unit_window=10))
    engines.append(engine)
    entered, leave = threading.Event(), threading.Event()

    class Slow(RecordingSink):
        def embedded(self, batch: EncodedBatch) -> None:
            entered.set()
            assert leave.wait(WAIT_S)
            super().embedded(batch)

    slow = engine.submit(iter(good(50)), Slow())
    assert entered.wait(WAIT_S)
    assert len(run_one(engine, good(50))[0].rows) == 50
    leave.set()
    assert slow.result(WAIT_S).embedded == 50
