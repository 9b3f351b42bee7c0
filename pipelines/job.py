"""What `embed` and `label` share: a request checked, planned, run and reconciled."""

from __future__ import annotations

import argparse
import datetime
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clip_transforms.elements import RequestError
from clip_transforms.encoders import EncoderSpec, default_name, resolve_name, resolve_precision
from clip_transforms.engine import EngineOptions
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions, parse_background
from clip_transforms.labelsets import DEFAULT_TOP_K, LabelSet, label_set_tags, read_label_set
from clip_transforms.pairs.config import Selection
from clip_transforms.pairs.rules import RuleSet
from clip_transforms.pairs.scores import has_pairs
from clip_transforms.plan import Extension
from clip_transforms.prompts import load_prompt_set
from clip_transforms.sources import (
    SourceOptions,
    canonical_uri,
    expand_inputs,
    parse_carry,
    with_private_inputs,
)
from clip_transforms.storage import Store
from clip_transforms.sweep import check_overwrite
from clip_transforms.url_guard import schemes_of
from pipelines.credentials import missing_credentials
from pipelines.options import Identity, identity_from
from pipelines.run_plan import run_plan
from pipelines.runners import LOCAL_RUNNERS
from pipelines.storage_options import storage_options

if TYPE_CHECKING:
    pass


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
    pairs: bool = False  # whether the run's units must end with scores
    selection: Selection | None = None  # of `filter`
    rules: RuleSet | None = None  # the selection's, read
    private_inputs: tuple[str, ...] = ()  # the inputs as given, where that differs
    unreachable: str | None = (
        None  # of a dry run with a remote runner: why its stores cannot be asked from here
    )
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
    unreachable = None
    if getattr(args, "dry_run", False) and getattr(args, "runner", None) not in LOCAL_RUNNERS:
        unreachable = missing_credentials([store.root, *getattr(args, "input", [])], options)
    extensions = [] if unreachable else run_plan(store)
    _check_mode(args, store, extensions)
    if getattr(args, "overwrite", False) and not unreachable:
        check_overwrite(store, has_run=bool(extensions))
    going_on = () if getattr(args, "overwrite", False) else tuple(extensions)
    if going_on and going_on[0].config.get("from_run"):
        other = going_on[0].config["from_run"]
        raise RequestError(
            f"{store.root} holds views of {other} alone (labels, or pairs that were chosen): go on with "
            f"`beamclip label` or `filter`, --from-run {other} --output {store.root} --resume"
        )
    given = dict(vars(args))
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
    sources = source_options(identity, private or identity.input, options)
    return Job(
        args=args,
        store=store,
        identity=identity,
        sources=sources,
        engine=engine_options(args, identity, options),
        spec=encoder_spec(args, identity, options),
        extensions=going_on,
        label_sets=_label_sets(args, store, bool(going_on), options) if labels else (),
        pairs=bool(going_on) and has_pairs(store),
        private_inputs=private,
        unreachable=unreachable,
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


def source_options(identity: Identity, inputs: Sequence[str], options: Mapping[str, object]) -> SourceOptions:
    """How a run reads its inputs; urls among them that hold credentials travel with the job only."""
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
    return EngineOptions(
        fetch=fetch_options(args, identity, options),
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


def fetch_options(
    args: argparse.Namespace, identity: Identity, options: Mapping[str, object]
) -> FetchOptions:
    """The limits on one image; schemes that `--input` itself names are open to the urls in it."""
    renamed = {"timeout": "timeout_s", "per_host": "per_host", "allow_private_urls": "allow_private_urls"}
    return FetchOptions(
        max_bytes=identity.max_bytes,
        storage_options=options,
        schemes=schemes_of(identity.input),
        **{new: getattr(args, old) for old, new in renamed.items() if hasattr(args, old)},
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
