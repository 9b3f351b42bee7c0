"""A decoded image of any Pillow mode as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_BLOCK = 2**20  # pixels that are stretched at a time: bounds the memory of the arithmetic


def to_rgb(image: Image.Image, *, background: tuple[int, int, int], bits: int | None = None) -> Image.Image:
    """`image` (loaded) as mode RGB.

    background: what shows through where the image is transparent. bits: the depth of an integer image whose
    samples have fewer bits than its mode (a 16-bit grey PNG of mode I, a 12-bit TIFF); None: the mode's own.

    16-bit samples keep their high byte, as Pillow itself does for 16-bit RGB. 32-bit integers and floats are
    stretched from their own least to their greatest finite value; where these are equal the picture is black.
    CIE Lab goes to sRGB by LittleCMS. All else is Pillow's `convert`. Raises what Pillow raises.

    >>> to_rgb(Image.new("LA", (1, 1), (0, 51)), background=(255, 255, 255)).getpixel((0, 0))
    (204, 204, 204)
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and bits is not None):
        return _from_16_bits(image, background=background, bits=bits or 16)
    if image.mode in ("I", "F"):
        return _stretched(image).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _over(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(rgba, (0, 0), rgba)
    return canvas


def _from_16_bits(image: Image.Image, *, background: tuple[int, int, int], bits: int) -> Image.Image:
    samples: Any = np.asarray(image)
    if image.mode == "I":
        samples = np.clip(samples, 0, 2**bits - 1)
    grey = Image.fromarray((samples >> (bits - 8)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey.convert("RGB")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(grey.convert("RGB"), (0, 0), Image.fromarray(np.uint8(255) * (samples != transparent)))
    return canvas


def _stretched(image: Image.Image) -> Image.Image:
    samples: Any = np.asarray(image)
    finite = samples if image.mode == "I" else samples[np.isfinite(samples)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    factor = 255.0 / (high - low) if high > low else 0.0
    grey = np.empty(samples.shape, dtype=np.uint8)
    rows = max(1, _BLOCK // max(1, samples.shape[1]))
    for start in range(0, len(samples), rows):
        block = samples[start : start + rows].astype(np.float64)
        block = np.nan_to_num(block, copy=False, nan=low, posinf=high, neginf=low)
        grey[start : start + rows] = np.rint((block - low) * factor)
    return Image.fromarray(grey)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("LAB could not be converted")
    return converted
