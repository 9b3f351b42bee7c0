"""The shipped sample images: what is there, that the script draws them, and that a prompt set names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import clip_transforms
from benchmarks.tiny.draw_samples import SUBJECTS, draw_all
from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.encoders.open_clip_source import BUILT_IN_FOLDER
from clip_transforms.images import DecodeOptions, decode_to_pixels
from clip_transforms.prompts import load_prompt_set
from clip_transforms.text_features import text_features

SAMPLES = (
    Path(clip_transforms.__file__).parent / "samples"
    if clip_transforms.__file__
    else Path("clip_transforms/samples")
)


def test_there_are_two_pictures_of_each_thing_and_they_are_small() -> None:
    paths = sorted(SAMPLES.glob("*.png"))
    assert [path.name for path in paths] == sorted(
        f"{name}-{style}.png" for name in SUBJECTS for style in ("flat", "ink")
    )
    assert len(paths) == 36
    assert sum(path.stat().st_size for path in paths) < 400_000
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (192, 192)


def test_the_prompt_set_names_what_they_show() -> None:
    prompts = load_prompt_set("samples")
    assert [label.id for label in prompts.labels] == list(SUBJECTS)


@pytest.mark.slow
def test_the_script_draws_the_shipped_pictures(tmp_path: Path) -> None:
    drawn = draw_all(tmp_path)
    for path in drawn:
        with Image.open(path) as new, Image.open(SAMPLES / path.name) as shipped:
            difference = np.asarray(new.convert("RGB"), float) - np.asarray(shipped.convert("RGB"), float)
        # Another version of Pillow may choose another palette colour or edge pixel, but draws no other thing.
        assert np.abs(difference).mean() < 2, path.name


def test_the_embedded_model_labels_at_least_85_percent_right() -> None:
    encoder = load(EncoderSpec(name="beamclip-tiny", device="cpu"))
    prompts = load_prompt_set("samples")
    texts = text_features(prompts, encoder).rows(prompts.classes)
    paths = sorted(SAMPLES.glob("*.png"))
    pixels = [decode_to_pixels(path.read_bytes(), DecodeOptions(), encoder.preprocess)[0] for path in paths]
    named = (encoder.encode_images(np.stack(pixels)) @ texts.T).argmax(axis=1)
    truth = [path.stem.rsplit("-", 1)[0] for path in paths]
    right = sum(prompts.classes[place] == name for place, name in zip(named, truth, strict=True))
    assert right / len(paths) >= 0.85


def test_the_embedded_weights_are_small_and_half_precision() -> None:
    weights = BUILT_IN_FOLDER / "model.safetensors"
    assert weights.stat().st_size < 32_000_000
    kinds = {str(tensor.dtype) for tensor in load_file(weights).values() if tensor.is_floating_point()}
    assert kinds == {"torch.float16"}
