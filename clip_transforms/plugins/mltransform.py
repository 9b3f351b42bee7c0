"""MLTransform embeddings of image and text columns, with artifacts that can be read back."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.ml.transforms.base import EmbeddingsManager

from clip_transforms.elements import Failure, RequestError
from clip_transforms.encoders import EncoderSpec
from clip_transforms.engine import EngineOptions
from clip_transforms.plugins.inference import (
    DEFAULT_MAX_BATCH,
    ClipImageHandler,
    ClipModel,
    ClipTextHandler,
)
from clip_transforms.transforms.encoders import DEFAULT_ENCODER, encoder_spec


class ColumnsHandler(ModelHandler[Any, Any, ClipModel]):
    """Rows (dicts, beam.Rows or named tuples) in, the same rows with their columns embedded out."""

    def __init__(self, handler: ClipImageHandler | ClipTextHandler, columns: Sequence[str]) -> None:
        super().__init__()
        self._handler = handler
        self._columns = list(columns)

    def load_model(self) -> ClipModel:
        """The process's engine with its encoder."""
        return self._handler.load_model()

    def run_inference(
        self,
        batch: Sequence[Any],
        model: ClipModel,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Any]:
        """One row for each, in their order. Raises RequestError where a column is missing."""
        rows = [_as_dict(row, self._columns) for row in batch]
        values = [row[column] for row in rows for column in self._columns]
        found = iter(self._handler.run_inference(values, model, inference_args))
        for row in rows:
            for column in self._columns:
                outcome = next(found).inference
                failed = isinstance(outcome, Failure)
                row[column] = None if failed else outcome.tolist()
                row[f"{column}_failure"] = _told(outcome) if failed else None
        return [
            row if isinstance(given, dict) else beam.Row(**row)
            for row, given in zip(rows, batch, strict=True)
        ]

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """For beam.BatchElements."""
        return self._handler.batch_elements_kwargs()

    def share_model_across_processes(self) -> bool:
        """Whether the worker processes of a machine share a model."""
        return self._handler.share_model_across_processes()

    def get_metrics_namespace(self) -> str:
        """Of RunInference's own metrics too."""
        return self._handler.get_metrics_namespace()

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Of the columns."""
        rows = [_as_dict(row, self._columns) for row in batch]
        return self._handler.get_num_bytes([row[column] for row in rows for column in self._columns])

    def validate_inference_args(self, inference_args: Mapping[str, Any] | None) -> None:
        """There are none."""
        self._handler.validate_inference_args(inference_args)

    def __repr__(self) -> str:
        return f"{self._handler!r} of {', '.join(self._columns)}"


class _ClipEmbeddings(EmbeddingsManager):
    """What both managers share."""

    _handler: type[ClipImageHandler | ClipTextHandler]

    def __init__(
        self,
        columns: Sequence[str],
        *,
        encoder: str | EncoderSpec = DEFAULT_ENCODER,
        engine: EngineOptions | None = None,
        min_batch_size: int | None = None,
        max_batch_size: int = DEFAULT_MAX_BATCH,
        large_model: bool = False,
    ) -> None:
        """columns: at least one. The rest is as ClipImageHandler has it. Raises RequestError.

        Storage options are refused: MLTransform writes what it is given to `write_artifact_location`.
        """
        if isinstance(columns, str) or not columns:
            raise RequestError(f"columns are {columns!r}, expected a list of column names")
        super().__init__(
            columns=list(columns),
            min_batch_size=min_batch_size,
            max_batch_size=max_batch_size,
            large_model=large_model,
        )
        self.encoder = encoder_spec(encoder)
        self.engine = engine or EngineOptions()
        if self.encoder.storage_options or self.engine.fetch.storage_options:
            raise RequestError(
                "storage_options would be written to write_artifact_location, secrets and all; give the workers "
                "credentials of their own (environment, service account), or use EmbedImages"
            )
        self.get_model_handler()  # checks the batch sizes

    def get_model_handler(self) -> ClipImageHandler | ClipTextHandler:
        """The handler of single values."""
        return self._handler(
            encoder=self.encoder,
            engine=self.engine,
            min_batch_size=self.min_batch_size,
            max_batch_size=self.max_batch_size,
            large_model=self.large_model,
        )

    def get_ptransform_for_processing(self, **_kwargs: Any) -> RunInference:
        """RunInference over rows, with a label of its own: several may follow each other."""
        transform = RunInference(ColumnsHandler(self.get_model_handler(), self.columns))
        transform.label = f"{type(self).__name__}({', '.join(self.columns)})"
        return transform


class ClipImageEmbeddings(_ClipEmbeddings):
    """Columns of images become columns of embeddings, in MLTransform.

    A value is a url or path, encoded bytes, a uint8 array or a PIL image. Out: the row, each column a list of
    D floats of norm 1, or None with the reason in `<column>_failure` (else None): `decode truncated: ...`.
    """

    _handler = ClipImageHandler


class ClipTextEmbeddings(_ClipEmbeddings):
    """Columns of texts become columns of embeddings in the space of the encoder's images, in MLTransform.

    Out: the row, each column a list of D floats of norm 1, or None with the reason in `<column>_failure`.
    """

    _handler = ClipTextHandler


def _as_dict(row: Any, columns: Sequence[str]) -> dict[str, Any]:
    found = dict(row) if isinstance(row, dict) else row._asdict()
    missing = [column for column in columns if column not in found]
    if missing:
        raise RequestError(f"rows have no column {', '.join(missing)}; they have {', '.join(found)}")
    return found


def _told(failure: Failure) -> str:
    return f"{failure.stage.value} {failure.reason.value}: {failure.message}"
