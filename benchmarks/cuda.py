"""What beamclip does on a CUDA device: agreement with the CPU, whole jobs, and a device whose memory runs out.

    python -m benchmarks.cuda [--images 30000] [--processes 8]

Models with random weights. Prints (1) how far vectors of the device are from the CPU's in fp32, and those of
half precision from these; (2) images a second of the encoder alone and of whole `beamclip embed` jobs over
JPEGs on a local disk, by the threads of one process and with `--fetch-processes`; (3) a job whose device has
no room for its batches: it must end with every row. Exits 1 where a row is lost, and 2 without a device.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.encoders.base import Encoder

ENCODER = "open_clip:ViT-B-32/random-0"
MODELS = (ENCODER, "open_clip:RN50/random-0", "beamclip-tiny")
TEXTS = ["a photo of a cat", "a drawing of two dogs", "nothing at all"]
#: A share of the device's memory that holds the model and a few images.
SMALL = 0.008


def pixels(encoder: Encoder, count: int) -> np.ndarray:
    """Smooth random pictures, [count, height, width, 3] uint8."""
    shape = encoder.preprocess
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    grown = [
        Image.fromarray(one).resize((shape.width, shape.height), Image.Resampling.BICUBIC) for one in small
    ]
    return np.stack([np.asarray(one) for one in grown])


def agreement() -> None:
    """Part 1."""
    print(f"{'model':<32}{'precision':<11}{'images':>12}{'texts':>12}   against")
    for name in MODELS:
        base = load(EncoderSpec(name=name, device="cpu", precision="fp32"))
        images = pixels(base, 64)
        cpu = (base.encode_images(images), base.encode_texts(TEXTS))
        exact = load(EncoderSpec(name=name, device="cuda", precision="fp32"))
        full = (exact.encode_images(images), exact.encode_texts(TEXTS))
        gaps = [float(np.abs(a - b).max()) for a, b in zip(cpu, full, strict=True)]
        print(f"{name:<32}{'fp32':<11}{gaps[0]:>12.1e}{gaps[1]:>12.1e}   CPU, largest difference")
        for precision in ("bf16", "fp16"):
            half = load(EncoderSpec(name=name, device="cuda", precision=precision))
            found = (half.encode_images(images), half.encode_texts(TEXTS))
            cosines = [float((a * b).sum(axis=1).min()) for a, b in zip(full, found, strict=True)]
            print(
                f"{name:<32}{precision:<11}{cosines[0]:>12.5f}{cosines[1]:>12.5f}   fp32, least cosine",
                flush=True,
            )


def encoder_alone(precision: str, *, seconds: float = 5.0) -> float:
    """Images a second of one encoder that never waits, batches of 256."""
    encoder = load(EncoderSpec(name=ENCODER, device="cuda", precision=precision))
    batch = pixels(encoder, 256)
    for _ in range(5):
        encoder.encode_images(batch)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        encoder.encode_images(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def write_jpegs(folder: Path, count: int, *, distinct: int = 1000) -> int:
    """`count` JPEGs of about 90 kB, further names of the first `distinct` from there on; the mean size in bytes."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    total = 0
    for start in range(0, min(count, distinct), 50):
        noise = rng.normal(0, 14, (400, 500, 3))
        blobs = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(blobs).resize((500, 400), Image.Resampling.BICUBIC), np.float64)
        for place in range(start, min(start + 50, count)):
            shifted = np.roll(smooth, 7 * (place - start), axis=1) + noise
            buffer = io.BytesIO()
            Image.fromarray(shifted.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            (folder / f"{place:06d}.jpg").write_bytes(buffer.getvalue())
            total += len(buffer.getvalue())
    for place in range(distinct, count):
        (folder / f"{place:06d}.jpg").hardlink_to(folder / f"{place % distinct:06d}.jpg")
    return total // min(count, distinct)


def job(images: Path, output: Path, *options: str, memory: float = 1.0) -> dict[str, object]:
    """The run.json of one job in a process of its own. memory: the share of the device's that it may take."""
    code = (
        f"import sys, torch; torch.cuda.set_per_process_memory_fraction({memory}); "
        "from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["embed", "--input", str(images), "--output", str(output), "--device", "cuda", "--quiet"]
    subprocess.run([sys.executable, "-c", code, *words, *options], check=True)
    found: dict[str, object] = json.loads((output / "run.json").read_text())
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)  # type: ignore[union-attr]
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--processes", type=int, default=8, help="of --fetch-processes")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("benchmarks.cuda: torch sees no CUDA device here", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    agreement()
    print(f"\n{ENCODER}, images/s")
    for precision in ("fp32", "bf16"):
        print(f"{'the encoder alone, ' + precision:<44}{encoder_alone(precision):>10,.0f}", flush=True)
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        mean = write_jpegs(images, options.images)
        print(f"{options.images:,} JPEGs of 500 x 400, {mean / 1000:.0f} kB")
        many = ("--fetch-processes", str(options.processes))
        cases: list[tuple[str, tuple[str, ...], float]] = [
            ("embed, threads", (), 1.0),
            (f"embed, {options.processes} fetch processes", many, 1.0),
            (
                f"embed, fp32, 8,192 a batch, {100 * SMALL:g} % of the memory",
                ("--batch-size", "8192", "--precision", "fp32"),
                SMALL,
            ),
        ]
        for place, (name, more, memory) in enumerate(cases):
            run = job(images, Path(folder) / f"run{place}", "--encoder", ENCODER, *more, memory=memory)
            lost += run["embedded"] != options.images
            rate, rows = run["images_per_second"], run["embedded"]
            print(f"{name:<44}{rate:>10,.0f}   {rows:,} rows, {run['failed']} failed", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
