"""The report of a run: exact counts, which images are shown, the page's bounds, and that it stands alone."""

from __future__ import annotations

import html.parser
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.images import DecodeOptions
from clip_transforms.labelsets import LabelSet, keep_label_set
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.review import ReportInputs, ReportOptions, write_report
from clip_transforms.review.report import render_report
from clip_transforms.review.report_data import part_names, read_failures, read_images, sample_keys
from clip_transforms.review.report_histogram import Histogram, chart
from clip_transforms.review.report_labels import count_labels, label_sets, read_sheets
from clip_transforms.review.report_view import set_view, wanted_labels
from clip_transforms.review.thumbnails import make_thumbnail, make_thumbnails
from clip_transforms.storage import Store
from tests.helpers import image_bytes, make_image
from tests.report_kit import (
    MADE,
    Picture,
    label_row,
    load_file,
    pictures,
    random_probabilities,
    run_record,
    write_duplicates,
    write_embeddings,
    write_failures,
    write_labels,
)

TAG = "pets@1a2b3c4d"
CLASSES = ("cat", "dog", "rabbit")
OPTIONS = ReportOptions(tiles_per_label=4, sample_per_label=2)


class Page(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.words: list[str] = []
        self.tiles: dict[str, Any] = {}
        self._script: str | None = None
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._script = dict(attrs).get("id", "code") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script == "tiles":
            self.tiles = json.loads(data)
        elif self._script is None:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def plain_rows(images: list[Picture], *, seed: int = 0) -> list[dict[str, Any]]:
    """A row an image; the unlikely ones abstain."""
    rng = np.random.default_rng(seed)
    rows = [label_row(image, random_probabilities(rng, CLASSES), tag=TAG) for image in images]
    for row in rows:
        if row["score"] < 0.5:
            row |= {"label": None, "decision": "abstain", "decision_reason": "below_threshold"}
    return rows


def named(count: int) -> list[Picture]:
    """Images that exist only by name."""
    return [Picture(path=f"/photos/image{number:05d}.jpg") for number in range(count)]


def page_of(run: Path, *, inputs: int, failed: int = 0, **options: Any) -> Page:
    record = run_record(inputs=inputs, failed=failed)
    found = render_report(
        Store(str(run)),
        data=ReportInputs(run=record),
        options=ReportOptions(**options),
        load_image=load_file,
    )
    return Page(found)


def test_counts_are_exact_over_all_parts(tmp_path: Path) -> None:
    rows = plain_rows(named(300))
    for number in range(3):
        write_labels(tmp_path, TAG, rows[number::3], name=f"part-{number}.parquet")
    store = Store(str(tmp_path))
    names = part_names(store, f"labels/{TAG}", None)
    stats = count_labels(store, tag=TAG, names=names)
    assert len(names) == 3 and stats.rows == 300 and not stats.multi
    expected = Counter(row["label"] for row in rows)
    assert {label: count.images for label, count in stats.labels.items()} == expected
    for label, count in stats.labels.items():
        total = sum(row["score"] for row in rows if row["label"] == label)
        assert count.score_sum == pytest.approx(total, rel=1e-5)
    assert stats.decisions == Counter(row["decision"] for row in rows)
    assert stats.reasons == Counter(row["decision_reason"] for row in rows)
    margins = np.array([row["margin"] for row in rows], np.float32)
    assert stats.margins.bins(10) == np.histogram(margins, bins=10, range=(0, 1))[0].tolist()


def test_the_least_sure_come_first_then_a_sample_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = plain_rows(named(200))
    shown = []
    for number, order in enumerate((rows, rows[::-1])):
        run = tmp_path / str(number)
        write_labels(run, TAG, order[:50], name="part-b.parquet")
        write_labels(run, TAG, order[50:], name="part-a.parquet")
        store = Store(str(run))
        names = part_names(store, f"labels/{TAG}", None)
        stats = count_labels(store, tag=TAG, names=names)
        shown.append(read_sheets(store, stats, names=names, labels=["cat", None], options=OPTIONS))
    assert shown[0] == shown[1]
    cats, without = shown[0]
    of_cats = sorted((row["margin"], row["image_id"]) for row in rows if row["label"] == "cat")
    assert [tile.image_id for tile in cats.tiles[:4]] == [key for _, key in of_cats[:4]]
    assert [tile.drawn for tile in cats.tiles] == ["unsure"] * 4 + ["sample"] * 2
    assert len({tile.image_id for tile in cats.tiles}) == 6 and cats.unsure == 4
    nearest = sorted((-row["score"], row["image_id"]) for row in rows if row["label"] is None)
    assert [tile.image_id for tile in without.tiles[:4]] == [key for _, key in nearest[:4]]
    first = next(row for row in rows if row["image_id"] == cats.tiles[0].image_id)
    assert [guess.label for guess in cats.tiles[0].top_k] == [guess["label"] for guess in first["top_k"]]


def test_the_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    write_labels(tmp_path, TAG, plain_rows(named(200)))
    store = Store(str(tmp_path))
    names = part_names(store, f"labels/{TAG}", None)
    stats = count_labels(store, tag=TAG, names=names)
    drawn = {}
    for seed in (0, 0, 1):
        options = ReportOptions(tiles_per_label=1, sample_per_label=6, seed=seed)
        (sheet,) = read_sheets(store, stats, names=names, labels=["cat"], options=options)
        ids = [tile.image_id for tile in sheet.tiles[1:]]
        assert drawn.setdefault(seed, ids) == ids
    assert len(set(drawn[0]) & set(drawn[1])) < 6
    keys = sample_keys([f"{number}" for number in range(4000)], seed=0)
    assert keys.min() >= 0 and keys.max() < 1 and abs(keys.mean() - 0.5) < 0.02


def test_an_image_with_several_labels_is_on_each_sheet_lowest_score_first(tmp_path: Path) -> None:
    images = named(60)
    rng = np.random.default_rng(1)
    rows, given = [], Counter()
    for image in images:
        scores = dict(zip(CLASSES, rng.random(3).tolist(), strict=True))
        labels = [label for label, score in scores.items() if score >= 0.6]
        rows.append(label_row(image, scores, tag=TAG, label=None, labels=labels))
        given.update(labels or [None])
    write_labels(tmp_path, TAG, rows)
    store = Store(str(tmp_path))
    names = part_names(store, f"labels/{TAG}", None)
    stats = count_labels(store, tag=TAG, names=names)
    assert stats.multi and {label: count.images for label, count in stats.labels.items()} == given
    dogs, without = read_sheets(store, stats, names=names, labels=["dog", None], options=OPTIONS)
    scores = {
        row["image_id"]: next(guess["score"] for guess in row["top_k"] if guess["label"] == "dog")
        for row in rows
        if "dog" in row["labels"]
    }
    lowest = sorted(scores, key=scores.__getitem__)[:4]
    assert [tile.image_id for tile in dogs.tiles[:4]] == lowest
    assert [tile.score for tile in dogs.tiles[:4]] == pytest.approx([scores[key] for key in lowest])
    assert dogs.score_mean == pytest.approx(np.mean(list(scores.values())))
    best = sorted((-row["score"], row["image_id"]) for row in rows if not row["labels"])[:4]
    assert [tile.image_id for tile in without.tiles[:4]] == [key for _, key in best]


def test_a_label_beyond_the_top_k_has_the_top_ks_lowest_score(tmp_path: Path) -> None:
    scores = {f"label-{number}": 0.9 - number / 100 for number in range(7)}
    write_labels(
        tmp_path, TAG, [label_row(Picture(path="/a.jpg"), scores, tag=TAG, label=None, labels=["label-6"])]
    )
    store = Store(str(tmp_path))
    names = part_names(store, f"labels/{TAG}", None)
    stats = count_labels(store, tag=TAG, names=names)
    (sheet,) = read_sheets(store, stats, names=names, labels=["label-6"], options=OPTIONS)
    assert sheet.tiles[0].score == pytest.approx(0.86)  # the fifth


def test_a_hierarchy_is_listed_as_a_tree_with_totals(tmp_path: Path) -> None:
    paths = {"owl": ["bird", "owl"], "crane": ["bird", "crane"], "bird": ["bird"], "snail": ["snail"]}
    rows = [
        label_row(image, {label: 0.6, "other": 0.4}, tag=TAG, label=label, path=paths[label])
        for image, label in zip(
            named(10), ["owl"] * 3 + ["crane"] * 2 + ["bird"] + ["snail"] * 4, strict=True
        )
    ]
    write_labels(tmp_path, TAG, rows)
    store = Store(str(tmp_path))
    names = part_names(store, f"labels/{TAG}", None)
    stats = count_labels(store, tag=TAG, names=names)
    sheets = read_sheets(store, stats, names=names, labels=wanted_labels(stats, sheets=9), options=OPTIONS)
    view = set_view(stats, sheets, prompts=None, pictures={}, position=0, options=OPTIONS)
    assert [(row.label, row.images, row.own, row.depth) for row in view.labels] == [
        ("bird", 6, 1, 0),
        ("owl", 3, 3, 1),
        ("crane", 2, 2, 1),
        ("snail", 4, 4, 0),
    ]
    assert [sheet.above for sheet in view.sheets if sheet.title == "owl"] == [("bird",)]
    assert view.labels[0].anchor == next(sheet.anchor for sheet in view.sheets if sheet.title == "bird")


def test_labels_never_given_and_their_names_come_from_the_prompt_set(tmp_path: Path) -> None:
    labels = (Label(id="cat"), Label(id="n0123", name="tench"), Label(id="lizard"))
    label_set = LabelSet(prompt_set=PromptSet(name="pets", labels=labels))
    keep_label_set(Store(str(tmp_path)), label_set)
    images = named(3)
    rows = [label_row(image, {"n0123": 0.7, "cat": 0.3}, tag=label_set.tag) for image in images]
    write_labels(tmp_path, label_set.tag, rows)
    write_embeddings(tmp_path, images)
    page = page_of(tmp_path, inputs=3)
    assert "n0123 tench" in page.text and "2 never given" in page.text and "cat, lizard" in page.text
    assert "1 label given, 2 never." in page.text


def test_the_newest_folder_of_a_set_is_shown_unless_told(tmp_path: Path) -> None:
    images = named(2)
    for tag, day in (("pets@ffffffff", 1), ("pets@00000000", 2), ("kind@11111111", 1)):
        made = MADE.replace(day=day)
        write_labels(tmp_path, tag, [label_row(i, {"cat": 0.9}, tag=tag, created_at=made) for i in images])
    store = Store(str(tmp_path))
    assert list(label_sets(store, asked=None, parts=None)) == ["kind@11111111", "pets@00000000"]
    assert list(label_sets(store, asked=["pets@ffffffff"], parts=None)) == ["pets@ffffffff"]
    with pytest.raises(RequestError, match="no labels of the prompt set 'pets@1'; it has kind@11111111"):
        label_sets(store, asked=["pets@1"], parts=None)


def test_units_that_come_later_do_not_make_an_older_set_the_newest(tmp_path: Path) -> None:
    """New units, and those done again, are labelled with all sets in the order of tags; their names are random."""
    images = named(2)
    for day, (tag, later) in enumerate((("pets@ffffffff", 9), ("pets@00000000", 8)), 1):
        for unit, task, made in (
            ("ee000000-0000-000000", "redo-1", MADE.replace(day=later)),
            ("ee000000-0000-000001", f"labels-{tag}", MADE.replace(day=day)),
            ("00000000-0001-000000", f"labels-{tag}", MADE.replace(day=later)),
        ):
            rows = [label_row(i, {"cat": 0.9}, tag=tag, created_at=made) for i in images]
            write_labels(tmp_path, tag, rows, name=f"part-{unit}-{task}-0a1b2c3d4e5f-0.parquet")
    assert list(label_sets(Store(str(tmp_path)), asked=None, parts=None)) == ["pets@00000000"]


def test_only_live_parts_are_read_where_they_are_listed(tmp_path: Path) -> None:
    rows, images = plain_rows(named(9)), named(9)
    write_labels(tmp_path, TAG, rows, name="part-live.parquet")
    write_labels(tmp_path, TAG, rows, name="part-dead.parquet")
    write_embeddings(tmp_path, images, name="part-live.parquet")
    write_embeddings(tmp_path, images, name="part-dead.parquet")
    parts = [f"labels/{TAG}/part-live.parquet", "embeddings/part-live.parquet"]
    store = Store(str(tmp_path))
    page = Page(render_report(store, data=ReportInputs(run=run_record(inputs=9, failed=0), parts=parts)))
    assert "9 images labelled" in page.text and "add up" not in page.text
    page = Page(render_report(store, data=ReportInputs(run=run_record(inputs=9, failed=0))))
    assert "18 images labelled" in page.text and "The numbers do not add up." in page.text


def test_failures_are_counted_by_reason_with_a_seeded_sample(tmp_path: Path) -> None:
    entries = [(f"/photos/{number}.jpg", "decode", "truncated", "ends early") for number in range(50)]
    entries += [("https://example.org/a.jpg", "fetch", "http_error", "HTTP 404")]
    write_failures(tmp_path, entries)
    store = Store(str(tmp_path))
    names = part_names(store, "failures", None)
    groups = read_failures(store, names, examples=3, seed=0)
    assert [(group.reason, group.count, len(group.examples)) for group in groups] == [
        ("truncated", 50, 3),
        ("http_error", 1, 1),
    ]
    assert groups[1].examples[0].message == "HTTP 404"
    lowest = np.argsort(sample_keys([uri for uri, *_ in entries[:50]], seed=0))[:3]
    assert [example.uri for example in groups[0].examples] == [entries[place][0] for place in lowest]


def test_facts_of_the_shown_images_and_a_sample_of_a_run_without_labels(tmp_path: Path) -> None:
    images = named(40)
    images[7].caption = "a cat"
    write_embeddings(tmp_path, images)
    store = Store(str(tmp_path))
    names = part_names(store, "embeddings", None)
    key = (images[7].image_id, images[7].path)
    found = read_images(store, names, wanted=[key, ("absent", "/absent")], sample=0, seed=0)
    assert (found.rows, found.captions, dict(found.formats)) == (40, 1, {"JPEG": 40})
    assert found.bytes == sum(range(1000, 1040))
    assert set(found.facts) == {key} and found.facts[key].caption == "a cat" and found.facts[key].width == 48
    page = page_of(tmp_path, inputs=40, tiles_per_label=4, sample_per_label=1)
    assert "40 images embedded" in page.text and "10 of 40, drawn at random (seed 0)" in page.text
    assert len(page.values("data-image-id")) == 10


def test_the_page_says_what_ran_and_that_it_adds_up(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 12)
    images[0].caption = "a photo"
    write_embeddings(tmp_path, images)
    write_labels(tmp_path, TAG, plain_rows(images))
    write_failures(tmp_path, [("/gone.jpg", "fetch", "not_found", "no such file")])
    write_duplicates(tmp_path, {"a": 2, "b": 3})
    store = Store(str(tmp_path))
    record = run_record(inputs=13, failed=1)
    write_report(store, data=ReportInputs(run=record), load_image=load_file)
    page = Page(store.read("report.html"))
    for words in (
        "12 images labelled",
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "23 Nov 2026, 21:14 UTC",
        "took 7 min",
        "Every input has exactly one row",
        "Repeated ids2",
        "there is no such object, or a link points nowhere",
        "no such file",
    ):
        assert words in page.text, words
    assert "The numbers do not add up" not in page.text
    shown = page.values("data-image-id")
    assert sorted(set(shown)) == sorted(image.image_id for image in images)
    assert len([v for v in page.values("src") if v.startswith("data:image/webp;base64,")]) == len(shown)
    assert sorted(page.values("data-tile")) == sorted(page.tiles)
    tile = next(tile for tile in page.tiles.values() if tile["id"] == images[0].image_id)
    assert tile["caption"] == "a photo" and tile["image"] == "160 × 120 JPEG, 1 kB"


def test_rows_that_are_missing_are_told(tmp_path: Path) -> None:
    images = named(5)
    write_embeddings(tmp_path, images)
    write_labels(tmp_path, TAG, plain_rows(images)[:4])
    page = page_of(tmp_path, inputs=6)
    assert "The numbers do not add up." in page.text
    assert page.text.count("✗ no") == 2 and page.text.count("✓ yes") == 4  # embeddings, labels


def test_labels_of_another_run_are_reported_with_its_images(tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "labels-only"
    images = named(5)
    write_embeddings(source, images)
    write_failures(source, [("/gone.jpg", "fetch", "not_found", "no such file")])
    write_labels(run, TAG, plain_rows(images))
    record = run_record(inputs=0, failed=0, from_run=str(source))
    data = ReportInputs(run=record, source=Store(str(source)))
    page = Page(render_report(Store(str(run)), data=data))
    assert "5 images labelled" in page.text and "do not add up" not in page.text
    assert "not_found" in page.text and str(source) in page.text


def test_the_page_is_bounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = [f"class-{number:03d}" for number in range(100)]
    rows = [label_row(image, random_probabilities(rng, classes), tag=TAG) for image in named(3000)]
    write_labels(tmp_path, TAG, rows)
    write_embeddings(tmp_path, named(3000))
    page = page_of(tmp_path, inputs=3000, max_labels=5, max_bars=10, tiles_per_label=3, sample_per_label=2)
    given = len({row["label"] for row in rows})
    assert len(page.values("data-image-id")) == 5 * (3 + 2)
    assert f"5 of {given} labels have a sheet: the most frequent." in page.text
    others = sum(count for _, count in Counter(row["label"] for row in rows).most_common()[10:])
    assert f"and {given - 10} more labels, with {others:,} images" in page.text
    assert "least sure first, then 2 at random (seed 0)" in page.text


def test_nothing_is_fetched_and_nothing_from_outside_is_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'\"><!--"
    image = Picture(path=f"https://example.org/{evil}", caption=evil)
    write_embeddings(tmp_path, [image])
    write_labels(tmp_path, TAG, [label_row(image, {evil: 0.6, "cat": 0.4}, tag=TAG, path=[evil, "x"])])
    write_failures(tmp_path, [(f"javascript:{evil}", "fetch", "http_error", evil)])
    record = run_record(
        inputs=2, failed=1, encoder=evil, output=evil, config={evil: evil}, versions={evil: evil}
    )
    raw = render_report(Store(str(tmp_path)), data=ReportInputs(run=record))
    page = Page(raw)
    assert page.tags["script"] == 9 and page.tags["img"] == 0 and "49" not in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.tiles["set0-sheet0-0"]["caption"] == evil
    for tag, name, value in page.attributes:
        if name in ("src", "href", "action", "srcset", "poster"):
            allowed = ("data:", "#") if tag != "a" else ("#", "https://example.org/")
            assert value.startswith(allowed), (tag, name, value)
    assert b"@import" not in raw and b"url(" not in raw
    (policy,) = [
        value for _, _, value in page.attributes if value.startswith("default-src 'none'; img-src data:;")
    ]
    assert "unsafe" not in policy and "http" not in policy


def test_a_run_record_with_nothing_in_it_still_makes_a_page(tmp_path: Path) -> None:
    page = Page(render_report(Store(str(tmp_path)), data=ReportInputs(run={})))
    assert "0 images embedded" in page.text and "There is nothing to compare." in page.text


def test_values_that_are_no_numbers_do_not_break_the_page(tmp_path: Path) -> None:
    image = Picture(path="/a.jpg")
    nan = float("nan")
    row = label_row(image, {"cat": 0.9}, tag=TAG, score=nan, margin=nan, entropy=nan)
    write_labels(tmp_path, TAG, [row])
    write_embeddings(tmp_path, [image])
    page = page_of(tmp_path, inputs=1)
    assert page.tiles["set0-sheet0-0"]["margin"] == "nan"


def review_of(run: Path) -> Any:
    """What the page's reviewer works with."""
    raw = render_report(Store(str(run)), data=ReportInputs(run={"output": "gs://bucket/run"}))
    (found,) = re.findall(rb'<script type="application/json" id="review-data">(.*?)</script>', raw)
    return json.loads(found)


def test_a_reviewer_gets_each_image_once_the_least_margin_first(tmp_path: Path) -> None:
    images = named(40)
    margins = np.random.default_rng(0).permutation(40) / 40
    rows = [
        label_row(image, {"cat": 0.6, "dog": 0.4}, tag=TAG, margin=float(margin))
        for image, margin in zip(images, margins, strict=True)
    ]
    rows[3] |= {"label": None, "decision": "abstain"}
    rows[4] |= {"margin": float("nan")}
    write_labels(tmp_path, TAG, rows)
    write_embeddings(tmp_path, images)
    found = review_of(tmp_path)
    (one,) = found["sets"]
    assert (found["run"], one["tag"], one["multi"]) == ("gs://bucket/run", TAG, False)
    tiles = page_of(tmp_path, inputs=40).tiles
    place = {image.image_id: number for number, image in enumerate(images)}
    shown = [place[tiles[name]["id"]] for name in one["order"]]
    assert len(shown) == len(set(shown)) == 19 and sorted(tiles) == sorted(one["order"])
    assert shown == sorted(shown, key=lambda number: (number == 4, margins[number]))
    assert {name: tile["shown"] for name, tile in tiles.items()} == {
        name: ([] if tile["id"] == images[3].image_id else ["cat"]) for name, tile in tiles.items()
    }


def test_a_reviewer_gets_the_sets_labels_with_names_groups_and_synonyms(tmp_path: Path) -> None:
    labels = (
        Label(id="bird", group=True),
        Label(id="owl", parent="bird", synonyms=("night bird",)),
        Label(id="tom-cat"),
    )
    kept = LabelSet(prompt_set=PromptSet(name="pets", labels=labels, none=("a wall",)))
    images = named(2)
    scores = {"owl": 0.6, "tom-cat": 0.3, "__none__": 0.1}
    rows = [label_row(image, scores, tag=kept.tag, path=["bird", "owl"]) for image in images]
    write_labels(tmp_path, kept.tag, rows)
    write_embeddings(tmp_path, images)
    seen = [["bird", "bird", None, 1], ["owl", "owl", "bird", 0], ["tom-cat", "tom-cat", None, 0]]
    assert review_of(tmp_path)["sets"][0]["labels"] == seen  # the run does not keep the set
    keep_label_set(Store(str(tmp_path)), kept)
    assert review_of(tmp_path)["sets"][0]["labels"] == [
        ["bird", "bird", None, 1],
        ["owl", "owl", "bird", 0, "night bird"],
        ["tom-cat", "tom cat", None, 0],
    ]


def test_an_image_on_several_sheets_is_reviewed_once(tmp_path: Path) -> None:
    images = named(3)
    scores = {"text": 0.9, "logo": 0.8, "face": 0.1}
    rows = [label_row(image, scores, tag=TAG, label=None, labels=["text", "logo"]) for image in images]
    write_labels(tmp_path, TAG, rows)
    write_embeddings(tmp_path, images)
    (one,) = review_of(tmp_path)["sets"]
    assert one["multi"] and [label[0] for label in one["labels"]] == ["face", "logo", "text"]
    page = page_of(tmp_path, inputs=3)
    assert len(page.tiles) == 6 and len(one["order"]) == 3
    assert all(tile["shown"] == ["text", "logo"] for tile in page.tiles.values())


def test_a_page_of_few_images_has_sharp_pictures(tmp_path: Path) -> None:
    images = [Picture(path=str(tmp_path / f"{number}.jpg")) for number in range(4)]
    for image in images:
        Path(image.path).write_bytes(image_bytes(make_image(1, (640, 320))))
    write_labels(tmp_path, TAG, [label_row(image, {"cat": 0.9}, tag=TAG) for image in images])
    write_embeddings(tmp_path, images)
    for options, width in (({}, "320"), ({"sharp_images": 3}, "160"), ({"sharp_px": 100}, "160")):
        page = page_of(tmp_path, inputs=4, **options)
        widths = [value for tag, name, value in page.attributes if (tag, name) == ("img", "width")]
        assert widths == [width] * 4, options


def test_histogram_bars_and_axes() -> None:
    histogram = Histogram()
    histogram.add(np.array([0.05] * 3 + [0.951], np.float32))
    drawn = chart(histogram, title="Confidence", note="", bars=10)
    assert [bar.text for bar in drawn.bars] == ["0 to 0.1: 3 images, 75.0%", "0.9 to 1: 1 image, 25.0%"]
    assert not drawn.log and drawn.bars[0].height == pytest.approx(3 * drawn.bars[1].height, abs=0.05)
    histogram.add(np.repeat(np.arange(0, 1, 0.1, np.float32) + 0.05, 10))
    histogram.add(np.full(100_000, 0.55, np.float32))
    drawn = chart(histogram, title="Confidence", note="", bars=10)
    assert drawn.log and [tick.text for tick in drawn.y_ticks][:3] == ["0", "10", "100"]
    empty = chart(Histogram(), title="Confidence", note="")
    assert empty.bars == () and empty.summary.startswith("Confidence of 0 images")
    top = Histogram()
    top.add(np.array([0.7, 1.0, -0.1, 1.2, np.nan], np.float32))
    assert top.bins(10) == [1, 0, 0, 0, 0, 0, 0, 1, 0, 2]


def test_thumbnails_keep_their_shape_and_are_never_enlarged() -> None:
    wide = make_thumbnail(image_bytes(make_image(1, (900, 300))), px=160, decode=DecodeOptions())
    small = make_thumbnail(image_bytes(make_image(1, (40, 30))), px=160, decode=DecodeOptions())
    assert (wide.width, wide.height) == (160, 53) and (small.width, small.height) == (40, 30)
    assert wide.url.startswith("data:image/webp;base64,") and len(wide.url) < 12_000


def test_thumbnails_that_cannot_be_had_are_counted() -> None:
    good = image_bytes()
    content = {"/a.jpg": good, "/b.jpg": b"no image", "/c.jpg": None}

    def load(uri: str) -> bytes | None:
        if uri == "/d.jpg":
            raise PermissionError("not yours")
        return content[uri]

    uris = ["/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg", "/a.jpg"]
    made = make_thumbnails(uris, load_image=load, px=64, seconds=60, threads=2)
    assert set(made.pictures) == {"/a.jpg"} and (made.unreadable, made.late) == (3, 0)
    assert make_thumbnails(uris, load_image=None, px=64, seconds=60, threads=2).unreadable == 4


def test_thumbnails_stop_when_their_time_is_over() -> None:
    now = iter([0.0, 1.0, 5.0, 11.0, 12.0])
    made = make_thumbnails(
        [f"/shard.tar#{number}" for number in range(4)],
        load_image=lambda uri: image_bytes(),
        px=64,
        seconds=10,
        threads=4,
        clock=lambda: next(now),
    )
    assert set(made.pictures) == {"/shard.tar#0", "/shard.tar#1"} and (made.unreadable, made.late) == (0, 2)


def test_members_of_one_container_are_asked_for_in_order_by_one_thread() -> None:
    import threading

    asked: dict[str, list[tuple[int, str]]] = {}

    def load(uri: str) -> bytes:
        shard, key = uri.split("#")
        asked.setdefault(shard, []).append((threading.get_ident(), key))
        return image_bytes()

    uris = [f"/{shard}.tar#{key}" for key in "abc" for shard in "xy"]
    make_thumbnails(uris, load_image=load, px=64, seconds=60, threads=4)
    for calls in asked.values():
        assert [key for _, key in calls] == ["a", "b", "c"] and len({thread for thread, _ in calls}) == 1


@pytest.mark.parametrize(("name", "value"), [("max_labels", 0), ("threads", 0), ("sample_per_label", -1)])
def test_bounds_that_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(RequestError, match=f"report option {name} is {value}"):
        ReportOptions(**{name: value})


def test_the_kit_writes_the_real_schema(tmp_path: Path) -> None:
    from schemas.labels import LABELS

    write_labels(tmp_path, TAG, plain_rows(named(1)))
    assert pq.read_schema(tmp_path / "labels" / TAG / "part-0.parquet").equals(LABELS)
