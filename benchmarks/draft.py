"""What JPEG draft decoding (libjpeg scaling while it decodes) changes: pixels, embeddings, hashes and time.

Prints, for each factor k (a picture is scaled only as far as it stays k times the encoder's size) and for
the pictures that are scaled: how pixels after `to_pixels` differ from an exact decode (0..255), how far the
embedding of a random-weight ViT-B/32 moves (1 - cosine), how many of phash's 64 bits change; and the time of
one picture on one thread, over all pictures.

    python benchmarks/draft.py [--pictures N] [--no-encoder]
"""

from __future__ import annotations

import argparse
import io
import time

import numpy as np
from PIL import Image, ImageDraw

from clip_transforms import images
from clip_transforms.encoders.base import Preprocess, UInt8

SIZES = ((640, 480), (1024, 768), (1600, 1200), (3001, 2003), (4000, 3000))
QUALITIES = (50, 75, 95)
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
TARGET = Preprocess(height=224, width=224, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture with much at every scale: 1/f noise in colour, sharp shapes, thin lines, text."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size[1], size[0], 3), dtype=np.float32)
    for octave in range(2, 10):
        grain = rng.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        for band in range(3):
            layer = Image.fromarray(grain[..., band]).resize(size, Image.Resampling.BICUBIC)
            canvas[..., band] += np.asarray(layer) * 60 / 2 ** (octave / 2)
    image = Image.fromarray(np.clip(canvas + 120, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(3, size[0] // 4), rng.integers(3, size[1] // 4)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = int(rng.integers(4))
        if shape == 0:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        elif shape == 1:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        elif shape == 2:
            draw.line((x, y, x + w, y + h), fill=colour, width=int(rng.integers(1, 9)))
        else:
            draw.text((x, y), "zero-shot labels", fill=colour)
    return image


def decoded(data: bytes, factor: float | None) -> tuple[UInt8, str, float]:
    """Pixels, phash and seconds, drafted down to `factor` times the target, or exactly."""
    options = images.DecodeOptions(draft=factor is not None)
    before, images.DRAFT_FACTOR = images.DRAFT_FACTOR, factor or 1.0
    try:
        start = time.perf_counter()
        pixels, info = images.decode_to_pixels(data, options, TARGET)
        return pixels, info.phash, time.perf_counter() - start
    finally:
        images.DRAFT_FACTOR = before


def embed(pixels: list[UInt8]) -> np.ndarray:
    """Normalised embeddings of a ViT-B/32 with seeded random weights."""
    import open_clip
    import torch

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    scaled = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(255)
    batch = (scaled - torch.tensor(TARGET.mean)[:, None, None]) / torch.tensor(TARGET.std)[:, None, None]
    with torch.no_grad():
        features = torch.cat([model.encode_image(part, normalize=True) for part in batch.split(32)])
    return np.asarray(features, dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--pictures", type=int, default=3, help="pictures of each size and quality")
    parser.add_argument("--no-encoder", action="store_true", help="leave out the embeddings")
    arguments = parser.parse_args()
    exact: list[tuple[UInt8, str, float]] = []
    drafted: dict[float, list[tuple[UInt8, str, float]]] = {factor: [] for factor in FACTORS}
    sizes = []
    warm = io.BytesIO()
    picture(0, (64, 64)).save(warm, "JPEG")
    decoded(warm.getvalue(), None)  # the first call imports Pillow's formats
    for size in SIZES:
        for seed in range(arguments.pictures):
            image = picture(seed, size)
            for quality in QUALITIES:
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=quality)
                sizes.append(size)
                exact.append(decoded(buffer.getvalue(), None))
                for factor in FACTORS:
                    drafted[factor].append(decoded(buffer.getvalue(), factor))
    report(sizes, exact, drafted, encoder=not arguments.no_encoder)


def report(
    sizes: list[tuple[int, int]],
    exact: list[tuple[UInt8, str, float]],
    drafted: dict[float, list[tuple[UInt8, str, float]]],
    *,
    encoder: bool,
) -> None:
    every = [pixels for rows in (exact, *drafted.values()) for pixels, _, _ in rows]
    vectors = embed(every).reshape(1 + len(drafted), len(exact), -1) if encoder else None
    if vectors is not None:
        others = vectors[0] @ vectors[0].T
        print(f"between different pictures 1 - cosine is {1 - np.median(others):.2e} (median)\n")
    print(
        "   k  scaled   pixels: mean   99.9%   max   1-cosine: mean      max   phash bits: mean  max     ms"
    )
    for number, (factor, rows) in enumerate(drafted.items(), start=1):
        different = [i for i, row in enumerate(rows) if not np.array_equal(row[0], exact[i][0])]
        chosen = different or [0]
        gaps = np.stack([np.abs(rows[i][0].astype(int) - exact[i][0]) for i in chosen])
        bits = [bin(int(rows[i][1], 16) ^ int(exact[i][1], 16)).count("1") for i in chosen]
        far = [1 - vectors[0, i] @ vectors[number, i] for i in chosen] if vectors is not None else [np.nan]
        print(
            f"{factor:4.1f} {len(different):3d}/{len(rows):3d}"
            f" {gaps.mean():14.2f} {np.percentile(gaps, 99.9):7.1f} {gaps.max():5d}"
            f" {np.mean(far):16.2e} {np.max(far):8.2e}"
            f" {np.mean(bits):16.2f} {max(bits):4d} {milliseconds(rows):6.1f}"
        )
    print(f"exact{milliseconds(exact):87.1f}\n\nms a picture, by size:")
    for size in SIZES:
        of_size = [i for i, each in enumerate(sizes) if each == size]
        times = [f"k={k:g} {milliseconds([rows[i] for i in of_size]):6.1f}" for k, rows in drafted.items()]
        whole = milliseconds([exact[i] for i in of_size])
        print(f"{size[0]:5d} x {size[1]:4d}  exact {whole:6.1f}  {'  '.join(times)}")


def milliseconds(rows: list[tuple[UInt8, str, float]]) -> float:
    """Mean time of a picture."""
    return 1000 * float(np.mean([row[2] for row in rows]))


if __name__ == "__main__":
    main()
