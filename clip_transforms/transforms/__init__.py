"""Beamclip's stages as PTransforms for anyone's pipeline: images in, embeddings, labels and failures out.

    p | ReadImages("gs://bucket/photos/**/*.jpg")     PCollection[ImageRef | Failure]
      | EmbedImages(encoder="ViT-B/32")               (PCollection[EmbeddedImage], PCollection[Failure])
    embedded | LabelEmbeddings(prompts="animals",     PCollection[ImageLabel]
                               encoder="ViT-B/32")
    embedded | ScorePairs(encoder="ViT-B/32")         PCollection[ScoredPair]

Each input of EmbedImages gives exactly one element, in its window and with its timestamp: an EmbeddedImage
or a Failure. Nothing is planned or committed here: a bundle that the runner repeats is computed again, and
what is written is the sink's affair. Steps with the same `encoder` and `engine` share one encoder a process.
`as_row` makes any element a plain dict, of the schemas LABEL_ROWS, FAILURE_ROWS and `embedded_rows(dim)`.
Resource hints go on a whole transform: `EmbedImages(...).with_resource_hints(accelerator=...)`.
"""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from clip_transforms.elements import Failure, ImageRef, RequestError
from clip_transforms.encoders import EncoderSpec
from clip_transforms.engine import EngineOptions, engine_for
from clip_transforms.labelsets import DEFAULT_TOP_K
from clip_transforms.prompts import PromptSet, load_prompt_set
from clip_transforms.sources import SourceOptions, canonical_uri, expand_inputs, scan, with_private_inputs
from clip_transforms.sources.urls import is_local
from clip_transforms.transforms.dofns import FAILURES, Embed, Label, ListInputs, ReadChunks, Score
from clip_transforms.transforms.elements import (
    FAILURE_ROWS,
    LABEL_ROWS,
    EmbeddedImage,
    EncodedBy,
    ImageLabel,
    ScoredLabel,
    ScoredPair,
    as_row,
    embedded_rows,
)
from clip_transforms.transforms.encoders import DEFAULT_ENCODER, encoder_spec
from clip_transforms.transforms.listing import Chunk
from clip_transforms.transforms.text import Classifier, classifier

__all__ = [
    "FAILURE_ROWS",
    "LABEL_ROWS",
    "Classifier",
    "EmbedImages",
    "EmbedResult",
    "EmbeddedImage",
    "EncodedBy",
    "ImageLabel",
    "LabelEmbeddings",
    "ReadImages",
    "ScorePairs",
    "ScoredLabel",
    "ScoredPair",
    "as_row",
    "classifier",
    "embedded_rows",
]

#: What EmbedImages takes: see `public_elements.as_image`.
ImageInput = ImageRef | Failure | str | tuple[str, bytes | str]
Prompts = str | PromptSet | Classifier


class EmbedResult(NamedTuple):
    """What EmbedImages gives: together exactly one element for each input."""

    embedded: PCollection[EmbeddedImage]
    failures: PCollection[Failure]


@dataclass(eq=False)
class ReadImages(beam.PTransform[Any, Any]):
    """Every image that the inputs name.

    In: the pipeline. Out: PCollection[ImageRef | Failure]; a Failure where an input is known to be unusable
    (a bad name, a shard that is cut off), for EmbedImages to hand on. Inputs are listed by one worker,
    lazily, and read by all: tars and Parquet files from there carry the image's bytes, other images are
    fetched by EmbedImages.

    inputs: folders, globs, manifests, shards or single files at any fsspec url, braces expanded. options: see
    SourceOptions. limit: the first images only. check: list the beginning of each input (of the first 256)
    while the pipeline is built, so that one with nothing in it is an error there; else it is a worker's.
    Raises RequestError for unsound options and, when applied with `check`, as `sources.scan` does.
    """

    inputs: str | Sequence[str] = field(repr=False)  # may hold credentials
    options: SourceOptions = field(default_factory=SourceOptions, kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    check: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Check the options."""
        super().__init__()
        given = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        # A worker's current folder may be another.
        self.inputs = tuple(canonical_uri(url) if is_local(url) else url for url in given)
        if not expand_inputs(self.inputs):
            raise RequestError("ReadImages has no inputs; expected folders, globs, manifests, shards or urls")
        if self.limit is not None and self.limit < 1:
            raise RequestError(f"limit is {self.limit}, expected 1 or more")
        self.options = with_private_inputs(self.inputs, self.options)

    def expand(self, pipeline: Any) -> Any:
        """Wire listing -> shuffled chunks -> images."""
        if self.check:
            scan(self.inputs, self.options)
        listing = beam.ParDo(ListInputs(self.inputs, self.options, self.limit))
        return (
            pipeline
            | "Impulse" >> beam.Impulse()
            | "List" >> listing.with_output_types(Chunk)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadChunks(self.options)).with_output_types(ImageRef | Failure)
        )


@dataclass(eq=False, kw_only=True)
class EmbedImages(beam.PTransform[Any, Any]):
    """The embedding of each image, or why there is none; fetching, decoding and encoding overlap.

    In: PCollection of ImageRef, Failure (handed on), url or path, (key, bytes) or (key, url); the key becomes
    the image_id. Out: EmbedResult(embedded, failures). Paths are the workers'. Images of several threads of a
    process meet in one engine with one encoder, whose memory is bounded by `engine`; a bundle's images go
    there as they come, and results leave as they are done.

    encoder: a name, or an EncoderSpec with weights, device, precision. engine: batch size, threads, limits,
    decoding, and storage options for fetching. Raises RequestError for an encoder that is none.
    """

    encoder: str | EncoderSpec = DEFAULT_ENCODER
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        """Check the encoder's name and its options."""
        super().__init__()
        self.encoder = encoder_spec(self.encoder)
        self.with_input_types(ImageInput)

    def expand(self, images: Any) -> EmbedResult:
        """Wire the engine."""
        embed = beam.ParDo(Embed(encoder_spec(self.encoder), self.engine))
        found = images | "Embed" >> embed.with_output_types(EmbeddedImage).with_outputs(
            FAILURES, main="embedded"
        )
        failures = found[FAILURES]
        failures.element_type = Failure
        return EmbedResult(embedded=found["embedded"], failures=failures)


@dataclass(eq=False, kw_only=True)
class LabelEmbeddings(beam.PTransform[Any, Any]):
    """What prompt sets say of each embedding.

    In: PCollection[EmbeddedImage], or (image_id, vector) of stored embeddings, norm 1. Out:
    PCollection[ImageLabel], one for each image and set, where the image's element stands. Elements, not
    record batches: a batch would have to cut windows and timestamps; scoring is in batches all the same.

    prompts: the name or url of a set, a PromptSet, a Classifier (made by `classifier`, needs no encoder any
    more and travels with the job), or several of these. Texts are encoded once a job, on a worker, before the
    first image is labelled. encoder, engine: as EmbedImages was given, so that both share one encoder.
    Raises RequestError for a prompt set that is not sound, or two of one name; the job fails with a
    ContractError where embeddings are of other weights than the texts.
    """

    prompts: Prompts | Sequence[Prompts]
    encoder: str | EncoderSpec = DEFAULT_ENCODER
    engine: EngineOptions = field(default_factory=EngineOptions)
    top_k: int = DEFAULT_TOP_K

    def __post_init__(self) -> None:
        """Load and check the prompt sets."""
        super().__init__()
        if self.top_k < 1:
            raise RequestError(f"top_k is {self.top_k}, expected 1 or more")
        given = [self.prompts] if isinstance(self.prompts, (str, PromptSet, Classifier)) else self.prompts
        sets = [load_prompt_set(prompts) if isinstance(prompts, str) else prompts for prompts in given]
        names = [(found.prompt_set if isinstance(found, Classifier) else found).name for found in sets]
        if not names or len(set(names)) < len(names):
            raise RequestError(f"prompts are {names}, expected one or more sets with names of their own")
        self.sets = sets
        if not all(isinstance(found, Classifier) for found in sets):
            self.encoder = encoder_spec(self.encoder)
        self.with_input_types(EmbeddedImage | tuple[str, Any])

    def expand(self, embedded: Any) -> Any:
        """Wire texts -> classifiers, and these beside the embeddings."""
        classifiers = (
            embedded.pipeline
            | "Prompts" >> beam.Create(self.sets, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "EncodeTexts" >> beam.Map(as_classifier, self.encoder, self.engine, self.top_k)
        )
        return embedded | "Label" >> beam.ParDo(Label(), AsList(classifiers)).with_output_types(ImageLabel)


@dataclass(eq=False, kw_only=True)
class ScorePairs(beam.PTransform[Any, Any]):
    """How near each image is to its caption.

    In: PCollection[EmbeddedImage]. Out: PCollection[ScoredPair], one each; without a caption the similarity
    is None. encoder, engine: as EmbedImages was given. Raises RequestError for an encoder that is none.
    """

    encoder: str | EncoderSpec = DEFAULT_ENCODER
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        """Check the encoder's name and its options."""
        super().__init__()
        self.encoder = encoder_spec(self.encoder)
        self.with_input_types(EmbeddedImage)

    def expand(self, embedded: Any) -> Any:
        """Wire the scoring."""
        score = beam.ParDo(Score(encoder_spec(self.encoder), self.engine))
        return embedded | "Score" >> score.with_output_types(ScoredPair)


def as_classifier(
    prompts: PromptSet | Classifier, encoder: str | EncoderSpec, engine: EngineOptions, top_k: int
) -> Classifier:
    """The set with its texts encoded by the process's encoder; a classifier stays as it is."""
    if isinstance(prompts, Classifier):
        return prompts
    spec = EncoderSpec(name=encoder) if isinstance(encoder, str) else encoder
    return classifier(prompts, engine_for(spec, engine).encoder, top_k=top_k)
