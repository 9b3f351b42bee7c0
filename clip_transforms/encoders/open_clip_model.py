"""Building open_clip models from a configuration, filling them, and counting their parameters."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import Family, Interpolation, Precision, Preprocess, ResizeMode
from clip_transforms.encoders.checkpoints import CheckpointKind, checkpoint_kind
from clip_transforms.encoders.open_clip_source import CONFIG_FILE, ModelSource
from clip_transforms.encoders.tokenizers import needs_extra

_LOG = logging.getLogger(__name__)
_PARAMETERS_FILE = Path(__file__).parent / "parameters.json"


def build_model(source: ModelSource, *, device: torch.device, precision: Precision) -> torch.nn.Module:
    """The model of a configuration with its initial weights. Raises RequestError.

    open_clip reads configurations by name from a registry of the process; its `local-dir:` names are the way
    round: a folder for this one call, nothing registered.
    """
    import open_clip

    if source.model_cfg["text_cfg"].get("hf_model_name"):
        needs_extra(f"the text tower of {source.name}")
    with tempfile.TemporaryDirectory(prefix="beamclip-") as folder, _quiet():
        config = {"model_cfg": source.model_cfg, "preprocess_cfg": source.preprocess_cfg}
        Path(folder, CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        try:
            model: torch.nn.Module = open_clip.create_model(
                f"local-dir:{folder}",
                device=device,
                precision=precision,
                load_weights=False,
                pretrained_text=False,
            )
        except Exception as error:
            text = str(error).strip().replace(folder, "the configuration")
            raise RequestError(f"encoder {source.name}: its model cannot be built: {text}") from error
    return model


def load_weights(model: torch.nn.Module, path: Path, source: ModelSource) -> None:
    """Fill a model from a checkpoint: safetensors, or a state dict (also under `state_dict`, `module.`).

    Every tensor of the model must be there and nothing else; position embeddings are resized as open_clip
    does. Raises RequestError.
    """
    import open_clip

    kind = check_file(path, source)
    name = "weights.safetensors" if kind == "safetensors" else "weights.pt"
    with tempfile.TemporaryDirectory(prefix="beamclip-") as folder, _quiet():
        link = Path(folder, name)  # open_clip goes by the suffix, which a cached file may not have
        link.symlink_to(path.resolve())
        try:
            open_clip.load_checkpoint(model, str(link), strict=True, weights_only=True, device="cpu")
        except pickle.UnpicklingError as error:
            raise RequestError(
                f"{path} holds more than tensors, which would run code when loaded: save its state dict "
                "alone, best as safetensors"
            ) from error
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            raise RequestError(f"{path} does not fit {source.name}: {type(error).__name__} {text}") from error
    if family_of(source.model_cfg) == "sigmoid" and not torch.any(model.logit_bias):  # type: ignore[arg-type]
        _LOG.warning("%s: no logit bias in %s; its probabilities are those of a bias of 0", source.name, path)


def check_file(path: Path, source: ModelSource) -> CheckpointKind:
    """The kind of a checkpoint file. Raises RequestError where it is one that is refused."""
    return checkpoint_kind(path, shown_as=str(path), safetensors_name=source.safetensors_name())


def family_of(model_cfg: Mapping[str, Any]) -> Family:
    """How a model's cosines become probabilities: a bias is SigLIP's (arXiv:2303.15343, sigmoid loss).

    >>> family_of({"init_logit_bias": -10}), family_of({})
    ('sigmoid', 'softmax')
    """
    return "softmax" if model_cfg.get("init_logit_bias") is None else "sigmoid"


def make_preprocess(preprocess_cfg: Mapping[str, Any], size: Any) -> Preprocess:
    """The evaluation transform of an open_clip `preprocess_cfg`, its gaps filled as open_clip does.

    size: the image tower's, an integer or (height, width). Raises RequestError.

    >>> make_preprocess({"resize_mode": "squash", "mean": 0.5}, 32).mean
    (0.5, 0.5, 0.5)
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    def triple(key: str, default: tuple[float, ...]) -> tuple[float, float, float]:
        value = preprocess_cfg.get(key) or default
        numbers = tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * 3
        if len(numbers) != 3:
            raise RequestError(f"preprocess_cfg: {key} {value!r}, expected three numbers")
        return numbers

    height, width = (int(size), int(size)) if isinstance(size, int) else map(int, size)
    mode = preprocess_cfg.get("resize_mode") or "shortest"
    interpolation = preprocess_cfg.get("interpolation") or "bicubic"
    if mode not in ("shortest", "longest", "squash") or interpolation not in (
        "bicubic",
        "bilinear",
        "random",
    ):
        raise RequestError(f"preprocess_cfg: interpolation {interpolation!r}, expected bicubic or bilinear")
    # open_clip: `random` is for training, and a tall or wide "shortest" is always bicubic
    if interpolation == "random" or (mode == "shortest" and height != width):
        interpolation = "bicubic"
    return Preprocess(
        height=height,
        width=width,
        mean=triple("mean", OPENAI_DATASET_MEAN),
        std=triple("std", OPENAI_DATASET_STD),
        resize_mode=cast(ResizeMode, mode),
        interpolation=cast(Interpolation, interpolation),
        fill=int(preprocess_cfg.get("fill_color") or 0),
    )


def parameters_of(source: ModelSource) -> int | None:
    """How many parameters a model has; None where its text tower is described on a hub.

    open_clip's own architectures are looked up in parameters.json by a hash of their configuration; others
    are built without memory (a second or so).
    """
    text_cfg = source.model_cfg["text_cfg"]
    if text_cfg.get("hf_model_name"):
        return None
    known = _known_parameters().get(config_key(source.model_cfg))
    return count_parameters(source) if known is None else known


def count_parameters(source: ModelSource) -> int:
    """The parameters of a model that is built on the meta device, where tensors have no memory."""
    with torch.device("meta"):
        model = build_model(source, device=torch.device("meta"), precision="fp32")
    return sum(parameter.numel() for parameter in model.parameters())


def config_key(model_cfg: Mapping[str, Any]) -> str:
    """A hash of what sets a model's parameters; the activation and the logits' start do not.

    >>> config_key({"embed_dim": 4}) == config_key({"quick_gelu": True, "embed_dim": 4})
    True
    """
    shape = {key: value for key, value in model_cfg.items() if key not in ("quick_gelu", "init_logit_scale")}
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _known_parameters() -> dict[str, int]:
    known: dict[str, int] = json.loads(_PARAMETERS_FILE.read_text(encoding="ascii"))
    return known


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's messages out of the root logger, where it writes them.

    Among them are warnings of what is meant here (random weights); and a first message to a root logger
    without handlers would install one for the whole program.
    """
    root, thread, null = logging.getLogger(), threading.get_ident(), logging.NullHandler()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or "open_clip" not in Path(record.pathname).parts

    root.addHandler(null)
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
        root.removeHandler(null)
