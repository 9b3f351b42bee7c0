"""Distinct pictures and altered copies of them, drawn in code and seeded, for the search for duplicates."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SAMPLES = Path(__file__).parent.parent / "clip_transforms" / "samples"
Alter = Callable[[Image.Image], Image.Image]


def scene(seed: int) -> Image.Image:
    """A picture of its own: a soft background, 3 to 14 shapes, and grain."""
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    width, height = choose.choice([(320, 240), (240, 320), (400, 300), (300, 300)])
    few = rng.integers(0, 256, (choose.randint(2, 6), choose.randint(2, 6), 3), np.uint8)
    image = Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(choose.randint(3, 14)):
        x, y = choose.randint(-40, width), choose.randint(-40, height)
        across, down = choose.randint(15, 150), choose.randint(15, 150)
        colour = (choose.randrange(256), choose.randrange(256), choose.randrange(256))
        shape = choose.choice(["ellipse", "rectangle", "triangle"])
        if shape == "ellipse":
            draw.ellipse((x, y, x + across, y + down), fill=colour)
        elif shape == "rectangle":
            draw.rectangle((x, y, x + across, y + down), fill=colour)
        else:
            corner, foot = choose.randint(0, down), choose.randint(0, across)
            draw.polygon([(x, y), (x + across, y + corner), (x + foot, y + down)], fill=colour)
    grain = np.asarray(image) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def samples() -> dict[str, Image.Image]:
    """The shipped drawings by name: 18 things, each drawn in colour (flat) and redrawn in ink."""
    return {path.stem: Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.png"))}


def encoded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """Encoded and decoded again."""
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Both sides times `factor`."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Without these fractions of its sides."""
    width, height = image.size
    return image.crop(
        (
            round(width * left),
            round(height * top),
            width - round(width * right),
            height - round(height * bottom),
        )
    )


#: What is done to a picture, by kind and name.
COPIES: Mapping[str, Mapping[str, Alter]] = {
    "resized": {
        "to a half": lambda image: scaled(image, 0.5),
        "to a third": lambda image: scaled(image, 1 / 3),
        "to double": lambda image: scaled(image, 2),
        "to 256 x 256": lambda image: image.resize((256, 256)),
    },
    "re-encoded": {
        "JPEG 90": lambda image: encoded(image, "JPEG", 90),
        "JPEG 50": lambda image: encoded(image, "JPEG", 50),
        "JPEG 20": lambda image: encoded(image, "JPEG", 20),
        "WebP 60": lambda image: encoded(image, "WEBP", 60),
        "a half, JPEG 60": lambda image: encoded(scaled(image, 0.5), "JPEG", 60),
    },
    "cropped": {
        "5 % of the area, all round": lambda image: cropped(image, 0.0127, 0.0127, 0.0127, 0.0127),
        "5 % of each side, all round": lambda image: cropped(image, 0.025, 0.025, 0.025, 0.025),
        "5 % of the width, left": lambda image: cropped(image, 0.05, 0, 0, 0),
        "5 % of the height, top": lambda image: cropped(image, 0, 0.05, 0, 0),
    },
}
