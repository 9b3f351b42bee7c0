"""Encoded bytes to RGB and to an encoder's pixels: the decode rules, their options and their limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageFile

from clip_transforms.decode import check_pixels, load, open_image, problem_of, quiet_pillow
from clip_transforms.elements import ImageError, ImageInfo, Reason, RequestError, Stage
from clip_transforms.encoders.base import Preprocess, UInt8
from clip_transforms.phash import phash
from clip_transforms.pixels import Box, scaled_to_pixels, to_pixels
from clip_transforms.rgb import to_rgb

__all__ = ["DecodeOptions", "decode_rgb", "decode_to_pixels", "parse_background", "phash", "to_pixels"]

#: A scaled JPEG keeps at least this many times the encoder's width and height.
DRAFT_FACTOR = 2
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURN_BACK = _TURN | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How images are decoded; part of the fingerprint of their embeddings."""

    background: tuple[int, int, int] = (255, 255, 255)  # under transparent pixels
    exif_transpose: bool = True
    draft: bool = True  # let libjpeg scale large JPEGs down while decoding; see decode_to_pixels
    allow_truncated: bool = False
    max_pixels: int = 178_956_970  # where Pillow itself refuses by default: 2**30 / 4 / 3 * 2
    max_bytes: int = 100 * 2**20

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be at least 1")


def parse_background(text: str) -> tuple[int, int, int]:
    """A colour as `#rrggbb`, `#rgb` or a CSS name; RequestError if it is none.

    >>> parse_background("#ff8000"), parse_background("white")
    ((255, 128, 0), (255, 255, 255))
    """
    try:
        colour = ImageColor.getrgb(text.strip())
    except ValueError:
        colour = (0, 0, 0, 0)
    if len(colour) != 3:
        raise RequestError(f"background {text!r} is not a colour; give #rrggbb or a CSS name such as white")
    return colour


def decode_rgb(
    data: bytes, options: DecodeOptions, *, draft_size: tuple[int, int] | None = None
) -> tuple[Image.Image, ImageInfo]:
    """An encoded image of any format Pillow reads, as 8-bit RGB, upright, and what is known of it.

    The first frame of an animation; EXIF orientation applied; alpha laid over the background; 16-bit scaled,
    32-bit and float stretched (`rgb.to_rgb`). 8-bit RGB, L, P and CMYK without alpha or orientation equal
    `Image.open(...).convert("RGB")`. Colour profiles are not applied. Safe to call from many threads; it
    depends on none of Pillow's global limits. EPS and other formats that Pillow hands to other programs are
    refused.

    draft_size: (width, height) in upright pixels; with `options.draft`, libjpeg may scale a JPEG by 1/2, 1/4
    or 1/8 as long as it stays at least this large. `ImageInfo` has the full size all the same, but its phash
    is of the scaled picture (benchmarks/draft.py counts the bits that differ).

    Raises ImageError, stage decode: empty, too_many_bytes, not_an_image, truncated, too_many_pixels,
    decode_error; nothing else.
    """
    with _only_image_errors():
        picture = _decode(data, options, draft_size)
    return picture.image, picture.info


def decode_to_pixels(data: bytes, options: DecodeOptions, preprocess: Preprocess) -> tuple[UInt8, ImageInfo]:
    """[height, width, 3] uint8 for an encoder: `decode_rgb`, then `to_pixels`; raises as decode_rgb does.

    With `options.draft` a JPEG is decoded at 1/2, 1/4 or 1/8 as long as it stays at least DRAFT_FACTOR (2)
    times the encoder's size in both directions. Measured (`benchmarks/draft.py`) on 27 JPEGs that it scales,
    of pictures with noise, sharp edges and text: pixels at 224 x 224 differ from an exact decode by 0.23 of
    255 in the mean, 3 at the 99.9th percentile, 9 at most; the embedding of a random-weight ViT-B/32 by
    1 - cosine 7e-6 in the mean, 1.1e-5 at most (two different pictures: 3.5e-2; trained weights were not
    measured); phash not at all. Of 29 smooth blurs, whose high frequencies are next to nothing, phash changed
    for 16: 1.5 of 64 bits in the mean over all, 4 at most. Off, for other formats, and where the encoder
    resizes by nearest neighbour, the result is exact.
    """
    draft_size = None
    if preprocess.interpolation != "nearest":
        draft_size = (DRAFT_FACTOR * preprocess.width, DRAFT_FACTOR * preprocess.height)
    with _only_image_errors():
        picture = _decode(data, options, draft_size)
        size = (picture.info.width, picture.info.height)
        return scaled_to_pixels(picture.image, preprocess, size=size, box=picture.box), picture.info


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    image: Image.Image
    info: ImageInfo
    box: Box | None  # what of a scaled image is picture


@contextmanager
def _only_image_errors() -> Iterator[None]:
    try:
        with quiet_pillow():
            yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  no file may end the job
        raise problem_of(error, b"", "image") from None


def _decode(data: bytes, options: DecodeOptions, draft_size: tuple[int, int] | None) -> _Picture:
    if len(data) > options.max_bytes:
        message = f"more than {options.max_bytes} bytes"
        raise ImageError(Stage.DECODE, Reason.TOO_MANY_BYTES, message)
    draft_size = draft_size if options.draft else None

    def reopen(content: bytes) -> ImageFile.ImageFile:
        again = open_image(content, max_pixels=options.max_pixels)[0]
        _draft(again, draft_size, turn=options.exif_transpose)
        return again

    image, name = open_image(data, max_pixels=options.max_pixels)
    full = image.size
    box = _draft(image, draft_size, turn=options.exif_transpose) if name == "JPEG" else None
    tiff_turn, bits = _tiff_turn(image), _bits(image, name)
    _mend_transparency(image)
    image = load(image, data, name, reopen=reopen if options.allow_truncated else None)
    check_pixels(image.size, options.max_pixels)  # the true size of an icon shows only now

    rgb = to_rgb(image, background=options.background, bits=bits)
    turned = _turn_left(image, tiff_turn, wanted=options.exif_transpose)
    if turned is not None:
        method, orientation = turned
        box = _turned_box(box, rgb.size, orientation) if box else None
        full = full[::-1] if orientation >= 5 else full
        rgb = rgb.transpose(method)
    width, height = full if box else rgb.size
    info = ImageInfo(
        width=width,
        height=height,
        format=image.format or name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=phash(rgb, box=box),
    )
    return _Picture(image=rgb, info=info, box=box)


def _turn_left(
    image: Image.Image, tiff_turn: int | None, *, wanted: bool
) -> tuple[Image.Transpose, int] | None:
    """How a loaded image is still to be turned, and EXIF's number for it; None: it stands as it should.

    tiff_turn: a TIFF's orientation before it was loaded; recent Pillows apply it then and remove the tag.
    """
    if tiff_turn and not _tiff_turn(image):
        return None if wanted else (_TURN_BACK[tiff_turn], tiff_turn)
    orientation = (_orientation(image) or tiff_turn) if wanted else None
    return (_TURN[orientation], orientation) if orientation else None


def _draft(image: ImageFile.ImageFile, smallest: tuple[int, int] | None, *, turn: bool) -> Box | None:
    """Ask libjpeg to scale down, not below `smallest` (upright); if it will: what of that is picture."""
    if smallest is None or image.mode not in ("RGB", "L"):
        return None
    width, height = (max(1, side) for side in smallest)
    if turn and (_orientation(image) or 1) >= 5:
        width, height = height, width
    full = image.size
    drafted = image.draft(image.mode, (width, height))
    return drafted[1] if drafted and image.size != full else None


def _turned_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """`box` of an image of `size`, after the image was turned.

    >>> _turned_box((0, 0, 9.5, 7.25), (10, 8), 6)
    (0.75, 0, 8, 9.5)
    """
    right, lower = size[0] - box[2], size[1] - box[3]
    gaps = {
        2: (right, 0, 0, lower),
        3: (right, lower, 0, 0),
        4: (0, lower, right, 0),
        5: (0, 0, lower, right),
        6: (lower, 0, 0, right),
        7: (lower, right, 0, 0),
        8: (0, right, lower, 0),
    }[orientation]
    width, height = size[::-1] if orientation >= 5 else size
    return gaps[0], gaps[1], width - gaps[2], height - gaps[3]


def _orientation(image: Image.Image) -> int | None:
    """EXIF's 2 to 8; None where there is nothing to turn or it cannot be read: a picture needs no EXIF."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  any bytes may stand there
        return None
    return value if value in _TURN else None


def _tiff_turn(image: Image.Image) -> int | None:
    """The orientation that a TIFF's tags ask for."""
    value = getattr(image, "tag_v2", {}).get(_ORIENTATION)
    return value if value in _TURN else None


def _bits(image: ImageFile.ImageFile, name: str) -> int | None:
    """The depth of grey samples where Pillow's mode does not tell it."""
    if name == "TIFF" and image.mode.startswith("I;16"):
        depths = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))  # type: ignore[attr-defined]
        return int(depths[0])
    return 16 if image.mode == "I" and name in ("PNG", "PPM") else None


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """The transparent colour of a 16-bit RGB PNG: Pillow reads it in 16 bits a sample, the picture in 8."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and image.tile and ";16B" in str(image.tile[0][3]):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
