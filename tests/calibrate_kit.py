"""Runs of the fake encoder whose truth is known, and audits of them: reviews and queues as they are stored."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.labelsets import LabelSet
from clip_transforms.review.reviews import append_reviews
from clip_transforms.storage import Store
from pipelines.flags import build_relabel_parser
from pipelines.launch import beam_options
from pipelines.relabel import make_ready, relabel, stored_job
from pipelines.runners import launch_of
from schemas.queues import QUEUE
from schemas.reviews import REVIEWS
from tests.helpers import write_images
from tests.runs import beamclip, rows

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
PETS = "version: 1\nname: pets\nlabels: [cat, dog, 'owl \"é\"']\n"
Row = Mapping[str, Any]


def labelled(folder: Path, count: int, *, prompts: str = PETS, more: Sequence[object] = ()) -> Path:
    """A run of `count` images with labels of one set."""
    write_images(folder / "images", count, size=(24, 24))
    (folder / "set.yaml").write_text(prompts)
    inputs = ("--input", folder / "images", "--prompts", folder / "set.yaml", "--encoder", "fake", "--quiet")
    assert beamclip("label", *inputs, "--output", folder / "run", *more) == 0
    return folder / "run"


def tags(run: Path) -> list[str]:
    """Of the label folders of a run."""
    return sorted(path.name for path in (run / "labels").iterdir())


def surest_first(run: Path, tag: str) -> list[Row]:
    """The rows of a set, by falling score."""
    return sorted(rows(run, f"labels/{tag}"), key=lambda row: (-row["score"], row["image_id"]))


def other_than(label: str | None) -> str:
    """Some label that is wrong."""
    return "dog" if label == "cat" else "cat"


def right_down_to(ranked: Sequence[Row], share: float) -> Callable[[Row], str]:
    """The truth of a run in which the surest part is labelled rightly, and all below it wrongly."""
    right = {row["image_id"] for row in ranked[: int(share * len(ranked))]}
    return lambda row: row["label"] if row["image_id"] in right else other_than(row["label"])


def review(row: Row, *labels: str, reviewer: str = "ann", set_name: str = "pets", **more: object) -> Row:
    """One answer, of the audit unless told otherwise."""
    found: dict[str, object] = dict.fromkeys(REVIEWS.names)
    return found | {
        "review_id": f"{set_name}-{row['image_id']}-{reviewer}",
        "image_id": row["image_id"],
        "uri": row["uri"],
        "set_name": set_name,
        "labels": list(labels),
        "reviewer": reviewer,
        "reviewed_at": NOON,
        "audit": True,
        "selection_prob": 1.0,
        "source": "csv",
        "imported_at": NOON,
        **more,
    }


def answer(run: Path | str, reviews: Iterable[Row]) -> None:
    """Import reviews."""
    append_reviews(Store(str(run)), pa.Table.from_pylist(list(reviews), schema=REVIEWS))


def audit(
    run: Path | str, ranked: Sequence[Row], truth: Callable[[Row], str], count: int, seed: int = 0
) -> list[Row]:
    """Have `count` images, drawn at random, reviewed by somebody who knows the truth; the images."""
    drawn = np.random.default_rng(seed).choice(len(ranked), count, replace=False)
    found = [ranked[place] for place in drawn.tolist()]
    answer(run, [review(row, truth(row)) for row in found])
    return found


def queue(
    run: Path | str, rows: Sequence[Row], *, images: int, name: str = "q1", facts: Mapping[str, object] = {}
) -> None:
    """A stored queue with these images as its audit."""
    table = [
        dict.fromkeys(QUEUE.names)
        | dict(row)
        | {
            "queue": name,
            "position": place,
            "selection_reason": "audit",
            "selection_prob": len(rows) / images,
            "audit": True,
            "audit_prob": len(rows) / images,
            "blind": False,
            "created_at": NOON,
        }
        for place, row in enumerate(rows)
    ]
    wanted = pa.Table.from_pylist(table, schema=QUEUE)
    if facts:
        wanted = wanted.replace_schema_metadata({b"beamclip_queue": json.dumps(facts).encode()})
    buffer = io.BytesIO()
    pq.write_table(wanted, buffer)
    Store(str(run)).create(f"queues/{name}.parquet", buffer.getvalue())


def relabelled(store: Store, label_set: LabelSet, *, base: str, objects: Mapping[str, bytes]) -> int:
    """Label a run with a set that was made from its set `base`, as the last step of `calibrate` does; the exit code."""
    parser = build_relabel_parser("calibrate", "")
    args = parser.parse_args([store.root, "--quiet"])
    ready = make_ready(stored_job(args, store), launch_of(args, beam_options(parser, None, [], [])))
    return relabel(ready, label_set=label_set, base=base, objects=objects, command="calibrate")
