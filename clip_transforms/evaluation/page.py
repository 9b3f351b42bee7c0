"""The page of an evaluation: one HTML file, complete in itself, in the look of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clip_transforms.evaluation.plots import few_shot_svg, reliability_svg
from clip_transforms.evaluation.run import SetEvaluation
from clip_transforms.evaluation.single import SingleFigures
from clip_transforms.evaluation.text import (
    Table,
    class_table,
    confused_table,
    ends,
    few_shot_table,
    figures_of,
    notes,
    percent,
    verdicts,
)
from clip_transforms.review.pages import shipped, template

_PAIRS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the confusion matrix. shade: its share of the row, 0..1."""

    images: int
    shade: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One prompt set as the template shows it."""

    found: SetEvaluation
    anchor: str
    name: str
    hash8: str
    notes: Sequence[str]
    verdicts: Sequence[str]
    figures: Sequence[tuple[str, Any]]
    classes: Table
    confused: Table | None
    matrix: Sequence[tuple[str, Sequence[Cell]]] | None
    matrix_labels: Sequence[str]
    few_shot: Table | None
    charts: Sequence[tuple[str, Markup]]


def render_page(
    evaluations: Sequence[SetEvaluation], *, run: str, facts: Mapping[str, Any], images: int
) -> bytes:
    """The page, UTF-8. run: the url of the evaluated run. facts: shown as they are. images: embedded ones.

    It loads nothing and runs no script; what came from outside is shown as text, whatever it holds.
    """
    page = template("evaluation.html.j2", filters={"share": percent, "ends": ends}).render(
        run=run,
        sets=[_view(found, number) for number, found in enumerate(evaluations)],
        facts=list(facts.items()),
        images=images,
        css=Markup(shipped("report.css")),
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def _view(found: SetEvaluation, number: int) -> _View:
    name, _, hash8 = found.tag.rpartition("@")
    measured = found.single or found.multi
    charts = []
    if measured is not None:
        charts.append(("Reliability", Markup(reliability_svg(measured.reliability.bins()))))
    if found.few_shot is not None:
        charts.append(("Few-shot", Markup(few_shot_svg(found.few_shot, title=name))))
    single = found.single
    return _View(
        found=found,
        anchor=f"set-{number}",
        name=name,
        hash8=hash8,
        notes=notes(found),
        verdicts=verdicts(found),
        figures=figures_of(found),
        classes=class_table(found),
        confused=confused_table(single, most=_PAIRS) if single and single.confused else None,
        matrix=_matrix(single) if single else None,
        matrix_labels=(single.matrix_labels or ()) if single else (),
        few_shot=few_shot_table(found.few_shot) if found.few_shot else None,
        charts=charts,
    )


def _matrix(single: SingleFigures) -> list[tuple[str, list[Cell]]] | None:
    if single.matrix is None or single.matrix_labels is None:
        return None
    labels = single.matrix_labels
    return [
        (
            truth,
            [
                Cell(
                    images=count,
                    shade=count / max(1, sum(row)),
                    words=f"{count:,} of {sum(row):,} {truth}: {named}",
                )
                for named, count in zip(labels, row, strict=True)
            ],
        )
        for truth, row in zip(labels, single.matrix, strict=True)
    ]
