"""How well the score of `beamclip filter` tells true image-text pairs from shuffled ones, with the embedded model.

    python -m benchmarks.pairs_auc [DATA]

The shipped sample drawings, each with its name and with a name drawn at random from the others. With DATA, what
`benchmarks.tiny.recipe` built, also the drawings of a style that the model never saw (OpenMoji): those of concepts
that it was trained on, in other styles, and those that it was not. Scores are read from `pairs/` of a filter run.
Prints the area under the ROC curve (the chance that a true pair scores above a false one), with the 95 % interval of
1,000 bootstrap draws of pictures.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from pipelines.filter import main as filter_pairs

_SAMPLES = Path(__file__).parent.parent / "clip_transforms" / "samples"
_SHUFFLES = 4  # false captions a picture
_DRAWS = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture and what it shows."""

    path: Path
    name: str


def auc(true: Floats, false: Floats) -> float:
    """The chance that a true pair scores above a false one, ties counted half (Mann-Whitney).

    >>> auc(np.array([0.9, 0.4]), np.array([0.1, 0.4]))
    0.875
    """
    both = np.sort(false)
    below = np.searchsorted(both, true, side="left")
    upto = np.searchsorted(both, true, side="right")
    return float((below + upto).mean() / (2 * len(false)))


def shuffled(drawings: Sequence[Drawing], *, seed: int = 0) -> list[list[str]]:
    """For each picture names of other things, drawn from all pictures."""
    chance = random.Random(seed)
    found = []
    for drawing in drawings:
        names: list[str] = []
        while len(names) < _SHUFFLES:
            name = chance.choice(drawings).name
            if name != drawing.name:
                names.append(name)
        found.append(names)
    return found


def measure(drawings: Sequence[Drawing], work: Path) -> tuple[float, float, float, float]:
    """The AUC, its interval, and the share of true pairs among the best half of an equal mix."""
    true, false = score(drawings, work)
    chance = np.random.default_rng(0)
    drawn = [chance.integers(0, len(true), len(true)) for _ in range(_DRAWS)]
    low, high = np.quantile([auc(true[rows], false[rows].ravel()) for rows in drawn], (0.025, 0.975))
    mixed = np.concatenate([true, false[:, 0]])
    best = np.argsort(-mixed, kind="stable")[: len(true)]
    return auc(true, false.ravel()), float(low), float(high), float((best < len(true)).mean())


def score(drawings: Sequence[Drawing], work: Path) -> tuple[Floats, Floats]:
    """Scores of the true captions [N] and of the false ones [N, 4], by a filter run."""
    manifest, run = work / "pairs.csv", work / "run"
    others = shuffled(drawings)
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "caption"])
        for number, (drawing, names) in enumerate(zip(drawings, others, strict=True)):
            for place, name in enumerate((drawing.name, *names)):
                writer.writerow([f"{number}-{place}", drawing.path, f"a drawing of a {name}"])
    if filter_pairs(["--input", str(manifest), "--output", str(run), "--quiet"]):
        raise SystemExit("the filter run failed")
    table = ds.dataset(str(run / "pairs"), format="parquet").to_table()
    scores = np.zeros((len(drawings), 1 + _SHUFFLES))
    for image_id, value in zip(
        table.column("image_id").to_pylist(),
        table.column("similarity_beamclip_tiny").to_pylist(),
        strict=True,
    ):
        number, place = map(int, image_id.split("-"))
        scores[number, place] = value
    return scores[:, 0], scores[:, 1:]


def sample_drawings() -> list[Drawing]:
    """The shipped samples, named after their files without the style."""
    return [
        Drawing(path=path, name=path.stem.rsplit("-", 1)[0].replace("-", " "))
        for path in sorted(_SAMPLES.glob("*.png"))
    ]


def unseen_drawings(data: Path, work: Path) -> dict[str, list[Drawing]]:
    """OpenMoji's drawings on white, by whether other styles' drawings of their concept were trained on."""
    rows = [
        row
        for path in sorted((data / "validation").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    trained = {
        str(name)
        for path in sorted((data / "train").glob("*.parquet"))
        for name in pq.read_table(path, columns=["concept"]).column(0).unique().to_pylist()
    }
    found: dict[str, list[Drawing]] = {"known things": [], "new things": []}
    for row in rows:
        if row["split"] == "judge" and row["style"] == "openmoji" and float(row["weight"]) >= 1:
            kind = "known things" if row["concept"] in trained else "new things"
            found[kind].append(_on_white(row, work / "pictures"))
    return {f"unseen style, {kind}": drawings for kind, drawings in found.items() if drawings}


def _on_white(row: Mapping[str, object], folder: Path) -> Drawing:
    folder.mkdir(parents=True, exist_ok=True)
    data = row["image"]["bytes"]  # type: ignore[index]
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    path = folder / (str(row["id"]).replace("/", "-") + ".png")
    Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(path)
    return Drawing(path=path, name=str(row["concept"]))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", nargs="?", type=Path, help="what benchmarks.tiny.recipe built")
    options = parser.parse_args(argv)
    print(
        f"{'drawings':<30}{'pictures':>9}{'things':>8}{'AUC':>8}{'95 % interval':>18}{'true among the best half':>26}"
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        groups = {"the samples": sample_drawings()}
        if options.data:
            groups |= unseen_drawings(options.data, work)
        for number, (title, drawings) in enumerate(groups.items()):
            place = work / str(number)
            place.mkdir()
            found, low, high, best = measure(drawings, place)
            things = len({drawing.name for drawing in drawings})
            interval = f"{low:.3f} to {high:.3f}"
            print(
                f"{title:<30}{len(drawings):>9}{things:>8}{found:>8.3f}{interval:>18}{best:>26.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
