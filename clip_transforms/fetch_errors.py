"""What went wrong while fetching: the exceptions of every store as one reason, one message, one 'try again?'.

The messages are our own: those of the clients hold addresses, request ids, and urls with credentials. Classes
of optional packages are told by their names, so that no store's package is imported for another's error.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
from collections.abc import Iterator

from clip_transforms.elements import Reason
from clip_transforms.storage_errors import CREDENTIAL_CLASSES

_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)
_TIMEOUT_NAMES = ("Timeout", "TimeoutError")
_CERTIFICATE_NAMES = frozenset({"ClientConnectorCertificateError", "SSLCertVerificationError"})
_BAD_URL_NAMES = frozenset({"InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError"})
_CONNECTION_NAMES = frozenset(
    {"ConnectionError", "ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteRead"}
    | {
        "ProtocolError",
        "ChunkedEncodingError",
        "SSLError",
        "ProxyError",
        "ChecksumError",
        "ResponseParserError",
    }
)
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_TRY_AGAIN_ERRNO = {
    errno.EIO,
    errno.EBUSY,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENOBUFS,
}
_TRY_AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


class FetchProblem(Exception):
    """One attempt that failed; `transient` says whether another may succeed."""

    def __init__(
        self, reason: Reason, message: str, *, transient: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.transient = transient
        self.retry_after = retry_after  # seconds, where the server asked for a pause


def status_problem(status: int, *, retry_after: float | None = None) -> FetchProblem:
    """The problem behind an HTTP status code.

    >>> status_problem(404).reason.value, status_problem(404).transient
    ('not_found', False)
    >>> status_problem(503).reason.value, status_problem(503).transient
    ('http_error', True)
    """
    reason = {
        401: Reason.FORBIDDEN,
        403: Reason.FORBIDDEN,
        407: Reason.FORBIDDEN,
        451: Reason.FORBIDDEN,
        404: Reason.NOT_FOUND,
        410: Reason.NOT_FOUND,
        408: Reason.TIMEOUT,
        416: Reason.EMPTY,  # asked for the bytes from the first on, and there is no first
    }.get(status, Reason.HTTP_ERROR)
    if reason is Reason.EMPTY:
        return FetchProblem(reason, "no bytes")
    return FetchProblem(
        reason, f"HTTP {status}", transient=status in _TRY_AGAIN_STATUS, retry_after=retry_after
    )


def classify(error: BaseException, *, timeout_s: float) -> FetchProblem:
    """The problem behind an exception of a store's client, of the network or of the operating system."""
    chain = list(_chain(error))
    names = {base.__name__ for each in chain for base in type(each).__mro__}
    if any(isinstance(each, _TIMEOUTS) for each in chain) or any(n.endswith(_TIMEOUT_NAMES) for n in names):
        return FetchProblem(Reason.TIMEOUT, f"no answer within {timeout_s:g} s", transient=True)
    for each in chain:
        problem = _from_filesystem(each) or _from_status(each)
        if problem:
            return problem
    return _from_names(chain, names)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: s3fs and aiohttp keep the telling one beneath."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _from_filesystem(error: BaseException) -> FetchProblem | None:
    if isinstance(error, FileNotFoundError):
        return FetchProblem(Reason.NOT_FOUND, "not found")
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return FetchProblem(Reason.NOT_FOUND, "not a file")
    if isinstance(error, PermissionError):
        return FetchProblem(Reason.FORBIDDEN, "permission denied")
    if type(error) is OSError and str(error).startswith("Forbidden"):  # gcsfs has no class for 403
        return FetchProblem(Reason.FORBIDDEN, "HTTP 403")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return FetchProblem(Reason.NOT_FOUND, "a link that leads to itself")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return FetchProblem(Reason.BAD_NAME, "the name is too long")
    return None


def _from_status(error: BaseException) -> FetchProblem | None:
    """aiohttp `.status`, azure `.status_code`, gcsfs `.code`, botocore and requests under `.response`."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        if response.get("Error", {}).get("Code") == "RequestTimeout":  # S3 says it with status 400
            return status_problem(408)
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        found = [
            getattr(each, name, None) for each in (error, response) for name in ("status", "status_code")
        ]
        if type(error).__module__.startswith(("gcsfs", "google")):  # elsewhere `code` has other meanings
            found.append(getattr(error, "code", None))
    for value in found:
        code = int(value) if isinstance(value, int) or str(value).isdigit() else 0
        if 300 <= code <= 599:
            return status_problem(code)
    return None


def _from_names(chain: list[BaseException], names: set[str]) -> FetchProblem:
    if any(isinstance(each, socket.gaierror) and each.errno in _NO_SUCH_HOST for each in chain):
        return FetchProblem(Reason.HTTP_ERROR, "no such host")
    for known, reason, message, transient in (
        (CREDENTIAL_CLASSES, Reason.FORBIDDEN, "no usable credentials", False),
        (_CERTIFICATE_NAMES, Reason.HTTP_ERROR, "the server's certificate is not trusted", False),
        (_BAD_URL_NAMES, Reason.BAD_NAME, "not a valid url", False),
        ({"TooManyRedirects"}, Reason.HTTP_ERROR, "too many redirects", False),
        (_CONNECTION_NAMES, Reason.HTTP_ERROR, "the connection failed", True),
    ):
        if names & known:
            return FetchProblem(reason, message, transient=transient)
    for each in chain:
        if isinstance(each, OSError) and each.errno is not None:
            code = errno.errorcode.get(each.errno, str(each.errno))
            return FetchProblem(
                Reason.HTTP_ERROR, f"reading failed ({code})", transient=each.errno in _TRY_AGAIN_ERRNO
            )
    return FetchProblem(Reason.HTTP_ERROR, f"reading failed ({type(chain[0]).__name__})")
