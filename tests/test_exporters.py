"""The exporters' own checks: what the tools would take in silence and show wrong."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.review.exporters.cvat import check_names, cvat_documents, task_labels
from clip_transforms.review.exporters.datumaro import datumaro_documents
from clip_transforms.review.exporters.fiftyone import fiftyone_documents
from clip_transforms.review.exporters.images import (
    Place,
    below,
    copied_places,
    label_studio_urls,
    name_in_task,
    own_places,
)
from clip_transforms.review.exporters.items import Item, tempered_scores
from clip_transforms.review.exporters.label_studio import read_tasks, task_documents
from clip_transforms.review.exporters.label_studio_config import labeling_config, read_config
from clip_transforms.review.exporters.tables import csv_documents
from clip_transforms.scoring import score
from clip_transforms.storage import Store
from clip_transforms.text_features import TextFeatures
from tests.export_kit import BIRDS, FLAGS, STRANGE, item, items_of_each


def label_studio(items: list[Item], prompts: PromptSet) -> None:
    urls = [f"https://example.org/{each.position}.jpg" for each in items]
    task_documents(items, urls, prompts, queue="q", export="e", shard_size=100, lines=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probability": float("nan")}, "score nan, expected a number from 0 to 1"),
        ({"probability": 1.01}, "score 1.01"),
        ({"probability": -0.01}, "score -0.01"),
        ({"margin": float("nan")}, "has the margin nan"),
        ({"entropy": float("inf")}, "has the entropy inf"),
        ({"shown": ("a, b | c", "-")}, "has 2 labels, a, b | c, -, where one is expected"),
        ({"shown": ("A, B | C",)}, "has the label 'A, B | C', expected 'a, b | c'"),
        ({"shown": ("None of these.",)}, "expected its alias '__none__'"),
        ({"shown": ("gone",)}, "which the set does not have"),
    ],
)
def test_label_studio_gets_nothing_that_it_would_show_wrong(changes: dict[str, Any], said: str) -> None:
    items = [item(0, "-", prompts=STRANGE), replace(item(1, "-", prompts=STRANGE), **changes)]
    with pytest.raises(RequestError) as found:
        label_studio(items, STRANGE)
    assert said in str(found.value) and "'image-1'" in str(found.value)


def test_paths_of_a_taxonomy_are_whole() -> None:
    label_studio(items_of_each(BIRDS), BIRDS)
    for path in (("owl",), ("bird", "owl"), ("animal", "owl"), ("animal", "bird", "owl", "owl")):
        with pytest.raises(RequestError, match="no path from the taxonomy's root"):
            label_studio([item(0, "owl", prompts=BIRDS, paths=(path,))], BIRDS)


@pytest.mark.parametrize("tool", ["label-studio", "cvat", "datumaro", "fiftyone", "csv"])
def test_an_image_id_comes_once(tool: str) -> None:
    items = [item(0, "text", prompts=FLAGS), item(1, "logo", prompts=FLAGS, image_id="image-0")]
    places = [Place(uri=each.uri) for each in items]
    writers = {
        "label-studio": lambda: label_studio(items, FLAGS),
        "cvat": lambda: cvat_documents(items, ["a", "b"], FLAGS, queue="q", task_size=1),
        "datumaro": lambda: datumaro_documents(items, places, FLAGS),
        "fiftyone": lambda: fiftyone_documents(items, places, FLAGS, queue="q"),
        "csv": lambda: csv_documents(items, FLAGS, queue="q"),
    }
    with pytest.raises(RequestError, match="the image id 'image-0' comes twice"):
        writers[tool]()


def test_figures_that_json_cannot_hold() -> None:
    items = [item(0, "text", prompts=FLAGS, margin=float("nan"))]
    places = [Place(uri=each.uri) for each in items]
    for write in (
        lambda: datumaro_documents(items, places, FLAGS),
        lambda: fiftyone_documents(items, places, FLAGS, queue="q"),
    ):
        with pytest.raises(RequestError, match="no number"):
            write()


def test_labels_of_another_set_or_too_many() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"shown": ("dog",)}, "which the set does not have"),
        ({"shown": ("cat", "stone")}, "2 labels in a single-label"),
        ({"probability": float("nan")}, "has the score nan"),
        ({"probability": 1.5}, "has the score 1.5"),
    ]
    for changes, said in wrong:
        items = [item(0, "cat", prompts=BIRDS, **changes)]
        places = [Place(uri=each.uri) for each in items]
        for write in (
            lambda items=items: cvat_documents(items, ["a"], BIRDS, queue="q", task_size=5),
            lambda items=items, places=places: datumaro_documents(items, places, BIRDS),
            lambda items=items, places=places: fiftyone_documents(items, places, BIRDS, queue="q"),
        ):
            with pytest.raises(RequestError, match=said):
                write()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/1.jpg", "b/1.jpg", "a/1.png"], "a/1.jpg and a/1.png, which CVAT cannot tell apart"),
        (["1.jpg", "1.jpg"], "cannot tell apart"),
        (["a\x01.jpg"], "cannot be written for CVAT"),
        ([" a.jpg"], "cannot be written for CVAT"),
        ([""], "cannot be written for CVAT"),
    ],
)
def test_names_that_cvat_would_mix_up(names: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_names(names)


def test_each_cvat_task_has_its_own_images_alone() -> None:
    items = [item(number, "text", prompts=FLAGS) for number in range(5)]
    names = [f"{number % 2}.jpg" for number in range(5)]  # alike in different tasks: fine
    documents = {each.name: each.data for each in cvat_documents(items, names, FLAGS, queue="q", task_size=2)}
    assert sorted(documents) == [
        "q-labels.json",
        *(f"q-task000{task}{end}" for task in range(3) for end in ("-manifest.jsonl", ".xml")),
    ]
    for task, expected in enumerate((["0.jpg", "1.jpg"], ["0.jpg", "1.jpg"], ["0.jpg"])):
        root = ET.fromstring(documents[f"q-task000{task}.xml"])
        assert [image.get("name") for image in root.iter("image")] == expected
        assert {tag.get("source") for tag in root.iter("tag")} == {"auto"}
    assert json.loads(documents["q-labels.json"]) == task_labels(FLAGS)


def test_several_labels_of_one_image_are_several_tags() -> None:
    made = item(0, "text", "logo", "blur", prompts=FLAGS)
    made = replace(made, guesses=made.guesses[:2])  # the third is beyond the top k: its score is not stored
    (_, xml, _) = cvat_documents([made], ["a.jpg"], FLAGS, queue="q", task_size=5)
    tags = list(ET.fromstring(xml.data).iter("tag"))
    assert [tag.get("label") for tag in tags] == ["text", "logo", "blur"]
    assert [[(each.get("name"), each.text) for each in tag] for tag in tags] == [
        [("score", "0.3"), ("cosine", "0.25")],
        [("score", "0.29"), ("cosine", "0.25")],
        [],
    ]


def test_the_configuration_says_what_labels_mean() -> None:
    prompts = PromptSet(
        name="cranes",
        labels=(Label(id="crane-bird", name="crane", description="tall,\n grey"), Label(id="tower_crane")),
    )
    choices = list(ET.fromstring(labeling_config(prompts)).iter("Choice"))
    assert [dict(choice.attrib) for choice in choices] == [
        {"value": "crane-bird", "hint": "crane: tall, grey"},
        {"value": "tower_crane"},
    ]
    rules = read_config(labeling_config(STRANGE))
    assert rules.values == {*(label.id for label in STRANGE.labels), "__none__"} and not rules.several
    assert rules.fields == {"image", "scores", "why", "source"}
    assert read_config(labeling_config(FLAGS)).several
    birds = read_config(labeling_config(BIRDS))
    assert birds.kind == "taxonomy" and not birds.several
    assert ("animal", "bird", "owl") in birds.paths and ("__none__",) in birds.paths and len(birds.paths) == 6


def test_labels_that_a_tool_cannot_hold() -> None:
    with pytest.raises(RequestError, match=r"begins with \$"):
        labeling_config(PromptSet(name="x", labels=(Label(id="$5"), Label(id="a"))))
    for name in ("a|b", "-"):
        prompts = PromptSet(name="x", task="multi", labels=(Label(id=name), Label(id="c")))
        with pytest.raises(RequestError, match="cannot be told from"):
            csv_documents([], prompts, queue="q")
    assert csv_documents([], STRANGE, queue="q")


def test_where_images_are() -> None:
    here = [
        Place(uri=uri) for uri in ("gs://b/a b.jpg", "s3://b/x/#1.jpg", "https://h/a?q=1", "/photos/ä 1#.jpg")
    ]
    assert label_studio_urls(here, "/") == [
        "gs://b/a b.jpg",
        "s3://b/x/#1.jpg",
        "https://h/a?q=1",
        "/data/local-files/?d=photos/%C3%A4%201%23.jpg",
    ]
    assert [name_in_task(place, None) for place in here] == ["a b.jpg", "x/#1.jpg", "a", "ä 1#.jpg"]
    assert name_in_task(Place(uri="/photos/x/1.jpg"), "/photos") == "x/1.jpg"
    with pytest.raises(RequestError, match=r"give the folder above, --document-root /$"):
        label_studio_urls(here, "/photos")
    with pytest.raises(RequestError, match="Label Studio opens"):
        label_studio_urls([Place(uri="memory://a/1.jpg")], "/photos")
    with pytest.raises(RequestError, match="not below"):
        below("/photos-2/1.jpg", "/photos")
    for uri in ("/s/00.tar#a/1", "gs://b/x.parquet#17"):
        with pytest.raises(RequestError, match="1 images are in a shard"):
            own_places([item(0, prompts=FLAGS, uri=uri), item(1, prompts=FLAGS)])


def test_copies_have_plain_names(tmp_path: Path) -> None:
    items = [item(n, prompts=FLAGS, image_id=key) for n, key in enumerate(("a1", "../x", "ä/ö", "a" * 300))]
    names = [Path(place.uri).name for place in copied_places(items, Store(str(tmp_path)))]
    assert names[0] == "a1.jpg" and len(set(names)) == 4
    assert all(len(name) == 36 for name in names[1:])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "no JSON export"),
        (b'{"a": 1}', "no JSON export"),
        (b"[1]", "no JSON export"),
        (b"[]", "no task with an image_id"),
        (b'[{"id": 1, "data": {"image": "x"}}]', "no task with an image_id"),
    ],
)
def test_what_is_no_export_of_label_studio(data: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_tasks(data, "file.json")


@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibrated_top_k_is_what_scoring_at_the_temperature_gives(
    family: str, task: str, temperature: float
) -> None:
    """It is derived from the stored row alone: the raw top k, and the calibrated probability of the label."""
    names = tuple(f"label-{number}" for number in range(6))
    prompts = PromptSet(name="x", task=task, labels=tuple(Label(id=name) for name in names))  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    vectors, texts = _unit(rng, 40), _unit(rng, 8)
    keys = tuple(dict.fromkeys((*names, *prompts.prompts_by_class())))
    told = {"texts": (1,) * len(keys), "fingerprint": "f", "encoder": "fake"}
    features = TextFeatures(keys=keys, matrix=texts[: len(keys)], **told)  # type: ignore[arg-type]
    asked = {"family": family, "logit_scale": 8.0, "logit_bias": -1.0 if family == "sigmoid" else 0.0}
    stored = score(vectors, features, prompts, top_k=4, temperature=temperature, **asked)  # type: ignore[arg-type]
    cooled = {**asked, "logit_scale": 8.0 / temperature, "logit_bias": asked["logit_bias"] / temperature}
    expected = score(vectors, features, prompts, top_k=4, **cooled)  # type: ignore[arg-type]
    for row in range(40):
        found = tempered_scores(
            stored.top_score[row].tolist(),
            0,
            float(stored.calibrated[row]),
            temperature,
            apart=task == "multi",
        )
        assert found == pytest.approx(expected.top_score[row].tolist(), abs=2e-5)


def _unit(rng: np.random.Generator, rows: int) -> Any:
    vectors = rng.standard_normal((rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_group_has_no_calibrated_top_k_in_a_softmax_set() -> None:
    assert tempered_scores([0.4, 0.3], None, 0.7, 2.0, apart=False) is None
