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
from tests import reviews_kit
from tests.chromium_kit import Site, Tab, open_tab
from tests.report_kit import (
    Picture,
    label_row,
    load_file,
    pictures,
    run_record,
    write_embeddings,
    write_labels,
)
from tests.runs import beamclip

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
    "sha256",
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
MULTI = PromptSet(
    name="signs", task="multi", labels=tuple(Label(id=key) for key in ("text", "logo", "face", "a|b"))
)
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
        rows[-1] |= {
            "label": None,
            "decision": "abstain",
            "decision_reason": "below_threshold",
            "margin": 0.9,
        }
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
    return list(
        tab.run(
            "[...document.querySelectorAll('.tile')].map((one) => one.querySelector('.chip').textContent)"
        )
    )


def progress(tab: Tab) -> str:
    return str(tab.run("document.querySelector('.progress-words').textContent"))


def shown(tab: Tab) -> str:
    """The name of the image in the open dialog, or nothing."""
    dialog = "document.getElementById('detail')"
    return str(tab.run(f"{dialog}.open ? document.getElementById('detail-name').textContent : ''"))


def test_confirm_correct_skip_undo_and_go_on_by_keys_alone(tmp_path: Path, tab: Tab) -> None:
    _, images = pets(tmp_path)
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


def test_an_answer_to_an_earlier_picture_is_none_to_the_new_one(tmp_path: Path, tab: Tab) -> None:
    tag, images = pets(tmp_path)
    opened(tab, tmp_path)
    tab.press("r", "y", "y", "Escape")
    assert [row["sha256"] for row in download(tab, tag)] == ["0" * 64] * 2
    write_embeddings(tmp_path, images[:1], sha256="1" * 64)
    write_embeddings(tmp_path, images[1:], name="part-1.parquet")
    opened(tab, tmp_path)
    assert progress(tab).startswith("1 of 5 reviewed") and sorted(states(tab)) == ["", "", "", "", "✓"]
    tab.press("r")
    assert shown(tab) == "image00000.jpg"
    tab.press("2", "Escape")
    found = {Path(row["uri"]).name: (row["labels"], row["sha256"]) for row in download(tab, tag)}
    assert found == {"image00000.jpg": ("dog", "1" * 64), "image00001.jpg": ("cat", "0" * 64)}
    older = tmp_path / "older.csv"
    rows = [[images[0].image_id, images[0].path, tag, "cat", "2126-01-01T00:00:00Z", "0" * 64]]
    head = ["image_id", "uri", "prompt_set", "labels", "reviewed_at", "sha256"]
    older.write_text("\n".join(",".join(row) for row in [head, *rows]))
    loaded(tab, older, "0 answers loaded; left out: 1 to an earlier picture.")
    assert ("image00000.jpg", "dog") in answers(tab, tag)


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
    assert [(row["image_id"], row["uri"]) for row in rows_back] == [
        (one.image_id, one.path) for one in images
    ]
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
        [images[0].image_id, "", tag, "dog", "Bob", late, 'mine, "later"'],  # takes the place of Ann's
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
    assert tab.run("document.querySelector('.elsewhere').textContent").startswith(
        "1 more of images that this page"
    )
    rows = download(tab, tag)
    assert [(row["image_id"], row["labels"], row["reviewer"]) for row in rows] == [
        (images[0].image_id, "dog", "Bob"),
        (images[1].image_id, "cat", "Ann"),
        (images[2].image_id, "rabbit", "Bob"),
        ("elsewhere", "cat", "Bob"),
    ]
    assert rows[0]["comment"] == 'mine, "later"'
    again = reasons.replace(
        "3 answers loaded; left out: 1 older",
        "0 answers loaded; left out: 3 that were here already; left out: 1 older",
    )
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


def asked_to_stay(tab: Tab) -> bool:
    """Whether a reload is held up by the browser's question; it is answered with staying."""
    tab.click("body")  # without a touch of the reader no page may ask
    since = len(tab.events)
    tab.post("Page.reload")
    asked = tab.event("Page.javascriptDialogOpening", "Page.loadEventFired", since=since)
    if asked["method"] == "Page.loadEventFired":
        return False
    assert asked["params"]["type"] == "beforeunload"
    tab.send("Page.handleJavaScriptDialog", accept=False)
    return True


def test_where_nothing_can_be_kept_it_says_so_and_warns_before_leaving(tmp_path: Path, tab: Tab) -> None:
    tag, _ = pets(tmp_path)
    with Site() as site:
        site.page = page_of(tmp_path)
        # A sandbox is an origin of its own, which has no storage: reading `localStorage` throws.
        site.headers["Content-Security-Policy"] = "sandbox allow-scripts allow-downloads allow-modals"
        tab.open(site.url)
        assert tab.run("document.querySelector('.forgets').checkVisibility()")
        assert not asked_to_stay(tab)
        tab.press("r", "y")
        tab.type("Ann")
        tab.press("Enter", "2", "Escape")
        assert progress(tab) == "2 of 5 reviewed · 1 agreed · 1 changed"
        assert asked_to_stay(tab)
        assert answers(tab, tag) == [("image00000.jpg", "cat"), ("image00001.jpg", "dog")]
        assert not asked_to_stay(tab)  # what is downloaded is safe; the page is new
        assert progress(tab) == "0 of 5 reviewed"


def test_a_full_storage_is_told_and_loses_nothing(tmp_path: Path, tab: Tab) -> None:
    tag, _ = pets(tmp_path)
    opened(tab, tmp_path)
    assert not tab.run("document.querySelector('.forgets').checkVisibility()")
    tab.press("r", "y")
    tab.run(
        "(() => { let text = 'x'.repeat(1 << 20), n = 0;"
        " while (text.length) try { localStorage.setItem(`full${n++}`, text); }"
        " catch { text = text.slice(0, text.length >> 1); } })()"
    )
    tab.press("2", "Escape")
    assert tab.run("document.querySelector('.forgets').checkVisibility()")
    assert asked_to_stay(tab)
    assert answers(tab, tag) == [("image00000.jpg", "cat"), ("image00001.jpg", "dog")]


def test_two_windows_do_not_write_over_each_other(tmp_path: Path, tab: Tab) -> None:
    tag, images = pets(tmp_path)
    opened(tab, tmp_path)
    tab.press("r", "y", "Escape")
    other = tab.another()
    other.open((tmp_path / "report.html").as_uri())
    assert progress(other) == "1 of 5 reviewed · 1 agreed"
    other.press("r", "2", "2", "Escape")
    tab.wait("document.querySelector('.progress-words').textContent.startsWith('3 of 5')")
    tab.press("r", "y", "Escape")
    other.wait("document.querySelector('.progress-words').textContent.startsWith('4 of 5')")
    other.press("u")  # its own last answer
    tab.wait("document.querySelector('.progress-words').textContent.startsWith('3 of 5')")
    expected = [(images[0], "cat"), (images[1], "dog"), (images[3], NONE)]
    for one in (tab, other):
        assert answers(one, tag) == [(image.path.rsplit("/", 1)[-1], label) for image, label in expected]


def test_labels_of_a_multi_label_set_are_switched_and_saved(tmp_path: Path, tab: Tab) -> None:
    images = pictures(tmp_path / "images", 4)
    scores = {"text": 0.9, "logo": 0.6, "face": 0.1}
    given: list[list[str]] = [["text", "logo"], ["text"], [], ["text", "a|b"]]
    rows = [
        label_row(image, scores, tag="x", label=None, labels=labels, margin=number / 10)
        for number, (image, labels) in enumerate(zip(images, given, strict=True))
    ]
    tag = made(tmp_path, MULTI, images, rows)
    opened(tab, tmp_path)
    assert progress(tab) == "0 of 4 reviewed"  # the first is on two sheets, and counted once
    tab.press("r")
    pressed = "[...document.querySelectorAll('.choice[aria-pressed=true]')].map((one) => one.dataset.label)"
    assert tab.run(pressed) == ["text", "logo"]
    tab.press("3", "2")
    assert tab.run(pressed) == ["text", "face"] and progress(tab) == "0 of 4 reviewed"
    assert tab.run("document.querySelector('.verdict').textContent") == "not saved yet: Enter saves"
    tab.press("ArrowRight", "ArrowLeft")  # what is not saved stays, and is asked for before it would be lost
    assert tab.run(pressed) == ["text", "face"]
    assert asked_to_stay(tab)
    tab.press("Enter")
    assert shown(tab) == "image00001.jpg"
    tab.press("Enter")
    assert tab.run("document.querySelector('.question').textContent") == "No label was given. Is there any?"
    tab.press("y")
    tab.press("0")
    assert tab.run(pressed) == []
    tab.press("Enter")
    assert progress(tab) == "4 of 4 reviewed · 2 agreed · 2 changed"
    rows = download(tab, tag)
    assert [(row["shown"], row["labels"]) for row in rows] == [
        ("text|logo", "text|face"),
        ("text", "text"),
        ("-", "-"),
        ("text|a|b", "-"),
    ]
    both = [
        (name, state)
        for name, state in tab.run(
            "[...document.querySelectorAll('.tile')].map((one) => [one.dataset.imageId, one.dataset.state])"
        )
        if name == images[0].image_id
    ]
    assert [state for _, state in both] == ["changed", "changed"]
    tab.press("u", "r", "/")
    tab.type("a|b")
    tab.press("Enter", "Enter")
    rows = download(tab, tag)
    assert rows[3]["labels"] == "text"
    tab.press("u", "r", "y")
    content = ",".join(["image_id", "labels"]) + f"\r\n{images[0].image_id},logo|a|b\r\n"
    (tmp_path / "back.csv").write_text(content, newline="")
    loaded(tab, tmp_path / "back.csv", "0 answers loaded; left out: 1 older than the answers here.")
    tab.run("localStorage.clear()")
    tab.reload()
    loaded(tab, tmp_path / "back.csv", "1 answer loaded.")
    assert "→ logo, a|b" in states(tab)


def test_groups_and_leaves_of_a_hierarchy_are_chosen(tmp_path: Path, tab: Tab) -> None:
    images = pictures(tmp_path / "images", 3)
    scores = {"owl": 0.5, "eagle": 0.4, "train": 0.1}
    rows = [
        label_row(images[0], scores, tag="x", label="owl", path=["bird", "owl"], margin=0.1),
        label_row(images[1], scores, tag="x", label="bird", path=["bird"], margin=0.2),
        label_row(images[2], scores, tag="x", label="train", path=["train"], margin=0.3),
    ]
    tag = made(tmp_path, BIRDS, images, rows)
    opened(tab, tmp_path)
    tab.press("r")
    choices = "[...document.querySelectorAll('.choice')].map((one) => one.textContent)"
    assert tab.run(choices) == [
        "1birdowlshown0.500cos 0.250",
        "2birdeagle0.400cos 0.240",
        "3train0.100cos 0.210",
        "4bird",
        "0none of these",
    ]
    tab.press("4", "y", "/")
    tab.type("bird e")
    options = "[...document.querySelectorAll('#pick-list [role=option]')].map((one) => one.textContent)"
    assert tab.run(options) == ["birdeagle"]
    tab.press("Enter")
    assert [(row["shown"], row["labels"]) for row in download(tab, tag)] == [
        ("owl", "bird"),
        ("bird", "bird"),
        ("train", "eagle"),
    ]
    assert progress(tab) == "3 of 3 reviewed · 1 agreed · 2 changed"


def test_the_label_field_finds_by_id_name_synonym_and_without_accents(tmp_path: Path, tab: Tab) -> None:
    labels = [Label(id=f"kind-{number}") for number in range(20_000)]
    labels += [Label(id="crème", name="crème brûlée", synonyms=("burnt cream",)), Label(id="ice-cream")]
    images = pictures(tmp_path / "images", 1)
    tag = made(
        tmp_path,
        PromptSet(name="many", labels=tuple(labels)),
        images,
        [label_row(images[0], {"kind-1": 0.9, "kind-2": 0.1}, tag="x")],
    )
    opened(tab, tmp_path)
    assert tab.run("document.querySelector('.begin').textContent") == "Review 1 imager"
    tab.press("r", "/")
    options = "[...document.querySelectorAll('#pick-list li')].map((one) => one.textContent)"
    for text, expected in (
        ("BRULEE", ["crèmecrème brûlée"]),
        ("burnt", ["crèmeburnt cream"]),
        ("cream", ["crèmeburnt cream", "ice-cream"]),
        ("kind 1999", [*(f"kind-1999{end}" for end in ("", *"0123456789")), "kind-11999"]),
        ("zebra", ["no such label in this set"]),
    ):
        tab.run("Object.assign(document.getElementById('pick'), {value: ''})")
        tab.type(text)
        assert tab.run(options) == expected, text
    tab.press("Enter")  # of nothing
    assert shown(tab) == "image00000.jpg"
    tab.press("Escape")  # leaves the field, not the image
    assert tab.run("document.activeElement.className") == "body" and shown(tab) == "image00000.jpg"
    tab.press("/")
    tab.type("kind")
    assert len(tab.run(options)) == 41 and tab.run(options)[-1] == "and 19960 more: type on"
    tab.press("ArrowDown", "ArrowDown", "ArrowUp", "Enter")
    assert [(row["labels"]) for row in download(tab, tag)] == ["kind-1"]


def compact(value: object) -> str:
    """As JavaScript writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_hostile_labels_names_and_stored_answers_are_only_text(tmp_path: Path, tab: Tab) -> None:
    hits = [
        "<img src=x onerror=\"document.title='ran'\">",
        "</script><script>document.title='ran'</script>",
        "<svg onload=\"document.title='ran'\"></svg>",
        "javascript:document.title='ran'",
    ]
    images = pictures(tmp_path / "images", 2, names=["<b onclick=\"document.title='ran'\">.jpg"])
    prompts = PromptSet(
        name="odd",
        labels=tuple(Label(id=hit, name=f"{hit} too", synonyms=(f"{hit}!",)) for hit in hits),
    )
    rows = [label_row(image, {hits[0]: 0.5, hits[1]: 0.4, hits[2]: 0.1}, tag="x") for image in images]
    tag = made(tmp_path, prompts, images, rows)
    (tmp_path / "report.html").write_bytes(
        re.sub(rb'<meta http-equiv="Content-Security-Policy"[^>]*>', b"", page_of(tmp_path, encoder=hits[0]))
    )
    tab.open((tmp_path / "report.html").as_uri())  # without the policy that stands behind
    tab.press("r", "2")
    tab.type(hits[0])
    tab.press("Enter", "/")
    tab.type("<")
    tab.press("Enter", "?", "Escape", "c")
    tab.type(hits[1])
    tab.press("Enter", "Escape")
    stored = compact([str(tmp_path), tag, compact([images[1].image_id, images[1].path])])
    evil = {"labels": [hits[2]], "shown": [hits[0]], "by": hits[1], "comment": hits[0], "at": hits[1]}
    for value in (evil, {"labels": "no list"}, {"labels": [1]}, 7, None, [], {"skip": "yes"}):
        tab.run(
            f"localStorage.setItem('beamclip-review:' + {json.dumps(stored)}, {json.dumps(json.dumps(value))})"
        )
        tab.run("localStorage.setItem('beamclip-review:not json', '{')")
        tab.reload()
        assert progress(tab).startswith("2 of 2" if value == evil else "1 of 2"), value
        tab.press("r", "j", "Escape")
    assert tab.run("document.title").endswith("beamclip report")
    assert tab.run("document.querySelectorAll('[onerror],[onload],[onclick]').length") == 0
    assert tab.run("document.querySelectorAll('script').length") == 9


def test_keys_do_nothing_where_they_are_not_meant(tmp_path: Path, tab: Tab) -> None:
    pets(tmp_path, count=30)
    opened(tab, tmp_path)
    tab.press("y", "s", "1", "0", "c", "Enter")  # nothing is in focus
    assert progress(tab) == "0 of 20 reviewed" and shown(tab) == ""
    tab.press("u")
    assert tab.run("document.querySelector('.reviewing .said').textContent") == "Nothing to undo"
    tab.press("/")  # the list of labels has no field: there are few
    tab.press("r", "?")
    assert tab.run("document.getElementById('keys').open")
    tab.press("y", "2", "s", "ArrowRight", "u")
    assert progress(tab) == "0 of 20 reviewed"
    tab.press("?")
    assert not tab.run("document.getElementById('keys').open") and shown(tab) == "image00000.jpg"
    tab.press("c")
    tab.type("yes 2 s")
    tab.press("y", "u", "ArrowRight", "Escape")
    assert progress(tab) == "0 of 20 reviewed" and shown(tab) == "image00000.jpg"
    tab.press("9")
    assert tab.run("document.querySelector('dialog .said').textContent") == "There is no choice 9"
    tab.press("j", "j", "k", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert shown(tab) == "image00000.jpg" and progress(tab) == "0 of 20 reviewed"
    for _ in range(4):  # a key that is held down answers one image
        event = {"key": "y", "text": "y", "windowsVirtualKeyCode": 89, "autoRepeat": True}
        tab.send("Input.dispatchKeyEvent", type="keyDown", **event)
    assert progress(tab) == "0 of 20 reviewed"
    tab.run("document.querySelector('#detail .skipping').focus()")
    tab.press("Enter")  # on a button it is the button's
    assert progress(tab) == "0 of 20 reviewed · 1 skipped"
    tab.press("k")
    assert shown(tab) == "image00000.jpg"
    tab.click("#detail .confirm")
    tab.click("#detail .choice[data-label='dog']")
    assert progress(tab) == "2 of 20 reviewed · 1 agreed · 1 changed"
    tab.press("Escape")
    # On the sheets: the tile in focus is answered, the next gets the focus.
    tab.run("document.querySelectorAll('.frame')[4].focus()")
    tab.press("Y", "2", "S", "u")  # Caps Lock does not matter
    assert progress(tab) == "4 of 20 reviewed · 2 agreed · 2 changed" and shown(tab) == ""
    assert tab.run("[...document.querySelectorAll('.frame')].indexOf(document.activeElement)") == 6
    tab.press("Enter")
    assert shown(tab) == "image00006.jpg"
    assert tab.run("document.querySelector('.place').textContent") == "7 of 18"


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255)).reduce(
    (sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const found = rgb(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found; } };
  const told = [...document.querySelectorAll('dialog[open] *, .reviewing *, .chip')];
  return told.filter((node) => node.checkVisibility() && !node.closest(':disabled, svg')
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).filter((node) => {
      const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05) < 4.5; }).map((node) => node.outerHTML.slice(0, 90));
})()"""


def test_it_can_be_read_and_named_and_fits_a_narrow_window(tmp_path: Path, tab: Tab) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 3
    images = pictures(tmp_path / "images", 4, names=[f"{long}.jpg"])
    prompts = PromptSet(name="long", labels=(Label(id=long), Label(id="cat"), Label(id="dog", name=long)))
    rows = [label_row(image, {long: 0.5, "cat": 0.4, "dog": 0.1}, tag="x") for image in images]
    made(tmp_path, prompts, images, rows)
    opened(tab, tmp_path, reviewer=long)
    nameless = (
        "[...document.querySelectorAll('button, a, input:not([type=file]), [role=region], [role=listbox]')]"
        ".filter((node) => !(node.textContent.trim() || node.ariaLabel)).map((node) => node.outerHTML)"
    )
    wide = "[document.documentElement, document.getElementById('detail')].map((n) => n.scrollWidth - n.clientWidth)"
    for scheme in ("light", "dark"):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        tab.send("Emulation.setEmulatedMedia", features=features)
        for width in (360, 400, 1280):
            tab.send(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=800,
                deviceScaleFactor=1,
                mobile=False,
            )
            tab.press("r", "y", "2", "s", "k", "k", "/")
            assert tab.run(wide) == [0, 0], (scheme, width)
            assert tab.run(CONTRAST) == [] and tab.run(nameless) == [], (scheme, width)
            tab.press("Escape", "?")
            assert tab.run(CONTRAST) == [], (scheme, width)
            tab.press("Escape", "Escape")
            assert tab.run(wide)[0] == 0 and tab.run(CONTRAST) == [], (scheme, width)
            tab.press("u", "u", "u")
    assert tab.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_a_page_without_labels_has_nothing_to_review(tmp_path: Path, tab: Tab) -> None:
    write_embeddings(tmp_path, pictures(tmp_path / "images", 3))
    opened(tab, tmp_path, reviewer="")
    assert tab.run("document.querySelectorAll('script').length") == 3
    assert tab.run("document.querySelectorAll('.reviewing, .answering, #keys, .help').length") == 0
    tab.run("document.querySelector('.frame').focus()")
    tab.press("r", "y", "?", "Enter")
    assert shown(tab).startswith("image0000")
    tab.press("ArrowRight", "j", "k")
    assert tab.run("document.querySelector('.place').textContent") == "2 of 3"
    assert tab.run("document.querySelectorAll('dialog .guesses li').length") == 0


ODD = """version: 1
name: odd
labels: ['=cmd|"x"', "naïve, label", "@home", "猫", "+1|-1", "-"]
"""
FLAGS = """version: 1
name: flags
task: multi
threshold: 0.5
labels: [face, "=text", "logo, big", "-"]
"""


def test_the_import_takes_every_answer_of_the_page(tmp_path: Path, tab: Tab) -> None:
    names = ['a "quoted", name.jpg', "=1+1.jpg", "+49 @home -1.jpg", "ねこ 🐈.jpg", "a|b;c.jpg"]
    run = reviews_kit.labelled_run(tmp_path, ODD, FLAGS, reviews_kit.ZOO, names=names, count=8)
    tab.open(Path(run, "report.html").as_uri())
    tab.run("localStorage.setItem('beamclip-reviewer', 'Zoë \"Z\", =x')")
    tab.reload()
    for place, name in enumerate(("flags", "odd", "zoo")):
        tag = reviews_kit.tag_of(run, name)
        tab.click(f".tab[data-set='set{place}']")
        tab.press("r")
        for keys in ("y", "2", "0", "y", "1", "3", "2", "y"):
            tab.press(keys, *(["Enter"] if name == "flags" else []))
        if shown(tab):  # rows without a label cannot be confirmed
            tab.press("Escape")
        tab.click(f"#set{place} .save")
        content = tab.downloaded(f"reviews-{tag}.csv")
        path = tmp_path / f"{name}.csv"
        path.write_bytes(content)
        assert beamclip("review", "import", run, "--set", tag, "--from", "report", path) == 0
        found = reviews_kit.stored(run, name)
        rows = table(content)
        assert len(rows) >= 6 and len(found) == len(rows)
        for row in rows:
            review = found[row["image_id"], 'Zoë "Z", =x']
            assert (
                review["source"] == "report" and review["prompt_set"] == tag and review["uri"] == row["uri"]
            )
            if name == "flags":
                assert review["labels"] == parts(row["labels"])
                assert review["agreed"] is (parts(row["labels"]) == parts(row["shown"]))
            else:
                assert review["labels"] == [row["labels"]]
                assert review["agreed"] is (row["labels"] == row["shown"] if row["shown"] else None)
            assert review["lead_time"] == pytest.approx(float(row["lead_time"]))
            assert review["reviewed_at"] == datetime.datetime.fromisoformat(
                row["reviewed_at"].replace("Z", "+00:00")
            )


def parts(cell: str) -> list[str]:
    """The labels in a cell of FLAGS; it has a label `-`, so none of them is written out."""
    return [] if cell == NONE else sorted(cell.split("|"))
