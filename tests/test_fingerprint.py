"""Fingerprints: the same for the same, another for each thing that matters; pinned: runs resume by them."""

from __future__ import annotations

import math

import pytest

from clip_transforms.fingerprint import (
    canonical_hash,
    embedding_fingerprint,
    labels_fingerprint,
    labels_hash8,
)

REST: dict[str, object] = {
    "weights_id": "abc",
    "preprocess": {"width": 32, "mean": (0.5, 0.5, 0.5)},
    "decode": {"draft": True, "background": "white"},
    "precision": "fp32",
}


def test_fingerprints_are_pinned() -> None:
    assert embedding_fingerprint("fake", **REST) == "abd8bcf2a5e4f38a450ff2aab1f1c900"  # type: ignore[arg-type]
    assert labels_hash8("prompts") == "99b84cd5"
    assert labels_fingerprint("e", prompt_set="prompts") == "400b16e3eabf7896f922d45cff3d6dcc"


def test_each_part_matters() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"weights_id": "abd"},
        {"preprocess": {"width": 33, "mean": (0.5, 0.5, 0.5)}},
        {"decode": {"draft": False, "background": "white"}},
        {"precision": "bf16"},
    ]
    found = {embedding_fingerprint("fake", **{**REST, **change}) for change in changes}  # type: ignore[arg-type]
    assert len(found | {embedding_fingerprint("other", **REST)}) == 6  # type: ignore[arg-type]
    labels = [("p", None, None), ("q", None, None), ("p", "c", None), ("p", None, "c"), ("p", "c", "c")]
    assert len({labels_hash8(p, calibration=c, probe=q) for p, c, q in labels}) == 5
    assert len({labels_fingerprint("e", prompt_set=p, calibration=c, probe=q) for p, c, q in labels}) == 5


def test_order_and_tuples_do_not_matter() -> None:
    swapped = {**REST, "decode": {"background": "white", "draft": True}}
    swapped["preprocess"] = {"mean": [0.5, 0.5, 0.5], "width": 32}
    assert embedding_fingerprint("fake", **swapped) == embedding_fingerprint("fake", **REST)  # type: ignore[arg-type]


def test_what_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(ValueError, match="resolve 'auto' first"):
        embedding_fingerprint("fake", **{**REST, "precision": "auto"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_hash({"a": math.nan})
    with pytest.raises(TypeError):
        canonical_hash({"a": object()})
