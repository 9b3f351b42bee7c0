"""What open_clip's architectures are, for `beamclip models list`, and the fetching behind `models pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_transforms.encoders.base import EncoderSpec, Family
from clip_transforms.encoders.weights import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One architecture that open_clip knows."""

    architecture: str
    tags: tuple[str, ...]  # of pretrained weights
    height: int  # pixels
    width: int
    parameters: int | None  # None: the text tower is described on a hub
    dim: int
    context_length: int  # tokens
    family: Family
    tokenizer: str  # "clip", or a name on the Hugging Face hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A model whose files are on this machine."""

    name: str
    weights: Path | None  # None: it has none to fetch
    weights_id: str
    tokenizer: str  # "clip", a name on the hub, or a folder


def catalogue(*, match: str = "") -> list[CatalogueEntry]:
    """The architectures whose name or one of whose tags contains `match`, any case; sorted."""
    import open_clip

    wanted = match.lower()
    entries = []
    for arch in open_clip.list_models():
        tags = tuple(open_clip.list_pretrained_tags_by_model(arch))
        if any(wanted in text.lower() for text in (arch, *tags)):
            entries.append(_entry(arch, tags))
    return entries


def _entry(arch: str, tags: tuple[str, ...]) -> CatalogueEntry:
    from clip_transforms.encoders.open_clip_backend import describe
    from clip_transforms.encoders.open_clip_source import find_model

    spec = EncoderSpec(name=f"open_clip:{arch}/random-0")
    info = describe(spec)
    return CatalogueEntry(
        architecture=arch,
        tags=tags,
        height=info.preprocess.height,
        width=info.preprocess.width,
        parameters=info.parameters,
        dim=info.dim,
        context_length=info.context_length,
        family=info.family,
        tokenizer=find_model(spec).tokenizer or "clip",
    )


def pull(spec: EncoderSpec, *, progress: Progress | None = None) -> Pulled:
    """Bring a model's weights and tokenizer to this machine, for baking into an image. Raises RequestError.

    Files of a store go to `$BEAMCLIP_CACHE`, files of the Hugging Face hub to that library's own cache
    (`$HF_HOME`); progress hears of the former (the hub's library draws its own bars).
    """
    from clip_transforms.encoders.names import check_spec, split_name
    from clip_transforms.encoders.open_clip_model import check_file
    from clip_transforms.encoders.open_clip_source import find_model
    from clip_transforms.encoders.tokenizers import make_tokenizer

    check_spec(spec)
    if split_name(spec.name)[0] == "fake":
        return Pulled(name=spec.name, weights=None, weights_id="fake", tokenizer="words")
    source = find_model(spec)
    make_tokenizer(source.model_cfg, source.tokenizer)
    file, weights_id = source.weights.locate(progress=progress)
    if file:
        check_file(file.path, source)
    return Pulled(
        name=source.name,
        weights=file.path if file else None,
        weights_id=weights_id,
        tokenizer=source.tokenizer or "clip",
    )
