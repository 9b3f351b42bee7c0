"""The review sheet in a real browser, by pressing its keys: answers, undo, reloads, the CSV, and what must not be lost.

The page is opened as a file, under its own policy, unless a test says otherwise.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clip_transforms.labelsets import LabelSet, keep_label_set
from clip_transforms.prompts import NONE, Label, PromptSet
from clip_transforms.review import ReportInputs
from clip_transforms.review.report import render_report
from clip_transforms.storage import Store
from tests.chromium_kit import Site, Tab, open_tab
from tests.report_kit import Picture, label_row, load_file, pictures, run_record, write_embeddings, write_labels

pytestmark = pytest.mark.chromium

COLUMNS = [
    "image_id",
    "uri",
    "prompt_set",
    "shown",
    "labels",
    "reviewer",
    "reviewed_at",
    "lead_time",
    "comment",
]
PETS = PromptSet(
    name="pets",
    labels=(
        Label(id="cat", synonyms=("kitty",)),
        Label(id="dog", name="hound"),
        Label(id="rabbit"),
        Label(id="axolotl", name="walking fish"),
    ),
    none=("a wall",),
)
MULTI = PromptSet(name="signs", task="multi", labels=tuple(Label(id=key) for key in ("text", "logo", "face", "a|b")))
BIRDS = PromptSet(
    name="birds",
    labels=(
        Label(id="bird", group=True),
        Label(id="owl", parent="bird"),
        Label(id="eagle", parent="bird"),
        Label(id="train"),
    ),
)


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    """A browser of its own."""
    with open_tab(tmp_path / "browser") as found:
        yield found
        assert found.problems() == []


def made(folder: Path, prompts: PromptSet, images: Sequence[Picture], rows: Sequence[dict[str, Any]]) -> str:
    """A run with one prompt set; the set's tag."""
    kept = LabelSet(prompt_set=prompts)
    keep_label_set(Store(str(folder)), kept)
    write_embeddings(folder, images)
    write_labels(folder, kept.tag, [{**row, "prompt_set": kept.tag} for row in rows])
    return kept.tag


def pets(folder: Path, names: Sequence[str] = (), count: int = 5) -> tuple[str, list[Picture]]:
    """Cats, the first the least sure; the last but one is none of the set, the last one has no label."""
    images = pictures(folder / "images", count, names=names)
    rows = [
        label_row(image, {"cat": 0.5 + number / 30, "dog": 0.4 - number / 30, NONE: 0.1}, tag="x")
        for number, image in enumerate(images)
    ]
    if count >= 5:
        rows[-2] = label_row(images[-2], {NONE: 0.8, "cat": 0.2}, tag="x")
        rows[-1] |= {"label": None, "decision": "abstain", "decision_reason": "below_threshold", "margin": 0.9}
    return made(folder, PETS, images, rows), images


def page_of(folder: Path, **record: Any) -> bytes:
    data = ReportInputs(run=run_record(inputs=5, failed=0, output=str(folder), **record))
    return render_report(Store(str(folder)), data=data, load_image=load_file)


def opened(tab: Tab, folder: Path, *, reviewer: str = "Ann") -> None:
    """The run's page, as a file; the reviewer's name is given already, unless empty."""
    path = folder / "report.html"
    path.write_bytes(page_of(folder))
    tab.open(path.as_uri())
    if reviewer:
        tab.run(f"localStorage.setItem('beamclip-reviewer', {json.dumps(reviewer)})")
        tab.reload()


def table(content: bytes) -> list[dict[str, str]]:
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert rows[0] == COLUMNS and all(len(row) == len(COLUMNS) for row in rows)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows[1:]]


def download(tab: Tab, tag: str) -> list[dict[str, str]]:
    tab.click(".save")
    return table(tab.downloaded(f"reviews-{tag}.csv"))


def answers(tab: Tab, tag: str) -> list[tuple[str, str]]:
    return [(row["uri"].rsplit("/", 1)[-1], row["labels"]) for row in download(tab, tag)]


def states(tab: Tab) -> list[str]:
    """The marks of the tiles, in the order of the page."""
    return list(tab.run("[...document.querySelectorAll('.tile')].map((one) => one.querySelector('.chip').textContent)"))


def progress(tab: Tab) -> str:
    return str(tab.run("document.querySelector('.progress-words').textContent"))


def shown(tab: Tab) -> str:
    """The name of the image in the open dialog, or nothing."""
    dialog = "document.getElementById('detail')"
    return str(tab.run(f"{dialog}.open ? document.getElementById('detail-name').textContent : ''"))


def test_confirm_correct_skip_undo_and_go_on_by_keys_alone(tmp_path: Path, tab: Tab) -> None:
    tag, images = pets(tmp_path)
    opened(tab, tmp_path, reviewer="")
    assert progress(tab) == "0 of 5 reviewed"
    tab.press("r")
    assert shown(tab) == "image00000.jpg"
    assert tab.run("document.querySelector('.question').textContent") == "Is “cat” right?"
    tab.press("Enter")  # the name is asked for, once, and the answer then given
    assert tab.run("document.activeElement.id") == "who-name"
    tab.press("Enter")
    assert tab.run("document.getElementById('who').open")  # without a name it does not go on
    tab.type(" Ann Lee ")
    tab.press("Enter")
    assert shown(tab) == "image00001.jpg"
    tab.press("2")
    assert shown(tab) == "image00002.jpg"
    tab.press(" ")
    assert shown(tab) == "image00003.jpg"
    assert tab.run("document.querySelector('.question').textContent") == "Is “none of these” right?"
    tab.press("y")
    assert shown(tab) == "image00004.jpg"
    tab.press("y")  # there is nothing to confirm
    assert shown(tab) == "image00004.jpg"
    assert "No label was given" in tab.run("document.querySelector('dialog .said').textContent")
    tab.press("/")
    tab.type("WALKING")
    tab.press("Enter")
    assert shown(tab) == ""  # the last one: what was skipped is offered
    assert tab.run("document.activeElement.textContent") == "Go through 1 skippedr"
    assert progress(tab) == "4 of 5 reviewed · 2 agreed · 1 changed · 1 newly labelled · 1 skipped"
    assert sorted(states(tab)) == sorted(["✓", "→ dog", "skipped", "✓", "+ axolotl"])
    tab.press("r", "0")
    assert shown(tab) == "" and progress(tab).startswith("5 of 5 reviewed · 2 agreed · 2 changed")
    tab.press("u", "Control+z", "u")  # the skipped one's answer, then axolotl, then the one before
    assert progress(tab) == "2 of 5 reviewed · 1 agreed · 1 changed · 1 skipped"
    assert tab.run("document.activeElement.closest('.tile').dataset.imageId") == images[3].image_id
    tab.press("u", "u", "u", "u")
    assert progress(tab) == "0 of 5 reviewed" and set(states(tab)) == {""}
    assert tab.run("document.querySelector('.save').disabled") is True


def test_the_download_says_all_that_the_import_wants(tmp_path: Path, tab: Tab) -> None:
    tag, images = pets(tmp_path)
    opened(tab, tmp_path)
    before = datetime.datetime.now(datetime.timezone.utc)
    tab.press("r")
    tab.run("new Promise((done) => setTimeout(done, 1100))")
    tab.press("y", "c")
    tab.type('blurred, "dark"')
    tab.press("Enter", "2", "s", "0", "/")
    tab.type("rab")
    tab.press("Enter")
    after = datetime.datetime.now(datetime.timezone.utc)
    rows = download(tab, tag)
    assert [(row["image_id"], row["uri"]) for row in rows] == [
        (images[place].image_id, images[place].path) for place in (0, 1, 3, 4)
    ]
    assert [(row["shown"], row["labels"]) for row in rows] == [
        ("cat", "cat"),
        ("cat", "dog"),
        (NONE, NONE),
        ("", "rabbit"),
    ]
    assert [row["comment"] for row in rows] == ["", 'blurred, "dark"', "", ""]
    assert {(row["prompt_set"], row["reviewer"]) for row in rows} == {(tag, "Ann")}
    assert 1.0 <= float(rows[0]["lead_time"]) < 30 and float(rows[3]["lead_time"]) < 1.0
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["reviewed_at"])
        moment = datetime.datetime.fromisoformat(row["reviewed_at"].replace("Z", "+00:00"))
        assert before - datetime.timedelta(seconds=1) <= moment <= after
    note = tab.run("document.querySelector('.note').textContent")
    assert note.endswith(f"beamclip review import {tmp_path} --set {tag} --from report reviews-{tag}.csv")


def test_answers_survive_a_reload_and_can_be_undone_after_it(tmp_path: Path, tab: Tab) -> None:
    tag, _ = pets(tmp_path)
    opened(tab, tmp_path)
    tab.press("r", "y", "2", "s")
    before, said = states(tab), progress(tab)
    tab.reload()
    assert (states(tab), progress(tab)) == (before, said)
    assert said == "2 of 5 reviewed · 1 agreed · 1 changed · 1 skipped"
    assert tab.run("document.querySelector('.begin').textContent") == "Go on: 2 leftr"
    assert tab.run("document.querySelector('.who').textContent") == "Reviewer: Ann change"
    tab.press("r")
    assert shown(tab) == "image00003.jpg"
    tab.press("u", "u")
    assert shown(tab) == "image00001.jpg" and progress(tab).startswith("1 of 5 reviewed · 1 agreed")
    tab.reload()
    assert progress(tab) == "1 of 5 reviewed · 1 agreed"
    assert answers(tab, tag) == [("image00000.jpg", "cat")]
    # The page of the same run, written again by a later job: the answers are there; of another run: not.
    (tmp_path / "report.html").write_bytes(page_of(tmp_path, run_id="another"))
    tab.reload()
    assert progress(tab) == "1 of 5 reviewed · 1 agreed"
    other = Path(f"{tmp_path}/report.html")
    other.write_bytes(page_of(tmp_path).replace(f'"run":"{tmp_path}"'.encode(), b'"run":"/another"'))
    tab.reload()
    assert progress(tab) == "0 of 5 reviewed"


def test_names_come_through_the_csv_exactly_and_back(tmp_path: Path, tab: Tab) -> None:
    names = [
        'a "quoted", name.jpg',
        "two\nlines\r\nand a tab\t.jpg",
        "=1+1.jpg",
        "+49 @home -1.jpg",
        "ねこ 🐈 e\u0301.jpg",
        " blanks .jpg",
        "-dash, at the end,.jpg",
        "a|b;c.jpg",
    ]
    images = pictures(tmp_path / "images", len(names), names=names)
    ids = ['=cmd|"x"', "naïve, label", "@home", "'single' \"double\"", "猫", "+1|-1", "-", "a|b"]
    prompts = PromptSet(name="odd", labels=tuple(Label(id=key) for key in ids))
    rows = [
        label_row(image, {key: 0.9, ids[0] if key != ids[0] else ids[1]: 0.1}, tag="x", margin=number / 10)
        for number, (image, key) in enumerate(zip(images, ids, strict=True))
    ]
    tag = made(tmp_path, prompts, images, rows)
    reviewer = 'Zoë "Z", =x'
    opened(tab, tmp_path, reviewer=reviewer)
    tab.press("r", "c")
    tab.type('=SUM(1), "so" |')
    tab.press("Enter", "y", "2", "y", "y", "y", "y", "y", "y")
    tab.click(".save")
    content = tab.downloaded(f"reviews-{tag}.csv")
    rows_back = table(content)
    assert [(row["image_id"], row["uri"]) for row in rows_back] == [(one.image_id, one.path) for one in images]
    assert [row["shown"] for row in rows_back] == ids
    assert [row["labels"] for row in rows_back] == [ids[0], ids[0], *ids[2:]]
    assert {row["reviewer"] for row in rows_back} == {reviewer}
    assert [row["comment"] for row in rows_back] == ['=SUM(1), "so" |', *[""] * 7]
    # On another machine: nothing is known until the file is loaded; then a download is the same file.
    tab.run("localStorage.clear()")
    tab.reload()
    assert progress(tab) == "0 of 8 reviewed"
    (tmp_path / "from elsewhere.csv").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\r\n", b"\n", 1))
    loaded(tab, tmp_path / "from elsewhere.csv", "8 answers loaded.")
    assert progress(tab) == "8 of 8 reviewed · 7 agreed · 1 changed"
    tab.click(".save")
    assert tab.downloaded(f"reviews-{tag}.csv") == content


def loaded(tab: Tab, path: Path, expected: str) -> None:
    """Load a file of answers; the page says this of it."""
    tab.run("document.querySelector('.note').textContent = ''")
    tab.choose_file(".file", path)
    tab.wait("document.querySelector('.note').textContent !== ''")
    assert tab.run("document.querySelector('.note').textContent") == f"{path.name}: {expected}"


def test_what_a_loaded_file_may_and_may_not_do(tmp_path: Path, tab: Tab) -> None:
    tag, images = pets(tmp_path)
    opened(tab, tmp_path)
    tab.press("r", "y", "y")
    tab.press("Escape")
    late, early = "2100-01-01T00:00:00Z", "2001-01-01T00:00:00Z"
    lines = [
        ["image_id", "uri", "prompt_set", "labels", "reviewer", "reviewed_at", "comment"],
        [images[0].image_id, "", tag, "dog", "Bob", late, "mine, \"later\""],  # takes the place of Ann's
        [images[1].image_id, "", tag, "dog", "Bob", early, ""],
        ["", images[2].path, "", "rabbit", "Bob", late, ""],  # by its uri; the page has one set
        [images[3].image_id, images[3].path, tag, "unicorn", "Bob", late, ""],
        [images[3].image_id, images[3].path, "pets@00000000", "cat", "Bob", late, ""],
        [images[4].image_id, images[4].path, tag, "", "Bob", late, ""],
        ["unknown", "", tag, "cat", "Bob", late, ""],
        ["elsewhere", "/not/shown.jpg", tag, "cat", "Bob", late, ""],  # kept: the page shows only some images
    ]
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    path = tmp_path / "bob.csv"
    path.write_text(text.getvalue(), newline="")
    reasons = (
        "3 answers loaded; left out: 1 older than the answers here; left out: 1 with a label that the set does not"
        " have; left out: 1 of a prompt set that the page does not show; left out: 1 without an answer;"
        " left out: 1 of images that the page does not show."
    )
    loaded(tab, path, reasons)
    assert progress(tab) == "3 of 5 reviewed · 1 agreed · 2 changed"
    assert tab.run("document.querySelector('.elsewhere').textContent").startswith("1 more of images that this page")
    rows = download(tab, tag)
    assert [(row["image_id"], row["labels"], row["reviewer"]) for row in rows] == [
        (images[0].image_id, "dog", "Bob"),
        (images[1].image_id, "cat", "Ann"),
        (images[2].image_id, "rabbit", "Bob"),
        ("elsewhere", "cat", "Bob"),
    ]
    assert rows[0]["comment"] == 'mine, "later"'
    again = reasons.replace("3 answers loaded; left out: 1 older", "0 answers loaded; left out: 3 that were here already; left out: 1 older")
    loaded(tab, path, again)
    tab.press("u")  # the whole file
    assert answers(tab, tag) == [("image00000.jpg", "cat"), ("image00001.jpg", "cat")]
    for content, told in (
        (b"name,age\r\nx,1\r\n", "its columns are name, age; expected image_id or uri, and labels"),
        (b"", "its columns are none; expected image_id or uri, and labels"),
        (b'image_id,labels\r\nx,"cat', "the quoted cell in row 2 does not end"),
    ):
        path.write_bytes(content)
        tab.run("document.querySelector('.note').textContent = ''")
        tab.choose_file(".file", path)
        tab.wait("document.querySelector('.note').textContent !== ''")
        assert tab.run("document.querySelector('.note').textContent") == f"bob.csv was not loaded: {told}"
    assert progress(tab) == "2 of 5 reviewed · 2 agreed"
