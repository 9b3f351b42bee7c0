"""The public transforms for Beam YAML: keyword options of plain types in, rows with a schema out.

A pipeline names them as a provider (`apache-beam[yaml]` must be installed):

    providers:
      - type: python
        config: {}
        transforms:
          ReadImages: clip_transforms.plugins.YamlReadImages
          EmbedImages: clip_transforms.plugins.YamlEmbedImages
          LabelEmbeddings: clip_transforms.plugins.YamlLabelEmbeddings

ReadImages and EmbedImages need `error_handling: {output: NAME}`: inputs that fail are rows of that output,
and Beam YAML sees to it that the pipeline does something with them.
"""

# mypy: allow-subclassing-any
# ruff: noqa: UP045  `X | None` is no optional type to Beam's schemas before Python 3.14
# No `from __future__ import annotations`: Beam YAML reads the annotations of __init__ as types.

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import apache_beam as beam

from clip_transforms.elements import RequestError
from clip_transforms.encoders import EncoderSpec
from clip_transforms.engine import EngineOptions
from clip_transforms.fetch import FetchOptions
from clip_transforms.labelsets import DEFAULT_TOP_K
from clip_transforms.plugins.rows import (
    EmbeddingRow,
    FailureRow,
    ImageRow,
    LabelRow,
    embedded_of,
    embedding_row,
    failure_rows,
    image_of,
    image_rows,
    label_row,
)
from clip_transforms.sources import SourceOptions
from clip_transforms.transforms import EmbedImages, LabelEmbeddings, ReadImages
from clip_transforms.transforms.encoders import DEFAULT_ENCODER


class YamlReadImages(beam.PTransform[Any, Any]):
    """Every image that the inputs name.

    Args:
      inputs: folders, globs, manifests, shards or files, at any fsspec url; braces are expanded.
      error_handling: where inputs that cannot be read go, {output: NAME}.
      format: auto, images, manifest, parquet-images, webdataset, img2dataset or urls.
      limit: the first images only.
      storage_options: for the store's client; secrets belong to the workers' environment.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[str],
        error_handling: Mapping[str, str],
        format: str = "auto",
        limit: Optional[int] = None,
        storage_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__()
        self._failures = _error_output(error_handling)
        options = SourceOptions(format=format, storage_options=storage_options or {})
        self._read = ReadImages(inputs, options=options, limit=limit)

    def expand(self, root: Any) -> Any:
        """ImageRows, and FailureRows."""
        images = root | "ReadImages" >> self._read
        rows = images | "ToRows" >> beam.FlatMap(image_rows).with_output_types(ImageRow)
        failures = images | "Failures" >> beam.FlatMap(failure_rows).with_output_types(FailureRow)
        return {"good": rows, self._failures: failures}


class YamlEmbedImages(beam.PTransform[Any, Any]):
    """The embedding of each image.

    Takes the rows of ReadImages, or any rows with a column of urls or of image bytes.

    Args:
      error_handling: where images that cannot be embedded go, {output: NAME}.
      encoder: such as open_clip:ViT-B-32/laion2b_s34b_b79k or beamclip-tiny.
      weights: url of weights of your own.
      model_config: url of an open_clip model JSON.
      device: auto, cpu, cuda or cuda:N.
      precision: auto, fp32, bf16 or fp16.
      batch_size: images a call of the encoder.
      image_column: of urls or image bytes.
      id_column: of the image ids; by default an image is called by its url.
      storage_options: for the store's client; secrets belong to the workers' environment.
      allow_private_urls: whether urls may lead to private addresses and to any scheme.
    """

    def __init__(
        self,
        *,
        error_handling: Mapping[str, str],
        encoder: str = DEFAULT_ENCODER,
        weights: Optional[str] = None,
        model_config: Optional[str] = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: Optional[int] = None,
        image_column: str = "url",
        id_column: Optional[str] = None,
        storage_options: Optional[Mapping[str, Any]] = None,
        allow_private_urls: bool = False,
    ) -> None:
        super().__init__()
        self._failures = _error_output(error_handling)
        self._image_column = image_column
        self._id_column = id_column
        spec = EncoderSpec(
            name=encoder,
            weights=weights,
            model_config=model_config,
            device=device,
            precision=precision,
            storage_options=storage_options or {},
        )
        fetch = FetchOptions(storage_options=storage_options or {}, allow_private_urls=allow_private_urls)
        self._embed = EmbedImages(encoder=spec, engine=EngineOptions(batch_size=batch_size, fetch=fetch))

    def expand(self, rows: Any) -> Any:
        """EmbeddingRows, and FailureRows."""
        images = rows | "FromRows" >> beam.Map(image_of, self._image_column, self._id_column)
        embedded, failures = images | "EmbedImages" >> self._embed
        return {
            "good": embedded | "ToRows" >> beam.Map(embedding_row).with_output_types(EmbeddingRow),
            self._failures: failures | "Failures" >> beam.FlatMap(failure_rows).with_output_types(FailureRow),
        }


class YamlLabelEmbeddings(beam.PTransform[Any, Any]):
    """What prompt sets say of each embedding.

    Takes the rows of EmbedImages, or any rows with the columns image_id and embedding (norm 1).

    Args:
      prompts: names or urls of prompt sets.
      encoder: as EmbedImages was given.
      weights: as EmbedImages was given.
      model_config: as EmbedImages was given.
      device: as EmbedImages was given.
      precision: as EmbedImages was given.
      batch_size: as EmbedImages was given.
      top_k: so many of the best classes are told.
      storage_options: as EmbedImages was given.
    """

    def __init__(
        self,
        *,
        prompts: Sequence[str],
        encoder: str = DEFAULT_ENCODER,
        weights: Optional[str] = None,
        model_config: Optional[str] = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: Optional[int] = None,
        top_k: int = DEFAULT_TOP_K,
        storage_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__()
        spec = EncoderSpec(
            name=encoder,
            weights=weights,
            model_config=model_config,
            device=device,
            precision=precision,
            storage_options=storage_options or {},
        )
        fetch = FetchOptions(storage_options=storage_options or {})
        engine = EngineOptions(batch_size=batch_size, fetch=fetch)
        self._label = LabelEmbeddings(prompts=prompts, encoder=spec, engine=engine, top_k=top_k)

    def expand(self, rows: Any) -> Any:
        """LabelRows."""
        embedded = rows | "FromRows" >> beam.Map(embedded_of)
        labels = embedded | "LabelEmbeddings" >> self._label
        return labels | "ToRows" >> beam.Map(label_row).with_output_types(LabelRow)


def _error_output(error_handling: Mapping[str, str]) -> str:
    output = error_handling.get("output")
    if not output or set(error_handling) != {"output"}:
        raise RequestError(f"error_handling is {dict(error_handling)}, expected {{output: NAME}}")
    return output
