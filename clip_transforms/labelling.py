"""Labels from stored embeddings: a label set's text features, and the label parts of embedding parts."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.calibration import Calibration, read_calibration
from clip_transforms.config import RunConfig
from clip_transforms.engine import Engine
from clip_transforms.fingerprint import labels_fingerprint
from clip_transforms.joined import vectors_of
from clip_transforms.label_rows import labels_table
from clip_transforms.labelsets import LabelSet, read_label_set
from clip_transforms.probe import Probe, read_probe
from clip_transforms.rows import footer
from clip_transforms.scoring import score
from clip_transforms.sink import Part, PartWriter
from clip_transforms.text_features import TextFeatures, dump_text_features, load_text_features, text_features
from schemas.labels import LABELS

_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Applied:
    """All that the rows of one label set are made with."""

    label_set: LabelSet
    features: TextFeatures
    calibration: Calibration | None
    probe: Probe | None


class Labeller:
    """Labels embedding parts of one job. Safe for several threads; texts are encoded once a run.

    engine: called only where text features are missing, so that labelling stored embeddings loads no model
    on workers that find them in `text/`.
    """

    def __init__(self, config: RunConfig, *, engine: Callable[[], Engine]) -> None:
        self._config = config
        self._engine = engine
        self._store = config.store()
        self._embeddings = config.embeddings_store()
        self._applied: dict[str, Applied] = {}
        self._lock = threading.Lock()
        self.labelled = 0  # rows so far, for a progress bar

    def applied(self, tag: str) -> Applied:
        """A label set with its text features, encoded by the first who asks and kept in `text/`."""
        with self._lock:
            if tag not in self._applied:
                self._applied[tag] = self._load(tag)
            return self._applied[tag]

    def fingerprint(self, tag: str) -> str:
        """Of the label rows of this set."""
        label_set = self.applied(tag).label_set
        return labels_fingerprint(
            self._config.fingerprint,
            prompt_set=label_set.prompt_set.hash,
            calibration=label_set.calibration,
            probe=label_set.probe,
        )

    def label(self, tag: str, sources: Iterable[Part], *, stem: str) -> tuple[Part, ...]:
        """Score the stored embeddings of some parts; the label parts written."""
        writer = PartWriter(
            self._store, folder=f"labels/{tag}", schema=LABELS, stem=stem, metadata=footer(self._config)
        )
        for part in sources:
            with self._embeddings.open(part.name) as handle:
                columns = ["image_id", "uri", "embedding"]
                for batch in pq.ParquetFile(handle).iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    writer.write(self._score(batch, tag))
        return writer.close()

    def _load(self, tag: str) -> Applied:
        label_set = read_label_set(self._store, tag)
        name = f"text/{tag}.arrow"
        if not self._store.exists(name):
            made = text_features(label_set.prompt_set, self._engine().encoder)
            self._store.create(name, dump_text_features(made))
        return Applied(
            label_set=label_set,
            features=load_text_features(self._store.read(name)),
            calibration=read_calibration(self._store, tag) if label_set.calibration else None,
            probe=read_probe(self._store, tag) if label_set.probe else None,
        )

    def _score(self, batch: pa.RecordBatch, tag: str) -> pa.Table:
        applied = self.applied(tag)
        config = self._config
        scored = score(
            vectors_of(batch.column("embedding")),
            applied.features,
            applied.label_set.prompt_set,
            family=config.family,
            logit_scale=config.logit_scale,
            logit_bias=config.logit_bias,
            top_k=applied.label_set.top_k,
            accept=applied.calibration.accept or None if applied.calibration else None,  # {}: no cuts
            temperature=applied.calibration.temperature if applied.calibration else None,
            probe=applied.probe,
        )
        self.labelled += batch.num_rows
        return labels_table(
            scored,
            image_id=batch.column("image_id"),
            uri=batch.column("uri"),
            prompt_set=tag,
            fingerprint=self.fingerprint(tag),
            encoder=config.encoder_name,
            run_id=config.run_id,
            created_at=datetime.datetime.now(datetime.timezone.utc),
        )


@dataclass(frozen=True, slots=True)
class LabelMaker:
    """The view of one label set (a views.ViewMaker)."""

    labeller: Labeller
    tag: str

    def fingerprint(self) -> str:
        """Of its label rows."""
        return self.labeller.fingerprint(self.tag)

    def write(self, sources: Iterable[Part], *, stem: str) -> tuple[Part, ...]:
        """Label rows of these embedding parts."""
        return self.labeller.label(self.tag, sources, stem=stem)
