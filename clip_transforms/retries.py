"""Repeats requests to a store that failed for a reason that may pass.

The clients repeat requests by themselves as well, so a store that is down for good is asked more often than
`ATTEMPTS`. What a server saw of one request that it never answered well (tests/test_store_faults.py counts):

| who asks                   | 503              | 429 | silence, closed connections | 403, 404 |
|----------------------------|------------------|-----|-----------------------------|----------|
"""

from __future__ import annotations

import logging
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


def retried(action: Callable[[], _T], *, what: str) -> _T:
    """What `action` returns, called up to ATTEMPTS times while its error may pass; raises its last error.

    what: the request in words, for the log.
    """
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=RETRY_WAIT,
        retry=retry_if_exception(is_transient),
        before_sleep=lambda state: _logger.info("%s again: %s", what, state.outcome),
        reraise=True,
    )
    return retrying(action)
