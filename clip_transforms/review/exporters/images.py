"""Where an annotation tool finds the images of a queue: their own urls, or copies written beside the export."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from clip_transforms.elements import ContractError, RequestError
from clip_transforms.filesystems import protocol_of
from clip_transforms.review.exporters.items import Item
from clip_transforms.storage import Store

_CONTAINER = re.compile(r"\.(?:tar|parquet)#", re.IGNORECASE)
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_THREADS = 8
_TOGETHER = 64  # images in memory at a time
_NAMED = 3  # in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one image of a queue is. path: of a local file; None for one in a store or on the web."""

    uri: str  # of the image itself, or of its copy

    @property
    def path(self) -> str | None:
        return self.uri if protocol_of(self.uri) == "file" else None


def own_places(items: Sequence[Item]) -> list[Place]:
    """The images where they are. Raises RequestError for those in a shard or a Parquet file: these have no url."""
    inside = [item.uri for item in items if _CONTAINER.search(item.uri)]
    if inside:
        raise RequestError(
            f"{len(inside)} images are in a shard or a Parquet file and have no url of their own, {inside[0]} for "
            "one: --images DIR writes the queue's images beside the export"
        )
    return [Place(uri=item.uri) for item in items]


def copied_places(items: Sequence[Item], folder: Store) -> list[Place]:
    """Where `copy_images` writes the images, named by their ids."""
    return [Place(uri=folder.join(_copy_name(item))) for item in items]


def copy_images(items: Sequence[Item], folder: Store, load: Callable[[str], bytes | None]) -> None:
    """Write the images of a queue into a folder, as they are encoded. Memory: _TOGETHER of them.

    load: the bytes behind a uri, or None. Raises ContractError, once all were tried, for those that cannot be
    had any more, or are not what the queue was made of; what was written stays.
    """
    missing: list[str] = []

    def copy(item: Item) -> str | None:
        data = load(item.uri)
        if data is None or item.sha256 not in (None, hashlib.sha256(data).hexdigest()):
            return item.uri
        folder.write(_copy_name(item), data)
        return None

    ordered = sorted(items, key=lambda item: item.uri)  # a shard's images one after the other
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(ordered), _TOGETHER):
            batch = ordered[start : start + _TOGETHER]
            missing += [uri for uri in pool.map(copy, batch) if uri is not None]
    if missing:
        some = ", ".join(missing[:_NAMED])
        raise ContractError(
            f"{len(missing)} of {len(items)} images cannot be read any more, or have changed since: {some}"
            f"{', ...' if len(missing) > _NAMED else ''}; nothing was exported"
        )


def _copy_name(item: Item) -> str:
    stem = item.image_id
    if not _SAFE_ID.fullmatch(stem):
        stem = hashlib.blake2b(stem.encode(), digest_size=16).hexdigest()
    return f"{stem}.{_SUFFIXES.get(item.format, item.format.lower())}"


def label_studio_urls(places: Sequence[Place], document_root: str | None) -> list[str]:
    """What Label Studio opens: gs://, s3:// and http(s) urls, local files through its document root.

    Raises RequestError for local files that are not in a folder below `document_root` (it serves those of a Local
    Files storage, which cannot be the root itself), and for other stores.
    """
    return [_label_studio_url(place, document_root) for place in places]


def _label_studio_url(place: Place, document_root: str | None) -> str:
    if place.path is None:
        if protocol_of(place.uri) in ("gs", "gcs", "s3", "s3a", "http", "https"):
            return place.uri
        raise RequestError(
            f"Label Studio opens gs://, s3://, http(s):// and local files, not {place.uri}: --images DIR writes "
            "the queue's images there"
        )
    if document_root is None:
        raise RequestError(
            f"{place.path} is a local file: --document-root DIR says what Label Studio serves "
            "(LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true); or "
            "--images DIR writes the queue's images into a folder for it"
        )
    inside = below(place.path, document_root)
    if "/" not in inside:
        raise RequestError(
            f"{place.path} is in --document-root itself, and Label Studio serves folders below it alone: give "
            f"the folder above, --document-root {Path(document_root).parent}"
        )
    return f"/data/local-files/?d={quote(inside)}"


def below(path: str, root: str) -> str:
    """A local path relative to a folder that it is in. Raises RequestError where it is not.

    >>> below("/photos/cats/1.jpg", "/photos/")
    'cats/1.jpg'
    """
    try:
        return Path(path).relative_to(Store(root).root).as_posix()
    except ValueError:
        raise RequestError(
            f"{path} is not below --document-root {root}; give a folder that holds all the images, or "
            "--images DIR"
        ) from None


def name_in_task(place: Place, document_root: str | None) -> str:
    """What a tool that matches by name (CVAT) calls an image.

    Below the document root the relative path; else the base name; in a bucket the key; on the web the end of
    the url's path.
    """
    if place.path is not None:
        return Path(place.path).name if document_root is None else below(place.path, document_root)
    parts = urlsplit(place.uri)
    if parts.scheme in ("http", "https"):
        return unquote(parts.path).rsplit("/", 1)[-1]
    return place.uri.split("://", 1)[1].partition("/")[2]
