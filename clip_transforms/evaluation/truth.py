"""The truth of an image, from its folder or a column, and its place among the labels of a prompt set."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from clip_transforms.elements import RequestError
from clip_transforms.probabilities import Int32
from clip_transforms.prompts import NONE, PromptSet

FOLDER = "folder"
#: Places of truths that are no label of the set, and of images that have no truth.
UNKNOWN, MISSING = -1, -2

Truth = str | tuple[str, ...] | None

#: From a spelling to the places that it may mean, and whether it must be written exactly so.
_Level = tuple[dict[str, set[int]], bool]

_CONTAINER = re.compile(r"\.(?:tar|tgz|tar\.gz|parquet)#", re.IGNORECASE)
_BECOME_CAPTIONS = ("caption", "text", "txt")  # columns that a source takes as the caption by itself
_MOST_NAMES = (
    10_000  # distinct truths that are counted by name, so that a wrong column cannot fill the memory
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthSource:
    """Where truths are: `folder`, or a column of the input.

    A column is looked for as `src_<name>` (carried), then in `extra`, then, if the run took it as its
    caption, in `caption`. caption_column: the column that the run was told to take.
    """

    name: str
    caption_column: str | None = None

    def columns(self, schema: pa.Schema) -> list[str]:
        """The columns of `embeddings/` that must be read for it."""
        if self.name == FOLDER:
            return ["uri"]
        carried = f"src_{self.name}"
        return [carried] if carried in schema.names else ["extra", "caption"]

    def of_rows(self, rows: pa.RecordBatch) -> list[Truth]:
        """The truth of each row; None where there is none."""
        if self.name == FOLDER:
            return [folder_of(uri) for uri in rows.column("uri").to_pylist()]
        carried = f"src_{self.name}"
        if carried in rows.schema.names:
            return [as_truth(value) for value in rows.column(carried).to_pylist()]
        pairs = zip(rows.column("extra").to_pylist(), rows.column("caption").to_pylist(), strict=True)
        return [self.of_column(extra, caption) for extra, caption in pairs]

    def of_column(self, extra: str | None, caption: str | None) -> Truth:
        """The truth in a row's `extra` (a JSON object) or caption."""
        values = json.loads(extra) if extra else {}
        if self.name in values:
            return as_truth(values[self.name])
        is_caption = self.name == self.caption_column or (
            self.caption_column is None and self.name.lower() in _BECOME_CAPTIONS
        )
        return as_truth(caption) if is_caption else None


def folder_of(uri: str) -> str | None:
    """The name of the folder that an image lies in; inside a shard that of its key.

    >>> folder_of("/photos/cat/1.jpg"), folder_of("gs://b/00.tar#val/dog/0001"), folder_of("/00.tar#0001")
    ('cat', 'dog', None)
    >>> folder_of("https://example.org/polar%20bear/1.jpg?w=9")
    'polar bear'
    """
    inside = _CONTAINER.search(uri)
    if inside is not None:
        path = uri[inside.end() :]
    elif uri.startswith(("http://", "https://")):
        path = unquote(urlsplit(uri).path)
    else:
        path = uri.partition("://")[2] if "://" in uri else uri
    return path.rpartition("/")[0].rpartition("/")[2] or None


def as_truth(value: object) -> Truth:
    """A cell as a truth: texts and numbers as text, lists as tuples of them, anything else as none.

    >>> as_truth(3.0), as_truth(["cat", 2]), as_truth(None), as_truth(" cat ")
    ('3', ('cat', '2'), None, 'cat')
    """
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value if isinstance(text := as_truth(item), str) and text)
    if isinstance(value, float):
        return None if not math.isfinite(value) else str(int(value)) if value == int(value) else str(value)
    if isinstance(value, (str, int)):
        return str(value).strip()
    return None


def spelled(text: str) -> str:
    """The form in which names are compared: without case, `-` and `_` as spaces.

    >>> spelled(" Polar_Bear "), spelled("polar-bear")
    ('polar bear', 'polar bear')
    """
    return " ".join(text.replace("-", " ").replace("_", " ").casefold().split())


@dataclass(slots=True)
class TruthCounts:
    """How many images have which kind of truth; `unknown` ones are never silently dropped."""

    judged: int = 0
    missing: int = 0  # images without any truth
    unknown: int = 0  # images whose truth is no label of the set
    partly: int = 0  # multi: judged images of which some names are unknown
    groups: int = 0  # single: judged images whose truth is a group; no leaf can be right
    names: Counter[str] = field(default_factory=Counter)  # unknown names
    more_names: int = 0  # occurrences of further ones

    def count_unknown(self, name: str) -> None:
        """One more occurrence of an unknown name."""
        if name in self.names or len(self.names) < _MOST_NAMES:
            self.names[name] += 1
        else:
            self.more_names += 1


class TruthMap:
    """Truths to the places of a set's labels: its classes in their order, then its groups.

    A truth is a label's id, name or synonym, in this order; case does not matter, `-` and `_` are spaces. One
    that fits two labels equally well is unknown. label_map: truths to ids, names or synonyms. by_index: truths
    are whole numbers that count the labels of the set's file from 0 (a webdataset's `cls`).
    Raises RequestError for a label_map that names what the set does not have.
    """

    def __init__(
        self, prompts: PromptSet, *, label_map: Mapping[str, str] | None = None, by_index: bool = False
    ) -> None:
        self.prompts = prompts
        self.names = (*prompts.classes, *prompts.groups)
        self._levels = _levels(prompts, self.names)
        self._known: dict[str, int] = {}
        if by_index:
            places = {name: place for place, name in enumerate(self.names)}
            leaves = [label.id for label in prompts.labels if not label.group]
            self._levels = [({str(number): {places[key]} for number, key in enumerate(leaves)}, True)]
        if label_map:
            self._levels = [*_mapped(label_map, self), *self._levels]

    def place(self, truth: Truth) -> int:
        """The place of a single truth in `names`; UNKNOWN or MISSING."""
        if truth is None or not truth:
            return MISSING
        text = truth if isinstance(truth, str) else truth[0] if len(truth) == 1 else "\0"
        if text not in self._known:
            if len(self._known) > 10 * _MOST_NAMES:
                self._known.clear()
            self._known[text] = self._look_up(text)
        return self._known[text]

    def places(self, truths: Sequence[Truth], counts: TruthCounts | None = None) -> Int32:
        """The places of a single-label set's truths, [N]; counted where asked."""
        found = np.fromiter((self.place(truth) for truth in truths), np.int32, len(truths))
        if counts is not None:
            counts.judged += int((found >= 0).sum())
            counts.missing += int((found == MISSING).sum())
            counts.unknown += int((found == UNKNOWN).sum())
            counts.groups += int((found >= len(self.prompts.classes)).sum())
            for row in np.flatnonzero(found == UNKNOWN).tolist():
                truth = truths[row]
                counts.count_unknown(truth if isinstance(truth, str) else ", ".join(truth or ()))
        return found

    def matrix(
        self, truths: Sequence[Truth], *, delimiter: str, counts: TruthCounts
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int, int], np.dtype[np.bool_]]]:
        """For a multi-label set: which rows can be judged [N], and their labels [N, C].

        A text is split at the delimiter; an empty one says that no label fits. A row of which no name is
        known cannot be judged.
        """
        judged = np.zeros(len(truths), bool)
        found = np.zeros((len(truths), len(self.prompts.classes)), bool)
        for row, truth in enumerate(truths):
            if truth is None:
                counts.missing += 1
                continue
            names = truth.split(delimiter) if isinstance(truth, str) else truth
            names = [name.strip() for name in names if name.strip()]
            places = [self.place(name) for name in names]
            for name, place in zip(names, places, strict=True):
                if place < 0:
                    counts.count_unknown(name)
            known = [place for place in places if place >= 0]
            if names and not known:
                counts.unknown += 1
                continue
            judged[row] = True
            found[row, known] = True
            counts.judged += 1
            counts.partly += len(known) < len(names)
        return judged, found

    def _look_up(self, text: str) -> int:
        for level, as_written in self._levels:
            key = text if as_written else spelled(text)
            if key in level:
                return _only(level[key])
        return UNKNOWN


def nothing_matches(
    source: TruthSource, prompts: PromptSet, counts: TruthCounts, *, columns: Iterable[str] = ()
) -> RequestError:
    """The error for data of which no image has a truth that the set knows."""
    what = f"--labels-from {source.name}"
    if not counts.unknown:
        known = sorted(columns)
        mend = (
            f"there are {', '.join(known[:20])}"
            if known
            else "the input has no column but ids and references"
        )
        if source.name == FOLDER:
            mend = "the images lie in no folder; name a column"
        return RequestError(f"{what}: no image has a truth there; {mend}")
    examples = ", ".join(repr(name) for name, _ in counts.names.most_common(3))
    labels = ", ".join(prompts.classes[:8]) + (", ..." if len(prompts.classes) > 8 else "")
    mend = "truths are matched by id, name or synonym; --label-map FILE says what else they mean"
    if counts.names and all(name.isdigit() for name in counts.names):
        mend = "the truths are numbers: --label-map index takes them as places in the set's file, from 0"
    return RequestError(
        f"{what}: none of the truths, such as {examples}, is a label of the prompt set "
        f"'{prompts.name}' ({labels}); {mend}"
    )


def _levels(prompts: PromptSet, names: Sequence[str]) -> list[_Level]:
    """From the surest to the least: exact ids, ids, names, synonyms."""
    places = {name: place for place, name in enumerate(names)}
    exact = {name: {place} for name, place in places.items()}
    ids: dict[str, set[int]] = {}
    labels: dict[str, set[int]] = {}
    synonyms: dict[str, set[int]] = {}
    for name, place in places.items():
        _add(ids, name, place)
    for label in prompts.labels:
        _add(labels, label.name, places[label.id])
        for synonym in label.synonyms:
            _add(synonyms, synonym, places[label.id])
    if NONE in places and len(ids[spelled(NONE)]) > 1:
        ids[spelled(NONE)].discard(places[NONE])  # a label called "none" goes before it
    return [(exact, True), (ids, False), (labels, False), (synonyms, False)]


def _add(level: dict[str, set[int]], name: str, place: int) -> None:
    level.setdefault(spelled(name), set()).add(place)


def _mapped(label_map: Mapping[str, str], known: TruthMap) -> list[_Level]:
    exact: dict[str, set[int]] = {}
    folded: dict[str, set[int]] = {}
    for truth, meant in label_map.items():
        place = known.place(meant)
        if place < 0:
            raise RequestError(
                f"--label-map: {truth!r} stands for {meant!r}, which is no label of the prompt set "
                f"'{known.prompts.name}'; expected an id, a name or a synonym"
            )
        exact[truth] = {place}
        _add(folded, truth, place)
    known._known.clear()
    return [(exact, True), (folded, False)]


def _only(places: set[int]) -> int:
    return next(iter(places)) if len(places) == 1 else UNKNOWN
