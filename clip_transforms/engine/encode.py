"""One batch through the encoder: memory that runs out halves the batch, a bad image fails alone."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from clip_transforms.elements import BeamclipError
from clip_transforms.encoders.base import Encoder, EncoderOutOfMemory, Float32, UInt8

_logger = logging.getLogger(__name__)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_LONGEST_MESSAGE = 300


class EncoderBroken(BeamclipError):
    """The encoder fails on a blank picture too: no image is at fault, and nothing more can be encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What became of a batch of n images.

    rows: [n, dim] float32; a failed image's row is undefined. problems: index -> message of each failed one.
    """

    rows: Float32
    problems: dict[int, str]


def describe(error: BaseException) -> str:
    """An exception as a message that is the same from run to run: one line, no addresses, bounded.

    >>> describe(ValueError("bad <Thing at 0x7f12ab>\\nmore"))
    'ValueError: bad <Thing at 0x…> more'
    >>> describe(MemoryError())
    'MemoryError'
    """
    text = " ".join(_ADDRESS.sub("0x…", str(error)).split())[:_LONGEST_MESSAGE]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class SharedEncoder:
    """An encoder whose calls take turns, so that texts can be encoded while the engine runs.

    An encoder takes calls from one thread at a time; who waits comes before whoever asks again.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._turn = threading.Lock()
        self._next = threading.Lock()
        self.name = encoder.name
        self.weights_id = encoder.weights_id
        self.dim = encoder.dim
        self.preprocess = encoder.preprocess
        self.context_length = encoder.context_length
        self.family = encoder.family
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias
        self.device = encoder.device
        self.precision = encoder.precision

    def encode_images(self, pixels: UInt8) -> Float32:
        """As the encoder's."""
        with self._taking_turns():
            return self._encoder.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """As the encoder's."""
        with self._taking_turns():
            return self._encoder.encode_texts(texts)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """As the encoder's."""
        with self._taking_turns():
            return self._encoder.token_counts(texts)

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        with self._next:  # held while waiting, so that the one inside cannot take the next turn as well
            self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()


class BatchEncoder:
    """Runs an encoder on batches of any size; used by one thread.

    `size` is the largest batch that is tried. Out of memory halves it for good (a device that ran out once
    will do so again); a single image that does not fit fails. Any other exception is narrowed down by
    halving until the images that cause it stand alone, so their batch-mates are embedded. If all images of
    a batch fail, a blank picture is tried: should it fail too, EncoderBroken is raised.
    """

    def __init__(self, encoder: Encoder, *, size: int) -> None:
        self.size = size
        self._encoder = encoder
        self._warned = False

    def encode(self, pixels: UInt8) -> Encoded:
        """[n, height, width, 3] uint8 -> rows and problems. Raises EncoderBroken."""
        rows = np.zeros((len(pixels), self._encoder.dim), np.float32)
        problems: dict[int, str] = {}
        start = 0
        while start < len(pixels):
            stop = min(start + self.size, len(pixels))
            if self._range(pixels, start, stop, rows, problems):
                start = stop
        if 0 < len(pixels) == len(problems) and not all(text == _TOO_LARGE for text in problems.values()):
            self._probe(pixels, problems)
        finite = np.isfinite(rows).all(axis=1)
        for index in np.flatnonzero(~finite).tolist():
            problems.setdefault(index, "the embedding is not finite")
        return Encoded(rows=rows, problems=problems)

    def _range(self, pixels: UInt8, start: int, stop: int, rows: Float32, problems: dict[int, str]) -> bool:
        """Encode [start, stop); False if memory ran out and it is to be tried again in smaller batches."""
        try:
            rows[start:stop] = self._call(pixels[start:stop])
        except EncoderOutOfMemory:
            if stop - start > 1:
                self._shrink(stop - start)
                return False
            problems[start] = _TOO_LARGE
        except Exception as error:  # noqa: BLE001  whatever an encoder raises concerns these images only
            if stop - start == 1:
                problems[start] = describe(error)
            else:
                self._halves(pixels, start, stop, rows, problems)
        return True

    def _halves(self, pixels: UInt8, start: int, stop: int, rows: Float32, problems: dict[int, str]) -> None:
        middle = (start + stop) // 2
        for first, last in ((start, middle), (middle, stop)):
            while first < last:
                end = min(first + self.size, last)
                if self._range(pixels, first, end, rows, problems):
                    first = end

    def _call(self, pixels: UInt8) -> Float32:
        result = self._encoder.encode_images(pixels)
        expected = (len(pixels), self._encoder.dim)
        if result.shape != expected:
            raise ValueError(f"the encoder returned {result.shape}, expected {expected}")
        return result

    def _shrink(self, tried: int) -> None:
        self.size = max(1, min(self.size, tried) // 2)
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        _logger.log(
            level,
            "out of memory on %s with a batch of %d images; going on with %d",
            self._encoder.device,
            tried,
            self.size,
        )

    def _probe(self, pixels: UInt8, problems: dict[int, str]) -> None:
        try:
            self._call(np.zeros_like(pixels[:1]))
        except Exception as error:
            first = problems[min(problems)]
            raise EncoderBroken(
                f"encoder {self._encoder.name} fails on every image and on a blank one: {first}"
            ) from error


_TOO_LARGE = "out of memory for a single image"
