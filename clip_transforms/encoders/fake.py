"""The deterministic fake encoder: NumPy only, exact whatever the batch; for tests and benchmarks.

`fake` by itself is enough for most; options follow a question mark: `fake?dim=16&wait_ms=5&max_batch=8`.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast, get_args
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import (
    EncoderOutOfMemory,
    EncoderSpec,
    Family,
    Float32,
    Precision,
    Preprocess,
    UInt8,
)
from clip_transforms.encoders.info import EncoderInfo
from clip_transforms.encoders.names import nearest, resolve_precision, split_name

_GRID = 8  # an image is seen as 8 x 8 mean colours


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeOptions:
    """What the fake can be asked for; each field is an option of the name, `fake?dim=16&size=32`."""

    dim: int = 32  # of an embedding
    size: int = 32  # pixels; a multiple of 8
    seed: int = 0  # another seed is another space
    wait_ms: float = 0.0  # each call of encode_images waits so long, without using the CPU
    wait_image_ms: float = 0.0  # and so long for each image of its batch
    load_ms: float = 0.0  # loading waits so long
    max_batch: int = 0  # larger batches raise EncoderOutOfMemory; 0: any size fits
    family: Family = "softmax"
    context_length: int = 77  # tokens (here: words), with start and end

    def preprocess(self) -> Preprocess:
        """Any square size, bicubic, scaled to -1..1 (which the fake ignores)."""
        return Preprocess(height=self.size, width=self.size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(slots=True)
class FakeCounters:
    """What all fakes of this process have done since `FakeEncoder.reset()`."""

    loads: int = 0
    encode_calls: int = 0
    out_of_memory: int = 0  # calls of encode_images that were refused
    images: int = 0
    text_calls: int = 0
    texts: int = 0


class FakeEncoder:
    """An `Encoder` whose vectors are cheap, deterministic and, for images, a smooth function of the pixels.

    An image's vector is a fixed random projection of its 8 x 8 mean colours, computed in integers: batch
    size, order and threads change not one bit. A text's vector is made from its hash. The two have nothing
    to do with each other, so labels are arbitrary, but always the same.
    """

    _lock = threading.Lock()
    _counters = FakeCounters()

    def __init__(
        self, options: FakeOptions | None = None, *, name: str = "fake", precision: Precision = "fp32"
    ) -> None:
        self.options = options or FakeOptions()
        _check(self.options)
        self.name = name
        self.weights_id = f"fake-1-{self.options.dim}-{self.options.seed}"
        self.dim = self.options.dim
        self.preprocess = self.options.preprocess()
        self.context_length = self.options.context_length
        self.family: Family = self.options.family
        self.logit_scale = 100.0 if self.family == "softmax" else 10.0
        self.logit_bias = 0.0 if self.family == "softmax" else -10.0
        self.device = "cpu"
        self.precision: Precision = precision
        self._matrix = _signed_bytes(f"image {self.options.seed}", _GRID * _GRID * 3 * self.dim)
        self._matrix = self._matrix.reshape(_GRID * _GRID * 3, self.dim)
        time.sleep(self.options.load_ms / 1000)
        self._count(loads=1)

    @classmethod
    def counters(cls) -> FakeCounters:
        """A copy of the process-wide counters."""
        with cls._lock:
            return replace(cls._counters)

    @classmethod
    def reset(cls) -> None:
        """Set the process-wide counters to zero."""
        with cls._lock:
            cls._counters = FakeCounters()

    @classmethod
    def _count(cls, **steps: int) -> None:
        with cls._lock:
            for field, step in steps.items():
                setattr(cls._counters, field, getattr(cls._counters, field) + step)

    def encode_images(self, pixels: UInt8) -> Float32:
        """[B, size, size, 3] uint8 -> [B, dim] float32, rows of norm 1. Raises EncoderOutOfMemory."""
        size = self.options.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"expected uint8 [B, {size}, {size}, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        if self.options.max_batch and len(pixels) > self.options.max_batch:
            self._count(encode_calls=1, out_of_memory=1)
            raise EncoderOutOfMemory(
                f"a batch of {len(pixels)} images; the fake holds {self.options.max_batch}"
            )
        time.sleep((self.options.wait_ms + self.options.wait_image_ms * len(pixels)) / 1000)
        self._count(encode_calls=1, images=len(pixels))
        block = size // _GRID
        sums = pixels.reshape(-1, _GRID, block, _GRID, block, 3).sum(axis=(2, 4), dtype=np.int64)
        centred = 2 * sums - 255 * block * block  # 0 is mid-grey
        return _normalised(centred.reshape(-1, _GRID * _GRID * 3) @ self._matrix)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """T texts -> [T, dim] float32, rows of norm 1."""
        self._count(text_calls=1, texts=len(texts))
        rows = [_signed_bytes(f"text {self.options.seed} {text}", self.dim) for text in texts]
        return _normalised(np.array(rows, dtype=np.int64).reshape(len(texts), self.dim))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Words of each text, and two for start and end."""
        return [len(text.split()) + 2 for text in texts]


def load(spec: EncoderSpec) -> FakeEncoder:
    """The fake that the name asks for. Raises RequestError for an option or a device it has not got."""
    _refuse_torch_things(spec)
    options = parse_options(split_name(spec.name)[1])
    return FakeEncoder(
        options, name=spec.name, precision=resolve_precision(spec.precision, device=spec.device)
    )


def describe(spec: EncoderSpec) -> EncoderInfo:
    """What `load` would give."""
    _refuse_torch_things(spec)
    options = parse_options(split_name(spec.name)[1])
    return EncoderInfo(
        name=spec.name,
        dim=options.dim,
        preprocess=options.preprocess(),
        parameters=0,
        context_length=options.context_length,
        family=options.family,
    )


def parse_options(text: str) -> FakeOptions:
    """The options of a name, `dim=16&size=32`, checked. Raises RequestError.

    >>> parse_options("dim=16&wait_ms=2.5").wait_ms
    2.5
    """
    defaults = FakeOptions()
    known = [field.name for field in fields(FakeOptions)]
    given: dict[str, object] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in known:
            raise RequestError(
                f"encoder fake has no option {key!r}{nearest(key, known)}; it has {', '.join(known)}"
            )
        kind = type(getattr(defaults, key))
        try:
            given[key] = kind(value)
        except ValueError:
            raise RequestError(f"encoder fake: {key}={value!r}, expected {kind.__name__}") from None
    if text and not given:
        raise RequestError(
            f"encoder 'fake?{text}': expected fake?OPTION=VALUE&...; it has {', '.join(known)}"
        )
    options = replace(defaults, **given)  # type: ignore[arg-type]
    _check(options)
    return options


def _check(options: FakeOptions) -> None:
    waits = (options.wait_ms, options.wait_image_ms, options.load_ms)
    problems = {
        "dim must be at least 1": options.dim < 1,
        f"size must be a multiple of {_GRID}": options.size < _GRID or options.size % _GRID != 0,
        "waits must not be negative": not all(0 <= wait < math.inf for wait in waits),
        "max_batch must not be negative": options.max_batch < 0,
        "context_length must be at least 3": options.context_length < 3,
        f"family must be one of {', '.join(get_args(Family))}": options.family not in get_args(Family),
    }
    for problem, found in problems.items():
        if found:
            raise RequestError(f"encoder fake: {problem}; got {options}")


def _refuse_torch_things(spec: EncoderSpec) -> None:
    if spec.weights or spec.model_config:
        raise RequestError("encoder fake has no weights: leave out --weights and --model-config")
    if spec.device.startswith("cuda"):
        raise RequestError(f"encoder fake runs on the CPU; got --device {spec.device}, expected auto or cpu")


def _signed_bytes(key: str, count: int) -> npt.NDArray[np.int64]:
    """`count` integers -128..127 that depend on the key alone, in any version of NumPy."""
    digest = hashlib.shake_256(key.encode("utf-8", "surrogatepass")).digest(count)
    return np.frombuffer(digest, dtype=np.int8).astype(np.int64)


def _normalised(rows: npt.NDArray[np.int64]) -> Float32:
    """Integer rows scaled to norm 1; a row of zeros becomes the first axis, for a norm of 1 is promised."""
    rows = rows.copy()
    rows[:, 0] += (rows == 0).all(axis=1)
    wide = rows.astype(np.float64)
    squares = (wide * wide).cumsum(axis=1)[:, -1:]  # a running sum: the same order for every batch
    return cast(Float32, (wide / np.sqrt(squares)).astype(np.float32))
