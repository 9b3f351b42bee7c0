"""The closing table: exact counts, an example of each failure, and clean text where there is no terminal."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from clip_transforms.review.report_values import FailureExample, FailureGroup
from clip_transforms.storage import Store
from clip_transforms.summary import (
    SetCounts,
    Summary,
    closing_table,
    print_summary,
    read_failure_examples,
    read_set_counts,
)
from tests.report_kit import Picture, label_row, run_record, write_failures, write_labels

TAG = "pets@1a2b3c4d"


def failure(uri: str, message: str, *, reason: str = "truncated", count: int = 3) -> FailureGroup:
    example = FailureExample(image_id="1", uri=uri, stage="decode", message=message, attempts=1)
    return FailureGroup(reason=reason, count=count, examples=(example,))


def plain(summary: Summary, *, top: int = 8) -> str:
    file = io.StringIO()
    print_summary(summary, file=file, top=top)
    return file.getvalue()


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 columns, and none of the variables that force colours."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_the_whole_table_as_plain_text() -> None:
    labels = {"cat": 60, "dog": 30, "__none__": 6, None: 4}
    summary = Summary(
        run=run_record(inputs=103, failed=3, output="/out", images_per_second=164.2, duplicate_ids=2),
        sets=(SetCounts(tag=TAG, images=100, labels=labels),),
        failures=(failure("/photos/a.jpg", "ends early"),),
        report="/out/report.html",
        next_command="beamclip review export /out",
    )
    assert plain(summary) == (
        "inputs      103\n"
        "embedded    100\n"
        "failed        3  2.9%\n"
        "repeated      2  ids, see duplicates.parquet\n"
        "images/s    164\n"
        "\n"
        "pets@1a2b3c4d\n"
        "cat            60  60.0%  ████████████████████\n"
        "dog            30  30.0%  ██████████\n"
        "none of these   6   6.0%  ██\n"
        "no label        4   4.0%  █\n"
        "\n"
        "failed\n"
        "truncated   3  /photos/a.jpg: ends early\n"
        "\n"
        "output  /out\n"
        "report  /out/report.html\n"
        "next    beamclip review export /out\n"
    )


def test_labels_beyond_the_top_are_added_up() -> None:
    labels = {f"label-{number}": 10 - number for number in range(5)}
    summary = Summary(run={}, sets=(SetCounts(tag=TAG, images=40, labels=labels),))
    assert [line.split("  ")[0] for line in plain(summary, top=3).splitlines()[1:]] == [
        "label-0",
        "label-1",
        "label-2",
        "2 more",
    ]
    assert "2 more      13  32.5%" in plain(summary, top=3)
    assert "label-4" in plain(summary, top=4)  # a line for "1 more" would be no shorter


def test_the_width_is_kept_and_paths_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    path = "gs://bucket/" + "folder/" * 20 + "run"
    summary = Summary(
        run={"output": path},
        sets=(SetCounts(tag=TAG, images=1, labels={"a very long label " * 9: 1}),),
        failures=(failure("/photos/" + "x" * 90 + ".jpg", "ends early"),),
    )
    lines = plain(summary).splitlines()
    assert f"output  {path}" in lines
    assert max(len(line) for line in lines if path not in line) <= 50


def test_what_comes_from_outside_cannot_drive_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[bold red]x[/]\r\n\u202egpj"
    summary = Summary(
        run={"output": evil},
        sets=(SetCounts(tag=evil, images=1, labels={evil: 1}),),
        failures=(failure(evil, evil, reason=evil),),
        notes=(evil,),
    )
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=300, color_system=None).print(closing_table(summary))
    text = file.getvalue()
    assert "\x1b]" not in text and "\x1b[2J" not in text and "\x07" not in text and "\u202e" not in text
    assert "\\x1b[2J" in text and "[bold red]x[/]" in text


def test_characters_that_the_stream_lacks_become_escapes() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    summary = Summary(run={}, sets=(SetCounts(tag=TAG, images=1, labels={"café": 1}),))
    print_summary(summary, file=file)
    file.flush()
    assert "caf\\xe9     1  100%  ####################" in raw.getvalue().decode("ascii")


def test_colours_are_for_terminals_only() -> None:
    summary = Summary(run=run_record(inputs=3, failed=1))
    assert "\x1b" not in plain(summary)
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard").print(closing_table(summary))
    assert "\x1b[" in file.getvalue()


def test_a_labels_only_run_has_no_inputs_of_its_own() -> None:
    record = run_record(inputs=0, failed=0, from_run="/other", images_per_second=5.25)
    assert plain(Summary(run=record)) == "images/s    5.2\n"


def test_labels_are_counted_over_all_parts(tmp_path: Path) -> None:
    images = [Picture(path=f"/photos/{number}.jpg") for number in range(30)]
    given = ["cat", "dog", None]
    rows = [label_row(image, {"cat": 0.9}, tag=TAG, label=given[n % 3]) for n, image in enumerate(images)]
    write_labels(tmp_path, TAG, rows[:7], name="part-0.parquet")
    write_labels(tmp_path, TAG, rows[7:], name="part-1.parquet")
    several = [["cat", "dog"], ["dog"], []]
    kinds = "kinds@00000000"
    rows = [
        label_row(image, {"cat": 0.9}, tag=kinds, label=None, labels=several[n % 3])
        for n, image in enumerate(images)
    ]
    write_labels(tmp_path, kinds, rows)
    store = Store(str(tmp_path))
    multi, single = read_set_counts(store)
    assert (single.tag, single.images, single.labels) == (TAG, 30, {"cat": 10, "dog": 10, None: 10})
    assert (multi.tag, multi.images, multi.labels) == (kinds, 30, {"cat": 10, "dog": 20, None: 10})
    (one,) = read_set_counts(store, parts=[f"labels/{TAG}/part-0.parquet"])
    assert one.labels == Counter(given[n % 3] for n in range(7))


def test_each_reason_has_one_example_the_same_each_time(tmp_path: Path) -> None:
    entries = [(f"/{number}.jpg", "decode", "truncated", "ends early") for number in range(9)]
    write_failures(tmp_path, [*entries, ("/x.jpg", "fetch", "not_found", "no such file")])
    store = Store(str(tmp_path))
    found = read_failure_examples(store)
    assert [(group.reason, group.count, len(group.examples)) for group in found] == [
        ("truncated", 9, 1),
        ("not_found", 1, 1),
    ]
    write_failures(tmp_path, [("/x.jpg", "fetch", "not_found", "no such file"), *entries[::-1]])
    assert read_failure_examples(store) == found
