"""Fingerprints: what makes two embeddings, or two label rows, comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

#: Raised when the code that makes embeddings of the same inputs changes what they are.
_EMBEDDING_VERSION = 1
#: The same for the scores of image-text pairs.
_PAIRS_VERSION = 1


def canonical_hash(value: object) -> str:
    """sha256 hex of a JSON value, whatever the order of its keys. Raises TypeError for what JSON cannot hold.

    >>> canonical_hash({"a": 1, "b": (2.0, None)}) == canonical_hash({"b": [2.0, None], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def embedding_fingerprint(
    encoder: str,
    *,
    weights_id: str,
    preprocess: Mapping[str, object],
    decode: Mapping[str, object],
    precision: str,
) -> str:
    """32 hex digits over everything that an embedding depends on but the image.

    encoder: its resolved name. weights_id: sha256, hub commit, or object generation and checksum. preprocess
    and decode: the options as plain JSON values. precision: fp32, bf16 or fp16, never `auto`.

    >>> rest = {"weights_id": "1", "preprocess": {"width": 32}, "decode": {}}
    >>> first = embedding_fingerprint("fake", **rest, precision="fp32")
    >>> other = embedding_fingerprint("fake", **rest, precision="bf16")
    >>> len(first), first == other
    (32, False)
    """
    if precision == "auto":
        raise ValueError("the precision of a fingerprint is fp32, bf16 or fp16: resolve 'auto' first")
    return canonical_hash(
        {
            "version": _EMBEDDING_VERSION,
            "encoder": encoder,
            "weights_id": weights_id,
            "preprocess": dict(preprocess),
            "decode": dict(decode),
            "precision": precision,
        }
    )[:32]


def labels_fingerprint(
    embedding: str, *, prompt_set: str, calibration: str | None = None, probe: str | None = None
) -> str:
    """32 hex digits over what a label row depends on: its embedding's fingerprint, and the three of `hash8`.

    >>> one = labels_fingerprint("e1", prompt_set="p")
    >>> one == labels_fingerprint("e2", prompt_set="p")
    False
    """
    return canonical_hash([embedding, *_label_parts(prompt_set, calibration, probe)])[:32]


def labels_hash8(prompt_set: str, *, calibration: str | None = None, probe: str | None = None) -> str:
    """The `<hash8>` of a label folder: 8 hex digits over the hashes of prompt set, calibration and probe.

    It does not depend on the embeddings: the same prompts have the same folder name in every run.

    >>> labels_hash8("p") == labels_hash8("p", calibration=None, probe=None)
    True
    >>> len({labels_hash8("p"), labels_hash8("p", calibration="c"), labels_hash8("p", probe="c")})
    3
    """
    return canonical_hash(_label_parts(prompt_set, calibration, probe))[:8]


def scores_fingerprint(embedding: str) -> str:
    """32 hex digits over what the score of an image-text pair depends on beside its caption.

    >>> len(scores_fingerprint("e1")), scores_fingerprint("e1") == scores_fingerprint("e2")
    (32, False)
    """
    return canonical_hash([embedding, "pairs", _PAIRS_VERSION])[:32]


def _label_parts(prompt_set: str, calibration: str | None, probe: str | None) -> list[str | None]:
    return [prompt_set, calibration, probe]
