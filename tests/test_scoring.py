"""Scoring: probabilities as torch has them, thresholds, hierarchy, multi-label, invariances, and the rows."""

from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from clip_transforms.elements import ContractError, RequestError
from clip_transforms.encoders.base import Float32
from clip_transforms.label_rows import labels_table
from clip_transforms.probabilities import largest
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.score_rules import DECISIONS, REASONS
from clip_transforms.scoring import Scored, score
from clip_transforms.text_features import TextFeatures
from schemas.labels import LABELS


def unit(rows: int, dim: int = 16, seed: int = 0) -> Float32:
    found = np.random.default_rng(seed).standard_normal((rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def made(*labels: Label | str, **options: object) -> PromptSet:
    found = tuple(Label(id=label) if isinstance(label, str) else label for label in labels)
    return PromptSet(name="x", labels=found, **options)  # type: ignore[arg-type]


def features(prompts: PromptSet, matrix: Float32 | None = None, seed: int = 1) -> TextFeatures:
    keys = tuple(prompts.prompts_by_class())
    matrix = unit(len(keys), seed=seed) if matrix is None else matrix
    return TextFeatures(keys=keys, matrix=matrix, texts=(1,) * len(keys), fingerprint="f", encoder="e")


def from_probabilities(prompts: PromptSet, rows: list[list[float]], **options: object) -> Scored:
    """Score rows whose softmax probabilities are these, in the order of the set's classes."""
    logits = np.log(np.array(rows, np.float64))
    logits -= logits.mean(axis=1, keepdims=True)
    scale = 2 * float(np.abs(logits).max()) * len(rows[0]) + 1
    cosine = logits / scale
    rest = np.sqrt(1 - (cosine**2).sum(axis=1, keepdims=True))
    count = len(prompts.classes)
    texts = np.eye(count, count + 1, dtype=np.float32)  # the last dimension only fills the norm up
    embeddings = np.concatenate([cosine, rest], axis=1).astype(np.float32)
    found = features(prompts, texts)
    return score(embeddings, found, prompts, family="softmax", logit_scale=scale, **options)  # type: ignore[arg-type]


def table(scored: Scored) -> pa.Table:
    ids = [f"id{row}" for row in range(len(scored.score))]
    return labels_table(
        scored,
        image_id=ids,
        uri=[f"/{name}.jpg" for name in ids],
        prompt_set="x@01234567",
        fingerprint="f",
        encoder="fake",
        run_id="r",
        created_at=datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc),
    )


def rows(scored: Scored) -> list[dict[str, object]]:
    found = table(scored)
    found.validate(full=True)
    return list(found.to_pylist())


def test_softmax_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    prompts = made(*(f"c{number:02}" for number in range(40)), none=("x",))
    images, texts = unit(64), features(prompts)
    found = score(images, texts, prompts, family="softmax", logit_scale=100.0, logit_bias=3.0, top_k=41)
    expected = (100.0 * torch.from_numpy(images) @ torch.from_numpy(texts.matrix).T).softmax(-1).numpy()
    again = np.take_along_axis(expected, found.top_index, axis=1)
    np.testing.assert_allclose(found.top_score, again, atol=1e-5)
    np.testing.assert_array_equal(found.top_index[:, 0], expected.argmax(axis=1))
    np.testing.assert_allclose(found.margin, again[:, 0] - again[:, 1], atol=1e-5)
    entropy = -(expected * np.log(np.maximum(expected, 1e-38))).sum(axis=1) / np.log(41)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    cosine = np.take_along_axis(images @ texts.matrix.T, found.top_index, axis=1)
    np.testing.assert_allclose(found.top_cosine, cosine, atol=1e-6)
    np.testing.assert_array_equal(found.cosine, found.top_cosine[:, 0])


@pytest.mark.parametrize("task", ["single", "multi"])
def test_sigmoid_equals_torch(task: str) -> None:
    torch = pytest.importorskip("torch")
    prompts = made(*(f"c{number:02}" for number in range(40)), task=task)
    images, texts = unit(64), features(prompts)
    found = score(images, texts, prompts, family="sigmoid", logit_scale=112.0, logit_bias=-12.9, top_k=40)
    logits = 112.0 * torch.from_numpy(images) @ torch.from_numpy(texts.matrix[:40]).T - 12.9
    expected = torch.sigmoid(logits).numpy()
    np.testing.assert_allclose(
        found.top_score, np.take_along_axis(expected, found.top_index, axis=1), atol=1e-5
    )
    np.testing.assert_array_equal(found.top_index[:, 0], logits.argmax(dim=1).numpy())
    if task == "single":
        share = expected.astype(np.float64) / expected.sum(axis=1, keepdims=True, dtype=np.float64)
        entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(axis=1) / np.log(40)
        np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    else:
        bits = torch.distributions.Bernoulli(logits=logits.double()).entropy().mean(dim=1) / np.log(2)
        np.testing.assert_allclose(found.entropy, bits.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.margin, np.abs(expected - 0.5).min(axis=1), atol=1e-5)


def test_multi_with_a_softmax_model_is_two_way() -> None:
    prompts = made("a", Label(id="b", negatives=("not b",)), Label(id="c", threshold=0.9), task="multi")
    texts = features(prompts)
    assert texts.keys == ("a", "b", "c", "__negatives__", "__negatives__:b")
    images = unit(50)
    found = score(images, texts, prompts, family="softmax", logit_scale=10.0, logit_bias=5.0, top_k=3)
    cosine = images.astype(np.float64) @ texts.matrix.astype(np.float64).T
    against = cosine[:, [3, 4, 3]]
    powers = np.exp(10 * cosine[:, :3])
    expected = powers / (powers + np.exp(10 * against))
    np.testing.assert_allclose(
        found.top_score, np.take_along_axis(expected, found.top_index, axis=1), atol=1e-6
    )
    limits = np.array([0.5, 0.5, 0.9])
    for row, out in zip(expected, rows(found), strict=True):
        hits = [number for number in np.argsort(-row) if row[number] >= limits[number]]
        assert out["labels"] == ["abc"[number] for number in hits]
        assert out["label"] is None and out["path"] is None
        assert out["score"] == pytest.approx(row.max(), abs=1e-6)
        assert out["margin"] == pytest.approx(np.abs(row - limits).min(), abs=1e-6)
        assert (out["decision"], out["decision_reason"]) == (
            ("review", "uncalibrated") if hits else ("abstain", "below_threshold")
        )
    assert {len(out["labels"]) for out in rows(found)} >= {0, 1, 2}  # type: ignore[arg-type]


def test_the_sets_none_is_the_negative_of_labels_without_their_own() -> None:
    prompts = made("a", Label(id="b", negatives=("not b",)), task="multi", none=("nothing",))
    texts = features(prompts)
    assert texts.keys == ("a", "b", "__none__", "__negatives__:b")
    images = unit(5)
    found = score(images, texts, prompts, family="softmax", logit_scale=10.0)
    cosine = images @ texts.matrix.T
    expected = 1 / (1 + np.exp(-10 * (cosine[:, :2] - cosine[:, 2:])))
    np.testing.assert_allclose(found.score, expected.max(axis=1), atol=1e-6)
    assert found.rules.classes == ("a", "b")


def test_a_label_below_its_threshold_is_null() -> None:
    prompts = made("a", Label(id="b", threshold=0.75), "c", threshold=0.5)
    out = rows(
        from_probabilities(prompts, [[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.05, 0.8, 0.15], [0.4, 0.3, 0.3]])
    )
    assert [row["label"] for row in out] == ["a", None, "b", None]
    assert [row["decision"] for row in out] == ["review", "abstain", "review", "abstain"]
    assert [row["decision_reason"] for row in out] == ["uncalibrated", "below_threshold"] * 2
    assert [round(float(str(row["score"])), 4) for row in out] == [0.6, 0.7, 0.8, 0.4]
    assert [round(float(str(row["margin"])), 4) for row in out] == [0.3, 0.5, 0.65, 0.1]
    assert all(row["labels"] is None and row["path"] is None and row["calibrated"] is None for row in out)


def test_a_score_at_the_threshold_passes() -> None:
    out = rows(from_probabilities(made("a", "b", threshold=0.5), [[0.5, 0.5]]))
    assert (out[0]["label"], out[0]["score"]) == ("a", 0.5)


TREE = made(
    Label(id="animal", group=True),
    Label(id="bird", group=True, parent="animal", threshold=0.7),
    Label(id="owl", parent="bird"),
    Label(id="gull", parent="bird"),
    Label(id="fish", parent="animal"),
    "car",
    none=("a wall",),
    threshold=0.6,
)


def test_a_hierarchy_backs_off_to_the_deepest_group_that_passes() -> None:
    assert TREE.classes == ("car", "fish", "gull", "owl", "__none__")
    out = rows(
        from_probabilities(
            TREE,
            [
                [0.05, 0.05, 0.10, 0.75, 0.05],  # the leaf itself
                [0.05, 0.10, 0.35, 0.45, 0.05],  # owl fails, bird 0.80
                [0.10, 0.20, 0.30, 0.35, 0.05],  # bird 0.65 fails, animal 0.85
                [0.28, 0.17, 0.10, 0.35, 0.10],  # animal 0.62, just above
                [0.45, 0.25, 0.10, 0.10, 0.10],  # the best leaf has no group
                [0.05, 0.05, 0.05, 0.05, 0.80],  # none of these
                [0.10, 0.10, 0.20, 0.20, 0.40],  # __none__ below its threshold: no group is above it
            ],
        )
    )
    assert [row["label"] for row in out] == ["owl", "bird", "animal", "animal", None, "__none__", None]
    assert [row["path"] for row in out] == [
        ["animal", "bird", "owl"],
        ["animal", "bird"],
        ["animal"],
        ["animal"],
        None,
        ["__none__"],
        None,
    ]
    assert [row["decision_reason"] for row in out] == [
        "uncalibrated",
        "backed_off",
        "backed_off",
        "backed_off",
        "below_threshold",
        "none_of_these",
        "below_threshold",
    ]
    scores = [float(str(row["score"])) for row in out]
    np.testing.assert_allclose(scores, [0.75, 0.8, 0.85, 0.62, 0.45, 0.8, 0.4], atol=1e-5)
    assert all(row["cosine"] == row["top_k"][0]["cosine"] for row in out)  # type: ignore[index]
    assert {entry["label"] for row in out for entry in row["top_k"]} == set(TREE.classes)  # type: ignore[attr-defined]


def test_a_groups_probability_is_at_most_one_with_a_sigmoid_model() -> None:
    prompts = made(Label(id="g", group=True), *(Label(id=c, parent="g", threshold=1.0) for c in "abc"))
    images = np.float32([[1, 0]])
    texts = features(prompts, np.float32([[1, 0], [1, 0], [1, 0]]))
    out = rows(score(images, texts, prompts, family="sigmoid", logit_scale=10.0, logit_bias=-8.0))
    assert (out[0]["label"], out[0]["score"]) == ("g", 1.0)
    assert out[0]["entropy"] == pytest.approx(1.0)


def test_accept_thresholds() -> None:
    probabilities = [[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]]
    prompts = made("a", "b", none=("x",), threshold=0.5)
    out = rows(from_probabilities(prompts, probabilities, accept={"a": 0.7, "__none__": 0.75}))
    assert [(row["decision"], row["decision_reason"]) for row in out] == [
        ("auto_accept", "accepted"),
        ("review", "below_accept_threshold"),
        ("review", "no_accept_threshold"),
        ("auto_accept", "accepted"),
        ("abstain", "below_threshold"),
    ]
    with pytest.raises(RequestError, match="accept threshold for 'z', which 'x' does not have"):
        from_probabilities(prompts, probabilities, accept={"z": 0.5})
    with pytest.raises(RequestError, match="accept thresholds are for single-label sets"):
        multi = made("a", task="multi")
        score(unit(1), features(multi), multi, family="sigmoid", logit_scale=1.0, accept={"a": 0.5})


CASES = [
    (made(*"abcdefg", none=("x",), threshold=0.3), "softmax"),
    (made(*"abcdefg"), "sigmoid"),
    (made(*"abcdefg", task="multi"), "softmax"),
    (made(*"abcdefg", task="multi"), "sigmoid"),
    (TREE, "softmax"),
    (made("only"), "softmax"),
    (made("only"), "sigmoid"),
    (made("only", task="multi"), "softmax"),
]


@pytest.mark.parametrize(("prompts", "family"), CASES)
def test_rows_and_how_they_are_split_change_nothing(
    prompts: PromptSet, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = unit(200, 64), features(prompts, unit(len(prompts.prompts_by_class()), 64, seed=1))
    options = {"family": family, "logit_scale": 30.0, "logit_bias": -5.0}
    whole = table(score(images, texts, prompts, **options))  # type: ignore[arg-type]
    keep = [name for name in LABELS.names if name not in ("image_id", "uri")]
    for step in (1, 7, 64):
        parts = [
            table(score(images[at : at + step], texts, prompts, **options)) for at in range(0, 200, step)
        ]  # type: ignore[arg-type]
        assert pa.concat_tables(parts).select(keep).to_pylist() == whole.select(keep).to_pylist()
    order = np.random.default_rng(2).permutation(200)
    mixed = table(score(images[order], texts, prompts, **options))  # type: ignore[arg-type]
    assert mixed.select(keep).to_pylist() == whole.take(pa.array(order)).select(keep).to_pylist()
    monkeypatch.setattr("clip_transforms.scoring._CHUNK", 1)
    monkeypatch.setattr("clip_transforms.scoring._MIN_ROWS", 3)
    assert table(score(images, texts, prompts, **options)).to_pylist() == whole.to_pylist()  # type: ignore[arg-type]


@pytest.mark.parametrize(("prompts", "family"), CASES[:5])
def test_the_order_of_labels_and_features_changes_nothing(prompts: PromptSet, family: str) -> None:
    turned = PromptSet(
        name="x",
        labels=prompts.labels[::-1],
        task=prompts.task,
        none=prompts.none,
        threshold=prompts.threshold,
    )
    texts = features(prompts)
    mixed = TextFeatures(
        keys=texts.keys[::-1], matrix=texts.matrix[::-1], texts=texts.texts, fingerprint="f", encoder="e"
    )
    options = {"family": family, "logit_scale": 30.0, "logit_bias": -5.0}
    first = rows(score(unit(50), texts, prompts, **options))  # type: ignore[arg-type]
    assert rows(score(unit(50), mixed, turned, **options)) == first  # type: ignore[arg-type]


def test_ties_go_to_the_first_class_by_id() -> None:
    prompts = made("c", "b", "a", none=("x",))
    texts = features(prompts, np.float32([[1, 0]] * 4))
    found = score(np.float32([[1, 0]]), texts, prompts, family="softmax", logit_scale=100.0, top_k=4)
    assert [entry["label"] for entry in rows(found)[0]["top_k"]] == ["a", "b", "c", "__none__"]  # type: ignore[attr-defined]
    assert (found.margin[0], found.entropy[0]) == (0.0, 1.0)


@pytest.mark.parametrize("count", [1, 5, 32, 33, 60])
def test_the_largest_are_those_of_a_stable_sort(count: int) -> None:
    values = np.random.default_rng(0).integers(0, 9, (50, 60)).astype(np.float32)
    np.testing.assert_array_equal(
        largest(values, count), np.argsort(-values, axis=1, kind="stable")[:, :count]
    )


@pytest.mark.parametrize(("prompts", "family"), CASES)
def test_no_rows(prompts: PromptSet, family: str) -> None:
    found = table(score(unit(0), features(prompts), prompts, family=family, logit_scale=30.0))  # type: ignore[arg-type]
    assert found.num_rows == 0 and found.schema == LABELS


def test_one_class() -> None:
    only = made("only")
    texts = features(only, np.float32([[1, 0]]))
    found = score(np.float32([[0, 1]]), texts, only, family="softmax", logit_scale=100.0)
    assert (found.score[0], found.margin[0], found.entropy[0], found.cosine[0]) == (1.0, 1.0, 0.0, 0.0)
    found = score(np.float32([[0, 1]]), texts, only, family="sigmoid", logit_scale=100.0)
    assert (found.score[0], found.margin[0], found.entropy[0]) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize(("prompts", "family"), CASES)
@pytest.mark.parametrize(("scale", "bias"), [(1e6, 0.0), (1e6, -1e6), (1e6, 1e6), (1e-9, 0.0), (1.0, -500.0)])
def test_never_nan_and_always_in_range(prompts: PromptSet, family: str, scale: float, bias: float) -> None:
    size = len(prompts.prompts_by_class())
    images = np.concatenate([np.eye(size, dtype=np.float32), -np.eye(size, dtype=np.float32), unit(20, size)])
    texts = features(prompts, np.eye(size, dtype=np.float32))
    found = score(images, texts, prompts, family=family, logit_scale=scale, logit_bias=bias)  # type: ignore[arg-type]
    for values in (found.score, found.margin, found.entropy, found.top_score):
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    assert np.abs(found.top_cosine).max() <= 1
    assert (np.diff(found.top_score, axis=1) <= 0).all()


def test_the_rows_have_the_schema_and_the_values() -> None:
    prompts = made("a", "b", "c")
    found = table(from_probabilities(prompts, [[0.2, 0.5, 0.3]], top_k=2))
    found.validate(full=True)
    assert found.schema == LABELS
    row = found.to_pylist()[0]
    assert {
        key: row[key]
        for key in ("image_id", "uri", "label", "prompt_set", "fingerprint", "encoder", "run_id")
    } == {
        "image_id": "id0",
        "uri": "/id0.jpg",
        "label": "b",
        "prompt_set": "x@01234567",
        "fingerprint": "f",
        "encoder": "fake",
        "run_id": "r",
    }
    assert row["created_at"] == datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
    assert [entry["label"] for entry in row["top_k"]] == ["b", "c"]
    assert [entry["score"] for entry in row["top_k"]] == pytest.approx([0.5, 0.3], abs=1e-5)
    assert row["top_k"][0]["cosine"] == row["cosine"] and row["top_k"][0]["score"] == row["score"]


def test_calibrated_values_are_written() -> None:
    scored = from_probabilities(made("a", "b"), [[0.7, 0.3], [0.4, 0.6]])
    scored = replace(scored, calibrated=np.float32([0.25, np.nan]))
    stamp = datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
    found = labels_table(
        scored,
        image_id=pa.chunked_array([["i"], ["j"]]),
        uri=pa.array(["u", "v"]).dictionary_encode(),
        prompt_set="x@1",
        fingerprint="f",
        encoder="e",
        run_id="r",
        created_at=stamp,
    )
    assert found["calibrated"].to_pylist() == [0.25, None]
    assert found["image_id"].to_pylist() == ["i", "j"] and found["uri"].to_pylist() == ["u", "v"]
    with pytest.raises(ContractError, match="2 scored rows, 1 image ids and 2 uris"):
        labels_table(
            scored,
            image_id=["i"],
            uri=["u", "v"],
            prompt_set="x@1",
            fingerprint="f",
            encoder="e",
            run_id="r",
            created_at=stamp,
        )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, "top_k is 0, expected 1 or more"),
        ({"family": "tanh"}, "the model family is 'tanh', expected 'softmax' or 'sigmoid'"),
        ({"logit_scale": 0.0}, "logit_scale 0.0 and logit_bias 0.0, expected a scale above 0"),
        ({"logit_scale": float("nan")}, "logit_scale nan"),
        ({"logit_bias": float("inf")}, "logit_bias inf"),
    ],
)
def test_options_out_of_range(options: dict[str, object], expected: str) -> None:
    prompts = made("a", "b")
    with pytest.raises(RequestError, match=expected):
        score(unit(1), features(prompts), prompts, **{"family": "softmax", "logit_scale": 1.0, **options})  # type: ignore[arg-type]


def test_embeddings_that_do_not_fit() -> None:
    prompts = made("a", "b")
    for bad in (np.float32(np.nan), np.float32(2), np.float32(0)):
        images = unit(3)
        images[1] *= bad
        with pytest.raises(
            ContractError, match=r"the embedding of row 1 has norm .*, expected 1 \(1 such rows\)"
        ):
            score(images, features(prompts), prompts, family="softmax", logit_scale=1.0)
    with pytest.raises(ContractError, match=r"shape \(3, 8\), text features of 16 dimensions"):
        score(unit(3, 8), features(prompts), prompts, family="softmax", logit_scale=1.0)
    with pytest.raises(ContractError, match="such as 'z', have no text features"):
        score(unit(3), features(prompts), made("a", "z"), family="softmax", logit_scale=1.0)
    half = score(unit(3).astype(np.float16), features(prompts), prompts, family="softmax", logit_scale=1.0)  # type: ignore[arg-type]
    assert half.score.dtype == np.float32 and len(half.score) == 3


def test_the_closed_lists() -> None:
    assert DECISIONS == ("auto_accept", "review", "abstain")
    assert set(REASONS) == {
        "below_threshold",
        "accepted",
        "backed_off",
        "none_of_these",
        "uncalibrated",
        "no_accept_threshold",
        "below_accept_threshold",
    }
