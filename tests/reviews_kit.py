"""Small labelled runs with ids of their own, queues made by hand, and what an import left."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.review.reviews import read_reviews
from clip_transforms.storage import Store
from schemas.queues import QUEUE
from tests.helpers import image_bytes as image_bytes
from tests.helpers import make_image as make_image
from tests.runs import beamclip

MADE = datetime(2026, 1, 1, tzinfo=timezone.utc)

PETS = """version: 1
name: pets
none: ["a blank wall"]
labels:
  - cat
  - {id: dog, synonyms: [hound]}
  - {id: crane-bird, name: crane}
  - {id: crane-machine, name: crane}
"""
TAGS = """version: 1
name: tags
task: multi
threshold: 0.5
labels: [cat, dog, outdoor]
"""
ZOO = """version: 1
name: zoo
threshold: 0.3
labels:
  - {id: animal, group: true, threshold: 0.0}
  - {id: bird, group: true, parent: animal}
  - {id: owl, parent: bird}
  - {id: gull, parent: bird}
  - {id: cat, parent: animal}
"""


def labelled_run(
    folder: Path, *sets: str, names: Sequence[str] = (), count: int = 12, output: str | None = None
) -> str:
    """The url of a run of `count` images with the ids i00, i01, ...; the first ones have the given names."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path = photos / (names[number] if number < len(names) else f"image{number:02d}.jpg")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes(make_image(number)))
        rows.append((f"i{number:02d}", str(path)))
    manifest = folder / "images.csv"
    manifest.write_text(as_csv([("image_id", "uri"), *rows]))
    return label(manifest, output or str(folder / "run"), *(prompt_file(folder, text) for text in sets))


def label(manifest: Path, output: str, *prompts: object) -> str:
    """Run `beamclip label` with the fake encoder; the run's url."""
    fake = ("--encoder", "fake", "--unit-size", "5", "--quiet")
    assert beamclip("label", "--input", manifest, "--prompts", *prompts, *fake, "--output", output) == 0
    return output


def prompt_file(folder: Path, text: str, *, name: str | None = None) -> Path:
    """A prompt-set file, by default named after its set."""
    path = folder / f"{name or text.split('name: ')[1].split()[0]}.yaml"
    path.write_text(text)
    return path


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def answers(path: Path, *rows: Sequence[object], head: str = "image_id,labels,reviewer,reviewed_at") -> Path:
    """A review CSV."""
    path.write_text(as_csv([head.split(","), *rows]))
    return path


def stored(run: str, set_name: str = "pets") -> dict[tuple[str, str], dict[str, Any]]:
    """The stored reviews by image and reviewer."""
    rows = read_reviews(Store(run), set_name).to_pylist()
    return {(row["image_id"], row["reviewer"]): row for row in rows}


def tag_of(run: str, set_name: str) -> str:
    """The only tag of a set."""
    (tag,) = (name for name in Store(run).folders("labels") if name.startswith(f"{set_name}@"))
    return tag


def model_labels(run: str, tag: str, column: str = "label") -> dict[str, Any]:
    """What the model says, by image id."""
    store = Store(run)
    found = {}
    for entry in store.list(f"labels/{tag}/"):
        with store.open(entry.name) as handle:
            rows = pq.ParquetFile(handle).read(columns=["image_id", column]).to_pylist()
        found.update({row["image_id"]: row[column] for row in rows})
    return found


def write_queue(run: str, tag: str, name: str, *entries: dict[str, Any]) -> None:
    """A queue of these images; what is not given of an entry is that of the margin part."""
    rows = []
    for position, entry in enumerate(entries):
        row: dict[str, Any] = dict.fromkeys(QUEUE.names)
        row |= {"queue": name, "position": position, "uri": "/x", "score": 0.5, "cosine": 0.1, "margin": 0.1}
        row |= {"entropy": 0.5, "top_k": [], "decision": "review", "decision_reason": "uncalibrated"}
        row |= {"prompt_set": tag, "fingerprint": "f", "encoder": "fake", "created_at": MADE}
        row |= {"selection_reason": "margin", "selection_prob": 1.0, "audit": False, "blind": False}
        rows.append(row | entry)
    facts = {"set_name": tag.partition("@")[0], "tag": tag, "images": 12, "seed": 0, "bound": 0.25}
    made = pa.Table.from_pylist(rows, schema=QUEUE)
    buffer = io.BytesIO()
    pq.write_table(made.replace_schema_metadata({"beamclip_queue": json.dumps(facts)}), buffer)
    Store(run).write(f"queues/{name}.parquet", buffer.getvalue())


def audit(image: str, **more: Any) -> dict[str, Any]:
    """An entry of a queue that was drawn for the audit."""
    chosen = {"selection_reason": "audit", "selection_prob": 0.25, "audit": True, "audit_prob": 0.25}
    return {"image_id": image, **chosen, **more}


def tasks(path: Path, *found: dict[str, Any]) -> Path:
    """A Label Studio export."""
    path.write_text(json.dumps(list(found)))
    return path


def task(image: str, *annotations: dict[str, Any], number: int = 1, **data: Any) -> dict[str, Any]:
    """One task of it."""
    return {
        "id": number,
        "data": {"image": f"/data/local-files/?d={image}.jpg", "image_id": image, **data},
        "annotations": list(annotations),
        "predictions": [7],
    }


def annotation(*choices: object, by: object = 1, kind: str = "choices", **more: Any) -> dict[str, Any]:
    """One annotation of it."""
    region = {"from_name": "label", "to_name": "image", "type": kind, "value": {kind: list(choices)}}
    return {
        "id": 1,
        "completed_by": by,
        "result": [region] if choices else [],
        "was_cancelled": False,
        "created_at": "2026-01-02T10:00:00.000000Z",
        "updated_at": "2026-01-02T10:00:05.123456Z",
        "lead_time": 2.5,
        **more,
    }
