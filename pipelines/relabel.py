"""New labels of stored embeddings, with a calibration or a probe, in a folder of their own; no image is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clip_transforms.config import RunConfig
from clip_transforms.evaluation.judges import TextModel
from clip_transforms.joined import is_joined
from clip_transforms.labelled import embeddings_store
from clip_transforms.labelsets import LabelSet, keep_label_set, label_set_tags, read_label_set
from clip_transforms.storage import Store
from clip_transforms.views import label_view
from pipelines.closing import run_and_close
from pipelines.from_run import check_complete, check_source, no_sources
from pipelines.job import Job, encoder_spec, engine_options, stored_identity
from pipelines.options import identity_from
from pipelines.planning import make_config
from pipelines.preflight import launchers_encoder
from pipelines.runners import Launch
from pipelines.status import allowed_failure_rate
from pipelines.submitted import take_lease


def stored_job(args: argparse.Namespace, store: Store) -> Job:
    """The job that labels the stored embeddings of a run, without any label set yet.

    store: of the run, or of one that holds labels of another run's embeddings. Raises RequestError where it
    holds no run, or the embeddings are not complete.
    """
    source = embeddings_store(store)
    extensions = check_source(source)
    check_complete(source)
    identity = identity_from({}, stored_identity(extensions))
    # No image is read, so the failures of the run are as many as its last job was allowed.
    given = {**vars(args), "from_run": source.root, "max_failure_rate": allowed_failure_rate(store)}
    args = argparse.Namespace(**given)
    return Job(
        args=args,
        store=store,
        identity=identity,
        sources=no_sources(store.storage_options),
        engine=engine_options(args, identity, store.storage_options),
        spec=encoder_spec(args, identity, store.storage_options),
        extensions=tuple(extensions),
        label_sets=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A run that can be labelled anew: its job, where that runs, and what its workers are told."""

    job: Job
    launch: Launch
    config: RunConfig

    @property
    def model(self) -> TextModel:
        """How the run's encoder makes probabilities."""
        config = self.config
        return TextModel(family=config.family, logit_scale=config.logit_scale, logit_bias=config.logit_bias)


def make_ready(job: Job, launch: Launch) -> Ready:
    """Load the encoder of a stored job; RequestError where that which is found is not the run's."""
    encoder = launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
    return Ready(job=job, launch=launch, config=make_config(job, encoder))


def relabel(
    ready: Ready, *, label_set: LabelSet, base: str, objects: Mapping[str, bytes], command: str
) -> int:
    """Label the run with a set that was made from its set `base`; the exit code.

    objects: what the new set needs beside its prompts (a calibration, a probe), by name; written before the
    set is. The text features are those of `base`. Sets that an earlier job left unfinished are finished too.
    """
    job, launch, store = ready.job, ready.launch, ready.job.store
    store.probe()
    source = str(job.args.from_run)
    with take_lease(store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        for name, data in objects.items():
            store.write(name, data)
        store.create(f"text/{label_set.tag}.arrow", store.read(f"text/{base}.arrow"))
        keep_label_set(store, label_set)
        others = _unfinished(store, source, but=label_set.tag)
        job = replace(job, label_sets=(label_set, *others))
        # The set that was asked for comes last in each unit: the newest is what readers take.
        tags = (*(other.tag for other in others), label_set.tag)
        config = replace(ready.config, label_sets=tags)
        if source != store.root:
            config = replace(config, embeddings_run=source)
        return run_and_close(job, config, job.extensions, launch, lease, command=command)


def _unfinished(store: Store, source: str, *, but: str) -> tuple[LabelSet, ...]:
    """The other sets of the run that not every embedded image has a label of."""
    embeddings = Store(source, store.storage_options)
    tags = (tag for tag in label_set_tags(store) if tag != but)
    return tuple(
        read_label_set(store, tag) for tag in tags if not is_joined(embeddings, label_view(tag), store)
    )
