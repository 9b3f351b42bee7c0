"""Encoded bytes to a loaded Pillow image, without Pillow's process-wide switches.

`Image.open` checks pixels against the global `MAX_IMAGE_PIXELS` and warns; `load` asks the global
`LOAD_TRUNCATED_IMAGES`. Both are one value for all threads, so neither is used: the formats' own openers are
called from Pillow's registry, the size is checked here, and a cut file is mended or its decoded part kept.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile

from clip_transforms.cut_files import END_OF_JPEG, is_cut
from clip_transforms.elements import ImageError, Reason, Stage

#: What Pillow only recognises, or draws with other programs (EPS runs Ghostscript), or is no picture.
REFUSED = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "PDF"})
_ALL_OR_NOTHING = frozenset({"WEBP", "AVIF", "JPEG2000"})  # of a cut file these decoders give nothing
_LOOKS_LIKE = (
    (re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.I), "an HTML page"),
    (re.compile(rb"\s*(<\?xml|<svg)", re.I), "XML or SVG"),
    (re.compile(rb"\s*[{\[]\s*[\"{\[\]}]"), "JSON"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|hevm|hevs)", re.S), "HEIC, which Pillow does not read"),
    (re.compile(rb"[\t\n\r\x20-\x7e]+\Z"), "text"),
)
_ADDRESS = re.compile(r"<[^<>]*\bat 0x[0-9a-fA-F]+>|\b0x[0-9a-fA-F]{6,}\b")

Opener = tuple[str, Callable[..., Any], Callable[[bytes], Any] | None]


def open_image(data: bytes, *, max_pixels: int) -> tuple[ImageFile.ImageFile, str]:
    """The image, its header read and its pixels not, and the name of the format that opened it.

    Raises ImageError: empty, not_an_image (no format's signature), truncated, too_many_pixels, decode_error.
    """
    if not data:
        raise _error(Reason.EMPTY, "no bytes")
    failure: ImageError | None = None
    for name, factory, accept in _openers():
        claimed = _claims(accept, data[:16])
        if not claimed:
            continue
        if name in REFUSED:
            failure = failure or _error(Reason.NOT_AN_IMAGE, f"{name} files are not decoded")
        elif isinstance(claimed, str):
            failure = failure or _error(Reason.DECODE_ERROR, f"this Pillow was built without {name}")
        else:
            try:
                image: ImageFile.ImageFile = factory(io.BytesIO(data), "")
            except Exception as error:  # noqa: BLE001  as many kinds as formats
                if accept is not None or isinstance(error, MemoryError):
                    failure = failure or problem_of(error, data, name)
                continue
            check_pixels(image.size, max_pixels)
            return image, name
    if failure is None:
        known = next((what for pattern, what in _LOOKS_LIKE if pattern.match(data[:256])), "unknown bytes")
        failure = _error(Reason.NOT_AN_IMAGE, f"not an image; it looks like {known}")
    raise failure


def _claims(accept: Callable[[bytes], Any] | None, prefix: bytes) -> Any:
    """Whether a format wants a file that begins so; a text where it would, had Pillow been built for it."""
    if accept is None:
        return True
    try:
        return accept(prefix)
    except (IndexError, TypeError, struct.error):  # shorter than its signature
        return False


def load(
    image: ImageFile.ImageFile,
    data: bytes,
    name: str,
    *,
    reopen: Callable[[bytes], ImageFile.ImageFile] | None,
) -> ImageFile.ImageFile:
    """The image with its pixels decoded.

    reopen: opens other bytes in the same way; given where a truncated file shall yield what is there (rows
    that are missing are black, or grey in a JPEG). WebP, AVIF and JPEG 2000 decoders give nothing of a cut
    file: it stays a failure. Raises ImageError: truncated, decode_error, too_many_pixels.
    """
    try:
        image.load()
        return image
    except Exception as error:  # noqa: BLE001
        problem = problem_of(error, data, name)
    if reopen is None or problem.reason is not Reason.TRUNCATED or name in _ALL_OR_NOTHING:
        raise problem
    try:
        return _salvaged(image, data, name, reopen)
    except Exception:  # noqa: BLE001  the first problem says more
        pass
    raise problem


def _salvaged(
    image: ImageFile.ImageFile, data: bytes, name: str, reopen: Callable[[bytes], ImageFile.ImageFile]
) -> ImageFile.ImageFile:
    if name == "JPEG":
        # libjpeg fills the rest once it sees an end; a progressive file has no pixels before that.
        image = reopen(data + END_OF_JPEG)
        image.load()
        return image
    image.tile = []  # what was decoded stays in the image
    if name == "TIFF":
        image.load_end()  # turns it upright, as it would have been
    image.load()
    image.getpixel((0, 0))  # fails where no decoder came to make pixels
    return image


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raises ImageError where width x height is above the limit."""
    if size[0] * size[1] > max_pixels:
        raise _error(Reason.TOO_MANY_PIXELS, f"{size[0]} x {size[1]} is more than {max_pixels} pixels")


def problem_of(error: Exception, data: bytes, name: str) -> ImageError:
    """The ImageError behind an exception of Pillow's, for a file that `name` claims."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, MemoryError):
        return _error(Reason.DECODE_ERROR, "out of memory")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _error(Reason.TOO_MANY_PIXELS, "a part of it has more pixels than Pillow allows")
    if "truncated" in str(error).lower() or is_cut(name, data):
        return _error(Reason.TRUNCATED, f"the {name} file ends too early")
    return _error(Reason.DECODE_ERROR, f"{name}: {clean(str(error)) or type(error).__name__}")


def clean(text: str) -> str:
    """An exception's text, the same from run to run: no addresses, one line, at most 200 characters.

    >>> clean("cannot read <_io.BytesIO object at 0x7fc2859c7ec0>\\n")
    'cannot read an object'
    """
    text = " ".join(_ADDRESS.sub("an object", text).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warnings ignored while any thread decodes: what a file deserves is its row or its failure.

    `warnings.catch_warnings` is not for threads (it puts back a list that others have changed); here one
    filter, for modules of Pillow alone, goes in with the first thread and out with the last.
    """
    global _decoding
    with _quiet_lock:
        _decoding += 1
        if _FILTER not in warnings.filters:
            warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with _quiet_lock:
            _decoding -= 1
            if not _decoding and _FILTER in warnings.filters:
                warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]


_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_quiet_lock = threading.Lock()
_decoding = 0


def _error(reason: Reason, message: str) -> ImageError:
    return ImageError(Stage.DECODE, reason, message)


@functools.lru_cache(maxsize=1)
def _openers() -> tuple[Opener, ...]:
    with _openers_lock:
        Image.preinit()
        Image.init()
        known = [(name, *Image.OPEN[name]) for name in Image.ID]
    # Formats with a signature first: the others look at any bytes, some of them for long.
    return tuple(sorted(known, key=lambda opener: opener[2] is None))


_openers_lock = threading.Lock()
