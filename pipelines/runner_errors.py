"""What runners say of a job that failed, made one line; and what they say besides, kept quiet."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

_LONGEST = 500
_PIPELINE = re.compile(r"^Pipeline \S+ failed in state \w+: ")
_JAVA_CLASS = re.compile(r"(?:[a-z][\w$]*\.){2,}([A-Z][\w$]*(?:Exception|Error)): ")
_PYTHON_ERROR = re.compile(r"^([A-Za-z_][\w.]*): (\S.*)$", re.M)
_TRACEBACK = "Traceback (most recent call last):"
_CONNECTION = "the connection to the job server broke"
_hook_before: Any = threading.__excepthook__


def cause(error: Exception) -> str:
    """The line of an error's text that says why: of a Python traceback the last, of Java's the first.

    Portable runners hand on what a worker or a job server in Java said, with all its stack frames.

    >>> cause(RuntimeError("Pipeline a failed in state FAILED: org.apache.spark.SparkException: no\\n\\tat A(A.java)"))
    'SparkException: no'
    """
    details = getattr(error, "details", None)  # of gRPC
    if callable(details):
        return f"{_CONNECTION}: {details() or type(error).__name__}"
    text = _PIPELINE.sub("", str(error).strip())
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if _TRACEBACK in text:
        found = _PYTHON_ERROR.findall(text[text.rindex(_TRACEBACK) + len(_TRACEBACK) :])
        if found:
            return _short(": ".join(found[-1]))
    return _short(lines[0])


def quiet_runners() -> None:
    """Keep off stderr what the error that is raised says once more, and threads that end with their job server."""
    logging.getLogger().addFilter(_no_job_message)
    global _hook_before
    if threading.excepthook is not _thread_ended:
        _hook_before, threading.excepthook = threading.excepthook, _thread_ended


def _no_job_message(record: logging.LogRecord) -> bool:
    """Portable runners log each message of the job's runner, stack frames and all, to the root logger."""
    return record.module != "portable_runner"


def _thread_ended(raised: Any) -> None:
    """Beam's threads that read from a job server or a runner end with an error when that ends."""
    import grpc

    name = raised.thread.name if raised.thread is not None else ""
    if isinstance(raised.exc_value, grpc.RpcError):
        logging.getLogger(__name__).info("the thread %s ended with its connection", name)
        return
    _hook_before(raised)


def _short(line: str) -> str:
    line = _JAVA_CLASS.sub(r"\1: ", line.strip()).removesuffix(":")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
