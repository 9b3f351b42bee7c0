"""Measures a model on the recipe's validation set: `python -m benchmarks.tiny.judge --data DIR/validation`.

For each whole style that is not trained on: top-1 and top-5 over 30 everyday classes, and over every noun of
one word that has an emoji, each with its 95 % Wilson interval; for prompt ensembles and for bare names.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.pixels import to_pixels

EVERYDAY = [
    "dog", "cat", "horse", "cow", "pig", "rabbit", "chicken", "fish", "snake", "turtle", "butterfly", "bee",
    "tree", "flower", "apple", "banana", "strawberry", "carrot", "pizza", "cake", "car", "bus", "airplane",
    "ship", "train", "bicycle", "house", "clock", "umbrella", "guitar",
]  # fmt: skip
TEMPLATES = ("{}", "a {}", "a picture of a {}", "a drawing of a {}", "an icon of a {}", "a photo of a {}")


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not count:
        return 0.0, 1.0
    p = right / count
    middle, spread = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def class_of(row: dict[str, object], classes: set[str]) -> str | None:
    """The one class that a drawing's captions name, or None: a drawing that fits two is not counted."""
    captions = {str(caption) for caption in row["captions"]}  # type: ignore[union-attr, attr-defined]
    found = [str(row["concept"])] if row["concept"] in classes else sorted(captions & classes)
    return found[0] if len(found) == 1 else None


def nouns(rows: Sequence[dict[str, object]]) -> list[str]:
    """Names of one word of the things that OpenMoji draws."""
    heavy = [row for row in rows if row["style"] == "openmoji" and float(str(row["weight"])) >= 1]
    return sorted({str(row["concept"]) for row in heavy if str(row["concept"]).isalpha()})


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="folder with model.json and model.safetensors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wrong", action="store_true", help="print the mistakes over the 30 classes")
    options = parser.parse_args(argv)
    spec = EncoderSpec(name="beamclip-tiny", threads=options.threads)
    if options.model:
        spec = EncoderSpec(
            name="open_clip:custom",
            weights=str(options.model / "model.safetensors"),
            model_config=str(options.model / "model.json"),
            threads=options.threads,
        )
    encoder = load(spec)
    rows = [row for path in sorted(options.data.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    rows = [row for row in rows if row["split"] == "judge"]
    images = []
    for row in rows:
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        images.append(to_pixels(white, encoder.preprocess))
    features = np.concatenate(
        [encoder.encode_images(np.stack(images[k : k + 64])) for k in range(0, len(images), 64)]
    )
    sets = {"30 everyday": EVERYDAY, "nouns": nouns(rows)}
    for set_name, classes in sets.items():
        labels = [class_of(row, set(classes)) for row in rows]
        for prompts, templates in (("ensemble", TEMPLATES), ("bare name", ("{}",))):
            texts = [
                encoder.encode_texts([one.format(name) for one in templates]).mean(axis=0) for name in classes
            ]
            text = np.stack([vector / np.linalg.norm(vector) for vector in texts])
            order = np.argsort(-features @ text.T, axis=1)[:, :5]
            for style in sorted({row["style"] for row in rows}):
                which = [k for k, row in enumerate(rows) if row["style"] == style and labels[k]]
                top1 = sum(classes[order[k, 0]] == labels[k] for k in which)
                top5 = sum(labels[k] in [classes[c] for c in order[k]] for k in which)
                line = {
                    "classes": f"{set_name} ({len(classes)})",
                    "prompts": prompts,
                    "style": style,
                    "pictures": len(which),
                }
                for name, right in (("top-1", top1), ("top-5", top5)):
                    low, high = wilson(right, len(which))
                    share = 100 * right / max(len(which), 1)
                    line[name] = f"{share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
                print(json.dumps(line))
                if options.wrong and prompts == "ensemble" and len(classes) == 30:
                    for k in which:
                        if classes[order[k, 0]] != labels[k]:
                            print("  ", rows[k]["id"], "->", [classes[c] for c in order[k, :3]])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
