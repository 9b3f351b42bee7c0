"""Progress: share, rate and time left from snapshots; lines, bar, silence; and an end that always comes."""

from __future__ import annotations

import io
import logging
import threading

import pytest

from pipelines.progress import Meter, Progress, Snapshot, Total


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_share_rate_and_time_left_by_images() -> None:
    meter = Meter(Total(images=1000, bytes=5))
    meter.read(Snapshot(done=0), now=0.0)
    state = meter.read(Snapshot(done=180, failed=20), now=10.0)
    assert (state.share, state.rate, state.left_s) == (0.2, 20.0, pytest.approx(40.0))
    assert state.line() == "200 of 1,000 images (20%), 20 failed, 20 images/s, about 40 s left"


def test_tars_go_by_bytes() -> None:
    meter = Meter(Total(bytes=4000))
    meter.read(Snapshot(done=0, bytes=0), now=0.0)
    state = meter.read(Snapshot(done=30, bytes=1000), now=20.0)
    assert (state.share, state.rate, state.left_s, state.total) == (0.25, 1.5, 60.0, None)
    assert state.line() == "30 images (25%), 1.5 images/s, about 60 s left"


def test_without_a_total_there_is_no_time_left() -> None:
    meter = Meter(Total())
    meter.read(Snapshot(done=0), now=0.0)
    state = meter.read(Snapshot(done=1234, bytes=1), now=1.0)
    assert state.share is None and state.left_s is None
    assert state.line() == "1,234 images, 1,234 images/s"


def test_the_rate_is_that_of_late_and_waits_are_no_error() -> None:
    meter = Meter(Total(images=10_000))
    for second in range(61):  # 10 a second, then 100
        done = 10 * second if second <= 30 else 300 + 100 * (second - 30)
        state = meter.read(Snapshot(done=done), now=float(second))
    assert state.rate == 100.0 and state.left_s == pytest.approx((10_000 - 3300) / 100)
    for second in range(61, 100):
        state = meter.read(Snapshot(done=3300), now=float(second))
    assert state.rate == 0.0 and state.left_s is None
    assert meter.read(Snapshot(done=20_000), now=100.0).share == 1.0  # more than was planned


def test_plain_lines_come_at_their_time_and_at_the_end() -> None:
    clock, stream, done = Clock(), io.StringIO(), [0]
    with Progress(
        lambda: Snapshot(done=done[0]), total=Total(images=100), stream=stream, clock=clock, line_s=15
    ) as progress:
        for second in range(1, 41):
            clock.now = 100.0 + second
            done[0] = 2 * second
            progress.tick()
    assert stream.getvalue() == (
        "30 of 100 images (30%), 2.0 images/s, about 35 s left\n"
        "60 of 100 images (60%), 2.0 images/s, about 20 s left\n"
        "80 of 100 images (80%), 2.0 images/s, about 10 s left\n"
    )


def test_a_terminal_has_a_bar_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    with Progress(lambda: Snapshot(done=50), total=Total(images=100), stream=stream, clock=clock) as progress:
        progress.tick()
    text = stream.getvalue()
    assert "\x1b[?25l" in text and text.count("\x1b[?25h") == 1  # the cursor is hidden and shown again
    assert "━" in text and text.rstrip("\n").endswith("50 of 100 images (50%), 0.0 images/s")


def test_an_interrupt_passes_through_and_the_last_line_is_written() -> None:
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        Progress(lambda: Snapshot(done=7), total=Total(images=10), stream=stream, clock=Clock()),
    ):
        raise KeyboardInterrupt
    assert stream.getvalue() == "7 of 10 images (70%), 0.0 images/s\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "beamclip-progress"]


def test_quiet_shows_nothing_and_asks_nothing() -> None:
    stream, asked = io.StringIO(), []
    with Progress(
        lambda: asked.append(1) or Snapshot(done=1), total=Total(), stream=stream, quiet=True
    ) as progress:
        progress.tick()
    assert stream.getvalue() == "" and asked == []


def test_what_goes_wrong_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Snapshot:
        raise ZeroDivisionError("no images yet")

    with caplog.at_level(logging.WARNING), Progress(broken, total=Total(), stream=io.StringIO()) as progress:
        progress.tick()
        progress.tick()
    assert [record.message for record in caplog.records] == ["the progress cannot be shown"]


def test_a_closed_stream_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.WARNING), Progress(lambda: Snapshot(done=1), total=Total(), stream=stream):
        stream.close()
    assert len(caplog.records) == 1


def test_an_answer_that_hangs_does_not_keep_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.progress._FLUSH_S", 0.05)
    monkeypatch.setattr("pipelines.progress._POLL_S", 0.01)
    hangs, release, calls = threading.Event(), threading.Event(), []

    def snapshot() -> Snapshot:
        calls.append(1)
        if len(calls) > 1:
            hangs.set()
            release.wait(10)
        return Snapshot(done=3)

    stream = io.StringIO()
    with Progress(snapshot, total=Total(images=3), stream=stream, clock=Clock()) as progress:
        assert hangs.wait(10)
    assert stream.getvalue() == "3 of 3 images (100%), 0.0 images/s\n"
    release.set()
    assert progress._thread is not None
    progress._thread.join(10)
    assert not progress._thread.is_alive()
