"""The images of a finished data set, copied into a folder a label: original bytes, checked against their sha256.

They are read from the input again unit by unit, as they were for the run, so that a shard or a Parquet file is
read once, and not once an image.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clip_transforms.elements import Failure, ImageError, ImageRef, WorkUnit
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.plan import read_unit_rows
from clip_transforms.review.final_files import create
from clip_transforms.sources import SourceOptions, read_unit
from clip_transforms.storage import Store

THREADS = 16  # images fetched and written at a time
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_LONGEST = 80  # characters of a name that are kept

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What became of one image: the name of its copy, or why there is none."""

    file: str | None
    problem: str | None = None


class ImageCopier:
    """Copies the images of one unit after the other. source: the run with the plan. Not for several threads."""

    def __init__(
        self,
        source: Store,
        output: Store,
        *,
        units: Mapping[str, WorkUnit],
        sources: SourceOptions,
        fetching: FetchOptions,
        folders: Mapping[str, str],
    ) -> None:
        self._source = source
        self._output = output
        self._units = units
        self._sources = sources
        self._fetching = fetching
        self._folders = folders
        self._lost = ""  # why images of the unit were not met

    def copy(self, unit: str, rows: pa.Table) -> list[Copied]:
        """Copy the images of rows (image_id, uri, label, format, sha256) into their labels' folders; in their order."""
        waiting: dict[Key, deque[tuple[int, dict[str, Any]]]] = defaultdict(deque)
        for place, row in enumerate(rows.to_pylist()):
            waiting[row["image_id"], row["uri"]].append((place, row))
        self._lost = "the input no longer names it"
        found: list[Copied | None] = [None] * rows.num_rows
        for place, copied in self._copied(unit, waiting):
            found[place] = copied
        return [copied or Copied(file=None, problem=self._lost) for copied in found]

    def _copied(
        self, unit: str, waiting: Mapping[Key, deque[tuple[int, dict[str, Any]]]]
    ) -> Iterator[tuple[int, Copied]]:
        running: deque[tuple[int, Future[Copied]]] = deque()
        left = sum(map(len, waiting.values()))
        if unit not in self._units or not left:
            return
        planned = self._units[unit]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="beamclip-final") as pool:
            items = read_unit(planned.kind, read_unit_rows(self._source, planned), self._sources)
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    rows = waiting.get((item.image_id, item.uri))
                    if not rows:
                        if isinstance(item, Failure):  # of a whole shard or file
                            self._lost = f"{item.uri}: {item.reason.value}: {item.message}"
                        continue
                    place, row = rows.popleft()
                    running.append((place, pool.submit(self._one, item, row)))
                    left -= 1
                    if len(running) >= THREADS:
                        first, future = running.popleft()
                        yield first, future.result()
                    if not left:
                        break  # of a shard the rest need not be read
            for first, future in running:
                yield first, future.result()

    def _one(self, item: ImageRef | Failure, row: Mapping[str, Any]) -> Copied:
        if isinstance(item, Failure):
            return Copied(file=None, problem=f"{item.reason.value}: {item.message}")
        try:
            data = item.payload if item.payload is not None else fetch(item.url, self._fetching)
        except ImageError as error:
            return Copied(file=None, problem=f"{error.reason.value}: {error.message}")
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            return Copied(file=None, problem="changed since it was labelled: its sha256 differs")
        name = f"{self._folders[row['label']]}/{file_name(row['image_id'], row['uri'], row['format'])}"
        create(self._output, name, data)
        return Copied(file=name)


def file_name(image_id: str, uri: str, kind: str) -> str:
    """A name that no other image has: the end of the uri, made safe, and 16 digits of a hash. kind: Pillow's format.

    >>> file_name("1", "gs://b/a/My cat?.jpeg", "JPEG")
    'My cat_-da503648e1669d23.jpg'
    """
    last = re.split(r"[/#\\]", uri)[-1]
    stem = last.rsplit(".", 1)[0] if "." in last.lstrip(".") else last
    digits = hashlib.blake2b(f"{image_id}\0{uri}".encode("utf-8", "replace"), digest_size=8).hexdigest()
    suffix = _SUFFIXES.get(kind, kind.lower())
    return f"{safe_name(stem)}-{digits}.{suffix}"


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder for each label, none the same as another also where case does not count.

    >>> folder_names(["cat", "Cat", "a/b", "..", "__none__"])["a/b"]
    'a_b'
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for label in sorted(set(labels)):
        name = safe_name(label)
        if name.casefold() in taken:
            name += f"-{hashlib.blake2b(label.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
        taken.add(name.casefold())
        found[label] = name
    return found


def safe_name(text: str) -> str:
    """What every file system takes as one name, and no glob or shell reads as something else.

    >>> safe_name("../x:y*"), safe_name("con"), safe_name("Zürich "), safe_name("...")
    ('_x_y_', 'con_', 'Zürich', '_')
    """
    plain = re.sub(r"[^\w .,()+@-]", "_", unicodedata.normalize("NFC", text))
    plain = plain.lstrip(". -").rstrip(". ")[:_LONGEST].rstrip(". ")
    while len(plain.encode()) > 2 * _LONGEST:
        plain = plain[:-1]
    if _RESERVED.fullmatch(plain):
        plain += "_"
    return plain or "_"
