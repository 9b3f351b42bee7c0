"""What a selection is, and what the workers that carry it out must know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from clip_transforms.elements import RequestError
from clip_transforms.fetch import FetchOptions
from clip_transforms.fingerprint import canonical_hash
from clip_transforms.pairs.near import DEFAULT_DISTANCE, MAX_DISTANCE
from clip_transforms.pairs.rules import RuleSet
from clip_transforms.pairs.semantic import DEFAULT_COSINE
from clip_transforms.sources import SourceOptions
from clip_transforms.storage import Store
from clip_transforms.views import View
from schemas.pairs import pairs_schema

NO_CAPTION = "no_caption"
BELOW_CUT = "below_cut"
DUPLICATE_EXACT = "duplicate_exact"
DUPLICATE_NEAR = "duplicate_near"
DUPLICATE_SEMANTIC = "duplicate_semantic"
#: The ways to look for duplicates; each has those before it.
DEDUPS = ("none", "exact", "near", "semantic")
#: What may be written of the kept pairs beside Parquet.
OUTPUTS = ("uids", "clip-retrieval", "faiss", "webdataset")
_NAME = "selection.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How pairs are chosen: rules, then duplicates, then the cut. Raises RequestError for what makes no sense."""

    rules: Mapping[str, Any] | None = None  # as RuleSet.spec() says them
    keep_top: float | None = None  # this fraction of the pairs that reach the cut, the best
    keep_above: float | None = None  # the cosine from which on a pair is kept
    dedup: str = "none"
    near_distance: int = DEFAULT_DISTANCE  # bits of the perceptual hashes that may differ
    semantic_cosine: float = DEFAULT_COSINE  # of the embeddings, from which on they are alike
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.keep_top is not None and self.keep_above is not None:
            raise RequestError("--keep-top and --keep-above exclude each other: one cut, please")
        if self.keep_top is not None and not 0 < self.keep_top <= 1:
            raise RequestError(f"--keep-top {self.keep_top:g}: expected a fraction above 0, at most 1")
        if self.keep_above is not None and not -1 <= self.keep_above <= 1:
            raise RequestError(f"--keep-above {self.keep_above:g}: expected a cosine from -1 to 1")
        if self.dedup not in DEDUPS:
            raise RequestError(f"--dedup {self.dedup}: expected one of {', '.join(DEDUPS)}")
        if not 0 <= self.near_distance <= MAX_DISTANCE:
            raise RequestError(
                f"--near-distance {self.near_distance}: expected a number of bits from 0 to {MAX_DISTANCE}"
            )
        if not 0 < self.semantic_cosine <= 1:
            raise RequestError(
                f"--semantic-cosine {self.semantic_cosine:g}: expected a cosine above 0, at most 1"
            )
        strange = [name for name in self.outputs if name not in OUTPUTS]
        if strange:
            raise RequestError(f"--write {strange[0]}: expected one of {', '.join(OUTPUTS)}")

    def told(self) -> str:
        """The steps in words.

        >>> Selection(keep_top=0.3, dedup="near").told()
        'no rules; duplicates: near; the best 30%'
        """
        rules = f"rules {self.rules['name']}" if self.rules else "no rules"
        cut = "no cut"
        if self.keep_top is not None:
            cut = f"the best {100 * self.keep_top:g}%"
        if self.keep_above is not None:
            cut = f"cosines of at least {self.keep_above:g}"
        return f"{rules}; duplicates: {self.dedup}; {cut}"

    def name(self, rows: object) -> str:
        """8 hex digits over how is chosen and among which rows (any JSON value): of the parts it writes."""
        how = {key: value for key, value in asdict(self).items() if key != "outputs"}
        return canonical_hash([_VERSION, how, rows])[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSelection:
    """A run's selection, and what came of it: the name of its parts (None before all are written) and its cut."""

    selection: Selection
    done: str | None = None
    threshold: float | None = None


def keep_selection(store: Store, kept: KeptSelection) -> None:
    """Write the selection into the run; it takes the place of an earlier one."""
    body = {"version": _VERSION, **asdict(kept)}
    store.write(_NAME, json.dumps(body, indent=1, sort_keys=True).encode())


def read_selection(store: Store) -> KeptSelection | None:
    """The run's selection; None where it has none. Raises RequestError for one of another version."""
    try:
        body: dict[str, Any] = json.loads(store.read(_NAME))
    except FileNotFoundError:
        return None
    if body.pop("version", None) != _VERSION:
        raise RequestError(f"{store.join(_NAME)} was written by another version of beamclip")
    how: dict[str, Any] = body.pop("selection")
    how = {key: tuple(value) if isinstance(value, list) else value for key, value in how.items()}
    return KeptSelection(selection=Selection(**how), **body)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    """One selection over one run. Made by the launcher once everything is resolved and checked."""

    output: str  # url of the folder that pairs/ and kept/ go to
    embeddings_run: str  # url of the run whose images are chosen from
    views: tuple[
        tuple[View, str], ...
    ]  # what is read beside the embeddings, and the run that has it: scores first
    selection: Selection
    rules: RuleSet | None  # the selection's, read
    encoder_name: str
    fingerprint: str  # of the embeddings
    run_id: str  # of this job
    started_at: str
    sources: SourceOptions = field(default_factory=SourceOptions)  # where images are read again
    fetch: FetchOptions = field(default_factory=FetchOptions)
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def store(self) -> Store:
        """Where the selection goes."""
        return Store(self.output, self.storage_options)

    def source(self, run: str) -> Store:
        """A run that is read."""
        return Store(run, self.storage_options)

    def source_columns(self) -> tuple[str, ...]:
        """The columns of embeddings/ that say something of an image, its vector left out."""
        known = ("caption", "width", "height", "format", "bytes", "sha256", "phash", "extra")
        return (*known, *(f"src_{name}" for name, _ in self.sources.carry_types()))

    def schema(self) -> pa.Schema:
        """Of pairs/ and kept/."""
        return pairs_schema(self.encoder_name, carry=self.sources.carry_types())
