"""A small drawing surface: smooth shapes in two styles, flat and shaded with an ink outline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

Point = tuple[float, float]
SCALE = 6  # canvas pixels a unit; a canvas is 100 units wide and high
INK = "#2b2530"


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 12) -> list[Point]:
    """A Catmull-Rom curve through the points.

    >>> len(smooth([(0, 0), (1, 0), (1, 1)], steps=4))
    12
    """
    count = len(points)
    out: list[Point] = []
    for i in range(count if closed else count - 1):
        p = [
            points[(i + k) % count] if closed else points[min(max(i + k, 0), count - 1)]
            for k in (-1, 0, 1, 2)
        ]
        for step in range(steps):
            t = step / steps
            out.append(
                tuple(  # type: ignore[arg-type]
                    0.5
                    * (
                        2 * p[1][a]
                        + (p[2][a] - p[0][a]) * t
                        + (2 * p[0][a] - 5 * p[1][a] + 4 * p[2][a] - p[3][a]) * t * t
                        + (3 * p[1][a] - p[0][a] - 3 * p[2][a] + p[3][a]) * t * t * t
                    )
                    for a in (0, 1)
                )
            )
    if not closed:
        out.append(points[-1])
    return out


def ellipse_points(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> list[Point]:
    """60 points of an ellipse turned by `angle` degrees."""
    turn = math.radians(angle)
    out = []
    for step in range(60):
        a = 2 * math.pi * step / 60
        x, y = rx * math.cos(a), ry * math.sin(a)
        out.append(
            (cx + x * math.cos(turn) - y * math.sin(turn), cy + x * math.sin(turn) + y * math.cos(turn))
        )
    return out


class Sketch:
    """A 100 by 100 canvas; every shape is filled, and in the ink style also shaded and outlined."""

    def __init__(self, background: tuple[str, str], *, ink: bool) -> None:
        side = 100 * SCALE
        self.ink = ink
        top, bottom = (np.array(ImageColor.getrgb(colour), np.float32) for colour in background)
        blend = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
        rows = top * (1 - blend) + bottom * blend
        self.pixels = np.broadcast_to(rows, (side, side, 3)).copy()

    def shape(self, points: Sequence[Point], fill: str, *, outline: bool = True) -> None:
        """Fills a polygon."""
        side = 100 * SCALE
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(scaled, fill=255)
        alpha = np.asarray(mask, np.float32)[..., None] / 255
        colour = np.broadcast_to(np.array(ImageColor.getrgb(fill), np.float32), self.pixels.shape)
        if self.ink:
            xs, ys = [p[0] for p in scaled], [p[1] for p in scaled]
            across = (np.arange(side) - min(xs)) / max(max(xs) - min(xs), 1)
            down = (np.arange(side) - min(ys)) / max(max(ys) - min(ys), 1)
            light = 1.16 - 0.34 * np.clip(0.4 * across[None, :] + 0.6 * down[:, None], 0, 1)
            colour = np.clip(colour * light[..., None], 0, 255)
        self.pixels = self.pixels * (1 - alpha) + colour * alpha
        if self.ink and outline:
            self.line([*points, points[0]], 1.3, INK)

    def oval(
        self, centre: Point, radii: Point, fill: str, *, angle: float = 0.0, outline: bool = True
    ) -> None:
        """Fills an ellipse."""
        self.shape(ellipse_points(*centre, *radii, angle), fill, outline=outline)

    def blob(self, points: Sequence[Point], fill: str, *, outline: bool = True) -> None:
        """Fills a smooth closed curve through the points."""
        self.shape(smooth(points), fill, outline=outline)

    def box(self, corner: Point, opposite: Point, fill: str, *, outline: bool = True) -> None:
        """Fills a rectangle."""
        (x0, y0), (x1, y1) = corner, opposite
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline=outline)

    def line(self, points: Sequence[Point], width: float, fill: str) -> None:
        """Draws a line with round joints."""
        side = 100 * SCALE
        mask = Image.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        draw.line(scaled, fill=255, width=max(1, round(width * SCALE)), joint="curve")
        radius = width * SCALE / 2
        for x, y in (scaled[0], scaled[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        alpha = np.asarray(mask, np.float32)[..., None] / 255
        self.pixels = self.pixels * (1 - alpha) + np.array(ImageColor.getrgb(fill), np.float32) * alpha

    def image(self, size: int, *, angle: float = 0.0, mirror: bool = False) -> Image.Image:
        """The picture, reduced to size by size pixels."""
        image = Image.fromarray(self.pixels.round().astype(np.uint8), "RGB")
        if mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if angle:
            corner = image.getpixel((0, 0))
            image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=corner)
        return image.resize((size, size), Image.Resampling.LANCZOS)
