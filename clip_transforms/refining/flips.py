"""Which labels a new label set changed: the value that is stored as `probes/<tag>/flips.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

_VERSION = 1
KEPT = 1000  # kinds of change that are kept by name, the most frequent


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Images whose label changed. old, new: None for no label; in a multi-label set a label that is gained has
    no old one, and one that is lost no new one.
    """

    old: str | None
    new: str | None
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many of some reviewed images have the reviewers' answer."""

    images: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """From the labels of one set to those of another. changed: images. flips: the KEPT most frequent kinds;
    others: how many changes are of further kinds. reviewed: by `trained_on` (what the probe learnt from) and
    `not_trained_on`.
    """

    before: str
    after: str
    images: int
    changed: int
    flips: tuple[Flip, ...]
    others: int
    reviewed: Mapping[str, Agreement]

    def to_json(self) -> bytes:
        """What `flips.json` holds."""
        body = {"version": _VERSION, **asdict(self)}
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode()


def flips_name(tag: str) -> str:
    """Of the object that says what a label set changed.

    >>> flips_name("pets@0a1b2c3d")
    'probes/pets@0a1b2c3d/flips.json'
    """
    return f"probes/{tag}/flips.json"


def parse_flips(data: bytes) -> Flips:
    """The content of a `flips.json`."""
    body = json.loads(data)
    del body["version"]
    flips = tuple(Flip(**flip) for flip in body.pop("flips"))
    reviewed = {name: Agreement(**found) for name, found in body.pop("reviewed").items()}
    return Flips(flips=flips, reviewed=reviewed, **body)
