"""A probe as it is stored and applied: linear classifiers on embeddings, blended with the zero-shot logits."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clip_transforms.elements import ContractError
from clip_transforms.fingerprint import canonical_hash
from clip_transforms.labelsets import read_part
from clip_transforms.probabilities import Float32, Float64
from clip_transforms.prompts.types import Task
from clip_transforms.storage import Store

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """What `refine` fitted on reviewed images of one label set.

    classes [P]: those it was fitted for; all others stay zero-shot. weights [P, D] and bias [P], float32: of
    a multinomial logistic regression (task single) or of one binary one a label (multi). blend: how much of
    the probe there is in the logits, 0..1. temperature: the zero-shot logits are divided by it first. base is
    the tag that it refines; figures say how it was found.
    """

    task: Task
    classes: tuple[str, ...]
    weights: Float32
    bias: Float32
    blend: float
    temperature: float
    base: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 hex of what changes rows."""
        return canonical_hash(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "classes": list(self.classes),
            "weights": _packed(self.weights),
            "bias": _packed(self.bias),
            "blend": self.blend,
            "temperature": self.temperature,
        }

    def to_json(self) -> bytes:
        """What its object holds; the numbers as base64 of little-endian float32."""
        body = {"version": _VERSION, **self._content(), "base": self.base, "figures": dict(self.figures)}
        return json.dumps(body, indent=1, sort_keys=True).encode()

    def blended(self, embeddings: Float32, zero_shot: Float32, classes: Sequence[str]) -> Float32:
        """Zero-shot logits [N, C] of these classes, as scoring has them, made into the probe's [N, C].

        Single: log-probabilities, so that their softmax is the blend. The classes of the probe share among
        them what zero-shot gives to all of them together; the others keep theirs. With w = blend:
        (1 - w) * log p_zero_shot + w * log p_probe, as a product of experts. Multi: (1 - w) * logit_zero_shot
        + w * logit_probe of the probe's labels, each by itself; the others' are divided by the temperature.
        """
        places = self._places(classes)
        old = zero_shot.astype(np.float64) / self.temperature
        new = embeddings.astype(np.float64) @ self.weights.T.astype(np.float64) + self.bias
        return mixed(old, new, places, task=self.task, blend=self.blend).astype(np.float32)

    def _places(self, classes: Sequence[str]) -> list[int]:
        at = {name: place for place, name in enumerate(classes)}
        missing = [name for name in self.classes if name not in at]
        if missing:
            raise ContractError(
                f"the probe of {self.base} knows the class '{missing[0]}', the prompt set does not"
            )
        return [at[name] for name in self.classes]


def mixed(old: Float64, new: Float64, places: Sequence[int], *, task: Task, blend: float) -> Float64:
    """Zero-shot logits [N, C], already at their temperature, blended with a probe's [N, P] of these columns.

    See `Probe.blended`.
    """
    if task == "multi":
        found = old.copy()
        found[:, places] = (1 - blend) * old[:, places] + blend * new
        return found
    old = log_softmax(old)
    mine = log_softmax(new)
    mine += np.logaddexp.reduce(old[:, places], axis=1, keepdims=True)
    found = old.copy()
    found[:, places] = (1 - blend) * old[:, places] + blend * mine
    return log_softmax(found)


def log_softmax(logits: Float64) -> Float64:
    """Of each row.

    >>> np.exp(log_softmax(np.zeros((1, 4)))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    found: Float64 = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return found


def probe_name(tag: str) -> str:
    """Of the object of a label set with a probe.

    >>> probe_name("pets@0a1b2c3d")
    'probes/pets@0a1b2c3d/probe.json'
    """
    return f"probes/{tag}/probe.json"


def parse_probe(data: bytes) -> Probe:
    """The probe in an object's bytes."""
    body = json.loads(data)
    del body["version"]
    classes = tuple(body.pop("classes"))
    bias = _unpacked(body.pop("bias"))
    weights = _unpacked(body.pop("weights")).reshape(len(classes), -1)
    return Probe(classes=classes, weights=weights, bias=bias, **body)


def read_probe(store: Store, tag: str) -> Probe:
    """The probe of a label set that has one; RequestError where its object is gone or cannot be read."""
    return read_part(store, tag, probe_name(tag), parse_probe)


def _packed(values: Float32) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> Float32:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
