"""Small pictures with captions and a small architecture, for the tests of training."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from clip_transforms.training.examples import Example, Examples, gather
from clip_transforms.training.model import Architecture

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (240, 210, 30)}


def architecture() -> Architecture:
    """A model of a tenth of a million weights beside its vocabulary."""
    return Architecture(name="tiny", model=TINY, preprocess={})


def square(colour: tuple[int, int, int], seed: int) -> bytes:
    """A PNG with alpha: one square somewhere on a clear ground."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", (40, 40))
    x, y = rng.integers(2, 14, 2)
    ImageDraw.Draw(image).rectangle((x, y, x + 20, y + 20), fill=(*colour, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def some_examples(count: int = 24) -> Examples:
    """Squares in four colours and two styles."""
    names = list(COLOURS)
    return gather(
        [
            Example(
                image=square(COLOURS[names[k % 4]], k),
                captions=(names[k % 4],),
                tags=("square",),
                concept=names[k % 4],
                style="ab"[k // 4 % 2],
            )
            for k in range(count)
        ],
        side=36,
    )


def write_parquet(path: Path, count: int = 24, *, captions: bool = True) -> Path:
    """The same squares as a Parquet file with image bytes."""
    names = list(COLOURS)
    columns: dict[str, object] = {
        "id": [f"square-{k}" for k in range(count)],
        "image": [{"bytes": square(COLOURS[names[k % 4]], k), "path": None} for k in range(count)],
    }
    if captions:
        columns["caption"] = [names[k % 4] for k in range(count)]
        columns["concept"] = [names[k % 4] for k in range(count)]
        columns["tags"] = [["square"] for _ in range(count)]
    pq.write_table(pa.table(columns), path)
    return path


def write_model(path: Path) -> Path:
    """The architecture as an open_clip model JSON."""
    path.write_text(json.dumps(TINY))
    return path
