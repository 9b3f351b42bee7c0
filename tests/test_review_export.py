"""`beamclip review export`: what each tool gets, what is refused before anything is written."""

from __future__ import annotations

import csv
import io
import json
import runpy
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.calibration import Calibration, calibration_name
from clip_transforms.storage import Store
from pipelines.review_export_flags import TOOLS, build_export_parser
from schemas.queues import QUEUE
from tests.helpers import image_bytes
from tests.review_kit import add_reviews, add_unit, new_run, random_run
from tests.runs import beamclip, written

SETS = {
    "pets": "version: 1\nname: pets\nnone: [a wall]\nlabels: [cat, dog, owl]\n",
    "sure": "version: 1\nname: sure\nthreshold: 0.9\ntemplates: ['{}']\n"
    "labels: [{id: cat, prompts: [pet], templates: []}, {id: dog, prompts: [pet], templates: []}]\n",
    "flags": "version: 1\nname: flags\ntask: multi\nlabels: [text, logo, blur]\n",
    "birds": "version: 1\nname: birds\nlabels:\n  - {id: bird, group: true}\n"
    "  - {id: owl, parent: bird}\n  - {id: wren, parent: bird}\n  - stone\n",
}
NAMES = ("a.jpg", 'quote "x".jpg', "comma, semi;.jpg", "føl 猫.jpg", "b c.jpg", "d&e<f>.jpg")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of awkward names with four label sets."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "photos").mkdir()
    for number, name in enumerate(NAMES):
        (folder / "photos" / name).write_bytes(image_bytes(seed=number))
    for name, text in SETS.items():
        (folder / f"{name}.yaml").write_text(text)
    prompts = [folder / f"{name}.yaml" for name in SETS]
    asked = ("--input", folder / "photos", "--encoder", "fake", "--quiet", "--output", folder / "run")
    assert beamclip("label", *asked, "--prompts", *prompts) == 0
    return folder / "run"


def export(run: Path | str, output: Path, to: str, *args: object, set_name: str | None = "pets") -> int:
    """The exit code of an export of everything."""
    chosen = () if set_name is None else ("--set", set_name)
    root = ()
    if to == "label-studio" and "--tasks" not in args and "--images" not in args:
        root = ("--document-root", Path(run).parent) if "--document-root" not in args else ()
    return beamclip("review", "export", run, "--to", to, "--output", output, *chosen, *root, *args)


def tasks(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("tasks-*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def labels(run: Path, name: str) -> dict[str, dict[str, Any]]:
    """The label rows of a set by image id."""
    (folder,) = (run / "labels").glob(f"{name}@*")
    return {row["image_id"]: row for row in pq.read_table(folder).to_pylist()}


def test_the_import_of_several_cvat_tasks_names_all_their_manifests(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "cvat", "cvat", "--task-size", 2) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next ")]
    made = sorted((tmp_path / "cvat").glob("*-manifest.jsonl"))
    assert len(made) == 3 and [word for word in line.split() if word.endswith(".jsonl")] == list(
        map(str, made)
    )


def test_every_tool_gets_the_same_queue(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set((run / "queues").glob("*")) if (run / "queues").exists() else set()
    for tool in TOOLS:
        assert export(run, tmp_path / tool, tool, "--seed", 7) == 0
    said = capsys.readouterr().out
    (queue,) = set((run / "queues").glob("*")) - before
    assert said.count(f"kept as queues/{queue.name}") == len(TOOLS)
    assert "images    6 of 6:" in said
    table = pq.read_table(queue)
    assert table.schema.equals(QUEUE, check_metadata=False)
    ids = table["image_id"].to_pylist()
    assert sorted(ids) == sorted(labels(run, "pets"))
    assert [task["data"]["image_id"] for task in tasks(tmp_path / "label-studio")] == ids
    answers = list(csv.DictReader(io.StringIO((tmp_path / "csv" / f"{queue.stem}.csv").read_text())))
    assert [row["image_id"] for row in answers] == ids
    assert pq.read_table(tmp_path / "parquet" / queue.name)["image_id"].to_pylist() == ids
    datumaro = json.loads((tmp_path / "datumaro" / "annotations" / "default.json").read_text())
    assert [item["id"] for item in datumaro["items"]] == ids
    samples = json.loads((tmp_path / "fiftyone" / "labels.json").read_text())["samples"]
    assert [sample["image_id"] for sample in samples.values()] == ids
    manifest = (tmp_path / "cvat" / f"{queue.stem}-task0000-manifest.jsonl").read_text(encoding="utf-8")
    named = [json.loads(line) for line in manifest.splitlines()][2:]
    assert [line["meta"]["image_id"] for line in named] == ids
    assert {line["name"] + line["extension"] for line in named} == set(NAMES)


def test_label_studio_is_shown_what_the_model_thinks(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path, "label-studio") == 0
    rows = labels(run, "pets")
    for task in tasks(tmp_path):
        row, data = rows[task["data"]["image_id"]], task["data"]
        assert data["image"].startswith("/data/local-files/?d=photos/") and '"' not in data["image"]
        assert (data["uri"], data["margin"], data["entropy"]) == (row["uri"], row["margin"], row["entropy"])
        assert data["shown"] == [row["label"]] and data["prompt_set"] == row["prompt_set"]
        assert all(
            guess["label"].replace("__none__", "none of these") in data["scores"] for guess in row["top_k"]
        )
        assert "not calibrated" in data["scores"]
        (prediction,) = task["predictions"]
        assert prediction["score"] == row["score"]
        assert prediction["model_version"] == f"fake@{row['prompt_set']}"
        assert prediction["result"][0]["value"] == {"choices": [row["label"]]}


def test_sets_of_every_kind(run: Path, tmp_path: Path) -> None:
    for name in SETS:
        for tool in TOOLS:
            assert export(run, tmp_path / name / tool, tool, set_name=name) == 0, (name, tool)
    for task in tasks(tmp_path / "flags" / "label-studio"):
        row = labels(run, "flags")[task["data"]["image_id"]]
        (prediction,) = task["predictions"]
        assert prediction["score"] == row["margin"]
        found = prediction["result"][0]["value"]["choices"] if prediction["result"] else []
        assert found == row["labels"]
    for task in tasks(tmp_path / "sure" / "label-studio"):  # abstained: in the order of work, without a label
        assert task["predictions"][0]["result"] == [] and task["data"]["shown"] == []
    for task in tasks(tmp_path / "birds" / "label-studio"):
        row = labels(run, "birds")[task["data"]["image_id"]]
        assert task["predictions"][0]["result"][0]["value"] == {"taxonomy": [row["path"]]}
    config = (tmp_path / "birds" / "label-studio" / "label-studio.xml").read_text()
    assert "<Taxonomy" in config and 'maxUsages="1"' in config


def test_a_blind_audit_tells_nothing(run: Path, tmp_path: Path) -> None:
    for tool in TOOLS:
        assert export(run, tmp_path / tool, tool, "--audit", 6, "--limit", 6, "--blind", "--seed", 3) == 0
    for task in tasks(tmp_path / "label-studio"):
        assert task["predictions"] == []
        assert not {"margin", "entropy", "top_k", "cosine", "shown", "selection_prob"} & set(task["data"])
        assert task["data"]["scores"] == "not shown: judge the picture alone"
    words = ("cat", "dog", "owl", "none")
    for path in tmp_path.rglob("*"):
        if path.suffix in (".csv", ".jsonl"):
            assert not [word for word in words if word in path.read_text()], path
    assert "<tag" not in next((tmp_path / "cvat").glob("*.xml")).read_text()
    (parquet,) = (tmp_path / "parquet").glob("*")
    (row, *_) = pq.read_table(parquet).to_pylist()
    for name in ("label", "score", "margin", "entropy", "top_k", "cosine", "decision"):
        assert row[name] is None
    datumaro = json.loads((tmp_path / "datumaro" / "annotations" / "default.json").read_text())
    assert all(not item["annotations"] and "margin" not in item["attr"] for item in datumaro["items"])


def test_a_csv_comes_empty_and_survives_awkward_names(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path, "csv") == 0
    (path,) = tmp_path.glob("*.csv")
    head, *_ = path.read_text(encoding="utf-8").splitlines()
    assert head.startswith(
        "image_id,uri,prompt_set,shown,labels,reviewer,reviewed_at,lead_time,comment,sha256,"
    )
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    rows = labels(run, "pets")
    assert {Path(row["uri"]).name for row in found} == set(NAMES)
    for row in found:
        assert row["shown"] == rows[row["image_id"]]["label"]
        assert not any(row[name] for name in ("labels", "reviewer", "reviewed_at", "lead_time", "comment"))


def test_answers_in_a_csv_are_not_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same export is the same queue, and the same name."""
    for _ in range(2):
        assert export(run, tmp_path / "out", "csv") == 0
    (path,) = (tmp_path / "out").iterdir()
    answered = path.read_text("utf-8").replace(",,,,,", ",cat,ann,,,", 1)
    path.write_text(answered, "utf-8")
    assert export(run, tmp_path / "out", "csv") == 2
    assert "was changed since it was written: it may hold answers" in capsys.readouterr().err
    assert path.read_text("utf-8") == answered
    assert export(run, tmp_path / "other", "csv") == 0


def test_the_folder_of_the_runs_own_queues_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Parquet file has the name of the stored queue, and would take its place without how it was drawn."""
    before = written(run)
    assert export(run, run / "queues", "parquet", "--seed", 77) == 2
    assert "is where the run keeps its queues" in capsys.readouterr().err and written(run) == before


def test_label_studio_files_are_bounded_and_new_each_time(run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert export(run, tmp_path, "label-studio", "--shard-size", 4) == 0
    files = sorted(path.name for path in tmp_path.glob("tasks-*"))
    assert len(files) == 4 and len({name.rsplit("-", 1)[0] for name in files}) == 2
    sizes = [len((tmp_path / name).read_text().splitlines()) for name in files]
    assert sizes == [4, 2, 4, 2]
    assert export(run, tmp_path / "json", "label-studio", "--task-format", "json", "--shard-size", 4) == 0
    arrays = [json.loads(path.read_text()) for path in sorted((tmp_path / "json").glob("tasks-*.json"))]
    assert [len(array) for array in arrays] == [4, 2]


def test_the_fiftyone_script_makes_a_sample_of_each_image(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for fiftyone that takes what its documentation says; not with fiftyone itself."""
    for name in ("pets", "flags", "sure"):
        assert export(run, tmp_path / name, "fiftyone", "--audit", 2, "--blind", set_name=name) == 0
        made = fake_fiftyone(monkeypatch)
        monkeypatch.setattr(sys, "argv", ["load.py", "mine"])
        runpy.run_path(str(tmp_path / name / "load.py"), run_name="__main__")
        rows = labels(run, name)
        assert len(made) == 6 and "6 images in the data set mine" in capsys.readouterr().out
        assert sum(sample["tags"] == ["blind"] for sample in made) == 2
        for sample in made:
            row = rows[sample["image_id"]]
            assert sample["filepath"] == row["uri"]
            if sample["tags"]:
                assert "prediction" not in sample and "margin" not in sample
            elif name == "pets":
                assert sample["prediction"] == {"label": row["label"], "confidence": row["score"]}
            elif name == "flags":
                found = [each["label"] for each in sample["prediction"]["classifications"]]
                assert found == row["labels"]
            else:
                assert "prediction" not in sample


def fake_fiftyone(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module with the three classes that the script uses; the samples that it adds."""
    made: list[dict[str, Any]] = []

    class Dataset:
        def __init__(self, name: str, persistent: bool) -> None:
            self.name, self.classes = name, {}
            assert persistent

        def add_samples(self, samples: list[dict[str, Any]]) -> None:
            made.extend(samples)

    module = types.ModuleType("fiftyone")
    module.Dataset = Dataset  # type: ignore[attr-defined]
    module.Sample = lambda **fields: dict(fields)  # type: ignore[attr-defined]
    module.Classification = lambda **fields: dict(fields)  # type: ignore[attr-defined]
    module.Classifications = lambda **fields: dict(fields)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return made


def test_images_of_shards_are_written_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard, run = tmp_path / "00000.tar", tmp_path / "run"
    with tarfile.open(shard, "w") as tar:
        for number in range(3):
            data = image_bytes(seed=number)
            info = tarfile.TarInfo(f"val/{number}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "pets.yaml").write_text(SETS["pets"])
    asked = ("--encoder", "fake", "--prompts", tmp_path / "pets.yaml", "--quiet", "--output", run)
    assert beamclip("label", "--input", shard, *asked) == 0
    assert export(run, tmp_path / "out", "label-studio", "--document-root", tmp_path) == 2
    assert "3 images are in a shard or a Parquet file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (run / "queues").exists()
    copies = tmp_path / "copies"
    for tool in ("label-studio", "cvat", "fiftyone"):
        assert export(run, tmp_path / "out" / tool, tool, "--images", copies) == 0
    rows = labels(run, "pets")
    for task in tasks(tmp_path / "out" / "label-studio"):
        name = task["data"]["image"].removeprefix("/data/local-files/?d=copies/")
        number = int(rows[task["data"]["image_id"]]["uri"].rsplit("/", 1)[1])
        assert (copies / name).read_bytes() == image_bytes(seed=number)
    below = ("--images", copies, "--document-root", tmp_path.parent)
    assert export(run, tmp_path / "again", "label-studio", *below) == 0
    there = f"?d={tmp_path.name}/copies/"
    assert all(there in task["data"]["image"] for task in tasks(tmp_path / "again"))
    shard.unlink()
    assert export(run, tmp_path / "gone", "label-studio", "--images", tmp_path / "none", "--seed", 1) == 1
    assert "3 of 3 images cannot be read any more" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists() and len(list((run / "queues").glob("*"))) == 1


def test_a_run_in_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "memory://exported/run"
    run = random_run(Store(url), 300)
    add_reviews(run.store, [str(number) for number in range(10)])
    asked = ("--limit", 40, "--audit", 10)
    for tool in TOOLS:
        output = f"memory://exported/{tool}"
        assert beamclip("review", "export", url, "--to", tool, "--output", output, *asked) == 0
    assert "10 audit" in capsys.readouterr().out
    files = fsspec.filesystem("memory").find("exported/run/queues")
    assert len(files) == 1
    assert len(fsspec.filesystem("memory").find("exported/label-studio")) == 2
    (shard,) = fsspec.filesystem("memory").glob("exported/label-studio/tasks-*")
    first = json.loads(fsspec.filesystem("memory").cat_file(shard).splitlines()[0])
    assert first["data"]["image"] == f"gs://bucket/photos/{first['data']['image_id']}.jpg"


def test_when_all_is_reviewed_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = random_run(Store(str(tmp_path / "run")), 20)
    add_reviews(run.store, [str(number) for number in range(20)], audit=True)
    assert export(tmp_path / "run", tmp_path / "out", "csv") == 0
    assert "nothing to review" in capsys.readouterr().out
    assert not (tmp_path / "out").exists() and not (tmp_path / "run" / "queues").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--to", "csv", "--set", "nope"), "has no such label set; it has birds, flags, pets, sure"),
        (("--to", "csv"), "--set is missing"),
        (("--to", "csv", "--set", "pets@00000000"), "pets@00000000"),
        (("--to", "csv", "--set", "pets", "--limit", "0"), "--limit 0"),
        (
            ("--to", "csv", "--set", "pets", "--limit", "5", "--audit", "6"),
            "--audit 6: expected 0 to --limit",
        ),
        (
            ("--to", "csv", "--set", "pets", "--document-root", "/x"),
            "--document-root does not go with --to csv",
        ),
        (("--to", "csv", "--set", "pets", "--images", "x"), "--images does not go with --to csv"),
        (("--to", "cvat", "--set", "pets", "--tasks", "x"), "--tasks does not go with --to cvat"),
        (("--to", "csv", "--set", "pets", "--allow-private-urls"), "--allow-private-urls is for --images"),
        (("--to", "label-studio", "--set", "pets"), "--document-root DIR says what Label Studio serves"),
        (
            ("--to", "label-studio", "--set", "pets", "--document-root", "/elsewhere"),
            "is not below --document-root /elsewhere",
        ),
        (("--to", "label-studio", "--set", "pets", "--tasks", "/no/such.json"), "there is no such file"),
        (("--to", "coco", "--set", "pets"), "invalid choice: 'coco'"),
        (("--to", "csv", "--set", "pets", "--queue", "random"), "invalid choice: 'random'"),
        (("--to", "csv", "--set", "pets", "--blind", "--audit", "0"), "--audit is 0"),
    ],
)
def test_wrong_requests_write_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], said: str
) -> None:
    kept = set(run.rglob("*"))
    assert beamclip("review", "export", run, "--output", tmp_path / "out", *args) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and set(run.rglob("*")) == kept


def test_an_output_that_cannot_be_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    kept = set(run.rglob("*"))
    assert export(run, tmp_path / "file" / "out", "csv", "--seed", 11) == 2
    assert "cannot be written" in capsys.readouterr().err and set(run.rglob("*")) == kept


def test_no_run_and_a_run_without_labels(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "nothing", tmp_path / "out", "csv") == 2
    assert "holds no run of beamclip" in capsys.readouterr().err
    run = tmp_path / "run"
    assert beamclip("embed", "--input", images, "--encoder", "fake", "--quiet", "--output", run) == 0
    assert export(run, tmp_path / "out", "csv", set_name=None) == 2
    assert "has no labels" in capsys.readouterr().err


def test_every_flag_has_help() -> None:
    assert all(action.help for action in build_export_parser()._actions)


def test_labels_of_another_runs_embeddings(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / "pets.yaml").write_text(SETS["pets"])
    asked = ("--prompts", tmp_path / "pets.yaml", "--quiet", "--output", other)
    assert beamclip("label", "--from-run", run, *asked) == 0
    assert export(other, tmp_path / "out", "csv") == 0
    assert len(list((other / "queues").glob("*"))) == 1
    (path,) = (tmp_path / "out").glob("*.csv")
    assert len(path.read_text().splitlines()) == 7


def test_a_calibrated_set_shows_calibrated_probabilities(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    calibration = Calibration(base="pets@00000000", temperature=2.0, accept={})
    tag = new_run(store, calibration=calibration.hash)
    store.write(calibration_name(tag), calibration.to_json())
    margins = np.array([0.6, 0.2])
    best = (1 + margins) / 2
    calibrated = best**0.5 / (best**0.5 + (1 - best) ** 0.5)
    add_unit(
        store,
        tag,
        0,
        ids=["a", "b"],
        vectors=np.eye(2),
        margins=margins,
        phashes=np.array([1, 2**40 - 1], np.uint64),
        calibrated=calibrated.astype(np.float32),
    )
    assert export(tmp_path / "run", tmp_path / "out", "label-studio") == 0
    first = next(task for task in tasks(tmp_path / "out") if task["data"]["image_id"] == "a")
    assert first["predictions"][0]["score"] == pytest.approx(2 / 3)
    assert first["data"]["top_k"] == "cat 0.667|dog 0.333"
    assert first["data"]["scores"].startswith(
        "cat 0.667 (cosine 0.200) | dog 0.333 (cosine 0.050) | margin 0.600"
    )


def test_a_queue_is_plain_parquet(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path, "parquet") == 0
    (path,) = tmp_path.glob("*.parquet")
    assert pa.types.is_float32(pq.read_schema(path).field("margin").type)
