"""Decoding a few images before a job starts, in a process of their own: the launcher outlives each of them."""

from __future__ import annotations

import logging

from clip_transforms.elements import ImageError, Reason, RequestError, Stage
from clip_transforms.encoders.base import Preprocess, UInt8
from clip_transforms.engine.child import Reply, Request, Setup
from clip_transforms.engine.contained import can_contain
from clip_transforms.engine.options import EngineOptions
from clip_transforms.engine.process import DecodeProcess, DecodeProcessError
from clip_transforms.engine.stages import timed_decode

_logger = logging.getLogger(__name__)


class TrialDecoder:
    """Decodes one image after another as the engine does; a context manager, for one thread."""

    def __init__(self, options: EngineOptions, preprocess: Preprocess) -> None:
        self._setup = Setup(
            fetch=options.fetch,
            decode=options.decode,
            preprocess=preprocess,
            fetch_threads=1,
            decode_threads=1,
            slots=1,
        )
        self._process = self._start() if can_contain() else None

    def __enter__(self) -> TrialDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.close()

    def decode(self, data: bytes) -> UInt8:
        """[height, width, 3] pixels; ImageError (crashed_worker where the process died of it) if there are none."""
        if self._process is None:
            return timed_decode(data, self._setup.decode, self._setup.preprocess)[0]
        try:
            self._process.connection.send(Request(0, "", data))
            reply: Reply = self._process.connection.recv()
        except (EOFError, OSError):
            self._process.close()
            self._process = self._start()
            message = "the process that decoded it died"
            raise ImageError(Stage.DECODE, Reason.CRASHED_WORKER, message) from None
        if reply.refusal is not None:
            raise RequestError(reply.refusal)
        if reply.error is not None:
            stage, reason, message, attempts = reply.error
            raise ImageError(Stage(stage), Reason(reason), message, attempts=attempts)
        pixels: UInt8 = self._process.shared.pixels[0].copy()
        return pixels

    def _start(self) -> DecodeProcess | None:
        try:
            return DecodeProcess(self._setup)
        except DecodeProcessError as error:
            _logger.warning("%s: the first images are decoded in the launcher itself", error)
            return None
