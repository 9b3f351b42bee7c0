"""The small facts of a chunk's pairs that a selection works with and shuffles: scores, hashes, verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_transforms.elements import ContractError
from clip_transforms.pairs.exact import DIGEST
from clip_transforms.pairs.near import hash_numbers

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
#: A row's number is its chunk's, shifted by this, and its place in the chunk.
PLACE_BITS = 32
_PLACES = (1 << PLACE_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairRows:
    """The rows of one chunk, [n] each: 60 bytes a row.

    keys: of equal scores the smaller key comes first; made of the id and the uri alone, so that it does not
    depend on how a run was cut into units. reasons: places in `names`, -1 where nothing has dropped the row yet.
    """

    chunk: int
    keys: UInt64
    scores: npt.NDArray[np.float32]  # NaN without a caption
    digests: npt.NDArray[Any]  # S32, sha256; empty once exact duplicates are found
    hashes: UInt64  # perceptual; empty once near duplicates are found
    reasons: npt.NDArray[np.int16]
    names: tuple[str, ...] = ()

    @property
    def left(self) -> Int64:
        """The places of rows that nothing has dropped."""
        return np.flatnonzero(self.reasons < 0).astype(np.int64)

    def numbers(self, places: Int64) -> Int64:
        """The numbers of the rows at these places."""
        return places + (self.chunk << PLACE_BITS)

    def dropped(self, places: Int64, reason: str) -> PairRows:
        """The same with these rows dropped for this reason."""
        names = self.names if reason in self.names else (*self.names, reason)
        reasons = self.reasons.copy()
        reasons[places] = names.index(reason)
        return replace(self, reasons=reasons, names=names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joins:
    """Rows that are duplicates, by number, and the row that each of them joins: 16 bytes a row."""

    rows: Int64
    targets: Int64


def chunk_of(number: int) -> int:
    """The chunk of a row.

    >>> chunk_of((7 << 32) + 5)
    7
    """
    return number >> PLACE_BITS


def places_of(numbers: Int64) -> Int64:
    """The places of rows in their chunks.

    >>> places_of(np.array([(7 << 32) + 5])).tolist()
    [5]
    """
    return numbers & _PLACES


def make_rows(chunk: int, table: pa.Table) -> PairRows:
    """The rows of a table with image_id, uri, similarity, sha256 and phash, none of them dropped yet."""
    keys = [
        hashlib.blake2b(f"{image_id}\0{uri}".encode(), digest_size=8).digest()
        for image_id, uri in zip(
            table.column("image_id").to_pylist(), table.column("uri").to_pylist(), strict=True
        )
    ]
    scores = table.column("similarity").to_numpy().astype(np.float32)  # null is NaN
    digests = bytes.fromhex("".join(table.column("sha256").to_pylist()))
    return PairRows(
        chunk=chunk,
        keys=np.frombuffer(b"".join(keys), ">u8").astype(np.uint64),
        scores=scores,
        digests=np.frombuffer(digests, DIGEST),
        hashes=hash_numbers(table.column("phash").to_pylist()),
        reasons=np.full(table.num_rows, -1, np.int16),
    )


def by_chunk(joins: Joins, *, of: str) -> Iterator[tuple[int, Joins]]:
    """The joins by the chunk of their `rows` or of their `targets`."""
    chunks = getattr(joins, of) >> PLACE_BITS
    order = np.argsort(chunks, kind="stable")
    numbers, starts = np.unique(chunks[order], return_index=True)
    pieces = np.split(order, starts[1:]) if len(order) else []
    for number, places in zip(numbers.tolist(), pieces, strict=True):
        yield number, Joins(rows=joins.rows[places], targets=joins.targets[places])


def apply_joins(rows: PairRows, joins: Sequence[Joins], reason: str) -> PairRows:
    """Drop the rows that are duplicates."""
    places = [places_of(each.rows) for each in joins]
    return rows.dropped(np.concatenate(places), reason) if places else rows


def redirect(followers: Joins, joins: Sequence[Joins]) -> Joins:
    """Let those that joined a row which now joined another join that one.

    followers: joins of rows of one chunk, found before; joins: of that chunk's rows, found now.
    """
    if not joins:
        return followers
    rows = np.concatenate([each.rows for each in joins])
    targets = np.concatenate([each.targets for each in joins])
    order = np.argsort(rows)
    rows, targets = rows[order], targets[order]
    at = np.minimum(np.searchsorted(rows, followers.targets), len(rows) - 1)
    moved = np.where(rows[at] == followers.targets, targets[at], followers.targets)
    return Joins(rows=followers.rows, targets=moved)


def reason_column(rows: PairRows) -> pa.DictionaryArray:
    """The reasons as a column, null where nothing dropped the row."""
    indices = pa.array(rows.reasons.astype(np.int32), mask=rows.reasons < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(rows.names, pa.string()))


def count_reasons(rows: PairRows) -> Mapping[str, int]:
    """How many rows each reason dropped, and how many are `kept`."""
    counts = np.bincount(rows.reasons + 1, minlength=len(rows.names) + 1)
    found = {name: int(number) for name, number in zip(rows.names, counts[1:], strict=True) if number}
    if sum(found.values()) + int(counts[0]) != len(rows.reasons):
        raise ContractError("a pair was dropped for a reason that has no name")
    return {"kept": int(counts[0]), **found}
