"""What reviewing a few images is worth: `python -m benchmarks.review_gain --data DATA`.

Drawings of two styles that the embedded model never saw are labelled zero-shot: OpenMoji (HfG Schwaebisch Gmuend,
CC BY-SA 4.0; DATA is what `benchmarks.tiny.recipe` built) and Fluent emoji, flat (Microsoft, MIT licence;
benchmarks.tiny.fluent downloads them with npm into the recipe's cache and renders them, which needs `pip install
resvg-py`). `beamclip review export` chooses a share of them (the least sure, and a random audit of a quarter of the
queue, half of which is held out), a simulated reviewer who is always right answers, `beamclip review import` stores
that, and `beamclip refine` refits and relabels. Then the labels of all images that were NOT reviewed are counted,
before and after, with the paired bootstrap interval of the gain. `refine` keeps the old labels ("not adopted")
where the reviewed images do not show that new ones are better, and learns nothing where a class has too few of
them; the fewer were reviewed, the likelier either is.

A seed fixes what the audit draws, not all of the queue: its clusters depend on the order of a run's rows, which is
the order in which images happened to be decoded. So the same seed gives other figures each time: use several.

Two tasks: the 8 groups that Unicode files emoji under, of every drawing; and 18 finer kinds of things
(benchmarks.tiny.unseen), of the third of the drawings that are of them: 5 % of those are fewer than three a class.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.tiny.fluent import fluent_rows
from benchmarks.tiny.unseen import LEAST, kinds_of, save
from benchmarks.tiny.words import base_name
from clip_transforms.evaluation.metrics import paired
from pipelines import cli

#: Unicode's group -> class.
GROUPS = {
    "smileys-emotion": "smileys", "people-body": "people", "animals-nature": "animals", "food-drink": "food",
    "travel-places": "travel", "activities": "activities", "objects": "objects", "symbols": "symbols",
}  # fmt: skip
RESAMPLES = 10_000
PROMPTS = Path(__file__).parent / "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The rows of a label set: by image id the label, and the truth."""

    label: dict[str, str]
    truth: dict[str, str]


def groups_of(emojibase: Path) -> dict[str, str]:
    """Name of a concept -> its group."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text())["groups"]
    rows = json.loads((emojibase / "en" / "data.json").read_text())
    found = {}
    for row in rows:
        group = GROUPS.get(names.get(str(row.get("group")), ""))
        if group is not None:
            found[base_name(str(row["label"]).lower().replace("’", "'"))] = group
    return found


def lay_out(data: Path, cache: Path, folder: Path) -> str:
    """Each drawing of both tasks as folder/task/class/name.png; how many there are of each style."""
    emojibase = cache / "emojibase"
    fluent, dropped = fluent_rows(data, cache)
    rows = fluent + [
        row
        for path in sorted((data / "validation").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if row["split"] == "judge" and row["style"] == "openmoji"
    ]
    lines = [f"Fluent emoji: {dropped} pictures left out that look like a training picture"]
    for task, classes in (("groups", groups_of(emojibase)), ("kinds", kinds_of(emojibase))):
        drawn = [(classes[str(row["concept"])], row) for row in rows if row["concept"] in classes]
        counts = Counter(name for name, _ in drawn)
        drawn = [(name, row) for name, row in drawn if counts[name] >= LEAST]
        save(drawn, folder / task)
        styles = Counter(str(row["style"]) for _, row in drawn)
        lines.append(f"{task}: " + ", ".join(f"{count:,} {style}" for style, count in sorted(styles.items())))
        pictures = sorted((folder / task).glob("*/*.png"))
        cells = [f"{path.parent.name}/{path.stem},{path}" for path in pictures]  # ids: the same in any folder
        (folder / f"{task}.csv").write_text("\n".join(["image_id,uri", *cells]) + "\n")
    return "\n".join(lines)


def beamclip(*args: object, allowed: Sequence[int] = (0,)) -> int:
    """Run a command, quietly; its exit code, which must be one of those allowed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.main([str(arg) for arg in args])
    if code not in allowed:
        raise SystemExit(f"beamclip {args[0]} ended with {code}: {said.getvalue()}")
    return code


def read_labels(run: Path, tag: str) -> Labelled:
    """The rows of one label set of a run; the truth is the folder of the image."""
    table = ds.dataset(str(run / "labels" / tag), format="parquet").to_table(
        columns=["image_id", "uri", "label"]
    )
    rows = table.to_pylist()
    return Labelled(
        label={row["image_id"]: row["label"] for row in rows},
        truth={row["image_id"]: Path(row["uri"]).parent.name for row in rows},
    )


def review(run: Path, tag: str, count: int, seed: int) -> set[str]:
    """Export a queue of `count` images at most, answer it truly, import the answers; the ids of the images."""
    folder = run.with_name(f"{run.name}-queue")
    wanted = ("--limit", count, "--seed", seed)
    beamclip("review", "export", run, "--set", tag, "--to", "csv", *wanted, "--output", folder)
    (path,) = folder.glob("*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["labels"], row["reviewer"] = Path(row["uri"]).parent.name, "the truth"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    beamclip("review", "import", run, "--set", tag, "--from", "csv", path)
    return {row["image_id"] for row in rows}


def measure(pictures: Path, prompts: Path, share: float, seed: int, run: Path) -> str:
    """Label, review a share, refine: one line of the table."""
    beamclip("label", "--input", pictures, "--prompts", prompts, "--output", run, "--quiet")
    (tag,) = (path.name for path in (run / "labels").iterdir())
    before = read_labels(run, tag)
    images, classes = len(before.label), len(set(before.truth.values()))
    reviewed = review(run, tag, round(share * images), seed)
    line = (
        f"{prompts.stem:<8}{images:>7}{classes:>9}{seed:>6}{len(reviewed):>10}{len(reviewed) / images:>7.1%}"
    )
    if beamclip("refine", run, "--quiet", allowed=(0, 1)):
        return f"{line}  too few reviews of a class to learn from"
    new = [path.name for path in (run / "labels").iterdir() if path.name != tag]
    if not new:
        return f"{line}  not adopted"
    after = read_labels(run, new[0])
    rest = [key for key in before.label if key not in reviewed]
    old_right = np.array([before.label[key] == before.truth[key] for key in rest])
    new_right = np.array([after.label[key] == after.truth[key] for key in rest])
    found = paired(
        int((new_right & old_right).sum()),
        int((new_right & ~old_right).sum()),
        int((~new_right & old_right).sum()),
        neither=int((~new_right & ~old_right).sum()),
        resamples=RESAMPLES,
        seed=0,
    )
    low, high = (100 * end for end in found.interval or (float("nan"),) * 2)
    told = f"{100 * (new_right.mean() - old_right.mean()):+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{line}{len(rest):>7}{old_right.mean():>9.1%}{new_right.mean():>8.1%}  {told}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.tiny.recipe built")
    parser.add_argument("--cache", type=Path, help="the recipe's downloads; default: DATA/cache")
    parser.add_argument("--share", type=float, nargs="+", default=[0.05, 0.1], help="of the images")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the queue's audit and clusters"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        print(lay_out(options.data, options.cache or options.data / "cache", work), end="\n\n")
        head = f"{'task':<8}{'images':>7}{'classes':>9}{'seed':>6}{'reviewed':>10}{'share':>7}"
        head += f"{'rest':>7}{'before':>9}{'after':>8}"
        print(f"{head}  gain on the rest, points [95 %]", flush=True)
        for task in ("groups", "kinds"):
            for share, seed in product(options.share, options.seeds):
                run = work / f"{task}-{share}-{seed}"
                prompts = PROMPTS / f"{task}.yaml"
                print(measure(work / f"{task}.csv", prompts, share, seed, run), flush=True)


if __name__ == "__main__":
    main()
