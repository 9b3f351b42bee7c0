"""How well fetch, decode and encode overlap: the engine end to end against each stage alone, in one process.

    python -m benchmarks.pipeline [--only cpu|accelerator|4:1|1:1|1:4] [--quick] [--repeats N] [--images N]

(a) CPU encoder: ViT-B/32 with random weights. Decoding and encoding share the cores, so the best possible is
    1 / (1/encode + 1/decode). Wanted: at least 0.95 of it.
(b) Simulated accelerator: an encoder that waits without using the CPU, 4 times slower than decoding, as fast,
    and 4 times faster, in units of 64 and of 1,024 images, as many in flight as in a pipeline. Wanted: at
    least 0.9 of the slowest stage alone with the same threads.

Images are JPEGs of 640 x 480 behind an fsspec file system that answers after 50 ms. Every repeat measures the
stages alone, the engine, and the stages again; the table has the median ratio over the repeats, and the
least and the greatest, which show how quiet the machine was. Exit code 1 if a median is below what is wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
from fsspec.asyn import AsyncFileSystem
from PIL import Image

from clip_transforms import encoders
from clip_transforms.elements import Failure, ImageRef
from clip_transforms.encoders.base import Encoder, EncoderSpec, Float32, Preprocess, UInt8
from clip_transforms.encoders.fake import FakeOptions
from clip_transforms.engine import EncodedBatch, Engine, EngineOptions, EngineStats
from clip_transforms.engine.fetchers import Fetchers
from clip_transforms.fetch import FetchOptions, connect
from clip_transforms.images import decode_to_pixels
from clip_transforms.memory import limit_malloc
from clip_transforms.units import enough_in_flight

LATENCY_S = 0.05
CPU_WANTED = 0.95
ACCELERATOR_WANTED = 0.9
FACTORS = {"4:1": 4.0, "1:1": 1.0, "1:4": 0.25}  # encode:decode
PICTURES: list[bytes] = []


class LatencyFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """`latency://7` is picture 7, after 50 ms: an object store without a network."""

    protocol = "latency"

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        await asyncio.sleep(LATENCY_S)
        return PICTURES[int(str(path).rsplit("/", 1)[-1]) % len(PICTURES)][start:end]


class WaitingEncoder(encoders.FakeEncoder):
    """Looks at no pixel: `encode_images` only sleeps for a time per image."""

    def __init__(self, image_s: float, preprocess: Preprocess) -> None:
        super().__init__(FakeOptions(dim=512))
        self.preprocess = preprocess
        self.device = "simulated"  # the engine treats what is not the CPU as an accelerator
        self.image_s = image_s

    def encode_images(self, pixels: UInt8) -> Float32:
        """[B, height, width, 3] -> [B, 512] ones, after B times the wait."""
        time.sleep(self.image_s * len(pixels))
        return np.ones((len(pixels), self.dim), np.float32)


class CountingSink:
    """Counts what arrives."""

    def __init__(self) -> None:
        self.rows = 0

    def embedded(self, batch: EncodedBatch) -> None:
        """Count the rows."""
        self.rows += len(batch.refs)

    def failed(self, failure: Failure) -> None:
        """There is nothing bad here."""
        raise RuntimeError(f"{failure.uri}: {failure.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: images a second of each repeat, and what the engine is measured against."""

    name: str
    wanted: float
    stages: list[dict[str, float]]
    engine: list[float]
    limit: Callable[[dict[str, float]], float]

    @property
    def ratios(self) -> list[float]:
        return [rate / self.limit(stages) for rate, stages in zip(self.engine, self.stages, strict=True)]

    def text(self) -> str:
        """The line."""
        stages = "  ".join(
            f"{statistics.median(stages[name] for stages in self.stages):7.1f}"
            for name in ("fetch", "decode", "encode")
        )
        ratios = self.ratios
        median = statistics.median(ratios)
        verdict = "ok" if median >= self.wanted else "LOW"
        return (
            f"{self.name:<28} {stages}  {statistics.median(self.engine):7.1f}   {median:5.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})  >= {self.wanted:.2f} {verdict}"
        )


def pictures(count: int, size: tuple[int, int] = (640, 480)) -> list[bytes]:
    """JPEGs with some detail, about 100 kB each."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def rate_of(work: Callable[[int], object], *, count: int, threads: int) -> float:
    """Calls a second of `work(0) ... work(count - 1)` on so many threads."""
    numbers = iter(range(count))
    lock = threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            work(number)

    workers = [threading.Thread(target=loop) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count / (time.perf_counter() - started)


class CountingOutlet:
    """Counts what was fetched."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = threading.Event()

    def begin(self, _: int) -> bool:
        return True

    def arrived(self, _: int, data: bytes, seconds: float) -> None:  # noqa: ARG002
        self.left -= 1  # only the loop's thread comes here: the client is open
        if not self.left:
            self.done.set()

    def missed(self, _: int, error: BaseException) -> None:
        raise error

    def broken(self, error: BaseException) -> None:
        raise error


def fetch_rate(options: EngineOptions, *, count: int) -> float:
    """Images a second of the engine's own fetchers, nothing decoded."""
    connect("latency://0", options.fetch)
    outlet = CountingOutlet(count)
    fetchers = Fetchers(outlet, options.fetch, limit=options.fetch_threads, name="bench-fetch")
    started = time.perf_counter()
    for number in range(count):
        fetchers.put(number, f"latency://{number}")
    outlet.done.wait()
    seconds = time.perf_counter() - started
    fetchers.close()
    return count / seconds


def stages_alone(
    encoder: Encoder, options: EngineOptions, *, fetch: int, decode: int, encode: int
) -> dict[str, float]:
    """Images a second of each stage by itself on so many images, with the engine's threads and batch size."""
    batch = np.stack([decode_to_pixels(data, options.decode, encoder.preprocess)[0] for data in PICTURES])
    size = options.batch_size_for(encoder)
    batch = np.resize(batch, (size, *batch.shape[1:]))

    def decode_one(number: int) -> object:
        return decode_to_pixels(PICTURES[number % len(PICTURES)], options.decode, encoder.preprocess)

    batches = max(1, encode // size)
    return {
        "fetch": fetch_rate(options, count=fetch),
        "decode": rate_of(decode_one, count=decode, threads=options.decode_threads_here()),
        "encode": size * rate_of(lambda _: encoder.encode_images(batch), count=batches, threads=1),
    }


def engine_rate(encoder: Encoder, options: EngineOptions, *, count: int, unit_size: int) -> float:
    """Images a second of the whole, units submitted as a pipeline does."""
    engine = Engine(encoder, options)
    sink = [CountingSink() for _ in range(-(-count // unit_size))]
    started = time.perf_counter()
    pending: list[tuple[int, Future[EngineStats]]] = []
    for number, first in enumerate(range(0, count, unit_size)):
        images = min(unit_size, count - first)
        pending.append((images, engine.submit(refs(first, first + images), sink[number])))
        while enough_in_flight([size for size, _ in pending]):
            pending.pop(0)[1].result()
    for _, future in pending:
        future.result()
    seconds = time.perf_counter() - started
    engine.close()
    assert sum(each.rows for each in sink) == count
    return count / seconds


def refs(first: int, last: int) -> Iterator[ImageRef]:
    """References to the pictures; a listing knows sizes."""
    for number in range(first, last):
        size = len(PICTURES[number % len(PICTURES)])
        yield ImageRef(image_id=str(number), uri=str(number), url=f"latency://{number}", size=size)


def cpu_row(args: argparse.Namespace, options: EngineOptions) -> Row:
    """Part (a)."""
    encoder = encoders.load(EncoderSpec(name="open_clip:ViT-B-32/random-0", device="cpu"))
    count = 64 if args.quick else 256
    stages_alone(encoder, options, fetch=64, decode=32, encode=32)  # warm up
    stages, rates = [], []
    for _ in range(args.repeats):
        before = stages_alone(encoder, options, fetch=count, decode=count, encode=count // 2)
        rates.append(engine_rate(encoder, options, count=count, unit_size=128))
        after = stages_alone(encoder, options, fetch=count, decode=count, encode=count // 2)
        stages.append({name: 2 / (1 / before[name] + 1 / after[name]) for name in before})
    return Row(
        name="cpu ViT-B/32, units of 128",
        wanted=CPU_WANTED,
        stages=stages,
        engine=rates,
        limit=lambda rate: 1 / (1 / rate["encode"] + 1 / rate["decode"]),
    )


def accelerator_rows(args: argparse.Namespace, options: EngineOptions) -> Iterator[Row]:
    """Part (b); encode takes `factor` times as long as decoding."""
    preprocess = Preprocess(height=224, width=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    probe = WaitingEncoder(0.0, preprocess)
    stages_alone(probe, options, fetch=64, decode=64, encode=64)
    names = {factor: name for name, factor in FACTORS.items()}
    factors = [FACTORS[args.only]] if args.only in FACTORS else list(FACTORS.values())
    for factor, unit_size in itertools.product(factors, (64, 1024)):
        stages, rates = [], []
        count = args.images if factor <= 1 else max(unit_size, args.images // 2)
        # Where decoding is the limit it is measured for as long as the engine: the speed of a shared machine drifts.
        alike = args.images // 2 if factor <= 1 else args.images // 4
        for _ in range(args.repeats):
            alone = stages_alone(probe, options, fetch=args.images // 4, decode=alike, encode=32)
            encoder = WaitingEncoder(factor / alone["decode"], preprocess)
            rates.append(engine_rate(encoder, options, count=count, unit_size=unit_size))
            again = stages_alone(encoder, options, fetch=args.images // 4, decode=alike, encode=128)
            both = {name: 2 / (1 / alone[name] + 1 / again[name]) for name in ("fetch", "decode")}
            stages.append({**both, "encode": again["encode"]})
        yield Row(
            name=f"encode:decode {names[factor]}, units of {unit_size}",
            wanted=ACCELERATOR_WANTED,
            stages=stages,
            engine=rates,
            limit=lambda rate: min(rate.values()),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a ratio is below what is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument(
        "--only",
        choices=("cpu", "accelerator", *FACTORS),
        help="one part, or one encode:decode, instead of all",
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each line (default 5)")
    parser.add_argument(
        "--images", type=int, default=2048, help="images of an accelerator run (default 2048)"
    )
    parser.add_argument("--threads", type=int, default=32, help="fetches at a time (default 32)")
    parser.add_argument("--quick", action="store_true", help="one short repeat: does it run at all")
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.images = 1, 256
    limit_malloc()  # as every job does
    fsspec.register_implementation("latency", LatencyFileSystem, clobber=True)
    PICTURES[:] = pictures(32)
    fetching = FetchOptions(schemes=("latency",))
    options = EngineOptions(batch_size=32, fetch_threads=args.threads, fetch=fetching)
    print(
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {options.fetch_threads} fetches at a time of "
        f"{LATENCY_S * 1000:.0f} ms, {options.decode_threads_here()} decode threads, batches of 32, "
        f"JPEGs of {sum(map(len, PICTURES)) / len(PICTURES) / 1000:.0f} kB, {args.repeats} repeats"
    )
    print(f"{'images/s':<28} {'fetch':>7}  {'decode':>7}  {'encode':>7}  {'engine':>7}   ratio")
    low = False
    rows: list[Iterator[Row]] = []
    if args.only in (None, "cpu"):
        rows.append(iter([cpu_row(args, options)]))
    if args.only != "cpu":
        rows.append(accelerator_rows(args, options))
    for row in itertools.chain(*rows):
        print(row.text(), flush=True)
        low = low or statistics.median(row.ratios) < row.wanted
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
