"""What runs in a decode process: threads fetch and decode into shared memory until the parent is gone."""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from clip_transforms.elements import ImageInfo, ImageRef, RequestError, Stage
from clip_transforms.encoders.base import Preprocess, UInt8
from clip_transforms.engine.fetchers import Fetchers
from clip_transforms.engine.stages import failure_of, timed_decode
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions

_PAGE = 4096
IDLE, QUEUED, FETCHING, DECODING = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The first message to a decode process."""

    fetch: FetchOptions
    decode: DecodeOptions
    preprocess: Preprocess
    fetch_threads: int
    decode_threads: int
    slots: int


@dataclass(frozen=True, slots=True)
class Request:
    """One image to bring into a slot."""

    slot: int
    url: str
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of it. info: the pixels are in the slot; error: they are not."""

    slot: int
    info: ImageInfo | None = None
    fetch_s: float | None = None
    decode_s: float = 0.0
    error: tuple[str, str, str, int] | None = None  # stage, reason, message, attempts
    refusal: str | None = None  # the text of a RequestError


class SharedSlots:
    """Shared memory of one decode process: a state byte for each slot, then the slots' pixels.

    An anonymous file passed on by descriptor: it has no name that could be left behind, and is gone with the
    last process that holds it, however that ends. (Nor is it in /dev/shm, of which a container often has 64 MB.)
    """

    def __init__(self, descriptor: int, *, slots: int, preprocess: Preprocess, create: bool = False) -> None:
        offset = -(-slots // _PAGE) * _PAGE
        shape = (slots, preprocess.height, preprocess.width, 3)
        size = offset + int(np.prod(shape))
        if create:
            os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        self.states: UInt8 = np.frombuffer(memory, np.uint8, count=slots)
        self.pixels: UInt8 = np.frombuffer(memory, np.uint8, offset=offset).reshape(shape)


class _Child:
    def __init__(self, connection: Connection, memory: int) -> None:
        self._connection = connection
        self._setup: Setup = connection.recv()
        self._shared = SharedSlots(memory, slots=self._setup.slots, preprocess=self._setup.preprocess)
        self._sending = threading.Lock()
        self._to_decode: SimpleQueue[tuple[Request, bytes, float | None]] = SimpleQueue()
        self._fetchers = Fetchers(self, self._setup.fetch, limit=self._setup.fetch_threads, name="fetch")
        for number in range(self._setup.decode_threads):
            threading.Thread(target=self._decode_loop, name=f"decode-{number}", daemon=True).start()

    def run(self) -> None:
        """Take requests until the parent closes the connection or dies."""
        self._connection.send(None)  # ready
        while True:
            request: Request = self._connection.recv()
            if request.payload is None:
                self._fetchers.put(request, request.url)
            else:
                self._to_decode.put((request, request.payload, None))

    def begin(self, request: Request) -> bool:
        """A fetch begins."""
        self._shared.states[request.slot] = FETCHING
        return True

    def arrived(self, request: Request, data: bytes, seconds: float) -> None:
        """An image's bytes are here."""
        self._shared.states[request.slot] = QUEUED
        self._to_decode.put((request, data, seconds))

    def missed(self, request: Request, error: BaseException) -> None:
        """An image's bytes cannot be had."""
        self._send(_problem(request, error, Stage.FETCH))

    def broken(self, error: BaseException) -> None:  # noqa: ARG002
        """Fetching cannot go on: the parent starts another process."""
        os._exit(1)

    def _decode_loop(self) -> None:
        while True:
            request, data, fetch_s = self._to_decode.get()
            self._shared.states[request.slot] = DECODING
            try:
                pixels, info, decode_s = timed_decode(data, self._setup.decode, self._setup.preprocess)
                self._shared.pixels[request.slot] = pixels
            except BaseException as error:  # noqa: BLE001  MemoryError too
                self._send(_problem(request, error, Stage.DECODE))
            else:
                self._send(Reply(request.slot, info, fetch_s, decode_s))

    def _send(self, reply: Reply) -> None:
        self._shared.states[reply.slot] = IDLE
        with self._sending:
            self._connection.send(reply)


def _problem(request: Request, error: BaseException, stage: Stage) -> Reply:
    if isinstance(error, RequestError):
        return Reply(request.slot, refusal=str(error))
    failure = failure_of(ImageRef(image_id="", uri="", url=""), error, stage)
    parts = (failure.stage.value, failure.reason.value, failure.message, failure.attempts)
    return Reply(request.slot, error=parts)


def main(connection: int, memory: int) -> None:
    """The process's entry: descriptors of the connection and of the shared memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.enable()
    with contextlib.suppress(OSError):  # Linux: when memory runs out, this process goes, not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        _Child(Connection(connection), memory).run()
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone; threads may be anywhere
