"""What is exported for Label Studio, against a real server of it that validates predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clip_transforms.elements import RequestError
from clip_transforms.prompts import PromptSet
from clip_transforms.review.exporters.label_studio import prediction_documents, read_tasks, task_documents
from clip_transforms.review.exporters.label_studio_config import check_task, labeling_config, read_config
from tests.export_kit import BIRDS, FLAGS, STRANGE, items_of_each
from tests.helpers import image_bytes
from tests.label_studio_kit import LabelStudio, Refused
from tests.runs import beamclip

pytestmark = [pytest.mark.label_studio, pytest.mark.slow]


def exported(prompts: PromptSet) -> tuple[str, list[dict[str, Any]]]:
    """The configuration, and the tasks, of one item of each kind."""
    items = items_of_each(prompts)
    config, *shards = task_documents(
        items,
        [f"https://example.org/{item.position}.jpg" for item in items],
        prompts,
        queue="q",
        export="e",
        shard_size=3,
        lines=False,
    )
    return config.data.decode(), [task for shard in shards for task in json.loads(shard.data)]


def values(task: dict[str, Any]) -> list[Any]:
    """What the predictions of a task say."""
    return [
        value
        for prediction in task["predictions"]
        for region in prediction["result"]
        for value in region["value"][region["type"]]
    ]


@pytest.mark.parametrize("prompts", [STRANGE, FLAGS, BIRDS], ids=lambda prompts: prompts.name)
def test_the_server_takes_each_label_and_shows_it(label_studio: LabelStudio, prompts: PromptSet) -> None:
    config, tasks = exported(prompts)
    project = label_studio.project(config)
    predicted = len(tasks) - 1  # all but the blind one
    answer = label_studio.load(project, tasks)
    assert (answer["task_count"], answer["prediction_count"]) == (len(tasks), predicted)
    found = {task["data"]["image_id"]: task for task in label_studio.tasks(project)}
    for task in tasks:
        stored = found[task["data"]["image_id"]]
        assert stored["data"] == task["data"]
        assert values(stored) == values(task)
        assert [each["score"] for each in stored["predictions"]] == [
            each["score"] for each in task["predictions"]
        ]
    shown = {json.dumps(value) for task in tasks for value in values(task)}
    assert len(shown) == len(prompts.labels) + bool(prompts.none)


def test_the_order_of_work_an_answer_and_its_way_back(label_studio: LabelStudio, tmp_path: Path) -> None:
    """The whole way of the command: the least sure image first, answered, exported, and imported again."""
    samples = Path(__file__).parent.parent / "clip_transforms" / "samples"
    run, out = tmp_path / "run", tmp_path / "out"
    assert beamclip("label", "--input", samples, "--prompts", "samples", "--output", run, "--quiet") == 0
    asked = [
        "--to",
        "label-studio",
        "--task-format",
        "json",
        "--document-root",
        samples.parent,
        "--output",
        out,
    ]
    assert beamclip("review", "export", run, *asked, "--limit", 12, "--audit", 4, "--blind") == 0
    config = (out / "label-studio.xml").read_text()
    (shard,) = out.glob("tasks-*.json")
    tasks = json.loads(shard.read_text())
    version = next(task["predictions"][0]["model_version"] for task in tasks if task["predictions"])
    project = label_studio.project(config, sampling="Uncertainty sampling", model_version=version)
    label_studio.load(project, tasks)
    order = answer_all(label_studio, project, "cat")
    scores = [task["predictions"][0]["score"] for task in order if task["predictions"]]
    assert scores == sorted(scores) and len(scores) == len(tasks) - 4
    assert all(not task["predictions"] for task in order[len(scores) :])  # those without come last
    (tmp_path / "export.json").write_text(json.dumps(label_studio.export(project)))
    back = read_tasks((tmp_path / "export.json").read_bytes(), "export.json")
    assert sorted(back) == sorted(task["data"]["image_id"] for task in tasks)
    new_predictions(label_studio, project, run, tmp_path)


def answer_all(label_studio: LabelStudio, project: int, label: str) -> list[dict[str, Any]]:
    """Answer one task after the other as the server serves them; the tasks in their order."""
    order = []
    while True:
        try:
            task = label_studio.call("GET", f"/api/projects/{project}/next")
        except Refused:  # there is none left
            return order
        order.append(task)
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        label_studio.call(
            "POST", f"/api/tasks/{task['id']}/annotations/", {"result": [choice], "lead_time": 2.5}
        )


def new_predictions(label_studio: LabelStudio, project: int, run: Path, tmp_path: Path) -> None:
    """Predictions alone, for the tasks that are there: not for the blind ones."""
    asked = ["--to", "label-studio", "--tasks", tmp_path / "export.json", "--output", tmp_path / "again"]
    assert beamclip("review", "export", run, *asked) == 0
    (shard,) = (tmp_path / "again").glob("*")
    predictions = json.loads(shard.read_text())
    before = {task["id"]: len(task["predictions"]) for task in label_studio.tasks(project)}
    label_studio.call("POST", f"/api/projects/{project}/import/predictions", predictions)
    after = {task["id"]: len(task["predictions"]) for task in label_studio.tasks(project)}
    assert after == {task: 2 * count for task, count in before.items()}
    assert sorted(each["task"] for each in predictions) == sorted(
        task for task, count in before.items() if count
    )


def test_the_server_refuses_what_it_refuses_and_the_exporter_refuses_the_rest(
    label_studio: LabelStudio,
) -> None:
    """Each wrong task is refused by the exporter; the server lets those through that are marked so."""
    wrong: list[tuple[PromptSet, dict[str, Any], bool]] = [
        (STRANGE, {"choices": ["a, b | c", "-"]}, True),  # two choices where one is asked for
        (STRANGE, {"choices": ["A, B | c"]}, False),
        (STRANGE, {"choices": ["None of these."]}, False),  # the text shown, in place of the alias
        (STRANGE, {"choices": "-"}, False),
        (FLAGS, {"choices": ["text", "text"]}, True),
        (BIRDS, {"taxonomy": [["owl"]]}, True),  # a leaf without its path
        (BIRDS, {"taxonomy": [["bird", "animal", "owl"]]}, True),
        (BIRDS, {"taxonomy": [["animal", "cat"], ["stone"]]}, True),  # two where one is asked for
        (BIRDS, {"taxonomy": [["animal", "dog"]]}, False),
    ]
    projects = {
        prompts.name: label_studio.project(exported(prompts)[0]) for prompts in (STRANGE, FLAGS, BIRDS)
    }
    for prompts, value, taken in wrong:
        config, tasks = exported(prompts)
        task = next(task for task in tasks if values(task))
        task["predictions"][0]["result"][0]["value"] = value
        with pytest.raises(RequestError):
            check_task(task, read_config(config))
        assert accepted(label_studio, projects[prompts.name], task) == taken, value
    for score in (1.5, -0.1):
        config, tasks = exported(FLAGS)
        tasks[0]["predictions"][0]["score"] = score
        assert not accepted(label_studio, projects["flags"], tasks[0])


def accepted(label_studio: LabelStudio, project: int, task: dict[str, Any]) -> bool:
    try:
        label_studio.load(project, [task])
    except Refused:
        return False
    return True


def test_the_server_wants_every_text_that_its_configuration_shows(label_studio: LabelStudio) -> None:
    config, tasks = exported(FLAGS)
    project = label_studio.project(config)
    del tasks[0]["data"]["why"]
    with pytest.raises(RequestError, match="has no text in why"):
        check_task(tasks[0], read_config(config))
    assert not accepted(label_studio, project, tasks[0])


def test_the_server_shows_local_images_of_awkward_names(label_studio: LabelStudio, tmp_path: Path) -> None:
    """The urls of an export are served, once the project has a Local Files storage of their folder."""
    photos, run, out = label_studio.documents / "photos", tmp_path / "run", tmp_path / "out"
    photos.mkdir()
    names = ("plain.jpg", "ä 1#%.jpg", 'quote "x" & <y>.jpg', "comma, semi;?=.jpg")
    for number, name in enumerate(names):
        (photos / name).write_bytes(image_bytes(seed=number))
    asked = ("--input", photos, "--encoder", "fake", "--prompts", "animals", "--quiet", "--output", run)
    assert beamclip("label", *asked) == 0
    root = ("--document-root", label_studio.documents, "--task-format", "json", "--output", out)
    assert beamclip("review", "export", run, "--to", "label-studio", *root) == 0
    project = label_studio.project((out / "label-studio.xml").read_text())
    label_studio.serve(project, photos)
    (shard,) = out.glob("tasks-*.json")
    label_studio.load(project, json.loads(shard.read_text()))
    found = [label_studio.download(task["data"]["image"]) for task in label_studio.tasks(project)]
    assert sorted(found) == sorted(image_bytes(seed=number) for number in range(len(names)))


def test_predictions_for_tasks_that_are_there(label_studio: LabelStudio) -> None:
    config, tasks = exported(BIRDS)
    project = label_studio.project(config)
    label_studio.load(project, [replace_predictions(task) for task in tasks])
    known = read_tasks(json.dumps(label_studio.export(project)).encode(), "export")
    (document,) = prediction_documents(items_of_each(BIRDS), known, BIRDS, export="e", shard_size=100)
    label_studio.call("POST", f"/api/projects/{project}/import/predictions", json.loads(document.data))
    found = {task["data"]["image_id"]: values(task) for task in label_studio.tasks(project)}
    assert found == {task["data"]["image_id"]: values(task) for task in tasks}


def replace_predictions(task: dict[str, Any]) -> dict[str, Any]:
    return {**task, "predictions": []}


def test_a_label_that_is_none_of_these_by_name(label_studio: LabelStudio) -> None:
    """A set may have a label of the very words that are shown for `__none__`."""
    rules = read_config(labeling_config(STRANGE))
    assert rules.aliases == {"None of these.": "__none__"}
    assert {"None of these", "__none__"} <= rules.values
    assert replace(rules, aliases={}) != rules
