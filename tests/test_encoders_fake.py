"""The fake encoder is exact, and encoder names lead where they should, or to an error that helps."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.encoders import (
    OPENAI_ALIASES,
    Encoder,
    EncoderOutOfMemory,
    EncoderSpec,
    FakeEncoder,
    default_name,
    describe,
    load,
    resolve_name,
    resolve_precision,
)
from clip_transforms.encoders.fake import FakeOptions
from clip_transforms.encoders.names import parse_open_clip


def pixels(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_images_are_the_same_bits_in_any_batch_and_order() -> None:
    encoder, images = FakeEncoder(), pixels(20)
    whole = encoder.encode_images(images)
    assert whole.shape == (20, 32)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for size in (1, 7):
        parts = [encoder.encode_images(images[start : start + size]) for start in range(0, 20, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert encoder.encode_images(images[::-1]).tobytes() == whole[::-1].tobytes()


def test_a_small_change_of_an_image_moves_it_a_little() -> None:
    encoder, image = FakeEncoder(), pixels(1)
    near, far = image.copy(), pixels(1, seed=1)
    near[0, 0, 0, 0] ^= 1
    first, second, third = (encoder.encode_images(each)[0] for each in (image, near, far))
    assert 0 < np.abs(first - second).max() < 1e-2
    assert first @ third < 0.9


def test_known_vectors_do_not_change_between_versions() -> None:
    encoder = load(EncoderSpec(name="fake?dim=4&size=8"))
    ramp = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    np.testing.assert_allclose(encoder.encode_images(ramp)[0], IMAGE, atol=1e-7)
    np.testing.assert_allclose(encoder.encode_texts(["a cat"])[0], TEXT, atol=1e-7)


def test_black_white_and_grey_images_and_any_text_have_norm_1() -> None:
    encoder = FakeEncoder()
    flat = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 127, 128, 255)])
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_images(flat), axis=1), 1, atol=1e-6)
    texts = encoder.encode_texts(["", "a", "a\ud800"])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert encoder.encode_images(pixels(0)).shape == (0, 32)
    assert encoder.encode_texts([]).shape == (0, 32)
    assert encoder.token_counts(["a cat", ""]) == [4, 2]


def test_counters_batch_limit_and_shape() -> None:
    FakeEncoder.reset()
    encoder = load(EncoderSpec(name="fake?max_batch=4"))
    encoder.encode_images(pixels(4))
    with pytest.raises(EncoderOutOfMemory, match="5 images"):
        encoder.encode_images(pixels(5))
    encoder.encode_texts(["a", "b"])
    counters = FakeEncoder.counters()
    assert (counters.loads, counters.encode_calls, counters.images) == (1, 2, 4)
    assert (counters.out_of_memory, counters.text_calls, counters.texts) == (1, 1, 2)
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 32, 32, 3\]"):
        encoder.encode_images(pixels(1, size=40))


def test_waiting_takes_the_time_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("clip_transforms.encoders.fake.time.sleep", slept.append)
    load(EncoderSpec(name="fake?wait_ms=5&wait_image_ms=2&load_ms=100")).encode_images(pixels(10))
    assert slept == pytest.approx([0.1, 0.025])


def test_options_in_the_name() -> None:
    encoder = load(EncoderSpec(name="fake?dim=16&size=64&seed=3&family=sigmoid", precision="bf16"))
    info = describe(EncoderSpec(name="fake?dim=16&size=64&family=sigmoid"))
    assert (encoder.dim, encoder.preprocess.height, encoder.family) == (16, 64, "sigmoid")
    assert (encoder.logit_scale, encoder.logit_bias, encoder.precision) == (10.0, -10.0, "bf16")
    assert (info.dim, info.preprocess, info.family) == (encoder.dim, encoder.preprocess, encoder.family)
    assert encoder.weights_id != load(EncoderSpec(name="fake?dim=16")).weights_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fake?dmi=4", "no option 'dmi' (did you mean 'dim'?)"),
        ("fake?dim=many", "dim='many', expected int"),
        ("fake?size=30", "size must be a multiple of 8"),
        ("fake?wait_ms=nan", "waits must not be negative"),
        ("fake?family=other", "family must be one of softmax, sigmoid"),
        ("fake?dim", "expected int"),
        ("fake?&", "expected fake?OPTION=VALUE"),
        ("ViT-B/31", "did you mean 'ViT-B/32'"),
        ("clipp:ViT-B-32", "no encoder 'clipp:ViT-B-32'"),
        ("", "no encoder ''"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(EncoderSpec(name=name))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "device 'gpu': expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda"}, "fake runs on the CPU"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"threads": 0}, "threads 0: expected at least 1"),
        ({"weights": "/w"}, "has no weights"),
    ],
)
def test_wrong_fields(change: dict[str, object], message: str) -> None:
    for function in (load, describe):
        with pytest.raises(RequestError, match=message):
            function(replace(EncoderSpec(name="fake"), **change))


def test_the_fake_is_an_encoder_and_the_request_travels() -> None:
    encoder: Encoder = FakeEncoder(FakeOptions(dim=8))
    assert encoder.dim == 8
    spec = EncoderSpec(name="fake?dim=8", storage_options={"anon": True})
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_openai_names_and_defaults() -> None:
    assert len(OPENAI_ALIASES) == 9
    assert resolve_name("ViT-L/14@336px") == "open_clip:ViT-L-14-336/openai"
    assert default_name() == "beamclip-tiny"
    assert default_name(weights="/w", model_config="/m") == "open_clip:custom"
    with pytest.raises(RequestError, match="name the architecture"):
        default_name(weights="/w")


def test_precision_depends_on_the_request_alone() -> None:
    table = {"auto": "fp32", "cpu": "fp32", "cuda": "bf16", "cuda:3": "bf16"}
    assert {device: resolve_precision("auto", device=device) for device in table} == table
    assert resolve_precision("fp16", device="cuda") == "fp16"


@pytest.mark.parametrize(
    "model", ["", "RN50/", "/openai", "hf-hub:x", "hf-hub:a/b@", "local-dir:", "RN50/random-x"]
)
def test_malformed_open_clip_names(model: str) -> None:
    with pytest.raises(RequestError, match="expected"):
        parse_open_clip(model)


def test_nothing_heavy_is_imported_for_the_fake() -> None:
    code = (
        "import sys; from clip_transforms.encoders import load, EncoderSpec; load(EncoderSpec(name='fake'));"
        "print([name for name in ('torch', 'open_clip', 'fsspec', 'PIL', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


IMAGE = [-0.83934146, 0.15764314, 0.33740669, 0.39599407]
TEXT = [0.65972638, 0.27261418, 0.28897104, 0.63791722]
