"""Whether a refit helps on the part of the audit that nothing was trained on."""

from __future__ import annotations

import numpy as np

from clip_transforms.evaluation.judges import TextModel
from clip_transforms.evaluation.metrics import PairedDifference
from clip_transforms.probe import Probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.refining.refit import compare_right
from clip_transforms.refining.reviewed import Bool, Reviewed
from clip_transforms.scoring import Scored, score
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
            score(
                held.embeddings,
                features,
                prompts,
                family=model.family,
                logit_scale=model.logit_scale,
                logit_bias=model.logit_bias,
                probe=used,
            ),
            held.targets,
        )
        for used in (probe, None)
    ]
    return compare_right(found[0], found[1])


def right_rows(scored: Scored, targets: Bool) -> Bool:
    """Whether each scored row [N] has the label, or in a multi-label set exactly the labels, of targets [N, C]."""
    if scored.rules.task == "single":
        return np.asarray(scored.label == targets.argmax(axis=1), bool)
    held = np.zeros(targets.shape, bool)
    held[np.repeat(np.arange(len(targets)), scored.hit_counts), scored.hits] = True
    return np.asarray((held == targets).all(axis=1), bool)
