"""The rows of images that an annotation project has already, for new predictions on its tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.labelled import LabelledRun
from clip_transforms.review.exporters.items import Item, items_of
from clip_transforms.review.queue_rows import SIZES, Chosen, read_rows
from clip_transforms.review.queues import blind_images


def predicted_items(run: LabelledRun, ids: Collection[str], *, temperature: float | None) -> Iterator[Item]:
    """An item for each of these images that the run has, once, a part at a time; blind ones are left out.

    Blind is what some queue of the set shows without a prediction: a prediction now would undo that.
    """
    hidden = set(blind_images(run.store, run.tag.split("@", 1)[0]))
    wanted = pa.array(sorted(set(ids) - hidden), pa.string())
    seen: set[str] = set()
    for block, batch in enumerate(run.batches()):
        hits = np.flatnonzero(pc.is_in(batch["image_id"], value_set=wanted).to_numpy())
        places = []
        for row, image_id in zip(hits.tolist(), batch["image_id"].take(hits).to_pylist(), strict=True):
            if image_id not in seen:
                seen.add(image_id)
                places.append(row)
        if places:
            chosen = np.zeros(len(places), Chosen)
            chosen["block"], chosen["row"] = block, places
            found = read_rows(run, chosen)
            sizes = found.select(SIZES).to_pylist()
            rows = [{**row, **_UNCHOSEN, "position": place} for place, row in enumerate(found.to_pylist())]
            yield from items_of(rows, sizes, run.label_set.prompt_set, temperature=temperature)


_UNCHOSEN: dict[str, Any] = {"blind": False, "selection_reason": "", "selection_prob": 1.0}
