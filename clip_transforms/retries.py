"""Repeats requests to a store that failed for a reason that may pass.

The clients repeat requests by themselves too, so that a server which stays down is asked more often than ATTEMPTS:
gcsfs asks 6 times, s3fs 5 times and botocore under it 5 times. What a server sees of one request, and how long all
waits are together (measured; tests/test_store_faults.py counts):

| the server                   | gs://                        | s3://                                              |
|------------------------------|------------------------------|----------------------------------------------------|
| says 503                     | 30 requests, about 170 s     | 125, about 190 s; HEAD, which cannot say why: 25    |
| says 500, 429                | 30, about 170 s              | 25, about 40 s                                     |
| is silent                    | 30, 170 s and 60 s each      | 125, 190 s and 15 s each                           |
| closes the connection        | 60 (writes: 30), about 170 s | 250, about 190 s                                   |
| cuts an answer short         | 30, about 170 s              | 5, about 2 s                                       |
| says 403, 404, 412           | 1                            | 1                                                  |

Where a kept connection is closed, aiohttp asks once more by itself, but for gcsfs's writes. `fetch` has retries of
its own (clip_transforms.fetch_remote).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.wait import wait_base

from clip_transforms.storage_errors import is_transient

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
ATTEMPTS = 5
#: On top of the clients' own waits; random, so that workers that failed together do not come back together.
RETRY_WAIT: wait_base = wait_random_exponential(multiplier=0.2, max=20)


class Repeats:
    """How many requests this process made again, with `retried` and with `fetch`; for all threads.

    What the clients repeat inside is not in it (tests/retry_counts.py counts that too). A process that `fork`
    or `--fetch-processes` made has a count of its own.

    >>> repeats = Repeats(); repeats.note(); repeats.note()
    >>> repeats.total, repeats.take(), repeats.take()
    (2, 2, 0)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self.total = 0

    def note(self) -> None:
        """One more."""
        with self._lock:
            self.total += 1

    def take(self) -> int:
        """Those since the last call: what one of several threads that count into one sum may add."""
        with self._lock:
            new, self._taken = self.total - self._taken, self.total
            return new


REPEATS = Repeats()


def retried(action: Callable[[], _T], *, what: str, sleep: Callable[[float], None] = time.sleep) -> _T:
    """What `action` returns, called up to ATTEMPTS times while its error may pass; raises its last error.

    what: the request in words, for the log.

    >>> answers = iter([TimeoutError(), TimeoutError(), "data"])
    >>> def ask():
    ...     answer = next(answers)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> retried(ask, what="read", sleep=lambda seconds: None)
    'data'
    """
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=RETRY_WAIT,
        sleep=sleep,
        retry=retry_if_exception(is_transient),
        before_sleep=lambda state: _note(what, state),
        reraise=True,
    )
    return retrying(action)


def _note(what: str, state: RetryCallState) -> None:
    REPEATS.note()
    error = state.outcome.exception() if state.outcome else None
    _logger.info("%s again after %s", what, type(error).__name__)  # its text may hold what is secret
