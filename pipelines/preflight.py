"""What the launcher checks before any worker: the inputs, the encoder, and that one image goes through it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.commits import EMBEDDINGS
from clip_transforms.elements import Failure, ImageError, ImageRef, RequestError
from clip_transforms.encoders import Encoder, EncoderSpec, load
from clip_transforms.engine import EngineOptions, TrialDecoder, engine_for
from clip_transforms.fetch import fetch
from clip_transforms.live import live_parts
from clip_transforms.pairs.config import Selection
from clip_transforms.pairs.rules import RuleSet, check_inputs
from clip_transforms.pairs.uids import uid_array
from clip_transforms.plan import plan_table
from clip_transforms.sources import PlanItem, SourceOptions, image_id_of, read_unit
from clip_transforms.storage import Store

FIRST_ITEMS = 100
#: What is known of every image once it is embedded.
_IMAGE_COLUMNS = ("width", "height", "format", "bytes", "sha256", "phash", "similarity")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of the first inputs."""

    images: int  # that were tried
    embedded: int
    seconds: float  # spent on them: fetch, decode and encode, one after the other


def first_items(items: Iterable[PlanItem]) -> tuple[list[PlanItem], Iterator[PlanItem]]:
    """The first 100 items, and all of them (these first) once more; the input is scanned once."""
    iterator = iter(items)
    head = list(itertools.islice(iterator, FIRST_ITEMS))
    return head, itertools.chain(head, iterator)


def load_encoder(spec: EncoderSpec, engine: EngineOptions, *, local: bool) -> Encoder:
    """The encoder on this machine; what is wrong with the request raises RequestError.

    local: the job will run in this process, with this very encoder.
    """
    return engine_for(spec, engine).encoder if local else load(spec)


def launchers_encoder(spec: EncoderSpec, engine: EngineOptions, *, workers_here: bool) -> Encoder:
    """The encoder that a launcher tries: its workers' own, or elsewhere one of the same weights.

    Workers elsewhere have the device and the precision that were asked for, and insist on them; a launcher without
    that device tries the weights in fp32 on what it has. Raises RequestError.
    """
    here = spec if workers_here else replace(spec, device="auto", precision="fp32")
    return load_encoder(here, engine, local=workers_here)


def try_images(
    head: Iterable[PlanItem],
    encoder: Encoder,
    *,
    sources: SourceOptions,
    engine: EngineOptions,
    want: int = 1,
) -> Tried:
    """Send the first images that decode through the encoder; warns where none of the first 100 does.

    want: how many to encode. They are decoded in a process of their own: one that kills it is passed over.
    Raises RequestError where the encoder gives no sound vector.
    """
    tried = 0
    done = 0
    reasons: list[str] = []
    with TrialDecoder(engine, encoder.preprocess) as decoder:
        started = time.perf_counter()
        for ref in itertools.islice(_references(head, sources), FIRST_ITEMS):
            tried += 1
            try:
                if isinstance(ref, Failure):
                    raise ImageError(ref.stage, ref.reason, ref.message)
                data = ref.payload if ref.payload is not None else fetch(ref.url, engine.fetch)
                pixels = decoder.decode(data)
            except ImageError as error:
                reasons.append(f"{ref.uri}: {error.reason.value}: {error.message}")
                continue
            _check_vector(encoder.encode_images(pixels[None]), encoder)
            done += 1
            if done >= want:
                break
    if not done and tried:
        _logger.warning("none of the first %d inputs could be decoded; the first: %s", tried, reasons[0])
    return Tried(images=tried, embedded=done, seconds=time.perf_counter() - started)


def check_uids(head: Iterable[PlanItem], *, sources: SourceOptions) -> None:
    """Raise RequestError where one of the first 100 ids is no uid of DataComp's."""
    refs = list(itertools.islice(_references(head, sources), FIRST_ITEMS))
    made = next((r.uri for r in refs if isinstance(r, ImageRef) and r.image_id == image_id_of(r.uri)), None)
    if made is not None:  # the hash of a uri is 32 hex digits as well, and no uid of anybody's
        raise RequestError(
            f"--write uids: {made} has no id of its own; name the column, or the key of the shards' json, that "
            "holds the uid: --id-column uid"
        )
    uid_array(ref.image_id for ref in refs)


def check_stored(
    source: Store, selection: Selection, rules: RuleSet | None, *, columns: Sequence[str]
) -> None:
    """Raise RequestError where ids or columns of the first stored part are not what a selection asks for."""
    part = next(iter(live_parts(source).get(EMBEDDINGS, ())), None)
    if part is None:
        return
    with source.open(part.name) as handle:  # on this thread: pyarrow's own must not outlive the handle
        table = pq.ParquetFile(handle).read(columns=["image_id", "uri", *columns], use_threads=False)
    if "uids" in selection.outputs:
        ids, uris = table.column("image_id").to_pylist(), table.column("uri").to_pylist()
        made = next((uri for one, uri in zip(ids, uris, strict=True) if one == image_id_of(uri)), None)
        if made is not None:
            raise RequestError(
                f"--write uids: {made} has no id of its own: embed the input with --id-column uid"
            )
        uid_array(ids)
    if rules is not None:
        check_inputs(table.append_column("similarity", pa.array(np.ones(table.num_rows))), rules)


def check_rule_inputs(head: Iterable[PlanItem], rules: RuleSet, *, sources: SourceOptions) -> None:
    """Raise RequestError where a rule asks for a column that none of the first 100 rows has."""
    refs = [
        ref for ref in itertools.islice(_references(head, sources), FIRST_ITEMS) if isinstance(ref, ImageRef)
    ]
    carried = {
        f"src_{name}": pa.array([ref.carry[place] for ref in refs], kind)
        for place, (name, kind) in enumerate(sources.carry_types())
    }
    known = {name: [1] * len(refs) for name in _IMAGE_COLUMNS}
    texts = {
        "caption": pa.array([ref.caption for ref in refs], pa.string()),
        "extra": pa.array([ref.extra for ref in refs], pa.string()),
    }
    check_inputs(pa.table({**known, **texts, **carried}), rules)


def _references(head: Iterable[PlanItem], sources: SourceOptions) -> Iterator[ImageRef | Failure]:
    for item in head:
        yield from read_unit(item.kind, plan_table([item]), sources)


def _check_vector(vectors: np.ndarray, encoder: Encoder) -> None:
    norm = float(np.linalg.norm(vectors[0]))
    if vectors.shape != (1, encoder.dim) or not abs(norm - 1) < 1e-2:
        raise RequestError(
            f"the encoder {encoder.name} gives vectors of shape {vectors.shape} and norm {norm:.3g} for one image; "
            f"expected (1, {encoder.dim}) and norm 1: are these the right --weights and --model-config?"
        )
