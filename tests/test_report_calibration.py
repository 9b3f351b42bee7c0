"""The calibration in the report: what is drawn where, one curve a class, and pages of sets without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_transforms.calibration import Calibration, calibration_name
from clip_transforms.labelsets import LabelSet
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.review import ReportInputs
from clip_transforms.review.report import render_report
from clip_transforms.review.report_calibration import MOST_CURVES, calibration_view
from clip_transforms.storage import Store
from tests.report_kit import label_row, pictures, run_record, write_embeddings, write_labels

PETS = PromptSet(name="pets", labels=(Label(id="cat"), Label(id="dog")))
BINS = [[0, None, None]] * 13 + [[10, 0.9, 0.5], [30, 0.98, 1.0]]
FIT = {"nll": 0.5, "error": 0.123, "bins": BINS}


def figures(*walks: dict[str, object], per_class: bool = False) -> dict[str, object]:
    return {
        "claim": {"target": 0.95, "confidence": 0.95, "per_class": per_class, "accept": True},
        "audit": {"images": 400, "unreviewed": 3, "disputed": 0},
        "walks": list(walks),
        "temperature": {"images": 400, "before": FIT, "after": FIT},
        "rows": 2000,
        "accepted": {"cat": 700, "dog": 300},
    }


def walk(label: str | None = None, *, labelled: int = 390, chosen: int | None = 1) -> dict[str, object]:
    points = [[0.9, 124, 124, 0.976], [0.5, 200, 198, 0.969], [0.0, 390, 340, 0.84]]
    return {"label": label, "labelled": labelled, "chosen": chosen, "points": points}


def kept(run: Path, found: dict[str, object]) -> tuple[Store, str]:
    """A run that keeps a set with this calibration; its tag."""
    store = Store(str(run))
    calibration = Calibration(base="pets@00000000", temperature=1.8, accept={"cat": 0.5}, figures=found)
    label_set = LabelSet(prompt_set=PETS, calibration=calibration.hash)
    store.write(f"text/{label_set.tag}.json", label_set.to_json())
    store.write(calibration_name(label_set.tag), calibration.to_json())
    return store, label_set.tag


def test_curves_and_bars_are_where_the_numbers_say(tmp_path: Path) -> None:
    view = calibration_view(*kept(tmp_path, figures(walk())))
    assert view is not None and view.temperature == "1.8" and view.base == "pets@00000000"
    assert view.sentence == (
        "1,000 of 2,000 images (50.0%) are accepted unseen; at confidence 0.95 at least 0.95 of them are right."
    )
    assert view.notes == ("400 images drawn at random", "3 not reviewed, counted as wrong")
    (curve,) = view.curves
    (_, seen), (_, bound) = curve.lines
    assert [tick.text for tick in curve.y_ticks] == ["0.8", "0.85", "0.9", "0.95", "1"]
    assert [tick.text for tick in curve.x_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert seen.split()[0] == f"{44 + 348 * 124 / 400:.2f},12.0"
    assert len(seen.split()) == len(bound.split()) == 3
    assert curve.mark is not None and curve.mark.at == 44 + 348 / 2  # 200 of 400
    assert curve.target is not None and curve.target.at == pytest.approx(12 + 170 / 4)
    assert curve.note == "cut at 0.5: 198 of 200 right, at least 96.90%"
    before, after = view.reliability
    assert "calibration error 12.3%" in before.note and "cross-validated" in after.note
    assert [bar.y for bar in before.bars] == [97.0, 12.0] and len(before.steps) == 2


def test_one_curve_a_class_with_the_largest_first_and_not_too_many(tmp_path: Path) -> None:
    walks = [walk(f"label{number}", labelled=number, chosen=None) for number in range(MOST_CURVES + 3)]
    view = calibration_view(*kept(tmp_path, figures(*walks, per_class=True)))
    assert view is not None and view.more == 3 and "each of 1 labels" in view.sentence
    assert [curve.title for curve in view.curves][:2] == ["label14", "label13"]
    assert all(curve.mark is None and curve.note == "no cut passed" for curve in view.curves)


def test_sets_without_a_calibration_or_with_one_of_others_show_nothing(tmp_path: Path) -> None:
    store, tag = kept(tmp_path, {})
    assert calibration_view(store, tag) is None
    plain = LabelSet(prompt_set=PETS)
    store.write(f"text/{plain.tag}.json", plain.to_json())
    assert calibration_view(store, plain.tag) is None
    assert calibration_view(store, "elsewhere@00000000") is None
    (tmp_path / calibration_name(tag)).unlink()
    assert calibration_view(store, tag) is None


def test_the_page_shows_it_and_escapes_what_came_from_outside(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'\n"
    store, tag = kept(tmp_path, figures(walk(evil), per_class=True))
    images = pictures(tmp_path / "images", 2)
    write_embeddings(tmp_path, images)
    write_labels(tmp_path, tag, [label_row(image, {"cat": 0.9, "dog": 0.1}, tag=tag) for image in images])
    page = render_report(store, data=ReportInputs(run=run_record(inputs=2, failed=0))).decode()
    part = page[page.index('class="calibration"') : page.index('class="decisions"')]
    assert part.count("<svg") == 3 and part.count("<polyline") == 4
    assert "alert(1)" in part and "<script" not in part and 'style="' not in part
