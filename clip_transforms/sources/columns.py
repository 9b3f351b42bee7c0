"""Which columns of a table are what, and how a row's values become id, caption, extra and carried values."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from clip_transforms.elements import RequestError
from clip_transforms.sources.options import SourceOptions
from clip_transforms.sources.urls import scrub, shown

#: Names of the column that points at an image. The second line is asked only where the first has none.
URI_COLUMNS = (("uri", "url", "path", "image_path"), ("image_uri", "image_url", "file_name"))
#: The first of these that a table has gives image_id. `key` does not count: in many tables it repeats.
ID_COLUMNS = ("image_id", "uid", "id")
CAPTION_COLUMNS = ("caption", "text")

Carry = tuple[tuple[str, pa.DataType], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The roles that a table's columns have; all others go into `extra`."""

    uri: str | None  # None where the image's bytes are in the table
    image_id: str | None
    caption: str | None
    carry: Carry

    def extra_of(self, values: Mapping[str, object], *, uri: str | None = None) -> str | None:
        """The further columns of a row as a JSON object with sorted keys; None where there are none.

        Carried columns are in it too, for the plan; `take_carry` takes them out. uri is the canonical uri,
        which stands in for the reference if that column itself is carried.
        """
        carried = {name for name, _ in self.carry}
        roles = {self.uri, self.image_id, self.caption} - carried
        rest = {name: value for name, value in values.items() if name not in roles}
        if self.uri in rest:
            rest[self.uri] = uri
        return to_json(rest)

    def id_of(self, values: Mapping[str, object]) -> str | None:
        """The row's own id; None where the table or the row has none: the uri's hash takes its place."""
        return text_of(values.get(self.image_id)) if self.image_id else None

    def caption_of(self, values: Mapping[str, object]) -> str | None:
        """The row's caption, with undecodable bytes escaped and credentials taken out of urls."""
        return text_of(values.get(self.caption)) if self.caption else None


def find_columns(
    names: Sequence[str], options: SourceOptions, where: str, *, with_uri: bool = True
) -> Columns:
    """The roles of a table's columns, by the options or else by well-known names in any case of letters.

    with_uri: whether a column of references is needed. Raises RequestError, naming the table `where`.
    """
    for option, name in (("--id-column", options.id_column), ("--caption-column", options.caption_column)):
        if name is not None and name not in names:
            raise RequestError(f"{option} {name}: {where} has no such column; it has {listed(names)}")
    for name, _ in options.carry:
        if name not in names:
            raise RequestError(f"--carry {name}: {where} has no such column; it has {listed(names)}")
    return Columns(
        uri=find_uri(names, options, where) if with_uri else None,
        image_id=options.id_column or _first(names, ID_COLUMNS),
        caption=options.caption_column or _only(names, CAPTION_COLUMNS, "--caption-column", where),
        carry=options.carry_types(),
    )


def find_uri(names: Sequence[str], options: SourceOptions, where: str) -> str:
    """The column that points at images; raises RequestError where there is none, or more than one."""
    if options.image_column is not None:
        if options.image_column not in names:
            raise RequestError(
                f"--image-column {options.image_column}: {where} has no such column; it has {listed(names)}"
            )
        return options.image_column
    for known in URI_COLUMNS:
        name = _only(names, known, "--image-column", where)
        if name is not None:
            return name
    known_names = ", ".join(URI_COLUMNS[0] + URI_COLUMNS[1])
    raise RequestError(
        f"{where} has no column that points at images; looked for {known_names}, found {listed(names)}. "
        "Name it with --image-column"
    )


def take_carry(extra: str | None, carry: Carry) -> tuple[str | None, tuple[object, ...]]:
    """Split a row's `extra` into what stays and the carried values; raises ValueError for a bad value.

    >>> take_carry('{"a":"7","b":1}', (("a", pa.int64()),))
    ('{"b":1}', (7,))
    """
    if not carry:
        return extra, ()
    values = json.loads(extra) if extra else {}
    carried = tuple(convert(values.get(name), kind, name) for name, kind in carry)
    for name, _ in carry:
        values.pop(name, None)
    return to_json(values), carried


def convert(value: object, kind: pa.DataType, name: str) -> object:
    """A value as the Python value of an Arrow type; empty text is null, but for strings.

    Raises ValueError, with the column's name, for what the type cannot hold exactly.

    >>> convert("12", pa.int64(), "n"), convert("", pa.int64(), "n"), convert(3, pa.string(), "n")
    (12, None, '3')
    """
    if value is None:
        return None
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True)
        if isinstance(value, str):
            return pa.scalar(value.strip()).cast(kind).as_py() if value.strip() else None
        if isinstance(value, bool) != pa.types.is_boolean(kind):
            raise pa.ArrowInvalid("a truth value is no number")
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"column {name!r}: {shown(str(value))[:80]!r} is not {kind}") from error


def to_json(values: Mapping[str, object]) -> str | None:
    """A JSON object with sorted keys; NaN and infinities are null, bytes are left out.

    >>> to_json({"b": float("nan"), "a": [1, "x"], "c": b"no"})
    '{"a":[1,"x"],"b":null}'
    """
    kept = {shown(str(name)): plain(value) for name, value in values.items() if not isinstance(value, bytes)}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":")) if kept else None


def plain(value: object) -> object:
    """The value as JSON can hold it, with credentials taken out of urls."""
    if isinstance(value, str):
        return scrub(shown(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        items = value.items()
        return {shown(str(key)): plain(inner) for key, inner in items if not isinstance(inner, bytes)}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    return str(value) if isinstance(value, (decimal.Decimal, datetime.timedelta)) else shown(str(value))


def text_of(value: object) -> str | None:
    """An id or a caption as text; null and empty text are None.

    >>> text_of(17), text_of(""), text_of("a")
    ('17', None, 'a')
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return (
        str(plain(value))
        if isinstance(value, (str, int, float))
        else json.dumps(plain(value), sort_keys=True)
    )


def listed(names: Sequence[str]) -> str:
    """Column names for a message: at most twenty."""
    shown_names = ", ".join(scrub(shown(name))[:80] for name in names[:20]) or "none"
    return shown_names + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The column with the first of the known names."""
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in known if name in by_lower), None)


def _only(names: Sequence[str], known: Sequence[str], option: str, where: str) -> str | None:
    """The one column with a known name; more than one is an error: a wrong guess would go unseen."""
    found = [name for name in names if name.strip().lower() in known]
    if len(found) > 1:
        raise RequestError(
            f"{where} has several columns for the same thing ({listed(found)}); choose with {option}"
        )
    return found[0] if found else None
