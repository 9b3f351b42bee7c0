"""The open_clip backend: names, configurations, checkpoints, tokenizers, devices, and its errors."""

from __future__ import annotations

import json
import logging
import uuid
import warnings
from copy import deepcopy
from pathlib import Path

import fsspec
import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED

from clip_transforms.elements import RequestError
from clip_transforms.encoders import EncoderOutOfMemory, EncoderSpec, describe, load
from clip_transforms.encoders import open_clip_source as sources
from clip_transforms.encoders.open_clip_backend import OpenClipEncoder, pick_precision
from clip_transforms.encoders.open_clip_source import find_model
from tests.models_kit import MODELS, PREPROCESS, VIT, by_hand, save_model

CUSTOM = "open_clip:custom"


def pixels(encoder: OpenClipEncoder, count: int = 3) -> np.ndarray:
    shape = (count, encoder.preprocess.height, encoder.preprocess.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def load_custom(folder: Path, kind: str = "vit", **options: object) -> OpenClipEncoder:
    weights, config = save_model(folder, kind)
    return load(EncoderSpec(name=CUSTOM, weights=weights, model_config=config, **options))


@pytest.fixture
def random_vit(tmp_path: Path) -> EncoderSpec:
    (tmp_path / "vit.json").write_text(json.dumps(VIT))
    return EncoderSpec(name="open_clip:small/random-3", model_config=str(tmp_path / "vit.json"))


def test_random_weights_depend_on_the_seed_alone(random_vit: EncoderSpec, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load(random_vit)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = load(random_vit)
    third = load(EncoderSpec(name="open_clip:small/random-4", model_config=random_vit.model_config))
    images = pixels(first)
    np.testing.assert_array_equal(first.encode_images(images), second.encode_images(images))
    assert np.abs(first.encode_images(images) - third.encode_images(images)).max() > 0.01
    assert (first.weights_id, third.weights_id) == ("random-3", "random-4")
    assert first.name == "open_clip:small/random-3"


def test_a_model_is_for_inference_and_leaves_the_root_logger_alone(random_vit: EncoderSpec) -> None:
    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(root.filters)
    encoder = load(random_vit)
    assert (list(root.handlers), list(root.filters)) == (handlers, filters)
    assert not any(module.training for module in encoder.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert open_clip.get_model_config("small") is None  # nothing was registered


def test_weights_id_is_the_files_hash_and_a_spec_is_described_without_it(tmp_path: Path) -> None:
    weights, config = save_model(tmp_path, "siglip")
    encoder = load(EncoderSpec(name=CUSTOM, weights=weights, model_config=config))
    info = describe(EncoderSpec(name=CUSTOM, weights="/not/there", model_config=config))
    assert len(encoder.weights_id) == 64
    assert (info.dim, info.preprocess, info.context_length) == (encoder.dim, encoder.preprocess, 64)
    assert (info.family, encoder.family) == ("sigmoid", "sigmoid")
    assert info.parameters == sum(parameter.numel() for parameter in encoder.model.parameters())


def checkpoint(folder: Path, form: str) -> str:
    state = by_hand("vit").state_dict()
    path = folder / f"{form}.pt"
    content = {
        "plain": state,
        "nested": {"epoch": 3, "state_dict": state},
        "module": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    }[form]
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("form", ["plain", "nested", "module"])
def test_state_dicts_of_every_form(form: str, tmp_path: Path) -> None:
    _, config = save_model(tmp_path, "vit", nested=False)
    expected = load_custom(tmp_path / "safetensors")
    found = load(EncoderSpec(name=CUSTOM, weights=checkpoint(tmp_path, form), model_config=config))
    images = pixels(found)
    np.testing.assert_array_equal(found.encode_images(images), expected.encode_images(images))


def test_weights_and_configuration_from_a_store(tmp_path: Path, cache: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    weights, config = save_model(tmp_path, "vit")
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{folder}/v", Path(weights).read_bytes())  # no suffix: the bytes tell
    memory.pipe_file(f"{folder}/v.json", Path(config).read_bytes())
    found = load(EncoderSpec(name=CUSTOM, weights=f"{folder}/v", model_config=f"{folder}/v.json"))
    local = load(EncoderSpec(name=CUSTOM, weights=weights, model_config=config))
    assert found.weights_id == local.weights_id
    images = pixels(found)
    np.testing.assert_array_equal(found.encode_images(images), local.encode_images(images))
    assert len(list((cache / "weights").glob("*-v"))) == 1


@pytest.mark.parametrize("remote", [False, True])
def test_a_local_dir_model(remote: bool, tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}" if remote else str(tmp_path / "model")
    weights, _ = save_model(tmp_path, "resnet")
    fs, path = fsspec.url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    config = {"model_cfg": MODELS["resnet"], "preprocess_cfg": PREPROCESS["resnet"]}
    fs.pipe_file(f"{path}/open_clip_config.json", json.dumps(config).encode())
    fs.pipe_file(f"{path}/open_clip_model.safetensors", Path(weights).read_bytes())
    encoder = load(EncoderSpec(name=f"open_clip:local-dir:{folder}"))
    assert encoder.preprocess.resize_mode == "longest"
    assert encoder.preprocess.mean == (0.5, 0.4, 0.3)
    fs.rm(f"{path}/open_clip_config.json")
    with pytest.raises(RequestError, match=r"has no open_clip_config\.json"):
        load(EncoderSpec(name=f"open_clip:local-dir:{folder}"))


def test_a_bare_checkpoint_has_the_architectures_preprocessing_and_activation() -> None:
    bare = find_model(EncoderSpec(name="open_clip:ViT-B-32", weights="/w"))
    tagged = find_model(EncoderSpec(name="ViT-B/32", weights="/w"))
    assert bare.model_cfg.get("quick_gelu") is None
    assert tagged.model_cfg["quick_gelu"] is True
    assert tagged.weights.url == "/w"
    info = describe(EncoderSpec(name="open_clip:ViT-B-16-SigLIP", weights="/w"))
    assert info.preprocess.resize_mode == "shortest"  # what create_model_and_transforms gives
    assert describe(EncoderSpec(name="open_clip:ViT-B-16-SigLIP/webli")).preprocess.resize_mode == "squash"


def test_every_tag_is_known_with_its_activation() -> None:
    changed = 0
    for arch, tags in _PRETRAINED.items():
        for tag, cfg in tags.items():
            source = find_model(EncoderSpec(name=f"open_clip:{arch}/{tag}"))
            own = open_clip.get_model_config(arch).get("quick_gelu", False)
            found = source.model_cfg.get("quick_gelu", False)
            assert found == cfg.get("quick_gelu", own)
            assert source.weights.repo or source.weights.url
            changed += found != own
    assert changed >= 27


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            EncoderSpec(name="open_clip:ViT-B-33/openai"),
            r"no architecture 'ViT-B-33' \(did you mean 'ViT-B-32'",
        ),
        (EncoderSpec(name="open_clip:RN50/openia"), r"RN50 has no tag 'openia' \(did you mean 'openai'"),
        (
            EncoderSpec(name="open_clip:RN50"),
            "names no weights: expected open_clip:RN50/TAG .one of openai, yfcc15m",
        ),
        (EncoderSpec(name="open_clip:RN50/random-1", weights="/w"), "leave out the seed or --weights"),
        (
            EncoderSpec(name="open_clip:RN50", weights="/w", model_config="/m"),
            "has a model configuration already",
        ),
        (EncoderSpec(name="beamclip-tiny", model_config="/m"), "has a model configuration already"),
        (EncoderSpec(name=CUSTOM, model_config="/m"), "--model-config needs --weights URL"),
        (EncoderSpec(name=CUSTOM, weights="/w"), "no architecture 'custom'"),
        (EncoderSpec(name=CUSTOM, weights="/w", model_config="/m"), "there is no /m"),
    ],
)
def test_requests_that_name_no_model(spec: EncoderSpec, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(spec)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    vit, config = save_model(tmp_path, "vit")
    _, resnet = save_model(tmp_path, "resnet")
    with pytest.raises(RequestError, match="does not fit open_clip:custom: RuntimeError"):
        load(EncoderSpec(name=CUSTOM, weights=vit, model_config=resnet))
    broken = deepcopy(VIT)
    broken["vision_cfg"]["wheels"] = 4
    Path(config).write_text(json.dumps(broken))
    with pytest.raises(RequestError, match=r"model cannot be built.*wheels"):
        load(EncoderSpec(name=CUSTOM, weights=vit, model_config=config))
    objects = tmp_path / "objects.pt"
    torch.save({"state_dict": {"a": Path("x")}}, objects)
    with pytest.raises(RequestError, match="holds more than tensors"):
        load(EncoderSpec(name="open_clip:RN50", weights=str(objects)))


def test_torchscript_is_refused_with_the_tags_name(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with warnings.catch_warnings():  # which warnings torch gives for it depends on its version
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Twice()), str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(RequestError, match=r"TorchScript.*use open_clip:ViT-B-32/openai"):
        load(EncoderSpec(name="open_clip:ViT-B-32", weights=str(tmp_path / "ViT-B-32.pt")))


def test_the_embedded_model_is_a_configuration_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BUILT_IN_FOLDER", tmp_path / "beamclip_tiny")
    with pytest.raises(RequestError, match="ships no trained weights for beamclip-tiny"):
        load(EncoderSpec(name="beamclip-tiny"))
    weights, config = save_model(tmp_path / "beamclip_tiny", "vit", nested=False)
    Path(config).rename(tmp_path / "beamclip_tiny" / "model.json")
    Path(weights).rename(tmp_path / "beamclip_tiny" / "model.safetensors")
    encoder, same = load(EncoderSpec(name="beamclip-tiny")), load_custom(tmp_path / "again")
    assert (encoder.name, encoder.weights_id) == ("beamclip-tiny", same.weights_id)
    np.testing.assert_array_equal(encoder.encode_texts(["a cat"]), same.encode_texts(["a cat"]))


def test_devices_and_precisions(random_vit: EncoderSpec, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match=r"--device cuda:.*expected cpu or auto"):
            load(EncoderSpec(name=random_vit.name, model_config=random_vit.model_config, device="cuda"))
    with pytest.raises(RequestError, match="fp16 on the CPU"):
        pick_precision(EncoderSpec(name="x", precision="fp16"), torch.device("cpu"))
    exact = load_custom(tmp_path, device="cpu")
    half = load_custom(tmp_path, device="cpu", precision="bf16")
    assert (exact.device, exact.precision, half.precision) == ("cpu", "fp32", "bf16")
    for one, other in (
        (exact.encode_images(pixels(exact)), half.encode_images(pixels(half))),
        (exact.encode_texts(["a cat"]), half.encode_texts(["a cat"])),
    ):
        assert other.dtype == np.float32
        assert np.abs(one - other).max() > 0
        assert (one * other).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("kind", ["resnet", "siglip"])
def test_bf16_works_for_the_other_towers(kind: str, tmp_path: Path) -> None:
    exact, half = load_custom(tmp_path, kind), load_custom(tmp_path, kind, precision="bf16")
    cosines = (exact.encode_images(pixels(exact)) * half.encode_images(pixels(exact))).sum(axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-9


def test_threads_are_set(random_vit: EncoderSpec) -> None:
    before = torch.get_num_threads()
    load(EncoderSpec(name=random_vit.name, model_config=random_vit.model_config, threads=before + 1))
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_out_of_memory_and_wrong_pixels(random_vit: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(random_vit)
    room, whole = 2, encoder.encode_texts(["a", "b", "c", "d", "e"])
    for method in ("encode_image", "encode_text"):
        inner = getattr(encoder.model, method)

        def limited(batch: torch.Tensor, normalize: bool, inner=inner) -> torch.Tensor:
            if len(batch) > room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
            return inner(batch, normalize=normalize)

        monkeypatch.setattr(encoder.model, method, limited)
    with pytest.raises(
        EncoderOutOfMemory, match=r"no room for 3 images: CUDA out of memory. Tried"
    ) as caught:
        encoder.encode_images(pixels(encoder))
    assert caught.value.__context__ is None  # nothing keeps the failed batch's tensors alive
    assert encoder.encode_images(pixels(encoder, 2)).shape == (2, 48)
    np.testing.assert_allclose(encoder.encode_texts(["a", "b", "c", "d", "e"]), whole, atol=1e-6)
    room = 0
    with pytest.raises(EncoderOutOfMemory, match="no room for 1 texts"):
        encoder.encode_texts(["a", "b"])
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 64, 64, 3\]"):
        encoder.encode_images(np.zeros((1, 32, 64, 3), np.uint8))
    read_only = pixels(encoder, 1)[:0]
    read_only.flags.writeable = False
    assert encoder.encode_images(read_only).shape == (0, 48)


def test_read_only_pixels_make_no_warning(random_vit: EncoderSpec) -> None:
    encoder = load(random_vit)
    images = pixels(encoder)
    expected = encoder.encode_images(images)
    images.flags.writeable = False
    np.testing.assert_array_equal(encoder.encode_images(images), expected)


def test_token_counts_are_before_truncation(random_vit: EncoderSpec) -> None:
    encoder = load(random_vit)
    texts = ["a cat", "", "dog " * 200]
    assert encoder.token_counts(texts) == [4, 2, 202]
    assert [int((row > 0).sum()) for row in encoder.tokenizer(texts)] == [4, 2, 77]


def hub_tokenizer(folder: Path) -> None:
    """A tokenizer as on the Hugging Face hub: a few words, one end token."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "dog": 5}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)


@pytest.mark.parametrize("remote", [False, True])
def test_a_tokenizer_beside_the_model(remote: bool, tmp_path: Path) -> None:
    weights, _ = save_model(tmp_path, "siglip")
    folder = tmp_path / "model"
    hub_tokenizer(folder)
    config = deepcopy(MODELS["siglip"])
    config["text_cfg"] |= {"hf_tokenizer_name": "no/such", "tokenizer_kwargs": {"clean": "canonicalize"}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    Path(weights).rename(folder / "open_clip_model.safetensors")
    url = str(folder)
    if remote:
        url = f"memory://{uuid.uuid4().hex}"
        for path in folder.iterdir():
            fsspec.filesystem("memory").pipe_file(f"{url}/{path.name}", path.read_bytes())
    encoder = load(EncoderSpec(name=f"open_clip:local-dir:{url}"))
    assert encoder.tokenizer(["A cat!"])[0, :4].tolist() == [3, 4, 1, 0]
    assert encoder.token_counts(["A cat!", "", "dog " * 100]) == [3, 1, 101]
    assert encoder.context_length == 64
    assert encoder.encode_texts(["a cat", "a dog"]).shape == (2, 64)


def test_hub_tokenizers_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = deepcopy(VIT)
    config["text_cfg"] = {**VIT["text_cfg"], "hf_tokenizer_name": str(tmp_path / "nothing")}
    (tmp_path / "m.json").write_text(json.dumps(config))
    spec = EncoderSpec(name="open_clip:small/random-0", model_config=str(tmp_path / "m.json"))
    monkeypatch.setattr("clip_transforms.encoders.tokenizers.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs the `hf` extra: pip install 'beamclip\[hf\]'"):
        load(spec)
    config["text_cfg"] |= {"hf_tokenizer_name": None, "tokenizer_kwargs": {"reduction_mask": "random"}}
    (tmp_path / "m.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="reduction_mask"):
        load(spec)
