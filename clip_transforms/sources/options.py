"""What is asked of the sources, and what they answer: `SourceOptions`, `PlanItem`, the sampling rule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from clip_transforms.elements import Reason, RequestError, UnitKind
from clip_transforms.sources.braces import expand_inputs
from clip_transforms.sources.urls import canonical_uri, has_credentials, is_http, scheme_of

FORMATS = ("auto", "images", "manifest", "parquet-images", "webdataset", "img2dataset", "urls")
#: What a folder is searched for, in any case of letters.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
TAR_SUFFIXES = (".tar",)
DEFAULT_MAX_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How inputs are read; picklable, and JSON without storage_options and private_urls (both may be secret).

    Raises RequestError for an unknown format, an impossible sample, or an unknown carry type.
    """

    format: str = "auto"  # one of FORMATS
    id_column: str | None = None  # default: image_id, uid or id, the first that a table has
    caption_column: str | None = None
    image_column: str | None = None  # of urls, paths or image bytes
    carry: tuple[tuple[str, str], ...] = ()  # (input column, Arrow type name)
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    unit_rows: int = 1024  # Parquet row groups are gathered into units of about so many rows
    sample: float | None = None  # keep a row with this probability, the same rows every time
    seed: int = 0
    max_bytes: int = DEFAULT_MAX_BYTES  # of one member of a tar, or one Parquet cell
    private_urls: Mapping[str, str] = field(default_factory=dict, repr=False)  # uri -> url with credentials

    def __post_init__(self) -> None:
        """Check the values, and make carry a tuple of tuples again after JSON."""
        if self.format not in FORMATS:
            raise RequestError(f"--format {self.format}: expected one of {', '.join(FORMATS)}")
        if self.sample is not None and not 0 < self.sample <= 1:
            raise RequestError(f"--sample {self.sample}: expected a number above 0 and up to 1")
        if self.unit_rows < 1:
            raise RequestError(f"--unit-size {self.unit_rows}: expected 1 or more")
        object.__setattr__(self, "carry", tuple((name, kind) for name, kind in self.carry))
        for name, kind in self.carry:
            arrow_type(kind, f"{name}:{kind}")

    def carry_types(self) -> tuple[tuple[str, pa.DataType], ...]:
        """The carry columns with their Arrow types."""
        return tuple((name, arrow_type(kind, f"{name}:{kind}")) for name, kind in self.carry)

    def open_url(self, uri: str) -> str:
        """The url behind a canonical uri: the same, but for inputs that were given with credentials."""
        return self.private_urls.get(uri, uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """One row of `schemas.plan.PLAN` without its unit: an image, a tar shard, or a slice of a Parquet."""

    kind: UnitKind
    uri: str  # canonical
    image_id: str | None = None  # the input's own id; None: the hash of uri
    size: int | None = None  # bytes
    version: str | None = None  # generation, etag, or "<mtime in ns>:<size>"
    rows: int | None = 1  # before --sample; None for a tar
    row_groups: tuple[int, ...] | None = None
    max_rows: int | None = None
    caption: str | None = None
    extra: str | None = None  # JSON object, sorted keys
    pointer_file: str | None = None
    pointer_offset: int | None = None  # byte of the row in pointer_file; of Parquet: the slice's first row
    problem_reason: str | None = None
    problem_message: str | None = None


def problem(uri: str, reason: Reason, message: str, *, image_id: str | None = None) -> PlanItem:
    """An input that is known to be unusable while listing; it becomes one failure row."""
    return PlanItem(
        kind=UnitKind.REFS, uri=uri, image_id=image_id, problem_reason=reason.value, problem_message=message
    )


def arrow_type(name: str, shown: str) -> pa.DataType:
    """The Arrow type of a `--carry` option; raises RequestError."""
    try:
        kind = pa.type_for_alias(name)
    except ValueError as error:
        known = "int64, float32, float64, string, bool, date32, timestamp[us]"
        raise RequestError(f"--carry {shown}: {name!r} is no Arrow type; known are {known}") from error
    if pa.types.is_float16(kind):
        raise RequestError(f"--carry {shown}: Spark cannot read Parquet's float16; use float32")
    return kind


def parse_carry(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`--carry COL:TYPE` options as (column, Arrow type name) pairs; raises RequestError.

    >>> parse_carry(["stars:int64", "a:b:string"])
    (('stars', 'int64'), ('a:b', 'string'))
    """
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, colon, kind = text.rpartition(":")
        if not (name and colon and kind):
            raise RequestError(f"--carry {text}: expected COLUMN:TYPE, for example stars:int64")
        arrow_type(kind, text)
        if name in dict(pairs):
            raise RequestError(f"--carry {text}: the column {name!r} is given twice")
        pairs.append((name, kind))
    return tuple(pairs)


def with_private_inputs(inputs: Sequence[str], options: SourceOptions) -> SourceOptions:
    """The options with the urls of those inputs that have credentials: these travel with the job only.

    Raises RequestError for credentials in the url of an object store, which takes them as options.
    """
    private: dict[str, str] = {}
    for url in expand_inputs(inputs):
        if not has_credentials(url):
            continue
        uri = canonical_uri(url)
        if not is_http(url):
            raise RequestError(
                f"--input {uri} was given with a user or password; {scheme_of(url)} takes credentials "
                "from the environment or by --storage-option"
            )
        private[uri] = url
    return replace(options, private_urls=private) if private else options


def is_kept(options: SourceOptions, key: str) -> bool:
    """Whether `--sample` keeps the row with this image id (or uri, where it has no id of its own).

    >>> sum(is_kept(SourceOptions(sample=0.25, seed=1), str(row)) for row in range(1000))
    257
    """
    if options.sample is None:
        return True
    text = f"{options.seed}\0{key}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") < options.sample * 2**64
