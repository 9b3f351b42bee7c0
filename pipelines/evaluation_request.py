"""The request of `beamclip evaluate`, checked before anything is listed, and held against the first truths."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clip_transforms.elements import Failure, RequestError, UnitKind
from clip_transforms.evaluation.compare import Rival, rival_of
from clip_transforms.evaluation.judges import EvaluationOptions, truth_map
from clip_transforms.evaluation.probe import require_scikit_learn
from clip_transforms.evaluation.split import ShotOptions
from clip_transforms.evaluation.truth import (
    FOLDER,
    Truth,
    TruthCounts,
    TruthSource,
    as_truth,
    folder_of,
    nothing_matches,
)
from clip_transforms.filesystems import open_filesystem
from clip_transforms.plan import plan_table
from clip_transforms.prompts import PromptSet
from clip_transforms.sources import PlanItem, read_unit
from pipelines.job import Job, load_label_sets
from pipelines.planning import scanned
from pipelines.storage_options import storage_options

#: Options that `beamclip embed` does not have.
OURS = frozenset(
    {
        "from_run",
        "labels_from",
        "prompts",
        "label_map",
        "delimiter",
        "compare",
        "few_shot",
        "few_shot_draws",
        "few_shot_test",
        "resamples",
        "evaluation_seed",
        "json",
    }
)
_SHOTS = (1, 2, 4, 8, 16)
_LOOK_INSIDE = 256  # images of a shard or Parquet slice that are looked at before the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be evaluated and how."""

    labels_from: str
    prompt_sets: tuple[PromptSet, ...]
    rivals: tuple[tuple[str, tuple[Rival, ...]], ...]  # by the name of the set
    options: EvaluationOptions
    storage_options: Mapping[str, object]

    def rivals_of(self, prompts: PromptSet) -> tuple[Rival, ...]:
        """What a set is held against."""
        return dict(self.rivals)[prompts.name]


def read_request(args: argparse.Namespace) -> Request:
    """The request that the options make. Raises RequestError; reads prompt sets and the label map alone."""
    storage = storage_options(getattr(args, "storage_option", []))
    if not getattr(args, "labels_from", ""):
        raise RequestError(
            "--labels-from is missing: `folder`, where images lie in folders named by their label, or a column"
        )
    sets = tuple(item.prompt_set for item in load_label_sets(args, storage))
    if not sets:
        raise RequestError(
            "--prompts is missing: a shipped set (`beamclip prompts list`) or a prompt-set file"
        )
    compared = getattr(args, "compare", [])
    label_map, by_index = _label_map(getattr(args, "label_map", None), storage)
    options = EvaluationOptions(
        label_map=label_map,
        by_index=by_index,
        delimiter=getattr(args, "delimiter", ","),
        resamples=getattr(args, "resamples", 1000),
        seed=getattr(args, "evaluation_seed", 0),
        shots=_shots(args, sets),
    )
    if not options.delimiter:
        raise RequestError("--delimiter is empty: expected what stands between an image's truths, such as ,")
    for prompts in sets:
        truth_map(prompts, options)
    return Request(
        labels_from=args.labels_from,
        prompt_sets=sets,
        rivals=tuple(
            (
                prompts.name,
                tuple(rival_of(prompts, source, storage_options=storage) for source in compared),
            )
            for prompts in sets
        ),
        options=options,
        storage_options=storage,
    )


def check_first_truths(job: Job, request: Request) -> None:
    """Look through the input until each set knows the truth of some image: nothing is to be embedded in vain.

    Of shards and Parquet files only the first images of the first one are looked at. Raises RequestError where
    no truth is known; images whose truths cannot be seen yet are given the benefit of the doubt.
    """
    source = TruthSource(name=request.labels_from, caption_column=job.identity.caption_column)
    left = [(prompts, truth_map(prompts, request.options), TruthCounts()) for prompts in request.prompt_sets]
    columns: set[str] = set()
    for truth, names in _truths(job, source):
        if len(columns) < 100:
            columns.update(names)
        if truth is _UNSEEN:
            return
        for prompts, known, counts in list(left):
            _count(prompts, known, counts, truth, request.options.delimiter)
            if counts.judged:
                left.remove((prompts, known, counts))
        if not left:
            return
    prompts, _, counts = left[0]
    raise nothing_matches(source, prompts, counts, columns=columns)


_UNSEEN = "\0unseen"


def _count(prompts: PromptSet, known: Any, counts: TruthCounts, truth: Truth, delimiter: str) -> None:
    if prompts.task == "multi":
        known.matrix([truth], delimiter=delimiter, counts=counts)
    else:
        known.places([truth], counts)


def _truths(job: Job, source: TruthSource) -> Iterator[tuple[Truth, list[str]]]:
    """The truth of each image, as far as the listing shows it, with the names of the columns beside it."""
    for item in scanned(job):
        if item.kind is not UnitKind.REFS:
            yield from _inside(item, job, source)
            yield _UNSEEN, []
            return
        if item.problem_reason is not None:
            continue
        if item.extra is None and item.pointer_file is not None:
            yield _UNSEEN, []
            return
        yield _truth(source, item.uri, item.extra, item.caption)


def _inside(item: PlanItem, job: Job, source: TruthSource) -> Iterator[tuple[Truth, list[str]]]:
    found = read_unit(item.kind, plan_table([item]), job.sources)
    carried = [name for name, _ in job.sources.carry_types()]
    for image in islice(found, _LOOK_INSIDE):
        if isinstance(image, Failure):
            continue
        if source.name in carried:
            yield as_truth(image.carry[carried.index(source.name)]), carried
        else:
            yield _truth(source, image.uri, image.extra, image.caption)


def _truth(source: TruthSource, uri: str, extra: str | None, caption: str | None) -> tuple[Truth, list[str]]:
    if source.name == FOLDER:
        return folder_of(uri), []
    return source.of_column(extra, caption), list(json.loads(extra)) if extra else []


def _shots(args: argparse.Namespace, sets: tuple[PromptSet, ...]) -> ShotOptions | None:
    asked = [name for name in ("few_shot_draws", "few_shot_test") if hasattr(args, name)]
    if not hasattr(args, "few_shot"):
        if asked:
            flag = "--" + asked[0].replace("_", "-")
            raise RequestError(f"{flag} is for the few-shot comparison: add --few-shot, or leave it out")
        return None
    require_scikit_learn()
    multi = [prompts.name for prompts in sets if prompts.task == "multi"]
    if multi:
        raise RequestError(
            f"--few-shot is for single-label sets, and '{multi[0]}' is `task: multi`; evaluate it by itself"
        )
    return ShotOptions(
        shots=tuple(sorted(set(args.few_shot))) or _SHOTS,
        draws=getattr(args, "few_shot_draws", 5),
        test_share=getattr(args, "few_shot_test", 0.5),
        seed=getattr(args, "evaluation_seed", 0),
    )


def _label_map(given: str | None, storage: Mapping[str, object]) -> tuple[Mapping[str, str] | None, bool]:
    if given is None or given == "index":
        return None, given == "index"
    expected = 'expected a JSON object of truths to labels, such as {"n02084071": "dog"}'
    try:
        filesystem, path = open_filesystem(given, storage)
        body = json.loads(filesystem.cat_file(path))
    except ValueError as error:
        raise RequestError(f"--label-map {given} is not JSON: {error}; {expected}") from error
    except Exception as error:  # each store's client has exceptions of its own
        raise RequestError(f"--label-map {given} cannot be read: {error}; {expected}") from error
    if not isinstance(body, dict) or not body or not all(isinstance(value, str) for value in body.values()):
        raise RequestError(f"--label-map {given}: {expected}")
    return body, False
