"""The engine's public names: images are fetched and decoded while the encoder runs, process-wide.

Its parts: `core` joins them; `units` a unit's sink and cost; `source` and `budget`
let images in; `stages` fetches and decodes in threads, `processes` in processes (each an
`process`, in which `child` runs), `contained` chooses by unit; `batches` makes batches; `encode` deals with what
an encoder may raise; `shared` has one engine a process; `trial` decodes a few images
before a job.
"""

from __future__ import annotations

from clip_transforms.engine.core import Engine, EngineClosed, Progress
from clip_transforms.engine.encode import EncoderBroken
from clip_transforms.engine.options import EngineOptions
from clip_transforms.engine.shared import engine_for
from clip_transforms.engine.trial import TrialDecoder
from clip_transforms.engine.units import EncodedBatch, EngineStats, Spread, UnitSink

__all__ = [
    "EncodedBatch",
    "EncoderBroken",
    "Engine",
    "EngineClosed",
    "EngineOptions",
    "EngineStats",
    "Progress",
    "Spread",
    "TrialDecoder",
    "UnitSink",
    "engine_for",
]
