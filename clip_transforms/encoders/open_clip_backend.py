"""The open_clip backend: any architecture of that library as an `Encoder`, on the CPU or a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as functional

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import (
    EncoderOutOfMemory,
    EncoderSpec,
    Family,
    Float32,
    Precision,
    UInt8,
)
from clip_transforms.encoders.info import EncoderInfo
from clip_transforms.encoders.names import resolve_precision
from clip_transforms.encoders.open_clip_model import (
    build_model,
    family_of,
    load_weights,
    make_preprocess,
    parameters_of,
)
from clip_transforms.encoders.open_clip_source import ModelSource, find_model
from clip_transforms.encoders.tokenizers import make_tokenizer, token_counts

_TEXT_BATCH = 256  # texts at a time; halved where the device has no room
_INPUT_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "out of memory",
)
_seeding = threading.Lock()


def load(spec: EncoderSpec) -> OpenClipEncoder:
    """The encoder that `spec` names, in eval mode, on its device.

    `spec.threads` sets torch's CPU threads, which are the whole process's. Raises RequestError.
    """
    source = find_model(spec)
    device = pick_device(spec.device)
    precision = pick_precision(spec, device)
    tokenizer = make_tokenizer(source.model_cfg, source.tokenizer)
    file, weights_id = source.weights.locate()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if file is None:
        model = _random_model(source, source.weights.seed or 0, device=device, precision=precision)
    else:
        model = build_model(source, device=device, precision=precision)
        load_weights(model, file.path, source)
    return OpenClipEncoder(
        source, model=model, tokenizer=tokenizer, weights_id=weights_id, device=device, precision=precision
    )


def describe(spec: EncoderSpec) -> EncoderInfo:
    """What the model's configuration alone tells. Raises RequestError."""
    source = find_model(spec)
    vision, text = source.model_cfg["vision_cfg"], source.model_cfg["text_cfg"]
    return EncoderInfo(
        name=source.name,
        dim=int(source.model_cfg["embed_dim"]),
        preprocess=make_preprocess(source.preprocess_cfg, vision.get("image_size", 224)),
        parameters=parameters_of(source),
        context_length=int(text.get("context_length", 77)),
        family=family_of(source.model_cfg),
    )


class OpenClipEncoder:
    """An open_clip model behind the `Encoder` protocol; made by `load`."""

    def __init__(
        self,
        source: ModelSource,
        *,
        model: torch.nn.Module,
        tokenizer: Any,
        weights_id: str,
        device: torch.device,
        precision: Precision,
    ) -> None:
        # Pixels arrive as [B, H, W, 3]: read as channels-last they need no copy, and convolutions are faster.
        self.model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.name = source.name
        self.weights_id = weights_id
        self.dim = int(source.model_cfg["embed_dim"])
        visual = cast(Any, model).visual
        self.preprocess = make_preprocess(visual.preprocess_cfg, visual.image_size)
        self.tokenizer = tokenizer
        self.context_length = int(tokenizer.context_length)
        self.family: Family = family_of(source.model_cfg)
        self.logit_scale = _scalar(cast(Any, model).logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else _scalar(bias)
        self.device = str(device)
        self.precision: Precision = precision
        self._device = device
        self._dtype = _INPUT_DTYPE[precision]
        self._mean = torch.tensor(self.preprocess.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.preprocess.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def encode_images(self, pixels: UInt8) -> Float32:
        """[B, height, width, 3] uint8 -> [B, dim] float32, rows of norm 1. Raises EncoderOutOfMemory."""
        expected = (self.preprocess.height, self.preprocess.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            got = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(f"expected uint8 {['B', *expected]}, got {got}".replace("'", ""))
        if not len(pixels):
            return np.zeros((0, self.dim), np.float32)
        return self._guarded(lambda: self._images(pixels), f"{len(pixels)} images")

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """T texts -> [T, dim] float32, rows of norm 1; texts over the context length are truncated.

        Batches are halved where memory runs out; raises EncoderOutOfMemory if one text is too much.
        """
        parts = [np.zeros((0, self.dim), np.float32)]
        start, size = 0, _TEXT_BATCH
        while start < len(texts):
            some = list(texts[start : start + size])
            try:
                parts.append(self._guarded(lambda some=some: self._texts(some), f"{len(some)} texts"))  # type: ignore[misc]
            except EncoderOutOfMemory:
                if size == 1:
                    raise
                size //= 2
            else:
                start += size
        return np.concatenate(parts)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before truncation, start and end included."""
        return token_counts(self.tokenizer, texts)

    def _images(self, pixels: UInt8) -> Float32:
        with torch.inference_mode(), self._exact_convolutions():
            raw = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
            batch = raw.to(self._device).permute(0, 3, 1, 2).to(torch.float32)
            # torchvision's ToTensor and Normalize, in their order: dividing first would round differently
            batch = batch.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)
            return _unit_rows(cast(Any, self.model).encode_image(batch, normalize=False))

    def _texts(self, texts: list[str]) -> Float32:
        with torch.inference_mode():
            tokens = self.tokenizer(texts).to(self._device)
            return _unit_rows(cast(Any, self.model).encode_text(tokens, normalize=False))

    def _exact_convolutions(self) -> AbstractContextManager[None]:
        """cuDNN rounds float32 convolutions to TF32 unless told: fp32 means float32 here."""
        if self._device.type != "cuda" or self.precision != "fp32":
            return nullcontext()
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        )
        return cast("AbstractContextManager[None]", flags)

    def _guarded(self, compute: Callable[[], Float32], what: str) -> Float32:
        """`compute()`, out of memory turned into EncoderOutOfMemory with the device's cache freed."""
        try:
            return compute()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            message = f"{self.device} has no room for {what}: {str(error).splitlines()[0][:200]}"
        # only here is the error gone, and with it the frames that hold the failed batch's tensors
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise EncoderOutOfMemory(message)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of a device's (or the machine's) memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a CUDA device that is not there is a RequestError."""
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not available:
        why = (
            "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        )
        raise RequestError(f"--device {device}: {why}; expected cpu or auto on this machine")
    if chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise RequestError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices, from 0"
        )
    return chosen


def pick_precision(spec: EncoderSpec, device: torch.device) -> Precision:
    """The precision asked for, if the device computes in it. Raises RequestError."""
    precision = resolve_precision(spec.precision, device=spec.device)
    if precision == "fp16" and device.type == "cpu":
        raise RequestError("--precision fp16 on the CPU is several times slower than fp32: use fp32 or bf16")
    if precision == "bf16" and device.type == "cuda" and not _has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise RequestError(f"--precision {spec.precision}: {name} has no bf16 arithmetic; use fp16 or fp32")
    return precision


def _has_bf16(device: torch.device) -> bool:
    """From compute capability 8.0 on (torch itself also counts emulation)."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _random_model(
    source: ModelSource, seed: int, *, device: torch.device, precision: Precision
) -> torch.nn.Module:
    """A model whose weights depend on the seed alone, and which leaves torch's global generator as it was."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(source, device=torch.device("cpu"), precision="fp32")
        state = model.state_dict()
    if device.type == "cpu" and precision == "fp32":
        return model
    model = build_model(source, device=device, precision=precision)
    model.load_state_dict(state)
    return model


def _scalar(value: torch.Tensor) -> float:
    return float(value.detach().float().reshape(-1)[0])


def _unit_rows(features: torch.Tensor) -> Float32:
    return cast(Float32, functional.normalize(features.float(), dim=-1).cpu().numpy())
