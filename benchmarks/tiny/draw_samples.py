"""Draws the sample images of the package: `python -m benchmarks.tiny.draw_samples --output DIR [--seed 7]`.

Eighteen everyday things, each once flat and once shaded with an ink outline. They are original drawings,
given to the public domain (CC0 1.0), and no model is trained on them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.tiny.sketch import Sketch, smooth

SIZE = 192  # pixels
PAPERS = ["#fdf3df", "#e3f1fb", "#eef7e4", "#f9e7ee", "#f2ecfb", "#ffffff"]
SKIES = [("#bfe3f7", "#eaf6e0"), ("#fde7c4", "#fff7ea"), ("#d9e7f5", "#f7f2ea"), ("#dff2ea", "#ffffff")]


def apple(s: Sketch, v: int) -> None:
    body = ["#d8342c", "#7fb73a"][v]
    s.blob(
        [
            (50, 32),
            (62, 25),
            (78, 31),
            (83, 50),
            (75, 73),
            (61, 85),
            (50, 81),
            (39, 85),
            (25, 73),
            (17, 50),
            (22, 31),
            (38, 25),
        ],
        body,
    )
    s.line(smooth([(50, 35), (50, 24), (55, 13)], closed=False), 4, "#6b4426")
    s.blob([(54, 22), (64, 11), (80, 11), (72, 22)], ["#4f9a3a", "#3e7d2f"][v])
    s.oval((33, 42), (4, 8), ["#f08a80", "#c2e58a"][v], angle=25, outline=False)


def cherries(s: Sketch, v: int) -> None:
    red = ["#c81d32", "#a3142b"][v]
    s.line(smooth([(33, 60), (40, 36), (60, 14)], closed=False), 3, "#5a8a2c")
    s.line(smooth([(68, 64), (68, 38), (60, 14)], closed=False), 3, "#5a8a2c")
    s.blob([(60, 15), (72, 7), (91, 14), (77, 24)], "#5fae3a")
    for x, y in ((31, 70), (69, 74)):
        s.oval((x, y), (18, 17), red)
        s.oval((x - 6, y - 6), (4, 5), "#f5a3aa", angle=30, outline=False)


def banana(s: Sketch, v: int) -> None:
    yellow = ["#f6cf32", "#eebf1c"][v]
    s.blob(
        [
            (82, 16),
            (87, 17),
            (88, 32),
            (80, 55),
            (62, 75),
            (38, 84),
            (16, 79),
            (13, 73),
            (32, 69),
            (52, 58),
            (68, 42),
            (78, 25),
        ],
        yellow,
    )
    s.shape([(81, 17), (80, 8), (87, 7), (88, 18)], "#7a5a24")
    s.oval((14, 76), (3, 3.5), "#5a4020", outline=False)
    s.line(smooth([(82, 30), (72, 51), (54, 67), (26, 76)], closed=False), 1.6, "#c79a1b")


def carrot(s: Sketch, v: int) -> None:
    for dx, dy in ((-14, -4), (0, -12), (13, -3)):
        s.blob(
            [(66, 34), (66 + dx, 30 + dy), (74 + dx, 12 + dy), (80 + dx * 0.5, 22 + dy), (72, 34)],
            ["#4fa83d", "#3f8f3f"][v],
        )
    s.blob(
        [(56, 32), (66, 28), (76, 36), (74, 46), (52, 68), (20, 91), (14, 88), (34, 58)],
        ["#f28a22", "#e8761a"][v],
    )
    for x0, y0, x1, y1 in (
        (52, 41, 59, 45),
        (66, 51, 59, 48),
        (40, 56, 47, 60),
        (50, 66, 45, 63),
        (31, 70, 36, 73),
    ):
        s.line([(x0, y0), (x1, y1)], 1.8, "#b8590e")


def pizza(s: Sketch, v: int) -> None:
    if v == 0:  # a slice
        s.shape([(14, 28), (86, 28), (50, 92)], "#f7cf5a")
        s.blob([(9, 26), (24, 16), (50, 12), (76, 16), (91, 26), (85, 33), (50, 27), (15, 33)], "#c9843c")
        spots: Sequence[tuple[float, float, float]] = ((36, 41, 8), (62, 44, 8), (49, 64, 7))
    else:  # a whole one
        s.oval((50, 50), (41, 41), "#c9843c")
        s.oval((50, 50), (35, 35), "#f7cf5a")
        for k in range(4):
            a = math.pi * k / 4
            s.line(
                [
                    (50 - 40 * math.cos(a), 50 - 40 * math.sin(a)),
                    (50 + 40 * math.cos(a), 50 + 40 * math.sin(a)),
                ],
                1.2,
                "#b3742f",
            )
        spots = [
            (50 + 23 * math.cos(a), 50 + 23 * math.sin(a), 6.0)
            for a in (0.4, 1.2, 2.0, 2.8, 3.5, 4.3, 5.1, 5.9)
        ]
    for x, y, r in spots:
        s.oval((x, y), (r, r), "#c8382c")
    for x, y in ((48, 50), (60, 57), (41, 54), (53, 36)):
        s.oval((x, y), (2.6, 1.6), "#4d8a3a", angle=30, outline=False)


def cake(s: Sketch, v: int) -> None:
    s.oval((50, 86), (42, 6), "#d5dbe0")
    s.box((18, 48), (82, 85), ["#a8653a", "#f0c987"][v])
    s.box((18, 63), (82, 68), ["#f6e3cf", "#e2617a"][v], outline=False)
    cream = ["#f7a8c0", "#fdf6ee"][v]
    s.blob(
        [
            (16, 46),
            (50, 42),
            (84, 46),
            (84, 56),
            (77, 60),
            (70, 55),
            (62, 61),
            (54, 55),
            (46, 61),
            (38, 55),
            (30, 60),
            (22, 55),
            (16, 56),
        ],
        cream,
    )
    for x in (32, 50, 68):
        s.box((x - 2, 27), (x + 2, 46), ["#5aa7d8", "#e2617a"][v])
        s.blob([(x, 13), (x + 4, 21), (x, 27), (x - 4, 21)], "#fbb52a")


def mushroom(s: Sketch, v: int) -> None:
    s.blob([(40, 50), (60, 50), (62, 70), (67, 88), (50, 92), (33, 88), (38, 70)], "#f5ead7")
    s.blob(
        [(9, 54), (14, 34), (32, 17), (50, 13), (68, 17), (86, 34), (91, 54), (70, 59), (50, 60), (30, 59)],
        ["#d93a2b", "#b5763c"][v],
    )
    for x, y, r in ((50, 26, 7), (28, 38, 6), (71, 38, 6), (46, 47, 5), (80, 50, 3.5), (20, 51, 3)):
        s.oval((x, y), (r, r * 0.85), ["#fff6ec", "#e2b887"][v], outline=False)


def tree(s: Sketch, v: int) -> None:
    s.shape([(44, 92), (46, 58), (54, 58), (57, 92)], "#80532e")
    if v == 0:  # a broad crown
        for x, y, r in ((34, 48, 20), (66, 48, 20), (38, 30, 19), (62, 30, 19), (50, 40, 22)):
            s.oval((x, y), (r, r), "#57a642")
    else:  # a fir
        for top, half, bottom in ((40, 32, 76), (24, 26, 56), (8, 19, 37)):
            s.shape([(50, top), (50 + half, bottom), (50 - half, bottom)], "#2f8048")


def flower(s: Sketch, v: int) -> None:
    s.line(smooth([(50, 45), (52, 70), (49, 95)], closed=False), 3.6, "#4d9440")
    s.blob([(51, 80), (62, 66), (78, 65), (68, 79)], "#5cab48")
    s.blob([(50, 88), (38, 73), (22, 73), (33, 87)], "#5cab48")
    petals, colour = [(8, "#f48fb5"), (12, "#ffffff")][v]
    for k in range(petals):
        a = 2 * math.pi * k / petals
        s.oval(
            (50 + 19 * math.cos(a), 38 + 19 * math.sin(a)),
            (14, 6 if v else 8.5),
            colour,
            angle=math.degrees(a),
        )
    s.oval((50, 38), (10, 10), "#f7c22f")


def fish(s: Sketch, v: int) -> None:
    body = ["#f28c28", "#3f8fc9"][v]
    fin = ["#d96d14", "#2c6fa3"][v]
    s.blob([(72, 50), (92, 28), (95, 38), (90, 50), (95, 62), (92, 72)], fin)
    s.blob([(36, 32), (48, 17), (64, 24), (62, 36)], fin)
    s.blob([(6, 51), (18, 36), (38, 29), (60, 36), (78, 50), (60, 66), (38, 72), (18, 66)], body)
    s.line(smooth([(30, 33), (36, 50), (30, 68)], closed=False), 1.8, fin)
    s.blob([(42, 52), (56, 50), (58, 60), (46, 61)], fin)
    s.oval((19, 46), (4.5, 4.5), "#ffffff")
    s.oval((18.5, 46), (2.2, 2.2), "#1e1e1e", outline=False)


def butterfly(s: Sketch, v: int) -> None:
    upper, lower, dot = [("#f0862a", "#f6b53c", "#4a2f1d"), ("#4a7fd6", "#8fb7ee", "#1f335f")][v]
    for side in (-1, 1):
        s.blob(
            [
                (50, 48),
                (50 + side * 14, 22),
                (50 + side * 36, 11),
                (50 + side * 44, 25),
                (50 + side * 34, 46),
                (50 + side * 14, 53),
            ],
            upper,
        )
        s.blob(
            [
                (50, 52),
                (50 + side * 22, 54),
                (50 + side * 36, 66),
                (50 + side * 30, 83),
                (50 + side * 14, 78),
            ],
            lower,
        )
        s.oval((50 + side * 31, 27), (6, 6), dot, outline=False)
        s.oval((50 + side * 23, 67), (4.5, 4.5), dot, outline=False)
        s.line(smooth([(50, 30), (50 + side * 5, 18), (50 + side * 13, 12)], closed=False), 1.5, "#3a2a22")
    s.oval((50, 54), (3.6, 25), "#3a2a22")


def cat(s: Sketch, v: int) -> None:
    fur, light = [("#e39a45", "#fbe3c2"), ("#8d8f96", "#dcdde1")][v]
    s.line(smooth([(72, 84), (90, 76), (89, 55), (80, 48)], closed=False), 6.5, fur)
    s.blob([(36, 50), (64, 50), (75, 72), (75, 90), (50, 94), (25, 90), (25, 72)], fur)
    s.oval((50, 76), (12, 14), light, outline=False)
    s.shape([(25, 32), (25, 7), (45, 19)], fur)
    s.shape([(75, 32), (75, 7), (55, 19)], fur)
    s.shape([(29, 26), (29, 14), (38, 20)], "#f2a9a9", outline=False)
    s.shape([(71, 26), (71, 14), (62, 20)], "#f2a9a9", outline=False)
    s.oval((50, 36), (27, 22), fur)
    for x in (39, 61):
        s.oval((x, 33), (4.6, 5.4), "#b9d64c")
        s.oval((x, 33), (1.6, 4.4), "#1c1c1c", outline=False)
    s.shape([(46.5, 41), (53.5, 41), (50, 45)], "#d9707a")
    s.line(smooth([(42, 48), (46, 50), (50, 46), (54, 50), (58, 48)], closed=False), 1.3, "#3c2b22")
    for side in (-1, 1):
        for dy in (-3, 2):
            s.line([(50 + side * 13, 45 + dy * 0.4), (50 + side * 34, 43 + dy * 2)], 0.8, "#3c2b22")


def house(s: Sketch, v: int) -> None:
    s.box((66, 16), (75, 40), "#a0523c")
    s.box((20, 44), (80, 90), ["#f5dfb3", "#dfe6ea"][v])
    s.shape([(11, 47), (50, 13), (89, 47)], ["#c2452f", "#55657a"][v])
    s.box((43, 62), (57, 90), ["#7b4a26", "#a83f3a"][v])
    s.oval((54, 77), (1.3, 1.3), "#f3d15a", outline=False)
    for x in (26, 62):
        s.box((x, 54), (x + 12, 67), "#9fd3ec")
        s.line([(x + 6, 54), (x + 6, 67)], 1.2, "#ffffff")
        s.line([(x, 60.5), (x + 12, 60.5)], 1.2, "#ffffff")


def car(s: Sketch, v: int) -> None:
    paint = ["#d93a34", "#2f7bc4"][v]
    s.blob([(22, 52), (32, 32), (42, 28), (60, 28), (68, 33), (80, 52)], paint)
    s.blob([(6, 56), (12, 50), (50, 48), (84, 50), (95, 56), (95, 70), (88, 73), (12, 73), (5, 69)], paint)
    s.shape([(29, 49), (36, 35), (48, 34), (48, 49)], "#bfe4f5")
    s.shape([(52, 49), (52, 34), (62, 35), (72, 49)], "#bfe4f5")
    s.oval((92, 59), (2.6, 3.4), "#fbe27a")
    for x in (26, 74):
        s.oval((x, 72), (11, 11), "#26262b")
        s.oval((x, 72), (5, 5), "#c9ced3")


def sailboat(s: Sketch, v: int) -> None:
    s.box((48, 8), (51, 72), "#7a5230")
    s.blob([(53, 12), (72, 36), (84, 64), (66, 66), (53, 66)], ["#ffffff", "#f2c14b"][v])
    s.shape([(46, 18), (46, 66), (18, 66)], ["#e0503f", "#ffffff"][v])
    s.shape([(12, 72), (90, 72), (78, 87), (24, 87)], ["#2f6aa8", "#8a4f2b"][v])
    wave = [(x, 88 + 2.5 * math.sin(x / 4)) for x in range(0, 101, 2)]
    s.shape([*wave, (100, 100), (0, 100)], "#5fb4dd", outline=False)


def airplane(s: Sketch, v: int) -> None:
    metal, trim = [("#dfe5ea", "#2f6fb5"), ("#f7f7f4", "#cf3d35")][v]
    s.shape([(46, 48), (58, 46), (76, 18), (66, 17)], trim)
    s.shape([(12, 50), (22, 50), (14, 26), (5, 26)], trim)
    s.blob([(5, 49), (16, 46), (50, 43), (82, 44), (95, 52), (88, 58), (50, 61), (18, 57)], metal)
    s.shape([(40, 55), (56, 55), (38, 86), (27, 86)], trim)
    s.shape([(10, 53), (20, 53), (13, 64), (6, 64)], trim)
    s.blob([(82, 47), (89, 47), (93, 51), (84, 52)], "#7fc3e6")
    for x in range(32, 78, 8):
        s.oval((x, 50), (1.8, 2.1), "#4c86ad", outline=False)


def umbrella(s: Sketch, v: int) -> None:
    main, other = [("#8a4fb5", "#b98ad8"), ("#d93a34", "#f7f0e6")][v]
    s.line(smooth([(50, 20), (50, 55), (50, 82), (45, 91), (37, 87), (36, 80)], closed=False), 3.4, "#5b4030")
    arc = [(50 + 42 * math.cos(a), 54 - 40 * math.sin(a)) for a in np.linspace(0, math.pi, 40)]
    hem = [(8 + 84 * k / 60, 54 - 4.5 * abs(math.sin(math.pi * 5 * k / 60))) for k in range(61)]
    s.shape([*arc, *hem], main)
    s.blob([(50, 14), (37, 30), (33, 51), (42, 47), (50, 50), (58, 47), (67, 51), (63, 30)], other)
    s.line([(50, 14), (50, 8)], 2.6, "#5b4030")


def clock(s: Sketch, v: int) -> None:
    if v:  # an alarm clock with bells
        s.line([(28, 78), (20, 92)], 5, "#6c4a2c")
        s.line([(72, 78), (80, 92)], 5, "#6c4a2c")
        s.oval((27, 19), (13, 10), "#e0b040", angle=-40)
        s.oval((73, 19), (13, 10), "#e0b040", angle=40)
    s.oval((50, 52), (37, 37), ["#2f6f9f", "#c94b3b"][v])
    s.oval((50, 52), (31, 31), "#fffdf6")
    for k in range(12):
        a = math.pi * k / 6
        s.line(
            [(50 + 26 * math.cos(a), 52 + 26 * math.sin(a)), (50 + 29 * math.cos(a), 52 + 29 * math.sin(a))],
            1.8,
            "#2a2a2a",
        )
    s.line([(50, 52), (50, 31)], 2.6, "#2a2a2a")
    s.line([(50, 52), (64, 60)], 3.2, "#2a2a2a")
    s.oval((50, 52), (3, 3), "#c8382c", outline=False)


SUBJECTS: dict[str, Callable[[Sketch, int], None]] = {
    subject.__name__: subject
    for subject in (
        apple, cherries, banana, carrot, pizza, cake, mushroom, tree, flower,
        fish, butterfly, cat, house, car, sailboat, airplane, umbrella, clock,
    )
}  # fmt: skip


def draw_all(folder: Path, *, seed: int = 7) -> list[Path]:
    """Writes every subject as `<subject>-flat.png` and `<subject>-ink.png`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for name, subject in SUBJECTS.items():
        for variant, style in enumerate(("flat", "ink")):
            paper = PAPERS[rng.integers(len(PAPERS))]
            sky = SKIES[rng.integers(len(SKIES))]
            sketch = Sketch(sky if variant else (paper, paper), ink=bool(variant))
            subject(sketch, variant)
            mirror = bool(rng.integers(2)) and name != "clock"
            picture = sketch.image(SIZE, mirror=mirror)
            path = folder / f"{name}-{style}.png"
            picture.quantize(96, dither=0).save(path, optimize=True)
            paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)
    paths = draw_all(options.output, seed=options.seed)
    print(f"{len(paths)} pictures, {sum(p.stat().st_size for p in paths):,} bytes in {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
