"""The small values that travel through a run: references, units, failures, and the exceptions.

The exception tree::

    BeamclipError
    ├── RequestError          the user's mistake: exit code 2, nothing written
    │   └── HeldError         another launcher holds the output's lease
    ├── ContractError         the job ran and did not meet its contract: exit code 1
    ├── StoreError            the object store refused or failed, after retries
    │   └── ForbiddenError    it refused: no permission
    └── ImageError            one image cannot be used; becomes a Failure, never leaves the engine
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Stage(str, Enum):
    """Where an input failed."""

    LIST = "list"
    FETCH = "fetch"
    DECODE = "decode"
    ENCODE = "encode"


class Reason(str, Enum):
    """Why an input failed; the closed list of `failures.reason`."""

    BAD_NAME = "bad_name"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"
    BLOCKED_ADDRESS = "blocked_address"
    TOO_MANY_BYTES = "too_many_bytes"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    DECODE_ERROR = "decode_error"
    TRUNCATED_SHARD = "truncated_shard"
    CRASHED_WORKER = "crashed_worker"
    ENCODE_ERROR = "encode_error"


class UnitKind(str, Enum):
    """What the rows of a unit point at."""

    REFS = "refs"  # each row is one image
    TAR = "tar"  # the row is one webdataset shard
    PARQUET = "parquet"  # the row is some row groups of one Parquet file, with image bytes or references


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image to embed.

    uri is canonical and safe to write anywhere; url is what is opened and may hold credentials (it never
    reaches an output, a log or an error). payload holds the encoded bytes where the source had them at
    hand (tar member, Parquet cell), else they are fetched from url.
    """

    image_id: str
    uri: str
    url: str
    size: int | None = None  # bytes, where the listing told
    caption: str | None = None
    extra: str | None = None  # JSON object
    carry: tuple[object, ...] = ()  # values of the `--carry` columns, in their order
    payload: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One input that could not be embedded: exactly one row of `failures/`."""

    image_id: str
    uri: str
    stage: Stage
    reason: Reason
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """A descriptor small enough for a shuffle: it names rows of a plan file, it does not hold them.

    name is `<plan id, 8 hex digits>-<extension>-<number>`; the unit's rows are rows
    [offset, offset + length) of row group `row_group` of `plan/<extension>/<plan_file>`.
    """

    name: str
    kind: UnitKind
    extension: str
    plan_file: str
    row_group: int
    offset: int
    length: int
    rows: int | None  # images, where known before reading
    bytes: int | None  # of the images or the shard, where the listing told
    redo: int = 0  # how often the unit must have been redone as a whole, because its input changed


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What is known of an image once it is decoded."""

    width: int  # pixels, after EXIF orientation
    height: int
    format: str  # Pillow's name, e.g. "JPEG"
    bytes: int  # of the encoded image
    sha256: str  # hex, of the encoded bytes
    phash: str  # 16 hex digits


class BeamclipError(Exception):
    """Everything beamclip raises on purpose."""


class RequestError(BeamclipError):
    """The request was wrong; says what was given, what was expected and how to mend it."""


class HeldError(RequestError):
    """Another launcher works on this output."""


class ContractError(BeamclipError):
    """The job ran, and its rows do not reconcile or too many failed."""


class StoreError(BeamclipError):
    """An object store refused or failed a request, after retries."""


class ForbiddenError(StoreError):
    """An object store refused a request for want of permission; it was asked once."""


class ImageError(BeamclipError):
    """One image cannot be used."""

    def __init__(self, stage: Stage, reason: Reason, message: str, *, attempts: int = 1) -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.message = message
        self.attempts = attempts
