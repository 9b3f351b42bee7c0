"""One pipeline through every plugin surface, on the runner that its options name; JSON lines in a folder.

python -m tests.surfaces IMAGES OUTPUT --runner=SparkRunner ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.options.pipeline_options import PipelineOptions

from clip_transforms.elements import Failure
from clip_transforms.plugins import ClipImageEmbeddings, ClipImageHandler, ClipTextEmbeddings
from clip_transforms.transforms import EmbedImages, LabelEmbeddings, ReadImages, ScorePairs, as_row

ENCODER = "fake?dim=8"
NAMES = ("labels", "failures", "pairs", "inferred", "columns")


def build(pipeline: beam.Pipeline, images: str, output: Path) -> dict[str, Any]:
    """The named branches; each gives dicts or rows."""
    embedded, failures = pipeline | ReadImages(images) | EmbedImages(encoder=ENCODER)
    names = pipeline | beam.Create(sorted(str(path) for path in Path(images).parent.glob("*.jpg")))
    handler = KeyedModelHandler(ClipImageHandler(encoder=ENCODER))
    columns = MLTransform(write_artifact_location=str(output / "artifacts"))
    columns = columns.with_transform(ClipImageEmbeddings(["photo"], encoder=ENCODER))
    columns = columns.with_transform(ClipTextEmbeddings(["caption"], encoder=ENCODER))
    given = names | "Columns" >> beam.Map(lambda name: {"id": name, "photo": name, "caption": "a cat"})
    keyed = names | "Keyed" >> beam.Map(lambda name: (name, name))
    return {
        "labels": embedded | LabelEmbeddings(prompts="everyday", encoder=ENCODER) | "L" >> beam.Map(as_row),
        "failures": failures | "F" >> beam.Map(as_row),
        "pairs": embedded | ScorePairs(encoder=ENCODER) | "S" >> beam.Map(as_row),
        "inferred": keyed | RunInference(handler) | "I" >> beam.Map(inferred),
        "columns": given | columns,
    }


def inferred(keyed: tuple[str, Any]) -> dict[str, Any]:
    """A prediction as a dict."""
    name, result = keyed
    if isinstance(result.inference, Failure):
        return {"id": name, "reason": result.inference.reason.value}
    return {"id": name, "embedding": np.asarray(result.inference).tolist()}


def as_json(row: Any) -> str:
    """One line, keys in order."""
    return json.dumps(row if isinstance(row, dict) else row._asdict(), sort_keys=True, default=str)


def main(argv: list[str]) -> None:
    """Run it."""
    images, output = argv[0], Path(argv[1])
    with beam.Pipeline(options=PipelineOptions(argv[2:])) as pipeline:
        for name, rows in build(pipeline, images, output).items():
            lines = rows | f"{name} as JSON" >> beam.Map(as_json)
            _ = lines | f"Write {name}" >> beam.io.WriteToText(str(output / name))


if __name__ == "__main__":
    main(sys.argv[1:])
