"""A run's labels of one set beside the embeddings that they are of, part by part; and which set is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from clip_transforms.elements import RequestError
from clip_transforms.joined import Block, list_blocks, read_embeddings, read_view
from clip_transforms.labelsets import LabelSet, read_label_set
from clip_transforms.live import live_parts
from clip_transforms.plan import read_extensions
from clip_transforms.review.report_data import read_duplicates
from clip_transforms.review.report_labels import label_sets
from clip_transforms.storage import Store
from clip_transforms.text_features import TextFeatures, load_text_features
from clip_transforms.views import label_view


class LabelledRun:
    """The labels of one set of a run, with the embeddings, which may be another run's.

    Raises RequestError where the folder holds no run, or the set is not there; ContractError, once rows are
    asked for, where not every embedding has a label. Memory: the names of the parts, and one part at a time.
    """

    def __init__(self, store: Store, tag: str) -> None:
        self.store = store
        self.tag = tag
        self.label_set: LabelSet = read_label_set(store, tag)
        self.source = embeddings_store(store)
        self._found: list[Block] | None = None

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(block.embeddings.rows for block in self._blocks())

    @property
    def images(self) -> int:
        """That the rows are of; an id that comes twice is one."""
        twice = read_duplicates(self.source)
        return self.rows - (twice.rows - twice.ids if twice else 0)

    def batches(self, *, labels: Sequence[str] = (), embeddings: Sequence[str] = ()) -> Iterator[pa.Table]:
        """These columns side by side, one embedding part (at most 65,536 rows) at a time, always in one order.

        image_id and uri come along. Labels alone are read without opening the embeddings' vectors.
        """
        for block in self._blocks():
            table = read_embeddings(self.source, block, embeddings)
            found = read_view(self.store, block.views[0], labels, beside=table)
            for name in labels:
                if name not in table.column_names:
                    table = table.append_column(found.schema.field(name), found.column(name))
            yield table

    def text_features(self) -> TextFeatures:
        """The vectors of the set's classes, as the rows were made with them."""
        return load_text_features(self.store.read(f"text/{self.tag}.arrow"))

    def _blocks(self) -> list[Block]:
        if self._found is None:
            self._found = list_blocks(self.source, [(label_view(self.tag), self.store)])
        return self._found


def embeddings_run(store: Store) -> str | None:
    """The url of the run whose embeddings this one labels; None where they are its own. RequestError: no run."""
    extensions = read_extensions(store)
    if not extensions:
        raise RequestError(f"{store.root} holds no run of beamclip (no plan/*/plan.json)")
    config: Mapping[str, Any] = extensions[0].config
    return config.get("from_run")


def embeddings_store(store: Store) -> Store:
    """The run whose embeddings this one labels, which may be itself. RequestError: no run."""
    other = embeddings_run(store)
    return store if other is None else Store(other, store.storage_options)


def find_set(store: Store, given: str | None) -> str:
    """The tag of the label set that `--set NAME[@HASH8]` means: of a name the newest; None: the only one there is.

    Raises RequestError where there is no such set, or several and none is named.
    """
    embeddings_run(store)  # a folder without a run says so
    parts = [part.name for found in live_parts(store).values() for part in found]
    newest = {tag.split("@", 1)[0]: tag for tag in label_sets(store, asked=None, parts=parts)}
    if not newest:
        raise RequestError(
            f"{store.root} has no labels: first run `beamclip label --from-run {store.root} --prompts ...`"
        )
    if given is None:
        if len(newest) > 1:
            raise RequestError(
                f"--set is missing: {store.root} has the label sets {', '.join(sorted(newest))}"
            )
        return next(iter(newest.values()))
    if "@" in given:
        return next(iter(label_sets(store, asked=[given], parts=parts)))
    if given not in newest:
        raise RequestError(
            f"--set {given}: {store.root} has no such label set; it has {', '.join(sorted(newest))}"
        )
    return newest[given]
