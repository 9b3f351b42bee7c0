"""Fluent emoji, flat: a whole style that no training set of beamclip-tiny has, to measure with.

Drawn by Microsoft (github.com/microsoft/fluentui-emoji), MIT licence, as the npm package
`@iconify-json/fluent-emoji-flat`. It is on purpose not among `benchmarks.tiny.sources.SOURCES`: the recipe takes
every package from there, and neither trains on this one nor puts it into the validation set that models were chosen
with. A picture that looks like a training picture is dropped here, by the measure the recipe drops them by: one that
simple outlines share, so that 226 of 1,576 go, of which 44 look like a picture of the same thing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.tiny.recipe import DICTIONARIES, copies, fetch_npm, look, rows
from benchmarks.tiny.sources import Drawing, Source, svg_of
from benchmarks.tiny.words import GROUP_WEIGHT, INTERFACE, Emoji, Lexicon

FLUENT = Source(
    name="fluent-emoji-flat",
    package="@iconify-json/fluent-emoji-flat",
    licence="MIT",
    credit="Fluent Emoji, Microsoft Corporation",
    emoji=True,
    split="judge",
)
SIZE = 96  # pixels a side, the recipe's default


def plain(code: str) -> str:
    """A hexcode without the selector of the colourful form, which the two packages disagree on.

    >>> plain("2764-FE0F")
    '2764'
    """
    return code.lower().replace("-fe0f", "")


def fluent_drawings(cache: Path, emoji: Emoji) -> Iterator[Drawing]:
    """The drawings by the character that each stands for: none of a flag, none with a tone of skin.

    emojibase lists tones of skin under the emoji that they vary, so a character of one is not in its rows.
    """
    folder = cache / FLUENT.name
    entries = json.loads((cache / "emojibase" / "en" / "data.json").read_text())
    labels = {
        plain(entry["hexcode"]): str(entry["label"])
        for entry in entries
        if entry.get("group") in GROUP_WEIGHT
    }
    names = json.loads((folder / "chars.json").read_text())
    label_of = {name: labels[plain(code)] for code, name in names.items() if plain(code) in labels}
    data = json.loads((folder / "icons.json").read_text())
    for name, icon in data["icons"].items():
        concept = emoji.find(label_of[name]) if name in label_of and not icon.get("hidden") else None
        if concept is not None and concept.name not in INTERFACE:
            yield Drawing(key=f"{FLUENT.name}/{name}", source=FLUENT, concept=concept, svg=svg_of(icon, data))


def looks_of(train: Path) -> np.ndarray:
    """How each training picture looks."""
    shards = sorted(train.glob("*.parquet"))
    if not shards:
        raise SystemExit(f"{train} has no training set to compare with")
    found = []
    for shard in shards:
        for cell in pq.read_table(shard, columns=["image"]).column("image"):
            with Image.open(io.BytesIO(cell["bytes"].as_py())) as picture:
                found.append(look(picture.convert("RGBA")))
    return np.stack(found)


def fluent_rows(data: Path, cache: Path) -> tuple[list[dict[str, object]], int]:
    """Rows like those of the recipe, without copies of training pictures, and how many copies there were."""
    for name, package in {**DICTIONARIES, FLUENT.name: FLUENT.package}.items():
        fetch_npm(package, cache / name, cache / "archives")
    emoji = Emoji(cache / "emojibase", cache / "cldr", Lexicon.read(cache / "wordnet" / "dict"))
    table, looks = zip(*rows(list(fluent_drawings(cache, emoji)), SIZE), strict=True)
    near = copies(np.stack(looks), looks_of(data / "train"))
    return [row for row, copy in zip(table, near, strict=True) if not copy], int(near.sum())
