"""An image whose object was replaced and read again: answers to the earlier picture do not count for the new one."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clip_transforms.review.audit import audit_slots
from clip_transforms.review.reviews import earlier_images, read_reviews, stored_reviews, verdicts
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


TIMES = pytest.mark.parametrize("times", [("2126-01-01T00:00:00Z", "2126-01-02T00:00:00Z"), (None, None)])


@TIMES
def test_the_new_picture_is_asked_for_again_and_its_answer_counts(
    run: str, times: Sequence[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    first = export(run)
    assert fill(first, "cat", times[0]) == names()
    bring_in(run, first)
    assert counted(run) == names()
    replace_second(run)
    assert counted(run) == names(SECOND)
    store = Store(run)
    assert len(earlier_images(store, "pets")) == 1
    assert stored_reviews(store, "pets").num_rows == COUNT  # nothing is lost
    capsys.readouterr()
    again = export(run, "again")
    assert fill(again, "cat", times[1]) == [SECOND]
    bring_in(run, again)
    assert counted(run) == names() and not earlier_images(store, "pets")
    assert stored_reviews(store, "pets").num_rows == COUNT + 1
    for path in (first, again):  # of a second import nothing is new
        bring_in(run, path)
    assert counted(run) == names()
    if times[0] is not None:
        assert stored_reviews(store, "pets").num_rows == COUNT + 1


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
    assert beamclip("review", "final", run, "--write", "csv", "--output", out, "--quiet") == 0
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


def test_an_answer_from_before_that_comes_in_late_does_not_count(run: str) -> None:
    first = export(run)
    fill(first, "cat", "2126-01-01")
    replace_second(run)
    export(run, "again")  # a newer queue, with the new picture
    rows = {Path(str(row["uri"])).name: row for row in _queued(run)}
    assert len(_queued(run)) == 2 * COUNT and rows[SECOND]["sha256"] is not None
    fill(first, "cat", min(str(row["created_at"]) for row in _queued(run)))
    bring_in(run, first)
    assert counted(run) == names(SECOND)


def test_without_a_queue_the_picture_is_that_of_the_import(run: str) -> None:
    rows = pq.read_table(f"{run}/embeddings").to_pylist()
    told = [(row["image_id"], "dog", "ann", "2126-01-01") for row in rows]
    given = kit.answers(Path(run).parent / "own.csv", *told)
    bring_in(run, given)
    assert {row["sha256"] for row in read_reviews(Store(run)).to_pylist()} == {row["sha256"] for row in rows}
    replace_second(run)
    assert counted(run) == names(SECOND)


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
    told = [
        (row["image_id"], "dog", "bob", "2126-01-01")
        for row in pq.read_table(f"{run}/embeddings").to_pylist()
    ]
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


def _queued(run: str) -> list[dict[str, Any]]:
    return [row for path in Path(run, "queues").glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def _drop_column(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["sha256"]), path)
