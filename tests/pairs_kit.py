"""What the tests of `beamclip filter` share: pictures with captions, planted duplicates, and a run's rows."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_transforms.encoders.fake import FakeEncoder
from tests.helpers import image_bytes, make_image, write_images
from tests.runs import beamclip, rows

#: Data sets of a filter run that do not depend on how it was cut into units.
FOLDERS = ("embeddings", "failures", "scores", "pairs", "kept")


def write_pairs(folder: Path, count: int = 40, *, uids: bool = False) -> Path:
    """A manifest of `count` pictures with captions: number 3 has none, 4 a blank one, 5 one that is too long.

    Three more are planted: a copy of number 0, number 1 encoded again, and a file that is no picture.
    """
    paths = write_images(folder / "images", count, size=(256, 192))
    captions = [f"a picture of thing {number}" for number in range(count)]
    captions[3:6] = ["", " \t", "word " * 90]
    copy, again, broken = (folder / "images" / name for name in ("copy.jpg", "again.jpg", "broken.jpg"))
    shutil.copy(paths[0], copy)
    again.write_bytes(image_bytes(make_image(1, (256, 192)), quality=90))
    broken.write_bytes(b"no image")
    planted = [(copy, "a copy"), (again, "encoded again"), (broken, "broken")]
    return write_manifest(folder / "pairs.csv", [*zip(paths, captions, strict=True), *planted], uids=uids)


def write_manifest(path: Path, pairs: Sequence[tuple[Path, str]], *, uids: bool = False) -> Path:
    """A CSV of paths and captions; uids: with a column of 32 hex digits, too."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", *(["uid"] if uids else [])])
        for number, (image, caption) in enumerate(pairs):
            writer.writerow([image, caption, *([f"{number:032x}"] if uids else [])])
    return path


def filtered(*args: object) -> int:
    """The exit code of a quiet `beamclip filter ...`."""
    return beamclip("filter", "--quiet", *args)


def data(run: Path, folders: Sequence[str] = FOLDERS) -> dict[str, list[dict[str, Any]]]:
    """The rows of a filter run by folder."""
    return {folder: rows(run, folder) for folder in folders}


def by_name(run: Path, folder: str = "pairs") -> dict[str, dict[str, Any]]:
    """The rows of a folder by the file name of their images."""
    return {Path(row["uri"]).name: row for row in rows(run, folder)}


def cosine_by_hand(run: Path, caption: str, name: str) -> np.float32:
    """The score of a caption and a stored image, by the fake encoder itself."""
    image = np.array(by_name(run, "embeddings")[name]["embedding"], np.float64)
    return np.float32(image @ FakeEncoder().encode_texts([caption])[0].astype(np.float64))
