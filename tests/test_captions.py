"""Captions against images: cosines, missing and long captions, and devices that run out of room."""

from __future__ import annotations

import numpy as np

from clip_transforms.captions import encode_texts, score_captions
from clip_transforms.encoders.base import EncoderOutOfMemory
from clip_transforms.encoders.fake import FakeEncoder

TEXTS = [f"caption {number}" for number in range(600)]


def images(count: int, dim: int = 32) -> np.ndarray:
    rows = np.random.default_rng(3).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_each_score_is_the_cosine_of_its_own_pair() -> None:
    encoder, rows = FakeEncoder(), images(600)
    found = score_captions(TEXTS, rows, encoder)
    texts = encoder.encode_texts(TEXTS)
    expected = [np.dot(a.astype(float), b.astype(float)) for a, b in zip(rows, texts, strict=True)]
    np.testing.assert_allclose(found.similarity, expected, atol=1e-7)
    np.testing.assert_array_equal(found.vectors, texts)
    assert found.similarity.dtype == np.float32 and not found.truncated.any()


def test_rows_do_not_depend_on_how_they_are_split() -> None:
    encoder, rows = FakeEncoder(), images(600)
    whole = score_captions(TEXTS, rows, encoder).similarity
    parts = [
        score_captions(TEXTS[at : at + 7], rows[at : at + 7], encoder).similarity for at in range(0, 600, 7)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_what_says_nothing_has_no_score_and_what_is_too_long_is_flagged() -> None:
    captions = [None, "", "\n ", "short", "word " * 80]
    FakeEncoder.reset()
    found = score_captions(captions, images(5), FakeEncoder())
    assert np.isnan(found.similarity).tolist() == [True, True, True, False, False]
    assert found.given.tolist() == [False, False, False, True, True]
    assert found.truncated.tolist() == [False, False, False, False, True]
    assert not found.vectors[:3].any()
    assert FakeEncoder.counters().texts == 2


def test_a_text_is_over_the_context_only_beyond_its_last_token() -> None:
    encoder = FakeEncoder()  # start, end, and a token a word
    fits, over = "a " * (encoder.context_length - 2), "a " * (encoder.context_length - 1)
    assert score_captions([fits, over], images(2), encoder).truncated.tolist() == [False, True]


def test_texts_that_do_not_fit_the_device_are_halved() -> None:
    class Small(FakeEncoder):
        def encode_texts(self, texts):
            if len(texts) > 5:
                raise EncoderOutOfMemory(f"{len(texts)} texts")
            return super().encode_texts(texts)

    np.testing.assert_array_equal(encode_texts(TEXTS, Small()), FakeEncoder().encode_texts(TEXTS))
