"""Repeats requests to a store that failed for a reason that may pass.

The clients repeat requests by themselves too, so that a server which is down for good is asked more often than
ATTEMPTS. What it sees of one request, and how long all waits are together (tests/test_store_faults.py counts):

| the server answers     | gs:// (gcsfs: 6 x)  | s3:// (s3fs: 5 x, each botocore: 5 x)                      |
|------------------------|---------------------|-------------------------------------------------------------|
| 503 SlowDown           | 30, about 170 s     | 125, about 190 s; a HEAD, which has no words for it: as 500 |
| 500, 429               | 30, about 170 s     | 25, about 40 s                                              |
| silence                | 30, and 60 s each   | 125, and 15 s each                                          |
| by closing             | 30; reads 60        | 250                                                         |
| 403, 404, 412          | 1                   | 1                                                           |

Of reads, aiohttp asks once more by itself where a connection that it kept was closed. `fetch` has retries of its
own (clip_transforms.fetch), without those of s3fs and botocore.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.wait import wait_base

from clip_transforms.storage_errors import is_transient

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
ATTEMPTS = 5
#: On top of the clients' own waits; random, so that workers that failed together do not come back together.
RETRY_WAIT: wait_base = wait_random_exponential(multiplier=0.2, max=20)


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
        before_sleep=lambda state: _logger.info("%s again: %s", what, state.outcome),
        reraise=True,
    )
    return retrying(action)
