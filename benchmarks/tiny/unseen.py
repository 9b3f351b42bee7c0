"""Lays out drawings of a style that the model never saw as folders a class, for `beamclip evaluate`.

    python -m benchmarks.tiny.unseen --data DATA --output DIR
    beamclip evaluate --input DIR/everyday --labels-from folder --prompts everyday --compare bare --output DIR/run1
    beamclip evaluate --input DIR/kinds --labels-from folder --prompts benchmarks/tiny/kinds.yaml \\
        --few-shot 1 2 4 8 16 --output DIR/run2

DATA is what `benchmarks.tiny.recipe` built. `everyday` has the 30 classes of benchmarks.tiny.judge, from OpenMoji
and Tux Paint's stamps; `kinds` has every OpenMoji drawing of a thing, by the kind that Unicode files it under
(emojibase's subgroups), where a kind has 16 or more: enough for a few-shot curve, which 30 single things are not.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from benchmarks.tiny.judge import EVERYDAY, class_of
from benchmarks.tiny.words import base_name

#: Unicode's subgroup -> class; those that are missing are symbols, people, or fewer than 16.
KINDS = {
    "animal-mammal": "mammal", "animal-bird": "bird", "animal-marine": "sea creature", "animal-bug": "insect",
    "food-fruit": "fruit", "food-vegetable": "vegetable", "food-prepared": "meal",
    "drink": "drink", "place-building": "building", "transport-ground": "vehicle",
    "sky-weather": "weather", "sport": "sport",
    "clothing": "clothing", "tool": "tool", "music": "music", "musical-instrument": "music",
    "plant-flower": "plant", "plant-other": "plant", "office": "office supply", "computer": "electronics",
    "phone": "electronics", "light-video": "electronics",
}  # fmt: skip
LEAST = 16


def kinds_of(emojibase: Path) -> dict[str, str]:
    """Name of a concept -> its kind."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text())["subgroups"]
    rows = json.loads((emojibase / "en" / "data.json").read_text())
    found: dict[str, str] = {}
    for row in rows:
        kind = KINDS.get(names.get(str(row.get("subgroup")), ""))
        if kind is not None:
            found[base_name(str(row["label"]).lower().replace("’", "'"))] = kind
    return found


def save(rows: Sequence[tuple[str, Mapping[str, object]]], folder: Path) -> None:
    """Each picture on white as folder/class/name.png."""
    for name, row in rows:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        data = row["image"]["bytes"]  # type: ignore[index]
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        white.save(target / (str(row["id"]).replace("/", "-") + ".png"))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="the recipe's downloads; default: DATA/cache")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    rows = [
        row
        for path in sorted((options.data / "validation").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if row["split"] == "judge"
    ]
    everyday = [(name, row) for row in rows if (name := class_of(row, set(EVERYDAY)))]
    kinds = kinds_of((options.cache or options.data / "cache") / "emojibase")
    drawn = [
        (kinds[row["concept"]], row) for row in rows if row["style"] == "openmoji" and row["concept"] in kinds
    ]
    counts = Counter(kind for kind, _ in drawn)
    drawn = [(kind, row) for kind, row in drawn if counts[kind] >= LEAST]
    save(everyday, options.output / "everyday")
    save(drawn, options.output / "kinds")
    print(f"everyday: {len(everyday)} pictures of {len({name for name, _ in everyday})} classes")
    print(f"kinds: {len(drawn)} pictures of {len({kind for kind, _ in drawn})} classes")
    print(dict(sorted(counts.items())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
