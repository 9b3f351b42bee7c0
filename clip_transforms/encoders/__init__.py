"""Encoders by name: one dict of lazily imported backends, and the names that everything else imports.

Adding another backend is one file and one line. The file is a module with two functions,

    load(spec: EncoderSpec) -> Encoder              the encoder, ready to be called
    describe(spec: EncoderSpec) -> EncoderInfo      what is known without its weights, for a dry run

and the line is its entry in `BACKENDS`; `--encoder mybackend:anything` then reaches it. `fake.py` is a short
example. Nothing here imports torch: a backend's module is imported when an encoder of it is asked for.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import cast

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import (
    Encoder,
    EncoderOutOfMemory,
    EncoderSpec,
    Family,
    Float32,
    Interpolation,
    Precision,
    Preprocess,
    ResizeMode,
    UInt8,
)
from clip_transforms.encoders.fake import FakeEncoder
from clip_transforms.encoders.info import EncoderInfo
from clip_transforms.encoders.names import (
    BUILT_IN,
    CUSTOM,
    OPENAI_ALIASES,
    check_spec,
    default_name,
    nearest,
    resolve_name,
    resolve_precision,
    split_name,
)

__all__ = [
    "BACKENDS",
    "BUILT_IN",
    "CUSTOM",
    "OPENAI_ALIASES",
    "Encoder",
    "EncoderInfo",
    "EncoderOutOfMemory",
    "EncoderSpec",
    "FakeEncoder",
    "Family",
    "Float32",
    "Interpolation",
    "Precision",
    "Preprocess",
    "ResizeMode",
    "UInt8",
    "default_name",
    "describe",
    "load",
    "resolve_name",
    "resolve_precision",
]

#: backend name -> the module that has its `load` and `describe`. Another backend is one more line.
BACKENDS = {
    "open_clip": "clip_transforms.encoders.open_clip_backend",
    "fake": "clip_transforms.encoders.fake",
}


def load(spec: EncoderSpec) -> Encoder:
    """The encoder that `spec` asks for, its weights fetched and on its device.

    Raises RequestError where the name, the weights, the device or the precision cannot be had. Loading the
    same spec twice gives two encoders; sharing one a process is the engine's part.
    """
    check_spec(spec)
    return cast(Encoder, _backend(spec.name).load(spec))


def describe(spec: EncoderSpec) -> EncoderInfo:
    """What is known of an encoder without its weights: dimensions, preprocessing, parameters, family.

    Reads the model's configuration only (which for a hub or object-storage model is a small download).
    """
    check_spec(spec)
    return cast(EncoderInfo, _backend(spec.name).describe(spec))


def _backend(name: str) -> ModuleType:
    backend, _ = split_name(name)
    if backend not in BACKENDS:
        known = [*OPENAI_ALIASES, *BACKENDS, BUILT_IN]
        raise RequestError(
            f"no encoder {name!r}{nearest(name, known)}; expected open_clip:ARCH[/TAG], "
            f"open_clip:hf-hub:ORG/REPO, open_clip:local-dir:URL, an OpenAI name such as ViT-B/32, "
            f"{BUILT_IN} or fake (`beamclip models list` prints the architectures)"
        )
    return importlib.import_module(BACKENDS[backend])
