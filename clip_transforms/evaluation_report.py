"""The page that `beamclip evaluate` writes: one self-contained HTML file with tables, confusion and the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from clip_transforms.evaluation import Evaluation, Share
from clip_transforms.few_shot import ShotResult

MOST_CLASSES = 60  # in the confusion table; more cannot be read
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) td { background: #f6f6f6 }
.confusion td { min-width: 1.4rem; text-align: center; padding: .1rem } .confusion th { font-weight: normal }
.confusion th.column { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left }
.scroll { overflow-x: auto } figure { margin: 1rem 0 }
"""


def percent(share: Share) -> str:
    """A share with its interval.

    >>> percent(Share(value=0.75, low=0.7, high=0.8))
    '75.0 % [70.0, 80.0]'
    """
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def render_report(
    result: Evaluation,
    *,
    title: str,
    facts: Mapping[str, Any],
    curve: Sequence[ShotResult],
    verdicts: Sequence[str],
) -> str:
    """The page as text. facts and verdicts are shown as they are, escaped."""
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    said = "".join(f"<li>{escape(one)}</li>" for one in verdicts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><table>{rows}</table><ul>{said}</ul>"
        f"{_curve_section(curve)}<h2>Each class</h2>{_class_table(result)}"
        f"<h2>Confusion</h2>{_confusion(result)}</html>\n"
    )


def _class_table(result: Evaluation) -> str:
    head = "<tr><th>class</th><th>images</th><th>top-1</th><th>top-5</th><th>precision</th></tr>"
    rows = []
    for one in sorted(result.per_class, key=lambda one: (one.top1, one.label)):
        if not one.images:
            continue
        precision = "" if one.precision is None else f"{100 * one.precision:.0f} %"
        rows.append(
            f"<tr><td>{escape(one.label)}</td><td>{one.images}</td><td>{100 * one.top1:.0f} %</td>"
            f"<td>{100 * one.top5:.0f} %</td><td>{precision}</td></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _confusion(result: Evaluation) -> str:
    if len(result.classes) > MOST_CLASSES:
        pairs = [
            (count, result.classes[i], result.classes[j])
            for i, row in enumerate(result.confusion)
            for j, count in enumerate(row)
            if count and i != j
        ]
        worst = sorted(pairs, reverse=True)[:30]
        items = "".join(f"<li>{count} of {escape(a)} named {escape(b)}</li>" for count, a, b in worst)
        return f"<p>{len(result.classes)} classes: the 30 commonest mistakes.</p><ol>{items}</ol>"
    head = "".join(f'<th class="column">{escape(name)}</th>' for name in result.classes)
    body = []
    for name, row in zip(result.classes, result.confusion, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td style="{_shade(count / total)}">{count or ""}</td>' for count in row)
        body.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    caption = "<p>Rows are what an image is, columns what it was named.</p>"
    rows = f"<tr><th></th>{head}</tr>{''.join(body)}"
    return f'{caption}<div class="scroll"><table class="confusion">{rows}</table></div>'


def _shade(share: float) -> str:
    return f"background: rgba(31, 111, 180, {share:.2f}); color: {'white' if share > 0.6 else '#222'}"


def _curve_section(curve: Sequence[ShotResult]) -> str:
    if not curve:
        return ""
    rows = "".join(
        f"<tr><td>{one.shots}</td><td>{one.classes}</td><td>{100 * one.accuracy:.1f} %</td>"
        f"<td>{100 * one.low:.1f} to {100 * one.high:.1f} %</td><td>{100 * one.zero_shot:.1f} %</td></tr>"
        for one in curve
    )
    head = "<tr><th>shots</th><th>classes</th><th>probe</th><th>range over draws</th><th>zero-shot</th></tr>"
    return f"<h2>Few-shot probe against zero-shot</h2><figure>{plot_shots(curve)}</figure><table>{head}{rows}</table>"


def plot_shots(curve: Sequence[ShotResult]) -> str:
    """An SVG of the probe's accuracy over the shots (their range shaded), and zero-shot as a dashed line.

    >>> one = ShotResult(shots=1, classes=3, accuracy=0.5, low=0.4, high=0.6, zero_shot=0.7)
    >>> plot_shots([one]).count("<polyline")
    2
    """
    width, height, left, bottom = 560, 300, 56, 40
    step = (width - left - 20) / max(1, len(curve) - 1)
    xs = [left + 10 + k * step for k in range(len(curve))]

    def y(share: float) -> float:
        return height - bottom - (height - bottom - 16) * share

    def line(values: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y(v):.1f}" for x, v in zip(xs, values, strict=True))

    grid = "".join(
        f'<line x1="{left}" x2="{width - 8}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#e4e4e4"/>'
        f'<text x="{left - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    ticks = "".join(
        f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{one.shots}</text>'
        for x, one in zip(xs, curve, strict=True)
    )
    band = f"{line([one.high for one in curve])} " + " ".join(
        reversed(line([one.low for one in curve]).split())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">{grid}{ticks}'
        f'<polygon points="{band}" fill="#1f6fb4" opacity="0.18"/>'
        f'<polyline points="{line([one.accuracy for one in curve])}" fill="none" stroke="#1f6fb4" stroke-width="2"/>'
        f'<polyline points="{line([one.zero_shot for one in curve])}" fill="none" stroke="#c2452f" '
        f'stroke-dasharray="6 4"/><text x="{width / 2}" y="{height - 6}" text-anchor="middle">'
        "labelled images a class; probe (line, range shaded), zero-shot (dashed)</text></svg>"
    )
