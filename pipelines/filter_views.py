"""Which views a selection needs beside the embeddings and where they are; and what its workers are told."""

from __future__ import annotations

from dataclasses import dataclass

from clip_transforms.joined import is_joined
from clip_transforms.labelsets import LabelSet, label_set_tags
from clip_transforms.live import Counts, count
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.pairs.rules import RuleSet
from clip_transforms.pairs.scores import has_pairs
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS, View, label_view
from pipelines.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The views of a selection."""

    views: tuple[
        tuple[View, str], ...
    ]  # each with the url of the run that has it, or will have: scores first
    missing: tuple[View, ...]  # to be made, or to be completed, in the selection's own folder
    label_sets: tuple[LabelSet, ...]  # of the missing ones


def rule_label_sets(rules: RuleSet | None) -> tuple[LabelSet, ...]:
    """The label sets that rules ask for, with the scores of all their classes."""
    if rules is None:
        return ()
    return tuple(
        LabelSet(prompt_set=prompts, top_k=len(prompts.classes)) for prompts in rules.prompt_sets.values()
    )


def locate_views(rules: RuleSet | None, *, store: Store, source: Store, fresh: bool) -> Located:
    """Where each view is: in the selection's own folder, complete in the run that it chooses from, or nowhere yet.

    fresh: the selection's own folder is about to be emptied.
    """
    sets = {label_view(each.tag): each for each in rule_label_sets(rules)}
    theirs = count(source)
    separate = store.root != source.root
    views, missing = [], []
    for view in (PAIRS, *sets):
        if separate and not fresh and _has(store, view):
            run, complete = (
                store,
                _rows(count(store), view) == theirs.embedded and is_joined(source, view, store),
            )
        else:
            complete = _has(source, view) and _rows(theirs, view) == theirs.embedded
            run = source if complete else store
        views.append((view, run.root))
        if not complete:
            missing.append(view)
    made = tuple(sets[view] for view in missing if view in sets)
    return Located(views=tuple(views), missing=tuple(missing), label_sets=made)


def _has(store: Store, view: View) -> bool:
    return has_pairs(store) if view == PAIRS else view.folder.split("/", 1)[1] in label_set_tags(store)


def _rows(counts: Counts, view: View) -> int:
    return counts.scored if view == PAIRS else counts.labels.get(view.folder.split("/", 1)[1], 0)


def own_views(job: Job) -> tuple[tuple[View, str], ...]:
    """The views of a job that makes them all, in its own folder: the scores first."""
    views = (PAIRS, *(label_view(each.tag) for each in rule_label_sets(job.rules)))
    return tuple((view, job.store.root) for view in views)


def select_config(
    job: Job, *, encoder_name: str, fingerprint: str, embeddings: str, views: tuple[tuple[View, str], ...]
) -> SelectConfig:
    """What the workers of a filter job are told of its selection. embeddings: the run that it chooses from."""
    if job.selection is None:
        raise ValueError("the job has no selection")
    return SelectConfig(
        output=job.store.root,
        embeddings_run=embeddings,
        views=views,
        selection=job.selection,
        rules=job.rules,
        encoder_name=encoder_name,
        fingerprint=fingerprint,
        run_id=job.run_id,
        started_at=job.started_at,
        sources=job.sources,
        fetch=job.engine.fetch,
        storage_options=job.store.storage_options,
    )
