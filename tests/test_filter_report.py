"""The part of report.html that tells of a filter run: its funnel, the cut, and the pairs on both sides of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clip_transforms.review.report_pairs import read_pairs
from clip_transforms.storage import Store
from tests.pairs_kit import filtered, write_pairs
from tests.runs import beamclip, rows, summary


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 43 pairs, of which the best half is kept."""
    folder = tmp_path / "run"
    source = write_pairs(tmp_path / "input")
    assert filtered("--input", source, "--encoder", "fake", "--keep-top", "0.5", "--output", folder) == 0
    return folder


def test_the_pairs_next_to_the_cut_are_shown(run: Path) -> None:
    funnel = summary(run)["filter"]
    found = read_pairs(Store(str(run)), funnel, tiles=5)
    assert found is not None
    scores = {
        kept: sorted(
            row["similarity_fake"]
            for row in rows(run, "pairs")
            if row["kept"] == kept and row["drop_reason"] in (None, "below_cut")
        )
        for kept in (True, False)
    }
    assert [pair.score for pair in found.above] == scores[True][:5]
    assert [pair.score for pair in found.below] == scores[False][::-1][:5]
    assert found.cut == scores[True][0] == funnel["threshold"]
    assert found.chart is not None and found.chart.mark is not None
    assert found.chart.mark.text == f"{found.cut:.3f}"


def test_the_funnel_is_in_the_order_of_the_steps_and_adds_up(run: Path) -> None:
    found = read_pairs(Store(str(run)), summary(run)["filter"], tiles=1)
    assert found is not None
    counts = [(step.name, step.count) for step in found.steps]
    assert counts == [("inputs", 43), ("failed", 1), ("no_caption", 2), ("below_cut", 19), ("kept", 21)]


def test_the_page_says_what_was_kept_and_shows_captions(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "21 of 42 pairs kept" in page
    assert re.search(r"cut at -?0\.\d{3}", page)
    assert page.count('data-tile="pairs-above-') == page.count('data-tile="pairs-below-') == 12
    assert "The numbers do not add up" not in page
    assert "inputs = kept + dropped + failed pairs" in page


def test_captions_are_text_whatever_they_hold(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input")
    source.write_text(source.read_text().replace("a picture of thing", "<script>alert(1)</script>"))
    run = tmp_path / "run"
    assert filtered("--input", source, "--encoder", "fake", "--keep-top", "0.5", "--output", run) == 0
    page = (run / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_report_can_be_written_again_from_what_is_stored(run: Path) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert beamclip("status", run, "--report") == 0
    again = (run / "report.html").read_text()
    cut = re.search(r"cut at -?0\.\d{3}", before)
    assert cut and cut[0] in again and "21 of 42 pairs kept" in again


def test_a_run_in_which_nothing_reaches_the_cut_has_a_report(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    run, rules = tmp_path / "run", tmp_path / "none.yaml"
    rules.write_text("version: 1\nname: none\nrules: [{rule: caption_words, at_least: 900}]\n")
    options = ("--encoder", "fake", "--rules", rules, "--keep-top", "0.5")
    assert filtered("--input", source, *options, "--output", run) == 0
    assert summary(run)["filter"]["kept"] == 0
    assert summary(run)["filter"]["threshold"] is None
    assert "0 of 32 pairs kept" in (run / "report.html").read_text()
    assert rows(run, "kept") == []
