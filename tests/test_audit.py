"""The audit of a set: what counts of it, what counts as wrong, and what is left out and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_transforms.review.audit import AuditSlots, Slot, audit_slots
from clip_transforms.review.queues import earlier_queues
from clip_transforms.review.report_data import sample_keys
from clip_transforms.storage import Store
from tests.calibrate_kit import NOON, Row, answer, queue, review
from tests.review_kit import add_random, add_reviews, random_run
from tests.runs import beamclip

EMPTY = AuditSlots(
    slots=(), disputed=0, unreviewed=0, skipped=0, outdated=0, trained_on=0, loose=0, earlier=0
)


def row(name: str) -> Row:
    return {
        "image_id": name,
        "uri": f"/{name}.jpg",
        "score": 0.5,
        "cosine": 0.1,
        "margin": 0.1,
        "entropy": 0.1,
        "top_k": [],
        "decision": "review",
        "decision_reason": "uncalibrated",
        "prompt_set": "pets@00000000",
        "fingerprint": "f",
        "encoder": "fake",
    }


def rows(*names: str) -> list[Row]:
    return [row(name) for name in names]


def slots(run: Path, *, images: int = 100, unreviewed: str = "wrong", trained_on: tuple[str, ...] = ()):
    return audit_slots(
        Store(str(run)),
        "pets",
        images=images,
        unreviewed=unreviewed,  # type: ignore[arg-type]
        trained_on=trained_on,
    )


def labels(found: AuditSlots) -> dict[str, tuple[str, ...] | None]:
    return {slot.image_id: slot.labels for slot in found.slots}


def test_a_run_without_reviews_has_no_audit(tmp_path: Path) -> None:
    assert slots(tmp_path) == EMPTY


def test_only_answers_of_the_audit_count_and_only_of_the_set(tmp_path: Path) -> None:
    answer(
        tmp_path,
        [
            review(row("a"), "cat"),
            review(row("b"), "dog", audit=False),
            review(row("c"), "dog", set_name="pets2"),
        ],
    )
    found = slots(tmp_path)
    assert found.slots == (Slot(image_id="a", uri="/a.jpg", labels=("cat",)),)
    assert replace(found, slots=()) == replace(EMPTY, loose=1)


def test_what_is_not_reviewed_or_disputed_counts_as_wrong(tmp_path: Path) -> None:
    queue(tmp_path, rows("a", "b", "c"), images=100)
    queue(tmp_path, [row("z") | {"prompt_set": "pets2@00000000"}], images=100, name="other")
    answer(
        tmp_path, [review(row("a"), "cat"), review(row("b"), "cat"), review(row("b"), "dog", reviewer="bob")]
    )
    found = slots(tmp_path)
    assert labels(found) == {"a": ("cat",), "b": None, "c": None}
    assert replace(found, slots=()) == replace(EMPTY, unreviewed=1, disputed=1)


def test_what_is_not_reviewed_can_be_left_out_but_not_what_is_disputed(tmp_path: Path) -> None:
    queue(tmp_path, rows("a", "b", "c"), images=100)
    answer(
        tmp_path, [review(row("a"), "cat"), review(row("b"), "cat"), review(row("b"), "dog", reviewer="bob")]
    )
    found = slots(tmp_path, unreviewed="skip")
    assert labels(found) == {"a": ("cat",), "b": None}
    assert replace(found, slots=()) == replace(EMPTY, skipped=1, disputed=1)


def test_an_image_that_was_reviewed_for_another_reason_is_answered_for(tmp_path: Path) -> None:
    queue(tmp_path, rows("a", "b"), images=100)
    answer(tmp_path, [review(row("a"), "cat"), review(row("b"), "cat", audit=False)])
    answer(tmp_path, [review(row("c"), "cat", audit=False)])  # in no audit
    assert labels(slots(tmp_path)) == {"a": ("cat",), "b": ("cat",)}
    assert labels(slots(tmp_path, unreviewed="skip")) == {"a": ("cat",)}


def test_an_audit_of_fewer_images_than_there_are_now_says_nothing_of_the_rest(tmp_path: Path) -> None:
    queue(tmp_path, rows("a", "b"), images=100)
    answer(tmp_path, [review(row("a"), "cat"), review(row("b"), "cat")])
    assert labels(slots(tmp_path, images=101)) == {"a": ("cat",), "b": ("cat",)}  # one in a hundred
    found = slots(tmp_path, images=103)
    assert found == replace(EMPTY, outdated=2)
    queue(tmp_path, rows("b", "c"), images=103, name="q2")
    found = slots(tmp_path, images=103)
    assert labels(found) == {"b": ("cat",), "c": None} and found.outdated == 1


def test_an_audit_that_goes_on_is_one_draw_with_what_was_reviewed_of_it_before(tmp_path: Path) -> None:
    """The second queue leaves out what the first had reviewed; all below its bound was drawn."""
    names = [f"image{number}" for number in range(40)]
    keys = dict(zip(names, sample_keys(names, seed=7).tolist(), strict=True))
    drawn = sorted(names, key=keys.__getitem__)
    first, second = drawn[:10], drawn[10:20]
    facts = {"seed": 7, "images": 100, "bound": keys[first[-1]]}
    queue(tmp_path, rows(*first), images=100, facts=facts)
    answer(tmp_path, [review(row(name), "cat") for name in first])
    facts = {"seed": 7, "images": 200, "bound": keys[second[-1]]}
    queue(tmp_path, rows(*second), images=200, name="q2", facts=facts)
    found = slots(tmp_path, images=200)
    assert labels(found) == {name: ("cat",) if name in first else None for name in drawn[:20]}
    assert (found.unreviewed, found.outdated, found.loose) == (10, 0, 0)


def test_an_audit_of_another_seed_takes_only_what_it_drew_itself(tmp_path: Path) -> None:
    names = [f"image{number}" for number in range(40)]
    queue(tmp_path, rows(*names[:20]), images=100, facts={"seed": 1, "images": 100, "bound": 0.5})
    answer(tmp_path, [review(row(name), "cat") for name in names[:20]])
    keys = dict(zip(names, sample_keys(names, seed=2).tolist(), strict=True))
    queue(tmp_path, rows(*names[30:]), images=200, name="q2", facts={"seed": 2, "images": 200, "bound": 0.5})
    found = slots(tmp_path, images=200)
    again = {name for name in names[:20] if keys[name] <= 0.5}
    assert set(labels(found)) == again | set(names[30:])
    assert found.outdated == 20 - len(again) and 0 < len(again) < 20


def test_what_the_probe_has_learnt_from_is_left_out(tmp_path: Path) -> None:
    answer(tmp_path, [review(row(name), "cat", reviewed_at=NOON) for name in ("a", "b", "c")])
    found = slots(tmp_path, trained_on=("b", "elsewhere"))
    assert labels(found) == {"a": ("cat",), "c": ("cat",)} and found.trained_on == 1


@pytest.mark.parametrize("strange", ['a,"b"\n', "日本", "a|b"])
def test_strange_image_ids_are_ids(tmp_path: Path, strange: str) -> None:
    queue(tmp_path, rows(strange), images=10)
    answer(tmp_path, [review(row(strange), "cat")])
    assert labels(slots(tmp_path, images=10)) == {strange: ("cat",)}


def test_a_run_that_grew_by_images_of_which_none_was_drawn_is_audited_all_the_same(tmp_path: Path) -> None:
    """Nobody has anything to answer, and the audit is of the new images too."""
    store = Store(str(tmp_path / "run"))
    run = random_run(store, 1000)
    options = ("--to", "csv", "--limit", 10, "--audit", 10, "--output", tmp_path / "out")
    assert beamclip("review", "export", store.root, *options) == 0
    (first,) = earlier_queues(store, "pets")
    drawn = pq.read_table(tmp_path / "run" / first.name)["image_id"].to_pylist()
    add_reviews(store, drawn, audit=True)
    more = next(
        numbers
        for numbers in (range(start, start + 20) for start in range(5000, 9000, 20))
        if (sample_keys([*map(str, numbers)], seed=0) > first.facts.bound).all()
    )
    add_random(store, run.tag, more)
    assert audit_slots(store, "pets", images=1020, unreviewed="wrong").outdated == 10
    for _ in range(2):
        assert beamclip("review", "export", store.root, *options) == 0
    assert len(earlier_queues(store, "pets")) == 2
    found = audit_slots(store, "pets", images=1020, unreviewed="wrong")
    assert (len(found.slots), found.outdated, found.unreviewed) == (10, 0, 0)
