"""The model that is trained: built from an open_clip name or JSON, begun from a checkpoint or not."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from torch import Tensor, nn
from torch.nn import functional

from clip_transforms.elements import RequestError
from clip_transforms.encoders.checkpoints import checkpoint_kind, parse_config

MAX_SCALE = 100.0  # CLIP clamps its logit scale there
TOWERS = ("image", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An open_clip model configuration and how its pictures are prepared."""

    name: str
    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Pixels a side."""
        size = self.model["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, (list, tuple)) else size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the normalisation."""
        return tuple(self.preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN))

    @property
    def std(self) -> tuple[float, ...]:
        """Of the normalisation."""
        return tuple(self.preprocess.get("std", open_clip.OPENAI_DATASET_STD))


def architecture_of(name: str) -> Architecture:
    """The architecture of an open_clip name or of a model JSON. Raises RequestError for neither.

    >>> architecture_of("RN50").size
    224
    """
    if name.endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise RequestError(f"--model {name}: there is no such file")
        model, preprocess = parse_config(path.read_text(encoding="utf-8"), shown_as=name)
        return Architecture(name=path.stem, model=model, preprocess=preprocess)
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise RequestError(
            f"--model {name}: expected an architecture of open_clip or the path of a model JSON{hint}"
        )
    config = copy.deepcopy(open_clip.get_model_config(name))
    return Architecture(name=name, model=config, preprocess={})


def build(architecture: Architecture, *, seed: int, init: str | None = None) -> nn.Module:
    """A model with seeded random weights, or those of a checkpoint (safetensors or a state dict).

    Raises RequestError for a configuration that open_clip cannot build, or weights that do not fit it.
    """
    torch.manual_seed(seed)
    config = copy.deepcopy(dict(architecture.model))
    custom = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        model: nn.Module = kind(**config)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise RequestError(f"open_clip cannot build {architecture.name}: {error}") from error
    if init is not None:
        _load(model, init)
    return model


def _load(model: nn.Module, path: str) -> None:
    if not Path(path).is_file():
        raise RequestError(f"--init {path}: there is no such file")
    checkpoint_kind(Path(path), shown_as=path)
    try:
        load_checkpoint(model, path, strict=True, weights_only=True, device="cpu")
    except (RuntimeError, KeyError, ValueError) as error:
        raise RequestError(f"--init {path}: the weights do not fit the architecture: {error}") from error


def freeze(model: nn.Module, towers: tuple[str, ...]) -> None:
    """Stops the gradients of whole towers; batch norms of a frozen image tower keep their statistics."""
    for tower in towers:
        for name, parameter in model.named_parameters():
            is_image = name.startswith("visual.")
            if name not in ("logit_scale", "logit_bias") and is_image == (tower == "image"):
                parameter.requires_grad_(False)


def train_mode(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Training mode, but for what is frozen."""
    model.train()
    if "image" in frozen:
        model.get_submodule("visual").eval()


def image_features(model: nn.Module, pixels: Tensor) -> Tensor:
    """[B, 3, S, S], normalised as the model wants it -> [B, D] of norm 1."""
    features: Tensor = model.encode_image(pixels, normalize=True)  # type: ignore[operator]
    return _wide(features)


def text_features(model: nn.Module, tokens: Tensor) -> Tensor:
    """[B, context] tokens -> [B, D] of norm 1; what lies after the longest text is not computed.

    The text tower of a plain CLIP is causal and read at the end token, so padding after it changes nothing.
    """
    longest = int((tokens != 0).sum(dim=1).max())
    if type(model) is not open_clip.CLIP or model.text_pool_type != "argmax" or model.attn_mask is None:
        whole: Tensor = model.encode_text(tokens, normalize=True)  # type: ignore[operator]
        return _wide(whole)
    return _short_text_features(model, tokens[:, :longest], longest)


def _short_text_features(model: Any, tokens: Tensor, longest: int) -> Tensor:
    cast = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(cast) + model.positional_embedding[:longest].to(cast)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)]
    if model.text_projection is not None:
        is_linear = isinstance(model.text_projection, nn.Linear)
        x = model.text_projection(x) if is_linear else x @ model.text_projection
    return _wide(functional.normalize(x, dim=-1))


def _wide(features: Tensor) -> Tensor:
    """Half precision ends where the loss begins."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def clamp_scale(model: nn.Module) -> None:
    """Keeps the logit scale at or below 100 (CLIP, section 2.5)."""
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(MAX_SCALE))  # type: ignore[operator]


def config_json(architecture: Architecture) -> str:
    """The model JSON that an export carries: flat, with its preprocessing."""
    preprocess = {
        "size": architecture.size,
        "mean": list(architecture.mean),
        "std": list(architecture.std),
        "interpolation": architecture.preprocess.get("interpolation", "bicubic"),
        "resize_mode": architecture.preprocess.get("resize_mode", "shortest"),
        **(
            {"fill_color": architecture.preprocess["fill_color"]}
            if "fill_color" in architecture.preprocess
            else {}
        ),
    }
    return json.dumps({**architecture.model, "preprocess_cfg": preprocess}, indent=2) + "\n"
