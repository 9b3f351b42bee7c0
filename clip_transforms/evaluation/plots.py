"""The plots of an evaluation as SVG, with no plotting library: reliability, and few-shot against zero-shot."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

from clip_transforms.evaluation.metrics import Bin
from clip_transforms.evaluation.shots import FewShot

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 34, 46
#: The colours of a page's theme, each with what a file of its own shows.
_INK, _MUTED, _LINE = "var(--ink, #1c1d1f)", "var(--muted, #5d6166)", "var(--line, #dfddd5)"
_BAR, _WARM, _PAPER = "var(--bar, #2f8573)", "var(--warm, #a05a00)", "var(--paper, #ffffff)"


class _Frame:
    """A square of shares or a strip of shots, in SVG units; collects what is drawn."""

    def __init__(self, width: int, height: int, *, title: str) -> None:
        self.width, self.height = width, height
        self._title = title
        self._parts: list[str] = []

    def x(self, share: float) -> float:
        """0..1 to SVG units."""
        return round(_LEFT + (self.width - _LEFT - _RIGHT) * share, 2)

    def y(self, share: float) -> float:
        """0..1 to SVG units, upwards."""
        return round(self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * share, 2)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, stroke: str, more: str = "") -> None:
        """A line between two points in SVG units."""
        self._parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" style="stroke:{stroke}" {more}/>')

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str, opacity: float) -> None:
        """A filled box, its corner at the top left."""
        box = f'x="{x}" y="{y}" width="{width:.2f}" height="{height:.2f}"'
        self._parts.append(f'<rect {box} style="fill:{fill}" fill-opacity="{opacity:.2f}"/>')

    def text(self, x: float, y: float, words: str, *, anchor: str = "middle", fill: str = _MUTED) -> None:
        """Some words."""
        self._parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" style="fill:{fill}">{escape(words)}</text>'
        )

    def path(self, points: Sequence[tuple[float, float]], *, stroke: str) -> None:
        """A line through points, with a dot on each."""
        joined = " ".join(f"{x},{y}" for x, y in points)
        self._parts.append(f'<polyline points="{joined}" style="fill:none;stroke:{stroke};stroke-width:2"/>')
        self._parts += [f'<circle cx="{x}" cy="{y}" r="3.5" style="fill:{stroke}"/>' for x, y in points]

    def shares(self) -> None:
        """The grid of the upward axis, in percent."""
        for quarter in range(5):
            at = self.y(quarter / 4)
            self.line(self.x(0), at, self.x(1), at, stroke=_LINE)
            self.text(self.x(0) - 7, at + 4, f"{25 * quarter}%", anchor="end")

    def svg(self) -> str:
        """The finished picture; it can stand in a page or be a file."""
        label = escape(self._title, {'"': "&quot;"})
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
                f'aria-label="{label}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">',
                f'<rect width="{self.width}" height="{self.height}" style="fill:{_PAPER}"/>',
                *self._parts,
                "</svg>",
                "",
            ]
        )


def alone(svg: str) -> str:
    """The picture as a file of its own: the colours of a page's theme replaced by plain ones.

    >>> alone('style="fill:var(--paper, #ffffff)"')
    'style="fill:#ffffff"'
    """
    return re.sub(r"var\(--\w+, (#[0-9a-f]+)\)", r"\1", svg)


def reliability_svg(bins: Sequence[Bin]) -> str:
    """Accuracy (bars) against mean confidence (ticks) of each bin; the diagonal is perfect calibration.

    Bars are the fainter the fewer images they stand for.

    >>> reliability_svg([Bin(low=0.0, high=1.0, images=4, confidence=0.9, accuracy=0.75)]).count("<rect")
    2
    """
    most = max((one.images for one in bins), default=0)
    frame = _Frame(380, 380, title="Reliability diagram: accuracy against confidence")
    frame.shares()
    for one in bins:
        if one.accuracy is None or one.confidence is None:
            continue
        faint = 0.25 + 0.75 * math.sqrt(one.images / most)
        left, width = frame.x(one.low) + 1, frame.x(one.high) - frame.x(one.low) - 2
        top = frame.y(one.accuracy)
        height = max(1.0, frame.y(0) - top)
        frame.rect(left, frame.y(0) - height, width, height, fill=_BAR, opacity=faint)
        at = frame.y(one.confidence)
        frame.line(left, at, round(left + width, 2), at, stroke=_WARM, more='stroke-width="2.5"')
    frame.line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), stroke=_MUTED, more='stroke-dasharray="4 4"')
    for quarter in range(5):
        frame.text(frame.x(quarter / 4), frame.y(0) + 18, f"{quarter / 4:g}")
    frame.text(frame.x(0.5), frame.height - 8, "confidence")
    frame.text(frame.x(0), 18, "accuracy (bars), mean confidence (ticks)", anchor="start", fill=_INK)
    return frame.svg()


def few_shot_svg(found: FewShot, *, title: str) -> str:
    """Test accuracy over the shots, in steps of a factor of two, against zero-shot with its Wilson interval."""
    frame = _Frame(640, 380, title=f"{title}. {found.sentence}")
    frame.shares()
    first, last = (math.log2(found.points[place].shots) for place in (0, -1))

    def place(shots: int) -> float:
        return frame.x(0.5 if last == first else 0.06 + 0.88 * (math.log2(shots) - first) / (last - first))

    level = frame.y(found.zero_shot.value or 0.0)
    if found.zero_shot.wilson is not None:
        low, high = (frame.y(end) for end in found.zero_shot.wilson)
        frame.rect(frame.x(0), high, frame.x(1) - frame.x(0), low - high, fill=_WARM, opacity=0.14)
    frame.line(
        frame.x(0), level, frame.x(1), level, stroke=_WARM, more='stroke-width="2" stroke-dasharray="7 4"'
    )
    frame.text(
        frame.x(0) + 4, level - 6, f"zero-shot {found.zero_shot.value or 0:.1%}", anchor="start", fill=_WARM
    )
    for point in found.points:
        at = place(point.shots)
        if point.interval is not None:
            low, high = (frame.y(end) for end in point.interval)
            frame.line(at, low, at, high, stroke=_BAR, more='stroke-width="1.5"')
        frame.text(at, frame.y(0) + 18, str(point.shots))
    frame.path([(place(point.shots), frame.y(point.mean)) for point in found.points], stroke=_BAR)
    frame.text(frame.x(0.5), frame.height - 8, "labelled images a class that the linear probe is trained on")
    draws = max(len(point.accuracies) for point in found.points)
    of_draws = f", mean of {draws} draws" if draws > 1 else ""
    words = f"{title}: accuracy on {found.test_images:,} test images{of_draws}"
    frame.text(frame.x(0), 18, words, anchor="start", fill=_INK)
    return frame.svg()
