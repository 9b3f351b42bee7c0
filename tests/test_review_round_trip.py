"""A queue goes out to each tool, is answered there, and comes back: every answer, its audit and its probability."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from clip_transforms.review.reviews import read_reviews
from clip_transforms.storage import Store
from tests.helpers import image_bytes
from tests.label_studio_kit import LabelStudio
from tests.runs import beamclip

SETS = {
    "pets": "version: 1\nname: pets\nnone: [a wall]\nlabels: [cat, dog, owl]\n",
    "flags": "version: 1\nname: flags\ntask: multi\nlabels: [text, logo, blur]\n",
    "birds": "version: 1\nname: birds\nlabels:\n  - {id: bird, group: true}\n"
    "  - {id: owl, parent: bird}\n  - {id: wren, parent: bird}\n  - stone\n",
}
ANSWER = {"pets": "dog", "flags": "logo", "birds": "owl"}
PATH = {"pets": "dog", "flags": "logo", "birds": ["bird", "owl"]}
EACH = pytest.mark.parametrize("name", list(SETS))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six images with three sets."""
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(image_bytes(seed=number))
    for name, text in SETS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    asked = ("--input", tmp_path / "photos", "--encoder", "fake", "--quiet", "--output", tmp_path / "run")
    assert beamclip("label", *asked, "--prompts", *(tmp_path / f"{name}.yaml" for name in SETS)) == 0
    return tmp_path / "run"


def export(run: Path, name: str, to: str, *args: object) -> Path:
    out = run.parent / "out"
    asked = ("--set", name, "--to", to, "--limit", 6, "--audit", 2, "--blind", "--output", out, *args)
    assert beamclip("review", "export", run, *asked) == 0
    return out


def check(run: Path, name: str, source: str, *files: Path) -> None:
    """All answers come in, with what the queue says of each; a second import changes nothing."""
    asked = ("--set", name, "--from", source, "--reviewer", "ann")
    (queue,) = (run / "queues").glob("*.parquet")
    import pyarrow.parquet as pq

    chosen = {row["image_id"]: row for row in pq.read_table(queue).to_pylist()}
    for _ in range(2):
        assert beamclip("review", "import", run, *files, *asked) == 0
        reviews: list[dict[str, Any]] = read_reviews(Store(str(run)), name).to_pylist()
        assert sorted(row["image_id"] for row in reviews) == sorted(chosen)
    for row in reviews:
        out = chosen[row["image_id"]]
        assert row["labels"] == [ANSWER[name]]
        assert (row["queue"], row["audit"], row["selection_prob"]) == (
            queue.stem,
            out["audit"],
            out["selection_prob"],
        )
        if out["blind"]:
            assert row["shown"] is None and row["agreed"] is None
        else:
            shown = out["labels"] if name == "flags" else [out["label"]]
            assert sorted(row["shown"]) == sorted(shown)
            assert row["agreed"] == (shown == row["labels"])
    assert beamclip("review", "export", run, "--set", name, "--to", "csv", "--output", run.parent / "x") == 0
    assert not {row["image_id"] for row in reviews} & later(run, queue)


def later(run: Path, queue: Path) -> set[str]:
    """Images of the queues that were made after this one."""
    import pyarrow.parquet as pq

    others = [path for path in (run / "queues").glob("*.parquet") if path != queue]
    return {
        row["image_id"]
        for path in others
        for row in pq.read_table(path).to_pylist()
        if not row["audit"]  # an image may be asked for again as audit
    }


@EACH
def test_csv(run: Path, name: str) -> None:
    (path,) = export(run, name, "csv").glob("*.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"labels": ANSWER[name]} for row in rows)
    check(run, name, "csv", path)


@EACH
def test_cvat(run: Path, name: str) -> None:
    out = export(run, name, "cvat")
    (xml,) = out.glob("*.xml")
    (manifest,) = out.glob("*.jsonl")
    lines = [json.loads(line) for line in manifest.read_text().splitlines()][2:]
    images = "".join(
        f'<image id="{place}" name="{line["name"]}{line["extension"]}" width="48" height="40">'
        f'<tag label="{ANSWER[name]}" source="manual"/></image>'
        for place, line in enumerate(lines)
    )
    xml.write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    check(run, name, "cvat", xml, manifest)


@pytest.mark.label_studio
@pytest.mark.slow
@EACH
def test_label_studio(run: Path, name: str, label_studio: LabelStudio) -> None:
    out = export(run, name, "label-studio", "--task-format", "json", "--document-root", run.parent)
    project = label_studio.project((out / "label-studio.xml").read_text())
    (shard,) = out.glob("tasks-*.json")
    label_studio.load(project, json.loads(shard.read_text()))
    kind = "taxonomy" if name == "birds" else "choices"
    answer = {"from_name": "label", "to_name": "image", "type": kind, "value": {kind: [PATH[name]]}}
    for task in label_studio.tasks(project):
        body = {"result": [answer], "lead_time": 2.5}
        label_studio.call("POST", f"/api/tasks/{task['id']}/annotations/", body)
    path = run.parent / "export.json"
    path.write_text(json.dumps(label_studio.export(project)))
    check(run, name, "label-studio", path)
