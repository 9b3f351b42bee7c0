"""The training curve as a picture of its own (SVG), with no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 400, 60, 44, 36


def plot_curve(history: Sequence[Mapping[str, float]], *, title: str) -> str:
    """An SVG of the loss over the steps, with the learning rate (dashed) on a scale of its own.

    history: rows with `step`, `loss` and `rate`. One point, or none, is drawn without a line.

    >>> plot_curve([{"step": 1, "loss": 2.0, "rate": 0.1}], title="t").startswith("<svg")
    True
    """
    steps = [row["step"] for row in history] or [0.0]
    losses = [row["loss"] for row in history] or [0.0]
    rates = [row["rate"] for row in history] or [0.0]
    low, high = min(losses), max(losses)
    last = max(steps) or 1
    ticks = []
    for k in range(5):
        value, at = low + (high - low) * k / 4, last * k / 4
        y, x = _y(value, low, high), _x(at, last)
        ticks.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        ticks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        ticks.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{at:,.0f}</text>')
    loss_line = _line(steps, losses, last, low, high)
    rate_line = _line(steps, rates, last, 0.0, max(rates) or 1.0)
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="20" font-size="15">{safe}</text>',
            *ticks,
            f'<polyline points="{rate_line}" fill="none" stroke="#b0b0b0" stroke-dasharray="5 4"/>',
            f'<polyline points="{loss_line}" fill="none" stroke="#1f6fb4" stroke-width="2"/>',
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>',
            f'<text x="{WIDTH - 16}" y="20" text-anchor="end">loss (line), learning rate (dashed)</text>',
            "</svg>",
            "",
        ]
    )


def _x(step: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - 16) * step / last


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


def _line(steps: Sequence[float], values: Sequence[float], last: float, low: float, high: float) -> str:
    pairs = zip(steps, values, strict=True)
    return " ".join(f"{_x(step, last):.1f},{_y(value, low, high):.1f}" for step, value in pairs)
