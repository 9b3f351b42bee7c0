"""Attempts at units, recorded before their work starts: who dies at one leaves a trace that the next one finds."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator

from clip_transforms.storage import Store

ATTEMPTS = "attempts"
#: From this attempt on, a unit's images are fetched and decoded in a child process. Beam's distributed runners try a
#: bundle four times, so a unit whose image kills its process is computed before they give up.
CONTAINED_FROM = 3
_logger = logging.getLogger(__name__)


class Attempts:
    """One worker process's part in the record of a run's attempts. Safe for several threads.

    An attempt is one object, `attempts/<n>/<task>/<unit>.json`, created only if absent, with n from 1 to 3 (a
    later one leaves nothing): one put a unit where all goes well, and no listing. `sweep` deletes them all at
    the run's end.

    Every start counts, whatever ended it: the process that died with several units in flight (one of them to
    blame), a bundle that failed for another reason, a launcher that was killed and resumed. Counting one too
    many, as a put does whose answer was lost, costs nothing but that the unit runs in a child: its rows are
    the same.

    From the first such unit on, the process keeps all its units in the child, and so does every process that
    starts once one is recorded: a bundle with many killers would else spend two of its four tries on each.
    """

    def __init__(self, store: Store, *, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._lock = threading.Lock()
        self._contained: bool | None = None  # not looked yet

    def begin(self, task: str, unit: str) -> bool:
        """Record one more attempt at a task of a unit; whether its images belong in a child process.

        Raises StoreError where it cannot be recorded.
        """
        contained = self._look()
        body = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        }
        data = json.dumps(body, sort_keys=True).encode()
        for number in range(1, CONTAINED_FROM):
            if self._store.create(attempt_name(number, task, unit), data):
                return contained
        self._store.create(attempt_name(CONTAINED_FROM, task, unit), data)
        with self._lock:
            level = logging.INFO if self._contained else logging.WARNING  # once a process is enough
            self._contained = True
        _logger.log(
            level,
            "unit %s is begun for at least the third time: from now on, images are decoded in a child process; "
            "should this process die again, none of them kills it",
            unit,
        )
        return True

    def _look(self) -> bool:
        with self._lock:
            if self._contained is None:
                self._contained = any(True for _ in self._store.list(f"{ATTEMPTS}/{CONTAINED_FROM}"))
            return self._contained


def attempt_name(number: int, task: str, unit: str) -> str:
    """The name of an attempt's object.

    >>> attempt_name(1, "embed", "0123abcd-0000-000007")
    'attempts/1/embed/0123abcd-0000-000007.json'
    """
    return f"{ATTEMPTS}/{number}/{task}/{unit}.json"


def often_begun(store: Store) -> Iterator[tuple[str, str]]:
    """(task, unit) of those that were begun three times or more in this run; the sweep forgets them."""
    for entry in store.list(f"{ATTEMPTS}/{CONTAINED_FROM}"):
        pieces = entry.name.split("/")
        if len(pieces) == 4:
            yield pieces[2], pieces[3].removesuffix(".json")
