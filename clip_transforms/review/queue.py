"""The review queue of a label set: which images people should look at, why, and with which probability.

Two parts. The margin part: of the images that nobody has reviewed and that are not accepted automatically, those
that the model is least sure of, over clusters of embeddings in turn, so that near-duplicates do not fill it.
The audit part: see `queue_audit`. The margin part is chosen as if there were no audit, so an audit row that it
would have taken anyway is in the queue for certain, and makes the queue one row shorter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.elements import RequestError
from clip_transforms.joined import Block, list_blocks, read_embeddings, read_view
from clip_transforms.labelled import LabelledRun
from clip_transforms.review.queue_audit import MOST_ROWS, AuditSample, Draw, spread, without
from clip_transforms.review.queue_candidates import CANDIDATE, Lowest, choose, cluster_count
from clip_transforms.review.queue_clusters import Clusters, fit_clusters, iter_vectors, phash_values
from clip_transforms.review.queue_rows import Chosen, queue_table
from clip_transforms.review.queues import Earlier, QueueFacts, earlier_queues
from clip_transforms.review.report_data import sample_keys
from clip_transforms.review.reviews import read_reviews
from clip_transforms.views import label_view


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """What is asked for. limit: rows in all; audit: those of them that are drawn at random.

    Raises RequestError for numbers out of range.
    """

    limit: int = 2000
    audit: int = 500
    blind: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MOST_ROWS:
            raise RequestError(f"--limit {self.limit}: expected a number from 1 to {MOST_ROWS}")
        if not 0 <= self.audit <= self.limit:
            raise RequestError(
                f"--audit {self.audit}: expected 0 to --limit, which is {self.limit}; audit slots are part of it"
            )
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"--seed {self.seed}: expected a number from 0 to {2**32 - 1}")
        if self.blind and not self.audit:
            raise RequestError("--blind hides the predictions of audit rows, and --audit is 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A chosen queue: its rows (QUEUE, by position), their sizes and formats, and what led to it."""

    id: str
    rows: pa.Table
    sizes: pa.Table  # width, height, format of each row
    facts: QueueFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reviewed:
    """Image ids: those with any review, and those reviewed as part of an audit."""

    any: pa.Array
    audit: tuple[str, ...]


def build_queue(run: LabelledRun, options: QueueOptions) -> Queue:
    """Choose the rows of a queue from all label rows of a run's set, in bounded memory.

    Reads the labels and, where there is a margin part, the embeddings once. Raises RequestError where
    scikit-learn is missing or the audit would be too large, ContractError where labels are incomplete.
    """
    name = run.tag.split("@", 1)[0]
    reviewed = _reviewed(run, name)
    images = run.images
    slots = options.limit - options.audit
    clusters = fit_clusters(run, count=cluster_count(slots), seed=options.seed) if slots and images else None
    audit = AuditSample(_draw(options, images, earlier_queues(run.store, name)))
    lowest = Lowest(clusters=len(clusters.centres) if clusters else 1, slots=slots)
    for place, block in enumerate(list_blocks(run.source, [(label_view(run.tag), run.store)])):
        batch = _part(run, block, whole=clusters is not None)
        keys = sample_keys(batch["image_id"].to_pylist(), seed=options.seed)
        audit.offer(keys, place)
        if clusters:
            lowest.offer(_candidates(run, batch, keys, (place, block), clusters, reviewed.any))
    drawn = audit.values()
    if len(drawn) > MOST_ROWS:
        raise RequestError(
            f"the audit that was drawn before the run grew asks for {len(drawn)} images now; give another "
            "--seed for a new one"
        )
    waiting = without(drawn, sample_keys(reviewed.audit, seed=options.seed).tolist())
    facts = QueueFacts(
        set_name=name,
        tag=run.tag,
        **asdict(options),
        images=images,
        drawn=len(drawn),
        drawn_before=len(drawn) - len(waiting),
        reviewed=len(reviewed.any),
        bound=audit.bound,
        clusters=len(clusters.centres) if clusters and len(clusters.centres) > 1 else 0,
    )
    return _queue(run, waiting, choose(lowest.values(), slots), facts)


def _queue(
    run: LabelledRun,
    audit: npt.NDArray[np.void],
    margin: npt.NDArray[np.void],
    facts: QueueFacts,
) -> Queue:
    certain = np.isin(audit["key"], margin["key"])
    clusters = dict(zip(margin["key"].tolist(), margin["cluster"].tolist(), strict=True))
    others = without(margin, audit["key"].tolist())
    is_audit = spread(len(audit), len(others))
    prob = facts.audit_prob
    chosen = np.zeros(len(is_audit), Chosen)
    for mask, rows in ((is_audit, audit), (~is_audit, others)):
        for column in ("block", "row", "key"):
            chosen[column][mask] = rows[column]
    chosen["audit"] = is_audit
    chosen["prob"][~is_audit] = 1.0
    chosen["prob"][is_audit] = np.where(certain, 1.0, prob)
    if facts.clusters:
        chosen["cluster"] = [clusters.get(key, -1) for key in chosen["key"].tolist()]
    else:
        chosen["cluster"] = -1
    name, rows, sizes = queue_table(run, chosen, facts)
    return Queue(id=name, rows=rows, sizes=sizes, facts=facts)


def _reviewed(run: LabelledRun, name: str) -> _Reviewed:
    found = read_reviews(run.store, name).select(["image_id", "audit"])
    audit = found.filter(found["audit"])
    return _Reviewed(
        any=found["image_id"].combine_chunks().unique(), audit=tuple(audit["image_id"].unique().to_pylist())
    )


def _draw(options: QueueOptions, images: int, earlier: list[Earlier]) -> Draw:
    slots = min(options.audit, images)
    grown = [
        queue.facts.bound
        for queue in earlier
        if queue.facts.seed == options.seed and queue.facts.audit and queue.facts.images < images
    ]
    return Draw(slots=slots, floor=max(grown, default=-1.0) if slots else -1.0)


def _part(run: LabelledRun, block: Block, *, whole: bool) -> pa.Table:
    """The rows of a part, without their vectors. whole: with what the margin part needs."""
    images = read_embeddings(run.source, block, ["phash"] if whole else [])
    if not whole:
        return images
    labels = read_view(run.store, block.views[0], ["margin", "decision"], beside=images)
    return labels.append_column("phash", images["phash"])


def _candidates(
    run: LabelledRun,
    batch: pa.Table,
    keys: npt.NDArray[np.float64],
    where: tuple[int, Block],
    clusters: Clusters,
    reviewed: pa.Array,
) -> npt.NDArray[np.void]:
    """The rows of a part that may be in the margin part. where: its place among all, and itself."""
    known = pc.is_in(batch["image_id"], value_set=reviewed)
    sure = pc.equal(batch["decision"].cast(pa.string()), "auto_accept")
    rows = np.zeros(batch.num_rows, CANDIDATE)
    first = 0
    for vectors in iter_vectors(run, where[1]):
        here = slice(first, first + len(vectors))
        rows["cluster"][here], rows["sketch"][here] = clusters.place(vectors)
        first += len(vectors)
    rows["margin"] = batch["margin"].to_numpy()
    rows["phash"] = phash_values(batch["phash"].to_pylist())
    rows["key"], rows["block"], rows["row"] = keys, where[0], np.arange(batch.num_rows)
    found: npt.NDArray[np.void] = rows[~pc.or_(known, sure).to_numpy()]
    return found
