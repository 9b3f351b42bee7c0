"""Which of the images that answers name a run has, found by reading its ids once and holding those asked for alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.live import live_parts
from clip_transforms.review.importers.answers import Answer, Reason, UnfitError
from clip_transforms.review.report_data import iter_batches
from clip_transforms.storage import Store

_LAST = r"^.*[/#]"  # what stands before a file's name, or a member's in its shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images of a run that answers name.

    uris: by image id, its (first) uri. by_uri, by_name: ids by uri, and by the names that end one.
    rows: of the run, asked or not.
    """

    rows: int
    uris: dict[str, str] = field(default_factory=dict)
    by_uri: dict[str, set[str]] = field(default_factory=dict)
    by_name: dict[str, set[str]] = field(default_factory=dict)

    def of(self, answer: Answer) -> str:
        """The id of an answer's image; raises UnfitError where the run has none or several such."""
        if answer.image_id is not None:
            if answer.image_id in self.uris:
                return answer.image_id
            raise UnfitError(
                Reason.UNKNOWN_IMAGE, f"{answer.image_id!r} is no image_id of this run's {self.rows:,} images"
            )
        uri = answer.uri or ""
        stem = _stem(uri)
        found = self.by_uri.get(uri) or self.by_name.get(uri) or ({stem} if stem in self.uris else set())
        if not found:
            raise UnfitError(
                Reason.UNKNOWN_IMAGE,
                f"{uri!r} is neither the uri nor the end of the uri of one of this run's",
            )
        if len(found) > 1:
            raise UnfitError(Reason.AMBIGUOUS_IMAGE, f"{len(found)} images have the name {uri!r}; give ids")
        return next(iter(found))


def find_images(store: Store, tag: str, answers: Sequence[Answer]) -> Images:
    """Look the answers' images up among those of a label set: by id, uri, the end of a uri, or a copy named by its id.

    One pass over the columns image_id and uri. Memory: a batch of rows, and what is asked for.
    """
    names = {answer.uri for answer in answers if answer.image_id is None and answer.uri}
    ids = {answer.image_id for answer in answers if answer.image_id is not None} | {*map(_stem, names)}
    ends: dict[str, list[str]] = defaultdict(list)
    for name in names:
        ends[_last(name)].append(name)
    wanted = [pa.array(sorted(values), pa.string()) for values in (ids, names, ends)]
    rows = 0
    uris: dict[str, str] = {}
    by_uri: dict[str, set[str]] = defaultdict(set)
    by_name: dict[str, set[str]] = defaultdict(set)
    for batch in iter_batches(store, _parts(store, tag), ("image_id", "uri")):
        rows += batch.num_rows
        for image_id, uri in _hits(batch, wanted):
            uris.setdefault(image_id, uri)
            if uri in names:
                by_uri[uri].add(image_id)
            for name in ends.get(_last(uri), ()):
                if uri.endswith((f"/{name}", f"#{name}")) or uri == name:
                    by_name[name].add(image_id)
    return Images(rows=rows, uris=uris, by_uri=by_uri, by_name=by_name)


def _parts(store: Store, tag: str) -> Sequence[str]:
    return [part.name for part in live_parts(store).get(f"labels/{tag}", ())]


def _hits(batch: pa.RecordBatch, wanted: Sequence[pa.Array]) -> list[tuple[str, str]]:
    """(image id, uri) of the rows that may be asked for."""
    ids, uris, ends = wanted
    hit = pc.is_in(batch["image_id"], value_set=ids)
    if len(ends):
        last = pc.replace_substring_regex(batch["uri"], pattern=_LAST, replacement="")
        hit = pc.or_(hit, pc.or_(pc.is_in(batch["uri"], value_set=uris), pc.is_in(last, value_set=ends)))
    found = batch.filter(hit)
    return list(zip(found["image_id"].to_pylist(), found["uri"].to_pylist(), strict=True))


def _last(uri: str) -> str:
    """What follows the last / or # of a name.

    >>> _last("gs://b/00.tar#val/cat.jpg"), _last("a.jpg")
    ('cat.jpg', 'a.jpg')
    """
    return uri[max(uri.rfind("/"), uri.rfind("#")) + 1 :]


def _stem(name: str) -> str:
    """The last name without its suffix.

    >>> _stem("copies/0a1b.jpg")
    '0a1b'
    """
    last = _last(name)
    return last.rpartition(".")[0] or last
