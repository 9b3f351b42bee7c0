"""The stored queues of a run, `queues/<queue id>.parquet`: written once, with the facts of their choice beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.storage import Store

FOLDER = "queues"
_FOOTER = b"beamclip_queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """What was asked for, and what the choice was made from; kept in the queue's footer as JSON.

    images: that the label rows are of. drawn: audit images, of which drawn_before are left out, because they
    were reviewed as audit. reviewed: images with any review of the set. bound: the highest key of the draw.
    """

    set_name: str
    tag: str
    seed: int
    limit: int
    audit: int
    blind: bool
    images: int
    drawn: int
    drawn_before: int
    reviewed: int
    bound: float
    clusters: int  # 0: none

    @property
    def audit_prob(self) -> float:
        """Of an image, to be drawn for the audit."""
        return self.drawn / self.images if self.images else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A stored queue: its object's name and its facts."""

    name: str
    facts: QueueFacts


def queue_name(queue: str) -> str:
    """Of the object of a queue.

    >>> queue_name("pets-0a1b2c3d4e5f")
    'queues/pets-0a1b2c3d4e5f.parquet'
    """
    return f"{FOLDER}/{queue}.parquet"


def queue_names(store: Store) -> list[str]:
    """The names of the objects of all queues that a run has, sorted."""
    return sorted(entry.name for entry in store.list(f"{FOLDER}/") if entry.name.endswith(".parquet"))


def store_queue(store: Store, queue: str, rows: pa.Table, facts: QueueFacts) -> bool:
    """Write a queue unless the run has it; False if it has: the id says what is in it."""
    return create_queue(store, queue, rows, asdict(facts))


def create_queue(store: Store, queue: str, rows: pa.Table, facts: Mapping[str, Any]) -> bool:
    """The same with the facts as plain values; none are kept where there are none."""
    footer = {_FOOTER: json.dumps(facts, sort_keys=True).encode()} if facts else None
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(footer), buffer, compression="zstd")
    return store.create(queue_name(queue), buffer.getvalue())


def read_queue(
    store: Store, name: str, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """The rows of a queue's object, and the facts in its footer: none of a queue that was made by others."""
    with store.open(name) as handle:
        file = pq.ParquetFile(handle)
        rows = file.read(columns=None if columns is None else list(columns), use_threads=False)
        return rows, _facts(file.schema_arrow)


def earlier_queues(store: Store, set_name: str) -> list[Earlier]:
    """The queues of a set that a run has, by name; those without facts (made by others) are left out."""
    found = []
    for name in queue_names(store):
        with store.open(name) as handle:
            facts = _facts(pq.read_schema(handle))
        if facts.get("set_name") == set_name:
            found.append(Earlier(name=name, facts=QueueFacts(**facts)))
    return found


def blind_images(store: Store, set_name: str) -> Iterator[str]:
    """Image ids that some queue of a set shows without a prediction."""
    for queue in earlier_queues(store, set_name):
        if queue.facts.blind:
            rows, _ = read_queue(store, queue.name, ["image_id", "blind"])
            yield from rows.filter(rows["blind"])["image_id"].to_pylist()


def _facts(schema: pa.Schema) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema.metadata or {}).get(_FOOTER, b"{}"))
    return found
