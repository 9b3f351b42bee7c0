"""What a store's client is told beyond the user's own storage options.

| scheme       | set where the storage options do not say otherwise                                              |
|--------------|-------------------------------------------------------------------------------------------------|
| gs, gcs      | a server that falls silent is given up (gcsfs by itself waits for ever)                           |
| s3, s3a      | 100 connections at once, as the other clients have (botocore: 10)                               |
| http, https  | a server that falls silent is given up; a long body is not (aiohttp ends it after 5 minutes)     |
| http, https  | the session is made by GET_CLIENT's value, where our own code hands one over (the guarded one)     |
| all          | no cache of listings                                                                            |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GCS = frozenset({"gs", "gcs"})
S3 = frozenset({"s3", "s3a"})
HTTP = frozenset({"http", "https"})
#: Options that mean something to HTTP; a run's other storage options are its object store's.
HTTP_OPTIONS = frozenset(
    {"auth", "client_kwargs", "cookies", "encoded", "headers", "max_redirects"}
    | {"proxy", "proxy_auth", "proxy_headers", "ssl"}
)
#: These keep no listings, and hand an option that they do not know to the connection, which refuses it.
_WITHOUT_LISTINGS = frozenset({"file", "sftp", "ssh"})
#: Which function makes the session; handed over by our own code only, as text cannot name one.
GET_CLIENT = "get_client"
_CONNECT_S = 30.0
_SILENCE_S = 60.0  # from the end of the request to the answer, and between two packets of it
_CONNECTIONS = 100


def client_options(
    protocol: str, storage_options: Mapping[str, object], *, hidden_retries: bool = True
) -> dict[str, Any]:
    """The options that a client is made with. hidden_retries: whether it may repeat failed requests itself.

    >>> client_options("memory", {"a": 1}), client_options("sftp", {"host": "h"})
    ({'a': 1, 'use_listings_cache': False}, {'host': 'h'})
    """
    options: dict[str, Any] = dict(storage_options)
    if protocol in HTTP:
        maker = {GET_CLIENT: options[GET_CLIENT]} if callable(options.get(GET_CLIENT)) else {}
        options = {name: value for name, value in options.items() if name in HTTP_OPTIONS} | maker
        options["client_kwargs"] = {"timeout": _patience(), **_mapping(options.get("client_kwargs"))}
    elif protocol in GCS:
        options.setdefault("requests_timeout", _patience())
    elif protocol in S3:
        config = {"max_pool_connections": _CONNECTIONS, **_mapping(options.get("config_kwargs"))}
        if not hidden_retries:
            config.setdefault("retries", {"mode": "standard", "total_max_attempts": 1})
        options["config_kwargs"] = config
    if protocol not in _WITHOUT_LISTINGS:
        options["use_listings_cache"] = False
    return options


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _patience() -> Any:
    """No limit on a request as a whole, since a part or a shard may take long, but one on silence."""
    import aiohttp  # gcsfs and fsspec's HTTP are made with it

    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
