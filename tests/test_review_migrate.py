"""`beamclip review migrate`: a changed prompt set takes labels and reviews over, and says what became of each."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_transforms.review.diff import row_cells
from clip_transforms.review.reviews import read_reviews, verdicts
from clip_transforms.storage import Store
from clip_transforms.sweep import overwrite
from clip_transforms.taxonomy import kept_map, parse_map
from schemas.queues import QUEUE
from tests import reviews_kit as kit
from tests.runs import beamclip, summary, written
from tests.test_taxonomy import multi

PETS_2 = """version: 1
name: pets-2
none: ["a blank wall"]
labels: [kitten, tomcat, hound, crane]
"""
MAP = """rename: {dog: hound}
merge: {crane: [crane-bird, crane-machine]}
split: {cat: [kitten, tomcat]}
"""
ANSWERS = [
    ("i00", "cat", "ann", "2026-01-02"),
    ("i01", "dog", "ann", "2026-01-02"),
    ("i01", "crane-bird", "bob", "2026-01-03"),
    ("i02", "crane-machine", "ann", "2026-01-02"),
    ("i03", "__none__", "ann", ""),
    ("i04", "cat", "ann", "2026-01-02"),
    ("i04", "dog", "ann", "2026-01-04"),  # ann's last word
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with reviews that no test writes to."""
    folder = tmp_path_factory.mktemp("pets")
    run = kit.labelled_run(folder, kit.PETS)
    audit = [
        kit.audit("i02", label="cat"),
        kit.audit("i00", label="dog", blind=True),
        kit.audit("i09", label="dog"),
    ]
    kit.write_queue(run, kit.tag_of(run, "pets"), "q", {"image_id": "i05", "label": "cat"}, *audit)
    assert beamclip("review", "import", run, "--from", "csv", kit.answers(folder / "a.csv", *ANSWERS)) == 0
    return run


@pytest.fixture
def run(made: str, tmp_path: Path) -> str:
    return str(shutil.copytree(made, tmp_path / "run"))


def migrate(run: str, folder: Path, prompts: str = PETS_2, mapping: str | None = MAP, *more: object) -> int:
    words: list[object] = ["--prompts", kit.prompt_file(folder, prompts)]
    if mapping is not None:
        (folder / "map.yaml").write_text(mapping)
        words += ["--map", folder / "map.yaml"]
    return beamclip("review", "migrate", run, *words, "--set", "pets", *more)


def diff_of(run: str) -> dict[str, object]:
    (name,) = (entry.name for entry in Store(run).list("diffs/") if entry.name.endswith(".json"))
    return json.loads(Store(run).read(name))


def test_reviews_come_over_as_far_as_the_map_decides_them(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_reviews(Store(run), "pets")
    assert migrate(run, tmp_path) == 0
    out = capsys.readouterr().out
    assert "reviews carried over   5, 5 of them new here" in out and "to be reviewed again   1" in out
    found = kit.stored(run, "pets-2")
    assert {key: row["labels"] for key, row in found.items()} == {
        ("i01", "ann"): ["hound"],
        ("i01", "bob"): ["crane"],
        ("i02", "ann"): ["crane"],
        ("i03", "ann"): ["__none__"],
        ("i04", "ann"): ["hound"],
    }
    old, new = kit.stored(run, "pets")["i02", "ann"], found["i02", "ann"]
    same = (
        "image_id",
        "uri",
        "reviewed_at",
        "queue",
        "selection_reason",
        "selection_prob",
        "audit",
        "comment",
    )
    assert {name: old[name] for name in same} == {name: new[name] for name in same} and new["audit"]
    assert (new["source"], new["shown"], new["agreed"]) == ("migrated", None, None)
    assert new["prompt_set"] == kit.tag_of(run, "pets-2")
    assert read_reviews(Store(run), "pets").equals(before)  # the old ones stay


def test_labels_are_those_that_labelling_with_the_new_set_gives(run: str, tmp_path: Path) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    tag = kit.tag_of(run, "pets-2")
    other = tmp_path / "other"
    prompts = kit.prompt_file(tmp_path, PETS_2)
    assert beamclip("label", "--from-run", run, "--output", other, "--prompts", prompts, "--quiet") == 0
    assert kit.model_labels(run, tag) == kit.model_labels(str(other), tag)
    assert kit.model_labels(run, tag, "score") == kit.model_labels(str(other), tag, "score")
    assert summary(Path(run))["labels"][tag] == 12


def test_the_matrix_counts_every_image_once_and_tells_what_does_not_follow_the_map(
    run: str, tmp_path: Path
) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    old = kit.model_labels(run, kit.tag_of(run, "pets"))
    new = kit.model_labels(run, kit.tag_of(run, "pets-2"))
    found = diff_of(run)
    cells = {(cell["old"], cell["new"]): cell["count"] for cell in found["cells"]}
    assert cells == Counter((old[image], new[image]) for image in old)
    allowed = {"dog": {"hound"}, "cat": {"kitten", "tomcat"}, "__none__": {"__none__"}}
    follows = [new[image] in allowed.get(old[image], {"crane"}) for image in old]
    assert (found["images"], found["as_mapped"]) == (12, sum(follows))
    for cell in found["cells"]:
        assert cell["as_mapped"] == (cell["new"] in allowed.get(cell["old"], {"crane"}))
        assert len(cell["examples"]) == (0 if cell["as_mapped"] else min(3, cell["count"]))
        for example in cell["examples"]:
            assert (old[example["image_id"]], new[example["image_id"]]) == (cell["old"], cell["new"])


def test_reviewed_images_on_which_the_new_model_says_otherwise_are_listed(run: str, tmp_path: Path) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    new = kit.model_labels(run, kit.tag_of(run, "pets-2"))
    answers = {"i02": "crane", "i03": "__none__", "i04": "hound"}  # reviewers of i01 differ
    wrong = {image for image, label in answers.items() if new[image] != label}
    found = diff_of(run)["reviews"]
    assert {entry["image_id"] for entry in found["disagreements"]} == wrong
    assert (found["images"], found["new_model_agreed"]) == (3, 3 - len(wrong))
    for entry in found["disagreements"]:
        assert entry["reviewed"] == [answers[entry["image_id"]]] and entry["new"] == [new[entry["image_id"]]]


def test_what_is_undecided_is_a_table_to_fill_in_and_import(run: str, tmp_path: Path) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    (name,) = (entry.name for entry in Store(run).list("diffs/") if entry.name.endswith(".csv"))
    (row,) = kit.table(Path(run) / name)
    assert (row["image_id"], row["candidates"], row["earlier"], row["labels"]) == (
        "i00",
        "kitten|tomcat",
        "ann: cat",
        "",
    )
    assert row["shown"] == kit.model_labels(run, kit.tag_of(run, "pets-2"))["i00"]
    row |= {"labels": "Tomcat", "reviewer": "eve"}
    filled = tmp_path / "filled.csv"
    filled.write_text(kit.as_csv([list(row), list(row.values())]))
    assert beamclip("review", "import", run, "--from", "csv", filled, "--set", "pets-2", "--quiet") == 0
    assert kit.stored(run, "pets-2")["i00", "eve"]["labels"] == ["tomcat"]
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0  # nothing is left to review
    assert not [entry for entry in Store(run).list("diffs/") if entry.name.endswith(".csv")]


def test_the_audit_stays_the_same_random_images_and_waits_for_what_is_undecided(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP) == 0
    assert "audit carried over     3 images" in capsys.readouterr().out
    tag = kit.tag_of(run, "pets-2")
    with Store(run).open("queues/pets-2-from-q.parquet") as handle:
        table = pq.ParquetFile(handle).read()
    assert table.schema.remove_metadata().equals(QUEUE)
    facts = json.loads(table.schema.metadata[b"beamclip_queue"])
    assert facts == {"set_name": "pets-2", "tag": tag, "images": 12, "seed": 0, "bound": 0.25}
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert list(rows) == ["i02", "i00", "i09"] and [row["position"] for row in rows.values()] == [0, 1, 2]
    model = kit.model_labels(run, tag)
    for image, row in rows.items():
        assert (row["label"], row["prompt_set"], row["queue"]) == (model[image], tag, "pets-2-from-q")
        assert row["audit"] and row["audit_prob"] == 0.25 and row["blind"] == (image == "i00")
    answer = kit.answers(
        tmp_path / "late.csv", ("i00", "kitten", "eve", ""), ("i09", model["i09"], "eve", "")
    )
    assert beamclip("review", "import", run, "--from", "csv", answer, "--set", "pets-2") == 0
    assert "audit                         3  of 3 drawn images are reviewed" in capsys.readouterr().out
    late = kit.stored(run, "pets-2")["i00", "eve"]
    assert late["audit"] and late["shown"] is None  # blind
    assert kit.stored(run, "pets-2")["i09", "eve"]["agreed"]


def test_a_second_run_changes_nothing_but_its_dates(run: str, tmp_path: Path) -> None:
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    first, files = diff_of(run), [name for name in written(Path(run)) if not name.startswith("runs/")]
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    assert [name for name in written(Path(run)) if not name.startswith("runs/")] == files
    second = diff_of(run)
    assert second["reviews"].pop("new") == 0 and first["reviews"].pop("new") == 5
    assert first | {"created_at": None} == second | {"created_at": None}


def test_a_set_that_keeps_its_name_is_taken_where_all_answers_are_decided(run: str, tmp_path: Path) -> None:
    renamed = kit.PETS.replace("dog", "hound").replace(", synonyms: [hound]", "")
    assert migrate(run, tmp_path, renamed, "rename: {dog: hound}", "--quiet") == 0
    found = {verdict.image_id: verdict.labels for verdict in verdicts(Store(run), "pets")}
    assert found == {
        "i00": ("cat",),
        "i01": None,
        "i02": ("crane-machine",),
        "i03": ("__none__",),
        "i04": ("hound",),
    }
    rows = read_reviews(Store(run), "pets").num_rows
    tag = diff_of(run)["old"]
    words = ("--prompts", tmp_path / "pets.yaml", "--map", tmp_path / "map.yaml", "--quiet")
    assert beamclip("review", "migrate", run, *words, "--set", tag) == 0
    assert read_reviews(Store(run), "pets").num_rows == rows


def test_open_answers_do_not_go_on_counting_under_the_same_name(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(Path(run))
    assert migrate(run, tmp_path, PETS_2.replace("pets-2", "pets")) == 2
    assert "1 answers must be given anew (e.g. cat for" in capsys.readouterr().err
    assert written(Path(run)) == before


def test_wrong_requests_write_nothing(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(Path(run))
    cases = [
        ((PETS_2, None), "--map FILE says what becomes of it"),
        ((PETS_2, "rename: {dog: dgo}"), "(" + str(tmp_path / "map.yaml") + ", line 1)"),
        ((kit.PETS, None), "there is nothing to migrate"),
        ((kit.TAGS, None), "`task: multi`"),
        ((PETS_2, MAP, "--frobnicate"), "neither beamclip nor Beam has this option"),
    ]
    for words, message in cases:
        assert migrate(run, tmp_path, *words) == 2, words
        assert message in capsys.readouterr().err, words
    assert beamclip("review", "migrate", run, "--prompts", tmp_path / "no.yaml") == 2
    assert beamclip("review", "migrate", tmp_path, "--prompts", "animals") == 2
    assert written(Path(run)) == before
    assert migrate(run, tmp_path, PETS_2, MAP, "--dry-run") == 0
    assert "reviews   5 carried over, 1 to be reviewed again" in capsys.readouterr().out
    assert written(Path(run)) == before


def test_labels_of_another_runs_embeddings_migrate_too(made: str, tmp_path: Path) -> None:
    run = str(tmp_path / "views")
    prompts = kit.prompt_file(tmp_path, kit.PETS)
    assert beamclip("label", "--from-run", made, "--output", run, "--prompts", prompts, "--quiet") == 0
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    assert len(kit.model_labels(run, kit.tag_of(run, "pets-2"))) == 12
    assert diff_of(run)["images"] == 12 and not Store(made).exists("diffs")


def test_a_run_in_a_remote_store(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.PETS, count=1, output=f"memory://{uuid.uuid4().hex}/run")
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    assert diff_of(run)["images"] == 1
    assert overwrite(Store(run)) and not list(Store(run).list("diffs/"))


def test_a_multi_label_set_is_compared_label_by_label(tmp_path: Path) -> None:
    run = kit.labelled_run(tmp_path, kit.TAGS)
    file = kit.answers(tmp_path / "a.csv", ("i00", "cat|outdoor", "ann", ""), ("i01", "-", "ann", ""))
    assert beamclip("review", "import", run, "--from", "csv", file, "--quiet") == 0
    prompts = kit.prompt_file(
        tmp_path, "version: 1\nname: tags-2\ntask: multi\nthreshold: 0.5\nlabels: [pet, outdoor]\n"
    )
    (tmp_path / "map.yaml").write_text("merge: {pet: [cat, dog]}")
    words = ("--prompts", prompts, "--map", tmp_path / "map.yaml", "--quiet")
    assert beamclip("review", "migrate", run, *words) == 0
    found = {image: row["labels"] for (image, _), row in kit.stored(run, "tags-2").items()}
    assert found == {"i00": ["outdoor", "pet"], "i01": []}
    old = kit.model_labels(run, kit.tag_of(run, "tags"), "labels")
    new = kit.model_labels(run, kit.tag_of(run, "tags-2"), "labels")
    expected: Counter[tuple[str | None, str | None]] = Counter()
    mapped = 0
    for image in old:
        became = {"cat": "pet", "dog": "pet", "outdoor": "outdoor"}
        carried = [(label, became[label] if became[label] in new[image] else None) for label in old[image]]
        gained = [(None, label) for label in new[image] if label not in {became[one] for one in old[image]}]
        expected.update([*carried, *gained])
        mapped += not gained and all(target for _, target in carried)
    told = diff_of(run)
    assert {(cell["old"], cell["new"]): cell["count"] for cell in told["cells"]} == expected
    assert told["as_mapped"] == mapped


def test_cells_of_a_split_label() -> None:
    old, new = multi("a", "cat", "dog"), multi("b", "kitten", "tomcat", "dog")
    found = parse_map("split: {cat: [kitten, tomcat]}", source="m", old=old, new=new)
    assert list(row_cells(["cat"], ["kitten", "tomcat"], found)) == [("cat", "kitten"), ("cat", "tomcat")]
    assert list(row_cells(["cat", "dog"], ["tomcat"], found)) == [("cat", "tomcat"), ("dog", None)]
    assert list(row_cells([], ["dog"], kept_map(old, multi("c", "cat", "dog")))) == [(None, "dog")]


def test_the_page_is_whole_and_shows_strange_names_as_text(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>.jpg".replace("/", "-"), 'ü "q" & b.jpg']
    run = kit.labelled_run(tmp_path, kit.PETS, names=names)
    rows = [("i00", "cat", "<b>ann</b>", ""), ("i01", "dog", "ann", "")]
    file = kit.answers(tmp_path / "a.csv", *rows)
    assert beamclip("review", "import", run, "--from", "csv", file, "--quiet") == 0
    assert migrate(run, tmp_path, PETS_2, MAP, "--quiet") == 0
    (name,) = (entry.name for entry in Store(run).list("diffs/") if entry.name.endswith(".html"))
    page = Store(run).read(name).decode()
    assert "&lt;script&gt;" in page and "<script" not in page and "<b>ann" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "to be reviewed again" in page.lower() and "kitten, tomcat" in page
