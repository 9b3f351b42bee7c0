"""The names of encoders, devices and precisions: aliases, parsing, and errors that say what is near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import EncoderSpec, Precision

#: The embedded model.
BUILT_IN = "beamclip-tiny"
#: The name for weights that come with their own `--model-config`.
CUSTOM = "open_clip:custom"

#: The nine names of https://github.com/openai/CLIP -> ours.
OPENAI_ALIASES = {
    "RN50": "open_clip:RN50/openai",
    "RN101": "open_clip:RN101/openai",
    "RN50x4": "open_clip:RN50x4/openai",
    "RN50x16": "open_clip:RN50x16/openai",
    "RN50x64": "open_clip:RN50x64/openai",
    "ViT-B/32": "open_clip:ViT-B-32/openai",
    "ViT-B/16": "open_clip:ViT-B-16/openai",
    "ViT-L/14": "open_clip:ViT-L-14/openai",
    "ViT-L/14@336px": "open_clip:ViT-L-14-336/openai",
}

PRECISIONS = ("fp32", "bf16", "fp16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_RANDOM = re.compile(r"random-(\d+)")
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipName:
    """The part of a name after `open_clip:`, taken apart."""

    kind: Literal["arch", "hub", "dir", "built-in"]
    arch: str = ""  # kind arch
    tag: str | None = None  # kind arch; never a random-<seed>
    seed: int | None = None  # kind arch: random weights
    repo: str = ""  # kind hub: ORG/REPO
    revision: str | None = None  # kind hub: branch, tag or commit
    url: str = ""  # kind dir


def resolve_name(name: str) -> str:
    """The name with OpenAI's aliases resolved; other names come back as they are.

    >>> resolve_name("ViT-B/32")
    'open_clip:ViT-B-32/openai'
    >>> resolve_name("open_clip:RN50/cc12m")
    'open_clip:RN50/cc12m'
    """
    return OPENAI_ALIASES.get(name, name)


def default_name(*, weights: str | None = None, model_config: str | None = None) -> str:
    """The encoder when none is named: the embedded one, or the weights that bring their own configuration.

    >>> default_name()
    'beamclip-tiny'
    >>> default_name(weights="gs://b/w.safetensors", model_config="gs://b/m.json")
    'open_clip:custom'
    """
    if weights and not model_config:
        raise RequestError(
            "--weights needs to know its model: name the architecture with --encoder open_clip:ARCH, or give "
            "--model-config with the url of an open_clip model JSON"
        )
    return CUSTOM if model_config else BUILT_IN


def split_name(name: str) -> tuple[str, str]:
    """(backend, the rest) of a name; the backend is not checked.

    >>> split_name("open_clip:ViT-B-32/openai")
    ('open_clip', 'ViT-B-32/openai')
    >>> split_name("fake?dim=16"), split_name("beamclip-tiny"), split_name("RN50")
    (('fake', 'dim=16'), ('open_clip', 'beamclip-tiny'), ('open_clip', 'RN50/openai'))
    """
    name = resolve_name(name)
    if name == BUILT_IN:
        return "open_clip", name
    match = re.match(r"([^:?]*)[:?]?(.*)", name, re.DOTALL)
    return (match[1], match[2]) if match else (name, "")


def parse_open_clip(model: str) -> OpenClipName:
    """The parts of an open_clip name, without its `open_clip:`. Raises RequestError.

    >>> parse_open_clip("ViT-B-32/random-7").seed
    7
    >>> parse_open_clip("hf-hub:timm/ViT-B-16-SigLIP@main").revision
    'main'
    """
    if model == BUILT_IN:
        return OpenClipName(kind="built-in")
    if model.startswith("hf-hub:"):
        repo, _, revision = model.removeprefix("hf-hub:").partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or ("@" in model and not revision):
            raise RequestError(f"encoder 'open_clip:{model}': expected open_clip:hf-hub:ORG/REPO[@REVISION]")
        return OpenClipName(kind="hub", repo=repo, revision=revision or None)
    if model.startswith("local-dir:"):
        url = model.removeprefix("local-dir:").rstrip("/")
        if not url:
            raise RequestError(f"encoder 'open_clip:{model}': expected open_clip:local-dir:URL of a folder")
        return OpenClipName(kind="dir", url=url)
    arch, slash, tag = model.partition("/")
    if not arch or (slash and not tag):
        raise RequestError(f"encoder 'open_clip:{model}': expected open_clip:ARCH[/TAG]")
    seed = _RANDOM.fullmatch(tag)
    if seed and int(seed[1]) <= _MAX_SEED:
        return OpenClipName(kind="arch", arch=arch, seed=int(seed[1]))
    if tag.startswith("random"):
        raise RequestError(
            f"encoder 'open_clip:{model}': expected random-<seed>, a seed from 0 to {_MAX_SEED}"
        )
    return OpenClipName(kind="arch", arch=arch, tag=tag or None)


def resolve_precision(precision: str, *, device: str) -> Precision:
    """`auto` made definite: fp32, or bf16 where the request says a CUDA device (`auto` is no such request).

    It depends on the request alone, never on the machine, so launcher and workers agree. Raises RequestError.

    >>> resolve_precision("auto", device="auto"), resolve_precision("auto", device="cuda:1")
    ('fp32', 'bf16')
    """
    if precision == "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    if precision not in PRECISIONS:
        raise RequestError(f"precision {precision!r}: expected auto, {', '.join(PRECISIONS)}")
    return cast(Precision, precision)


def check_spec(spec: EncoderSpec) -> None:
    """Raises RequestError where a field of the request is out of range, whatever the backend."""
    if not _DEVICE.fullmatch(spec.device):
        raise RequestError(f"device {spec.device!r}: expected auto, cpu, cuda or cuda:N")
    resolve_precision(spec.precision, device=spec.device)
    if spec.threads is not None and spec.threads < 1:
        raise RequestError(f"threads {spec.threads}: expected at least 1")


def nearest(given: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with up to three near names, or nothing.

    >>> nearest("ViT-B32", ["ViT-B-32", "RN50"])
    " (did you mean 'ViT-B-32'?)"
    """
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.lower(), name)
    near = difflib.get_close_matches(given.lower(), folded, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(folded[name]) for name in near)}?)" if near else ""
