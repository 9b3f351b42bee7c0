"""Labelled runs made of arrays, without images and without an encoder: for tests and benchmarks of the review loop."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from clip_transforms.commits import EMBEDDINGS, Commit, write_commit
from clip_transforms.labelled import LabelledRun
from clip_transforms.labelsets import LabelSet, keep_label_set
from clip_transforms.plan import Extension, close_extension
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.review.reviews import append_reviews
from clip_transforms.sink import PartWriter, new_attempt, part_stem
from clip_transforms.storage import Store
from clip_transforms.views import label_view
from schemas.embeddings import embeddings_schema
from schemas.labels import LABELS
from schemas.reviews import REVIEWS

MADE = datetime(2026, 1, 1, tzinfo=timezone.utc)
PETS = PromptSet(name="pets", labels=tuple(Label(id=name) for name in ("cat", "dog", "owl")))
_PLAN = "0badcafe"
_WRITTEN = 8192  # rows at a time


def new_run(
    store: Store, prompts: PromptSet = PETS, *, calibration: str | None = None, top_k: int = 5
) -> str:
    """An empty run with a label set; its tag."""
    extension = Extension(
        name="0000",
        plan_id=_PLAN,
        run_id="synthetic",
        files=(),
        units=1,
        rows=0,
        total_bytes=0,
        inputs=("/images",),
        config={},
        created_at=MADE.isoformat(),
    )
    close_extension(store, extension)
    label_set = LabelSet(prompt_set=prompts, calibration=calibration, top_k=top_k)
    keep_label_set(store, label_set)
    return label_set.tag


def add_unit(
    store: Store,
    tag: str,
    number: int,
    *,
    ids: Sequence[str],
    vectors: np.ndarray,
    margins: np.ndarray,
    phashes: np.ndarray,
    **changes: object,
) -> None:
    """A unit of images and their label rows; changes: columns of LABELS that differ from the plain ones."""
    unit, count = f"{_PLAN}-0000-{number:06d}", len(ids)
    uris = changes.pop("uri", None) or [f"gs://bucket/photos/{image_id}.jpg" for image_id in ids]
    stamp = {
        name: pa.repeat(name, count).dictionary_encode() for name in ("fingerprint", "encoder", "run_id")
    }
    made = pa.repeat(pa.scalar(MADE, pa.timestamp("us", tz="UTC")), count)
    schema = embeddings_schema(vectors.shape[1])
    flat = pa.array(vectors.astype(np.float32).ravel())
    images = {
        "image_id": list(ids),
        "uri": uris,
        "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
        "width": [640] * count,
        "height": [480] * count,
        "format": pa.repeat("JPEG", count).dictionary_encode(),
        "bytes": [40_000] * count,
        "sha256": ["0" * 64] * count,
        "phash": [f"{int(value):016x}" for value in phashes],
        "caption": pa.nulls(count, pa.string()),
        "extra": pa.nulls(count, pa.string()),
        **stamp,
        "created_at": made,
    }
    margins = margins.astype(np.float32)
    best = (1 + margins) / 2
    kind = LABELS.field("top_k").type
    words = pa.array(np.tile(["cat", "dog"], count), pa.string())
    scores = np.stack([best, 1 - best], axis=1).astype(np.float32).ravel()
    guesses = pa.StructArray.from_arrays([words, scores, scores / 4], fields=list(kind.value_type))
    columns = {
        "image_id": list(ids),
        "uri": uris,
        "label": pa.repeat("cat", count).dictionary_encode(),
        "score": best,
        "calibrated": pa.nulls(count, pa.float32()),
        "cosine": best / 4,
        "margin": margins,
        "entropy": 1 - margins,
        "top_k": pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * 2, guesses, type=kind),
        "labels": pa.nulls(count, LABELS.field("labels").type),
        "path": pa.nulls(count, LABELS.field("path").type),
        "decision": pa.repeat("review", count).dictionary_encode(),
        "decision_reason": pa.repeat("uncalibrated", count).dictionary_encode(),
        "prompt_set": pa.repeat(tag, count).dictionary_encode(),
        **stamp,
        "created_at": made,
        **changes,
    }
    parts = _commit(store, unit, "embed", pa.table(images, schema=schema), EMBEDDINGS, ())
    view = label_view(tag)
    _commit(store, unit, view.task, pa.table(columns, schema=LABELS), view.folder, parts)


def random_run(store: Store, rows: int, *, unit: int = 500, dim: int = 16, seed: int = 0) -> LabelledRun:
    """A run of random images: 32 groups of embeddings, margins from 0 to 1, ids `0` to `rows` - 1."""
    tag = new_run(store)
    add_random(store, tag, range(rows), unit=unit, dim=dim, seed=seed)
    return LabelledRun(store, tag)


def add_random(
    store: Store, tag: str, numbers: range, *, unit: int = 500, dim: int = 16, seed: int = 0
) -> None:
    """More such images, in units of their own."""
    rng = np.random.default_rng([seed, numbers.start])
    centres = np.random.default_rng(seed).standard_normal((32, dim))
    for start in range(numbers.start, numbers.stop, unit):
        count = min(unit, numbers.stop - start)
        vectors = centres[rng.integers(0, 32, count)] + 0.5 * rng.standard_normal((count, dim))
        add_unit(
            store,
            tag,
            start,
            ids=[str(number) for number in range(start, start + count)],
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            margins=rng.random(count),
            phashes=rng.integers(0, 2**63, count, dtype=np.uint64),
        )


def add_reviews(store: Store, images: Sequence[str], *, audit: bool = False, set_name: str = "pets") -> None:
    """An answer to each image."""
    plain: dict[str, object] = dict.fromkeys(REVIEWS.names)
    rows = [
        plain
        | {
            "review_id": f"{image}-{audit}",
            "image_id": image,
            "set_name": set_name,
            "labels": ["cat"],
            "reviewer": "ann",
            "audit": audit,
            "source": "csv",
            "imported_at": MADE,
        }
        for image in images
    ]
    append_reviews(store, pa.Table.from_pylist(rows, schema=REVIEWS))


def _commit(
    store: Store, unit: str, task: str, table: pa.Table, folder: str, sources: Sequence[str]
) -> tuple[str, ...]:
    attempt = new_attempt()
    writer = PartWriter(
        store, folder=folder, schema=table.schema, stem=part_stem(unit, task=task, attempt=attempt)
    )
    for start in range(0, table.num_rows, _WRITTEN):  # a real writer's row groups are no larger
        writer.write(table.slice(start, _WRITTEN))
    parts = writer.close()
    write_commit(
        store,
        Commit(
            task=task,
            unit=unit,
            attempt=attempt,
            run_id="synthetic",
            fingerprint="f" * 32,
            created_at=MADE.isoformat(),
            parts={folder: parts},
            embedded=table.num_rows if folder == EMBEDDINGS else 0,
            sources=tuple(sources),
        ),
    )
    return tuple(part.name for part in parts)
