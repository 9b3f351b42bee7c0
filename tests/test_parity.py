"""Our way to an embedding against open_clip's own transform and encoder by hand, with the same weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clip_transforms.encoders import Encoder, EncoderSpec, Preprocess, load
from clip_transforms.images import DecodeOptions, decode_rgb, decode_to_pixels
from tests.helpers import image_bytes, make_image
from tests.models_kit import PREPROCESS, by_hand, save_model

TOLERANCE = 1e-5
SIZES = ((48, 40), (301, 200), (64, 64), (90, 517))
#: 8-bit RGB, L, P and CMYK without alpha or EXIF, where decode_rgb is Pillow's own conversion.
PLAIN = {
    "rgb.jpg": ("RGB", "JPEG", {}),
    "grey.jpg": ("L", "JPEG", {}),
    "cmyk.jpg": ("CMYK", "JPEG", {}),
    "rgb.png": ("RGB", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "grey.png": ("L", "PNG", {}),
    "rgb.bmp": ("RGB", "BMP", {}),
    "rgb.webp": ("RGB", "WEBP", {"lossless": True}),
    "palette.gif": ("P", "GIF", {}),
    "cmyk.tif": ("CMYK", "TIFF", {}),
}
OTHER = {
    "rgba.png": ("RGBA", "PNG", {}),
    "la.png": ("LA", "PNG", {}),
    "turned.jpg": ("RGB", "JPEG", {"exif": True}),
    "deep.png": ("I;16", "PNG", {}),
    "float.tif": ("F", "TIFF", {}),
    "int.tif": ("I", "TIFF", {}),
}


@dataclass(frozen=True)
class Picture:
    name: str
    data: bytes
    plain: bool  # Image.open(...).convert("RGB") is the rule


def picture(name: str, mode: str, kind: str, options: dict[str, object], number: int) -> Picture:
    size = SIZES[number % len(SIZES)]
    if mode == "I;16":
        values = np.asarray(make_image(number, size, "L")).astype(np.uint16) * 257
        image = Image.fromarray(values)
    elif mode in ("RGBA", "LA"):
        image = make_image(number, size, mode)
        image.putalpha(make_image(number + 1000, size, "L"))
    else:
        image = make_image(number, size, mode)
    if options.get("exif"):
        exif = Image.Exif()
        exif[0x0112] = 2 + number % 7
        options = {"exif": exif}
    return Picture(f"{name} {size}", image_bytes(image, kind=kind, **options), name in PLAIN)


PICTURES = [
    picture(name, *kind, number=4 * place + step)
    for place, (name, kind) in enumerate({**PLAIN, **OTHER}.items())
    for step in range(4)
]


def test_there_are_64_pictures_of_many_kinds() -> None:
    assert len(PICTURES) == 64
    assert len({Image.open(io.BytesIO(picture.data)).mode for picture in PICTURES}) >= 8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to gain from more, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["vit", "resnet", "siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Encoder]:
    kind = request.param
    weights, config = save_model(tmp_path_factory.mktemp(kind), kind)
    return kind, load(EncoderSpec(name="open_clip:custom", weights=weights, model_config=config))


def transform_by_hand(kind: str, model: torch.nn.Module) -> object:
    options = {key: PREPROCESS[kind].get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
    return open_clip.image_transform(model.visual.image_size, is_train=False, **options)


def embed_by_hand(kind: str, images: list[Image.Image]) -> np.ndarray:
    """One image at a time, as open_clip's README does."""
    model = by_hand(kind)
    transform = transform_by_hand(kind, model)
    with torch.no_grad():
        rows = [model.encode_image(transform(image).unsqueeze(0)) for image in images]
        return torch.cat([row / row.norm(dim=-1, keepdim=True) for row in rows]).numpy()


@cache
def pixels_for(preprocess: Preprocess) -> np.ndarray:
    options = DecodeOptions(draft=False)
    return np.stack([decode_to_pixels(each.data, options, preprocess)[0] for each in PICTURES])


def ours(encoder: Encoder) -> np.ndarray:
    return pixels_for(encoder.preprocess)


def test_embeddings_equal_open_clips(pair: tuple[str, Encoder]) -> None:
    kind, encoder = pair
    found = encoder.encode_images(ours(encoder))
    images = [decode_rgb(each.data, DecodeOptions(draft=False))[0] for each in PICTURES]
    np.testing.assert_allclose(found, embed_by_hand(kind, images), rtol=0, atol=TOLERANCE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    # the pictures are told apart by far more than the tolerance, or the comparison would show nothing
    assert np.median(np.max(np.abs(found[:1] - found[1:]), axis=1)) > 500 * TOLERANCE


def test_embeddings_equal_open_clips_on_pillows_own_conversion(pair: tuple[str, Encoder]) -> None:
    kind, encoder = pair
    plain = [number for number, each in enumerate(PICTURES) if each.plain]
    images = [Image.open(io.BytesIO(PICTURES[number].data)).convert("RGB") for number in plain]
    found = encoder.encode_images(ours(encoder)[plain])
    assert len(plain) == 40
    np.testing.assert_allclose(found, embed_by_hand(kind, images), rtol=0, atol=TOLERANCE)


def test_batch_size_and_order_change_nothing(pair: tuple[str, Encoder]) -> None:
    _, encoder = pair
    pixels = ours(encoder)
    whole = encoder.encode_images(pixels)
    for size in (1, 7, 32):
        parts = [encoder.encode_images(pixels[start : start + size]) for start in range(0, 64, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=TOLERANCE)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_allclose(encoder.encode_images(pixels[order]), whole[order], rtol=0, atol=TOLERANCE)


def test_threads_change_nothing(pair: tuple[str, Encoder]) -> None:
    _, encoder = pair
    pixels = ours(encoder)[:16]
    one = encoder.encode_images(pixels)
    torch.set_num_threads(2)
    two = encoder.encode_images(pixels)
    torch.set_num_threads(1)
    np.testing.assert_allclose(two, one, rtol=0, atol=TOLERANCE)


def test_texts_scale_and_bias_equal_open_clips(pair: tuple[str, Encoder]) -> None:
    kind, encoder = pair
    texts = ["a photo of a cat", "Ein Hund", "a very long text " * 40, ""]
    model = by_hand(kind)
    length = 64 if kind == "siglip" else 77
    with torch.no_grad():
        rows = model.encode_text(open_clip.tokenize(texts, context_length=length), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(texts), rows, rtol=0, atol=TOLERANCE)
    assert encoder.context_length == length
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)
    assert (encoder.family, encoder.logit_bias) == (
        ("sigmoid", -10.0) if kind == "siglip" else ("softmax", 0.0)
    )
