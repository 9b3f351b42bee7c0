"""What kind of file a checkpoint is, told from its bytes, and which kinds are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Literal

from clip_transforms.elements import RequestError

CheckpointKind = Literal["safetensors", "torch"]

#: The files of a model's folder that hold its weights, best first (open_clip's own order).
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def checkpoint_kind(path: Path, *, shown_as: str, safetensors_name: str | None = None) -> CheckpointKind:
    """Whether a file is safetensors or a pickled state dict; its suffix does not matter.

    shown_as: how errors call the file. safetensors_name: the encoder name whose weights are the same model
    as safetensors, for the message that refuses TorchScript (a program, not weights).
    Raises RequestError for TorchScript, NumPy archives and everything else.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    header = int.from_bytes(head[:8], "little")
    if len(head) == 9 and head[8:] == b"{" and 2 <= header <= min(_MAX_HEADER, path.stat().st_size - 8):
        return "safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
            mend = f"use {safetensors_name}" if safetensors_name else "save its state_dict() as safetensors"
            raise RequestError(f"{shown_as} is a TorchScript program, which would run code: {mend}")
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
    elif head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # torch.save before version 1.6
        return "torch"
    raise RequestError(f"{shown_as} is no checkpoint: expected safetensors or a state dict of torch.save")


def pick_weights(names: list[str], *, shown_as: str) -> str:
    """The weights file among the names of a model's folder. Raises RequestError for none, or for a tie.

    >>> pick_weights(["a.bin", "open_clip_model.safetensors"], shown_as="gs://b/m")
    'open_clip_model.safetensors'
    """
    for name in WEIGHT_FILES:
        if name in names:
            return name
    others = [name for name in names if name.endswith(_WEIGHT_SUFFIXES)]
    if len(others) == 1:
        return others[0]
    found = f"several ({', '.join(others)})" if others else "none"
    raise RequestError(f"{shown_as}: expected one weights file such as {WEIGHT_FILES[0]}, found {found}")


def parse_config(text: str, *, shown_as: str) -> tuple[dict[str, object], dict[str, object]]:
    """(model_cfg, preprocess_cfg) of an open_clip JSON, flat or under `model_cfg`. Raises RequestError.

    >>> parse_config('{"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}}', shown_as="m.json")[0]["embed_dim"]
    4
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{shown_as} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"{shown_as}: expected a JSON object")
    preprocess = config.get("preprocess_cfg") or {}
    nested = config.get("model_cfg", config)
    model = (
        {key: value for key, value in nested.items() if key != "preprocess_cfg"}
        if isinstance(nested, dict)
        else {}
    )
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]
    if missing or not isinstance(preprocess, dict):
        what = f"has no {', '.join(missing)}" if missing else "has a preprocess_cfg that is no object"
        raise RequestError(f"{shown_as} {what}: expected an open_clip model JSON, flat or under model_cfg")
    return model, preprocess
