"""The accounts of a run: recomputed from its commits, written to run.json, and held against the contract."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from clip_transforms.commits import EMBEDDINGS, FAILURES
from clip_transforms.config import RunConfig
from clip_transforms.duplicates import find_duplicates
from clip_transforms.elements import ContractError, Reason
from clip_transforms.labelsets import label_set_tags
from clip_transforms.live import Counts, count, live_parts
from clip_transforms.memory import peak_memory
from clip_transforms.pairs.config import read_selection
from clip_transforms.pairs.funnel import funnel_problems, read_funnel
from clip_transforms.pairs.scores import has_pairs
from clip_transforms.plan import Extension, iter_units, read_extensions
from clip_transforms.retries import REPEATS
from clip_transforms.storage import Store
from clip_transforms.sweep import sweep
from clip_transforms.views import PAIRS, View, label_view

_PACKAGES = ("beamclip", "apache-beam", "torch", "open_clip_torch", "pillow", "pyarrow", "numpy", "fsspec")
_STAGES = ("fetch", "decode", "encode")


def finish_run(config: RunConfig, counted: Mapping[str, float], *, last: bool = True) -> dict[str, Any]:
    """The last step of a job: sweep, find repeated ids, recount, write run.json; returns its content.

    counted: the unit reports of this job, added up. last: False where more follows, which writes run.json.
    Runs on one worker, once all units are done; run again it writes the same.
    """
    store = config.store()
    tasks = [view.task for view in config.views()]
    sweep(
        store, planned_units(config.embeddings_store()), tasks=tasks if config.embeddings_run else ["embed"]
    )
    duplicates = None
    if not config.embeddings_run:
        parts = live_parts(store)
        duplicates = find_duplicates(store, [*parts.get(EMBEDDINGS, ()), *parts.get(FAILURES, ())])
    summary = {
        **summarise(store),
        "duplicate_ids": duplicates,
        **job_facts(run_id=config.run_id, started_at=config.started_at, counted=counted),
    }
    if last:
        store.write("run.json", json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False).encode())
    return summary


def summarise(store: Store) -> dict[str, Any]:
    """What `beamclip status` tells: recomputed from the plan and the commits of a run, nothing remembered.

    A run of views alone (`from_run`) tells of the images that it views: those of the other run.
    """
    extensions = read_extensions(store)
    config = extensions[0].config if extensions else {}
    other = config.get("from_run")
    plans = read_extensions(Store(str(other), store.storage_options)) if other else extensions
    counts = count(store)
    images = count(Store(str(other), store.storage_options)) if other else counts
    tags = label_set_tags(store)
    scored = has_pairs(store)
    views = [*([PAIRS] if scored else []), *map(label_view, tags)]
    planned = sum(extension.units for extension in plans) if views or not other else 0
    labelled = {tag: counts.labels.get(tag, 0) for tag in tags}
    return {
        "output": store.root,
        "from_run": other,
        "inputs": images.inputs,
        "embedded": images.embedded,
        "failed": images.failed,
        "failures_by_reason": dict(images.failures_by_reason),
        "lost_shards": {"count": images.lost_shards, "examples": list(images.lost_examples)},
        "planned_images": _planned_images(extensions),
        "units": {"planned": planned, "committed": _committed(counts.units, views, views_only=bool(other))},
        "labels": labelled,
        "scored": counts.scored if scored else None,
        "filter": _funnel(store, images),
        "encoder": config.get("encoder_name"),
        "fingerprint": config.get("fingerprint"),
        "fingerprints": dict(images.fingerprints),
        "config": dict(config),
    }


def planned_units(store: Store) -> Iterator[str]:
    """The names of all units of a run's plan."""
    for extension in read_extensions(store):
        for file in extension.files:
            yield from (unit.name for unit in iter_units(store, extension, file))


def contract_problems(summary: Mapping[str, Any], *, max_failure_rate: float) -> list[str]:
    """Why the run does not meet its contract; empty where it does.

    >>> good = {"units": {"planned": 2, "committed": 2}, "inputs": 3, "embedded": 3, "failed": 0, "labels": {}}
    >>> good |= {"planned_images": 3, "failures_by_reason": {}, "fingerprints": {"f": 3}, "from_run": None}
    >>> contract_problems(good, max_failure_rate=0.05)
    []
    >>> contract_problems({**good, "inputs": 2, "embedded": 2}, max_failure_rate=0.05)
    ['3 images were planned, 2 have a row']
    """
    problems = []
    units = summary["units"]
    if units["committed"] != units["planned"]:
        problems.append(
            f"{units['planned'] - units['committed']} of {units['planned']} units are not committed"
        )
    if len(summary["fingerprints"]) > 1:
        problems.append(f"embeddings of different fingerprints: {', '.join(sorted(summary['fingerprints']))}")
    problems += funnel_problems(summary)
    if not summary["from_run"]:  # else the images are another run's, and so is what became of them
        problems += _row_problems(summary, complete=units["committed"] == units["planned"])
        problems += _failure_problems(summary, max_failure_rate)
    return problems


def _row_problems(summary: Mapping[str, Any], *, complete: bool) -> Iterator[str]:
    """Rows that are missing, or are too many; complete: whether all units are committed."""
    if not complete:
        return
    planned, embedded = summary["planned_images"], summary["embedded"]
    if planned not in (None, summary["inputs"]):
        yield f"{planned} images were planned, {summary['inputs']} have a row"
    for tag, rows in summary["labels"].items():
        if rows != embedded:
            yield f"{embedded} images are embedded, {rows} have labels of {tag}"
    if summary.get("scored") not in (None, embedded):
        yield f"{embedded} images are embedded, {summary['scored']} have scores"


def _failure_problems(summary: Mapping[str, Any], max_failure_rate: float) -> Iterator[str]:
    """Too many failures; and shards of which nobody knows how many images were not seen, whatever the rate."""
    cut = summary["failures_by_reason"].get(Reason.TRUNCATED_SHARD.value, 0)
    if cut:
        yield f"{cut} shards are truncated: what could be read of them was kept"
    lost = summary.get("lost_shards") or {"count": 0}
    if lost["count"]:
        more = ", ..." if lost["count"] > len(lost["examples"]) else ""
        yield (
            f"{lost['count']} shards could not be read, or not to their end ({', '.join(lost['examples'])}{more}): "
            "what else they hold has no rows; --retry-failed reads them again"
        )
    rate = summary["failed"] / summary["inputs"] if summary["inputs"] else 0.0
    if rate > max_failure_rate:
        yield (
            f"{summary['failed']} of {summary['inputs']} inputs failed, {rate:.1%}; --max-failure-rate is "
            f"{max_failure_rate:g}"
        )


def check_contract(summary: Mapping[str, Any], *, max_failure_rate: float) -> None:
    """Raise ContractError naming all that is not as promised."""
    problems = contract_problems(summary, max_failure_rate=max_failure_rate)
    if problems:
        raise ContractError("; ".join(problems))


def _funnel(store: Store, counts: Counts) -> dict[str, Any] | None:
    """The funnel of a filter run, from its rows; counts: of the run whose images were chosen from."""
    kept = read_selection(store)
    if kept is None:
        return None
    found = read_funnel(store).to_plain()
    facts = {"done": kept.done, "threshold": kept.threshold, "how": asdict(kept.selection)}
    return {**found, "inputs": counts.inputs, "failed": counts.failed, **facts}


def _planned_images(extensions: list[Extension]) -> int | None:
    rows = [extension.rows for extension in extensions]
    return None if None in rows else sum(row for row in rows if row is not None)


def _committed(units: Mapping[str, int], views: Sequence[View], *, views_only: bool) -> int:
    if not views_only:
        return units.get("embed", 0)
    return min((units.get(view.task, 0) for view in views), default=0)


def job_facts(*, run_id: str, started_at: str, counted: Mapping[str, float]) -> dict[str, Any]:
    """What run.json says of the job that wrote it. started_at: ISO 8601; counted: its unit reports, added up."""
    ended = datetime.datetime.now(datetime.timezone.utc)
    seconds = max(1e-9, (ended - datetime.datetime.fromisoformat(started_at)).total_seconds())
    done = counted.get("embedded", 0) + counted.get("failed", 0)
    stages = {}
    for stage in _STAGES:
        busy = counted.get(f"{stage}_ms", 0.0) / 1e3
        stages[stage] = round(counted.get(f"{stage}_images", 0) / busy, 2) if busy else None
    return {
        "run_id": run_id,
        "started_at": started_at,
        "ended_at": ended.isoformat(),
        "images_per_second": round(done / seconds, 2),
        "images_per_second_of_stage": stages,  # one thread of it
        "retries": int(counted.get("retries", 0)) + REPEATS.take(),  # requests to stores, made again by us
        "units_before": int(counted.get("embed_units_before", 0)),
        "versions": versions(),
        "peak_memory_bytes": peak_memory(),  # of the process that ran this last step
    }


def versions() -> dict[str, str]:
    """Versions of what results can depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
