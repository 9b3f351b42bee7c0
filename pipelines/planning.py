"""From a checked job to a plan: the workers' config, the first look at the input, the plan's extensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from clip_transforms.changes import extend_plan
from clip_transforms.elements import RequestError
from clip_transforms.encoders import Encoder, describe, resolve_precision
from clip_transforms.fingerprint import embedding_fingerprint
from clip_transforms.labelsets import keep_label_set, label_set_tags
from clip_transforms.lease import Lease
from clip_transforms.pairs.config import KeptSelection, keep_selection
from clip_transforms.pairs.scores import keep_pairs
from clip_transforms.plan import Extension, close_extension, read_extensions, write_extension
from clip_transforms.sources import PlanItem, limit_items, scan
from clip_transforms.sweep import overwrite
from pipelines import preflight
from pipelines.job import Job

if TYPE_CHECKING:
    from clip_transforms.config import RunConfig


def make_config(job: Job, encoder: Encoder) -> RunConfig:
    """What the workers of this job are told."""
    from clip_transforms.config import RunConfig

    return RunConfig(
        output=job.store.root,
        run_id=job.run_id,
        started_at=job.started_at,
        encoder=job.spec,
        encoder_name=encoder.name,
        weights_id=encoder.weights_id,
        dim=encoder.dim,
        family=encoder.family,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        fingerprint=fingerprint_of(job, encoder),
        sources=job.sources,
        engine=job.engine,
        label_sets=tuple(label_set.tag for label_set in job.label_sets),
        pairs=job.pairs,
        retry_failed=job.asked("retry_failed"),
        embedding_dtype=job.identity.embedding_dtype,
        storage_options=job.store.storage_options,
    )


def fingerprint_of(job: Job, encoder: Encoder) -> str:
    """The fingerprint of this job's embeddings; RequestError where it is not the run's."""
    decode = asdict(job.engine.decode)
    made = embedding_fingerprint(
        encoder.name,
        weights_id=encoder.weights_id,
        preprocess=asdict(encoder.preprocess),
        decode=decode,
        precision=resolve_precision(job.spec.precision, device=job.spec.device),  # the workers'
    )
    kept = job.extensions[0].config["fingerprint"] if job.extensions else made
    if kept != made:
        raise RequestError(
            f"the embeddings of the run {job.store.root} have the fingerprint {kept}, this job's would have {made} "
            f"({encoder.name}, weights {encoder.weights_id}): rows of both cannot be in one run; give another --output"
        )
    return made


def scanned(job: Job) -> Iterator[PlanItem]:
    """The inputs as plan items, cut by --limit."""
    items = scan(job.private_inputs or job.identity.input, job.sources)
    if job.identity.limit is not None:
        return limit_items(items, job.identity.limit, job.sources)
    return items


def write_plan(job: Job, config: RunConfig, items: Iterator[PlanItem], lease: Lease) -> list[Extension]:
    """Make or extend the run's plan; all its extensions."""
    store = job.store
    if job.asked("overwrite") and read_extensions(store):
        overwrite(store)
    if job.extensions:
        extend_plan(
            store,
            list(job.extensions),
            items,
            run_id=job.run_id,
            created_at=job.started_at,
            unit_size=job.identity.unit_size,
            on_changed=getattr(job.args, "on_changed", None),
            closed=job.identity.limit is not None,
        )
    else:
        extension = write_extension(
            store,
            items,
            name="0000",
            run_id=job.run_id,
            inputs=job.identity.input,
            config={
                "identity": asdict(job.identity),
                "encoder_name": config.encoder_name,
                "weights_id": config.weights_id,
                "fingerprint": config.fingerprint,
            },
            unit_size=job.identity.unit_size,
            created_at=job.started_at,
        )
        if not extension.units:
            raise RequestError("no input is left: --sample took them all out")
        # Before the plan counts: a run that is killed here must not be resumed without its label sets. Those of
        # a launcher that died at this very place, and had other prompts, are no one's.
        store.delete([f"text/{tag}.json" for tag in label_set_tags(store)])
        keep_views(job)
        lease.check()
        close_extension(store, extension)
    keep_views(job)
    return read_extensions(store)


def keep_views(job: Job) -> None:
    """Note in the run what all its units are to have: label sets, scores, and how pairs are chosen."""
    for label_set in job.label_sets:
        keep_label_set(job.store, label_set)
    if job.pairs:
        keep_pairs(job.store)
    if job.selection is not None:
        keep_selection(job.store, KeptSelection(selection=job.selection))


def first_look(job: Job, encoder: Encoder) -> Iterator[PlanItem]:
    """Scan the beginning of the input and send one image through the encoder; all items of the input."""
    head, items = preflight.first_items(scanned(job))
    if job.selection is not None and "uids" in job.selection.outputs:
        preflight.check_uids(head, sources=job.sources)
    if job.rules is not None:
        preflight.check_rule_inputs(head, job.rules, sources=job.sources)
    preflight.try_images(head, encoder, sources=job.sources, engine=job.engine)
    return items


def blank_config(job: Job) -> RunConfig:
    """The config of a job whose encoder was not loaded: good for building a graph, not for running it."""
    from clip_transforms.config import RunConfig

    info = describe(job.spec)
    return RunConfig(
        output=job.store.root,
        run_id=job.run_id,
        started_at=job.started_at,
        encoder=job.spec,
        encoder_name=info.name,
        weights_id="",
        dim=info.dim,
        family=info.family,
        logit_scale=1.0,
        logit_bias=0.0,
        fingerprint="",
        sources=job.sources,
        engine=job.engine,
        label_sets=tuple(label_set.tag for label_set in job.label_sets),
        pairs=job.pairs,
    )
