"""The flags of `beamclip filter` beside those that all jobs share, and the selection that they ask for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clip_transforms.elements import RequestError
from pipelines.flags import build_parser

if TYPE_CHECKING:
    from clip_transforms.pairs.config import Selection
    from clip_transforms.pairs.rules import RuleSet
    from clip_transforms.prompts import PromptSet

#: Names of the options that make a selection, as the parser has them.
SELECTION = ("rules", "keep_top", "keep_above", "dedup", "near_distance", "semantic_cosine", "write")


def build_filter_parser(description: str) -> argparse.ArgumentParser:
    """The parser of `beamclip filter`; what is not given is absent."""
    parser = build_parser("filter", description, labels=False)
    group = parser.add_argument_group(
        "what is kept: rules drop first, then duplicates go, then what is under the cut"
    )
    group.add_argument(
        "--from-run",
        metavar="RUN",
        help="choose among the stored pairs of RUN (made by filter, embed or label); no image is read",
    )
    group.add_argument(
        "--rules",
        nargs="+",
        action="extend",
        metavar="NAME|FILE",
        help="rule sets, one after the other: web, laion-400m, datacomp-basic, datacomp-laion-2b, coyo-700m, or "
        "YAML files",
    )
    _add_cut(group)
    _add_dedup(group)
    group.add_argument(
        "--write",
        nargs="+",
        action="extend",
        metavar="WHAT",
        help="what to write of the kept pairs beside Parquet: uids (DataComp's uids.npy), clip-retrieval "
        "(its folders of vectors and metadata), faiss (indexes beside these), webdataset "
        "(shards with the original bytes)",
    )
    return parser


def _add_cut(group: argparse._ArgumentGroup) -> None:
    cut = group.add_mutually_exclusive_group()
    cut.add_argument(
        "--keep-top",
        type=float,
        metavar="F",
        help="keep this fraction of the pairs that reach the cut, the best; ties are kept, as DataComp does",
    )
    cut.add_argument(
        "--keep-above",
        type=float,
        metavar="S",
        help="keep pairs whose cosine of image and caption is at least S",
    )


def _add_dedup(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dedup",
        metavar="HOW",
        help="none (default); exact: of images with the same bytes the best pair stays; near: also of images "
        "that look alike; semantic: also of those whose embeddings are near",
    )
    group.add_argument(
        "--near-distance",
        type=int,
        metavar="D",
        help="bits of the 64-bit perceptual hashes that may differ between near duplicates (default 4)",
    )
    group.add_argument(
        "--semantic-cosine",
        type=float,
        metavar="C",
        help="cosine of the embeddings from which on images are semantic duplicates (default 0.97)",
    )


def selection_from(
    given: Mapping[str, Any],
    stored: Selection | None = None,
    *,
    storage_options: Mapping[str, object],
    recorded: Iterable[PromptSet] = (),
) -> tuple[Selection, RuleSet | None]:
    """The selection that was asked for, and its rules; a run that is gone on with has one, which is not changed.

    stored, recorded: that run's selection, and the prompt sets that it has.
    Raises RequestError for what makes no sense, or does not agree with the run's.
    """
    from clip_transforms.pairs.config import Selection
    from clip_transforms.pairs.indexes import check_faiss
    from clip_transforms.pairs.rule_files import load_rules, rules_from_spec

    asked = {name: given[name] for name in SELECTION if name in given}
    rules = None
    if "rules" in asked:
        rules = load_rules(asked["rules"], storage_options=storage_options)
        asked["rules"] = json.loads(json.dumps(rules.spec()))
    if "write" in asked:
        asked["outputs"] = tuple(sorted(set(asked.pop("write"))))
    if "faiss" in asked.get("outputs", ()):
        check_faiss()
    _check_dedup(asked, asked.get("dedup", stored.dedup if stored else "none"))
    if stored is None:
        return Selection(**asked), rules
    for item in fields(stored):
        if item.name in asked and asked[item.name] != getattr(stored, item.name):
            raise RequestError(_disagreement(item.name, asked, stored))
    if stored.rules is not None and rules is None:
        rules = rules_from_spec(stored.rules, storage_options=storage_options, recorded=recorded)
    return stored, rules


def _check_dedup(asked: Mapping[str, Any], dedup: str) -> None:
    for name, kinds in (("near_distance", ("near", "semantic")), ("semantic_cosine", ("semantic",))):
        if name in asked and dedup not in kinds:
            flag = "--" + name.replace("_", "-")
            raise RequestError(f"{flag} goes with --dedup {' or '.join(kinds)}")


def _disagreement(name: str, asked: Mapping[str, Any], stored: Selection) -> str:
    flag = "--write" if name == "outputs" else "--" + name.replace("_", "-")
    mend = "leave it out, or choose anew with --from-run"
    if name == "rules":
        return f"--rules {asked['rules']['name']}: the rules of the run's selection are others; {mend}"
    return f"{flag} {asked[name]} does not agree with the run's selection, which has {getattr(stored, name)}; {mend}"
