"""What the columns of a Parquet input are: image bytes, references, and types that can be carried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from clip_transforms.elements import RequestError
from clip_transforms.sources.columns import Columns, find_columns, find_uri, listed
from clip_transforms.sources.options import SourceOptions

#: Columns of bytes that are taken for images without being asked for, beside any struct of bytes and path.
IMAGE_COLUMNS = ("image", "img", "images", "image_bytes", "img_bytes", "jpg", "jpeg", "png", "webp", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a Parquet file is read."""

    image: str | None  # column of image bytes; None for a manifest
    columns: Columns
    project: tuple[str, ...]  # all columns that are read


def layout_of(schema: pa.Schema, options: SourceOptions, where: str) -> Layout:
    """What the columns are; raises RequestError, naming the file `where` and the columns to choose from."""
    names = list(schema.names)
    image = _image_column(schema, options, where)
    columns = find_columns(names, options, where, with_uri=image is None)
    if columns.uri is not None and not _is_string(schema.field(columns.uri).type):
        kind = schema.field(columns.uri).type
        raise RequestError(
            f"{where}: column {columns.uri!r} is {kind}; expected strings, bytes or {{bytes, path}}"
        )
    for name, kind in columns.carry:
        found = schema.field(name).type
        if not casts_safely(found, kind):
            raise RequestError(
                f"--carry {name}:{kind}: {where} has {found}, which may not fit; use {found} or string"
            )
    skipped = {name for name in names if name != image and _holds_bytes(schema.field(name).type)}
    return Layout(image=image, columns=columns, project=tuple(name for name in names if name not in skipped))


def _image_column(schema: pa.Schema, options: SourceOptions, where: str) -> str | None:
    """The column with image bytes; None for a manifest of references."""
    holders: list[str] = [name for name in schema.names if _holds_image(schema.field(name).type)]
    if options.image_column is not None and options.image_column in schema.names:
        return str(options.image_column) if options.image_column in holders else None
    if options.format == "manifest" or options.image_column is not None:
        return None
    likely: list[str] = [
        name
        for name in holders
        if name.lower() in IMAGE_COLUMNS or pa.types.is_struct(schema.field(name).type)
    ]
    choice = likely or holders
    wanted = options.format in ("parquet-images", "img2dataset")
    if len(choice) == 1 and (likely or wanted or not _has_uri(schema, options)):
        return choice[0]
    if len(choice) > 1:
        raise RequestError(
            f"{where} has several columns of bytes ({listed(choice)}); choose with --image-column"
        )
    if wanted:
        raise RequestError(f"{where} has no column of image bytes; found {listed(schema.names)}")
    return None


def _has_uri(schema: pa.Schema, options: SourceOptions) -> bool:
    try:
        find_uri(schema.names, options, "")
    except RequestError:
        return False
    return True


def _holds_image(kind: pa.DataType) -> bool:
    """Bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        names = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return "bytes" in names and _is_bytes(names["bytes"])
    return _is_bytes(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether values have bytes anywhere in them: such columns never go into `extra`."""
    if _is_bytes(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    return _is_one_of(kind, (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_one_of(kind: pa.DataType, tests: Iterable[Callable[[pa.DataType], bool]]) -> bool:
    return any(test(kind) for test in tests)


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return _is_one_of(kind, (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def casts_safely(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether every value of one Arrow type fits the other exactly; anything fits a string.

    >>> casts_safely(pa.int32(), pa.int64()), casts_safely(pa.int64(), pa.int32())
    (True, False)
    """
    if pa.types.is_dictionary(found):
        return casts_safely(found.value_type, wanted)
    if (
        found == wanted
        or pa.types.is_null(found)
        or pa.types.is_string(wanted)
        or pa.types.is_large_string(wanted)
    ):
        return True
    if pa.types.is_integer(found) and pa.types.is_integer(wanted):
        signed = pa.types.is_signed_integer(found), pa.types.is_signed_integer(wanted)
        extra_bit = 1 if signed == (False, True) else 0
        return signed != (True, False) and bool(wanted.bit_width >= found.bit_width + extra_bit)
    if pa.types.is_integer(found) and pa.types.is_floating(wanted):
        return bool(found.bit_width <= {32: 16, 64: 32}.get(wanted.bit_width, 0))
    floats = pa.types.is_floating(found) and pa.types.is_floating(wanted)
    return bool(floats and wanted.bit_width >= found.bit_width)
