"""RunInference model handlers: images, or texts, in; each comes back with its embedding or its Failure."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from clip_transforms.captions import encode_texts
from clip_transforms.elements import Failure, RequestError
from clip_transforms.encoders import EncoderSpec
from clip_transforms.encoders.base import Float32
from clip_transforms.engine import EngineOptions, engine_for
from clip_transforms.plugins.examples import as_example, no_text, size_of
from clip_transforms.transforms.bundles import ImageBundle
from clip_transforms.transforms.encoders import DEFAULT_ENCODER, encoder_spec
from clip_transforms.transforms.metrics import count, count_failures

#: Examples a call: several of the encoder's batches, so that fetching, decoding and encoding overlap.
DEFAULT_MAX_BATCH = 512

Outcome = Float32 | Failure


class ClipModel:
    """What a handler loads: the process's engine behind two calls. Can be shared across processes by proxy."""

    def __init__(self, encoder: EncoderSpec, engine: EngineOptions) -> None:
        """Load the encoder, unless this process has it. Raises RequestError."""
        self._encoder = encoder
        self._engine = engine
        engine_for(encoder, engine)

    def embed_images(self, images: Sequence[object]) -> list[Outcome]:
        """[D] float32 of norm 1 for each image, or its Failure, in their order."""
        bundle: ImageBundle[int] = ImageBundle(engine_for(self._encoder, self._engine))
        try:
            for place, image in enumerate(images):
                bundle.put(as_example(image), place)
            found = {place: outcome for outcome, place in bundle.rest()}
        finally:
            bundle.drop()
        outcomes = (found[place] for place in range(len(images)))
        return [outcome if isinstance(outcome, Failure) else outcome.embedding for outcome in outcomes]

    def embed_texts(self, texts: Sequence[object]) -> list[Outcome]:
        """[D] float32 of norm 1 for each text, in their order; a Failure for what is no text."""
        rows = iter(
            encode_texts(
                [text for text in texts if isinstance(text, str)],
                engine_for(self._encoder, self._engine).encoder,
            )
        )
        return [next(rows).copy() if isinstance(text, str) else no_text(text) for text in texts]


class _ClipHandler(ModelHandler[Any, Any, ClipModel]):
    """What both handlers share: the encoder, batch sizes, sharing."""

    def __init__(
        self,
        *,
        encoder: str | EncoderSpec = DEFAULT_ENCODER,
        engine: EngineOptions | None = None,
        min_batch_size: int | None = None,
        max_batch_size: int = DEFAULT_MAX_BATCH,
        large_model: bool = False,
        model_copies: int | None = None,
    ) -> None:
        """encoder: a name or an EncoderSpec. engine: batch size, threads, limits, decoding.

        min_batch_size, max_batch_size: examples that RunInference hands over at once. large_model: one model
        for all worker processes of a machine, not one each; model_copies: so many. Raises RequestError.
        """
        super().__init__()
        self._encoder = encoder_spec(encoder)
        self._engine = engine or EngineOptions()
        least = 1 if min_batch_size is None else min_batch_size
        if not 1 <= least <= max_batch_size:
            raise RequestError(
                f"batch sizes are {min_batch_size} to {max_batch_size}, expected 1 <= min <= max"
            )
        if model_copies is not None and model_copies < 1:
            raise RequestError(f"model_copies is {model_copies}, expected 1 or more")
        self._batch_sizes = {"min_batch_size": least, "max_batch_size": max_batch_size}
        self._shared = large_model or model_copies is not None
        self._copies = model_copies or 1

    def load_model(self) -> ClipModel:
        """The process's engine with its encoder."""
        return ClipModel(self._encoder, self._engine)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """For beam.BatchElements."""
        return self._batch_sizes

    def share_model_across_processes(self) -> bool:
        """Whether the worker processes of a machine share a model."""
        return self._shared

    def model_copies(self) -> int:
        """Models a machine, where they are shared."""
        return self._copies

    def get_metrics_namespace(self) -> str:
        """Of RunInference's own metrics too."""
        return "beamclip"

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Of the examples; Beam's own way pickles the whole batch to count it."""
        return sum(size_of(example) for example in batch)

    def validate_inference_args(self, inference_args: Mapping[str, Any] | None) -> None:
        """There are none."""
        if inference_args:
            raise RequestError(f"inference_args are {sorted(inference_args)}, but an encoder takes none")

    def update_model_path(self, model_path: str | None = None) -> None:
        """An encoder does not change under way: rows of two models would mix."""
        if model_path:
            raise RequestError(
                "the encoder cannot be exchanged while a job runs (watch_model_pattern, model_metadata_pcoll): "
                "embeddings of two models must not mix; start another job"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._encoder.name})"


class ClipImageHandler(_ClipHandler):
    """Images -> PredictionResult(example, inference, model_id).

    An example is a url or path, encoded bytes, a uint8 array [H, W], [H, W, 3] or [H, W, 4], a PIL image, an
    ImageRef, or a (key, url or bytes) tuple. inference: the embedding [D], float32, of norm 1; or a Failure,
    for this example alone. model_id: the encoder's name. Within a batch fetching, decoding and encoding
    overlap; EmbedImages overlaps across batches too and keeps only what is under way in memory.
    """

    def run_inference(
        self,
        batch: Sequence[Any],
        model: ClipModel,
        inference_args: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Iterable[PredictionResult]:
        """One PredictionResult for each example, in their order."""
        return _results(batch, model.embed_images(list(batch)), self._encoder.name)


class ClipTextHandler(_ClipHandler):
    """Texts -> PredictionResult(example, inference, model_id), in the space of the encoder's images.

    inference: the embedding [D], float32, of norm 1 (a text over the encoder's context is cut); a Failure for
    what is no text.
    """

    def run_inference(
        self,
        batch: Sequence[Any],
        model: ClipModel,
        inference_args: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Iterable[PredictionResult]:
        """One PredictionResult for each text, in their order."""
        return _results(batch, model.embed_texts(list(batch)), self._encoder.name)


def _results(batch: Sequence[Any], outcomes: Sequence[Outcome], model_id: str) -> list[PredictionResult]:
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    count_failures(failures)
    count({"embedded": len(outcomes) - len(failures)})
    return [
        PredictionResult(example, outcome, model_id) for example, outcome in zip(batch, outcomes, strict=True)
    ]
