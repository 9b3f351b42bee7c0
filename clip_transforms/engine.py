"""The engine's public names: images are fetched and decoded while the encoder runs, process-wide.

Its parts: `engine_core` joins them; `engine_units` a unit's sink and cost; `engine_source` and `engine_budget`
let images in; `engine_stages` fetches and decodes in threads, `engine_processes` in processes (each an
`engine_process`, in which `engine_child` runs); `engine_batches` makes batches; `engine_encode` deals with what
an encoder may raise; `engine_shared` has one engine a process.
"""

from __future__ import annotations

from clip_transforms.engine_core import Engine, EngineClosed, Progress
from clip_transforms.engine_encode import EncoderBroken
from clip_transforms.engine_options import EngineOptions
from clip_transforms.engine_shared import engine_for
from clip_transforms.engine_units import EncodedBatch, EngineStats, Spread, UnitSink

__all__ = [
    "EncodedBatch",
    "EncoderBroken",
    "Engine",
    "EngineClosed",
    "EngineOptions",
    "EngineStats",
    "Progress",
    "Spread",
    "UnitSink",
    "engine_for",
]
