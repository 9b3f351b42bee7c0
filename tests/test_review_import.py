"""`beamclip review import`: what annotators answered comes back whole, once, and what cannot be taken is told."""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import datetime, timezone
from pathlib import Path

import pytest

from clip_transforms.elements import RequestError
from clip_transforms.prompts import parse_prompt_set
from clip_transforms.review.importers import Answer, Rejected, Unanswered, read_answers
from clip_transforms.review.importers.answers import UnfitError
from clip_transforms.review.importers.labels import LabelWords
from clip_transforms.review.reviews import verdicts
from clip_transforms.storage import Store
from schemas.reviews import REVIEWS
from tests import reviews_kit as kit
from tests.runs import beamclip, written

EXPORT = Path(__file__).with_name("label_studio_export.json")


def come_back(run: object, source: str, *files: object, **options: object) -> int:
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return beamclip("review", "import", run, "--from", source, *files, *given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that no test writes to."""
    return kit.labelled_run(tmp_path_factory.mktemp("pets"), kit.PETS)


@pytest.fixture
def run(made: str, tmp_path: Path) -> str:
    """A copy of it."""
    return str(shutil.copytree(made, tmp_path / "run"))


def test_a_table_comes_in_once_and_its_table_says_so(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kit.answers(
        tmp_path / "a.csv", ("i00", "cat", "ann", "2026-01-02T10:00:00Z"), ("i01", "HOUND", "bob", "")
    )
    assert come_back(run, "csv", file) == 0
    assert "new                           2\n" in capsys.readouterr().out
    rows = kit.stored(run)
    assert rows["i00", "ann"]["labels"] == ["cat"] and rows["i01", "bob"]["labels"] == ["dog"]
    assert rows["i00", "ann"]["reviewed_at"] == datetime(2026, 1, 2, 10, tzinfo=timezone.utc)
    assert rows["i01", "bob"]["reviewed_at"] is None and rows["i01", "bob"]["source"] == "csv"
    assert rows["i00", "ann"]["uri"].endswith("/photos/image00.jpg")
    before = written(Path(run))
    assert come_back(run, "csv", file, file) == 0
    out = capsys.readouterr().out
    assert "new                           0\n" in out and "known                         4  already" in out
    assert written(Path(run)) == before and kit.stored(run) == rows


def test_each_kind_of_mistake_is_counted_told_and_listed(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ("i00", "ct", "ann", ""),  # unknown_label
        ("i01", "crane", "ann", ""),  # ambiguous_label
        ("i02", "cat|dog", "ann", ""),  # several_labels
        ("i99", "cat", "ann", ""),  # unknown_image
        ("i03", "cat", "ann", "yesterday"),  # bad_row
        ("", "cat", "ann", ""),  # bad_row
        ("i04", "cat|__none__", "ann", ""),  # none_and_labels
        ("i05", "cat", "ann", ""),  # contradiction ...
        ("i05", "dog", "ann", ""),  # ... of both
        ("i06", "", "ann", ""),  # not answered
        ("i07", "dog", "ann", ""),  # taken
    ]
    file, told = kit.answers(tmp_path / "a.csv", *rows), tmp_path / "rejected.csv"
    assert come_back(run, "csv", file, rejected=told) == 1
    out = capsys.readouterr().out
    assert "rejected                      9" in out and "not answered yet              1" in out
    assert "'ct' is no label of 'pets'; did you mean 'cat'?" in out
    assert "'crane' may be crane-bird or crane-machine; write the id" in out
    listed = kit.table(told)
    assert sorted((row["reason"], row["image"]) for row in listed) == [
        ("ambiguous_label", "i01"),
        ("bad_row", ""),
        ("bad_row", "i03"),
        ("contradiction", "i05"),
        ("contradiction", "i05"),
        ("none_and_labels", "i04"),
        ("several_labels", "i02"),
        ("unknown_image", "i99"),
        ("unknown_label", "i00"),
    ]
    assert {row["place"] for row in listed if row["image"] == "i02"} == {"a.csv, line 4"}
    assert set(kit.stored(run)) == {("i07", "ann")}


def test_a_dry_run_writes_nothing(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = kit.answers(tmp_path / "a.csv", ("i00", "cat", "ann", ""))
    before = written(Path(run))
    assert beamclip("review", "import", run, "--from", "csv", file, "--dry-run") == 0
    assert "nothing was written" in capsys.readouterr().out and written(Path(run)) == before


def test_images_are_found_by_id_uri_and_the_end_of_a_uri(tmp_path: Path) -> None:
    names = ["a/same.jpg", "b/same.jpg", 'Ünï "q", x.jpg', "line\nbreak.jpg"]
    run = kit.labelled_run(tmp_path, kit.PETS, names=names)
    photos = tmp_path / "photos"
    rows = [
        (f"{photos}/a/same.jpg", "cat"),
        ("b/same.jpg", "dog"),
        ("same.jpg", "cat"),  # of two images
        ('Ünï "q", x.jpg', "cat"),
        ("line\nbreak.jpg", "dog"),
        ("i06.png", "dog"),  # a copy that is named by the image's id
        ("me.jpg", "dog"),  # the end of a name, and not a name
    ]
    file, told = kit.answers(tmp_path / "a.csv", *rows, head="uri,label"), tmp_path / "rejected.csv"
    assert come_back(run, "csv", file, rejected=told) == 1
    found = {image: row["labels"] for (image, _), row in kit.stored(run).items()}
    assert found == {"i00": ["cat"], "i01": ["dog"], "i02": ["cat"], "i03": ["dog"], "i06": ["dog"]}
    reasons = {row["image"]: row["reason"] for row in kit.table(told)}
    assert reasons == {"same.jpg": "ambiguous_image", "me.jpg": "unknown_image"}


def test_what_was_shown_and_how_it_was_chosen_comes_from_the_queue(run: str, tmp_path: Path) -> None:
    tag = kit.tag_of(run, "pets")
    kit.write_queue(
        run,
        tag,
        "first",
        {"image_id": "i00", "label": "cat"},
        kit.audit("i01", label="cat"),
        kit.audit("i02", label="cat", blind=True),
        {"image_id": "i03", "label": None},
    )
    later = kit.MADE.replace(month=2)
    kit.write_queue(run, tag, "second", {"image_id": "i01", "label": "dog", "created_at": later})
    kit.write_queue(run, "other@00000000", "third", kit.audit("i04", label="cat"))
    rows = [(f"i0{number}", "cat", "ann", "") for number in range(5)]
    assert come_back(run, "csv", kit.answers(tmp_path / "a.csv", *rows)) == 0
    found = {image: row for (image, _), row in kit.stored(run).items()}
    chosen = ("queue", "selection_reason", "selection_prob", "audit", "shown", "agreed")
    assert {image: tuple(row[name] for name in chosen) for image, row in found.items()} == {
        "i00": ("first", "margin", 1.0, False, ["cat"], True),
        "i01": ("first", "audit", 0.25, True, ["cat"], True),  # drawn once, it stays of the audit
        "i02": ("first", "audit", 0.25, True, None, None),  # blind
        "i03": ("first", "margin", 1.0, False, None, None),  # there was no label to show
        "i04": (None, None, None, False, None, None),  # a queue of another set
    }
    assert found["i00"]["prompt_set"] == tag and found["i04"]["prompt_set"] is None


def test_the_closing_table_tells_agreement_conflicts_and_how_far_the_audit_is(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [kit.audit(f"i0{number}", label="cat") for number in range(4)]
    kit.write_queue(run, kit.tag_of(run, "pets"), "q", *entries)
    rows = [
        ("i00", "cat", "ann", ""),
        ("i01", "dog", "ann", ""),
        ("i01", "cat", "bob", ""),
        ("i09", "cat", "bob", ""),
    ]
    assert come_back(run, "csv", kit.answers(tmp_path / "a.csv", *rows)) == 0
    out = capsys.readouterr().out
    assert "  agreed                      2  with what was shown" in out
    assert "  changed                     1\n" in out and "  not shown                   1" in out
    assert "reviews                       4  of pets so far: 3 images, 2 reviewers" in out
    assert "conflicts                     1" in out and "image01.jpg: ann dog, bob cat" in out
    assert "audit                         2  of 4 drawn images are reviewed" in out


def test_an_audit_that_asks_again_is_answered_also_by_what_was_said_before(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it the answers to an audit would be a sample of what nobody had doubts about."""
    file = kit.answers(tmp_path / "a.csv", ("i01", "cat", "ann", ""))
    assert come_back(run, "csv", file) == 0 and not kit.stored(run)["i01", "ann"]["audit"]
    kit.write_queue(run, kit.tag_of(run, "pets"), "later", kit.audit("i01"), kit.audit("i02"))
    again = kit.answers(tmp_path / "b.csv", ("i01", "cat", "ann", ""), ("i02", "dog", "ann", ""))
    for new in (2, 0):
        capsys.readouterr()
        assert come_back(run, "csv", again) == 0
        assert f"new{new:>28}" in capsys.readouterr().out
    (first, second) = verdicts(Store(run), "pets")
    assert first.audit and second.audit and first.answers == (("ann", ("cat",)),)


def test_the_columns_of_a_table_say_what_was_shown(run: str, tmp_path: Path) -> None:
    head = "image_id,prompt_set,shown,labels,reviewer,reviewed_at,lead_time,comment"
    tag = kit.tag_of(run, "pets")
    rows = [
        ("i00", tag, "dog", "cat", "ann", "2026-01-02 10:00:00.5+02:00", "3.5", 'so "so",\nreally'),
        ("i01", "pets@00000000", "cat", "cat", "", "2026-01-02", "", ""),
        ("i02", "other@00000000", "cat", "cat", "", "", "", ""),
    ]
    assert come_back(run, "report", kit.answers(tmp_path / "a.csv", *rows, head=head), reviewer="eve") == 1
    found = kit.stored(run)
    first, second = found["i00", "ann"], found["i01", "eve"]
    assert (first["shown"], first["agreed"], first["lead_time"]) == (["dog"], False, 3.5)
    assert first["comment"] == 'so "so",\nreally' and first["source"] == "report"
    assert first["reviewed_at"] == datetime(2026, 1, 2, 8, 0, 0, 500_000, tzinfo=timezone.utc)
    assert (second["prompt_set"], second["agreed"]) == ("pets@00000000", True)
    assert ("i02", "eve") not in found


@pytest.mark.parametrize(
    "text", ["image_id;labels\ni00;cat\n", "image_id\tlabels\ni00\tcat\n", "﻿image_id,labels\r\ni00,cat\r\n"]
)
def test_tables_of_spreadsheets_are_read_as_they_are(run: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    assert come_back(run, "csv", tmp_path / "a.csv") == 0
    assert kit.stored(run)["i00", "unnamed"]["labels"] == ["cat"]


def test_a_label_with_the_separator_in_its_id_is_one_label() -> None:
    prompts = parse_prompt_set(b'{"a|b": ["x"], "c": ["y"]}', source="odd.json")
    (entry,) = read_answers(b'image_id,labels\n1,"a|b"\n', source="csv", name="a.csv")
    assert isinstance(entry, Answer) and LabelWords(prompts).answer(entry) == ("a|b",)
    several = parse_prompt_set(
        b'version: 1\nname: odd\ntask: multi\nlabels: ["a|b", a, c]', source="odd.yaml"
    )
    for cell, labels in (("c|a|b", ("a|b", "c")), ("a|c", ("a", "c")), ("-", ()), ("a|b", ("a|b",))):
        given = Answer(place="p", labels=(), cell=cell)
        assert LabelWords(several).answer(given) == labels
        shown = LabelWords(several).shown(tuple(cell.split("|")), divided=True)
        assert shown == labels, cell


# Label Studio -----------------------------------------------------------------------------------------------------


def test_an_export_of_label_studio_1_23_comes_in(tmp_path: Path) -> None:
    """The file is what a server exported after tasks of `review export` were answered there; paths are shortened."""
    export = json.loads(EXPORT.read_text())
    manifest = tmp_path / "images.csv"
    rows = []
    for number, entry in enumerate(export):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(kit.image_bytes(kit.make_image(number)))
        rows.append((entry["data"]["image_id"], path))
    manifest.write_text(kit.as_csv([("image_id", "uri"), *rows]))
    run = kit.label(manifest, str(tmp_path / "run"), "samples")
    assert come_back(run, "label-studio", EXPORT, reviewer="1=ann") == 0
    found = kit.stored(run, "samples")
    assert len(found) == 5 and {reviewer for _, reviewer in found} == {"ann"}
    first = found["2f200216d89d15f4fe4a06bff6d4faf3", "ann"]
    assert (first["labels"], first["shown"], first["agreed"]) == (["cat"], ["cat"], True)
    assert first["reviewed_at"] == datetime(2026, 11, 26, 13, 43, 50, 363519, tzinfo=timezone.utc)
    assert (first["lead_time"], first["prompt_set"]) == (3.5, "samples@983e792f")
    blind = found["72cc6c32c6eb653a1fcd19b34292ff15", "ann"]
    assert (blind["labels"], blind["shown"], blind["agreed"]) == (["cat"], None, None)


def test_annotators_skips_display_text_and_comments(run: str, tmp_path: Path) -> None:
    comment = {"from_name": "why", "type": "textarea", "value": {"text": ["too dark", "blurred"]}}
    several = kit.annotation("cat", by={"id": 3, "email": "cy@example.org"})
    several["result"].append(comment)
    file = kit.tasks(
        tmp_path / "e.json",
        kit.task("i00", kit.annotation("cat", by=1), kit.annotation("dog", by=2), several),
        kit.task("i01", kit.annotation("None of these")),
        kit.task("i02", kit.annotation("__none__")),
        kit.task("i03", kit.annotation("cat", was_cancelled=True)),
        kit.task("i04"),
        kit.task("i05", kit.annotation()),  # sent without a choice
        kit.task("i06", kit.annotation("cat", "dog")),
        kit.task("i07", kit.annotation("dog", result="damaged")),
    )
    told = tmp_path / "rejected.csv"
    assert come_back(run, "label-studio", file, rejected=told) == 1
    found = kit.stored(run)
    assert {key: row["labels"] for key, row in found.items()} == {
        ("i00", "1"): ["cat"],
        ("i00", "2"): ["dog"],
        ("i00", "cy@example.org"): ["cat"],
        ("i01", "1"): ["__none__"],
        ("i02", "1"): ["__none__"],
    }
    assert found["i00", "cy@example.org"]["comment"] == "too dark\nblurred"
    (verdict,) = (found for found in verdicts(Store(run), "pets") if found.image_id == "i00")
    assert verdict.labels == ("cat",) and verdict.conflict
    reasons = {row["image"]: row["reason"] for row in kit.table(told)}
    assert reasons == {"i05": "no_label", "i06": "several_labels", "i07": "no_label"}


def test_an_image_is_found_by_what_label_studio_serves_where_the_data_has_no_id(
    run: str, tmp_path: Path
) -> None:
    entry = kit.task("i00", kit.annotation("cat"))
    entry["data"] = {"image": "/data/local-files/?d=photos/image03.jpg"}
    assert come_back(run, "label-studio", kit.tasks(tmp_path / "e.json", entry)) == 0
    assert ("i03", "1") in kit.stored(run)


def test_halves_of_characters_and_files_around_the_options_are_taken(run: str, tmp_path: Path) -> None:
    one = kit.tasks(tmp_path / "one.json", kit.task("i00", kit.annotation("cat", by="a\ud800")))
    two = kit.tasks(tmp_path / "two.json", kit.task("i01", kit.annotation("cat\ud800")))
    assert beamclip("review", "import", run, one, "--from", "label-studio", two) == 1
    assert set(kit.stored(run)) == {("i00", "a?")}


def test_several_labels_and_none_of_them_in_a_multi_label_set(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.TAGS)
    file = kit.tasks(
        tmp_path / "e.json",
        kit.task("i00", kit.annotation("outdoor", "cat"), shown=["cat", "outdoor"]),
        kit.task("i01", kit.annotation(), shown=[]),
        kit.task("i02", kit.annotation("None of these")),
        kit.task("i03", kit.annotation("cat", "__none__")),
    )
    assert come_back(run, "label-studio", file) == 1
    rows = [("i04", "dog|cat", "ann", ""), ("i05", "-", "ann", ""), ("i06", "", "ann", "")]
    assert come_back(run, "csv", kit.answers(tmp_path / "a.csv", *rows)) == 0
    found = {image: (row["labels"], row["agreed"]) for (image, _), row in kit.stored(run, "tags").items()}
    assert found == {
        "i00": (["cat", "outdoor"], True),
        "i01": ([], True),
        "i02": ([], None),
        "i04": (["cat", "dog"], None),
        "i05": ([], None),
    }


def test_paths_of_a_taxonomy_must_be_those_of_the_set(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.ZOO)
    file = kit.tasks(
        tmp_path / "e.json",
        kit.task("i00", kit.annotation(["animal", "bird", "owl"], kind="taxonomy")),
        kit.task(
            "i01", kit.annotation(["animal"], ["animal", "bird"], kind="taxonomy")
        ),  # ticked step by step
        kit.task("i02", kit.annotation(["animal", "owl"], kind="taxonomy")),
        kit.task("i03", kit.annotation(["animal", "cat"], ["animal", "bird", "gull"], kind="taxonomy")),
        kit.task("i04", kit.annotation("gull")),
    )
    told = tmp_path / "rejected.csv"
    assert come_back(run, "label-studio", file, rejected=told) == 1
    found = {image: row["labels"] for (image, _), row in kit.stored(run, "zoo").items()}
    assert found == {"i00": ["owl"], "i01": ["bird"], "i04": ["gull"]}
    rejected = {row["image"]: row["message"] for row in kit.table(told)}
    assert rejected["i02"] == "animal > owl: 'owl' lies at animal > bird > owl of the set"
    assert rejected["i03"].startswith("cat, gull: the set 'zoo' takes one")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "expected Label Studio's export as JSON"),
        (b"[", "is not JSON"),
        (b'[{"id": 1, "annotator": 1, "label": "cat"}]', "is JSON-MIN"),
        (b'[{"annotations": 5}]', "has a task whose `annotations` are no list"),
        (
            b'[{"annotations": [{"result": [{"from_name": "a", "type": "choices"},'
            b' {"from_name": "b", "type": "choices"}]}]}]',
            "several controls (a, b)",
        ),
    ],
)
def test_other_exports_of_label_studio_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(RequestError) as error:
        list(read_answers(data, source="label-studio", name="e.json"))
    assert message in str(error.value)


# CVAT -------------------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><name>t</name><assignee><username>ann</username><email></email></assignee></task></meta>
<image id="0" name="image00.jpg" width="9" height="9">
  <tag label="cat" source="auto"><attribute name="score">0.9</attribute></tag>
</image>
<image id="1" name="image01.jpg" width="9" height="9"><tag label="dog" source="manual"/></image>
<image id="2" name="image02.jpg" width="9" height="9">
  <tag label="cat" source="auto"/><tag label="dog" source="manual"/>
</image>
<image id="3" name="image03.jpg" width="9" height="9"></image>
<image id="4" name="copy/of-it.jpg" width="9" height="9"><tag label="cat" source="semi-auto"/></image>
</annotations>"""


def test_tags_that_a_person_made_are_answers_and_untouched_ones_only_where_that_is_said(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.xml").write_text(XML)
    manifest = tmp_path / "t-manifest.jsonl"
    manifest.write_text(
        '{"version": "1.1"}\n{"name": "copy/of-it", "extension": ".jpg", "meta": {"image_id": "i07"}}\n'
    )
    assert come_back(run, "cvat", tmp_path / "t.xml", manifest) == 0
    assert "untouched predictions         1" in capsys.readouterr().out
    expected = {("i01", "ann"): ["dog"], ("i02", "ann"): ["dog"], ("i07", "ann"): ["cat"]}
    assert {key: row["labels"] for key, row in kit.stored(run).items()} == expected
    assert (
        beamclip(
            "review", "import", run, "--from", "cvat", tmp_path / "t.xml", manifest, "--accept-untouched"
        )
        == 0
    )
    assert kit.stored(run)["i00", "ann"]["labels"] == ["cat"]


def test_predictions_left_beside_a_persons_tags_count_in_a_multi_label_set(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.TAGS)
    (tmp_path / "t.xml").write_text(XML)
    assert come_back(run, "cvat", tmp_path / "t.xml") == 1  # copy/of-it.jpg is nobody's
    assert kit.stored(run, "tags")["i02", "ann"]["labels"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<annotations>", "is not sound XML"),
        (b"<other/>", "has no <annotations>"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares XML entities"),
    ],
)
def test_other_xml_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(RequestError) as error:
        list(read_answers(data, source="cvat", name="t.xml"))
    assert message in str(error.value)


# Requests ---------------------------------------------------------------------------------------------------------


def test_wrong_requests_say_what_is_wrong_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kit.labelled_run(tmp_path, kit.PETS, kit.TAGS)
    file = kit.answers(tmp_path / "a.csv", ("i00", "cat", "ann", ""))
    other = kit.answers(tmp_path / "b.csv", ("i00", "cat"), head="image,label")
    twice = kit.answers(tmp_path / "c.csv", ("i00", "cat", "cat"), head="image_id,labels,labels")
    before = written(Path(run))
    cases = [
        ((run, "--from", "csv", file), "--set is missing"),
        ((run, "--from", "csv", file, "--set", "pats"), "no such label set"),
        ((run, "--from", "csv", file, "--set", "pets@00000000"), "has no labels of the prompt set"),
        ((tmp_path, "--from", "csv", file), "holds no run of beamclip"),
        ((run, "--from", "csv", tmp_path / "no.csv", "--set", "pets"), "does not exist"),
        ((run, "--from", "csv", tmp_path, "--set", "pets"), "is a folder"),
        ((run, "--from", "csv", other, "--set", "pets"), "the first line holds image, label"),
        ((run, "--from", "csv", twice, "--set", "pets"), "'labels' comes twice"),
        ((run, "--from", "csv", file, "--set", "pets", "--accept-untouched"), "is for --from cvat"),
        ((run, "--from", "csv", file, "--set", "pets", "--reviewer", "=x"), "expected NAME"),
        ((run, "--from", "csv", file, "--set", "pets", "--reviewer", "a", "--reviewer", "b"), "another one"),
        ((run, "--from", "csv", file, "--set", "pets", "--rejected", f"{tmp_path}/"), "is no name of a file"),
        ((run, "--from", "excel", file), "invalid choice"),
        ((run, file), "--from"),
    ]
    for words, message in cases:
        assert beamclip("review", "import", *words) == 2, words
        assert message in capsys.readouterr().err, words
    assert written(Path(run)) == before


def test_a_run_in_a_remote_store_takes_reviews_too(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    run = kit.labelled_run(tmp_path, kit.PETS, count=1, output=f"{root}/run")
    data = kit.answers(tmp_path / "a.csv", ("i00", "cat", "ann", ""), ("i01", "cat", "ann", "")).read_bytes()
    Store(root).write("in/a.csv", data)
    assert come_back(run, "csv", f"{root}/in/a.csv", rejected=f"{root}/out/rejected.csv") == 1
    assert set(kit.stored(run)) == {("i00", "ann")}
    assert b"unknown_image" in Store(root).read("out/rejected.csv")


def test_an_answer_that_came_back_to_an_earlier_one_without_a_time_is_told(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kit.answers(tmp_path / "a.csv", ("i00", "cat", "ann", ""))
    second = kit.answers(tmp_path / "b.csv", ("i00", "dog", "ann", ""))
    assert come_back(run, "csv", first) == come_back(run, "csv", second) == 0
    capsys.readouterr()
    assert come_back(run, "csv", first) == 0
    assert "outdated                      1" in capsys.readouterr().out
    assert [found.labels for found in verdicts(Store(run), "pets")] == [("dog",)]


def test_reviews_have_the_exact_schema(run: str, tmp_path: Path) -> None:
    import pyarrow.dataset as ds

    assert come_back(run, "csv", kit.answers(tmp_path / "a.csv", ("i00", "cat", "ann", ""))) == 0
    assert ds.dataset(f"{run}/reviews", format="parquet").schema.remove_metadata().equals(REVIEWS)


def test_labels_by_words() -> None:
    words = LabelWords(parse_prompt_set(kit.PETS.encode(), source="pets.yaml"))

    def of(*labels: str) -> tuple[str, ...]:
        return words.answer(Answer(place="p", labels=tuple((label,) for label in labels)))

    assert of("Cat") == of("cat") == ("cat",)
    assert of("Crane_Machine") == ("crane-machine",) and of("hound") == ("dog",)
    assert of("NONE OF THESE") == of("__none__") == ("__none__",)
    for labels in (("crane",), ("-",), (), ("cat", "dog")):
        with pytest.raises(UnfitError):
            of(*labels)


def test_every_row_of_a_file_is_an_answer_or_says_why_not() -> None:
    data = b"image_id,labels,lead_time\n1,cat,\n2,,\n3,cat,long\n4,cat,1,extra\n\n"
    kinds = [type(entry) for entry in read_answers(data, source="csv", name="a.csv")]
    assert kinds == [Answer, Unanswered, Rejected, Rejected]
