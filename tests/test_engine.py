"""The engine end to end: one outcome for each item, whatever goes wrong, and nothing waits for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.elements import ImageError, ImageRef, Reason, RequestError, Stage
from clip_transforms.encoders import EncoderSpec, FakeEncoder, Float32, UInt8
from clip_transforms.encoders.fake import FakeOptions
from clip_transforms.engine import (
    EncodedBatch,
    EncoderBroken,
    Engine,
    EngineClosed,
    EngineOptions,
    Progress,
    engine_for,
    fetchers,
)
from clip_transforms.engine import stages as engine_stages
from clip_transforms.images import decode_to_pixels
from tests.engine_kit import (
    POISON,
    WAIT_S,
    PoisonedEncoder,
    RecordingSink,
    drained,
    expected_row,
    fake,
    good,
    mixed_items,
    options,
    plain,
    ref,
    run_all,
    run_one,
    run_script,
    stepped,
)
from tests.helpers import image_bytes, make_image


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Engines that a test made and that are closed after it."""
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 1, "fetch_threads": 1, "decode_threads": 1},
        {"batch_size": 64, "max_inflight_images": 3},
        {"max_inflight_bytes": 1},
        {"unit_window": 1},
    ],
    ids=str,
)
def test_every_item_has_exactly_one_outcome(
    changes: dict[str, object], tmp_path: Path, engines: list[Engine]
) -> None:
    encoder = fake()
    engine = Engine(encoder, options(**changes))
    engines.append(engine)
    units = [mixed_items(seed, tmp_path) for seed in range(8)]
    sinks = run_all(engine, [items for items, _ in units])
    for sink, (_, wanted) in zip(sinks, units, strict=True):
        assert sorted(sink.order) == sorted(wanted)
        assert sink.reasons() == {k: v for k, v in wanted.items() if isinstance(v, Reason)}
        for image_id, row in sink.rows.items():
            data = wanted[image_id]
            assert isinstance(data, bytes)
            assert (row == expected_row(data, encoder)).all()
            assert sink.infos[image_id].bytes == len(data)
        assert len(sink.threads) == 1  # its own
    assert drained(engine)


def test_batches_threads_and_order_change_nothing(engines: list[Engine]) -> None:
    items = good(40)
    results = []
    for size, threads, order in ((1, 1, 1), (3, 2, -1), (32, 4, 1), (64, 3, -1)):
        engine = Engine(fake(), options(batch_size=size, decode_threads=threads))
        engines.append(engine)
        results.append(run_one(engine, items[::order])[0].rows)
    for rows in results[1:]:
        assert rows.keys() == results[0].keys()
        assert all((rows[key] == results[0][key]).all() for key in rows)


def test_stats_and_progress(engines: list[Engine]) -> None:
    engine = Engine(fake(wait_image_ms=1.0), options())
    engines.append(engine)
    items = [*good(20), ref("bad", b"no image")]
    sizes = [len(item.payload or b"") for item in items[:20]]
    _, stats = run_one(engine, items)
    assert (stats.embedded, stats.failed) == (20, 1)
    assert (stats.bytes.count, stats.bytes.sum) == (20, sum(sizes))
    assert (stats.bytes.min, stats.bytes.max) == (min(sizes), max(sizes))
    assert stats.fetch_ms.count == 0  # they came with their bytes
    assert stats.decode_ms.count == stats.encode_ms.count == 20
    assert stats.encode_ms.min >= 1.0
    assert stats.wall_s * 1000 >= stats.encode_ms.sum
    assert engine.progress() == Progress(embedded=20, failed=1, bytes=sum(sizes))
    assert run_one(engine, [])[1].embedded == 0


def test_out_of_memory_halves_the_batch_for_good(
    engines: list[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = fake(max_batch=5)
    engine = Engine(encoder, options(batch_size=32))
    engines.append(engine)
    FakeEncoder.reset()
    with caplog.at_level(logging.WARNING):
        sink, _ = run_one(engine, good(70))
        assert len(sink.rows) == 70
        assert FakeEncoder.counters().out_of_memory == 3  # 32, 16, 8
        run_one(engine, good(70))
    assert FakeEncoder.counters().out_of_memory == 3
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cpu with a batch of 32 images; going on with 16"
    ]


def test_a_single_image_that_does_not_fit_fails(engines: list[Engine]) -> None:
    class NoRoom(FakeEncoder):
        def encode_images(self, pixels: UInt8) -> Float32:
            from clip_transforms.encoders import EncoderOutOfMemory

            raise EncoderOutOfMemory("none")

    engine = Engine(NoRoom(), options())
    engines.append(engine)
    sink, stats = run_one(engine, good(5))
    assert (stats.embedded, stats.failed) == (0, 5)
    assert {failure.message for failure in sink.failures.values()} == {"out of memory for a single image"}


@pytest.mark.parametrize("max_batch", [0, 3])
def test_a_bad_image_fails_without_its_batch_mates(max_batch: int, engines: list[Engine]) -> None:
    encoder = PoisonedEncoder(FakeOptions(max_batch=max_batch))
    engine = Engine(encoder, options(batch_size=16))
    engines.append(engine)
    bad = {5: POISON, 6: POISON, 20: POISON, 30: (0, 0, 0)}
    items = [ref(str(n), plain(bad[n])) if n in bad else item for n, item in enumerate(good(40))]
    sink, _ = run_one(engine, items)
    assert sink.reasons() == dict.fromkeys(map(str, bad), Reason.ENCODE_ERROR)
    assert {failure.stage for failure in sink.failures.values()} == {Stage.ENCODE}
    assert sink.failures["5"].message == "ValueError: cannot encode <Tensor at 0x…>"
    assert sink.failures["30"].message == "the embedding is not finite"
    assert len(sink.rows) == 36
    for item in items:
        if item.image_id in sink.rows:
            assert item.payload is not None
            assert (sink.rows[item.image_id] == expected_row(item.payload, encoder)).all()


def test_an_encoder_that_fails_on_everything_fails_the_unit(engines: list[Engine]) -> None:
    class Broken(FakeEncoder):
        def encode_images(self, pixels: UInt8) -> Float32:
            raise RuntimeError("device-side assert")

    engine = Engine(Broken(), options())
    engines.append(engine)
    with pytest.raises(
        EncoderBroken, match="fails on every image and on a blank one: RuntimeError: device-side assert"
    ):
        engine.submit(iter(good(20)), RecordingSink()).result(WAIT_S)


def test_a_batch_of_bad_images_only_is_not_the_encoders_fault(engines: list[Engine]) -> None:
    encoder = PoisonedEncoder()
    engine = Engine(encoder, options())
    engines.append(engine)
    sink, _ = run_one(engine, [ref(str(n), plain(POISON)) for n in range(8)])
    assert sink.reasons() == {str(n): Reason.ENCODE_ERROR for n in range(8)}


@pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), RecursionError("deep")], ids=repr)
def test_what_decoding_should_not_raise(
    error: BaseException, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: bytes, *rest: object) -> object:
        if data == b"strange":
            raise error
        return decode_to_pixels(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_stages, "decode_to_pixels", decode)
    engine = Engine(fake(), options())
    engines.append(engine)
    sink, _ = run_one(engine, [*good(5), ref("bad", b"strange"), *good(5, "more")])
    assert sink.reasons() == {"bad": Reason.DECODE_ERROR}
    assert sink.failures["bad"].message.startswith(type(error).__name__)
    assert len(sink.rows) == 10


def test_what_fetching_raises(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, _options: object) -> bytes:
        if url == "slow":
            raise ImageError(Stage.FETCH, Reason.TIMEOUT, "no answer in 60 s", attempts=4)
        raise OSError("https://user:secret@host/x")

    monkeypatch.setattr(fetchers, "fetch", fetch)
    engine = Engine(fake(), options())
    engines.append(engine)
    sink, _ = run_one(engine, [ref("slow", url="slow"), ref("odd", url="odd")])
    assert sink.failures["slow"].attempts == 4
    assert sink.reasons() == {"slow": Reason.TIMEOUT, "odd": Reason.HTTP_ERROR}
    assert sink.failures["odd"].message == "OSError"  # the text may hold credentials


def test_a_store_that_cannot_be_read_here_fails_the_unit(
    engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str, _options: object) -> None:
        raise RequestError("gcsfs is not installed")

    monkeypatch.setattr(fetchers, "connect", connect)
    monkeypatch.setattr(fetchers, "connected", lambda url, options: None)
    engine = Engine(fake(), options())
    engines.append(engine)
    with pytest.raises(RequestError, match="gcsfs"):
        engine.submit(iter([ref("a", url="gs://b/a")] * 9), RecordingSink()).result(WAIT_S)
    assert len(run_one(engine, good(9))[0].rows) == 9
    assert drained(engine)


def test_a_slow_sink_holds_back_its_own_source_only(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(unit_window=20, max_inflight_images=10))
    engines.append(engine)
    entered, leave = threading.Event(), threading.Event()
    taken: list[int] = []

    class Slow(RecordingSink):
        def embedded(self, batch: EncodedBatch) -> None:
            entered.set()
            assert leave.wait(WAIT_S)
            super().embedded(batch)

    def source() -> Iterator[ImageRef]:
        for number, item in enumerate(good(100)):
            taken.append(number)
            yield item

    slow = engine.submit(source(), Slow())
    assert entered.wait(WAIT_S)
    for _ in range(3):
        assert len(run_one(engine, good(50))[0].rows) == 50
    assert not slow.done()
    assert len(taken) <= 21  # the window, and the one that waits
    leave.set()
    assert slow.result(WAIT_S).embedded == 100


def test_a_source_that_raises_fails_its_unit_only(engines: list[Engine]) -> None:
    engine = Engine(fake(), options())
    engines.append(engine)
    closed = threading.Event()

    def source() -> Iterator[ImageRef]:
        try:
            yield from good(30)
            raise OSError("the shard went away")
        finally:
            closed.set()

    future = engine.submit(source(), RecordingSink())
    other = engine.submit(iter(good(60)), RecordingSink())
    with pytest.raises(OSError, match="the shard went away"):
        future.result(WAIT_S)
    assert closed.is_set()
    assert other.result(WAIT_S).embedded == 60
    assert drained(engine)


def test_a_sink_that_raises_fails_its_unit_and_is_not_called_again(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(max_inflight_images=9))
    engines.append(engine)
    calls: list[int] = []
    closed = threading.Event()

    class Broken(RecordingSink):
        def embedded(self, batch: EncodedBatch) -> None:
            calls.append(len(batch.refs))
            raise OSError("no space left")

    def source() -> Iterator[ImageRef]:
        try:
            for _ in range(1000):
                yield from good(10)
        finally:
            closed.set()

    future = engine.submit(source(), Broken())
    with pytest.raises(OSError, match="no space left"):
        future.result(WAIT_S)
    assert len(run_one(engine, good(50))[0].rows) == 50
    assert closed.wait(WAIT_S)  # it is not read to its end
    assert len(calls) == 1


def test_a_half_full_batch_goes_out_while_its_source_waits(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(batch_size=32))
    engines.append(engine)
    steps = threading.Semaphore(0)
    arrived = threading.Semaphore(0)

    class Telling(RecordingSink):
        def embedded(self, batch: EncodedBatch) -> None:
            super().embedded(batch)
            arrived.release(len(batch.refs))

    future = engine.submit(stepped(good(3), steps), Telling())
    for _ in range(3):
        steps.release()
        assert arrived.acquire(timeout=WAIT_S)  # before the source gives the next
    assert future.result(WAIT_S).embedded == 3


def test_cancelling_drops_the_unit(engines: list[Engine]) -> None:
    engine = Engine(fake(), options(max_inflight_images=4))
    engines.append(engine)
    steps = threading.Semaphore(2)
    sink = RecordingSink()
    future = engine.submit(stepped(good(10), steps), sink)
    assert future.cancel()
    steps.release(8)
    assert len(run_one(engine, good(20))[0].rows) == 20
    assert len(sink.order) < 10
    assert engine._units == {}


def test_close_fails_what_is_under_way(engines: list[Engine]) -> None:
    engine = Engine(fake(wait_ms=20), options(max_inflight_images=8))
    never = threading.Semaphore(0)
    waiting = engine.submit(stepped(good(3), never), RecordingSink())
    busy = engine.submit(iter(good(500)), RecordingSink())
    engine.close()
    for future in (waiting, busy):
        with pytest.raises(EngineClosed):
            future.result(WAIT_S)
    with pytest.raises(EngineClosed):
        engine.submit(iter([]), RecordingSink())
    assert not engine._encode_thread.is_alive()
    never.release(3)
    engine.close()


def test_memory_stays_within_the_budget(tmp_path: Path, engines: list[Engine]) -> None:
    budget = 300_000
    engine = Engine(fake(size=64), options(max_inflight_bytes=budget, batch_size=64, fetch_threads=16))
    engines.append(engine)
    path = tmp_path / "image.jpg"
    path.write_bytes(image_bytes(make_image(1, (300, 200))))
    size = path.stat().st_size
    items = [ref(str(number), url=str(path), size=size) for number in range(200)]
    run_all(engine, [items, items, items])
    assert budget / 2 < engine._budget.peak_bytes <= budget
    large = plain((9, 9, 9)) + bytes(400_000)  # Pillow ignores what follows the image
    sink, _ = run_one(engine, [*good(20), ref("large", large), *good(20, "more")])
    assert len(sink.rows) == 41
    assert engine._budget.peak_bytes == len(large) + 64 * 64 * 3  # alone
    assert drained(engine)


def test_texts_can_be_encoded_beside_the_images(engines: list[Engine]) -> None:
    class Exclusive(FakeEncoder):
        inside = threading.Lock()

        def encode_images(self, pixels: UInt8) -> Float32:
            assert self.inside.acquire(blocking=False)
            try:
                return super().encode_images(pixels)
            finally:
                self.inside.release()

        def encode_texts(self, texts: object) -> Float32:
            assert self.inside.acquire(blocking=False)
            try:
                return super().encode_texts(texts)  # type: ignore[arg-type]
            finally:
                self.inside.release()

    engine = Engine(Exclusive(FakeOptions(wait_ms=2)), options(batch_size=2))
    engines.append(engine)
    sink = RecordingSink()
    future = engine.submit(iter(good(60)), sink)
    texts = 0
    while not future.done():
        engine.encoder.encode_texts(["a cat"])
        texts += 1
    assert future.result(WAIT_S).embedded == 60
    assert texts >= 3


def test_one_engine_a_process_however_many_ask() -> None:
    FakeEncoder.reset()
    spec = EncoderSpec(name="fake?load_ms=50&dim=24", storage_options={"b": [1], "a": 2})
    same = EncoderSpec(name="fake?load_ms=50&dim=24", storage_options={"a": 2, "b": [1]})
    found: list[Engine] = []
    start = threading.Barrier(16)

    def ask(number: int) -> None:
        start.wait()
        found.append(engine_for(spec if number % 2 else same, options()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 16
    assert len({id(engine) for engine in found}) == 1
    assert FakeEncoder.counters().loads == 1
    other = engine_for(spec, options(batch_size=2))
    assert other is not found[0]
    found[0].close()
    other.close()
    again = engine_for(spec, options())
    assert again is not found[0]
    again.close()


def test_a_failed_load_is_tried_again() -> None:
    with pytest.raises(RequestError):
        engine_for(EncoderSpec(name="fake?nonsense=1"), options())
    with pytest.raises(RequestError):
        engine_for(EncoderSpec(name="fake?nonsense=1"), options())


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 0}, {"fetch_threads": 0}, {"fetch_processes": -1}, {"max_inflight_bytes": 0}],
    ids=str,
)
def test_impossible_options(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=rf"{next(iter(changes))} is {next(iter(changes.values()))}"):
        EngineOptions(**changes)  # type: ignore[arg-type]


def test_the_interpreter_ends_whatever_is_under_way() -> None:
    done = run_script(
        """
import threading
from tests.engine_kit import *
engine = Engine(fake(wait_ms=50), options())
engine.submit(iter(good(300)), RecordingSink())
engine.submit(stepped(good(3), threading.Semaphore(0)), RecordingSink())
raise KeyboardInterrupt
"""
    )
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_a_forked_process_makes_its_own_engine() -> None:
    done = run_script(
        """
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of forking beside threads, which is the point
from tests.engine_kit import *
from clip_transforms.encoders import EncoderSpec
from clip_transforms.engine import engine_for
engine = engine_for(EncoderSpec(name="fake"), options())
print(len(run_one(engine, good(10))[0].rows), flush=True)
if os.fork() == 0:
    own = engine_for(EncoderSpec(name="fake"), options())
    print(own is not engine, engine.closed, len(run_one(own, good(10))[0].rows), flush=True)
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), engine.closed)
"""
    )
    assert done.stdout.splitlines() == ["10", "True True 10", "0 False"]
