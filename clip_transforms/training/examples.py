"""Pictures with captions, decoded and held in memory as uint8 with alpha."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip_transforms.elements import RequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One picture and everything that it may be called."""

    image: bytes  # encoded
    captions: tuple[str, ...]  # best first
    tags: tuple[str, ...] = ()
    concept: str | None = None  # pictures of one concept in several styles are shown together
    style: str = ""
    weight: float = 1.0


@dataclass(slots=True)
class Examples:
    """Decoded examples. pixels is [N, S, S, 4] uint8; single says which are drawn in one colour."""

    pixels: npt.NDArray[np.uint8]
    single: npt.NDArray[np.bool_]
    captions: list[tuple[str, ...]]
    tags: list[tuple[str, ...]]
    concept: npt.NDArray[np.int64]  # -1: none
    style: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    concepts: list[str] = field(default_factory=list)
    skipped: int = 0  # without a caption, or not to be decoded

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.captions)


def example_of(image: bytes, caption: str | None, extra: str | None) -> Example | None:
    """The example behind a row of a source, or None where it has no caption.

    extra is the row's JSON object; of it `captions` and `tags` (lists of texts), `concept`, `style` and
    `weight` are used where they are there. Without a concept the caption stands for it.

    >>> example_of(b"", "a cat", '{"tags": ["animal"], "weight": 2}').tags
    ('animal',)
    """
    more: Mapping[str, object] = json.loads(extra) if extra else {}
    captions = _texts(more.get("captions"))
    first = (caption or "").strip()
    captions = tuple(dict.fromkeys(text for text in (first, *captions) if text))
    if not captions:
        return None
    weight = more.get("weight", 1.0)
    return Example(
        image=image,
        captions=captions,
        tags=tuple(tag for tag in _texts(more.get("tags")) if tag not in captions),
        concept=str(more.get("concept") or captions[0]),
        style=str(more.get("style") or ""),
        weight=max(float(weight), 0.0) if isinstance(weight, (int, float)) else 1.0,
    )


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text.strip() for text in value if isinstance(text, str) and text.strip())


def to_square(data: bytes, side: int) -> npt.NDArray[np.uint8]:
    """An encoded picture as [side, side, 4]: all of it, centred. Raises OSError, ValueError."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        # Premultiplied, or the colour of clear pixels bleeds into the edges.
        image = image.convert("RGBa").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).convert("RGBA")
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square, np.uint8)


def is_single(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether a picture with alpha is drawn in one colour.

    >>> is_single(np.full((4, 4, 4), 255, np.uint8))
    False
    """
    solid = pixels[..., 3] > 200
    if solid.all() or not solid.any():
        return False
    return bool(pixels[..., :3][solid].std(axis=0).max() < 6)


def gather(found: Iterable[Example], *, side: int) -> Examples:
    """Decodes every example to `side` pixels; those that do not decode are counted and left out.

    Raises RequestError where fewer than two pictures are left: there is nothing to contrast.
    """
    kept: list[Example] = []
    arrays: list[npt.NDArray[np.uint8]] = []
    skipped = 0
    for example in found:
        try:
            arrays.append(to_square(example.image, side))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            logger.info("a picture of %s is left out: %s", example.captions[0], error)
            skipped += 1
            continue
        kept.append(example)
    if len(kept) < 2:
        raise RequestError(
            f"training needs at least 2 pictures with captions: of this input {len(kept)} can be used"
        )
    concepts = list(dict.fromkeys(example.concept or "" for example in kept))
    numbers = {name: number for number, name in enumerate(concepts)}
    styles = {name: number for number, name in enumerate(dict.fromkeys(example.style for example in kept))}
    pixels = np.stack(arrays)
    return Examples(
        pixels=pixels,
        single=np.array([is_single(one) for one in pixels], bool),
        captions=[example.captions for example in kept],
        tags=[example.tags for example in kept],
        concept=np.array([numbers[example.concept or ""] for example in kept], np.int64),
        style=np.array([styles[example.style] for example in kept], np.int64),
        weight=np.array([example.weight for example in kept], np.float64),
        concepts=concepts,
        skipped=skipped,
    )


def with_captions(rows: Iterable[tuple[bytes, str | None, str | None]]) -> Iterator[Example]:
    """Examples of (image, caption, extra) rows. Raises RequestError where no row has a caption."""
    seen = made = 0
    for image, caption, extra in rows:
        seen += 1
        example = example_of(image, caption, extra)
        if example is not None:
            made += 1
            yield example
    if seen and not made:
        raise RequestError(
            f"none of the {seen} pictures has a caption: training needs a caption column (name it with "
            "--caption-column), or .txt or .json members in webdataset shards"
        )
