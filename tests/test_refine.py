"""`beamclip refine` end to end: reviewed runs relabelled or left alone, exit codes, what is stored and told."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_transforms.labelled import find_set
from clip_transforms.labelling import Labeller
from clip_transforms.labelsets import read_label_set
from clip_transforms.probe import read_probe
from clip_transforms.refining.count_flips import count_flips
from clip_transforms.refining.flips import parse_flips
from clip_transforms.refining.reviewed import held_out
from clip_transforms.review.reviews import verdicts
from clip_transforms.storage import Store
from schemas.label_errors import LABEL_ERRORS
from tests.refine_kit import COLOURS, add_reviews, coloured, labelled_run, prompts_file
from tests.runs import beamclip, rows, written


def table(run: Path | str, tag: str) -> list[dict[str, Any]]:
    return rows(Path(run), f"labels/{tag}")


def truths(run: Path, truth: dict[str, str]) -> dict[str, str]:
    """By image id."""
    tag = find_set(Store(str(run)), None)
    return {row["image_id"]: truth[Path(row["uri"]).name] for row in table(run, tag)}


def refined(run: Path) -> str:
    """The tag of the set that has a probe."""
    store = Store(str(run))
    (tag,) = [name for name in store.folders("labels") if read_label_set(store, name).probe]
    return tag


def accuracy(run: Path, tag: str, truth: dict[str, str], ids: list[str]) -> float:
    label = {row["image_id"]: row["label"] for row in table(run, tag)}
    return sum(label[key] == truth[key] for key in ids) / len(ids)


def reviewed_run(tmp_path: Path, count: int = 45, **more: Any) -> tuple[Path, dict[str, str], list[str]]:
    """A run whose first `count` images by id are reviewed; the truth and the ids of the rest."""
    run, files = labelled_run(tmp_path, **more)
    truth = truths(run, files)
    ids = sorted(truth)
    add_reviews(run, {key: [truth[key]] for key in ids[:count]}, selection_prob=1.0)
    return run, truth, ids[count:]


def answer_queue(run: Path, truth: dict[str, str], folder: Path) -> set[str]:
    """Export a queue, answer it truly, import the answers; the ids of its images."""
    assert (
        beamclip("review", "export", run, "--to", "csv", "--limit", 150, "--audit", 130, "--output", folder)
        == 0
    )
    (path,) = folder.glob("*.csv")
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row["labels"], row["reviewer"] = truth[row["image_id"]], "ann"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows(found)
    assert beamclip("review", "import", run, "--from", "csv", path) == 0
    return {row["image_id"] for row in found}


def test_reviews_make_the_rest_right_and_all_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth, rest = reviewed_run(tmp_path)
    store = Store(str(run))
    base = find_set(store, None)
    before = table(run, base)
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    printed = capsys.readouterr().out
    tag = refined(run)
    assert find_set(store, "colours") == tag != base
    assert accuracy(run, base, truth, rest) < 0.6 < 0.9 < accuracy(run, tag, truth, rest)
    assert table(run, base) == before
    found = read_probe(store, tag)
    assert found.base == base and found.hash == read_label_set(store, tag).probe
    assert found.figures["trained_on"] == sorted(set(truth) - set(rest))
    assert found.figures["held_out"] is None and found.figures["log_loss"]["interval"][0] > 0
    assert {row["prompt_set"] for row in table(run, tag)} == {tag}
    assert f"adopted: {base} is refined as {tag}" in printed
    assert f"next    beamclip calibrate {run} --set {tag}" in printed
    assert "zero-shot" in printed and "images changed" in printed
    page = (run / "report.html").read_text()
    assert "Refined by reviews" in page and "have other labels than in" in page
    errors = pq.read_table(run / f"probes/{tag}/label_errors.parquet")
    assert errors.schema.equals(LABEL_ERRORS)
    assert len(json.loads((run / f"probes/{tag}/label_errors.json").read_text())) == errors.num_rows


def test_flips_are_the_changes_of_the_rows(tmp_path: Path) -> None:
    run, truth, rest = reviewed_run(tmp_path)
    base = find_set(Store(str(run)), None)
    assert beamclip("refine", run, "--quiet") == 0
    tag = refined(run)
    flips = parse_flips((run / f"probes/{tag}/flips.json").read_bytes())
    pairs = Counter(
        (old["label"], new["label"])
        for old, new in zip(table(run, base), table(run, tag), strict=True)
        if old["label"] != new["label"]
    )
    assert {(one.old, one.new): one.images for one in flips.flips} == pairs
    assert flips.changed == sum(pairs.values()) and flips.images == 90 and flips.others == 0
    counts = [one.images for one in flips.flips]
    assert counts == sorted(counts, reverse=True)
    learnt = [key for key in truth if key not in rest]
    assert flips.reviewed["trained_on"].images == 45 and flips.reviewed["not_trained_on"].images == 0
    assert flips.reviewed["trained_on"].before == round(45 * accuracy(run, base, truth, learnt))
    assert flips.reviewed["trained_on"].after == round(45 * accuracy(run, tag, truth, learnt))


def test_a_second_time_nothing_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, _ = reviewed_run(tmp_path)
    assert beamclip("refine", run, "--quiet") == 0
    tag, files = refined(run), written(run)
    stamps = {name: (run / name).stat().st_mtime_ns for name in files}
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    assert f"adopted: {tag}, which the run has already; nothing was written" in capsys.readouterr().out
    assert written(run) == files
    assert {name: (run / name).stat().st_mtime_ns for name in files} == stamps


def test_a_job_that_died_is_finished_by_the_same_command(tmp_path: Path) -> None:
    run, _, _ = reviewed_run(tmp_path)
    base = find_set(Store(str(run)), None)
    assert beamclip("refine", run, "--quiet") == 0
    tag, whole = refined(run), table(run, refined(run))
    commits = sorted((run / f"commits/labels-{tag}").iterdir())
    assert len(commits) > 2
    for path in (*commits[1:], run / f"probes/{tag}/flips.json"):
        path.unlink()
    assert beamclip("refine", run, "--quiet", "--set", base) == 0
    assert table(run, tag) == whole and (run / f"probes/{tag}/flips.json").exists()


def test_another_refit_takes_the_probes_place_and_starts_from_zero_shot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth, rest = reviewed_run(tmp_path, 30)
    store = Store(str(run))
    base = find_set(store, None)
    assert beamclip("refine", run, "--quiet") == 0
    first = refined(run)
    add_reviews(run, {key: [truth[key]] for key in rest[:30]}, selection_prob=1.0)
    capsys.readouterr()
    assert beamclip("refine", run, "--set", "colours") == 0
    printed = capsys.readouterr().out
    second = find_set(store, "colours")
    assert second not in (base, first)
    assert f"its probe takes the place of that of {first}" in printed
    found = read_probe(store, second)
    assert found.base == base and found.figures["refined"] == first
    assert parse_flips((run / f"probes/{second}/flips.json").read_bytes()).before == first
    # the same reviews on the zero-shot set alone make the same probe
    assert beamclip("refine", run, "--set", base, "--dry-run") == 0
    assert f"adopted: {second}, which the run has already" in capsys.readouterr().out


def test_a_calibration_does_not_carry_over_and_the_refined_set_can_have_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files = labelled_run(tmp_path, each=70)
    truth = truths(run, files)
    rest = sorted(set(truth) - answer_queue(run, truth, tmp_path / "queue"))
    store = Store(str(run))
    base = find_set(store, None)
    assert beamclip("calibrate", run, "--temperature-only", "--quiet") == 0
    calibrated = find_set(store, "colours")
    assert read_label_set(store, calibrated).calibration
    capsys.readouterr()
    assert beamclip("refine", run, "--set", "colours") == 0
    told = f"the calibration of {calibrated} does not hold for the new scores: calibrate again"
    assert told in capsys.readouterr().out
    tag = find_set(store, "colours")
    found = read_label_set(store, tag)
    assert found.calibration is None and found.probe and read_probe(store, tag).base == base
    before = {row["image_id"]: row["label"] for row in table(run, tag)}
    assert beamclip("calibrate", run, "--set", tag, "--temperature-only", "--quiet") == 0
    last = find_set(store, "colours")
    assert read_label_set(store, last).probe == found.probe and read_label_set(store, last).calibration
    assert {row["image_id"]: row["label"] for row in table(run, last)} == before
    assert accuracy(run, last, truth, rest) > 0.9


def test_half_of_the_audit_is_held_out_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, files = labelled_run(tmp_path, each=40)
    truth = truths(run, files)
    ids = sorted(truth)[:90]
    audit = {key: number % 3 == 0 for number, key in enumerate(ids)}
    chances = {key: 0.25 if audit[key] else 1.0 for key in ids}
    add_reviews(run, {key: [truth[key]] for key in ids}, audit=audit, selection_prob=chances)
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    printed = capsys.readouterr().out
    held = {
        key for key, out in zip(ids, held_out(ids, [audit[key] for key in ids]).tolist(), strict=True) if out
    }
    assert 5 < len(held) < 25
    found = read_probe(Store(str(run)), refined(run))
    assert found.figures["trained_on"] == sorted(set(ids) - held)
    judged = found.figures["held_out"]
    assert judged["images"] == len(held) and judged["probe"] > judged["zero_shot"]
    assert judged["probe"] == round(len(held) * accuracy(run, refined(run), truth, sorted(held)))
    assert f"{len(held)} of the audit held out for calibrate" in printed
    assert "weights    by 1 / chance of selection, 1 to 3, cut off at 3" in printed
    flips = parse_flips((run / f"probes/{refined(run)}/flips.json").read_bytes())
    assert flips.reviewed["not_trained_on"].images == len(held)
    assert flips.reviewed["not_trained_on"].after == judged["probe"]


def test_reviews_that_teach_nothing_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files = labelled_run(tmp_path)
    truth = truths(run, files)
    names = sorted(COLOURS)
    add_reviews(run, {key: [names[int(key[:8], 16) % 3]] for key in truth}, selection_prob=1.0)
    before = written(run)
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    printed = capsys.readouterr().out
    assert "not adopted: " in printed and "nothing was written" in printed and "gain" in printed
    assert written(run) == before


@pytest.mark.parametrize(
    ("reviews", "told"),
    [
        (
            0,
            "0 images, needed is at least two classes with 5 images each; missing: 5 of 'blue', 5 of 'green'",
        ),
        (12, "12 images, needed is at least two classes"),
    ],
)
def test_too_few_reviews_are_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reviews: int, told: str
) -> None:
    run, files = labelled_run(tmp_path)
    truth = truths(run, files)
    ids = sorted(truth, key=lambda key: (truth[key], key))[:reviews]
    add_reviews(run, {key: [truth[key]] for key in ids})
    before = written(run)
    capsys.readouterr()
    assert beamclip("refine", run) == 1
    error = capsys.readouterr().err
    assert told in error and "beamclip review export" in error
    assert written(run) == before


def test_wrong_requests_are_exit_2_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = labelled_run(tmp_path)
    before = written(run)
    assert beamclip("refine") == 2
    assert beamclip("refine", tmp_path / "nothing") == 2
    assert "holds no run" in capsys.readouterr().err
    assert beamclip("refine", run, "--set", "pets") == 2
    assert "no such label set; it has colours" in capsys.readouterr().err
    assert beamclip("refine", run, "--set", "colours@00000000") == 2
    assert beamclip("refine", run, "--sett", "colours") == 2
    assert "did you mean --set?" in capsys.readouterr().err
    assert beamclip("label", "--from-run", run, "--prompts", "samples", "--quiet") == 0
    assert beamclip("refine", run) == 2
    assert "--set is missing" in capsys.readouterr().err
    assert [name for name in written(run) if name.startswith("probes/")] == []
    assert [name for name in before if name.startswith("probes/")] == []


@pytest.mark.parametrize(
    ("module", "name"), [("sklearn.linear_model", "scikit-learn"), ("cleanlab.filter", "cleanlab")]
)
def test_what_is_not_installed_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert beamclip("refine", tmp_path) == 2
    assert f"refine needs {name}: pip install 'beamclip[review]'" in capsys.readouterr().err


def test_a_dry_run_judges_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, _ = reviewed_run(tmp_path)
    before = written(run)
    capsys.readouterr()
    assert beamclip("refine", run, "--dry-run") == 0
    assert "adopted: colours@" in capsys.readouterr().out
    assert written(run) == before


def test_how_the_run_is_cut_into_parts_changes_nothing(tmp_path: Path) -> None:
    run, files = labelled_run(tmp_path)
    other = tmp_path / "other"
    options = ("--encoder", "fake", "--unit-size", "64", "--quiet")
    source = ("--input", tmp_path / "pictures", "--prompts", tmp_path / "colours.yaml")
    assert beamclip("label", *source, "--output", other, *options) == 0
    truth = truths(run, files)
    ids = sorted(truth)[:45]
    for folder, order in ((run, ids), (other, ids[::-1])):
        add_reviews(folder, {key: [truth[key]] for key in order}, selection_prob=1.0)
        assert beamclip("refine", folder, "--quiet") == 0
    assert refined(run) == refined(other)
    assert [row["label"] for row in table(run, refined(run))] == [
        row["label"] for row in table(other, refined(other))
    ]


def test_groups_and_strange_answers_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [
        {"id": "cold", "group": True},
        {"id": "blue", "parent": "cold"},
        {"id": "green", "parent": "cold"},
        "red",
    ]
    run, files = labelled_run(tmp_path, labels=labels)
    truth = truths(run, files)
    ids = sorted(truth)
    answers = {key: [truth[key]] for key in ids[:45]}
    answers |= {key: ["cold"] for key in ids[45:50]} | {
        ids[50]: ["__none__"],
        ids[51]: ["gone"],
        "not-here": ["red"],
    }
    add_reviews(run, answers, selection_prob=1.0)
    add_reviews(run, {ids[44]: ["red" if truth[ids[44]] != "red" else "blue"]}, reviewer="bob")
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    printed = capsys.readouterr().out
    assert "44 images to learn from" in printed
    for told in (
        "5 left out: the answer is a group of labels",
        "1 left out: the answer is none of these, and the set has no such class",
        "1 left out: the answer is no label of the set",
        "1 left out: the reviewers do not agree",
        "1 left out: the run has no such image",
    ):
        assert told in printed
    tag = refined(run)
    after = {row["image_id"]: row for row in table(run, tag)}
    assert all(row["path"] in (["cold", "blue"], ["cold", "green"], ["red"]) for row in after.values())
    found = read_probe(Store(str(run)), tag)
    assert found.classes == ("blue", "green", "red") and ids[45] not in found.figures["trained_on"]
    flips = parse_flips((run / f"probes/{tag}/flips.json").read_bytes())
    assert any("cold" in after[key]["path"] for key in ids[45:50])
    others = flips.reviewed["not_trained_on"]
    # Where only the group is known, a colour below it is not known to be right: as `calibrate` has it.
    assert (others.images, others.before, others.after) == (7, 0, 0)


def test_none_of_these_is_a_class_where_the_set_has_it(tmp_path: Path) -> None:
    run, files = labelled_run(tmp_path, labels=["blue", "green"], none=["something else"])
    truth = {key: "__none__" if name == "red" else name for key, name in truths(run, files).items()}
    ids = sorted(truth)
    add_reviews(run, {key: [truth[key]] for key in ids[:45]}, selection_prob=1.0)
    assert beamclip("refine", run, "--quiet") == 0
    tag = refined(run)
    assert read_probe(Store(str(run)), tag).classes == ("blue", "green", "__none__")
    assert accuracy(run, tag, truth, ids[45:]) > 0.9


def test_a_multi_label_set_is_refined_label_by_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files = labelled_run(tmp_path, task="multi", labels=["blue", "red"])
    truth = {key: [name] if name in ("blue", "red") else [] for key, name in truths(run, files).items()}
    ids = sorted(truth)
    add_reviews(run, {key: truth[key] for key in ids[:45]}, selection_prob=1.0)
    base = find_set(Store(str(run)), None)
    capsys.readouterr()
    assert beamclip("refine", run) == 0
    printed = capsys.readouterr().out
    tag = refined(run)
    label = {row["image_id"]: row["labels"] for row in table(run, tag)}
    assert sum(sorted(label[key]) == truth[key] for key in ids[45:]) > 0.85 * 45
    flips = parse_flips((run / f"probes/{tag}/flips.json").read_bytes())
    old = {row["image_id"]: set(row["labels"]) for row in table(run, base)}
    assert flips.changed == sum(set(label[key]) != old[key] for key in ids)
    gained = sum("red" in label[key] and "red" not in old[key] for key in ids)
    lost = sum("red" in old[key] and "red" not in label[key] for key in ids)
    counted = {(one.old, one.new): one.images for one in flips.flips}
    assert counted.get((None, "red"), 0) == gained and counted.get(("red", None), 0) == lost
    assert "no label" in printed


def test_a_run_of_labels_alone_is_refined_where_it_is(tmp_path: Path) -> None:
    run, files = labelled_run(tmp_path)
    truth = truths(run, files)
    views = tmp_path / "views"
    prompts = prompts_file(tmp_path / "other.yaml", name="other")
    assert beamclip("label", "--from-run", run, "--prompts", prompts, "--output", views, "--quiet") == 0
    ids = sorted(truth)
    add_reviews(views, {key: [truth[key]] for key in ids[:45]}, set_name="other", selection_prob=1.0)
    before = written(run)
    assert beamclip("refine", views, "--quiet") == 0
    assert written(run) == before
    assert accuracy(views, refined(views), truth, ids[45:]) > 0.9


def test_a_job_that_dies_is_gone_on_with_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = reviewed_run(tmp_path)
    base = find_set(Store(str(run)), None)
    label, calls = Labeller.label, iter(range(100))

    def dying(self: Labeller, tag: str, sources: Any, *, stem: str) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return label(self, tag, sources, stem=stem)

    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "label", dying)
        assert beamclip("refine", run, "--quiet") != 0
    tag = refined(run)
    assert 0 < len(table(run, tag)) < len(table(run, base))
    assert find_set(Store(str(run)), None) == tag
    assert beamclip("review", "export", run, "--to", "csv", "--output", tmp_path / "queue") == 1
    assert f"`beamclip label --output {run} --resume` labels the rest" in capsys.readouterr().err
    assert beamclip("refine", run, "--quiet") == 0
    assert refined(run) == tag and len(table(run, tag)) == len(table(run, base))
    assert read_probe(Store(str(run)), tag).figures["refined"] == base


def test_a_run_in_a_remote_store(tmp_path: Path) -> None:
    coloured_files = coloured(tmp_path / "pictures", 20)
    prompts = prompts_file(tmp_path / "colours.yaml")
    url = "memory://refine/run"
    options = ("--encoder", "fake", "--quiet", "--output", url)
    assert beamclip("label", "--input", tmp_path / "pictures", "--prompts", prompts, *options) == 0
    store = Store(url)
    base = find_set(store, None)
    memory = fsspec.filesystem("memory")

    def read(tag: str) -> dict[str, str]:
        found = ds.dataset(f"/refine/run/labels/{tag}", format="parquet", filesystem=memory).to_table()
        return {Path(row["uri"]).name: (row["image_id"], row["label"]) for row in found.to_pylist()}

    ids = {name: key for name, (key, _) in read(base).items()}
    some = sorted(ids)[:40]
    add_reviews(url, {ids[name]: [coloured_files[name]] for name in some}, selection_prob=1.0)
    assert beamclip("refine", url, "--quiet") == 0
    after = read(find_set(store, "colours"))
    rest = sorted(set(ids) - set(some))
    assert sum(after[name][1] == coloured_files[name] for name in rest) >= 18


def test_flips_of_the_same_set_are_none(tmp_path: Path) -> None:
    run, truth, _ = reviewed_run(tmp_path)
    store = Store(str(run))
    base = find_set(store, None)
    found = count_flips(store, base, base, verdicts=verdicts(store, "colours"), trained_on=[])
    assert found.changed == 0 and found.flips == () and found.images == len(truth)
    assert parse_flips(found.to_json()) == found
