"""Relabelling stored embeddings with a new set: killed and gone on with, in other folders, with a probe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clip_transforms.calibration import Calibration, calibration_name, read_calibration
from clip_transforms.elements import RequestError
from clip_transforms.found_rows import find_rows
from clip_transforms.labelled import LabelledRun, find_set
from clip_transforms.labelling import Labeller
from clip_transforms.labelsets import LabelSet, label_set_tags, read_label_set
from clip_transforms.lease import Lease
from clip_transforms.probe import Probe, probe_name
from clip_transforms.sink import Part
from clip_transforms.storage import Store
from pipelines import status
from pipelines.runner_jobs import JobState
from pipelines.submitted import Closing, keep_closing
from tests.calibrate_kit import answer, audit, labelled, relabelled, review, right_down_to, surest_first, tags
from tests.runs import beamclip, rows, summary, written

IMAGES = 200
ROOT = Path(__file__).parent.parent
CALIBRATE = ("--target-precision", "0.9", "--quiet")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled and audited run of ten units that nobody changes."""
    run = labelled(tmp_path_factory.mktemp("pets"), IMAGES, more=("--unit-size", "20"))
    ranked = surest_first(run, tags(run)[0])
    audit(run, ranked, right_down_to(ranked, 0.8), 160)
    return run


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A copy of it of the test's own."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def label_rows(run: Path) -> list[dict[str, object]]:
    """Of the newest set."""
    return rows(run, f"labels/{find_set(Store(str(run)), None)}")


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, calibrated in peace."""
    run = Path(shutil.copytree(template, tmp_path_factory.mktemp("calm") / "run"))
    assert beamclip("calibrate", run, *CALIBRATE) == 0
    return run


def made(store: Store, base: str, calibration: Calibration) -> LabelSet:
    return replace(read_label_set(store, base), calibration=calibration.hash)


def do_relabel(run: Path, label_set: LabelSet, base: str, objects: dict[str, bytes]) -> int:
    return relabelled(Store(str(run)), label_set, base=base, objects=objects)


def dying(units: int) -> Callable[..., object]:
    """In place of `Labeller.label`: fails once it has labelled so many units."""
    label, done = Labeller.label, []

    def call(self: Labeller, tag: str, sources: Iterable[Part], *, stem: str) -> object:
        if len(done) == units:
            raise OSError("the disk is full")
        done.append(tag)
        return label(self, tag, sources, stem=stem)

    return call


@pytest.mark.parametrize("units", [0, 1, 5])
def test_a_job_that_dies_is_gone_on_with_by_the_same_command(
    run: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, units: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "label", dying(units))
        assert beamclip("calibrate", run, *CALIBRATE) == 3
    assert len(list((run / "commits").glob("labels-*/*.json"))) == 10 + units
    assert beamclip("calibrate", run, *CALIBRATE) == 0
    assert label_rows(run) == label_rows(undisturbed)
    assert tags(run) == tags(undisturbed) and summary(run)["labels"] == summary(undisturbed)["labels"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_job_is_finished_by_resume_and_found_done(
    run: Path, undisturbed: Path, number: signal.Signals
) -> None:
    start = "import sys; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "calibrate", str(run), *CALIBRATE]
    tag = find_set(Store(str(undisturbed)), None)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any((run / "commits" / f"labels-{tag}").glob("*.json")):
            os.kill(process.pid, number)
            break
        time.sleep(0.001)
    _, told = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Go on with the same command: beamclip calibrate" in told or number == signal.SIGKILL
    assert label_set_tags(Store(str(run))) == tags(undisturbed)
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert label_rows(run) == label_rows(undisturbed)
    assert beamclip("calibrate", run, *CALIBRATE) == 0
    assert label_rows(run) == label_rows(undisturbed)


def test_what_another_calibration_left_unfinished_is_finished_too(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "label", dying(3))
        assert beamclip("calibrate", run, *CALIBRATE) == 3
    assert beamclip("calibrate", run, "--target-precision", "0.8", "--quiet") == 0
    assert list(summary(run)["labels"].values()) == [IMAGES] * 3


def test_what_is_finished_beside_it_is_not_newer_than_what_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that are not told take the newest set."""
    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "label", dying(0))
        assert beamclip("calibrate", run, *CALIBRATE) == 3
    left = set(label_set_tags(Store(str(run)))) - set(tags(run))
    assert len(left) == 1
    assert beamclip("calibrate", run, "--target-precision", "0.8", "--quiet") == 0
    newest = find_set(Store(str(run)), None)
    claim = read_calibration(Store(str(run)), newest).figures["claim"]
    assert claim["target"] == 0.8 and newest not in left


def test_labels_in_a_folder_of_their_own_are_calibrated_there(run: Path, tmp_path: Path) -> None:
    """RUN holds the embeddings, and stays as it is."""
    views = tmp_path / "views"
    given = ("--prompts", run.parent / "set.yaml", "--output", views, "--quiet")
    (run.parent / "set.yaml").write_text("version: 1\nname: pets\nlabels: [cat, dog, owl]\n")
    assert beamclip("label", "--from-run", run, *given) == 0
    (base,) = tags(views)
    ranked = surest_first(views, base)
    audit(views, ranked, right_down_to(ranked, 0.8), 160)
    before = written(run)
    assert beamclip("calibrate", views, *CALIBRATE) == 0
    assert written(run) == before
    tag = find_set(Store(str(views)), None)
    assert tag != base and read_calibration(Store(str(views)), tag).base == base
    found = rows(views, f"labels/{tag}")
    assert len(found) == IMAGES and {row["decision"] for row in found} == {"auto_accept", "review"}
    assert not (views / "embeddings").exists()
    assert beamclip("calibrate", views, *CALIBRATE) == 0 and len(tags(views)) == 2
    assert beamclip("status", views) == 0


def test_a_set_with_a_probe_is_calibrated_on_what_it_has_not_learnt_from(run: Path) -> None:
    store = Store(str(run))
    (base,) = tags(run)
    rng = np.random.default_rng(0)
    learnt = [row["image_id"] for row in surest_first(run, base)[::4]]
    probe = Probe(
        task="single",
        classes=("cat", "dog"),
        weights=rng.normal(0, 3, (2, 32)).astype(np.float32),
        bias=np.zeros(2, np.float32),
        blend=0.5,
        temperature=1.5,
        base=base,
        figures={"trained_on": learnt},
    )
    refined = replace(read_label_set(store, base), probe=probe.hash)
    assert do_relabel(run, refined, base, {probe_name(refined.tag): probe.to_json()}) == 0
    ranked = surest_first(run, refined.tag)
    assert [row["label"] for row in ranked] != [row["label"] for row in surest_first(run, base)]
    shutil.rmtree(run / "reviews")
    answer(run, [review(row, row["label"]) for row in ranked])
    assert beamclip("calibrate", run, "--set", refined.tag, *CALIBRATE) == 0
    tag = find_set(store, None)
    found = read_calibration(store, tag)
    assert found.base == refined.tag and read_label_set(store, tag).probe == probe.hash
    assert found.figures["audit"]["images"] == IMAGES - len(learnt)
    assert found.figures["audit"]["trained_on"] == len(learnt)
    for old, new in zip(rows(run, f"labels/{refined.tag}"), rows(run, f"labels/{tag}"), strict=True):
        assert (old["label"], old["score"], old["margin"]) == (new["label"], new["score"], new["margin"])


def test_images_that_a_probe_is_sure_of_because_it_learnt_them_do_not_make_an_audit_look_chosen(
    run: Path,
) -> None:
    store = Store(str(run))
    (base,) = tags(run)
    probe = Probe(
        task="single",
        classes=("cat", "dog"),
        weights=np.random.default_rng(0).normal(0, 3, (2, 32)).astype(np.float32),
        bias=np.zeros(2, np.float32),
        blend=0.5,
        temperature=1.5,
        base=base,
    )
    refined = replace(read_label_set(store, base), probe=probe.hash)
    assert do_relabel(run, refined, base, {probe_name(refined.tag): probe.to_json()}) == 0
    ranked = surest_first(run, refined.tag)
    learnt = [row["image_id"] for row in ranked[: IMAGES // 2]]
    store.write(probe_name(refined.tag), replace(probe, figures={"trained_on": learnt}).to_json())
    shutil.rmtree(run / "reviews")
    answer(run, [review(row, row["label"]) for row in ranked])
    assert beamclip("calibrate", run, "--set", refined.tag, *CALIBRATE) == 0


@pytest.mark.parametrize(
    ("mar", "problem"),
    [
        (Path.unlink, "is not there any more"),
        (lambda path: path.write_text("{"), "cannot be read (JSONDecodeError"),
        (lambda path: path.write_text('{"version": 1}'), "cannot be read (TypeError"),
    ],
    ids=("deleted", "cut", "empty"),
)
def test_what_a_set_was_made_with_and_is_gone_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mar: Callable[[Path], object], problem: str
) -> None:
    assert beamclip("calibrate", run, *CALIBRATE) == 0
    tag = find_set(Store(str(run)), None)
    mar(run / calibration_name(tag))
    for command in (
        ("calibrate", run, *CALIBRATE),
        ("review", "export", run, "--to", "csv", "--output", tmp_path / "queue"),
        ("review", "final", run, "--write", "csv", "--output", tmp_path / "final"),
    ):
        capsys.readouterr()
        assert beamclip(*command) == 2
        told = capsys.readouterr().err
        assert f"{run / calibration_name(tag)} {problem}" in told
        assert f"and {tag} was made with it" in told
    assert not (tmp_path / "final").exists()


def test_a_set_whose_own_base_is_gone_is_not_calibrated_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base,) = tags(run)
    assert beamclip("calibrate", run, *CALIBRATE) == 0
    tag = find_set(Store(str(run)), None)
    (run / "text" / f"{base}.json").unlink()
    assert beamclip("calibrate", run, *CALIBRATE) == 2
    assert f"the set {tag} was made with is not there any more" in capsys.readouterr().err
    assert find_set(Store(str(run)), None) == tag


@pytest.mark.parametrize(
    ("command", "words"), [("refine", "refine {} --set pets"), ("calibrate", "calibrate {} --set pets ...")]
)
def test_status_says_how_to_go_on_with_a_job_that_its_runner_lost(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    store = Store(str(run))
    held = SimpleNamespace(run_id="lost", runner_job="beam://host/job")
    sets = tuple(tags(run))
    keep_closing(store, Closing(run_id="lost", command=command, max_failure_rate=0.05, label_sets=sets))
    monkeypatch.setattr(status, "held_by_job", lambda store: held)
    monkeypatch.setattr(status, "launcher_gone", lambda held, now: True)
    monkeypatch.setattr(status, "job_state", lambda job: JobState(name="FAILED", ended=True))
    assert beamclip("status", run) == 3
    assert f"Go on with: beamclip {words.format(run)}\n" in capsys.readouterr().err


def test_a_run_that_another_launcher_holds_is_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lease.acquire(Store(str(run)), run_id="other"):
        before = written(run)
        assert beamclip("calibrate", run, *CALIBRATE) == 2
        assert written(run) == before
    assert "other" in capsys.readouterr().err


def test_embeddings_that_are_not_complete_are_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((run / "commits" / "embed").glob("*.json")).unlink()
    assert beamclip("calibrate", run, *CALIBRATE) == 2
    assert "is not complete" in capsys.readouterr().err


def test_labels_that_are_not_complete_are_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base,) = tags(run)
    next((run / "commits" / f"labels-{base}").glob("*.json")).unlink()
    assert beamclip("calibrate", run, *CALIBRATE) == 1
    assert "the run is not complete" in capsys.readouterr().err


def test_relabel_alone_writes_objects_first_and_a_calibrated_set(run: Path) -> None:
    store = Store(str(run))
    (base,) = tags(run)
    calibration = Calibration(base=base, temperature=2.0, accept={"cat": 0.5})
    label_set = made(store, base, calibration)
    objects = {calibration_name(label_set.tag): calibration.to_json()}
    assert do_relabel(run, label_set, base, objects) == 0
    found = rows(run, f"labels/{label_set.tag}")
    for row in found:
        assert (row["decision"] == "auto_accept") == (row["label"] == "cat" and row["score"] >= 0.5)
    assert read_calibration(store, label_set.tag) == calibration
    record = json.loads((run / "runs" / f"{summary(run)['run_id']}.json").read_text())
    assert record["command"] == "calibrate"


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, run: Path) -> None:
    label_set = read_label_set(Store(str(run)), tags(run)[0])
    with pytest.raises(RequestError, match="holds no run of beamclip"):
        do_relabel(tmp_path / "nowhere", label_set, "x@00000000", {})


def test_rows_are_found_over_parts_with_the_vectors_that_are_theirs(run: Path) -> None:
    store = Store(str(run))
    (base,) = tags(run)
    stored = {row["image_id"]: row for row in rows(run, "embeddings")}
    labels = {row["image_id"]: row for row in rows(run, f"labels/{base}")}
    wanted = sorted(stored)[::7]
    found = find_rows(LabelledRun(store, base), {**dict.fromkeys(wanted), "gone": "/gone.jpg"})
    assert found.ids == tuple(wanted)
    for place, image_id in enumerate(wanted):
        assert found.label[place] == labels[image_id]["label"]
        assert float(found.score[place]) == labels[image_id]["score"]
        assert found.embeddings[place].tolist() == stored[image_id]["embedding"]
    nothing = find_rows(LabelledRun(store, base), {"gone": None})
    assert nothing.ids == () and nothing.score.shape == (0,)


def test_of_rows_with_one_id_the_one_with_the_uri_is_found(tmp_path: Path) -> None:
    from tests.helpers import write_images

    paths = write_images(tmp_path / "images", 3, size=(24, 24))
    manifest = tmp_path / "list.csv"
    manifest.write_text("image_path,image_id\n" + "".join(f"{path},same\n" for path in paths))
    run = tmp_path / "run"
    given = ("--encoder", "fake", "--prompts", "everyday", "--output", run, "--quiet")
    assert beamclip("label", "--input", manifest, *given) == 0
    labelled_run = LabelledRun(Store(str(run)), tags(run)[0])
    stored = {row["uri"]: row["embedding"] for row in rows(run, "embeddings")}
    assert len(stored) == 3
    for path in paths:
        found = find_rows(labelled_run, {"same": str(path)})
        assert found.ids == ("same",) and found.embeddings[0].tolist() == stored[str(path)]
    assert find_rows(labelled_run, {"same": None}).ids == ("same",)


def test_failures_that_the_run_was_allowed_are_no_reason_to_fail(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"broken{number}.jpg").write_bytes(b"not an image")
    run = labelled(tmp_path, 60, more=("--max-failure-rate", "0.5"))
    answer(run, [review(row, row["label"]) for row in surest_first(run, tags(run)[0])])
    assert beamclip("calibrate", run, "--target-precision", "0.8", "--quiet") == 0
    assert beamclip("status", run) == 0
