"""`beamclip calibrate` from stored reviews to rows; what it refuses; what later jobs make of calibrated sets."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clip_transforms.calibration import read_calibration
from clip_transforms.labelled import find_set
from clip_transforms.labelsets import read_label_set
from clip_transforms.review.reviews import read_reviews
from clip_transforms.storage import Store
from tests.calibrate_kit import (
    answer,
    audit,
    labelled,
    queue,
    review,
    right_down_to,
    surest_first,
    tags,
)
from tests.helpers import image_bytes, write_images
from tests.runs import beamclip, rows, summary, written

IMAGES = 360
Told = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled run that nobody changes."""
    return labelled(tmp_path_factory.mktemp("pets"), IMAGES, more=("--unit-size", "90"))


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A copy of it of the test's own."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def base(run: Path) -> str:
    return next(tag for tag in tags(run) if not read_label_set(Store(str(run)), tag).calibration)


def newest(run: Path) -> str:
    return find_set(Store(str(run)), None)


def calibrate(run: object, *more: object) -> int:
    return beamclip("calibrate", run, *more)


def well_audited(run: Path, *, share: float = 0.7, count: int = 240) -> None:
    """An audit of a run in which the surest part is right and nothing else."""
    ranked = surest_first(run, base(run))
    audit(run, ranked, right_down_to(ranked, share), count)


def test_what_is_accepted_is_marked_in_a_new_folder_and_nothing_else_changes(run: Path, capsys: Told) -> None:
    before, first = rows(run, f"labels/{base(run)}"), base(run)
    well_audited(run)
    assert calibrate(run, "--target-precision", "0.9") == 0
    tag = newest(run)
    calibration = read_calibration(Store(str(run)), tag)
    assert calibration.base == first and len(set(calibration.accept.values())) == 1
    cut = np.float32(next(iter(calibration.accept.values())))
    after = rows(run, f"labels/{tag}")
    changed = ("calibrated", "decision", "decision_reason", "prompt_set", "fingerprint")
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in changed} == {
            k: v for k, v in new.items() if k not in changed
        }
        accepted = new["score"] >= cut
        assert new["decision"] == ("auto_accept" if accepted else "review")
        assert new["decision_reason"] == ("accepted" if accepted else "below_accept_threshold")
        assert 0 < new["calibrated"] <= 1 and new["prompt_set"] == tag
    share = sum(row["decision"] == "auto_accept" for row in after) / IMAGES
    assert 0.6 < share < 0.76
    assert rows(run, f"labels/{first}") == before
    told = capsys.readouterr().out
    assert f"set          {tag}, from {first}" in told
    assert f"accepted     {round(share * IMAGES)} of {IMAGES} images" in told
    assert re.search(r"precision    at least 9\d\.\d\d% of them are right, at confidence 0\.95", told)
    assert summary(run)["labels"] == {first: IMAGES, tag: IMAGES}


def test_the_truth_of_what_is_accepted_is_as_promised(run: Path) -> None:
    ranked = surest_first(run, base(run))
    truth = right_down_to(ranked, 0.7)
    audit(run, ranked, truth, 240)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    accepted = [row for row in rows(run, f"labels/{newest(run)}") if row["decision"] == "auto_accept"]
    assert sum(truth(row) == row["label"] for row in accepted) / len(accepted) >= 0.9


def test_the_stored_figures_are_those_of_the_audit(run: Path) -> None:
    well_audited(run)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    found = read_calibration(Store(str(run)), newest(run))
    (walk,) = found.figures["walks"]
    cut, accepted, right, lower = walk["points"][walk["chosen"]]
    stored = {row["image_id"]: row["score"] for row in rows(run, f"labels/{found.base}")}
    scores = [stored[i] for i in read_reviews(Store(str(run)), "pets")["image_id"].to_pylist()]
    assert accepted == sum(score >= np.float32(cut) for score in scores) and right <= accepted
    assert lower >= 0.9 and set(found.accept.values()) == {cut}
    assert found.figures["audit"] == {
        "images": 240, "disputed": 0, "unreviewed": 0, "skipped": 0, "outdated": 0, "trained_on": 0, "loose": 240,
        "earlier": 0,
    }  # fmt: skip
    count = sum(score >= np.float32(cut) for score in stored.values())
    assert sum(found.figures["accepted"].values()) == count and found.figures["rows"] == IMAGES


def test_the_same_reviews_give_the_same_set_and_do_nothing_new(run: Path, capsys: Told) -> None:
    well_audited(run)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    tag, before = newest(run), written(run)
    stamps = {name: (run / name).stat().st_mtime_ns for name in before}
    capsys.readouterr()
    for chosen in ("pets", tag, base(run)):
        assert calibrate(run, "--target-precision", "0.9", "--set", chosen) == 0
        told = capsys.readouterr().out
        assert f"set          {tag}, from {base(run)}" in told and "nothing was written" in told
    assert written(run) == before
    assert {name: (run / name).stat().st_mtime_ns for name in before} == stamps


def test_more_reviews_give_another_set_and_the_old_one_stays(run: Path) -> None:
    ranked = surest_first(run, base(run))
    audit(run, ranked, right_down_to(ranked, 0.7), 240)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    first = newest(run)
    audit(run, ranked, right_down_to(ranked, 0.7), 300, seed=1)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    second = newest(run)
    assert len({base(run), first, second}) == 3 == len(tags(run))
    assert read_calibration(Store(str(run)), second).base == base(run)
    assert len(rows(run, f"labels/{first}")) == len(rows(run, f"labels/{second}")) == IMAGES


def test_going_back_to_an_older_calibration_says_which_set_readers_take(run: Path, capsys: Told) -> None:
    well_audited(run)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    first = newest(run)
    assert calibrate(run, "--target-precision", "0.8", "--quiet") == 0
    capsys.readouterr()
    assert calibrate(run, "--target-precision", "0.9") == 0
    told = capsys.readouterr().out
    assert f"readers that are not told take the newest, {newest(run)}" in told and first in told


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (60, (), "124 audited images with a label are needed, there are 60: 64 are missing (about 64 more"),
        (240, ("--target-precision", "0.99"), "there are 240: 388 are missing"),
        (100, ("--per-class",), "a label needs 124 audited images that were given it; missing are: "),
    ],
)
def test_an_audit_that_is_too_small_says_what_is_missing_and_writes_nothing(
    run: Path, capsys: Told, count: int, options: tuple[str, ...], words: str
) -> None:
    well_audited(run, count=count)
    before = written(run)
    assert calibrate(run, *options) == 1
    assert words in capsys.readouterr().err and written(run) == before


def test_labels_that_are_often_wrong_are_refused(run: Path, capsys: Told) -> None:
    ranked = surest_first(run, base(run))
    everything_wrong = right_down_to(ranked, 0.0)
    audit(run, ranked, everything_wrong, 240)
    before = written(run)
    assert calibrate(run) == 1
    told = capsys.readouterr().err
    assert re.search(r"of the 12\d audited images with the highest scores 0 are right", told)
    assert "a lower --target-precision, or better prompts, may do" in told and written(run) == before


def test_a_run_without_an_audit_says_how_to_get_one(run: Path, capsys: Told) -> None:
    answer(run, [review(row, "cat", audit=False) for row in surest_first(run, base(run))])
    assert calibrate(run) == 1
    assert "has no reviews of an audit of the set 'pets'" in capsys.readouterr().err


def test_what_is_not_reviewed_counts_as_wrong_unless_told_otherwise(run: Path, capsys: Told) -> None:
    ranked = surest_first(run, base(run))
    drawn = [ranked[place] for place in np.random.default_rng(3).choice(IMAGES, 240, replace=False)]
    queue(run, drawn, images=IMAGES)
    truth = right_down_to(ranked, 1.0)
    answer(run, [review(row, truth(row)) for row in drawn[:200]])
    assert calibrate(run, "--target-precision", "0.9") == 1
    assert "40 audit images are not reviewed and count as wrong" in capsys.readouterr().err
    assert calibrate(run, "--target-precision", "0.9", "--unreviewed", "skip", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "40 audit images are not reviewed and were left out: the promise holds only if" in told


def test_an_audit_of_sure_images_alone_is_seen_to_be_no_random_sample(run: Path, capsys: Told) -> None:
    """Half of the images are labelled rightly, and only these were reviewed."""
    ranked = surest_first(run, base(run))
    answer(run, [review(row, row["label"]) for row in ranked[:180]])
    assert calibrate(run, "--target-precision", "0.9") == 1
    assert "the audit is no uniform random sample" in capsys.readouterr().err


def test_dry_run_prints_and_writes_nothing(run: Path, capsys: Told) -> None:
    well_audited(run)
    before = written(run)
    assert calibrate(run, "--target-precision", "0.9", "--dry-run") == 0
    assert "nothing was written" in capsys.readouterr().out and written(run) == before


def test_a_cut_for_each_class(run: Path, capsys: Told) -> None:
    well_audited(run, count=330)
    assert calibrate(run, "--target-precision", "0.8", "--per-class") == 0
    calibration = read_calibration(Store(str(run)), newest(run))
    assert len(calibration.accept) >= 2 and len(set(calibration.accept.values())) >= 2
    for row in rows(run, f"labels/{newest(run)}"):
        cut = calibration.accept.get(row["label"])
        accepted = cut is not None and bool(row["score"] >= np.float32(cut))
        assert (row["decision"] == "auto_accept") is accepted
        if cut is None:
            assert row["decision_reason"] == "no_accept_threshold"
    told = capsys.readouterr().out
    assert f"at least 0.8 for each of {len(calibration.accept)} labels, all at once" in told


def test_the_report_shows_the_calibration_and_needs_no_network(run: Path) -> None:
    well_audited(run)
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    page = (run / "report.html").read_text()
    part = page[page.index('class="calibration"') :]
    assert "at confidence 0.95 at least 0.9 of them are right" in part
    assert part.count("<polyline") == 4  # seen and bound; two diagonals
    assert "target 0.9" in part and 'class="mark"' in part and "style=" not in part.split("</div>")[0]
    assert "240 images drawn at random" in part


def test_a_temperature_alone_accepts_nothing(run: Path) -> None:
    well_audited(run)
    assert calibrate(run, "--temperature-only", "--quiet") == 0
    found = rows(run, f"labels/{newest(run)}")
    assert {row["decision"] for row in found} == {"review"}
    assert {row["decision_reason"] for row in found} == {"uncalibrated"}
    assert any(abs(row["calibrated"] - row["score"]) > 0.01 for row in found)
    assert 'class="calibration"' in (run / "report.html").read_text()


def test_a_temperature_that_runs_into_its_limit_is_not_used(run: Path, capsys: Told) -> None:
    """Where every answer is the model's, the sharper the likelier: every probability would become 1."""
    found = surest_first(run, base(run))
    answer(run, [review(row, row["label"]) for row in found])
    assert calibrate(run, "--temperature-only") == 1
    assert "no temperature fits" in capsys.readouterr().err
    assert calibrate(run) == 0
    assert "temperature  1: no temperature fits" in capsys.readouterr().out
    tag = newest(run)
    assert read_calibration(Store(str(run)), tag).temperature == 1.0
    assert all(
        row["calibrated"] == pytest.approx(row["score"], abs=1e-6) for row in rows(run, f"labels/{tag}")
    )


def test_too_few_reviews_for_a_temperature(run: Path, capsys: Told) -> None:
    well_audited(run, count=49)
    assert calibrate(run, "--temperature-only") == 1
    assert "needs 50 reviewed images of an audit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "dogs"), "--set dogs"),
        (("--set", "pets@ffffffff"), "has no labels of the prompt set 'pets@ffffffff'"),
        (("--target-precision", "1"), "--target-precision is 1, expected a share"),
        (("--confidence", "95"), "--confidence is 95, expected a share"),
        (("--temperature-only", "--per-class"), "exclude each other"),
        (("--temperature-only", "--target-precision", "0.9"), "exclude each other"),
        (("--target-precison", "0.9"), "did you mean --target-precision?"),
        (("--runner", "DaskRunner"), "refused"),
        (("--storage-option", "nonsense"), "not K=V"),
    ],
)
def test_wrong_requests_end_before_anything_is_written(
    run: Path, capsys: Told, options: tuple[str, ...], words: str
) -> None:
    well_audited(run)
    before = written(run)
    assert calibrate(run, *options) == 2
    assert words in capsys.readouterr().err and written(run) == before


def test_folders_that_hold_no_labels(tmp_path: Path, capsys: Told) -> None:
    assert calibrate(tmp_path / "nowhere") == 2
    assert "holds no run of beamclip" in capsys.readouterr().err
    write_images(tmp_path / "images", 2)
    inputs = ("--input", tmp_path / "images", "--encoder", "fake", "--output", tmp_path / "run", "--quiet")
    assert beamclip("embed", *inputs) == 0
    assert calibrate(tmp_path / "run") == 2
    assert "has no labels" in capsys.readouterr().err
    assert beamclip("calibrate") == 2


def test_a_run_of_one_image(tmp_path: Path, capsys: Told) -> None:
    run = labelled(tmp_path, 1)
    (row,) = surest_first(run, base(run))
    answer(run, [review(row, row["label"])])
    assert calibrate(run) == 1
    assert (
        "124 audited images with a label are needed, there are 1: 123 are missing" in capsys.readouterr().err
    )


def test_reviews_of_images_that_the_run_does_not_have_are_left_out(run: Path) -> None:
    well_audited(run)
    gone = {"image_id": "gone", "uri": "/gone.jpg"}
    answer(run, [review(gone, "cat")])
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    assert read_calibration(Store(str(run)), newest(run)).figures["audit"]["images"] == 240


def test_ids_that_come_twice_do_not_make_an_audit_look_outdated(tmp_path: Path) -> None:
    """A queue counts an id once."""
    files = write_images(tmp_path / "images", 130, size=(24, 24))
    lines = [f"id{number % 125},{file}" for number, file in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(["image_id,uri", *lines]))
    (tmp_path / "set.yaml").write_text("version: 1\nname: pets\nlabels: [cat, dog]\n")
    run = tmp_path / "run"
    inputs = ("--input", tmp_path / "list.csv", "--prompts", tmp_path / "set.yaml", "--encoder", "fake")
    assert beamclip("label", *inputs, "--output", run, "--quiet") == 0
    options = ("--to", "csv", "--limit", 100, "--audit", 100, "--output", tmp_path / "queue")
    assert beamclip("review", "export", run, *options) == 0
    answer(run, [review(row, row["label"]) for row in surest_first(run, base(run))])
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    audited = read_calibration(Store(str(run)), newest(run)).figures["audit"]
    assert audited["outdated"] == 0 and audited["loose"] == 25


def test_what_was_found_is_told_also_where_the_run_lacks_a_shard(tmp_path: Path, capsys: Told) -> None:
    """The labels are there, and the exit code is that of the run."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for number in range(100):
            data = image_bytes(seed=number)
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(whole.getvalue()[: 80 * len(whole.getvalue()) // 100 // 512 * 512])
    (tmp_path / "set.yaml").write_text("version: 1\nname: pets\nlabels: [cat, dog]\n")
    run = tmp_path / "run"
    inputs = ("--input", tmp_path / "a.tar", "--prompts", tmp_path / "set.yaml", "--encoder", "fake")
    assert beamclip("label", *inputs, "--output", run, "--quiet") == 1
    answer(run, [review(row, row["label"]) for row in surest_first(run, base(run))])
    capsys.readouterr()
    assert calibrate(run, "--target-precision", "0.9") == 1
    told = capsys.readouterr()
    assert f"set          {newest(run)}, from {base(run)}" in told.out and "precision    at least" in told.out
    assert "1 shards are truncated" in told.err


MULTI = "version: 1\nname: pets\ntask: multi\nlabels: [cat, dog, owl]\n"


def test_a_multi_label_set_has_a_temperature_and_no_cuts(tmp_path: Path, capsys: Told) -> None:
    run = labelled(tmp_path, 80, prompts=MULTI)
    found = rows(run, f"labels/{base(run)}")
    answer(run, [review(row, *[x for x in row["labels"] if x != "cat"]) for row in found])
    assert calibrate(run) == 2
    assert "is a multi-label set" in capsys.readouterr().err
    assert calibrate(run, "--temperature-only") == 0
    assert "accepted     nothing" in capsys.readouterr().out
    after = rows(run, f"labels/{newest(run)}")
    assert [row["labels"] for row in after] == [row["labels"] for row in found]
    assert [row["decision"] for row in after] == [row["decision"] for row in found]
    assert all(row["calibrated"] is not None for row in after)
    fit = read_calibration(Store(str(run)), newest(run)).figures["temperature"]
    assert fit["images"] == 80 and sum(one[0] for one in fit["after"]["bins"]) == 3 * 80


BIRDS = """version: 1
name: pets
threshold: 0.75
none: ["a blank picture"]
labels:
  - {id: bird, group: true, threshold: 0.5}
  - {id: owl, parent: bird}
  - {id: crane, parent: bird}
  - cat
"""


def test_a_group_is_right_where_the_truth_is_below_it_and_none_can_be_accepted(tmp_path: Path) -> None:
    run = labelled(tmp_path, 300, prompts=BIRDS)
    ranked = surest_first(run, base(run))
    found = {row["label"] for row in ranked}
    assert {"bird", "owl", "__none__", None} <= found

    def truth(row: dict[str, object]) -> str:
        return {"bird": "crane", None: "cat"}.get(row["label"], row["label"])  # type: ignore[arg-type,return-value,call-overload]

    answer(run, [review(row, truth(row)) for row in ranked])
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    calibration = read_calibration(Store(str(run)), newest(run))
    assert set(calibration.accept) == {"__none__", "bird", "cat", "crane", "owl"}
    assert set(calibration.accept.values()) == {0.0}  # everything with a label is right
    decisions = {(row["label"], row["decision"]) for row in rows(run, f"labels/{newest(run)}")}
    assert {("bird", "auto_accept"), ("__none__", "auto_accept"), (None, "abstain")} <= decisions
    assert not {label for label, decision in decisions if decision == "review"}
    walk = calibration.figures["walks"][0]
    assert walk["labelled"] == sum(row["label"] is not None for row in ranked)


def test_a_leaf_is_not_right_where_the_truth_is_only_its_group(tmp_path: Path, capsys: Told) -> None:
    run = labelled(tmp_path, 300, prompts=BIRDS.replace("threshold: 0.75", "threshold: 0.0"))
    ranked = surest_first(run, base(run))
    answer(run, [review(row, "bird" if row["label"] in ("owl", "crane") else "cat") for row in ranked])
    assert calibrate(run, "--target-precision", "0.5", "--dry-run") == 1
    rights = sum(row["label"] == "cat" for row in ranked[:10])
    assert "cannot be promised" in capsys.readouterr().err and rights < 10


def test_a_set_of_a_sigmoid_model(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 80, size=(24, 24))
    (tmp_path / "set.yaml").write_text("version: 1\nname: pets\nlabels: [cat, dog, owl]\n")
    run = tmp_path / "run"
    inputs = ("--input", tmp_path / "images", "--prompts", tmp_path / "set.yaml", "--output", run, "--quiet")
    assert beamclip("label", *inputs, "--encoder", "fake?family=sigmoid") == 0
    answer(run, [review(row, row["label"]) for row in surest_first(run, base(run))])
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    found = rows(run, f"labels/{newest(run)}")
    assert {row["decision"] for row in found} == {"auto_accept"}
    # The best classes' probabilities are far below 0.5, and all are right: the likeliest temperature has no end.
    kept = read_calibration(Store(str(run)), newest(run))
    assert (kept.temperature, kept.figures["temperature"]) == (1.0, None)
    assert all(row["calibrated"] == pytest.approx(row["score"], abs=1e-6) for row in found)


@pytest.mark.slow
def test_later_jobs_carry_the_calibrated_set(tmp_path: Path, capsys: Told) -> None:
    """What failed is retried, new images come: they get the labels of every set, and the cut."""
    folder = tmp_path / "images"
    write_images(folder, 100, size=(24, 24))
    (folder / "zz-late.jpg").write_bytes(b"not an image")
    (tmp_path / "set.yaml").write_text("version: 1\nname: pets\nlabels: [cat, dog]\n")
    run = tmp_path / "run"
    inputs = ("--input", folder, "--prompts", tmp_path / "set.yaml", "--encoder", "fake", "--output", run)
    assert beamclip("label", *inputs, "--quiet") == 0
    drawn = surest_first(run, base(run))
    queue(run, drawn, images=100)
    answer(run, [review(row, row["label"]) for row in drawn])
    assert calibrate(run, "--target-precision", "0.9", "--quiet") == 0
    first, tag = base(run), newest(run)
    (folder / "zz-late.jpg").write_bytes(image_bytes(seed=500, kind="JPEG"))
    assert beamclip("label", "--output", run, "--retry-failed", "--on-changed", "redo", "--quiet") == 0
    (folder / "zz-new.jpg").write_bytes(image_bytes(seed=501, kind="JPEG"))
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert summary(run)["labels"] == {first: 102, tag: 102}
    late = [row for row in rows(run, f"labels/{tag}") if "zz-" in row["uri"]]
    assert [row["decision"] for row in late] == ["auto_accept"] * 2
    assert all(row["calibrated"] is not None for row in late)
    assert calibrate(run, "--target-precision", "0.9") == 1  # two in a hundred are new: so must be the audit
    assert "100 audit images were drawn when the run had fewer images" in capsys.readouterr().err


def test_a_run_in_another_store(run: Path) -> None:
    """`memory://`: what an object store offers, without its network."""
    well_audited(run)
    there = Store("memory://calibrate/run")
    for path in run.rglob("*"):
        if path.is_file() and "lease" not in path.parts:
            there.write(path.relative_to(run).as_posix(), path.read_bytes())
    assert calibrate("memory://calibrate/run", "--target-precision", "0.9", "--quiet") == 0
    tag = find_set(there, None)
    assert read_calibration(there, tag).base == base(run)
    assert json.loads(there.read("run.json"))["labels"][tag] == IMAGES


def test_without_scipy_it_says_what_to_install(
    run: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    assert calibrate(run) == 2
    assert "pip install 'beamclip[review]'" in capsys.readouterr().err
