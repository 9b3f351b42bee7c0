"""Turns at web servers: so many requests at a time to one host, and the pauses that a host has asked for."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from clip_transforms.fetch_errors import FetchProblem

_LONGEST_PAUSE_S = 30.0


class _Host:
    """One host, while somebody is there or it has asked for a pause."""

    __slots__ = ("free", "until", "users")

    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.users = 0
        self.until = 0.0  # of time.monotonic


_hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, int], _Host]] = (
    weakref.WeakKeyDictionary()
)


def host_of(url: str) -> str:
    """The host and port of an http(s) url, in lower case, as turns are told apart by.

    >>> host_of("https://me:pw@Example.org:8080/a.jpg"), host_of("http://[::1/")
    ('example.org:8080', '')
    """
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def has_turn(url: str, *, limit: int) -> bool:
    """Whether `turn` would let a first attempt pass at once, asked on the event loop."""
    host = _hosts.get(asyncio.get_running_loop(), {}).get((host_of(url), limit))
    return host is None or (host.users < limit and host.until <= time.monotonic())


def is_paused(host: str, *, limit: int) -> bool:
    """Whether a host (as `host_of` calls it) has asked for a pause that is not over; asked on the event loop."""
    known = _hosts.get(asyncio.get_running_loop(), {}).get((host, limit))
    return known is not None and known.until > time.monotonic()


@asynccontextmanager
async def turn(url: str, *, limit: int, first: bool) -> AsyncIterator[None]:
    """Wait until fewer than `limit` requests are at the url's host on this event loop.

    A FetchProblem with `retry_after` that leaves the block is a pause (30 s at most) for those who come next.
    first: whether this is the first attempt; later ones have kept to a pause of their own already.
    """
    hosts = _hosts.setdefault(asyncio.get_running_loop(), {})
    key = (host_of(url), limit)
    host = hosts.setdefault(key, _Host(limit))
    host.users += 1
    try:
        async with host.free:
            while first and (left := host.until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            yield
    except FetchProblem as problem:
        if problem.retry_after:
            host.until = max(host.until, time.monotonic() + min(problem.retry_after, _LONGEST_PAUSE_S))
        raise
    finally:
        host.users -= 1
        if not host.users and host.until <= time.monotonic():
            hosts.pop(key, None)  # a crawl meets millions of hosts
