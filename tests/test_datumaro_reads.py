"""What is exported for CVAT and as Datumaro JSON, read back by datumaro itself: every label and score."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clip_transforms.prompts import PromptSet
from clip_transforms.review.exporters.cvat import cvat_documents, label_scores
from clip_transforms.review.exporters.datumaro import datumaro_documents
from clip_transforms.review.exporters.images import Place
from clip_transforms.review.exporters.items import Item
from tests.export_kit import BIRDS, FLAGS, STRANGE, items_of_each
from tests.helpers import image_bytes

pytestmark = [pytest.mark.datumaro, pytest.mark.slow]
_FOLDER = Path(__file__).parent.parent / ".cache" / "datumaro" / "bin"
SETS = pytest.mark.parametrize("prompts", [STRANGE, FLAGS, BIRDS], ids=lambda prompts: prompts.name)


def read(kind: str, folder: Path) -> dict[str, Any]:
    """What datumaro finds: in an environment of its own, its dependencies conflict with the library's.

    `python -m venv .cache/datumaro && .cache/datumaro/bin/pip install datumaro==1.13.12` makes it.
    """
    if shutil.which("datum", path=str(_FOLDER)) is None:
        pytest.skip("datumaro is not installed")
    script = Path(__file__).parent / "read_datumaro.py"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [_FOLDER / "python", script, kind, folder], capture_output=True, text=True, env=alone, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def expected(item: Item) -> list[tuple[str, float, float]]:
    return [(label, score, cosine) for label, score, cosine in label_scores(item) if score and cosine]


def found_labels(entry: dict[str, Any]) -> list[tuple[str, float, float]]:
    return [(each["label"], float(each["score"]), float(each["cosine"])) for each in entry["labels"]]


@SETS
def test_datumaro_reads_the_cvat_xml(tmp_path: Path, prompts: PromptSet) -> None:
    items = items_of_each(prompts)
    names = [f'föl "der" & <x>/{item.position}.jpg' for item in items]
    documents = cvat_documents(items, names, prompts, queue="q", task_size=3)
    found: dict[str, Any] = {}
    for document in documents:
        if document.name.endswith(".xml"):
            folder = tmp_path / document.name.removesuffix(".xml")
            folder.mkdir()
            (folder / "annotations.xml").write_bytes(document.data)
            (manifest,) = [each.data for each in documents if each.name == f"{folder.name}-manifest.jsonl"]
            lines = [json.loads(line) for line in manifest.splitlines()][2:]
            for line in lines:  # datumaro wants the images to be there
                image = folder / "images" / f"{line['name']}{line['extension']}"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(image_bytes())
            task = read("cvat", folder)
            assert list(task["items"]) == [line["name"] for line in lines]
            found |= {line["meta"]["image_id"]: task["items"][line["name"]] for line in lines}
            assert len(lines) <= 3
    assert list(found) == [item.image_id for item in items]
    for item in items:
        assert found_labels(found[item.image_id]) == [
            (label, pytest.approx(score, rel=1e-5), pytest.approx(cosine, rel=1e-5))
            for label, score, cosine in expected(item)
        ]
        assert found[item.image_id]["size"] == [480, 640]
    assert sum(len(entry["labels"]) for entry in found.values()) == sum(
        len(item.shown or ()) for item in items
    )


@SETS
def test_datumaro_reads_its_own_json(tmp_path: Path, prompts: PromptSet) -> None:
    items = items_of_each(prompts)
    (document,) = datumaro_documents(items, [Place(uri=item.uri) for item in items], prompts)
    path = tmp_path / document.name
    path.parent.mkdir()
    path.write_bytes(document.data)
    found = read("datumaro", tmp_path)
    parents = {label.id: label.parent or "" for label in prompts.labels}
    assert found["labels"] == parents | ({"__none__": ""} if prompts.none else {})
    assert sorted(found["items"]) == sorted(item.image_id for item in items)
    for item in items:
        entry = found["items"][item.image_id]
        assert found_labels(entry) == expected(item)
        assert entry["size"] == [480, 640]
        assert entry["attributes"]["why"] == item.why and entry["attributes"]["uri"] == item.uri
        assert ("margin" in entry["attributes"]) == (item.shown is not None)
