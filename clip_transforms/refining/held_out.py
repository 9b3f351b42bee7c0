"""Whether a refit helps on the part of the audit that nothing was trained on."""

from __future__ import annotations

import numpy as np

from clip_transforms.evaluation.judges import TextModel
from clip_transforms.evaluation.metrics import PairedDifference
from clip_transforms.probe import Probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.refining.refit import compare_right
from clip_transforms.refining.reviewed import Bool, Reviewed
from clip_transforms.review.agreement import agrees
from clip_transforms.scoring import Scored
from clip_transforms.text_features import TextFeatures


def judge_held_out(
    reviewed: Reviewed, prompts: PromptSet, features: TextFeatures, model: TextModel, probe: Probe
) -> PairedDifference | None:
    """How many of the held-out images have the right labels with the probe and without; None where none is held out.

    The labels are those that rows get: under thresholds, backed off to groups.
    """
    held = reviewed.rows(reviewed.held_out)
    if not len(held.ids):
        return None
    found = [
        right_rows(
            model.score(held.embeddings, features, prompts, probe=used),
            held.targets,
            prompts,
        )
        for used in (probe, None)
    ]
    return compare_right(found[0], found[1])


def right_rows(scored: Scored, targets: Bool, prompts: PromptSet) -> Bool:
    """Whether the labels of each scored row [N] are those of targets [N, C], as `agreement.agrees` has it."""
    names, paths = scored.rules.names, prompts.paths()
    if prompts.task == "single":
        given = [[names[place]] if place >= 0 else [] for place in scored.label.tolist()]
    else:
        hits = np.split(scored.hits, np.cumsum(scored.hit_counts)[:-1])
        given = [[names[place] for place in row.tolist()] for row in hits]
    answers = [[names[place] for place in np.flatnonzero(row)] for row in targets]
    return np.array(
        [
            agrees(labels, answer, paths=paths, task=prompts.task)
            for labels, answer in zip(given, answers, strict=True)
        ],
        bool,
    )
