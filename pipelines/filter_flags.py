"""The flags of `beamclip filter` beside those that all jobs share, and the selection that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clip_transforms.elements import RequestError
from pipelines.flags import build_parser

if TYPE_CHECKING:
    from clip_transforms.pairs.config import Selection

#: Names of the options that make a selection, as the parser has them.
SELECTION = ("keep_top", "keep_above", "dedup", "near_distance", "write")


def build_filter_parser(description: str) -> argparse.ArgumentParser:
    """The parser of `beamclip filter`; what is not given is absent."""
    parser = build_parser("filter", description, labels=False)
    group = parser.add_argument_group("what is kept: duplicates go first, then what is under the cut")
    group.add_argument(
        "--from-run",
        metavar="RUN",
        help="choose among the stored pairs of RUN (made by filter, embed or label); no image is read",
    )
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
    group.add_argument(
        "--dedup",
        metavar="HOW",
        help="none (default); exact: of images with the same bytes the best pair stays; near: also of images "
        "that look alike",
    )
    group.add_argument(
        "--near-distance",
        type=int,
        metavar="D",
        help="bits of the 64-bit perceptual hashes that may differ between near duplicates (default 4)",
    )
    group.add_argument(
        "--write",
        nargs="+",
        action="extend",
        metavar="WHAT",
        help="what to write of the kept pairs beside Parquet: uids (DataComp's uids.npy)",
    )
    return parser


def selection_from(given: Mapping[str, Any], stored: Selection | None = None) -> Selection:
    """The Selection that was asked for; a run that is gone on with has one, which what is given must repeat.

    Raises RequestError for what makes no sense, or does not agree with the run's.
    """
    from clip_transforms.pairs.config import Selection

    asked = {name: given[name] for name in SELECTION if name in given}
    if "write" in asked:
        asked["outputs"] = tuple(sorted(set(asked.pop("write"))))
    if "near_distance" in asked and asked.get("dedup", stored.dedup if stored else "none") != "near":
        raise RequestError("--near-distance goes with --dedup near")
    if stored is None:
        return Selection(**asked)
    for item in fields(stored):
        if item.name in asked and asked[item.name] != getattr(stored, item.name):
            flag = "--write" if item.name == "outputs" else "--" + item.name.replace("_", "-")
            raise RequestError(
                f"{flag} {asked[item.name]} does not agree with the run's selection, which has "
                f"{getattr(stored, item.name)}; leave it out, or choose anew with --from-run"
            )
    return stored
