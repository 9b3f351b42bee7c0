"""An image whose object was replaced and read again: answers to the earlier picture do not count for the new one."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_transforms.review.audit import audit_slots
from clip_transforms.review.reviews import read_reviews, set_reviews, stored_reviews, verdicts
from clip_transforms.storage import Store
from tests import reviews_kit as kit
from tests.helpers import image_bytes, make_image
from tests.runs import beamclip

COUNT = 8
SECOND = "2.jpg"


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Eight images in two units, labelled."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(COUNT):
        (photos / f"{number}.jpg").write_bytes(image_bytes(make_image(number)))
    prompts = kit.prompt_file(tmp_path, kit.PETS)
    asked = ("--encoder", "fake", "--unit-size", "4", "--quiet", "--output", tmp_path / "run")
    assert beamclip("label", "--input", photos, "--prompts", prompts, *asked) == 0
    return str(tmp_path / "run")


def replace_second(run: str) -> None:
    """Another picture in the place of 2.jpg, 3.jpg written anew with the same bytes; both are read again."""
    photos = Path(run).parent / "photos"
    (photos / SECOND).write_bytes(image_bytes(make_image(99)))
    os.utime(photos / "3.jpg", ns=(1, 1))
    assert beamclip("label", "--output", run, "--resume", "--on-changed", "redo", "--quiet") == 0
    assert any(name.startswith("redo-") for name in Store(run).folders("commits"))


def export(run: str, name: str = "out", *more: object) -> Path:
    """An audit of all images as a CSV to be filled in."""
    out = Path(run).parent / name
    asked = ("--to", "csv", "--limit", COUNT, "--audit", COUNT, "--output", out, "--quiet", *more)
    assert beamclip("review", "export", run, *asked) == 0
    (path,) = out.glob("*.csv")
    return path


def fill(path: Path, label: str | None, at: str | None) -> list[str]:
    """Answer every row with a label, or with what is shown; the names of the images."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for row in rows:
        row |= {"labels": label or row["shown"], "reviewer": "ann", "reviewed_at": at or ""}
    path.write_text(kit.as_csv([list(rows[0]), *(list(row.values()) for row in rows)]))
    return sorted(Path(row["uri"]).name for row in rows)


def bring_in(run: str, path: Path, *more: object) -> None:
    assert beamclip("review", "import", run, "--from", "csv", path, *more) == 0


def counted(run: str) -> list[str]:
    """The names of the images whose reviews count."""
    return sorted({Path(str(row["uri"])).name for row in read_reviews(Store(run), "pets").to_pylist()})


def names(*but: str) -> list[str]:
    return [name for name in (f"{number}.jpg" for number in range(COUNT)) if name not in but]


TIMES = pytest.mark.parametrize(
    "times",
    [
        ("2126-01-01T00:00:00Z", "2126-01-02T00:00:00Z"),
        ("2026-01-02", "2026-01-02"),  # before the queues were made: a day, or a clock that is slow
        (None, None),
    ],
)


@TIMES
def test_the_new_picture_is_asked_for_again_and_its_answer_counts(
    run: str, times: Sequence[str | None]
) -> None:
    store = Store(run)
    first = export(run)
    assert fill(first, "cat", times[0]) == names()
    bring_in(run, first)
    assert counted(run) == names()
    replace_second(run)
    assert counted(run) == names(SECOND) and len(set_reviews(store, "pets").earlier()) == 1
    assert stored_reviews(store, "pets").num_rows == COUNT  # nothing is lost
    again = export(run, "again")
    assert fill(again, "dog", times[1]) == [SECOND]
    bring_in(run, again)
    assert counted(run) == names() and not set_reviews(store, "pets").earlier()
    for path in (first, again):  # the same files again change nothing
        bring_in(run, path)
    assert stored_reviews(store, "pets").num_rows == COUNT + 1
    found = {Path(str(one.uri)).name: one.labels for one in verdicts(store, "pets")}
    assert found == {**dict.fromkeys(names(), ("cat",)), SECOND: ("dog",)}


def test_the_same_answer_to_the_new_picture_is_another_one(run: str) -> None:
    first = export(run)
    fill(first, "cat", None)
    bring_in(run, first)
    replace_second(run)
    again = export(run, "again")
    fill(again, "cat", None)
    bring_in(run, again)
    assert counted(run) == names() and stored_reviews(Store(run), "pets").num_rows == COUNT + 1


def test_it_is_told(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = export(run)
    fill(first, None, "2126-01-01")
    bring_in(run, first)
    assert "earlier" not in capsys.readouterr().out
    replace_second(run)
    bring_in(run, first)
    said = capsys.readouterr().out
    assert "earlier pictures" in said and "audit                         7  of 8" in said
    assert beamclip("calibrate", run, "--target-precision", 0.99) == 1
    assert "(1 of them changed after their reviews)" in capsys.readouterr().err
    assert beamclip("calibrate", run, "--target-precision", 0.5, "--confidence", 0.5, "--dry-run") == 0
    assert "1 audit images changed after their reviews" in capsys.readouterr().out
    out = Path(run).parent / "final"
    assert beamclip("review", "final", run, "--write", "csv", "--output", out) == 0
    assert "not counted                 1  images changed after their reviews" in capsys.readouterr().out
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["reviews"]["of_earlier_pictures"] == 1 and facts["decided_by"]["reviewer"] == COUNT - 1
    assert "before the image changed" in (out / "DATASET_CARD.md").read_text()


def test_refine_learns_nothing_from_them(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = export(run)
    fill(first, "cat", "2126-01-01")
    bring_in(run, first)
    replace_second(run)
    assert beamclip("refine", run) == 1  # all images have one label, and half of them are held out
    assert "; 1 left out: the image changed since" in capsys.readouterr().err


def test_an_audit_misses_the_new_picture(run: str) -> None:
    first = export(run)
    fill(first, "cat", "2126-01-01")
    bring_in(run, first)
    store = Store(run)
    assert audit_slots(store, "pets", images=COUNT, unreviewed="wrong").unreviewed == 0
    replace_second(run)
    found = audit_slots(store, "pets", images=COUNT, unreviewed="wrong")
    assert (found.unreviewed, found.earlier, len(found.slots)) == (1, 1, COUNT)
    assert audit_slots(store, "pets", images=COUNT, unreviewed="skip").skipped == 1


@pytest.mark.parametrize("time", ["2126-01-01", None])
def test_an_answer_to_the_earlier_picture_that_comes_in_late_does_not_count(
    run: str, time: str | None
) -> None:
    first = export(run)
    fill(first, "cat", time)
    replace_second(run)
    again = export(run, "again")
    bring_in(run, first)
    assert counted(run) == names(SECOND)
    fill(again, "dog", time)
    bring_in(run, again)
    assert counted(run) == names()


def test_without_a_queue_the_picture_is_that_of_the_import(run: str) -> None:
    rows = pq.read_table(f"{run}/embeddings").to_pylist()
    told = [(row["image_id"], "dog", "ann", "2126-01-01") for row in rows]
    given = kit.answers(Path(run).parent / "own.csv", *told)
    bring_in(run, given)
    assert {row["sha256"] for row in read_reviews(Store(run)).to_pylist()} == {row["sha256"] for row in rows}
    replace_second(run)
    assert counted(run) == names(SECOND)
    bring_in(run, given)  # known, whatever picture the run has now
    assert counted(run) == names(SECOND)
    (second,) = set_reviews(Store(run), "pets").earlier()
    export(run)  # a queue holds the image, and is not what was answered
    later = kit.answers(Path(run).parent / "later.csv", (second, "cat", "ann", "2126-01-02"))
    bring_in(run, later)
    assert counted(run) == names()


def test_a_picture_that_is_no_sha256_is_rejected(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = read_ids(run)[0]
    head = "image_id,labels,sha256"
    given = kit.answers(Path(run).parent / "own.csv", (image, "dog", "1.2e+9"), head=head)
    assert beamclip("review", "import", run, "--from", "csv", given) == 1
    assert "the sha256 is '1.2e+9', expected 64 hex digits" in capsys.readouterr().out


def test_of_an_id_that_several_inputs_have_reviews_stay(tmp_path: Path) -> None:
    """Which of the two pictures was answered nobody knows; another image of the shard is replaced."""

    def write(last: int) -> None:
        with tarfile.open(tmp_path / "in" / "0.tar", "w") as tar:
            for name, seed, key in (("a", 20, "a"), ("b", 6, "both"), ("c", 7, "both"), ("d", last, "d")):
                content = {".jpg": image_bytes(make_image(seed)), ".json": json.dumps({"id": key}).encode()}
                for suffix, data in content.items():
                    member = tarfile.TarInfo(name + suffix)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        os.utime(tmp_path / "in" / "0.tar", ns=(last, last))

    (tmp_path / "in").mkdir()
    write(30)
    run = str(tmp_path / "run")
    prompts = kit.prompt_file(tmp_path, kit.PETS)
    asked = ("--prompts", prompts, "--encoder", "fake", "--id-column", "id", "--quiet", "--output", run)
    assert beamclip("label", "--input", tmp_path / "in", *asked) == 0
    bring_in(
        run,
        kit.answers(tmp_path / "own.csv", *((key, "cat", "ann", "2026-01-01") for key in ("a", "both", "d"))),
    )
    write(31)
    assert beamclip("label", "--output", run, "--resume", "--on-changed", "redo", "--quiet") == 0
    assert sorted(one.image_id for one in verdicts(Store(run), "pets")) == ["a", "both"]


def test_copies_are_of_the_pictures_that_were_embedded(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos = Path(run).parent / "photos"
    (photos / SECOND).write_bytes(image_bytes(make_image(99)))
    asked = ("--to", "cvat", "--limit", COUNT, "--audit", COUNT, "--output", Path(run).parent / "out")
    assert beamclip("review", "export", run, *asked, "--images", Path(run).parent / "copies") == 1
    assert "1 of 8 images cannot be read any more, or have changed since" in capsys.readouterr().err


def test_labels_of_another_runs_embeddings(run: str) -> None:
    view = f"{run}-view"
    prompts = Path(run).parent / "pets.yaml"
    asked = ("--prompts", prompts, "--output", view, "--quiet")
    assert beamclip("label", "--from-run", run, *asked) == 0
    first = export(view)
    fill(first, "cat", "2126-01-01")
    bring_in(view, first)
    replace_second(run)
    assert counted(view) == names(SECOND)
    assert beamclip("label", "--from-run", run, "--output", view, "--resume", "--quiet") == 0
    again = export(view, "again")
    assert fill(again, "dog", "2126-01-01") == [SECOND]
    bring_in(view, again)
    assert counted(view) == names()


def test_reviews_and_queues_from_before_pictures_were_known_count(run: str) -> None:
    first = export(run)
    for path in Path(run, "queues").glob("*.parquet"):
        _drop_column(path)
    fill(first, "cat", "2126-01-01")
    bring_in(run, first)
    for path in Path(run, "reviews").glob("*.parquet"):
        _drop_column(path)
    replace_second(run)
    assert counted(run) == names() and len(verdicts(Store(run), "pets")) == COUNT
    told = [(image_id, "dog", "bob", "2126-01-01") for image_id in read_ids(run)]
    bring_in(run, kit.answers(Path(run).parent / "own.csv", *told))
    assert read_reviews(Store(run)).num_rows == 2 * COUNT


def test_carried_reviews_are_of_the_picture_that_they_were_given_to(run: str) -> None:
    first = export(run)
    fill(first, "cat", None)
    bring_in(run, first)
    prompts = kit.prompt_file(Path(run).parent, kit.PETS.replace("name: pets", "name: beasts"))
    words = ("--prompts", prompts, "--set", "pets", "--quiet")
    assert beamclip("review", "migrate", run, *words) == 0
    assert read_reviews(Store(run), "beasts").num_rows == COUNT
    replace_second(run)
    assert read_reviews(Store(run), "beasts").num_rows == COUNT - 1
    again = export(run, "again", "--set", "pets")
    fill(again, "cat", None)
    bring_in(run, again, "--set", "pets")
    assert beamclip("review", "migrate", run, *words) == 0
    assert read_reviews(Store(run), "beasts").num_rows == COUNT


def read_ids(run: str) -> list[str]:
    return list(pq.read_table(f"{run}/embeddings").column("image_id").to_pylist())


def _drop_column(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["sha256"]), path)
