"""`beamclip evaluate` end to end: folders, columns and shards, stored runs, failures, and wrong requests."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.prompts import load_prompt_set
from clip_transforms.text_features import text_features
from pipelines.evaluate import build_evaluate_parser
from tests.helpers import image_bytes, make_image
from tests.models_kit import save_model
from tests.runs import beamclip, rows, summary, written

COUNTS = {"dog": 9, "Fish": 6, "polar_bear": 5, "unheard-of": 2}


def shades(folder: Path, count: int, *, seed: int) -> None:
    """`count` pictures that look much alike, as those of one class do."""
    folder.mkdir(parents=True)
    base = np.asarray(make_image(seed, (40, 40)), np.float64)
    rng = np.random.default_rng(seed)
    for number in range(count):
        picture = np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
        from PIL import Image

        (folder / f"{number}.png").write_bytes(image_bytes(Image.fromarray(picture), kind="PNG"))


def evaluation(run: Path, name: str) -> dict[str, Any]:
    """The figures of one set in evaluation.json."""
    content = json.loads((run / "evaluation" / "evaluation.json").read_text())
    return next(body for tag, body in content["sets"].items() if tag.startswith(f"{name}@"))


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders named by class: one name that the set spells otherwise, one that it does not have,
    and an image that is none."""
    root = tmp_path_factory.mktemp("pets") / "images"
    for seed, (name, count) in enumerate(COUNTS.items()):
        shades(root / name, count, seed=seed)
    (root / "dog" / "broken.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four single labels, one of them without images."""
    path = tmp_path_factory.mktemp("prompts") / "zoo.yaml"
    lines = ["version: 1", "name: zoo", "templates: ['a photo of a {}.', 'a drawing of a {}.']", "labels:"]
    path.write_text("\n".join([*lines, "  - dog", "  - fish", "  - polar-bear", "  - cow", ""]))
    return path


@pytest.fixture(scope="module")
def run(pets: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that `evaluate` has made: 22 images embedded, one failed."""
    output = tmp_path_factory.mktemp("runs") / "run"
    code = beamclip(
        *("evaluate", "--input", pets, "--labels-from", "folder", "--prompts", prompts),
        *("--encoder", "fake", "--output", output, "--quiet", "--compare", "bare", "--few-shot", "1", "2"),
    )
    assert code == 0
    yield output


def test_figures_are_those_of_the_plain_arithmetic(run: Path, prompts: Path) -> None:
    encoder, zoo = load(EncoderSpec(name="fake")), load_prompt_set(str(prompts))
    texts = text_features(zoo, encoder).rows(zoo.classes)
    truths = {"dog": "dog", "Fish": "fish", "polar_bear": "polar-bear"}
    known = [row for row in rows(run, "embeddings") if Path(row["uri"]).parent.name in truths]
    best = (np.array([row["embedding"] for row in known], np.float64) @ texts.T).argmax(axis=1)
    right = sum(
        zoo.classes[place] == truths[Path(row["uri"]).parent.name]
        for place, row in zip(best, known, strict=True)
    )
    found = evaluation(run, "zoo")
    top1 = found["single"]["top1"]
    assert (top1["right"], top1["of"]) == (right, 20)
    assert found["single"]["top1_failed_wrong"]["of"] == 21
    assert found["counts"]["unknown"] == 2
    assert found["counts"]["names"] == {"unheard-of": 2}
    assert found["failed"] == 1
    supports = {one["label"]: one["images"] for one in found["single"]["per_class"] if one["images"]}
    assert supports == {"dog": 9, "fish": 6, "polar-bear": 5}
    assert sum(map(sum, found["single"]["matrix"])) == 20


def test_the_run_is_a_run_of_embed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = summary(run)
    assert (told["inputs"], told["embedded"], told["failed"]) == (23, 22, 1)
    assert told["labels"] == {}
    capsys.readouterr()
    assert beamclip("status", run) == 0
    assert "23 = 22 embedded + 1 failed" in capsys.readouterr().out


def test_it_equals_what_label_writes(run: Path, prompts: Path, tmp_path: Path) -> None:
    other = tmp_path / "labels"
    assert beamclip("label", "--from-run", run, "--prompts", prompts, "--output", other, "--quiet") == 0
    folder = next((other / "labels").iterdir()).name
    truths = {"dog": "dog", "Fish": "fish", "polar_bear": "polar-bear"}
    pairs: dict[tuple[str, str], int] = {}
    for row in rows(other, f"labels/{folder}"):
        truth = truths.get(Path(row["uri"]).parent.name)
        if truth is not None:
            pair = (truth, row["top_k"][0]["label"])
            pairs[pair] = pairs.get(pair, 0) + 1
    single = evaluation(run, "zoo")["single"]
    labels = single["matrix_labels"]
    matrix = {
        (truth, named): count
        for truth, line in zip(labels, single["matrix"], strict=True)
        for named, count in zip(labels, line, strict=True)
        if count
    }
    assert matrix == pairs


def test_the_few_shot_comparison_and_its_plot(run: Path) -> None:
    found = evaluation(run, "zoo")["few_shot"]
    assert found["classes"] == ["dog", "fish", "polar-bear"]
    assert found["test_images"] + found["train_images"] == 20
    assert [point["shots"] for point in found["points"]] == [1, 2]
    assert all(point["mean"] > 0.95 for point in found["points"])  # each class is one colour scheme
    picture = ET.parse(run / "evaluation" / "few-shot-zoo.svg").getroot()
    circles = picture.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2
    assert "var(" not in (run / "evaluation" / "few-shot-zoo.svg").read_text()
    assert found["sentence"] in evaluation(run, "zoo")["verdicts"]


def test_the_page_is_complete_in_itself(run: Path) -> None:
    page = (run / "evaluation" / "evaluation.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") >= 3
    assert "http-equiv" in page and "default-src &#39;none&#39;" in page.replace("'", "&#39;")
    loads = [word for word in ("src=", "@import", "url(") if word in page]
    assert loads == []
    assert "unheard-of" in page
    assert "20 images judged" in page


def test_a_stored_run_is_evaluated_without_its_images(
    run: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(run)
    output = tmp_path / "elsewhere"
    command = ["evaluate", "--from-run", run, "--labels-from", "folder", "--prompts", prompts]
    assert beamclip(*command, "--output", output, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert written(run) == before
    assert written(output) == [
        "evaluation/evaluation.html",
        "evaluation/evaluation.json",
        "evaluation/reliability-zoo.svg",
    ]
    first, second = evaluation(run, "zoo"), evaluation(output, "zoo")
    assert first["single"] == second["single"]
    assert second["few_shot"] is None and second["comparisons"] == []
    assert next(iter(printed["sets"].values()))["single"] == second["single"]
    assert beamclip(*command, "--output", output, "--few-shot", "1", "--quiet") == 0
    assert (output / "evaluation" / "few-shot-zoo.svg").exists()
    assert beamclip(*command, "--output", output, "--quiet") == 0
    assert not (output / "evaluation" / "few-shot-zoo.svg").exists()  # it is not of this evaluation


def test_it_prints_tables_and_plain_sentences(
    run: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--from-run", run, "--labels-from", "folder", "--prompts", prompts]
    assert beamclip(*command, "--compare", "bare", "a {}", "--few-shot", "1", "--output", tmp_path / "x") == 0
    printed = capsys.readouterr().out
    assert " of 20" in printed
    assert "the bare class name" in printed
    assert "'a {}' alone" in printed
    assert "Zero-shot (" in printed
    assert "2 images left out whose truth is no label of the set: 'unheard-of' (2)." in printed
    assert "1 image failed and could not be embedded" in printed
    assert "Top-5 says nothing" in printed
    assert "No image here for 1 of the set's 4 classes." in printed


def test_truths_from_columns_carried_columns_and_a_map(
    pets: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = tmp_path / "list.csv", tmp_path / "run"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "kind", "code", "caption"])
        for name, code in (("dog", "0"), ("Fish", "1"), ("polar_bear", "2")):
            for path in sorted((pets / name).glob("[0-3].png")):
                writer.writerow([path, name, code, f"the {name}"])
    codes, captions = tmp_path / "codes.json", tmp_path / "captions.json"
    codes.write_text(json.dumps({"0": "dog", "1": "fish", "2": "polar bear"}))
    captions.write_text(json.dumps({f"the {name}": name for name in ("dog", "Fish", "polar_bear")}))
    common = ["--prompts", prompts, "--quiet"]
    made = ["--input", table, "--encoder", "fake", "--output", run, "--carry", "code:int64"]
    assert beamclip("evaluate", *made, *common, "--labels-from", "kind") == 0
    by_kind = evaluation(run, "zoo")["single"]
    assert by_kind["top1"]["of"] == 12
    for column, more in (
        ("code", ["--label-map", "index"]),
        ("code", ["--label-map", codes]),
        ("caption", ["--label-map", captions]),
    ):
        assert beamclip("evaluate", "--from-run", run, *common, "--labels-from", column, *more) == 0
        assert evaluation(run, "zoo")["single"] == by_kind, column
    assert beamclip("evaluate", "--from-run", run, *common, "--labels-from", "code") == 2
    assert "--label-map index" in capsys.readouterr().err
    assert beamclip("evaluate", "--from-run", run, *common, "--labels-from", "colour") == 2
    assert "no image has a truth there; there are code, kind" in capsys.readouterr().err


def test_a_shards_cls_and_json_are_truths_and_several_labels_are_judged(
    pets: Path, prompts: Path, tmp_path: Path
) -> None:
    shard, run, several = tmp_path / "00.tar", tmp_path / "run", tmp_path / "several.yaml"
    several.write_text("version: 1\nname: several\ntask: multi\nlabels: [dog, fish, polar-bear]\n")
    with tarfile.open(shard, "w") as tar:
        for place, name in enumerate(("dog", "Fish", "polar_bear")):
            for path in sorted((pets / name).glob("[0-3].png")):
                fields = json.dumps({"things": [name, "dog"]}).encode()
                for suffix, data in (("png", path.read_bytes()), ("cls", b"%d" % place), ("json", fields)):
                    member = tarfile.TarInfo(f"{name}-{path.stem}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    made = ["--input", shard, "--encoder", "fake", "--output", run, "--quiet", "--prompts", prompts]
    assert beamclip("evaluate", *made, "--labels-from", "cls", "--label-map", "index") == 0
    assert evaluation(run, "zoo")["single"]["top1"]["of"] == 12
    stored = ["--from-run", run, "--labels-from", "things", "--prompts", several, "--quiet"]
    assert beamclip("evaluate", *stored) == 0
    multi = evaluation(run, "several")["multi"]
    assert [one["figures"]["images"] for one in multi["per_label"]] == [12, 4, 4]
    assert 0 < multi["mean_average_precision"]["value"] <= 1
    assert multi["per_label"][0]["average_precision"] == 1  # all images have it
    assert "mean average precision" in (run / "evaluation" / "evaluation.html").read_text().lower()


def test_a_model_of_open_clip(pets: Path, prompts: Path, tmp_path: Path) -> None:
    weights, config = save_model(tmp_path / "model", "vit")
    run = tmp_path / "run"
    code = beamclip(
        *("evaluate", "--input", pets, "--labels-from", "folder", "--prompts", prompts, "--output", run),
        *("--weights", weights, "--model-config", config, "--few-shot", "4", "--few-shot-draws", "2"),
        *("--compare", "short", "--quiet"),
    )
    assert code == 0
    found = evaluation(run, "zoo")
    assert found["single"]["top1"]["of"] == 20
    assert found["few_shot"]["points"][0]["mean"] > 0.9
    assert found["comparisons"][0]["images"] == 20


def test_too_many_failures_exit_1_and_the_rest_is_evaluated(prompts: Path, tmp_path: Path) -> None:
    shades(tmp_path / "images" / "dog", 2, seed=1)
    (tmp_path / "images" / "dog" / "broken.png").write_bytes(b"no image")
    run = tmp_path / "run"
    made = ["--input", tmp_path / "images", "--prompts", prompts, "--encoder", "fake", "--output", run]
    assert beamclip("evaluate", *made, "--labels-from", "folder", "--quiet") == 1
    found = evaluation(run, "zoo")
    assert (found["single"]["top1"]["of"], found["single"]["top1_failed_wrong"]["of"]) == (2, 3)


WRONG = [
    (["--prompts", "{zoo}"], "--labels-from is missing"),
    (["--labels-from", "folder"], "--prompts is missing"),
    (["--labels-from", "folder", "--prompts", "everyday", "{zoo}", "{zoo}"], "two sets are called"),
    (["--labels-from", "folder", "--prompts", "photo-kind"], "none of the truths, such as"),
    (["--labels-from", "kind", "--prompts", "{zoo}"], "no image has a truth there"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--compare", "nowhere"], "no shipped prompt set"),
    (["--labels-from", "folder", "--prompts", "web-flags", "--few-shot"], "is for single-label sets"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--few-shot", "0"], "a whole number from 1"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--few-shot-draws", "3"], "add --few-shot"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--label-map", "{missing}"], "cannot be read"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--label-map", "{zoo}"], "is not JSON"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--delimiter", ""], "--delimiter is empty"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--resampels", "3"], "did you mean --resamples"),
    (["--labels-from", "folder", "--prompts", "{zoo}", "--resamples", "-1"], "a whole number from 0"),
]


@pytest.mark.parametrize(("args", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_request_exits_2_and_writes_nothing(
    pets: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    said: str,
) -> None:
    run = tmp_path / "run"
    filled = [arg.format(zoo=prompts, missing=tmp_path / "missing.json") for arg in args]
    assert beamclip("evaluate", "--input", pets, "--encoder", "fake", "--output", run, *filled) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not run.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--input", "x"], "--input does not go with --from-run"),
        (["--resume"], "--resume does not go with --from-run"),
        (["--encoder", "fake?dim=8"], "does not agree with the run"),
        (["--runner", "SparkRunner"], "--runner does not go with --from-run"),
        (["--few-shot", "16"], "no class has so many images"),
    ],
)
def test_what_contradicts_a_stored_run_is_refused(
    run: Path, prompts: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    before = {name: (run / name).read_bytes() for name in written(run)}
    command = ["evaluate", "--from-run", run, "--labels-from", "folder", "--prompts", prompts]
    assert beamclip(*command, *more) == 2
    assert said in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in written(run)} == before


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--from-run", tmp_path / "none", "--labels-from", "folder", "--prompts", prompts]
    assert beamclip(*command) == 2
    assert "there is no run with embeddings" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_dry_run_tells_and_writes_nothing(
    pets: Path, run: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(run)
    common = ["--labels-from", "folder", "--prompts", prompts, "--dry-run", "--compare", "bare"]
    assert beamclip("evaluate", "--from-run", run, *common) == 0
    made = ["--input", pets, "--encoder", "fake", "--output", tmp_path / "run"]
    assert beamclip("evaluate", *made, *common, "--few-shot") == 0
    printed = capsys.readouterr().out
    assert "would evaluate" in printed
    assert printed.count("compare   zoo with the bare class name") == 2
    assert "few-shot  1 2 4 8 16 images a class" in printed
    assert written(run) == before
    assert not (tmp_path / "run").exists()


def test_every_flag_has_help() -> None:
    actions = build_evaluate_parser()._actions
    assert [action.option_strings for action in actions if not action.help] == []
