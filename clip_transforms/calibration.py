"""A calibration as it is stored: a temperature, and the scores from which on labels are accepted unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clip_transforms.fingerprint import canonical_hash
from clip_transforms.labelsets import read_part
from clip_transforms.storage import Store

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `calibrate` found for one label set, and how.

    temperature: logits are divided by it for `calibrated`; it never changes a label. accept: by label (also
    `__none__`), the stored score from which on its rows are `auto_accept`; a label that is not there is never
    accepted. These two make the hash. base is the tag whose rows the audit was of; figures say how it was
    found, for the report and for people.
    """

    base: str
    temperature: float
    accept: Mapping[str, float]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 hex of what changes rows.

        >>> one = Calibration(base="x@00000000", temperature=2.0, accept={"cat": 0.5})
        >>> one.hash == Calibration(base="y@00000000", temperature=2.0, accept={"cat": 0.5}).hash
        True
        """
        return canonical_hash([self.temperature, dict(self.accept)])

    def to_json(self) -> bytes:
        """What its object holds."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1, sort_keys=True).encode()


def calibration_name(tag: str) -> str:
    """Of the object of a calibrated label set.

    >>> calibration_name("pets@0a1b2c3d")
    'calibration/pets@0a1b2c3d.json'
    """
    return f"calibration/{tag}.json"


def parse_calibration(data: bytes) -> Calibration:
    """The calibration in an object's bytes.

    >>> one = Calibration(base="x@00000000", temperature=2.0, accept={"cat": 0.5})
    >>> parse_calibration(one.to_json()) == one
    True
    """
    body = json.loads(data)
    del body["version"]
    return Calibration(**body)


def read_calibration(store: Store, tag: str) -> Calibration:
    """The calibration of a label set that has one; RequestError where its object is gone or cannot be read."""
    return read_part(store, tag, calibration_name(tag), parse_calibration)
