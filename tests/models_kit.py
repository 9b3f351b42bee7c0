"""Small models made in code, seeded, saved as users have them: a JSON and a safetensors file."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import save_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP_TEXT = {**TEXT, "context_length": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}

VIT: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": TEXT,
}
RESNET: dict[str, Any] = {
    "embed_dim": 40,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": TEXT,
}
#: SigLIP's image tower (timm's ViT with a map pool and no projection) at a size for tests, and its bias.
SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": SIGLIP_TEXT,
}
PREPROCESS: dict[str, dict[str, Any]] = {
    "vit": {},
    "resnet": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bilinear",
        "resize_mode": "longest",
    },
    "siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}
MODELS = {"vit": VIT, "resnet": RESNET, "siglip": SIGLIP}


def by_hand(kind: str, seed: int = 0) -> torch.nn.Module:
    """The model built from open_clip's own classes, seeded, in eval mode."""
    config = deepcopy(MODELS[kind])
    make = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(**config)
        if isinstance(model.visual, ModifiedResNet):
            _wake(model.visual)
    return model.eval()


def _wake(tower: ModifiedResNet) -> None:
    """A fresh ResNet is nearly deaf to the image: its last batch norms are 0, its statistics no one's."""
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = 0.9
    torch.nn.init.normal_(tower.attnpool.positional_embedding, 0, 0.01)
    with torch.no_grad():
        tower.train()(torch.randn(8, 3, 64, 64))


def save_model(folder: Path, kind: str, *, seed: int = 0, nested: bool = True) -> tuple[str, str]:
    """(weights, model configuration): the paths of the model's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, config = folder / f"{kind}.safetensors", folder / f"{kind}.json"
    save_file({name: value.contiguous() for name, value in by_hand(kind, seed).state_dict().items()}, weights)
    model = MODELS[kind]
    block = {"preprocess_cfg": PREPROCESS[kind]} if PREPROCESS[kind] else {}
    config.write_text(json.dumps({"model_cfg": model, **block} if nested else {**model, **block}))
    return str(weights), str(config)
