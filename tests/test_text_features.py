"""Text features: the ensemble's mean, batches, missing memory, and the file form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from clip_transforms.elements import ContractError
from clip_transforms.encoders import EncoderOutOfMemory, FakeEncoder
from clip_transforms.encoders.base import Float32
from clip_transforms.prompts import Label, PromptSet, load_prompt_set
from clip_transforms.text_features import (
    TextFeatures,
    dump_text_features,
    load_text_features,
    text_features,
    text_fingerprint,
)


def pets(**options: object) -> PromptSet:
    labels = (Label(id="dog", synonyms=("puppy",)), Label(id="cat", prompts=("a tabby",)))
    return PromptSet(**{"name": "pets", "labels": labels, "templates": ("a {}", "the {}"), **options})  # type: ignore[arg-type]


class Small(FakeEncoder):
    """A fake that holds `room` texts, and notes the sizes of the batches it was given."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        self.sizes.append(len(texts))
        if len(texts) > self.room:
            raise EncoderOutOfMemory(f"{len(texts)} texts")
        return super().encode_texts(texts)


def test_a_class_is_the_normalised_mean_of_its_texts() -> None:
    encoder = FakeEncoder()
    found = text_features(pets(), encoder)
    assert found.keys == ("cat", "dog")
    assert found.texts == (3, 4)
    for key, texts in pets().prompts_by_class().items():
        mean = encoder.encode_texts(texts).astype(np.float64).mean(axis=0)
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(found.rows((key,))[0], expected, atol=1e-7)
    assert found.matrix.dtype == np.float32 and found.matrix.shape == (2, encoder.dim)


def test_as_open_clip_builds_its_zero_shot_classifier() -> None:
    torch = pytest.importorskip("torch")
    templates = load_prompt_set("everyday").templates
    encoder = FakeEncoder()
    vectors = torch.from_numpy(encoder.encode_texts([text.replace("{}", "dog") for text in templates]))
    mean = torch.nn.functional.normalize(vectors, dim=-1).mean(dim=0)  # zero_shot_classifier.py
    found = text_features(PromptSet(name="x", labels=(Label(id="dog"),), templates=templates), encoder)
    np.testing.assert_allclose(found.matrix[0], (mean / mean.norm()).numpy(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_batches_change_nothing(batch_size: int) -> None:
    whole = text_features(load_prompt_set("animals"), FakeEncoder())
    found = text_features(load_prompt_set("animals"), FakeEncoder(), batch_size=batch_size)
    np.testing.assert_array_equal(found.matrix, whole.matrix)


def test_the_order_of_labels_changes_nothing() -> None:
    turned = pets(labels=tuple(reversed(pets().labels)))
    first, second = text_features(pets(), FakeEncoder()), text_features(turned, FakeEncoder())
    assert first.keys == second.keys and first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_a_batch_is_halved_where_there_is_no_room() -> None:
    encoder = Small(2)
    found = text_features(pets(), encoder, batch_size=16)
    assert encoder.sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(found.matrix, text_features(pets(), FakeEncoder()).matrix)
    with pytest.raises(EncoderOutOfMemory):
        text_features(pets(), Small(0))


def test_vectors_that_are_not_finite_are_an_error() -> None:
    class Broken(FakeEncoder):
        def encode_texts(self, texts: Sequence[str]) -> Float32:
            return super().encode_texts(texts) * np.float32(np.nan)

    with pytest.raises(ContractError, match="no text feature for the class 'cat'"):
        text_features(pets(), Broken())


def test_the_file_gives_back_what_went_in() -> None:
    found = text_features(pets(none=("a wall",)), FakeEncoder())
    data = dump_text_features(found)
    assert data == dump_text_features(found)
    again = load_text_features(data, fingerprint=found.fingerprint)
    assert (again.keys, again.texts, again.encoder) == (("cat", "dog", "__none__"), (3, 4, 1), "fake")
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.matrix, found.matrix)
    assert again.matrix.dtype == np.float32


def test_a_wrong_file_is_an_error() -> None:
    data = dump_text_features(text_features(pets(), FakeEncoder()))
    with pytest.raises(ContractError, match="of another set or encoder: expected 00000000, found"):
        load_text_features(data, fingerprint="0" * 64)
    for broken in (b"", b"nonsense", data[:100], data[: len(data) // 2]):
        with pytest.raises(ContractError, match="not a file of text features"):
            load_text_features(broken)


def test_the_fingerprint_is_of_texts_and_encoder() -> None:
    base = text_fingerprint(pets(), FakeEncoder())
    other = FakeEncoder()
    other.weights_id = "other"
    precise = FakeEncoder(precision="bf16")
    assert text_fingerprint(pets(threshold=0.5), FakeEncoder()) == base
    assert text_fingerprint(pets(name="other"), FakeEncoder()) == base
    assert len({base, text_fingerprint(pets(), other), text_fingerprint(pets(), precise)}) == 3
    assert text_fingerprint(pets(none=("a wall",)), FakeEncoder()) != base


def test_a_missing_class_is_an_error() -> None:
    found = TextFeatures(
        keys=("a",), matrix=np.ones((1, 1), np.float32), texts=(1,), fingerprint="x", encoder="fake"
    )
    with pytest.raises(ContractError, match="1 classes, such as 'b', have no text features"):
        found.rows(("a", "b"))
