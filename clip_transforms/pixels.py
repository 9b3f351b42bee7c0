"""RGB image to an encoder's uint8 pixels: open_clip's evaluation transform up to, not including, ToTensor."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from clip_transforms.encoders.base import Preprocess, UInt8

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
Box = tuple[float, float, float, float]  # left, upper, right, lower
_MOST_PIXELS = 2**24  # of a resized picture before the crop; what a 1 x 100,000 picture would pass by far


def to_pixels(image: Image.Image, preprocess: Preprocess) -> UInt8:
    """[height, width, 3] uint8, equal to `open_clip.transform.image_transform(is_train=False)` on `image`.

    image is RGB. Differences: a picture whose short side would round to nothing (`longest`) keeps one pixel,
    where open_clip raises; one whose resized size exceeds 2**24 pixels is resized only where the crop falls
    (open_clip would use gigabytes), within 1 of 255 of the same; `lanczos` and `nearest`, which open_clip
    does not offer, are Pillow's.

    >>> wide = Image.new("RGB", (90, 30), "navy")
    >>> to_pixels(wide, Preprocess(height=16, width=16, mean=(0, 0, 0), std=(1, 1, 1))).shape
    (16, 16, 3)
    """
    return scaled_to_pixels(image, preprocess, size=image.size, box=None)


def scaled_to_pixels(
    image: Image.Image, preprocess: Preprocess, *, size: tuple[int, int], box: Box | None
) -> UInt8:
    """`to_pixels` for a picture that the decoder has scaled down.

    size: width and height before; they decide the geometry. box: what of `image` is picture (a scaled JPEG
    ends on a whole pixel, its last one only partly covered); None: all.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    target = (preprocess.width, preprocess.height)
    resized, interpolation = _resized_size(size, preprocess)
    method = _FILTERS[interpolation]
    if resized[0] * resized[1] > max(_MOST_PIXELS, 4 * target[0] * target[1]):
        return np.array(_resize_and_crop(image, resized, target, method, box))
    if resized != image.size or box is not None:
        image = image.resize(resized, method, box=box)
    if resized != target:
        fill = preprocess.fill if preprocess.resize_mode == "longest" else 0
        image = _pad_and_crop(image, target, fill=fill)
    return np.array(image)


def _resized_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], str]:
    """Width and height before padding and cropping, and the interpolation open_clip takes to get there."""
    width, height = size
    target = (preprocess.width, preprocess.height)
    if preprocess.resize_mode == "squash":
        return target, preprocess.interpolation
    if preprocess.resize_mode == "shortest" and target[0] == target[1]:
        side = target[0]  # torchvision's Resize: the long side is rounded down
        if width <= height:
            return (side, int(side * height / width)), preprocess.interpolation
        return (int(side * width / height), side), preprocess.interpolation
    ratios = (width / target[0], height / target[1])
    if preprocess.resize_mode == "longest":
        ratio, interpolation = max(ratios), preprocess.interpolation
    else:
        # For a target that is no square open_clip leaves the interpolation at its default.
        ratio, interpolation = min(ratios), "bicubic"
    return (max(1, round(width / ratio)), max(1, round(height / ratio))), interpolation


def _pad_and_crop(image: Image.Image, target: tuple[int, int], *, fill: int) -> Image.Image:
    """torchvision's center_crop and open_clip's CenterCropOrPad, to the pixel."""
    missing = [max(0, wanted - given) for wanted, given in zip(target, image.size, strict=True)]
    if any(missing):
        border = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
        image = ImageOps.expand(image, border, fill=(fill, fill, fill))
    left, top = (round((given - wanted) / 2.0) for wanted, given in zip(target, image.size, strict=True))
    return image.crop((left, top, left + target[0], top + target[1]))


def _resize_and_crop(
    image: Image.Image,
    resized: tuple[int, int],
    target: tuple[int, int],
    method: Image.Resampling,
    box: Box | None,
) -> Image.Image:
    """The centre of the resized picture without making the rest; only for sizes at least the target's."""
    left, top, right, lower = box or (0, 0, *image.size)
    step = ((right - left) / resized[0], (lower - top) / resized[1])
    skip = [round((given - wanted) / 2.0) for wanted, given in zip(target, resized, strict=True)]
    corner = (left + skip[0] * step[0], top + skip[1] * step[1])
    part = (*corner, corner[0] + target[0] * step[0], corner[1] + target[1] * step[1])
    return image.resize(target, method, box=part)
