"""What a worker must know of a run: small, picklable, the same on every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_transforms.encoders import EncoderSpec, Family
from clip_transforms.engine import EngineOptions, EngineStats
from clip_transforms.sources import SourceOptions
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS, View, label_view


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One job over one run. Made by the launcher once everything is resolved and checked."""

    output: str  # fsspec url of the run's folder
    run_id: str  # of this job; a run that is resumed has several
    started_at: str  # of its graph; ISO 8601, UTC
    encoder: EncoderSpec  # device and precision resolved
    encoder_name: str
    weights_id: str  # a worker whose weights differ refuses to work
    dim: int
    family: Family
    logit_scale: float
    logit_bias: float
    fingerprint: str  # of the embeddings
    sources: SourceOptions
    engine: EngineOptions
    label_sets: tuple[str, ...] = ()  # tags `<set>@<hash8>` that every unit must end with
    pairs: bool = False  # whether every unit must end with the scores of its image-text pairs
    embeddings_run: str | None = None  # url of another run whose embeddings are labelled or scored
    retry_failed: bool = False
    embedding_dtype: str = "float32"
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def store(self) -> Store:
        """The run's folder."""
        return Store(self.output, self.storage_options)

    def views(self) -> tuple[View, ...]:
        """What every unit must end with beside its embeddings, in the order of the work."""
        return (*((PAIRS,) if self.pairs else ()), *map(label_view, self.label_sets))

    def embeddings_store(self) -> Store:
        """Where the embeddings are: this run, or the one it labels."""
        return Store(self.embeddings_run or self.output, self.storage_options)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """What one task of one unit came to; the graph adds these up."""

    unit: str
    task: str
    embedded: int = 0
    failed: int = 0
    failed_by: Mapping[str, int] = field(default_factory=dict)  # "<stage>_<reason>" -> rows
    labelled: int = 0
    scored: int = 0  # pairs
    done_before: bool = False  # its commit was there already
    retries: int = 0  # requests that the process made again since its last report
    stats: EngineStats | None = None

    def counts(self) -> dict[str, float]:
        """The numbers that add up over units."""
        kind = self.task.split("-", 1)[0]
        found: dict[str, float] = {f"{kind}_units{'_before' if self.done_before else ''}": 1}
        found["retries"] = self.retries
        if self.done_before:
            return found
        found |= {"embedded": self.embedded, "failed": self.failed, "labelled": self.labelled}
        found["scored"] = self.scored
        if self.stats is not None:
            for stage in ("fetch", "decode", "encode"):
                spread = getattr(self.stats, f"{stage}_ms")
                found |= {f"{stage}_ms": spread.sum, f"{stage}_images": spread.count}
        return found
