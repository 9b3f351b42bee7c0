"""Runs of the command in this process, and their rows read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from clip_transforms.config import RunConfig
from clip_transforms.encoders import load
from pipelines import cli, job, planning
from pipelines.flags import build_parser

#: Columns that may differ between two runs over the same input.
VOLATILE = ("run_id", "created_at", "attempts")


def beamclip(*args: object) -> int:
    """The exit code of `beamclip ...`; argparse's own refusals too."""
    try:
        return cli.main([str(arg) for arg in args])
    except SystemExit as end:
        return int(end.code or 0)


def rows(run: Path, folder: str) -> list[dict[str, Any]]:
    """The rows of a folder of a finished run, by image id and uri, without what may differ between runs."""
    if not (run / folder).is_dir():
        return []
    table = ds.dataset(str(run / folder), format="parquet").to_table()
    kept = table.drop_columns([name for name in VOLATILE if name in table.column_names])
    return sorted(kept.to_pylist(), key=lambda row: (row["image_id"], row["uri"]))


def all_rows(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every data set of a run."""
    sets = [f"labels/{path.name}" for path in sorted((run / "labels").glob("*")) if any(path.iterdir())]
    return {folder: rows(run, folder) for folder in ("embeddings", "failures", *sets)}


def summary(run: Path) -> dict[str, Any]:
    """The content of run.json."""
    return json.loads((run / "run.json").read_text())


def written(run: Path) -> list[str]:
    """Every file of a run but its lease, relative."""
    found = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("lease/"))


class NoLease:
    """In place of a lease, where there is one launcher only."""

    def check(self) -> None:
        """Nobody else is here."""


def planned(*args: object) -> RunConfig:
    """The config of a `beamclip label ...` whose plan is written, and nothing else done."""
    parsed = build_parser("label", "", labels=True).parse_args([str(arg) for arg in args])
    asked = job.check_request(parsed, labels=True)
    config = planning.make_config(asked, load(asked.spec))
    planning.write_plan(asked, config, planning.scanned(asked), NoLease())  # type: ignore[arg-type]
    return config
