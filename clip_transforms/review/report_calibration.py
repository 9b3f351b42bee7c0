"""What the report shows of a calibrated set: reliability before and after, and precision over what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clip_transforms.calibration import Calibration, calibration_name, read_calibration
from clip_transforms.evaluation.metrics import BINS
from clip_transforms.labelsets import read_label_set
from clip_transforms.review.report_histogram import Bar, Tick

if TYPE_CHECKING:
    from clip_transforms.storage import Store

MOST_CURVES = 12  # of a set with a cut for each class, those with the largest audits
_WIDTH, _HEIGHT = 400, 220  # of a plot's box, in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 38
_SPAN, _TALL = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The geometry of one plot; a template draws it. words: it, for those who cannot see it."""

    title: str
    note: str
    words: str
    x_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...] = ()
    steps: tuple[tuple[float, float, float], ...] = ()  # from x to x, at y: mean confidences
    lines: tuple[tuple[str, str], ...] = ()  # class, the points of a polyline
    target: Tick | None = None
    mark: Tick | None = None
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    base: int = _HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationView:
    """What a calibrated set's part of the page shows. notes: sentences on the audit."""

    base: str
    temperature: str
    sentence: str
    notes: tuple[str, ...]
    reliability: tuple[Plot, ...]
    curves: tuple[Plot, ...]
    more: int  # curves that are not shown


def calibration_view(store: Store, tag: str) -> CalibrationView | None:
    """The view of one set; None where it is not calibrated, or not by `beamclip calibrate`."""
    if not store.exists(f"text/{tag}.json") or not read_label_set(store, tag).calibration:
        return None
    if not store.exists(calibration_name(tag)):
        return None
    calibration = read_calibration(store, tag)
    figures = calibration.figures
    if not {"claim", "audit", "walks", "temperature"} <= figures.keys():
        return None
    walks = sorted(figures["walks"], key=lambda walk: -walk["labelled"])
    shown = [walk for walk in walks if walk["points"]]
    audit = int(figures["audit"]["images"])
    fit = figures["temperature"]
    return CalibrationView(
        base=calibration.base,
        temperature=f"{calibration.temperature:g}",
        sentence=_sentence(calibration, figures),
        notes=tuple(_notes(figures["audit"])),
        reliability=(
            ()
            if fit is None
            else (
                _reliability("Before", "scores as they are stored", fit["before"]),
                _reliability("After", "at the temperature, cross-validated", fit["after"]),
            )
        ),
        curves=tuple(_curve(walk, figures["claim"], audit=audit) for walk in shown[:MOST_CURVES]),
        more=max(0, len(shown) - MOST_CURVES),
    )


def _sentence(calibration: Calibration, figures: Mapping[str, Any]) -> str:
    """What is promised."""
    claim = figures["claim"]
    if not claim["accept"]:
        return "Only a temperature was asked for: no label is accepted unseen."
    count = sum(figures["accepted"].values())
    share = (
        f"{count:,} of {figures['rows']:,} images ({count / max(1, figures['rows']):.1%}) are accepted unseen"
    )
    promise = f"at confidence {claim['confidence']:g} at least {claim['target']:.4g} of"
    if claim["per_class"]:
        return f"{share}; {promise} those of each of {len(calibration.accept)} labels are right."
    return f"{share}; {promise} them are right."


def _notes(audit: Mapping[str, int]) -> list[str]:
    words = {
        "unreviewed": "not reviewed, counted as wrong",
        "disputed": "disputed among their reviewers, counted as wrong",
        "skipped": "not reviewed and left out, which the promise allows only if they are a random part",
        "outdated": "left out: the run had fewer images when they were drawn",
        "trained_on": "left out: the set's probe has learnt from them",
        "loose": "of no queue that the run keeps",
    }
    told = [f"{audit['images']:,} images drawn at random"]
    return told + [f"{audit[name]:,} {text}" for name, text in words.items() if audit.get(name)]


def _reliability(title: str, note: str, fit: Mapping[str, Any]) -> Plot:
    """Accuracy (bars) and mean confidence (steps) of each of the equal bins; the diagonal is perfect."""
    bars, steps = [], []
    for place, (images, confidence, accuracy) in enumerate(fit["bins"]):
        if not images:
            continue
        left, right = _x(place / BINS), _x((place + 1) / BINS)
        top = min(_y(accuracy), _HEIGHT - _BOTTOM - 1.0)
        text = f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}: {accuracy:.1%} right of {images:,}"
        bars.append(
            Bar(
                x=round(left + 0.5, 2),
                y=top,
                width=round(right - left - 1, 2),
                height=round(_HEIGHT - _BOTTOM - top, 2),
                text=text,
            )
        )
        steps.append((left, right, _y(confidence)))
    error = f"calibration error {fit['error']:.1%}, log-loss {fit['nll']:.3f}"
    return Plot(
        title=title,
        note=f"{note}: {error}",
        words=f"Reliability {title.lower()}: {error}",
        x_title="confidence; bars: the share that is right, marks: mean confidence",
        x_ticks=_quarters(),
        y_ticks=tuple(Tick(at=_y(part / 4), text=f"{25 * part}%") for part in range(5)),
        bars=tuple(bars),
        steps=tuple(steps),
        lines=(("ideal", _points([(0.0, 0.0), (1.0, 1.0)])),),
    )


def _curve(walk: Mapping[str, Any], claim: Mapping[str, Any], *, audit: int) -> Plot:
    """Precision seen in the audit, and its lower bound, over the share of the audit that a cut accepts."""
    points = walk["points"]
    seen = [(accepted / audit, right / accepted) for _, accepted, right, _ in points]
    bound = [(accepted / audit, lower) for _, accepted, _, lower in points]
    step, low = _scale(min(claim["target"], *(share for _, share in bound)))
    wide = math.ceil(20 * points[-1][1] / audit) / 20
    chosen = None if walk["chosen"] is None else points[walk["chosen"]]
    name = walk["label"]
    told = "no cut passed"
    if chosen:
        told = f"cut at {chosen[0]:.6g}: {chosen[2]:,} of {chosen[1]:,} right, at least {chosen[3]:.2%}"

    def at(pairs: Sequence[tuple[float, float]]) -> str:
        return _points([(share / wide, (value - low) / (1 - low)) for share, value in pairs])

    levels = [low + part * step for part in range(round((1 - low) / step) + 1)]
    return Plot(
        title="Precision over what is accepted" if name is None else str(name),
        note=told,
        words=f"Precision over the share accepted{'' if name is None else f' of {name}'}: {told}",
        x_title="share of the audit accepted, the surest first",
        x_ticks=_quarters(wide),
        y_ticks=tuple(Tick(at=_y((level - low) / (1 - low)), text=f"{level:.4g}") for level in levels),
        lines=(("seen", at(seen)), ("bound", at(bound))),
        target=Tick(at=_y((claim["target"] - low) / (1 - low)), text=f"target {claim['target']:g}"),
        mark=Tick(at=_x(chosen[1] / audit / wide), text="accepted") if chosen else None,
    )


def _scale(lowest: float) -> tuple[float, float]:
    """The step of an axis that ends at 1, and where it begins: at most six marks.

    >>> _scale(0.947), _scale(0.62)
    ((0.02, 0.94), (0.1, 0.6))
    """
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (1 - lowest) / step <= 5)
    return step, round(1 - step * math.ceil((1 - lowest) / step - 1e-9), 6)


def _quarters(wide: float = 1.0) -> tuple[Tick, ...]:
    return tuple(Tick(at=_x(part / 4), text=f"{wide * part / 4:.3g}") for part in range(5))


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    """A polyline through shares of both axes.

    >>> _points([(0.0, 0.0), (1.0, 1.0)])
    '44.0,182.0 392.0,12.0'
    """
    return " ".join(f"{_x(x)},{_y(y)}" for x, y in pairs)


def _x(share: float) -> float:
    return round(_LEFT + _SPAN * share, 2)


def _y(share: float) -> float:
    return round(_HEIGHT - _BOTTOM - _TALL * share, 2)
