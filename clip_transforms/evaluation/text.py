"""An evaluation in words and tables: what the command prints, and the JSON that it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from clip_transforms.evaluation.compare import sentence
from clip_transforms.evaluation.confusion import ClassFigures
from clip_transforms.evaluation.metrics import Figure, Interval, Reliability
from clip_transforms.evaluation.run import SetEvaluation
from clip_transforms.evaluation.shots import FewShot
from clip_transforms.evaluation.single import SingleFigures

_MOST_ROWS = 40  # classes in the printed table; the JSON and the report hold all
_MOST_PAIRS = 10
_MOST_NAMES = 1000  # unknown truths in the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a head; the first column is left-aligned, the others right."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def plain(self) -> str:
        """Aligned columns under the title.

        >>> print(Table(title="t", head=("a", "b"), rows=(("long", "1"),)).plain())
        t
        a     b
        long  1
        """
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        joined = ("  ".join(_padded(line, widths)).rstrip() for line in lines)
        return "\n".join(([self.title] if self.title else []) + list(joined))


def percent(value: float | None) -> str:
    """A share in percent with one decimal.

    >>> percent(0.61234), percent(None)
    ('61.2%', '-')
    """
    return "-" if value is None else f"{value:.1%}"


def ends(found: Interval | None) -> str:
    """The ends of an interval of shares.

    >>> ends((0.5, 0.25)), ends(None)
    ('50.0 to 25.0', '-')
    """
    return "-" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f}"


def figures_of(found: SetEvaluation) -> list[tuple[str, Figure]]:
    """The main figures with their names, in the order in which people are told."""
    single, multi = found.single, found.multi
    listed: list[tuple[str, Figure | None]] = []
    if single is not None:
        listed = [
            ("top-1", single.top1),
            ("top-5", single.top5),
            ("top-1, failed images counted as wrong", single.top1_failed_wrong if found.failed else None),
            ("mean recall of the classes", single.balanced_accuracy),
            ("mean F1 of the classes", single.macro_f1),
            ("right at the level of the answer", single.answers.of_all if single.answers else None),
            ("right, of images with an answer", single.answers.accuracy if single.answers else None),
            ("expected calibration error", single.calibration_error),
        ]
    if multi is not None:
        listed = [
            ("mean average precision", multi.mean_average_precision),
            ("micro F1", multi.micro_f1),
            ("macro F1", multi.macro_f1),
            ("all labels of an image right", multi.exact),
            ("the same, failed images counted as wrong", multi.exact_failed_wrong if found.failed else None),
            ("expected calibration error", multi.calibration_error),
        ]
    return [(name, figure) for name, figure in listed if figure is not None]


def notes(found: SetEvaluation) -> list[str]:
    """What was left out or cannot be said, one sentence each."""
    counts = found.counts
    told = [f"{_images(counts.judged)} judged."]
    if counts.unknown or counts.names:
        names = ", ".join(f"{name!r} ({count:,})" for name, count in counts.names.most_common(10))
        more = " and others" if len(counts.names) > 10 or counts.more_names else ""
        what = "truth is no label of the set" if found.single else "truths are no labels of the set"
        told.append(f"{_images(counts.unknown)} left out whose {what}: {names}{more}.")
    if counts.partly:
        told.append(f"{_images(counts.partly)} judged by the known ones of their truths.")
    if counts.missing:
        told.append(f"{_images(counts.missing)} left out that have no truth.")
    if found.failed or found.failed_other:
        other = f", and {found.failed_other:,} whose truth is none of the set" if found.failed_other else ""
        told.append(
            f"{_images(found.failed)} failed and could not be embedded{other}: they are left out of all figures "
            "but the one that says so."
        )
    if counts.groups:
        told.append(
            f"{_images(counts.groups)} have a group as truth: judged at the level of the answer only."
        )
    if found.single is not None:
        told += _single_notes(found, found.single)
    if found.multi is not None and not found.multi.resamples:
        told.append("There are too many images and labels for bootstrap intervals here.")
    return told


def _single_notes(found: SetEvaluation, single: SingleFigures) -> list[str]:
    told = []
    if single.top5 is None:
        told.append(f"Top-5 says nothing of a set of {found.classes}: five or fewer classes.")
    never = found.classes - sum(1 for one in single.per_class if one.images)
    if never:
        told.append(f"No image here for {never:,} of the set's {found.classes:,} classes.")
    if single.answers is not None:
        answers = single.answers
        told.append(
            f"Answers by the set's thresholds: {answers.leaf:,} a class ({answers.right_leaf:,} right), "
            f"{answers.group:,} a group ({answers.right_group:,} right), {answers.abstained:,} none."
        )
    return told


def verdicts(found: SetEvaluation) -> list[str]:
    """The comparisons and the few-shot account, one sentence each."""
    told = [sentence(found.tag, one) for one in found.comparisons]
    few = found.few_shot
    if few is not None:
        told.append(few.sentence)
        told += few_shot_notes(few)
    return told


def few_shot_notes(few: FewShot) -> list[str]:
    """How the few-shot comparison was made, and what it could not do."""
    told = [
        f"Both choose among {len(few.classes)} classes on the same {few.test_images:,} test images; zero-shot "
        f"among all classes of the set: {percent(few.zero_shot_all.value)}."
    ]
    for point in few.points:
        if len(point.accuracies) == 1 and len(few.points[0].accuracies) > 1:
            told.append(f"{_shots(point.shots)}: every class gives all its images, so there is one draw.")
        if point.short:
            told.append(
                f"{_shots(point.shots)}: {len(point.short)} of {len(few.classes)} classes have fewer images to "
                f"train on and gave all they have ({_some(point.short)})."
            )
        if point.unconverged:
            told.append(
                f"{_shots(point.shots)}: {point.unconverged} of {len(point.c)} probes did not converge."
            )
    if few.skipped:
        told.append(f"No class has {' or '.join(map(str, few.skipped))} images to train on.")
    if few.left_out:
        told.append(f"Left out, with one image only: {_some(few.left_out)}.")
    return told


def tables(found: SetEvaluation) -> list[Table]:
    """The tables that the command prints."""
    rows = tuple(
        (name, percent(figure.value), ends(figure.wilson), ends(figure.bootstrap), _counted(figure))
        for name, figure in figures_of(found)
    )
    head = (f"{found.tag}, {found.classes} classes", "value", "95% Wilson", "95% bootstrap", "images")
    made = [Table(title="", head=head, rows=rows), class_table(found, most=_MOST_ROWS)]
    if found.single is not None and found.single.confused:
        made.append(confused_table(found.single, most=_MOST_PAIRS))
    if found.few_shot is not None:
        made.append(few_shot_table(found.few_shot))
    return made


def class_table(found: SetEvaluation, *, most: int | None = None) -> Table:
    """Each class or label; of more than `most` the half of `most` that have the lowest F1."""
    precisions: dict[str, str] = {}
    classes: Sequence[ClassFigures] = found.single.per_class if found.single else ()
    head: tuple[str, ...] = ("class", "images", "named", "precision", "recall", "95% Wilson", "F1")
    if found.multi is not None:
        classes = [one.figures for one in found.multi.per_label]
        precisions = {one.figures.label: percent(one.average_precision) for one in found.multi.per_label}
        head = ("label", *head[1:], "average precision")
    shown, title = list(classes), "each class"
    if most is not None and len(classes) > most:
        with_images = [one for one in classes if one.images]
        shown = sorted(with_images, key=lambda one: (one.f1 or 0.0, one.label))[: most // 2]
        title = f"the {len(shown)} classes of lowest F1, of {len(classes)}"
    rows = tuple((*_class_row(one), *([precisions[one.label]] if precisions else [])) for one in shown)
    return Table(title=title, head=head, rows=rows)


def confused_table(single: SingleFigures, *, most: int) -> Table:
    """The most confused pairs of classes."""
    rows = tuple((one.truth, one.named, f"{one.images:,}", f"{one.of:,}") for one in single.confused[:most])
    return Table(title="most confused", head=("truth", "named", "images", "of"), rows=rows)


def few_shot_table(few: FewShot) -> Table:
    """The curve of the probes, and zero-shot."""
    rows = [
        (
            str(point.shots),
            percent(point.mean),
            ends(point.interval),
            " ".join(f"{100 * one:.1f}" for one in point.accuracies),
            " ".join(f"{one:g}" for one in sorted(set(point.c))),
        )
        for point in few.points
    ]
    rows.append(("zero-shot", percent(few.zero_shot.value), ends(few.zero_shot.wilson), "", ""))
    head = ("shots a class", "accuracy", "95%", "draws", "C")
    return Table(title="linear probe on the stored embeddings", head=head, rows=tuple(rows))


def _class_row(one: ClassFigures) -> tuple[str, ...]:
    counts = (one.label, f"{one.images:,}", f"{one.named:,}")
    return (*counts, percent(one.precision), percent(one.recall), ends(one.recall_wilson), percent(one.f1))


def to_json(value: object) -> Any:
    """Figures as JSON values: dataclasses as objects, a reliability diagram as its bins.

    >>> to_json(Figure(value=0.5, right=1, of=2))["right"]
    1
    """
    if isinstance(value, Reliability):
        return to_json(value.bins())
    if isinstance(value, Counter):
        return dict(value.most_common(_MOST_NAMES))
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _counted(figure: Figure) -> str:
    if figure.of is None:
        return ""
    return f"{figure.of:,}" if figure.right is None else f"{figure.right:,} of {figure.of:,}"


def _shots(count: int) -> str:
    return f"{count} shot{'' if count == 1 else 's'}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
