"""From a request to the model behind it: its configuration, its tokenizer, and where its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import EncoderSpec
from clip_transforms.encoders.checkpoints import parse_config, pick_weights
from clip_transforms.encoders.hub import hub_file
from clip_transforms.encoders.names import (
    BUILT_IN,
    CUSTOM,
    nearest,
    parse_open_clip,
    resolve_name,
    split_name,
)
from clip_transforms.encoders.tokenizers import tokenizer_folder
from clip_transforms.encoders.weights import (
    LocalFile,
    Progress,
    fetch,
    fetch_text,
    list_folder,
    shown,
)

#: Where the embedded model's files are: model.json and model.safetensors.
BUILT_IN_FOLDER = Path(__file__).parent / "beamclip_tiny"
CONFIG_FILE = "open_clip_config.json"
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsAt:
    """Where weights come from: exactly one of url, repo, seed is set."""

    url: str | None = None
    sha256: str = ""  # of the url's file, its first digits, where known
    repo: str | None = None  # on the Hugging Face hub
    files: tuple[str, ...] = _HUB_WEIGHTS  # candidates in repo, best first
    revision: str | None = None
    id_is_commit: bool = False
    seed: int | None = None
    storage_options: Mapping[str, object] = field(default_factory=dict)

    def locate(self, *, progress: Progress | None = None) -> tuple[LocalFile | None, str]:
        """(the file on this machine or None for random weights, weights_id). Raises RequestError."""
        if self.seed is not None:
            return None, f"random-{self.seed}"
        if self.url is not None:
            options = self.storage_options
            file = fetch(self.url, storage_options=options, expected_sha256=self.sha256, progress=progress)
            return file, file.sha256
        assert self.repo is not None
        path, commit = hub_file(self.repo, self.files, revision=self.revision)
        file = fetch(str(path))
        return file, commit if self.id_is_commit and commit else file.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """One model: everything but its weights is here, and where they are."""

    name: str  # as requested, aliases resolved
    arch: str  # open_clip's name of the architecture, or "" where the configuration is the model's own
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    tokenizer: str | None  # of the Hugging Face hub, or a local folder; None: CLIP's own, in open_clip
    weights: WeightsAt

    def safetensors_name(self) -> str | None:
        """The encoder name that has this architecture's original weights as safetensors."""
        import open_clip

        tags = open_clip.list_pretrained_tags_by_model(self.arch)
        return f"open_clip:{self.arch}/{'openai' if 'openai' in tags else tags[0]}" if tags else None


def find_model(spec: EncoderSpec) -> ModelSource:
    """The model that `spec` names; reads configurations, never weights. Raises RequestError."""
    name = resolve_name(spec.name)
    parsed = parse_open_clip(split_name(name)[1])
    if parsed.seed is not None and spec.weights:
        raise RequestError(f"encoder {name!r} has random weights: leave out the seed or --weights")
    if spec.model_config:
        source = _custom(name, spec, arch=parsed.arch, tag=parsed.tag, seed=parsed.seed)
    elif parsed.kind == "built-in":
        source = _built_in(name, needs_weights=not spec.weights)
    elif parsed.kind == "hub":
        source = _hub(name, parsed.repo, parsed.revision)
    elif parsed.kind == "dir":
        source = _folder(name, parsed.url, spec)
    else:
        source = _architecture(name, parsed.arch, parsed.tag, parsed.seed, has_weights=bool(spec.weights))
    if spec.weights:
        weights = WeightsAt(url=spec.weights, storage_options=spec.storage_options)
        source = replace(source, weights=weights)
    return source


def _custom(name: str, spec: EncoderSpec, *, arch: str, tag: str | None, seed: int | None) -> ModelSource:
    """A configuration of the user's own; the name is only a label."""
    import open_clip

    if not arch or tag or arch in open_clip.list_models():
        raise RequestError(
            f"encoder {name!r} has a model configuration already: leave out --model-config, or name the "
            f"encoder {CUSTOM} (any open_clip:LABEL that is no architecture will do)"
        )
    if not spec.weights and seed is None:
        raise RequestError(
            f"--model-config needs --weights URL, or random weights: open_clip:{arch}/random-0"
        )
    assert spec.model_config is not None
    text = fetch_text(spec.model_config, storage_options=spec.storage_options)
    model_cfg, preprocess_cfg = parse_config(text, shown_as=shown(spec.model_config))
    return ModelSource(
        name=name,
        arch="",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        tokenizer=_tokenizer_name(model_cfg),
        weights=WeightsAt(seed=seed or 0),
    )


def _built_in(name: str, *, needs_weights: bool) -> ModelSource:
    """The embedded model: a `--weights` and `--model-config` that are package data."""
    config, weights = BUILT_IN_FOLDER / "model.json", BUILT_IN_FOLDER / "model.safetensors"
    if not config.is_file() or (needs_weights and not weights.is_file()):
        raise RequestError(
            f"this build of beamclip ships no trained weights for {BUILT_IN}: name another encoder, such as "
            "--encoder open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    model_cfg, preprocess_cfg = parse_config(fetch_text(str(config)), shown_as=str(config))
    return ModelSource(
        name=name,
        arch="",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        tokenizer=_tokenizer_name(model_cfg),
        weights=WeightsAt(url=str(weights)),
    )


def _hub(name: str, repo: str, revision: str | None) -> ModelSource:
    config, commit = hub_file(repo, [CONFIG_FILE], revision=revision)
    model_cfg, preprocess_cfg = parse_config(config.read_text(encoding="utf-8"), shown_as=name)
    return ModelSource(
        name=name,
        arch="",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        tokenizer=_tokenizer_name(model_cfg),
        # the commit, not the branch: configuration and weights are of one state of the repository
        weights=WeightsAt(repo=repo, revision=commit or revision, id_is_commit=True),
    )


def _folder(name: str, url: str, spec: EncoderSpec) -> ModelSource:
    """A folder with open_clip_config.json, weights and perhaps a tokenizer, on disk or in a store."""
    options = spec.storage_options
    names = list_folder(url, storage_options=options)
    if CONFIG_FILE not in names:
        raise RequestError(f"{shown(url)} has no {CONFIG_FILE}")
    text = fetch_text(f"{url}/{CONFIG_FILE}", storage_options=options)
    model_cfg, preprocess_cfg = parse_config(text, shown_as=f"{shown(url)}/{CONFIG_FILE}")
    tokenizer = _tokenizer_name(model_cfg)
    if tokenizer:  # the folder's own files, where it has them, are what the model was trained with
        tokenizer = tokenizer_folder(url, names, storage_options=options) or tokenizer
    weights = "" if spec.weights else pick_weights(names, shown_as=shown(url))
    return ModelSource(
        name=name,
        arch="",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        tokenizer=tokenizer,
        weights=WeightsAt(url=f"{url}/{weights}", storage_options=options),
    )


def _architecture(
    name: str, arch: str, tag: str | None, seed: int | None, *, has_weights: bool
) -> ModelSource:
    """A model that open_clip knows by name, with a known tag, random weights or a bare checkpoint."""
    import open_clip

    model_cfg = open_clip.get_model_config(arch) if arch in open_clip.list_models() else None
    if model_cfg is None:
        raise RequestError(f"open_clip has no architecture {arch!r}{nearest(arch, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if tag is None and seed is None and not has_weights:
        known = f" (one of {', '.join(tags)})" if tags else ""
        raise RequestError(
            f"encoder {name!r} names no weights: expected open_clip:{arch}/TAG{known}, "
            f"open_clip:{arch}/random-0, or --weights URL"
        )
    tag_cfg = open_clip.get_pretrained_cfg(arch, tag) if tag else {}
    if tag and not tag_cfg:
        known = f"it has {', '.join(tags)}" if tags else "it has none"
        raise RequestError(f"architecture {arch} has no tag {tag!r}{nearest(tag, tags)}; {known}")
    # The tag knows how its weights were trained. One tag of open_clip 3.3 is silent where its architecture
    # says QuickGELU (roberta-ViT-B-32): silence leaves the architecture's.
    if "quick_gelu" in tag_cfg:
        model_cfg["quick_gelu"] = tag_cfg["quick_gelu"]
    return ModelSource(
        name=name,
        arch=arch,
        model_cfg=deepcopy(model_cfg),
        preprocess_cfg=dict(tag_cfg),
        tokenizer=_tokenizer_name(model_cfg),
        weights=_tag_weights(name, tag_cfg) if tag and not has_weights else WeightsAt(seed=seed or 0),
    )


def _tag_weights(name: str, tag_cfg: Mapping[str, Any]) -> WeightsAt:
    repo_and_file = tag_cfg.get("hf_hub", "")
    if repo_and_file:
        repo, _, file = repo_and_file.rpartition("/")
        if not file:
            return WeightsAt(repo=repo)
        stem = file.rsplit(".", 1)[0]
        return WeightsAt(repo=repo, files=tuple(dict.fromkeys([f"{stem}.safetensors", file])))
    url = tag_cfg.get("url", "")
    from huggingface_hub import constants

    if not url or constants.HF_HUB_OFFLINE:
        why = (
            "HF_HUB_OFFLINE=1 forbids the download" if url else "open_clip does not say where its weights are"
        )
        raise RequestError(f"encoder {name!r}: {why}")
    # both hosts put the hash's first digits into the url
    parts = url.split("/")
    sha256 = parts[-2] if "openaipublic" in url else parts[-1].rsplit(".", 1)[0].rsplit("-", 1)[-1]
    return WeightsAt(url=url, sha256=sha256 if "openaipublic" in url or "mlfoundations" in url else "")


def _tokenizer_name(model_cfg: Mapping[str, Any]) -> str | None:
    name = model_cfg["text_cfg"].get("hf_tokenizer_name")
    return str(name) if name else None
