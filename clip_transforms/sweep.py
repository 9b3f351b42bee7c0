"""Removes what a run no longer needs: parts that lost or were superseded, or (to overwrite) all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clip_transforms.attempts import ATTEMPTS
from clip_transforms.commits import is_planned, plan_ids
from clip_transforms.elements import ContractError, RequestError
from clip_transforms.live import live_commits
from clip_transforms.sink import part_owner
from clip_transforms.storage import Store

_PART_FOLDERS = ("embeddings", "scores", "labels", "failures")
_SELECTED = ("pairs", "kept")  # whose parts belong to no unit
_TAG = r"[^/]+@[0-9a-f]{8}"
#: The names of a run's tree, in the order in which they may go: as long as one of the last is there, a folder
#: is known to hold (the rest of) a run. `lease/` is not among them: who overwrites holds it.
_DATA = re.compile(
    r"run\.json|report\.html|duplicates\.parquet|selection\.json|runs/[^/]+\.json"
    r"|(?:embeddings|scores|failures|pairs|kept|reviews)/part-[^/]+\.parquet|uids\.npy"
    r"|webdataset/[\d-]+\.tar|clip-retrieval/(?:img_emb|text_emb|metadata)/[^/]+_\d+\.(?:npy|parquet)"
    r"|clip-retrieval/(?:image|text)\.index"
    rf"|labels/{_TAG}/part-[^/]+\.parquet"
    r"|evaluation/[^/]+\.(?:json|html|svg)"
    r"|diffs/[^/]+\.(?:json|html|csv)"
    r"|attempts/\d/[^/]+/[0-9a-f]{8}-[^/]+\.json"
    rf"|queues/[^/]+\.parquet|text/{_TAG}[^/]*|text/pairs|calibration/{_TAG}\.json|probes/{_TAG}/.+"
)
_COMMITS = re.compile(r"commits/[^/]+/[0-9a-f]{8}-[^/]+\.json")
_UNITS = re.compile(r"plan/[^/]+/(?:units|changed)-[^/]+\.parquet")
_PLANS = re.compile(r"plan/[^/]+/plan\.json")
#: What a run leaves that is killed before its plan counts; and files that are hidden.
_BEGUN = re.compile(rf"lease/.+|{_UNITS.pattern}|text/{_TAG}[^/]*|text/pairs|selection\.json|(?:.*/)?\.[^/]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did, in parts."""

    deleted: int
    undecided: int  # unlisted, and their task is not committed: whoever writes them may still win


def sweep(store: Store, planned_units: Iterable[str], *, tasks: Sequence[str] = ("embed",)) -> Swept:
    """Delete superseded parts, and those of attempts that can no longer win; the last step of a run.

    planned_units: names of all units of the run; each must have committed all of `tasks`, else ContractError
    is raised and nothing is deleted. What was recorded of attempts goes too: there will be no more of them.

    The parts are listed first, and the commits read after that. So every part that is judged was there before
    the commits were read, and is one of these. A commit lists it and nothing supersedes it: it stays. Its
    task is committed for its unit without it, or what lists it was superseded: a commit never changes, so
    nothing will ever list it again: it goes. Its task is not committed: its attempt may be alive and win: it
    stays. The other way round, what is made between the two (a retry, and label rows of what it embedded)
    would be judged by commits older than itself. Parts of no plan of this store were left by workers of an
    overwritten run, whose commits no reader counts: they go. That is decided after the listing too: no unit
    starts before its plan is there.
    Memory: the names of the parts and of the units.
    """
    parts = {entry.name for folder in _PART_FOLDERS for entry in store.list(folder)}
    plans = plan_ids(store)
    committed: dict[str, set[str]] = {}
    for live in live_commits(store, plans=plans):
        committed.setdefault(live.commit.task, set()).add(live.commit.unit)
        parts.difference_update(part.name for found in live.parts.values() for part in found)
    _check_committed(planned_units, tasks, committed)
    lost, undecided = [], 0
    for name in sorted(parts):
        owner = part_owner(name)
        if owner is None:
            continue  # somebody else's file
        if owner.unit in committed.get(owner.task, ()) or not is_planned(owner.unit, plans):
            lost.append(name)
        else:
            undecided += 1
    store.delete(lost)
    for folder in (ATTEMPTS, *_PART_FOLDERS, *_SELECTED, "commits"):
        store.delete_temporaries(folder)
    store.delete([entry.name for entry in store.list(ATTEMPTS)])  # of units that are committed, or of no plan
    return Swept(deleted=len(lost), undecided=undecided)


def overwrite(store: Store) -> int:
    """Delete the run in this folder, to make room for another; the number of objects deleted.

    Only names of a run's tree go, data first, commits next, the plan last, so that a killed overwrite can be
    run again. Whatever else is in the folder stays, and so does the lease. Raises RequestError where the
    folder has no `plan.json` of beamclip: then it may hold anything.
    """
    names = [entry.name for entry in store.list()]
    plans = [name for name in names if _PLANS.fullmatch(name)]
    if not any(_is_ours(store.read(name)) for name in plans):
        raise _no_run(store)
    for folder in (
        *_PART_FOLDERS,
        *_SELECTED,
        "reviews",
        "queues",
        "calibration",
        "diffs",
        "text",
        ATTEMPTS,
        "commits",
        "plan",
    ):
        store.delete_temporaries(folder)
    deleted = 0
    for kind in (_DATA, _COMMITS, _UNITS, _PLANS):
        going = sorted(name for name in names if kind.fullmatch(name))
        store.delete(going)
        deleted += len(going)
    return deleted


def check_overwrite(store: Store, *, has_run: bool) -> None:
    """Raise RequestError where a folder that is to be overwritten holds what may be somebody's, or people's answers.

    has_run: whether there is a plan. A folder without one that is empty, or not there, has nothing to lose; nor
    has one whose run was killed while it was planned. Reviews cannot be made again by any command.
    """
    if has_run:
        for entry in store.list("reviews/"):
            raise RequestError(
                f"--overwrite would delete what people answered ({store.join(entry.name)}): give another --output, or "
                f"move {store.join('reviews')} away first"
            )
        return
    for entry in store.list():
        if not _BEGUN.fullmatch(entry.name):
            raise _no_run(store, f", but {entry.name}")


def _no_run(store: Store, holds: str = "") -> RequestError:
    return RequestError(
        f"--overwrite deletes only runs of beamclip, and {store.root} has no plan/*/plan.json of one{holds}; "
        "give another --output, or empty that folder yourself"
    )


def _is_ours(data: bytes) -> bool:
    try:
        body = json.loads(data)
    except ValueError:
        return False
    return isinstance(body, dict) and "beamclip" in body


def _check_committed(
    planned_units: Iterable[str], tasks: Sequence[str], committed: dict[str, set[str]]
) -> None:
    planned = 0
    missing: list[tuple[str, str]] = []
    for unit in planned_units:
        planned += 1
        missing.extend((unit, task) for task in tasks if unit not in committed.get(task, ()))
    if missing:
        unit, task = missing[0]
        raise ContractError(
            f"{len(missing)} tasks of the {planned} planned units are not committed, e.g. {task} of {unit}; "
            "nothing was swept"
        )
