"""The review queue: its audit is uniform, its margin part spread out, reviewed images stay away, memory is bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.labelled import LabelledRun
from clip_transforms.review import queue_candidates, queue_clusters
from clip_transforms.review.queue import Queue, QueueOptions, build_queue
from clip_transforms.review.queue_audit import AuditSample, Draw
from clip_transforms.review.queue_candidates import CANDIDATE, Lowest, choose
from clip_transforms.review.queues import blind_images, earlier_queues, queue_name, store_queue
from clip_transforms.review.report_data import sample_keys
from clip_transforms.storage import Store
from schemas.labels import LABELS
from schemas.queues import QUEUE
from tests.review_kit import add_random, add_reviews, add_unit, new_run, random_run

SMALL = QueueOptions(limit=200, audit=50)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LabelledRun:
    """3,000 random images that tests only read."""
    return random_run(Store(str(tmp_path_factory.mktemp("run"))), 3000)


def rows(queue: Queue) -> list[dict[str, Any]]:
    return queue.rows.to_pylist()


def ids(queue: Queue, *, audit: bool | None = None) -> list[str]:
    return [row["image_id"] for row in rows(queue) if audit in (None, row["audit"])]


def test_the_audit_is_the_lowest_hashes_of_all_images_whatever_their_margin(run: LabelledRun) -> None:
    queue = build_queue(run, SMALL)
    assert queue.rows.schema.equals(QUEUE)
    keys = sample_keys([str(number) for number in range(3000)], seed=0)
    assert ids(queue, audit=True) == [str(number) for number in np.argsort(keys)[:50]]
    found = rows(queue)
    assert {row["audit_prob"] for row in found if row["audit"]} == {50 / 3000}
    assert {row["audit_prob"] for row in found if not row["audit"]} == {None}
    assert [row["position"] for row in found] == list(range(len(found)))
    places = [row["position"] for row in found if row["audit"]]
    assert max(np.diff(places)) <= 5 and places[0] <= 4  # spread: one in four


def test_a_row_is_certain_if_the_margin_part_would_have_taken_it_anyway(run: LabelledRun) -> None:
    """The margin part does not depend on the audit, so the probabilities are those of the recorded design."""
    queue = build_queue(run, SMALL)
    alone = set(ids(build_queue(run, replace(SMALL, limit=150, audit=0))))
    assert len(alone) == 150
    assert {row["image_id"] for row in rows(queue) if row["selection_prob"] == 1.0} == alone
    assert set(ids(queue, audit=False)) == alone - set(ids(queue, audit=True))
    overlap = alone & set(ids(queue, audit=True))
    assert overlap and len(queue.rows) == 200 - len(overlap)
    others = [row for row in rows(queue) if row["image_id"] not in alone]
    assert {row["selection_prob"] for row in others} == {50 / 3000}
    reasons = {(row["audit"], row["selection_reason"]) for row in rows(queue)}
    assert reasons == {(True, "audit"), (False, "margin")}


def test_the_margin_part_takes_the_least_sure_of_each_cluster(run: LabelledRun) -> None:
    queue = build_queue(run, replace(SMALL, audit=0, limit=160))
    assert queue.facts.clusters == 10
    counts = Counter(row["cluster"] for row in rows(queue))
    assert len(counts) == 10 and max(counts.values()) <= 17
    assert max(row["margin"] for row in rows(queue)) < 10 * 160 / 3000 + 0.05


def test_near_duplicates_do_not_fill_the_queue(tmp_path: Path) -> None:
    """200 frames of one film, the least sure of all, beside 1,000 other images."""
    store = Store(str(tmp_path))
    tag = random_run(store, 1000).tag
    rng = np.random.default_rng(9)
    film = rng.standard_normal(16) + 0.02 * rng.standard_normal((200, 16))
    hashes = np.full(200, 0xF0F0, np.uint64) ^ (np.uint64(1) << rng.integers(0, 40, 200).astype(np.uint64))
    add_unit(
        store,
        tag,
        9000,
        ids=[f"film-{number}" for number in range(200)],
        vectors=film / np.linalg.norm(film, axis=1, keepdims=True),
        margins=rng.random(200) * 1e-3,
        phashes=hashes,
    )
    queue = build_queue(LabelledRun(store, tag), replace(SMALL, limit=100, audit=0))
    assert len(queue.rows) == 100
    assert sum(image.startswith("film-") for image in ids(queue)) == 1


def test_pictures_that_only_one_of_eye_and_encoder_finds_alike_are_not_duplicates(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tag = new_run(store)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 16))
    vectors[20:] = vectors[20]
    hashes = np.concatenate([np.zeros(20, np.uint64), rng.integers(0, 2**63, 20, dtype=np.uint64)])
    add_unit(
        store,
        tag,
        0,
        ids=[str(number) for number in range(40)],
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        margins=np.linspace(0, 1, 40),
        phashes=hashes,
    )
    assert len(build_queue(LabelledRun(store, tag), replace(SMALL, audit=0)).rows) == 40


def test_the_same_request_is_the_same_queue_and_is_stored_once(run: LabelledRun, tmp_path: Path) -> None:
    first, again = build_queue(run, SMALL), build_queue(run, SMALL)
    assert first.id == again.id and first.id.startswith("pets-")
    volatile = ["created_at"]
    assert first.rows.drop_columns(volatile).equals(again.rows.drop_columns(volatile))
    for changed in (replace(SMALL, seed=1), replace(SMALL, blind=True), replace(SMALL, limit=201)):
        assert build_queue(run, changed).id != first.id
    store = Store(str(tmp_path))
    assert store_queue(store, first.id, first.rows, first.facts)
    assert not store_queue(store, again.id, again.rows, again.facts)
    kept = pq.read_table(tmp_path / queue_name(first.id))
    assert kept.schema.equals(QUEUE, check_metadata=False)
    assert kept.to_pylist() == first.rows.to_pylist()
    (found,) = earlier_queues(store, "pets")
    assert found.facts == first.facts and earlier_queues(store, "other") == []


def test_blind_rows_are_the_audit_rows(run: LabelledRun, tmp_path: Path) -> None:
    queue = build_queue(run, replace(SMALL, blind=True))
    assert all(row["blind"] == row["audit"] for row in rows(queue))
    store = Store(str(tmp_path))
    store_queue(store, queue.id, queue.rows, queue.facts)
    assert sorted(blind_images(store, "pets")) == sorted(ids(queue, audit=True))


def test_reviewed_images_do_not_come_again_but_the_audit_stays_whole(tmp_path: Path) -> None:
    run = random_run(Store(str(tmp_path)), 1000)
    first = build_queue(run, SMALL)
    audit, margin = ids(first, audit=True), ids(first, audit=False)
    done, open_audit = audit[:20], audit[20:]
    add_reviews(run.store, done, audit=True)
    add_reviews(run.store, margin[:30])
    add_reviews(run.store, open_audit[:1])  # reviewed, not as audit: the audit needs it all the same
    add_reviews(run.store, margin[30:40], set_name="other")
    second = build_queue(run, SMALL)
    assert ids(second, audit=True) == open_audit
    assert second.facts.drawn_before == 20
    assert {row["audit_prob"] for row in rows(second) if row["audit"]} == {50 / 1000}
    assert not set(ids(second, audit=False)) & {*done, *margin[:30]}
    assert len(ids(second, audit=False)) >= 140
    larger = build_queue(run, replace(SMALL, limit=250, audit=100))
    assert set(ids(larger, audit=True)) > set(open_audit) and len(ids(larger, audit=True)) == 80


def test_a_run_that_grew_is_audited_at_the_rate_of_its_first_audit(tmp_path: Path) -> None:
    """Else old images would be likelier than new ones in the two audits together."""
    run = random_run(Store(str(tmp_path)), 1000)
    first = build_queue(run, SMALL)
    store_queue(run.store, first.id, first.rows, first.facts)
    add_reviews(run.store, ids(first, audit=True), audit=True)
    add_random(run.store, run.tag, range(5000, 7000))
    grown = LabelledRun(run.store, run.tag)
    second = build_queue(grown, SMALL)
    numbers = [str(number) for number in (*range(1000), *range(5000, 7000))]
    keys = dict(zip(numbers, sample_keys(numbers, seed=0).tolist(), strict=True))
    bound = max(keys[image] for image in ids(first, audit=True))
    assert set(ids(second, audit=True)) == {image for image in numbers[1000:] if keys[image] <= bound}
    drawn = sum(key <= bound for key in keys.values())
    assert {row["audit_prob"] for row in rows(second) if row["audit"]} == {drawn / 3000}
    assert set(ids(build_queue(grown, replace(SMALL, audit=0)))) & set(ids(first, audit=True)) == set()


def test_what_is_accepted_automatically_is_audited_but_not_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tag = new_run(store)
    decisions = pa.array(["auto_accept", "review", "abstain", "review"] * 25).dictionary_encode()
    labels = pa.array(["cat", "dog", None, "__none__"] * 25).dictionary_encode()
    rng = np.random.default_rng(0)
    add_unit(
        store,
        tag,
        0,
        ids=[str(number) for number in range(100)],
        vectors=np.eye(100, 128),
        margins=rng.random(100) * 0.1,
        phashes=rng.integers(0, 2**63, 100, dtype=np.uint64),
        decision=decisions.cast(LABELS.field("decision").type),
        label=labels.cast(LABELS.field("label").type),
    )
    queue = build_queue(LabelledRun(store, tag), replace(SMALL, limit=200, audit=100))
    assert Counter(row["decision"] for row in rows(queue)) == {"auto_accept": 25, "review": 50, "abstain": 25}
    certain = Counter((row["decision"], row["selection_prob"]) for row in rows(queue))
    assert certain[("auto_accept", 1.0)] == 25  # 100 of 100 are drawn
    margin = build_queue(LabelledRun(store, tag), replace(SMALL, audit=0))
    assert Counter(row["decision"] for row in rows(margin)) == {"review": 50, "abstain": 25}


def test_an_id_that_comes_twice_is_in_the_queue_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run = random_run(store, 100)
    add_random(store, run.tag, range(60, 100), unit=40, seed=5)
    queue = build_queue(LabelledRun(store, run.tag), replace(SMALL, limit=200, audit=100))
    assert len(ids(queue)) == len(set(ids(queue))) == 100


@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_runs_are_reviewed_whole(tmp_path: Path, count: int) -> None:
    run = random_run(Store(str(tmp_path)), count)
    queue = build_queue(run, QueueOptions())
    assert sorted(ids(queue)) == sorted(map(str, range(count)))
    assert {row["selection_prob"] for row in rows(queue)} == {1.0}
    add_reviews(run.store, ids(queue), audit=True)
    assert build_queue(run, QueueOptions()).rows.num_rows == 0


def test_the_order_of_parts_changes_neither_audit_nor_candidates() -> None:
    rng = np.random.default_rng(0)
    many = np.zeros(5000, CANDIDATE)
    many["cluster"], many["margin"], many["key"] = (
        rng.integers(0, 8, 5000),
        rng.random(5000),
        rng.random(5000),
    )
    many["phash"], many["sketch"] = rng.integers(0, 50, 5000), rng.integers(0, 50, 5000)
    found = []
    for order in (np.arange(5000), rng.permutation(5000)):
        lowest, audit = Lowest(clusters=8, slots=40), AuditSample(Draw(slots=30))
        for part in np.array_split(many[order], 13):
            lowest.offer(part)
            audit.offer(part["key"], 0)
        kept = lowest.values()
        assert max(Counter(kept["cluster"].tolist()).values()) == 80
        found.append((kept.tolist(), audit.values()["key"].tolist(), choose(kept, 100).tolist()))
    assert found[0] == found[1]


def test_clusters_do_not_depend_on_the_order_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is labelled again has the same rows in another order."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 16)).astype(np.float32)
    block = SimpleNamespace(embeddings=SimpleNamespace(rows=500))
    monkeypatch.setattr(queue_clusters, "list_blocks", lambda *_: [block])
    run: Any = SimpleNamespace(source=None, store=None, tag="pets@0a1b2c3d")
    found = []
    for order in (np.arange(500), rng.permutation(500)):
        shuffled = vectors[order]
        monkeypatch.setattr(queue_clusters, "iter_vectors", lambda *_, rows=shuffled: iter([rows]))
        found.append(queue_clusters.fit_clusters(run, count=8, seed=3).centres)
    np.testing.assert_array_equal(found[0], found[1])


def test_candidates_are_bounded_and_sorting_in_early_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    many = np.zeros(20_000, CANDIDATE)
    many["margin"], many["key"] = rng.random(20_000), rng.random(20_000)
    many["phash"] = many["sketch"] = np.arange(20_000)
    whole = Lowest(clusters=1, slots=10)
    whole.offer(many)
    expected = whole.values().tolist()
    monkeypatch.setattr(queue_candidates, "_PENDING", 100)
    parts = Lowest(clusters=1, slots=10)
    for part in np.array_split(many, 400):
        parts.offer(part)
        assert len(parts._kept) <= 20 and parts._waiting < 150
    assert parts.values().tolist() == expected
    assert [row[1] for row in expected] == sorted(many["margin"].tolist())[:20]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "--limit 0: expected a number from 1"),
        ({"limit": 100_001}, "--limit 100001"),
        ({"limit": 10, "audit": 11}, "--audit 11: expected 0 to --limit, which is 10"),
        ({"audit": -1}, "--audit -1"),
        ({"seed": -1}, "--seed -1: expected a number from 0"),
        ({"audit": 0, "blind": True}, "--blind hides the predictions of audit rows, and --audit is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        QueueOptions(**options)
