"""A few images' rows of a label set, with their embeddings, found in a run of any size in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.joined import list_blocks, read_embeddings, read_view, vectors_of
from clip_transforms.labelled import LabelledRun
from clip_transforms.probabilities import Float32
from clip_transforms.storage import Store
from clip_transforms.views import label_view


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundRows:
    """Rows by image id: uri, label (None: abstained, or multi), the stored score [N], the embedding [N, D]."""

    ids: tuple[str, ...]
    uris: tuple[str, ...]
    label: tuple[str | None, ...]
    score: Float32
    embeddings: Float32

    def take(self, places: npt.NDArray[np.int64]) -> FoundRows:
        """Some of the rows."""
        return FoundRows(
            ids=tuple(self.ids[place] for place in places.tolist()),
            uris=tuple(self.uris[place] for place in places.tolist()),
            label=tuple(self.label[place] for place in places.tolist()),
            score=self.score[places],
            embeddings=self.embeddings[places],
        )


def find_rows(run: LabelledRun, wanted: Mapping[str, str | None]) -> FoundRows:
    """The rows of these image ids; those that the run does not have are left out.

    wanted: by image id the uri, None where it is not known. Of several rows of one id the one with that uri is
    taken, else the first. Label columns of all rows are read, embeddings only of the row groups with hits.
    """
    ids = pa.array(sorted(wanted), pa.string())
    tables: list[pa.Table] = []
    vectors: list[Float32] = []
    for block in list_blocks(run.source, [(label_view(run.tag), run.store)]):
        beside = read_embeddings(run.source, block, ())
        rows = read_view(run.store, block.views[0], ("label", "score"), beside=beside)
        places = np.flatnonzero(pc.is_in(rows["image_id"], ids).to_numpy(zero_copy_only=False))
        if len(places):
            rows = rows.take(pa.array(places))
            tables.append(rows.set_column(2, "label", rows["label"].cast(pa.string())))
            vectors.append(_vectors(run.source, block.embeddings.name, places))
    if not tables:
        return FoundRows(
            ids=(), uris=(), label=(), score=np.zeros(0, np.float32), embeddings=np.zeros((0, 1), np.float32)
        )
    table = pa.concat_tables(tables)
    whole = FoundRows(
        ids=tuple(table["image_id"].to_pylist()),
        uris=tuple(table["uri"].to_pylist()),
        label=tuple(table["label"].to_pylist()),
        score=table["score"].to_numpy().astype(np.float32),
        embeddings=np.concatenate(vectors),
    )
    return whole.take(_first_of_each(whole.ids, whole.uris, wanted))


def _first_of_each(
    ids: tuple[str, ...], uris: tuple[str, ...], wanted: Mapping[str, str | None]
) -> npt.NDArray[np.int64]:
    """A row of each id, by id."""
    at: dict[str, int] = {}
    for place, (image_id, uri) in enumerate(zip(ids, uris, strict=True)):
        before = at.setdefault(image_id, place)
        if uri == wanted[image_id] != uris[before]:
            at[image_id] = place
    return np.array([at[image_id] for image_id in sorted(at)], np.int64)


def _vectors(store: Store, name: str, places: npt.NDArray[np.int64]) -> Float32:
    """The embeddings at some places of a part, rising; of row groups without any nothing is read."""
    found = []
    with store.open(name) as handle:
        file = pq.ParquetFile(handle)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            inside = places[(places >= first) & (places < first + rows)] - first
            if len(inside):
                column = file.read_row_group(group, columns=["embedding"], use_threads=False).column(0)
                found.append(vectors_of(column.take(pa.array(inside))))
            first += rows
    return np.concatenate(found)
