"""Does a better task learn faster? Contrastive training against bag-of-words prediction, image for image.

    python -m benchmarks.objectives --data DIR --output DIR [--images N] [--learning-rates R...] [--device cuda]

DIR is what `benchmarks.tiny.recipe` built. The same image tower sees the same batches with the same changes,
once with CLIP's loss against the text tower, once predicting the words of the caption from the image features
(softmax over the vocabulary against the caption's words, as Joulin et al., arXiv:1511.02251). At equal
numbers of images seen both label the pictures of an unseen style (OpenMoji) among everyday classes: the one by
its text tower, the other by the mean log-probability of the words of the class's name. Each objective is
trained with each learning rate; the plot shows each at the rate that ends best. Prints a table and writes
objectives.json and objectives.svg. The claim is that of CLIP, arXiv:2103.00020, section 2.3.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tiny.judge import EVERYDAY, TEMPLATES, class_of, wilson
from clip_transforms.sources.options import SourceOptions
from clip_transforms.training.batches import Batch
from clip_transforms.training.examples import Examples, to_square
from clip_transforms.training.loop import Trainer
from clip_transforms.training.model import Architecture, build, image_features
from clip_transforms.training.options import TrainOptions
from clip_transforms.training.reading import read_examples
from clip_transforms.training.run import keep_memory

ARCHITECTURE = Architecture(
    name="small",
    model={
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    preprocess={},
)
WIDTH, HEIGHT = 640, 380


def words_of(text: str) -> list[str]:
    """The words of a caption.

    >>> words_of("A photo of a cat.")
    ['a', 'photo', 'of', 'a', 'cat']
    """
    return re.findall(r"[a-z]+", text.lower())


class WordTrainer(Trainer):
    """The same loop with another loss: the words of the caption from the image features."""

    def __init__(self, model: nn.Module, examples: Examples, *, options: TrainOptions) -> None:
        counts = Counter(word for names in examples.captions for name in names for word in words_of(name))
        templates = {word for template in options.captions.templates for word in words_of(template)}
        known = sorted({word for word, count in counts.items() if count >= 3} | templates)
        self.places = {word: place for place, word in enumerate(known)}
        model.words = nn.Linear(int(ARCHITECTURE.model["embed_dim"]), len(known))
        super().__init__(model, examples, architecture=ARCHITECTURE, options=options)

    def loss(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Cross-entropy against a uniform distribution over the caption's words."""
        found = torch.zeros(len(batch.texts), len(self.places))
        for row, text in enumerate(batch.texts):
            for word in words_of(text):
                if word in self.places:
                    found[row, self.places[word]] = 1.0
        target = found.to(self.device)
        target = target / target.sum(dim=1, keepdim=True).clamp_min(1)
        logits = self.model.words(16 * image_features(self.model, pixels))  # type: ignore[operator]
        return -(target * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def unseen(folder: Path, size: int) -> tuple[Tensor, np.ndarray]:
    """Pictures of OpenMoji on white, [N, 3, S, S] normalised, and their classes."""
    pixels, labels = [], []
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            name = class_of(row, set(EVERYDAY)) if row["style"] == "openmoji" else None
            if name is not None:
                square = to_square(row["image"]["bytes"], size).astype(np.float32) / 255
                pixels.append(square[..., :3] * square[..., 3:] + 1 - square[..., 3:])
                labels.append(EVERYDAY.index(name))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    mean, std = torch.tensor(ARCHITECTURE.mean)[:, None, None], torch.tensor(ARCHITECTURE.std)[:, None, None]
    return (images - mean) / std, np.array(labels)


@torch.no_grad()
def right_of(trainer: Trainer, images: Tensor, labels: np.ndarray) -> int:
    """How many of the unseen pictures are labelled right."""
    model = trainer.best
    features = image_features(model, images.to(trainer.device))
    if isinstance(trainer, WordTrainer):
        log_p = functional.log_softmax(model.words(16 * features), dim=1)  # type: ignore[operator]
        columns = [[trainer.places[word] for word in words_of(name)] for name in EVERYDAY]
        scores = torch.stack([log_p[:, places].mean(dim=1) for places in columns], dim=1)
    else:
        tokenizer = open_clip.SimpleTokenizer(context_length=32)
        texts = [
            model.encode_text(
                tokenizer([t.format(name) for t in TEMPLATES]).to(trainer.device), normalize=True
            )
            for name in EVERYDAY
        ]  # type: ignore[operator]
        scores = features @ torch.stack([one.mean(dim=0) for one in texts]).T
    return int((scores.argmax(dim=1).cpu().numpy() == labels).sum())


def run(trainer: Trainer, images: Tensor, labels: np.ndarray, *, points: int) -> list[dict[str, float]]:
    """Trains, and measures at `points` equal distances."""
    trainer.model.train()
    rows: list[dict[str, float]] = []
    started = time.process_time()
    marks = {round(trainer.options.steps * (k + 1) / points) for k in range(points)}
    while trainer.progress.step < trainer.options.steps:
        trainer.step()
        if trainer.progress.step in marks:
            right = right_of(trainer, images, labels)
            low, high = wilson(right, len(labels))
            seen = trainer.progress.step * trainer.options.batch_size
            rows.append(
                {
                    "images": seen,
                    "top1": right / len(labels),
                    "low": low,
                    "high": high,
                    "cpu_seconds": time.process_time() - started,
                }
            )
    return rows


def trained(
    name: str,
    rate: float,
    examples: Examples,
    images: Tensor,
    labels: np.ndarray,
    *,
    options: argparse.Namespace,
) -> list[dict[str, float]]:
    """The measurements of one objective at one learning rate."""
    training = TrainOptions(
        steps=max(options.points, options.images // 256),
        warmup=200,
        learning_rate=rate,
        image_weight=0.0,
        concept_weight=0.0,
        average=0.99,
        seed=options.seed,
        device=options.device,
    )
    model = build(ARCHITECTURE, seed=options.seed)
    trainer = (
        Trainer(model, examples, architecture=ARCHITECTURE, options=training)
        if name == "contrastive"
        else WordTrainer(model, examples, options=training)
    )
    return run(trainer, images, labels, points=options.points)


def plot(curves: dict[str, list[dict[str, float]]]) -> str:
    """An SVG of top-1 over images seen."""
    last = max(row["images"] for rows in curves.values() for row in rows)
    top = max(0.1, max(row["high"] for rows in curves.values() for row in rows))

    def at(row: dict[str, float], key: str) -> str:
        return f"{60 + (WIDTH - 80) * row['images'] / last:.1f},{HEIGHT - 40 - (HEIGHT - 70) * row[key] / top:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for k, (name, rows) in enumerate(curves.items()):
        colour = ("#1f6fb4", "#c2452f")[k]
        band = " ".join([*(at(row, "high") for row in rows), *(at(row, "low") for row in reversed(rows))])
        line = " ".join(at(row, "top1") for row in rows)
        parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.12"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="70" y="{22 + 16 * k}" fill="{colour}">{name}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">images seen, up to {last:,}</text>'
    )
    parts.append(
        f'<text x="{WIDTH - 20}" y="22" text-anchor="end">top-1, up to {100 * top:.0f} %</text></svg>\n'
    )
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.tiny.recipe built")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600_000, help="seen by each objective")
    parser.add_argument("--points", type=int, default=6, help="measurements on the way")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0.0005, 0.001])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_memory()
    size = ARCHITECTURE.size
    examples = read_examples([str(options.data / "train")], SourceOptions(), side=round(size * 1.125))
    images, labels = unseen(options.data / "validation", size)
    every: dict[str, dict[float, list[dict[str, float]]]] = {"contrastive": {}, "bag of words": {}}
    for name in every:
        for rate in options.learning_rates:
            every[name][rate] = trained(name, rate, examples, images, labels, options=options)
            for row in every[name][rate]:
                share = f"{100 * row['top1']:5.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
                print(
                    f"{name:<13} rate {rate:<7g} {row['images']:>9,} images  {share:<24} "
                    f"{row['cpu_seconds']:>5.0f} s of CPU",
                    flush=True,
                )
    curves = {
        f"{name}, rate {rate:g}": rows
        for name, found in every.items()
        for rate, rows in [max(found.items(), key=lambda pair: pair[1][-1]["top1"])]
    }
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"pictures": len(labels), "classes": len(EVERYDAY), "best": list(curves), "all": every}
    (options.output / "objectives.json").write_text(json.dumps(content, indent=1))
    (options.output / "objectives.svg").write_text(plot(curves))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
