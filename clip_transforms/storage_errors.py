"""Tells apart the errors of object stores (exists, missing, transient) without importing any client."""

from __future__ import annotations

import asyncio
import errno

_TRANSIENT_STATUS = frozenset(
    {408, 409, 425, 429, 500, 502, 503, 504}
)  # 409: S3, two conditional puts at once
_TRANSIENT_ERRNO = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        getattr(errno, "EREMOTEIO", errno.EAGAIN),  # s3fs: 500
    }
)
#: Classes of aiohttp, requests, botocore, google.auth and gcsfs that mean "the answer did not arrive".
_TRANSIENT_CLASSES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ServerTimeoutError",
        "HTTPClientError",
        "IncompleteRead",
        "ResponseParserError",
        "ChunkedEncodingError",
        "ContentDecodingError",
        "ProxyError",
        "TransportError",
        "ChecksumError",
    }
)


#: Classes of botocore and google.auth that mean "there is nobody to ask as".
CREDENTIAL_CLASSES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
    | {"DefaultCredentialsError", "RefreshError", "ProfileNotFound"}
)


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of gcsfs, s3fs, adlfs or aiohttp, where there is one.

    >>> from types import SimpleNamespace
    >>> error = OSError(); error.__cause__ = Exception()
    >>> error.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": 412}}
    >>> http_status(error), http_status(OSError())
    (412, None)
    """
    for candidate in (error, error.__cause__):
        if candidate is None or (isinstance(candidate, OSError) and candidate is not error):
            continue
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
        for attribute in ("code", "status", "status_code"):
            value = getattr(candidate, attribute, None)
            if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
                return int(value)
    return None


def is_exists(error: BaseException) -> bool:
    """Whether a create-only put was answered "it exists already"."""
    return isinstance(error, FileExistsError) or http_status(error) == 412


def is_missing(error: BaseException) -> bool:
    """Whether the object, its folder or its bucket is not there."""
    return isinstance(error, (FileNotFoundError, NotADirectoryError)) or http_status(error) == 404


def is_forbidden(error: BaseException) -> bool:
    """Whether the store knows who asks, or does not, and says no; or there are no credentials to ask with.

    >>> [is_forbidden(error) for error in (PermissionError(13, "no"), OSError("Forbidden: https://..."), OSError())]
    [True, True, False]
    """
    if any(kind.__name__ in CREDENTIAL_CLASSES for kind in type(error).__mro__):
        return True
    if isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith("Forbidden")):
        return True  # gcsfs has no class for it
    return http_status(error) in (401, 403)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: throttling, server errors, timeouts, lost connections.

    >>> is_transient(TimeoutError()), is_transient(PermissionError(13, "no"))
    (True, False)
    """
    if any(kind.__name__ in _TRANSIENT_CLASSES for kind in type(error).__mro__):
        return True  # before the status: aiohttp says 400 of a body that was cut short
    status = http_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    if isinstance(error, (FileNotFoundError, FileExistsError, PermissionError)):
        return False
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO
