"""An aiohttp client that connects to public addresses only: the address is checked as it is connected to.

A check of the url before the request would not hold: the name may resolve to another address a moment later (DNS
rebinding), and redirects lead elsewhere. Here the connector itself drops what is not public from the resolved
addresses, for each connection, hence also for each hop of a redirect.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from clip_transforms import url_guard
from clip_transforms.elements import RequestError


class GuardedConnector(aiohttp.TCPConnector):  # type: ignore[misc]
    """Connects to public addresses; raises FetchProblem (blocked_address) for a host that has none.

    A proxy that the user has set may be anywhere. Names are resolved behind it, so that only addresses in the
    url itself are checked then: what the proxy may reach is for its owner to say.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._proxies: set[tuple[str | None, int | None]] = set()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        """A connection for one hop of a request."""
        if req.proxy is not None:
            _check_literal(req.url.raw_host or "")
            self._proxies.add((req.proxy.raw_host, req.proxy.port))
        return await super().connect(req, traces, timeout)

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[Any]:
        if (host, port) in self._proxies:
            return list(await super()._resolve_host(host, port, traces))
        _check_literal(host)
        found = await super()._resolve_host(host, port, traces)
        allowed = [each for each in found if url_guard.is_public(each["host"])]
        if found and not allowed:
            raise url_guard.blocked()
        return allowed


def _check_literal(host: str) -> None:
    """aiohttp hands addresses in a url to no resolver, and refuses odd spellings as bad urls."""
    address = url_guard.literal_address(host)
    if address is not None and not url_guard.is_public(address):
        raise url_guard.blocked()


async def guarded_session(**options: Any) -> aiohttp.ClientSession:
    """A session for fsspec's HTTP file system (its `get_client`), to be made on the loop that it runs on."""
    if "connector" in options:
        raise RequestError(
            "client_kwargs has a connector, which would get round the guard against private addresses; leave it "
            "out, or allow private urls"
        )
    return aiohttp.ClientSession(connector=GuardedConnector(), **options)
