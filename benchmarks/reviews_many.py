"""Answers into a run of many images, its final labels, and two label sets held against each other: time and memory.

    python -m benchmarks.reviews_many [ROWS ...]

The stored run is synthetic (see benchmarks.filter_many), with two label sets of 50 labels at random, the second with
each pair of the first one's labels merged. 10,000 answers come in. Each command runs in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.filter_many import write_run
from clip_transforms.commits import EMBEDDINGS, Commit, write_commit
from clip_transforms.labelsets import LabelSet, keep_label_set
from clip_transforms.live import live_commits
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.sink import PartWriter, new_attempt, part_stem
from clip_transforms.storage import Store
from schemas.labels import LABELS

_LABELS = 50
_ANSWERS = 10_000
_OLD = LabelSet(prompt_set=PromptSet(name="old", labels=tuple(Label(id=f"a{n}") for n in range(_LABELS))))
_NEW = LabelSet(
    prompt_set=PromptSet(name="new", labels=tuple(Label(id=f"b{n}") for n in range(_LABELS // 2)))
)
_MAKE = "import sys; from benchmarks.reviews_many import make; make(sys.argv[1], int(sys.argv[2]))"
_COMPARE = "import sys; from benchmarks.reviews_many import compare_sets; compare_sets(sys.argv[1])"
_IMPORTS = "import pipelines.review_import, pipelines.review_final, pipelines.review_migrate"
_COMMAND = "import sys; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"


def make(folder: str, rows: int) -> None:
    """The run, in a process of its own: what it takes would count as that of the processes which follow."""
    run = Path(folder)
    write_run(run, rows)
    label_rows(run)


def label_rows(run: Path) -> None:
    """Labels of both sets for every stored embedding, at random but for the map between them."""
    store = Store(str(run))
    for label_set in (_OLD, _NEW):
        keep_label_set(store, label_set)
    rng = np.random.default_rng(0)
    for live in list(live_commits(store)):
        for part in live.parts.get(EMBEDDINGS, ()):
            keys = pq.read_table(run / part.name, columns=["image_id", "uri"])
            places = rng.integers(0, _LABELS, keys.num_rows)
            for label_set, codes in ((_OLD, places), (_NEW, places // 2)):
                _write(store, live.commit.unit, label_set, keys, codes, part.name)


def _write(
    store: Store, unit: str, label_set: LabelSet, keys: pa.Table, codes: np.ndarray, source: str
) -> None:
    tag, count = label_set.tag, keys.num_rows
    top = [{"label": "x", "score": 0.5, "cosine": 0.2}]
    constant = {
        "calibrated": None,
        "top_k": top,
        "labels": None,
        "path": None,
        "decision": "review",
        "decision_reason": "uncalibrated",
        "prompt_set": tag,
        "fingerprint": "f",
        "encoder": "fake",
        "run_id": "synthetic",
        "created_at": 0,
    }
    names = pa.array([label.id for label in label_set.prompt_set.labels])
    scores = pa.array(np.linspace(0, 1, count, dtype=np.float32))
    columns = {
        "image_id": keys["image_id"],
        "uri": keys["uri"],
        "label": names.take(pa.array(codes)),
        **dict.fromkeys(("score", "cosine", "margin", "entropy"), scores),
    }
    for name, value in constant.items():
        kind = LABELS.field(name).type
        plain = pa.string() if pa.types.is_dictionary(kind) else kind
        columns[name] = pa.repeat(pa.scalar(value, plain), count)
    table = pa.table([columns[name] for name in LABELS.names], names=LABELS.names).cast(LABELS)
    attempt, task = new_attempt(), f"labels-{tag}"
    writer = PartWriter(
        store, folder=f"labels/{tag}", schema=LABELS, stem=part_stem(unit, task=task, attempt=attempt)
    )
    writer.write(table)
    parts = {f"labels/{tag}": writer.close()}
    write_commit(
        store,
        Commit(
            task=task,
            unit=unit,
            attempt=attempt,
            run_id="synthetic",
            fingerprint="f" * 32,
            created_at="2026-01-01T00:00:00+00:00",
            parts=parts,
            embedded=0,
            sources=(source,),
        ),
    )


def compare_sets(run: str) -> None:
    """What `review migrate` does once the new labels are there."""
    from clip_transforms.labelled import LabelledRun
    from clip_transforms.review.diff import compare
    from clip_transforms.review.reviews import verdicts
    from clip_transforms.taxonomy import parse_map

    text = "merge:\n" + "".join(f"  b{n}: [a{2 * n}, a{2 * n + 1}]\n" for n in range(_LABELS // 2))
    label_map = parse_map(text, source="map", old=_OLD.prompt_set, new=_NEW.prompt_set)
    store = Store(run)
    answers = {
        found.image_id: label_map.carried(found.labels).labels or ()
        for found in verdicts(store, "old")
        if found.labels
    }
    found = compare(LabelledRun(store, _OLD.tag), _NEW.tag, label_map, answers=answers)
    if found.as_mapped != found.rows or found.reviewed != _ANSWERS:
        raise SystemExit(f"{found.as_mapped} of {found.rows} rows, {found.reviewed} reviewed")
    os._exit(0)  # Arrow's threads may still hold the last file: an interpreter that ends then is aborted


def measure(*words: object, start: str = _COMMAND) -> tuple[float, float]:
    """Seconds and peak MiB of a process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", start, *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words[:2]} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def answers_file(folder: Path, rows: int) -> Path:
    """10,000 answers to images spread over the run, as a review CSV."""
    places = np.linspace(0, rows - 1, _ANSWERS).astype(int)
    lines = [f"{place * 2654435761 % 2**128:032x},a{place % _LABELS},ann" for place in places.tolist()]
    path = folder / "answers.csv"
    path.write_text("\n".join(["image_id,labels,reviewer", *lines]) + "\n")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("rows", nargs="*", type=int, default=[100_000, 1_000_000])
    print(f"{'rows':>10}  {'command':<26}{'seconds':>9}{'peak MiB':>10}")
    for rows in parser.parse_args(argv).rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = folder / "run"
            measure(run, rows, start=_MAKE)
            chosen = ("--set", "old", "--quiet")
            steps = [
                ("imports alone", [], _IMPORTS),
                (
                    "review import",
                    ["review", "import", run, "--from", "csv", answers_file(folder, rows), *chosen],
                    _COMMAND,
                ),
                (
                    "review final, Parquet, CSV",
                    [
                        "review",
                        "final",
                        run,
                        "--output",
                        folder / "out",
                        "--write",
                        "parquet",
                        "csv",
                        *chosen,
                    ],
                    _COMMAND,
                ),
                ("two label sets compared", [run], _COMPARE),
            ]
            for words, given, start in steps:
                seconds, memory = measure(*given, start=start)
                print(f"{rows:>10,}  {words:<26}{seconds:>9.1f}{memory:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
