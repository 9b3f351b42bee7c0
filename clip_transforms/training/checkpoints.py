"""Checkpoints of a training run, and the export that the encoders load."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from clip_transforms.elements import RequestError
from clip_transforms.training.model import Architecture, config_json

CHECKPOINT = "checkpoint.pt"
CONFIG = "model.json"
WEIGHTS = "model.safetensors"


@dataclass(slots=True)
class Progress:
    """Where a run is: steps done and what was measured on the way."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(
    folder: Path, *, states: Mapping[str, Any], random: Mapping[str, Any], progress: Progress, settings: str
) -> None:
    """Everything that resuming needs, in one file that replaces the last one at once."""
    content = {
        **states,
        "random": json.dumps(random),
        "progress": json.dumps([progress.step, progress.seconds, progress.history]),
        "settings": settings,
    }
    temporary = folder / f".{CHECKPOINT}.{os.getpid()}"
    torch.save(content, temporary)
    temporary.replace(folder / CHECKPOINT)


def load_checkpoint(folder: Path, *, settings: str) -> tuple[dict[str, Any], dict[str, Any], Progress] | None:
    """(states, random states, progress) of a folder, or None where it has no checkpoint.

    settings: what must agree, as text. Raises RequestError where the checkpoint is of other settings.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content.pop("settings") != settings:
        raise RequestError(
            f"{path} was made with another architecture, batch size, number of processes or seed: give the "
            "same, or train into another folder"
        )
    step, seconds, history = json.loads(content.pop("progress"))
    random = json.loads(content.pop("random"))
    return content, random, Progress(step=step, seconds=seconds, history=history)


def export(folder: Path, *, architecture: Architecture, weights: Mapping[str, Tensor]) -> Path:
    """Writes model.json and model.safetensors (fp16), each replaced at once; returns the weights' path.

    What `--weights` and `--model-config` of every command take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in weights.items()
        if name != "attn_mask"
    }
    temporary = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(halved, str(temporary), metadata={"format": "pt"})
    temporary.chmod(0o644)  # safetensors makes files that their owner alone can read
    temporary.replace(folder / WEIGHTS)
    config = folder / f".{CONFIG}.{os.getpid()}"
    config.write_text(config_json(architecture), encoding="utf-8")
    config.replace(folder / CONFIG)
    return folder / WEIGHTS
