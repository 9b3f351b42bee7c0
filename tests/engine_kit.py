"""Sinks, encoders and references for the engine's tests."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clip_transforms.elements import Failure, ImageInfo, ImageRef, Reason, Stage
from clip_transforms.encoders import FakeEncoder, Float32, UInt8
from clip_transforms.encoders.fake import FakeOptions
from clip_transforms.engine import EncodedBatch, Engine, EngineOptions, EngineStats
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions, decode_to_pixels
from tests.helpers import image_bytes, make_image

WAIT_S = 60.0  # a deadlock's sign; nothing here takes a second
POISON = (255, 0, 255)


class RecordingSink:
    """Keeps all outcomes, and fails the test's unit if two calls overlap."""

    def __init__(self) -> None:
        self.rows: dict[str, Float32] = {}
        self.infos: dict[str, ImageInfo] = {}
        self.failures: dict[str, Failure] = {}
        self.order: list[str] = []
        self.threads: set[str] = set()
        self._busy = threading.Lock()

    def embedded(self, batch: EncodedBatch) -> None:
        assert self._busy.acquire(blocking=False), "two calls at once"
        assert len(batch.refs) == len(batch.infos) == len(batch.embeddings) > 0
        assert batch.embeddings.dtype == np.float32
        for ref, info, row in zip(batch.refs, batch.infos, batch.embeddings, strict=True):
            assert ref.payload is None
            self._add(ref.image_id)
            self.rows[ref.image_id] = row.copy()
            self.infos[ref.image_id] = info
        self._busy.release()

    def failed(self, failure: Failure) -> None:
        assert self._busy.acquire(blocking=False), "two calls at once"
        self._add(failure.image_id)
        self.failures[failure.image_id] = failure
        self._busy.release()

    def _add(self, image_id: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.order.append(image_id)

    def reasons(self) -> dict[str, Reason]:
        return {image_id: failure.reason for image_id, failure in self.failures.items()}


class PoisonedEncoder(FakeEncoder):
    """Raises for a batch that holds an image of the colour POISON; NaN for one that is black."""

    def encode_images(self, pixels: UInt8) -> Float32:
        if (pixels == np.array(POISON, np.uint8)).all(axis=(1, 2, 3)).any():
            raise ValueError(f"cannot encode <Tensor at {hex(id(pixels))}>")
        rows = super().encode_images(pixels)
        rows[(pixels == 0).all(axis=(1, 2, 3))] = np.nan
        return rows


def plain(colour: tuple[int, int, int]) -> bytes:
    """A PNG of one colour."""
    return image_bytes(Image.new("RGB", (40, 40), colour), kind="PNG")


def ref(image_id: str, payload: bytes | None = None, *, url: str = "", size: int | None = None) -> ImageRef:
    return ImageRef(image_id=image_id, uri=f"uri-{image_id}", url=url, size=size, payload=payload)


def good(count: int, prefix: str = "") -> list[ImageRef]:
    """`count` different images that carry their bytes."""
    return [ref(f"{prefix}{seed}", image_bytes(make_image(seed))) for seed in range(count)]


def expected_row(data: bytes, encoder: FakeEncoder) -> Float32:
    """What the engine should find for an image, by hand."""
    pixels, _ = decode_to_pixels(data, DecodeOptions(), encoder.preprocess)
    row: Float32 = encoder.encode_images(pixels[None])[0]
    return row


#: Lets the schemes be opened that tests/test_engine_processes.py has.
FETCH = FetchOptions(schemes=("crash", "slow", "twice"))


def options(**changes: object) -> EngineOptions:
    """Small ones."""
    small: dict[str, object] = {"batch_size": 8, "fetch_threads": 4, "decode_threads": 2, "fetch": FETCH}
    return EngineOptions(**{**small, **changes})  # type: ignore[arg-type]


def fake(**changes: object) -> FakeEncoder:
    return FakeEncoder(FakeOptions(**changes))  # type: ignore[arg-type]


def run_all(engine: Engine, units: Iterable[Iterable[ImageRef | Failure]]) -> list[RecordingSink]:
    """Submit all units at once, each from a thread of its own; their sinks, in order."""
    with ThreadPoolExecutor(16) as pool:
        return [sink for sink, _ in pool.map(lambda unit: run_one(engine, unit), units)]


def run_one(engine: Engine, items: Iterable[ImageRef | Failure]) -> tuple[RecordingSink, EngineStats]:
    """One unit's sink and stats."""
    sink = RecordingSink()
    return sink, engine.submit(iter(items), sink).result(WAIT_S)


def stepped(items: list[ImageRef], steps: threading.Semaphore) -> Iterator[ImageRef]:
    """Each item waits for a step."""
    for item in items:
        assert steps.acquire(timeout=WAIT_S)
        yield item


def drained(engine: Engine) -> bool:
    """Whether nothing is left in flight; images of a unit that failed take a moment to be dropped."""
    wait = threading.Event()
    return any(engine._budget.in_flight == (0, 0) or wait.wait(0.01) for _ in range(1000))


def mixed_items(seed: int, folder: Path) -> tuple[list[ImageRef | Failure], dict[str, Reason | bytes]]:
    """A unit of every kind of item, and what is to become of each: a reason, or the bytes that are embedded."""
    rng = random.Random(seed)
    items: list[ImageRef | Failure] = []
    wanted: dict[str, Reason | bytes] = {}
    for number in range(rng.randrange(1, 90)):
        name = f"{seed}-{number}"
        data = image_bytes(make_image(rng.randrange(1000)))
        kind = rng.choice(["payload", "payload", "file", "file", "gone", "text", "cut", "empty", "listed"])
        path = folder / name
        if kind == "listed":
            items.append(
                Failure(image_id=name, uri=name, stage=Stage.LIST, reason=Reason.BAD_NAME, message="no")
            )
            wanted[name] = Reason.BAD_NAME
            continue
        content = {"text": b"not an image at all", "cut": data[: len(data) // 2], "empty": b""}.get(
            kind, data
        )
        if kind == "payload" or (rng.random() < 0.5 and kind not in ("file", "gone")):
            items.append(ref(name, content))
        else:
            if kind != "gone":
                path.write_bytes(content)
            size = rng.choice([None, len(content)])
            items.append(ref(name, url=str(path), size=size))
        reasons = {
            "gone": Reason.NOT_FOUND,
            "text": Reason.NOT_AN_IMAGE,
            "cut": Reason.TRUNCATED,
            "empty": Reason.EMPTY,
        }
        wanted[name] = reasons.get(kind, data)
    return items, wanted


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    """A script on standard input of a fresh interpreter."""
    tests = str(Path(__file__).parent)
    script = f"import sys; sys.path[:0] = [{tests!r}, {str(Path(tests).parent)!r}]\n" + script
    return subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
