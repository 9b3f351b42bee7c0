"""Small pictures for a page: images loaded again by their uri, scaled down, as data urls."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, features

from clip_transforms.elements import BeamclipError
from clip_transforms.images import DecodeOptions, decode_rgb

#: The encoded image behind a uri, or None where it cannot be had (any more). Called from several threads;
#: the uris of one container (`SHARD#KEY`, `FILE#ROW`) come one after the other from one thread.
LoadImage = Callable[[str], bytes | None]

_logger = logging.getLogger(__name__)
_QUALITY = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture as a `data:` url, and its size in pixels."""

    url: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails:
    """Pictures by uri, how many images could not be read, and how many there was no time for."""

    pictures: dict[str, Thumbnail]
    unreadable: int = 0
    late: int = 0


def make_thumbnail(data: bytes, *, px: int, decode: DecodeOptions) -> Thumbnail:
    """The image scaled to at most `px` pixels a side, as WebP (JPEG where Pillow has no WebP).

    Never enlarged. Raises ImageError where the image cannot be decoded.
    """
    image, _ = decode_rgb(data, decode, draft_size=(2 * px, 2 * px))
    image.thumbnail((px, px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    kind = "WEBP" if features.check("webp") else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(
        url=f"data:image/{kind.lower()};base64,{encoded}", width=image.width, height=image.height
    )


def make_thumbnails(
    uris: Iterable[str],
    *,
    load_image: LoadImage | None,
    px: int,
    seconds: float,
    threads: int,
    decode: DecodeOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Thumbnails:
    """Thumbnails of the images behind the uris, loaded by `threads` threads.

    What cannot be loaded or decoded is left out and counted; after `seconds` no further image is begun, so
    that a slow store delays a report and does not stop it.
    """
    groups: dict[str, list[str]] = {}
    for uri in dict.fromkeys(uris):
        groups.setdefault(uri.split("#", 1)[0], []).append(uri)
    if load_image is None:
        return Thumbnails(pictures={}, unreadable=sum(map(len, groups.values())))
    load, end, options = load_image, clock() + seconds, decode or DecodeOptions()

    def work(group: list[str]) -> list[tuple[str, Thumbnail | bool | None]]:
        # False: out of time; None: not readable.
        return [(uri, clock() < end and _one(uri, load, px=px, decode=options)) for uri in group]

    with ThreadPoolExecutor(threads, thread_name_prefix="beamclip-thumbnail") as pool:
        found = [entry for entries in pool.map(work, groups.values()) for entry in entries]
    return Thumbnails(
        pictures={uri: made for uri, made in found if isinstance(made, Thumbnail)},
        unreadable=sum(made is None for _, made in found),
        late=sum(made is False for _, made in found),
    )


def _one(uri: str, load_image: LoadImage, *, px: int, decode: DecodeOptions) -> Thumbnail | None:
    try:
        data = load_image(uri)
        return None if data is None else make_thumbnail(data, px=px, decode=decode)
    except (BeamclipError, OSError) as error:
        _logger.info("no thumbnail of %s: %s", uri, error)
        return None
