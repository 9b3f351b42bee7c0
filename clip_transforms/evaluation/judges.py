"""What counts one prompt set over the stored embeddings, batch by batch: its figures, rivals and probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from clip_transforms.encoders.base import Family
from clip_transforms.evaluation.compare import Comparison, PairedTally, Rival
from clip_transforms.evaluation.metrics import Bool, Int64, Reliability
from clip_transforms.evaluation.multi import MultiFigures, MultiTally, ScoreTable
from clip_transforms.evaluation.shots import FewShot, few_shot
from clip_transforms.evaluation.single import TOP, SingleFigures, SingleTally
from clip_transforms.evaluation.split import Gathered, ShotOptions, split_rows
from clip_transforms.evaluation.stored import EmbeddedRows, StoredEmbeddings
from clip_transforms.evaluation.truth import TruthCounts, TruthMap
from clip_transforms.logits import class_logits
from clip_transforms.probabilities import Float32, Int32
from clip_transforms.probe import Probe
from clip_transforms.prompts import PromptSet
from clip_transforms.score_rules import score_rules
from clip_transforms.scoring import Scored, score
from clip_transforms.text_features import TextFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """label_map and by_index: see TruthMap. delimiter: between the truths of a multi-label set. resamples: of
    the bootstrap, 0 for none. shots: None without the few-shot comparison.
    """

    label_map: Mapping[str, str] | None = None
    by_index: bool = False
    delimiter: str = ","
    resamples: int = 1000
    seed: int = 0
    shots: ShotOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """How the encoder's cosines become probabilities; see `scoring.score`."""

    family: Family
    logit_scale: float
    logit_bias: float

    def score(
        self,
        embeddings: Float32,
        features: TextFeatures,
        prompts: PromptSet,
        *,
        top_k: int = 5,
        probe: Probe | None = None,
    ) -> Scored:
        """Score embeddings [N, D]."""
        return score(
            embeddings,
            features,
            prompts,
            family=self.family,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            top_k=top_k,
            probe=probe,
        )

    def logits(
        self,
        embeddings: Float32,
        features: TextFeatures,
        prompts: PromptSet,
        *,
        probe: Probe | None = None,
    ) -> Float32:
        """The logits [N, C] behind the scores, in the order of the classes."""
        return class_logits(
            embeddings,
            features,
            prompts,
            family=self.family,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            probe=probe,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A prompt set to evaluate, and what it is held against."""

    tag: str  # <set>@<hash8>
    prompts: PromptSet
    features: TextFeatures
    rivals: tuple[tuple[Rival, TextFeatures], ...] = ()


class SingleJudge:
    """Counts a single-label set, its rivals, and what few-shot probes need."""

    def __init__(self, subject: Subject, model: TextModel, options: EvaluationOptions) -> None:
        self.subject, self.counts = subject, TruthCounts()
        self.truths = truth_map(subject.prompts, options)
        self._model, self._options = model, options
        self._tally = SingleTally(score_rules(subject.prompts))
        self._rivals = [
            (
                rival.prompts,
                features,
                self.truths if rival.derived else truth_map(rival.prompts, options),
                PairedTally(),
            )
            for rival, features in subject.rivals
        ]
        self._gathered = Gathered() if options.shots else None

    def add(self, rows: EmbeddedRows) -> None:
        """Take some images."""
        places = self.truths.places(rows.truths, self.counts)
        classes = len(self.subject.prompts.classes)
        if self._gathered is not None:
            self._gathered.add(np.where(places < classes, places, np.int32(-1)), rows.keys)
        known = places >= 0
        if not known.any():
            return
        embeddings, places = rows.embeddings[known], places[known]
        scored = self._model.score(embeddings, self.subject.features, self.subject.prompts, top_k=TOP)
        self._tally.add(scored, places)
        truths = [rows.truths[row] for row in np.flatnonzero(known).tolist()]
        for prompts, features, truth_map_of_rival, tally in self._rivals:
            theirs = truth_map_of_rival.places(truths)
            both = (theirs >= 0) & (theirs < len(prompts.classes)) & (places < classes)
            if both.any():
                other = self._model.score(embeddings[both], features, prompts, top_k=TOP)
                tally.add(_right(scored.top_index[both], places[both]), _right(other.top_index, theirs[both]))

    def figures(self, *, failed: int) -> SingleFigures:
        """The set's figures; failed: images that could not be embedded."""
        options = self._options
        return self._tally.figures(failed=failed, resamples=options.resamples, seed=options.seed)

    def comparisons(self) -> tuple[Comparison, ...]:
        """The set against each of its rivals."""
        prompts, options = self.subject.prompts, self._options
        return tuple(
            tally.comparison(
                prompts,
                rival,
                top5=min(len(prompts.classes), len(rival.prompts.classes)) > TOP,
                resamples=options.resamples,
                seed=options.seed,
            )
            for (rival, _), (_, _, _, tally) in zip(self.subject.rivals, self._rivals, strict=True)
        )

    def few_shot(self, stored: StoredEmbeddings, report: Callable[[str], None]) -> FewShot | None:
        """The probes against zero-shot, where they were asked for. Raises RequestError, see `few_shot`."""
        shots, prompts = self._options.shots, self.subject.prompts
        if shots is None or self._gathered is None:
            return None
        classes = len(prompts.classes)
        split = split_rows(self._gathered, shots, classes=classes)
        place = np.full(classes, -1, np.int64)
        place[split.classes] = np.arange(len(split.classes))

        def rank(embeddings: Float32) -> tuple[Int64, Int64]:
            scored = self._model.score(embeddings, self.subject.features, prompts, top_k=classes)
            places = place[scored.top_index]
            first = (places >= 0).argmax(axis=1)
            best = places[np.arange(len(places)), first]
            return best, scored.top_index[:, 0].astype(np.int64)

        return few_shot(split, stored.vectors, rank, shots, names=prompts.classes, report=report)

    def close(self) -> None:
        """Nothing is held open."""


class MultiJudge:
    """Counts a multi-label set. Close it: its scores may lie in a temporary file."""

    def __init__(
        self, subject: Subject, model: TextModel, options: EvaluationOptions, *, images: int
    ) -> None:
        self.subject, self.counts = subject, TruthCounts()
        self.truths = truth_map(subject.prompts, options)
        self._model, self._options = model, options
        rules = score_rules(subject.prompts)
        self._tally = MultiTally(
            labels=rules.classes,
            thresholds=rules.thresholds,
            table=ScoreTable(len(rules.classes), images),
            reliability=Reliability(),
        )

    def add(self, rows: EmbeddedRows) -> None:
        """Take some images."""
        judged, labels = self.truths.matrix(
            rows.truths, delimiter=self._options.delimiter, counts=self.counts
        )
        if judged.any():
            prompts = self.subject.prompts
            scored = self._model.score(
                rows.embeddings[judged], self.subject.features, prompts, top_k=len(prompts.classes)
            )
            self._tally.add(scored, labels[judged], rows.keys[judged])

    def figures(self, *, failed: int) -> MultiFigures:
        """The set's figures; failed: images that could not be embedded."""
        options = self._options
        return self._tally.figures(failed=failed, resamples=options.resamples, seed=options.seed)

    def close(self) -> None:
        """Drop the scores."""
        self._tally.table.close()


def truth_map(prompts: PromptSet, options: EvaluationOptions) -> TruthMap:
    """What the truths mean for a set; raises RequestError where the map names what it does not have."""
    return TruthMap(prompts, label_map=options.label_map, by_index=options.by_index)


def _right(top_index: Int32, truth: Int32) -> tuple[Bool, Bool]:
    """Right in top-1, and in top-5."""
    same = top_index == truth[:, None]
    return same[:, 0], same.any(axis=1)
