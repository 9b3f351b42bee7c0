"""The planted copies of `benchmarks.pairs`: how many are found, and which distinct pictures are merged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.planted import COPIES, samples, scene
from clip_transforms.pairs.exact import DIGEST, exact_duplicates
from clip_transforms.pairs.hamming import ones
from clip_transforms.pairs.near import DEFAULT_DISTANCE, near_duplicates
from clip_transforms.pairs.semantic import DEFAULT_COSINE, semantic_duplicates
from clip_transforms.phash import phash

DISTANCES = (0, 2, 4, 6, 8, 10, 12)
COSINES = (0.9, 0.95, 0.97, 0.98, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Pictures and their copies, row by row; originals come first and score best."""

    images: list[Image.Image]
    family: Any  # the number of the original
    kind: list[tuple[str, str]]  # what was done; ("original", "")

    @property
    def originals(self) -> int:
        """How many rows are no copies."""
        return sum(kind == "original" for kind, _ in self.kind)

    def rows(self, *kinds: tuple[str, str]) -> Any:
        """Which rows are of these kinds."""
        return np.array([kind in kinds for kind in self.kind])


def plant(pictures: Sequence[Image.Image]) -> Planted:
    """The pictures, then all copies of each."""
    kinds = [(kind, name) for kind, named in COPIES.items() for name in named]
    images, family = list(pictures), list(range(len(pictures)))
    done = [("original", "")] * len(pictures)
    for kind, name in [("exact", "the same bytes"), *kinds]:
        alter = COPIES[kind][name] if kind in COPIES else lambda image: image
        images += [alter(image) for image in pictures]
        family += range(len(pictures))
        done += [(kind, name)] * len(pictures)
    return Planted(images=images, family=np.array(family), kind=done)


def hashes_of(images: Sequence[Image.Image]) -> Any:
    """Their perceptual hashes as numbers."""
    return np.array([int(phash(image), 16) for image in images], np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a search made of planted copies."""

    own: Any  # rows that joined their original, or a copy of it
    other: Any  # rows that joined another picture


def judged(planted: Planted, joins: Any) -> Joined:
    """Each row that joined, by what it joined."""
    joined = joins != np.arange(len(joins))
    own = joined & (planted.family[joins] == planted.family)
    return Joined(own=own, other=joined & ~own)


def found_by_hash(planted: Planted, hashes: Any, distance: int) -> Joined:
    """Near duplicates; the first rows score best."""
    ids = np.arange(len(hashes))
    return judged(planted, near_duplicates(hashes, -ids.astype(np.float32), ids, distance=distance).joins)


def planted_tables(pictures: int, *, encoder: bool) -> None:
    """Print the tables for generated pictures and for the shipped drawings."""
    sets = {
        f"{pictures:,} generated pictures": plant([scene(seed) for seed in range(pictures)]),
        "36 shipped drawings": plant(list(samples().values())),
    }
    for title, planted in sets.items():
        print(f"Copies found of {title}: exact by sha256, the others by hash, % within d bits")
        exact, copies = exactly(planted), planted.rows(("exact", "the same bytes"))
        print(f"{'exact, the same bytes':<40}{100 * exact.own[copies].mean():>7.1f}", end="")
        print(f"   joined to another picture: {exact.other.sum()}")
        hash_table(planted)
    if encoder:
        for title, planted in sets.items():
            print(f"Copies found of {title}: by embedding (beamclip-tiny), % from a cosine on")
            encoder_table(planted)


def exactly(planted: Planted) -> Joined:
    """By sha256."""
    digests = np.array([hashlib.sha256(png(image)).digest() for image in planted.images], DIGEST)
    ids = np.arange(len(digests))
    return judged(planted, exact_duplicates(digests, -ids.astype(np.float32), ids))


def png(image: Image.Image) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def hash_table(planted: Planted) -> None:
    """A line for each kind of copy, a column for each distance."""
    hashes = hashes_of(planted.images)
    found = {distance: found_by_hash(planted, hashes, distance) for distance in DISTANCES}
    names = [f"{distance}{'*' if distance == DEFAULT_DISTANCE else ''}" for distance in DISTANCES]
    _lines(planted, names, list(found.values()))
    alike = ones(hashes[: planted.originals, None] ^ hashes[None, : planted.originals])
    first, second = np.triu_indices(planted.originals, 1)
    print(f"the two most alike originals differ in {alike[first, second].min()} bits\n")


def encoder_table(planted: Planted) -> None:
    """The same by embedding, a column for each cosine."""
    from clip_transforms.encoders import EncoderSpec, load
    from clip_transforms.pixels import to_pixels

    encoder = load(EncoderSpec(name="beamclip-tiny", device="cpu", threads=1))
    pixels = [to_pixels(image, encoder.preprocess) for image in planted.images]
    chunks = [
        encoder.encode_images(np.stack(pixels[start : start + 64])) for start in range(0, len(pixels), 64)
    ]
    ids = np.arange(len(pixels))
    found = [
        judged(
            planted, semantic_duplicates(lambda: chunks, -ids.astype(np.float32), ids, cosine=cosine).joins
        )
        for cosine in COSINES
    ]
    _lines(planted, [f"{cosine:g}{'*' if cosine == DEFAULT_COSINE else ''}" for cosine in COSINES], found)
    near = found_by_hash(planted, hashes_of(planted.images), DEFAULT_DISTANCE)
    for kind, named in COPIES.items():
        rows = planted.rows(*((kind, name) for name in named))
        shares = "".join(f"{100 * (one.own | near.own)[rows].mean():>7.1f}" for one in found)
        print(f"{f'all {kind}, or by hash at {DEFAULT_DISTANCE}':<40}{shares}")
    print()


def _lines(planted: Planted, columns: Sequence[str], found: Sequence[Joined]) -> None:
    print(f"{'':<40}" + "".join(f"{column:>7}" for column in columns))
    for kind, named in COPIES.items():
        every = [(kind, name) for name in named]
        for label, rows in [
            *((f"{kind}, {name}", planted.rows((kind, name))) for name in named),
            (f"all {kind}", planted.rows(*every)),
        ]:
            print(f"{label:<40}" + "".join(f"{100 * one.own[rows].mean():>7.1f}" for one in found))
    originals = planted.rows(("original", ""))
    for label, rows in (
        ("originals joined to another picture", originals),
        ("copies joined to one", ~originals),
    ):
        print(f"{label:<40}" + "".join(f"{int(one.other[rows].sum()):>7,}" for one in found))
