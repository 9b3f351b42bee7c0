"""`beamclip review final`: every image once, with who decided its label, copies checked, and a card that adds up."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from torchvision.datasets import ImageFolder

from clip_transforms.calibration import Calibration, calibration_name
from clip_transforms.evaluation.metrics import wilson
from clip_transforms.labelsets import LabelSet, read_label_set
from clip_transforms.probe import Probe, probe_name
from clip_transforms.review.final_files import RollingFiles, as_csv
from clip_transforms.review.final_images import file_name, folder_names, safe_name
from clip_transforms.storage import Store
from schemas.final import FINAL
from tests import reviews_kit as kit
from tests.calibrate_kit import relabelled
from tests.runs import beamclip, written

ANSWERS = [
    ("i00", "cat", "ann", ""),
    ("i01", "dog", "ann", ""),
    ("i01", "cat", "bob", ""),  # nobody has a majority
    ("i02", "dog", "ann", ""),
    ("i02", "dog", "bob", ""),
    ("i02", "cat", "cy", ""),  # outvoted
    ("i03", "__none__", "ann", ""),
]


CLAIM = {"claim": {"target": 0.95, "confidence": 0.9}, "rows": 9}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with reviews that no test writes to."""
    folder = tmp_path_factory.mktemp("pets")
    run = kit.labelled_run(folder, kit.PETS)
    audit = [kit.audit(f"i{number:02d}", label="cat") for number in (0, 1, 3, 9)]
    kit.write_queue(run, kit.tag_of(run, "pets"), "q", *audit)
    assert beamclip("review", "import", run, "--from", "csv", kit.answers(folder / "a.csv", *ANSWERS)) == 0
    return run


@pytest.fixture
def run(made: str, tmp_path: Path) -> str:
    return str(shutil.copytree(made, tmp_path / "run"))


def final(run: str, output: object, *more: object, write: tuple[str, ...] = ("parquet",)) -> int:
    return beamclip("review", "final", run, "--output", output, "--write", *write, *more)


def rows_of(output: object) -> dict[str, dict[str, Any]]:
    store, found = Store(str(output)), {}
    for entry in store.list():
        if entry.name.endswith(".parquet"):
            with store.open(entry.name) as handle:
                found.update({row["image_id"]: row for row in pq.read_table(handle).to_pylist()})
    return found


def facts_of(output: object) -> dict[str, Any]:
    return json.loads(Store(str(output)).read("dataset.json"))


def test_reviewers_decide_conflicts_stay_open_and_nobody_else_decides(made: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert final(made, out) == 0
    found = rows_of(out)
    assert sorted(found) == sorted(f"i{number:02d}" for number in range(12))
    shown = {image: (row["label"], row["decided_by"], row["reason"]) for image, row in found.items()}
    assert shown["i00"] == ("cat", "reviewer", "reviewed")
    assert shown["i01"] == (None, "undecided", "conflict")
    assert shown["i02"] == ("dog", "reviewer", "reviewed")
    assert shown["i03"] == ("__none__", "reviewer", "reviewed")
    assert {entry[:2] for image, entry in shown.items() if image > "i03"} == {(None, "undecided")}
    assert found["i02"]["reviewers"] == ["ann", "bob", "cy"] and found["i02"]["conflict"]
    assert found["i04"]["reviewers"] is None and found["i04"]["model_label"] is not None
    model = kit.model_labels(made, kit.tag_of(made, "pets"))
    assert {image: row["model_label"] for image, row in found.items()} == model
    assert ds.dataset(str(out / "labels-00000.parquet")).schema.remove_metadata().equals(FINAL)


def test_the_facts_add_up_and_the_audit_estimates_the_error(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert final(made, tmp_path / "out", "--all") == 0
    out = capsys.readouterr().out
    found = facts_of(tmp_path / "out")
    assert found["decided_by"] == {"reviewer": 3, "model": 8, "undecided": 1}
    assert found["images"] == 12 and found["decided"] == 11
    rows = rows_of(tmp_path / "out").values()
    assert Counter(row["decided_by"] for row in rows) == found["decided_by"]
    assert {key: entry["images"] for key, entry in found["labels"].items() if entry["images"]} == Counter(
        row["label"] for row in rows if row["label"]
    )
    model = kit.model_labels(made, kit.tag_of(made, "pets"))
    agreed = (model["i00"] == "cat") + (model["i03"] == "__none__")  # i01 has no answer, i09 no review
    audit = found["audit"]
    assert (audit["drawn"], audit["all"]["images"], audit["all"]["agreed"]) == (4, 2, agreed)
    assert audit["all"]["error_wilson_95"] == list(wilson(2 - agreed, 2) or ())
    assert audit["auto_accepted"]["images"] == 0 and audit["auto_accepted"]["error"] is None
    (conflict,) = found["conflicts"]
    assert conflict["answers"] == {"ann": ["dog"], "bob": ["cat"]}
    assert found["reviews"] == {
        "images": 4,
        "not_in_run": 0,
        "of_earlier_pictures": 0,
        "outvoted": 1,
        "undecided_conflicts": 1,
        "labels_not_in_set": {},
    }
    assert "reviewer                    3   25.0%" in out and "image01.jpg: ann dog, bob cat" in out
    card = (tmp_path / "out" / "DATASET_CARD.md").read_text()
    assert "| reviewer | 3 | 25.0% |" in card and "Wilson" in card and found["fingerprint"] in card
    for name in ("encoder", "prompt_set_hash", "embedding_fingerprint", "versions", "sources", "created_at"):
        assert found[name], name


def test_images_lie_in_folders_with_their_own_bytes(made: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert final(made, out, "--all", write=("imagefolder", "parquet", "csv")) == 0
    rows = rows_of(out)
    copies = {path.relative_to(out).as_posix() for path in out.glob("*/*")}
    assert copies == {row["file"] for row in rows.values() if row["decided_by"] != "undecided"}
    assert rows["i01"]["file"] is None
    for row in rows.values():
        if row["file"]:
            assert row["file"].split("/")[0] == row["label"]
            assert (out / row["file"]).read_bytes() == Path(row["uri"]).read_bytes()
    found = facts_of(out)
    assert (found["images_copied"], found["images_not_copied"]) == (11, 0)
    assert found["files"] == ["labels-00000.parquet", "labels-00000.csv"]
    loaded = ImageFolder(str(out))
    assert (
        loaded.classes == sorted({row["label"] for row in rows.values() if row["file"]}) and len(loaded) == 11
    )
    listed = kit.table(out / "labels-00000.csv")
    assert {row["image_id"]: row["file"] or None for row in listed} == {
        k: row["file"] for k, row in rows.items()
    }
    assert {row["image_id"]: row["reviewers"] for row in listed}["i02"] == "ann|bob|cy"


def test_images_that_changed_or_are_gone_are_told_and_their_rows_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kit.labelled_run(tmp_path, kit.PETS, count=4)
    (tmp_path / "photos" / "image01.jpg").unlink()
    (tmp_path / "photos" / "image02.jpg").write_bytes(kit.image_bytes(kit.make_image(77)))
    out = tmp_path / "out"
    assert final(run, out, "--all", write=("imagefolder", "parquet")) == 1
    assert "2 images could not be copied; failed-00000.csv says why" in capsys.readouterr().err
    failed = {row["image_id"]: row["problem"] for row in kit.table(out / "failed-00000.csv")}
    assert failed == {
        "i01": "not_found: not found",
        "i02": "changed since it was labelled: its sha256 differs",
    }
    rows = rows_of(out)
    assert len(rows) == 4 and rows["i01"]["file"] is None and rows["i01"]["label"]
    assert facts_of(out)["images_not_copied"] == 2


def test_images_of_shards_and_parquet_files_are_copied_too(tmp_path: Path) -> None:
    images = [kit.image_bytes(kit.make_image(number)) for number in range(6)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            (tmp_path / "m").write_bytes(images[number])
            tar.add(tmp_path / "m", arcname=f"in/{number}.jpg")
    pq.write_table(pa.table({"image": images[3:]}), tmp_path / "b.parquet")
    prompts = kit.prompt_file(tmp_path, kit.PETS)
    run, out = tmp_path / "run", tmp_path / "out"
    given = ("--input", tmp_path / "a.tar", tmp_path / "b.parquet", "--image-column", "image")
    assert (
        beamclip("label", *given, "--prompts", prompts, "--encoder", "fake", "--quiet", "--output", run) == 0
    )
    assert final(str(run), out, "--all", write=("imagefolder",)) == 0
    copies = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*/*.jpg"))
    assert copies == sorted(hashlib.sha256(data).hexdigest() for data in images)
    (tmp_path / "a.tar").unlink()
    assert final(str(run), tmp_path / "again", "--all", write=("imagefolder",)) == 1
    lost = [row["problem"] for row in kit.table(tmp_path / "again" / "failed-00000.csv")]
    assert len(lost) == 3 and all(f"{tmp_path}/a.tar: not_found" in problem for problem in lost)


@pytest.mark.parametrize(("probed", "decider"), [(False, "model_auto_accept"), (True, "probe")])
def test_what_is_above_a_guaranteed_threshold_is_decided_by_the_model_or_its_probe(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], probed: bool, decider: str
) -> None:
    store, old = Store(run), kit.tag_of(run, "pets")
    base = read_label_set(store, old)
    calibration = Calibration(base=old, temperature=1.0, accept={"cat": 0.0}, figures=CLAIM)
    classes = base.prompt_set.classes
    probe = Probe(
        task="single",
        classes=classes,
        weights=np.zeros((len(classes), 32), np.float32),
        bias=np.zeros(len(classes), np.float32),
        blend=0.0,
        temperature=1.0,
        base=old,
        figures={"trained_on": ["i00"]},
    )
    label_set = LabelSet(
        prompt_set=base.prompt_set, calibration=calibration.hash, probe=probe.hash if probed else None
    )
    objects = {calibration_name(label_set.tag): calibration.to_json()}
    if probed:
        objects[probe_name(label_set.tag)] = probe.to_json()
    assert relabelled(store, label_set, base=old, objects=objects) == 0
    assert final(run, tmp_path / "out", "--set", label_set.tag) == 0
    found = rows_of(tmp_path / "out")
    model = kit.model_labels(run, label_set.tag)
    accepted = {image for image in model if model[image] == "cat" and image > "i03"}
    assert accepted and {image for image, row in found.items() if row["decided_by"] == decider} == accepted
    facts = facts_of(tmp_path / "out")
    assert facts["calibration"]["accept"] == {"cat": 0.0} and facts["calibration"]["figures"] == CLAIM
    assert (facts["probe"] is not None) == probed
    asked = ("i03",) if probed else ("i00", "i03")  # the probe knows i00
    assert facts["audit"]["auto_accepted"]["images"] == sum(model[image] == "cat" for image in asked)
    assert (facts["audit"]["all"]["images"], facts["audit"]["learnt_by_the_probe"]) == (len(asked), probed)
    card = (tmp_path / "out" / "DATASET_CARD.md").read_text()
    assert "a precision of at least 95.0%, at a confidence of 90.0%" in card
    assert ("Left out are 1 audit images" in card) == probed
    since = facts["images"] - 9
    assert since > 0 and f"Not promised of the {since} images that the run has more than when it was" in card
    assert f"not promised{since:>17}  images that came after `beamclip calibrate`" in capsys.readouterr().out


def test_several_labels_go_to_tables_and_never_to_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kit.labelled_run(tmp_path, kit.TAGS)
    file = kit.answers(tmp_path / "a.csv", ("i00", "cat|outdoor", "ann", ""), ("i01", "-", "ann", ""))
    assert beamclip("review", "import", run, "--from", "csv", file, "--quiet") == 0
    assert final(run, tmp_path / "no", write=("imagefolder",)) == 2
    assert "write csv or parquet" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert final(run, tmp_path / "out", "--all", write=("csv", "parquet")) == 0
    found = rows_of(tmp_path / "out")
    assert (found["i00"]["labels"], found["i01"]["labels"]) == (["cat", "outdoor"], [])
    model = kit.model_labels(run, kit.tag_of(run, "tags"), "labels")
    assert all(sorted(found[image]["labels"]) == sorted(model[image]) for image in model if image > "i01")
    facts = facts_of(tmp_path / "out")
    assert facts["decided_by"] == {"reviewer": 2, "model": 10}
    assert facts["images_without_labels"] == sum(not row["labels"] for row in found.values())
    listed = {row["image_id"]: row["labels"] for row in kit.table(tmp_path / "out" / "labels-00000.csv")}
    assert listed["i00"] == "cat|outdoor" and listed["i01"] == ""


def test_a_hierarchy_has_paths_and_a_group_may_be_an_answer(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.ZOO)
    file = kit.answers(tmp_path / "a.csv", ("i00", "bird", "ann", ""), ("i01", "owl", "ann", ""))
    assert beamclip("review", "import", run, "--from", "csv", file, "--quiet") == 0
    assert final(run, tmp_path / "out", write=("imagefolder", "parquet")) == 0
    found = rows_of(tmp_path / "out")
    assert found["i00"]["path"] == ["animal", "bird"] and found["i01"]["path"] == ["animal", "bird", "owl"]
    assert found["i00"]["file"].startswith("bird/") and found["i02"]["path"] is None


def test_a_group_above_the_answer_is_right_as_for_calibrate(tmp_path: Path) -> None:
    """A model that says 'animal' where people say 'owl' keeps its promise, and the card may not deny it."""
    run = kit.labelled_run(tmp_path, kit.ZOO.replace("\nthreshold: 0.3", "\nthreshold: 0.99"))
    backed_off = [
        key for key, label in kit.model_labels(run, kit.tag_of(run, "zoo")).items() if label == "animal"
    ]
    first, second = sorted(backed_off)[:2]
    kit.write_queue(run, kit.tag_of(run, "zoo"), "q", kit.audit(first), kit.audit(second))
    file = kit.answers(tmp_path / "a.csv", (first, "owl", "ann", ""), (second, "__none__", "ann", ""))
    assert beamclip("review", "import", run, "--from", "csv", file, "--quiet") == 0
    assert final(run, tmp_path / "out") == 0
    found = facts_of(tmp_path / "out")["audit"]["all"]
    assert (found["images"], found["agreed"]) == (2, 1)


def test_answers_that_the_set_does_not_have_decide_nothing(run: str, tmp_path: Path) -> None:
    prompts = kit.prompt_file(tmp_path, kit.PETS.replace("  - cat\n", "  - lion\n"))
    assert beamclip("label", "--from-run", run, "--prompts", prompts, "--quiet") == 0
    assert final(run, tmp_path / "out", "--set", "pets") == 0  # the newest of this name
    row = rows_of(tmp_path / "out")["i00"]
    assert (row["label"], row["decided_by"], row["reason"]) == (None, "undecided", "label_not_in_set")
    assert facts_of(tmp_path / "out")["reviews"]["labels_not_in_set"] == {"cat": 1}


def test_a_folder_that_is_not_empty_and_other_mistakes_are_refused(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    cases = [
        ((made, "--output", full, "--write", "csv"), "is not empty"),
        ((made, "--output", made, "--write", "csv"), "is not empty"),
        ((made, "--output", tmp_path / "o", "--write", "coco"), "invalid choice"),
        ((made, "--output", tmp_path / "o"), "--write"),
        ((made, "--output", tmp_path / "o", "--write", "csv", "--set", "cats"), "no such label set"),
        ((tmp_path, "--output", tmp_path / "o", "--write", "csv"), "holds no run"),
    ]
    before = written(Path(made))
    for words, message in cases:
        assert beamclip("review", "final", *words) == 2, words
        assert message in capsys.readouterr().err, words
    assert written(Path(made)) == before and written(full) == ["mine.txt"] and not (tmp_path / "o").exists()


def test_two_rows_of_one_image_are_decided_alike_and_share_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(kit.image_bytes())
    manifest = tmp_path / "m.csv"
    manifest.write_text(kit.as_csv([("image_id", "uri"), ("x", path), ("x", path)]))
    run = kit.label(manifest, str(tmp_path / "run"), kit.prompt_file(tmp_path, kit.PETS))
    assert (
        beamclip(
            "review", "import", run, "--from", "csv", kit.answers(tmp_path / "r.csv", ("x", "dog", "a", ""))
        )
        == 0
    )
    assert final(run, tmp_path / "out", write=("imagefolder", "csv")) == 0
    found = kit.table(tmp_path / "out" / "labels-00000.csv")
    assert [row["label"] for row in found] == ["dog", "dog"] and len({row["file"] for row in found}) == 1
    facts = facts_of(tmp_path / "out")
    assert facts["reviews"]["not_in_run"] == 0 and facts["images_copied"] == 2


def test_a_remote_run_goes_to_a_remote_folder(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    run = kit.labelled_run(tmp_path, kit.PETS, count=1, output=f"{root}/run")
    assert final(run, f"{root}/out", "--all", write=("imagefolder", "csv", "parquet")) == 0
    (row,) = rows_of(f"{root}/out").values()
    assert Store(f"{root}/out").read(row["file"]) == Path(row["uri"]).read_bytes()


def test_rows_roll_into_files_of_bounded_size(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    schema = pa.schema([("n", pa.int64())])
    files = RollingFiles(store, stem="x", suffix=".csv", rows=4, encode=as_csv, schema=schema)
    for start in (0, 3, 6):
        files.add(pa.table({"n": range(start, start + 3)}))
    assert files.close() == ("x-00000.csv", "x-00001.csv", "x-00002.csv")
    lines = [store.read(name).decode().split()[1:] for name in ("x-00000.csv", "x-00001.csv", "x-00002.csv")]
    assert lines == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8"]]
    empty = RollingFiles(store, stem="y", suffix=".csv", rows=4, encode=as_csv, schema=schema)
    assert empty.close() == ("y-00000.csv",) and store.read("y-00000.csv") == b'"n"\n'


def test_names_are_safe_and_unique_on_every_file_system() -> None:
    strange = [
        "../../etc",
        "a/b",
        "a:b",
        "A:B",
        ".hidden",
        "CON",
        "x" * 300,
        "日本" * 90,
        "e\u0301",
        "\n",
        "",
    ]
    for text in strange:
        name = safe_name(text)
        assert name and len(name.encode()) <= 160 and not set(name) & set('/\\:*?"<>|\n') and name[0] != "."
    folders = folder_names([*strange, "cat", "Cat"])
    assert len({name.casefold() for name in folders.values()}) == len(folders)
    names = {
        file_name(str(number), uri, "PNG")
        for number in range(50)
        for uri in ("/a/x.png", "/b/x.png", "t.tar#x")
    }
    assert len(names) == 150 and all(name.startswith("x-") and name.endswith(".png") for name in names)
