"""Images made in code, seeded; shared by all tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def make_image(seed: int = 0, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Image.Image:
    """A smooth random picture: a few coloured blobs, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small, "RGB").resize(size, Image.Resampling.BICUBIC).convert(mode)


def image_bytes(
    image: Image.Image | None = None, *, kind: str = "JPEG", seed: int = 0, **options: object
) -> bytes:
    """The picture as an encoded file."""
    buffer = io.BytesIO()
    (image or make_image(seed)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_images(folder: Path, count: int, *, size: tuple[int, int] = (48, 40)) -> list[Path]:
    """`count` different JPEGs in `folder`, names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"image{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(image_bytes(make_image(number, size)))
    return paths
