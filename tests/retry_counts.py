"""Counts the repeated requests of this process, layer by layer: ours, and those hidden in the stores' clients.

| layer    | what counts as one more                                                                    |
|----------|--------------------------------------------------------------------------------------------|
| ours     | `clip_transforms.retries.REPEATS`: `retried` and `fetch`                                    |
| gcsfs    | a further `ClientSession._request` within one `GCSFileSystem._request` (up to 5 an action)   |
| s3fs     | a further call within `_error_wrapper` (up to 4 an action)                                  |
| botocore | a further send within `AioEndpoint._send_request` (up to 4 a call; none below `fetch`)      |
| aiohttp  | a further `ClientRequest.send` within one `ClientSession._request` (a connection that died) |
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiobotocore.endpoint
import aiohttp
import gcsfs.core
import pytest
import s3fs.core

from clip_transforms.retries import REPEATS

LAYERS = ("ours", "gcsfs", "s3fs", "botocore", "aiohttp")


class Counts(Counter[str]):
    """Repeats by layer."""

    def inside(
        self, layer: str, patch: pytest.MonkeyPatch, outer: tuple[Any, str], inner: tuple[Any, str]
    ) -> None:
        """Count the calls of `inner` within one call of `outer`, but for the first."""
        calls: contextvars.ContextVar[list[int]] = contextvars.ContextVar(layer)
        call, part = getattr(*outer), getattr(*inner)

        async def outside(*args: Any, **kwargs: Any) -> Any:
            token = calls.set([0])
            try:
                return await call(*args, **kwargs)
            finally:
                calls.reset(token)

        async def within(*args: Any, **kwargs: Any) -> Any:
            seen = calls.get([0])
            seen[0] += 1
            if seen[0] > 1:
                self[layer] += 1
            return await part(*args, **kwargs)

        patch.setattr(*outer, outside)
        patch.setattr(*inner, within)

    def of_s3fs(self, patch: pytest.MonkeyPatch) -> None:
        """Its retries are a function that is handed the call."""
        wrapper = s3fs.core._error_wrapper

        async def wrapped(func: Callable[..., Awaitable[Any]], **how: Any) -> Any:
            calls = 0

            async def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > 1:
                    self["s3fs"] += 1
                return await func(*args, **kwargs)

            return await wrapper(counted, **how)

        patch.setattr(s3fs.core, "_error_wrapper", wrapped)


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Counts from now to the end of the block; in this process only."""
    counts, before = Counts(), REPEATS.total
    with pytest.MonkeyPatch.context() as patch:
        session, endpoint = aiohttp.ClientSession, aiobotocore.endpoint.AioEndpoint
        counts.inside("gcsfs", patch, (gcsfs.core.GCSFileSystem, "_request"), (session, "_request"))
        counts.inside("aiohttp", patch, (session, "_request"), (aiohttp.client.ClientRequest, "send"))
        counts.inside("botocore", patch, (endpoint, "_send_request"), (endpoint, "_get_response"))
        counts.of_s3fs(patch)
        try:
            yield counts
        finally:
            counts["ours"] = REPEATS.total - before
