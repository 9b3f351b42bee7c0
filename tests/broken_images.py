"""A catalogue of image files, good and broken, made in code: what each must become is part of its entry."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from clip_transforms.elements import Reason
from tests.helpers import image_bytes, make_image

SIZE = (48, 40)  # width, height of every good file before EXIF turns it


def writable() -> set[str]:
    """The formats that this Pillow writes: AVIF came with 11.3, and a source build may lack JPEG 2000."""
    Image.init()
    return {name for name in Image.SAVE if name != "JPEG2000" or hasattr(Image.core, "jpeg2k_encoder")}


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, chunks: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """A PNG of the given chunks between IHDR and IEND."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def tiff(
    samples: np.ndarray, *, big_endian: bool = False, photometric: int = 1, extra: int | None = None
) -> bytes:
    """An uncompressed TIFF of a [H, W] or [H, W, C] array: kinds of samples that Pillow does not write."""
    order = ">" if big_endian else "<"
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    bits = samples.dtype.itemsize * 8
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * channels),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(body)]),
        (339, 3, [kind] * channels),
    ]
    if extra is not None:
        tags.insert(-1, (338, 3, [extra]))
    place = 8 + len(body)
    directory, beyond = struct.pack(order + "H", len(tags)), b""
    after = place + 2 + 12 * len(tags) + 4
    for tag, form, values in tags:
        packed = struct.pack(order + {3: "H", 4: "I"}[form] * len(values), *values)
        if len(packed) > 4:
            packed, beyond = struct.pack(order + "I", after + len(beyond)), beyond + packed
        directory += struct.pack(order + "HHI", tag, form, len(values)) + packed.ljust(4, b"\0")
    head = (b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, place)
    return head + body + directory + bytes(4) + beyond


def ramp(dtype: str, low: float, high: float) -> np.ndarray:
    """[40, 48] samples that rise from low to high."""
    return np.linspace(low, high, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(dtype)


def animation(kind: str, **options: object) -> bytes:
    """Three frames of different colours; the first is `make_image(1)`."""
    later = [make_image(seed) for seed in (2, 3)]
    return image_bytes(make_image(1), kind=kind, save_all=True, append_images=later, duration=50, **options)


def with_orientation(
    orientation: int, kind: str = "JPEG", *, size: tuple[int, int] = SIZE, **options: object
) -> bytes:
    """`make_image(7, size)` with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image_bytes(make_image(7, size), kind=kind, exif=exif, **options)


def inverted_cmyk() -> bytes:
    """A CMYK JPEG as Adobe and Pillow write it: with an APP14 marker, its values inverted."""
    data = image_bytes(make_image(4, mode="CMYK"), quality=95)
    assert b"Adobe" in data
    return data


def ycck() -> bytes:
    """The CMYK file with APP14's transform byte set to YCCK: its samples are taken as Y, Cb, Cr, K."""
    data = inverted_cmyk()
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\x02" + data[place + 1 :]


def _palettes() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    palette = make_image(5).quantize(16)
    whole = bytes([0, 128, *[255] * 14])
    return {
        "palette.png": (image_bytes(palette, kind="PNG"), ("P", SIZE)),
        "palette-transparent.png": (image_bytes(palette, kind="PNG", transparency=3), ("P", SIZE)),
        "palette-alphas.png": (image_bytes(palette, kind="PNG", transparency=whole), ("P", SIZE)),
        "palette.gif": (image_bytes(palette, kind="GIF"), ("P", SIZE)),
        "palette-transparent.gif": (image_bytes(palette, kind="GIF", transparency=3), ("P", SIZE)),
        "palette.bmp": (image_bytes(palette, kind="BMP"), ("P", SIZE)),
    }


def _alphas() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    alpha = Image.fromarray(ramp("uint8", 0, 255))
    rgba, la = make_image(6), make_image(6, mode="L")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    grey = ramp("uint8", 0, 255)
    colours = np.stack([grey // 2, grey // 3, grey // 4, grey], axis=-1)
    return {
        "rgba.png": (image_bytes(rgba, kind="PNG"), ("RGBA", SIZE)),
        "rgba.webp": (image_bytes(rgba, kind="WEBP", lossless=True), ("RGBA", SIZE)),
        "rgba.tif": (image_bytes(rgba, kind="TIFF"), ("RGBA", SIZE)),
        "la.png": (image_bytes(la, kind="PNG"), ("LA", SIZE)),
        "rgba-premultiplied.tif": (tiff(colours, photometric=2, extra=1), ("RGBA", SIZE)),
        "rgb-trns.png": (image_bytes(make_image(6), kind="PNG", transparency=(1, 2, 3)), ("RGB", SIZE)),
        "l-trns.png": (image_bytes(Image.fromarray(grey), kind="PNG", transparency=7), ("L", SIZE)),
    }


def _deep() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    sixteen = ramp("uint16", 0, 65535)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.stack([sixteen] * 3, axis=-1))
    return {
        "i16.png": (image_bytes(Image.fromarray(sixteen), kind="PNG"), ("I;16", SIZE)),
        "i16-little.tif": (tiff(sixteen), ("I;16", SIZE)),
        "i16-big.tif": (tiff(sixteen, big_endian=True), ("I;16B", SIZE)),
        "rgb16.png": (png(*SIZE, depth=16, chunks=[(b"IDAT", zlib.compress(rows))]), ("RGB", SIZE)),
        "i16.pgm": (b"P5 48 40 65535\n" + sixteen.astype(">u2").tobytes(), ("I", SIZE)),
        "i32.tif": (tiff(ramp("int32", -100_000, 900_000)), ("I", SIZE)),
        "i32-constant.tif": (tiff(np.full(SIZE[::-1], 70_000, np.int32)), ("I", SIZE)),
        "f32.tif": (tiff(ramp("float32", -1.5, 2.5)), ("F", SIZE)),
        "f32-big.tif": (tiff(ramp("float32", 0.0, 1e-3), big_endian=True), ("F", SIZE)),
    }


def _plain() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    files = {
        "rgb.jpg": (image_bytes(make_image(1)), ("RGB", SIZE)),
        "progressive.jpg": (image_bytes(make_image(1), progressive=True), ("RGB", SIZE)),
        "grey.jpg": (image_bytes(make_image(1, mode="L")), ("L", SIZE)),
        "cmyk.jpg": (inverted_cmyk(), ("CMYK", SIZE)),
        "ycck.jpg": (ycck(), ("CMYK", SIZE)),
        "cmyk.tif": (image_bytes(make_image(4, mode="CMYK"), kind="TIFF"), ("CMYK", SIZE)),
        "ycbcr.tif": (image_bytes(make_image(4), kind="TIFF", compression="jpeg"), ("RGB", SIZE)),
        "lab.tif": (image_bytes(Image.merge("LAB", make_image(4).split()), kind="TIFF"), ("LAB", SIZE)),
        "rgb.png": (image_bytes(make_image(1), kind="PNG"), ("RGB", SIZE)),
        "grey.png": (image_bytes(make_image(1, mode="L"), kind="PNG"), ("L", SIZE)),
        "bilevel.png": (image_bytes(make_image(1, mode="1"), kind="PNG"), ("1", SIZE)),
        "bilevel.tif": (
            image_bytes(make_image(1, mode="1"), kind="TIFF", compression="group4"),
            ("1", SIZE),
        ),
        "rgb.bmp": (image_bytes(make_image(1), kind="BMP"), ("RGB", SIZE)),
        "rgb.webp": (image_bytes(make_image(1), kind="WEBP"), ("RGB", SIZE)),
        "lzw.tif": (image_bytes(make_image(1), kind="TIFF", compression="tiff_lzw"), ("RGB", SIZE)),
        "png-named.jpg": (image_bytes(make_image(1), kind="PNG"), ("RGB", SIZE)),
        "jpeg-named.png": (image_bytes(make_image(1)), ("RGB", SIZE)),
        "no-suffix": (image_bytes(make_image(1)), ("RGB", SIZE)),
        "mpo.jpg": (animation("MPO"), ("RGB", SIZE)),
        "animated.gif": (animation("GIF"), ("P", SIZE)),
        "animated.webp": (animation("WEBP", lossless=True), ("RGB", SIZE)),
        "animated.png": (animation("PNG"), ("RGB", SIZE)),
        "pages.tif": (animation("TIFF"), ("RGB", SIZE)),
        "one-pixel.png": (image_bytes(make_image(1, (1, 1)), kind="PNG"), ("RGB", (1, 1))),
        "thin.png": (image_bytes(make_image(1, (1, 3000)), kind="PNG"), ("RGB", (1, 3000))),
        "bad-exif.jpg": (image_bytes(make_image(1), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), ("RGB", SIZE)),
    }
    for number in range(1, 9):
        turned = SIZE if number < 5 else SIZE[::-1]
        files[f"orientation{number}.jpg"] = (with_orientation(number), ("RGB", turned))
    if "JPEG2000" in writable():
        files["rgb.jp2"] = (image_bytes(make_image(1), kind="JPEG2000"), ("RGB", SIZE))
    if "AVIF" in writable():
        files["rgb.avif"] = (image_bytes(make_image(1), kind="AVIF"), ("RGB", SIZE))
    return files


@functools.lru_cache(maxsize=1)
def _good() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    return _plain() | _palettes() | _alphas() | _deep()


def good_files() -> dict[str, tuple[bytes, tuple[str, tuple[int, int]]]]:
    """Name -> (bytes, (the mode in which Pillow 12 opens it, (width, height) after EXIF))."""
    return dict(_good())


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A few kilobytes that are 900 million pixels."""
    return png(width, height, depth=1, colour=0, chunks=[(b"IDAT", zlib.compress(bytes(100_000)))])


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@functools.lru_cache(maxsize=1)
def _broken() -> dict[str, tuple[bytes, Reason]]:
    picture = make_image(8, (200, 150))
    jpeg, whole_png = image_bytes(picture), image_bytes(picture, kind="PNG")
    middle = len(whole_png) // 2
    bomb = zlib.compress(bytes(80 * 2**20))
    cut = {
        "half.jpg": _half(jpeg),
        "half-progressive.jpg": _half(image_bytes(picture, progressive=True)),
        "header-only.jpg": jpeg[:20],
        "no-end.jpg": jpeg[:-2],
        "half.png": _half(whole_png),
        "header-only.png": whole_png[:20],
        "half.gif": _half(image_bytes(picture, kind="GIF", interlace=0)),
        "half.webp": _half(image_bytes(picture, kind="WEBP")),
        "half.bmp": _half(image_bytes(picture, kind="BMP")),
        "half.tif": _half(image_bytes(picture, kind="TIFF")),
        "half-lzw.tif": _half(image_bytes(picture, kind="TIFF", compression="tiff_lzw")),
    }
    if "AVIF" in writable():
        cut["half.avif"] = _half(image_bytes(picture, kind="AVIF"))
    if "JPEG2000" in writable():
        cut["half.jp2"] = _half(image_bytes(picture, kind="JPEG2000"))
    corrupt = {
        "flipped.png": whole_png[:middle] + bytes(8) + whole_png[middle + 8 :],
        "zero-size.png": png(0, 0, chunks=[(b"IDAT", zlib.compress(b""))]),
        "text-bomb.png": png(4, 4, chunks=[(b"zTXt", b"Comment\0\0" + bomb)]),
        "no-pixels.png": png(4, 4, chunks=[]),
        "zero-size.gif": b"GIF89a" + bytes(7) + b";",
        "no-markers.jpg": b"\xff\xd8\xff\xe0" + bytes(40) + b"\xff\xd9",
        "no-frame.webp": b"RIFF" + struct.pack("<I", 16) + b"WEBPVP8 " + struct.pack("<I", 4) + bytes(4),
    }
    not_images = {
        "text.jpg": b"this is no picture, but a text of some length\n" * 5,
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>',
        "error.jpg": b'{"error": {"code": 403}}',
        "document.pdf": b"%PDF-1.7\n" + bytes(100),
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "zeros.jpg": bytes(500),
        "random.jpg": np.random.default_rng(9).bytes(500),
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "one-byte.jpg": b"\xff",
    }
    huge = {
        "huge.png": huge_png(),
        "huge-header.bmp": b"BM"
        + struct.pack("<IIIIiiHHI", 100, 0, 54, 40, 60_000, 60_000, 1, 24, 0)
        + bytes(80),
        "huge.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",;" + bytes(20) + b";",
    }
    return (
        {name: (data, Reason.TRUNCATED) for name, data in cut.items()}
        | {name: (data, Reason.DECODE_ERROR) for name, data in corrupt.items()}
        | {name: (data, Reason.NOT_AN_IMAGE) for name, data in not_images.items()}
        | {name: (data, Reason.TOO_MANY_PIXELS) for name, data in huge.items()}
        | {"empty.jpg": (b"", Reason.EMPTY)}
    )


def broken_files() -> dict[str, tuple[bytes, Reason]]:
    """Name -> (bytes, the reason that decoding them must fail for)."""
    return dict(_broken())


def opened(data: bytes) -> Image.Image:
    """The file as Pillow alone opens it."""
    return Image.open(io.BytesIO(data))
