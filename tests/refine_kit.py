"""Reviewed images with known answers, and runs with reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from clip_transforms.refining.reviewed import Reviewed
from clip_transforms.review.reviews import append_reviews
from clip_transforms.storage import Store
from schemas.reviews import REVIEWS
from tests.evaluate_kit import unit
from tests.runs import beamclip

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
#: Colours that the fake encoder sees as clusters: the truth of a picture is its colour.
COLOURS = {"blue": (30, 40, 200), "green": (40, 190, 60), "red": (210, 40, 30)}


def reviewed_rows(
    embeddings: np.ndarray,
    answers: Sequence[int] | np.ndarray,
    *,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
) -> Reviewed:
    """Reviewed images to learn from, single (an answer a row) or multi (a row of booleans a row)."""
    found = np.asarray(answers)
    multi = found.ndim == 2
    targets = found if multi else np.eye(len(classes), dtype=bool)[found]
    names = list(ids) if ids is not None else [f"{row:05d}" for row in range(len(embeddings))]
    return Reviewed(
        task="multi" if multi else "single",
        classes=tuple(classes),
        ids=tuple(names),
        uris=tuple(f"{name}.png" for name in names),
        embeddings=embeddings,
        targets=targets,
        weights=np.ones(len(embeddings)) if weights is None else weights / weights.mean(),
        held_out=np.zeros(len(embeddings), bool),
        left_out={},
    )


def clusters(
    classes: int, images: int, *, seed: int = 0, dim: int = 16, noise: float = 0.35
) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings, truths) of images near their class's axis, the classes in turn."""
    rng = np.random.default_rng(seed)
    truth = np.arange(images) % classes
    return unit(np.eye(dim)[truth] + noise * rng.normal(size=(images, dim))), truth


def guesses(
    truth: np.ndarray, classes: int, *, right: float, seed: int = 1, scale: float = 3.0
) -> np.ndarray:
    """Zero-shot logits [N, C] whose best class is the truth for a share of the rows; too sure of themselves."""
    rng = np.random.default_rng(seed)
    best = np.where(rng.random(len(truth)) < right, truth, rng.integers(0, classes, len(truth)))
    return (rng.normal(size=(len(truth), classes)) + scale * np.eye(classes)[best]).astype(np.float32)


def coloured(folder: Path, each: int, *, seed: int = 0) -> dict[str, str]:
    """Pictures of one colour each, in files that do not tell it; the truth by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    truth = {}
    for place in range(each * len(COLOURS)):
        name = sorted(COLOURS)[place % len(COLOURS)]
        shade = np.clip(np.array(COLOURS[name]) + rng.normal(0, 25, (6, 6, 3)), 0, 255).astype(np.uint8)
        file = f"image{place:04d}.png"
        Image.fromarray(shade, "RGB").resize((32, 32)).save(folder / file)
        truth[file] = name
    return truth


def prompts_file(path: Path, **content: object) -> Path:
    """A prompt set on disk; by default the colours."""
    body = {"version": 1, "name": "colours", "task": "single", "labels": sorted(COLOURS), **content}
    path.write_text(yaml.safe_dump(body))
    return path


def labelled_run(folder: Path, *, each: int = 30, **content: object) -> tuple[Path, dict[str, str]]:
    """A run of coloured pictures, labelled by the fake encoder (that is, at random); the truth by file name."""
    truth = coloured(folder / "pictures", each)
    prompts = prompts_file(folder / "colours.yaml", **content)
    options = ("--encoder", "fake", "--unit-size", "16", "--quiet")
    assert (
        beamclip(
            "label",
            "--input",
            folder / "pictures",
            "--prompts",
            prompts,
            "--output",
            folder / "run",
            *options,
        )
        == 0
    )
    return folder / "run", truth


def add_reviews(
    run: Path | str, answers: Mapping[str, Sequence[str]], *, set_name: str = "colours", **more: object
) -> None:
    """One review an image id. more: further fields; a mapping is by image id."""
    rows = []
    for key, labels in answers.items():
        row = dict.fromkeys(REVIEWS.names) | {
            "review_id": f"{set_name}-{key}-{'+'.join(labels)}",
            "image_id": key,
            "set_name": set_name,
            "labels": list(labels),
            "reviewer": "ann",
            "reviewed_at": NOON,
            "audit": False,
            "source": "csv",
            "imported_at": NOON,
        }
        rows.append(row | {name: v[key] if isinstance(v, dict) else v for name, v in more.items()})
    append_reviews(Store(str(run)), pa.Table.from_pylist(rows, schema=REVIEWS))
