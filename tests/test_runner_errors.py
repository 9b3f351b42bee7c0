"""What runners say of failed jobs, in one line; the texts are those that real runners gave."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import grpc
import pytest

from pipelines.launch import RunnerError, reraise
from pipelines.runner_errors import cause, quiet_runners
from tests.runs import beamclip

JAVA = """Pipeline App-1_2 failed in state FAILED: org.apache.spark.SparkException: Job aborted due to stage failure: \
Task 1 in stage 4.0 failed 4 times, most recent failure: Lost task 1.3 in stage 4.0 (TID 14) (127.0.0.1 executor 0): \
org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException: CANCELLED: call already cancelled.
\tat org.apache.beam.vendor.grpc.v1p60p1.io.grpc.Status.asRuntimeException(Status.java:529)
\tat org.apache.spark.executor.Executor$TaskRunner.run(Executor.scala:617)
\tat java.base/java.lang.Thread.run(Thread.java:840)
"""
PYTHON = """java.lang.RuntimeException: Error received from SDK harness for instruction 1: \
Traceback (most recent call last):
  File "x.py", line 1, in a
NotADirectoryError: [Errno 20] Not a directory: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "sdk_worker.py", line 310, in _execute
{}

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.handle(FnApiControlClient.java:94)
Caused by: java.lang.RuntimeException: Error received from SDK harness
"""


class _Lost(grpc.RpcError):
    def details(self) -> str:
        return "Socket closed"


def test_a_java_error_is_its_first_line_without_packages() -> None:
    assert cause(RuntimeError(JAVA)) == (
        "SparkException: Job aborted due to stage failure: Task 1 in stage 4.0 failed 4 times, most recent failure: "
        "Lost task 1.3 in stage 4.0 (TID 14) (127.0.0.1 executor 0): StatusRuntimeException: CANCELLED: call already "
        "cancelled."
    )


def test_a_workers_python_error_is_its_last_line() -> None:
    text = PYTHON.format("ValueError: no such thing: 7 [while running 'RunUnits/ReadUnits']")
    assert cause(RuntimeError(text)) == "ValueError: no such thing: 7 [while running 'RunUnits/ReadUnits']"


def test_an_error_of_ours_comes_through_as_it_is() -> None:
    text = PYTHON.format("clip_transforms.elements.StoreError: cannot create run/x: full [while running 'A']")
    with pytest.raises(Exception, match=r"^cannot create run/x: full$") as raised:
        reraise(RuntimeError(text))
    assert type(raised.value).__name__ == "StoreError"


def test_a_lost_job_server_is_said() -> None:
    with pytest.raises(RunnerError, match=r"the job server broke: Socket closed$"):
        reraise(_Lost())


def test_an_error_without_words_is_named() -> None:
    assert cause(RuntimeError("")) == "RuntimeError"


def test_only_threads_that_lose_their_connection_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    quiet_runners()
    quiet_runners()
    lost, wrong = _Lost(), ValueError("told")
    for error in (lost, wrong):
        threading.excepthook(threading.ExceptHookArgs((type(error), error, None, threading.current_thread())))
    assert [entry.exc_value for entry in told] == [wrong]


def test_messages_of_the_job_are_not_logged_beside_the_error(caplog: pytest.LogCaptureFixture) -> None:
    quiet_runners()
    record = logging.LogRecord(
        "root", logging.ERROR, "apache_beam/portable_runner.py", 1, "a\n\tat b", None, None
    )
    other = logging.LogRecord("root", logging.ERROR, "x.py", 1, "told", None, None)
    for found in (record, other):
        logging.getLogger().handle(found)
    assert [found.getMessage() for found in caplog.records] == ["told"]


def test_a_run_in_which_all_fails_does_not_meet_its_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    asked = ["label", "--input", tmp_path / "bad.jpg", "--prompts", "everyday", "--encoder", "fake"]
    assert beamclip(*asked, "--output", tmp_path / "run") == 1
    assert "beamclip: 1 of 1 inputs failed, 100.0%" in capsys.readouterr().err
