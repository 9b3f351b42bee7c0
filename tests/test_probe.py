"""Probes and calibrations as scoring applies them, and as they are stored."""

from __future__ import annotations

import numpy as np
import pytest

from clip_transforms.elements import ContractError, RequestError
from clip_transforms.encoders.base import Float32
from clip_transforms.probe import Probe, log_softmax, parse_probe
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.scoring import Scored, score
from clip_transforms.text_features import TextFeatures

RNG = np.random.default_rng(0)


def unit(rows: int, dim: int = 8) -> Float32:
    found = RNG.standard_normal((rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


IMAGES, TEXTS = unit(50), unit(4)
PETS = PromptSet(name="pets", labels=tuple(Label(id=name) for name in "abcd"))
FEATURES = TextFeatures(keys=tuple("abcd"), matrix=TEXTS, texts=(1,) * 4, fingerprint="f", encoder="e")


def probe(classes: str, *, blend: float = 0.4, temperature: float = 2.0, task: str = "single") -> Probe:
    rng = np.random.default_rng(1)
    return Probe(
        task=task,  # type: ignore[arg-type]
        classes=tuple(classes),
        weights=rng.standard_normal((len(classes), 8)).astype(np.float32),
        bias=rng.standard_normal(len(classes)).astype(np.float32),
        blend=blend,
        temperature=temperature,
        base="pets@00000000",
    )


def scored(prompts: PromptSet = PETS, **options: object) -> Scored:
    return score(IMAGES, FEATURES, prompts, family="softmax", logit_scale=10.0, top_k=4, **options)  # type: ignore[arg-type]


def by_class(found: Scored) -> np.ndarray:
    out = np.zeros((len(IMAGES), 4))
    np.put_along_axis(out, found.top_index, found.top_score, axis=1)
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_a_blend_is_the_product_of_both_and_classes_without_a_probe_keep_their_share() -> None:
    one = probe("db")
    zero = softmax(10 * IMAGES.astype(np.float64) @ TEXTS.T / 2)
    new = zero.copy()
    new[:, [3, 1]] = softmax(IMAGES @ one.weights.T + one.bias) * zero[:, [3, 1]].sum(axis=1, keepdims=True)
    wanted = zero**0.6 * new**0.4
    np.testing.assert_allclose(
        by_class(scored(probe=one)), wanted / wanted.sum(axis=1, keepdims=True), atol=2e-6
    )
    nothing = probe("abcd", blend=0.0, temperature=1.0)
    np.testing.assert_allclose(by_class(scored(probe=nothing)), by_class(scored()), atol=1e-6)


def test_labels_of_a_multi_set_are_blended_each_by_itself() -> None:
    one = probe("c", task="multi")
    multi = PromptSet(name="pets", task="multi", labels=PETS.labels)
    found = score(
        IMAGES, FEATURES, multi, family="sigmoid", logit_scale=10.0, logit_bias=-1.0, top_k=4, probe=one
    )
    logits = (10 * IMAGES.astype(np.float64) @ TEXTS.T - 1) / 2
    logits[:, 2] = 0.6 * logits[:, 2] + 0.4 * (IMAGES @ one.weights[0] + one.bias[0])
    np.testing.assert_allclose(by_class(found), 1 / (1 + np.exp(-logits)), atol=2e-6)


def test_a_temperature_changes_what_is_calibrated_and_no_label() -> None:
    plain, cooled = scored(), scored(temperature=3.0)
    assert np.isnan(plain.calibrated).all()
    for name in ("label", "score", "margin", "top_score"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(cooled, name))
    wanted = softmax(10 * IMAGES.astype(np.float64) @ TEXTS.T / 3)
    np.testing.assert_allclose(cooled.calibrated, wanted[np.arange(50), plain.label], atol=1e-6)
    with pytest.raises(RequestError, match="temperature is 0"):
        scored(temperature=0.0)


def test_a_stored_probe_is_the_same_probe() -> None:
    one = probe("db")
    again = parse_probe(one.to_json())
    assert again.hash == one.hash != probe("bd").hash
    np.testing.assert_array_equal(again.weights, one.weights)
    assert (again.classes, again.blend, again.base) == (one.classes, one.blend, one.base)
    with pytest.raises(ContractError, match="knows the class 'd'"):
        one.blended(IMAGES, np.zeros((50, 3), np.float32), ["a", "b", "c"])
    np.testing.assert_allclose(np.exp(log_softmax(np.zeros((1, 4)))), 0.25)
