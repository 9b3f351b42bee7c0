"""What an encoder is: the protocol, its preprocessing, and the request that names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import BeamclipError

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
Family = Literal["softmax", "sigmoid"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How an RGB image becomes an encoder's pixels (open_clip's `image_transform`, evaluation side).

    Resizing and cropping are done on the CPU in uint8; scaling to 0..1 and (x - mean) / std are done by the
    encoder on its device, on whole batches.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    fill: int = 0  # of the padding, where the mode pads


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """The request for an encoder, small and picklable; `encoders.load` turns it into one.

    name: `open_clip:ARCH[/TAG]`, `open_clip:hf-hub:ORG/REPO[@REVISION]`, `open_clip:local-dir:URL`,
    an OpenAI alias (`ViT-B/32`), `open_clip:ARCH/random-<seed>`, `beamclip-tiny`, or `fake`.
    """

    name: str
    weights: str | None = None  # fsspec url of a safetensors file or a state dict
    model_config: str | None = None  # fsspec url of an open_clip model JSON
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    precision: str = "auto"  # auto, fp32, bf16, fp16
    threads: int | None = None  # of the CPU encoder; None: the library's default
    storage_options: Mapping[str, object] = field(default_factory=dict)


class Encoder(Protocol):
    """Images and texts to L2-normalised vectors of one space. Calls come from one thread at a time."""

    name: str  # as requested, aliases resolved
    weights_id: str  # sha256 of the weights, hub commit, or "random-<seed>"
    dim: int
    preprocess: Preprocess
    context_length: int  # tokens, with start and end
    family: Family  # how cosines become probabilities
    logit_scale: float  # already exponentiated
    logit_bias: float  # 0.0 where the model has none
    device: str
    precision: Precision

    def encode_images(self, pixels: UInt8) -> Float32:
        """[B, height, width, 3] uint8 -> [B, dim] float32, rows of norm 1. Raises EncoderOutOfMemory."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """T texts -> [T, dim] float32, rows of norm 1; texts over the context length are truncated."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before truncation, start and end included."""
        ...


class EncoderOutOfMemory(BeamclipError):
    """The device has no room for a batch of this size; a smaller one may fit."""
