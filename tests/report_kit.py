"""Run folders made by hand, with images, labels and failures, for the tests of the report."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.duplicates import DUPLICATES
from schemas.embeddings import embeddings_schema
from schemas.failures import FAILURES
from schemas.labels import LABELS
from tests.helpers import image_bytes, make_image

MADE = datetime.datetime(2026, 11, 23, 21, 14, 5, tzinfo=datetime.timezone.utc)
_STAMP = {"fingerprint": "f" * 16, "encoder": "fake", "run_id": "run-1"}


@dataclass(kw_only=True)
class Picture:
    """One embedded image."""

    path: str
    caption: str | None = None
    size: tuple[int, int] = (48, 40)

    @property
    def image_id(self) -> str:
        return hashlib.blake2b(self.path.encode(), digest_size=16).hexdigest()


def pictures(folder: Path, count: int, *, names: Sequence[str] = (), seed: int = 0) -> list[Picture]:
    """`count` images on disk, of different shapes; the first ones have the given names."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [(160, 120), (120, 160), (140, 140), (240, 100)]
    found = []
    for number in range(count):
        path = folder / (names[number] if number < len(names) else f"image{number:05d}.jpg")
        size = shapes[number % len(shapes)]
        path.write_bytes(image_bytes(make_image(seed + number, size)))
        found.append(Picture(path=str(path), size=size))
    return found


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def write_embeddings(
    run: Path, images: Sequence[Picture], *, name: str = "part-0.parquet", **changes: Any
) -> None:
    """changes: of every row."""
    rows = [
        {
            "image_id": image.image_id,
            "uri": image.path,
            "embedding": [1.0, 0.0],
            "width": image.size[0],
            "height": image.size[1],
            "format": "JPEG",
            "bytes": 1000 + number,
            "sha256": "0" * 64,
            "phash": "0" * 16,
            "caption": image.caption,
            "created_at": MADE,
            **_STAMP,
            **changes,
        }
        for number, image in enumerate(images)
    ]
    write_parquet(run / "embeddings" / name, rows, embeddings_schema(2))


def label_row(image: Picture, probabilities: dict[str, float], *, tag: str, **changes: Any) -> dict[str, Any]:
    """A row of labels/ from the probabilities of the classes, the label being the best one."""
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    values = np.array([value for _, value in ranked])
    share = values / values.sum()
    entropy = float(-(share * np.log(np.maximum(share, 1e-12))).sum() / np.log(max(2, len(values))))
    return {
        "image_id": image.image_id,
        "uri": image.path,
        "label": ranked[0][0],
        "score": ranked[0][1],
        "calibrated": None,
        "cosine": 0.2 + 0.1 * ranked[0][1],
        "margin": ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0.0),
        "entropy": min(1.0, entropy),
        "top_k": [{"label": key, "score": value, "cosine": 0.2 + 0.1 * value} for key, value in ranked[:5]],
        "labels": None,
        "path": None,
        "decision": "review",
        "decision_reason": "uncalibrated",
        "prompt_set": tag,
        "created_at": MADE,
        **_STAMP,
        **changes,
    }


def write_labels(
    run: Path, tag: str, rows: Sequence[dict[str, Any]], *, name: str = "part-0.parquet"
) -> None:
    write_parquet(run / "labels" / tag / name, rows, LABELS)


def write_failures(run: Path, entries: Sequence[tuple[str, str, str, str]]) -> None:
    """entries: uri, stage, reason, message."""
    rows = [
        {
            "image_id": hashlib.blake2b(uri.encode(), digest_size=16).hexdigest(),
            "uri": uri,
            "stage": stage,
            "reason": reason,
            "message": message,
            "attempts": 1,
            "run_id": "run-1",
        }
        for uri, stage, reason, message in entries
    ]
    write_parquet(run / "failures" / "part-0.parquet", rows, FAILURES)


def write_duplicates(run: Path, counts: dict[str, int]) -> None:
    rows = [{"image_id": key, "count": count, "uris": ["/a", "/b"]} for key, count in counts.items()]
    write_parquet(run / "duplicates.parquet", rows, DUPLICATES)


def random_probabilities(
    rng: np.random.Generator, classes: Sequence[str], *, sharp: float = 3.0
) -> dict[str, float]:
    """Probabilities over the classes, the earlier ones likelier, as a softmax would give them."""
    logits = rng.normal(size=len(classes)) * sharp - np.log(np.arange(len(classes)) + 1.0)
    weights = np.exp(logits - logits.max())
    return dict(zip(classes, (weights / weights.sum()).tolist(), strict=True))


def run_record(*, inputs: int, failed: int, **changes: Any) -> dict[str, Any]:
    """The content of a run.json."""
    return {
        "run_id": "20261123-211405-1a2b",
        "inputs": inputs,
        "embedded": inputs - failed,
        "failed": failed,
        "planned_images": inputs,
        "failures_by_reason": {},
        "units": {"planned": 2, "committed": 2},
        "labels": {},
        "encoder": "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "fingerprint": "3f9a1c0de5b77a42",
        "from_run": None,
        "started_at": "2026-11-23T21:14:05+00:00",
        "ended_at": "2026-11-23T21:20:44+00:00",
        "images_per_second": 164.2,
        "images_per_second_of_stage": {"fetch": 812.0, "decode": 231.5, "encode": 190.1},
        "peak_memory_bytes": 1_934_000_000,
        "config": {"precision": "fp32", "decode": {"draft": True}, "input": ["photos/**/*.jpg"]},
        "versions": {"python": "3.11.9", "beamclip": "0.1.0", "torch": "2.14.1"},
        **changes,
    }


def load_file(uri: str) -> bytes | None:
    """The bytes of a local image, or None."""
    path = Path(uri)
    return path.read_bytes() if path.is_file() else None
