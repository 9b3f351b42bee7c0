"""What `embed` and `label` share: a request checked, planned, run and reconciled."""

from __future__ import annotations

import argparse
import datetime
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clip_transforms.changes import extend_plan
from clip_transforms.elements import RequestError
from clip_transforms.encoders import Encoder, EncoderSpec, default_name, resolve_name, resolve_precision
from clip_transforms.engine import EngineOptions
from clip_transforms.fetch import FetchOptions
from clip_transforms.fingerprint import embedding_fingerprint
from clip_transforms.images import DecodeOptions, parse_background
from clip_transforms.labelsets import DEFAULT_TOP_K, LabelSet, keep_label_set, label_set_tags, read_label_set
from clip_transforms.lease import Lease
from clip_transforms.plan import Extension, close_extension, read_extensions, write_extension
from clip_transforms.prompts import load_prompt_set
from clip_transforms.sources import (
    PlanItem,
    SourceOptions,
    canonical_uri,
    expand_inputs,
    limit_items,
    parse_carry,
    scan,
    with_private_inputs,
)
from clip_transforms.storage import Store
from clip_transforms.sweep import overwrite
from pipelines import preflight
from pipelines.launch import LOCAL_RUNNERS
from pipelines.options import Identity, identity_from, storage_options

if TYPE_CHECKING:
    from clip_transforms.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that was checked: what is to be done to which run, with what."""

    args: argparse.Namespace
    store: Store
    identity: Identity
    sources: SourceOptions
    engine: EngineOptions
    spec: EncoderSpec
    extensions: tuple[Extension, ...]  # of the run that is gone on with; empty for a new one
    label_sets: tuple[LabelSet, ...]
    private_inputs: tuple[str, ...] = ()  # the inputs as given, where that differs
    run_id: str = field(default_factory=lambda: secrets.token_hex(6))
    started_at: str = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat())

    @property
    def is_new(self) -> bool:
        """Whether a plan is to be made from nothing."""
        return not self.extensions

    @property
    def is_local(self) -> bool:
        """Whether the job runs in this process."""
        return getattr(self.args, "runner", None) in LOCAL_RUNNERS

    def asked(self, name: str) -> bool:
        """Whether a switch was given."""
        return bool(getattr(self.args, name, False))


def check_request(args: argparse.Namespace, *, labels: bool) -> Job:
    """Everything that can be said of a request without listing inputs or loading a model.

    Raises RequestError. Writes nothing.
    """
    options = storage_options(getattr(args, "storage_option", []))
    if not hasattr(args, "output"):
        raise RequestError("--output is missing: the folder of the run, for example --output run1")
    store = Store(args.output, options)
    extensions = read_extensions(store)
    _check_mode(args, store, extensions)
    going_on = () if getattr(args, "overwrite", False) else tuple(extensions)
    if going_on and going_on[0].config.get("from_run"):
        raise RequestError(
            f"{store.root} holds labels of {going_on[0].config['from_run']} alone: "
            f"go on with `beamclip label --from-run {going_on[0].config['from_run']} --output {store.root} --resume`"
        )
    given = vars(args)
    private: tuple[str, ...] = ()
    if "input" in given:
        private = tuple(expand_inputs(given["input"]))
        given = {**given, "input": tuple(canonical_uri(url) for url in private)}
    if "encoder" in given or "weights" in given or "model_config" in given:
        name = given.get("encoder") or default_name(
            weights=given.get("weights"), model_config=given.get("model_config")
        )
        given = {**given, "encoder": resolve_name(name)}
    precision = given.pop("precision", None)
    identity = identity_from(given, stored_identity(going_on))
    identity = _with_precision(identity, precision, device=given.get("device", "auto"), fixed=bool(going_on))
    if not identity.input:
        raise RequestError("--input is missing: folders, globs, manifests, tars; for example --input photos")
    sources = _source_options(identity, private or identity.input, options)
    return Job(
        args=args,
        store=store,
        identity=identity,
        sources=sources,
        engine=engine_options(args, identity, options),
        spec=encoder_spec(args, identity, options),
        extensions=going_on,
        label_sets=_label_sets(args, store, bool(going_on), options) if labels else (),
        private_inputs=private,
    )


def _check_mode(args: argparse.Namespace, store: Store, extensions: Sequence[Extension]) -> None:
    going_on = getattr(args, "resume", False) or getattr(args, "retry_failed", False)
    if extensions and not going_on and not getattr(args, "overwrite", False):
        raise RequestError(
            f"{store.root} holds a run already: --resume goes on with it, --retry-failed redoes its failures, "
            "--overwrite deletes it first; or give another --output"
        )
    if getattr(args, "retry_failed", False) and getattr(args, "overwrite", False):
        raise RequestError(
            "--retry-failed and --overwrite exclude each other: there would be nothing to retry"
        )
    if going_on and not extensions and not hasattr(args, "input"):
        raise RequestError(
            f"{store.root} holds no run to go on with: check --output, or give --input to start one there"
        )


def stored_identity(extensions: Sequence[Extension]) -> Mapping[str, Any] | None:
    """The identity that a run's plan holds; None for a new run."""
    if not extensions:
        return None
    stored: Any = extensions[0].config["identity"]
    return dict(stored)


def _with_precision(identity: Identity, given: str | None, *, device: str, fixed: bool) -> Identity:
    if fixed:
        if given not in (None, "auto", identity.precision):
            raise RequestError(
                f"--precision {given} does not agree with the run, which has {identity.precision}; "
                "leave it out, or give another --output"
            )
        return identity
    return replace(identity, precision=resolve_precision(given or "auto", device=device))


def _source_options(
    identity: Identity, inputs: Sequence[str], options: Mapping[str, object]
) -> SourceOptions:
    sources = SourceOptions(
        format=identity.format,
        id_column=identity.id_column,
        caption_column=identity.caption_column,
        image_column=identity.image_column,
        carry=parse_carry(identity.carry),
        storage_options=options,
        unit_rows=identity.unit_size or 1024,
        sample=identity.sample,
        seed=identity.seed,
        max_bytes=identity.max_bytes,
    )
    return with_private_inputs(inputs, sources)


def encoder_spec(args: argparse.Namespace, identity: Identity, options: Mapping[str, object]) -> EncoderSpec:
    """The encoder that a run asks for, on this job's device."""
    return EncoderSpec(
        name=identity.encoder,
        weights=identity.weights,
        model_config=identity.model_config,
        device=getattr(args, "device", "auto"),
        precision=identity.precision,
        threads=getattr(args, "threads", None),
        storage_options=options,
    )


def engine_options(
    args: argparse.Namespace, identity: Identity, options: Mapping[str, object]
) -> EngineOptions:
    """The engine's options: defaults but for what was given."""
    renamed = {
        "batch_size": "batch_size",
        "threads": "decode_threads",
        "fetch_threads": "fetch_threads",
        "fetch_processes": "fetch_processes",
    }
    given = {new: getattr(args, old) for old, new in renamed.items() if hasattr(args, old)}
    timeout = {"timeout_s": args.timeout} if hasattr(args, "timeout") else {}
    return EngineOptions(
        fetch=FetchOptions(max_bytes=identity.max_bytes, storage_options=options, **timeout),
        decode=DecodeOptions(
            background=parse_background(identity.background),
            exif_transpose=not identity.no_exif_transpose,
            draft=not identity.no_draft,
            allow_truncated=identity.allow_truncated,
            max_pixels=identity.max_pixels,
            max_bytes=identity.max_bytes,
        ),
        **given,
    )


def load_label_sets(args: argparse.Namespace, options: Mapping[str, object]) -> tuple[LabelSet, ...]:
    """The prompt sets that were given, checked; RequestError where two have one name."""
    top_k = getattr(args, "top_k", DEFAULT_TOP_K)
    sets = [
        LabelSet(prompt_set=load_prompt_set(source, storage_options=options), top_k=top_k)
        for source in getattr(args, "prompts", [])
    ]
    names = [label_set.prompt_set.name for label_set in sets]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"--prompts: two sets are called {name!r}; rename one (its `name:` line)")
    return tuple(sets)


def _label_sets(
    args: argparse.Namespace, store: Store, going_on: bool, options: Mapping[str, object]
) -> tuple[LabelSet, ...]:
    given = load_label_sets(args, options)
    if not going_on:
        if not given:
            raise RequestError(
                "--prompts is missing: a shipped set (`beamclip prompts list`) or a prompt-set file"
            )
        return given
    kept = tuple(read_label_set(store, tag) for tag in label_set_tags(store))
    tags = {label_set.tag for label_set in kept}
    for label_set in given:
        if tags and label_set.tag not in tags:
            raise RequestError(
                f"--prompts {label_set.prompt_set.name}: the run has {', '.join(sorted(tags))}, not {label_set.tag}; "
                f"add a set with `beamclip label --from-run {store.root} --prompts ...`"
            )
    return kept or given


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
        precision=encoder.precision,
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
        _keep(store, job.label_sets)
        lease.check()
        close_extension(store, extension)
    _keep(store, job.label_sets)
    return read_extensions(store)


def _keep(store: Store, label_sets: Sequence[LabelSet]) -> None:
    for label_set in label_sets:
        keep_label_set(store, label_set)


def first_look(job: Job, encoder: Encoder) -> Iterator[PlanItem]:
    """Scan the beginning of the input and send one image through the encoder; all items of the input."""
    head, items = preflight.first_items(scanned(job))
    preflight.try_images(head, encoder, sources=job.sources, engine=job.engine)
    return items


def resume_command(command: str, store: Store) -> str:
    """What to type to go on with a run."""
    return shlex.join(["beamclip", command, "--output", store.root, "--resume"])


def say(text: str) -> None:
    """One line for people, on stderr: stdout is for results."""
    sys.stderr.write(f"{text}\n")


def blank_config(job: Job) -> RunConfig:
    """The config of a job whose encoder was not loaded: good for building a graph, not for running it."""
    from clip_transforms.config import RunConfig
    from clip_transforms.encoders import describe

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
    )
