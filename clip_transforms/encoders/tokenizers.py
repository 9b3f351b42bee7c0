"""The tokenizer of an open_clip model: CLIP's own, or one of the Hugging Face hub; and how long texts are."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from clip_transforms.elements import RequestError
from clip_transforms.encoders.weights import cache_dir, fetch, local_folder

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
)
_SUFFIXES = (".json", ".txt", ".model")
_DEFAULT_CONTEXT = 77


class Tokenizer(Protocol):
    """What open_clip's tokenizers have in common."""

    context_length: int

    def __call__(self, texts: list[str]) -> Any:
        """T texts -> int64 tensor [T, context_length], truncated and padded."""
        ...


def needs_extra(what: str) -> None:
    """Raises RequestError where the packages of the `hf` extra are missing."""
    if find_spec("transformers") is None:
        raise RequestError(f"{what} needs the `hf` extra: pip install 'beamclip[hf]'")


def make_tokenizer(model_cfg: Mapping[str, Any], name: str | None) -> Tokenizer:
    """A model's tokenizer; `name` is one of the Hugging Face hub, a local folder, or None: CLIP's own.

    Raises RequestError where the `hf` extra is missing, and where the hub cannot be reached.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text_cfg = model_cfg["text_cfg"]
    options = {**(text_cfg.get("tokenizer_kwargs") or {})}
    options["context_length"] = text_cfg.get("context_length") or _DEFAULT_CONTEXT
    if options.pop("reduction_mask", None):
        raise RequestError(
            "the model's tokenizer_kwargs have a reduction_mask, which drops words at random and is for "
            "training: take it out of the configuration"
        )
    if name is None:
        return _made(SimpleTokenizer, "CLIP's tokenizer", options)
    needs_extra(f"the tokenizer {name}")
    options["trust_remote_code"] = False  # a configuration is data: it may not bring code
    options["tokenizer_mode"] = text_cfg.get("tokenizer_mode")
    return _made(lambda **more: HFTokenizer(name, **more), f"the tokenizer {name}", options)


def _made(make: Any, what: str, options: dict[str, Any]) -> Tokenizer:
    from huggingface_hub import constants

    try:
        tokenizer: Tokenizer = make(**options)
    except TypeError as error:
        raise RequestError(f"{what} does not take the model's tokenizer_kwargs: {error}") from None
    except OSError as error:
        offline = (
            "HF_HUB_OFFLINE=1 forbids the download"
            if constants.HF_HUB_OFFLINE
            else "is the hub out of reach?"
        )
        raise RequestError(
            f"{what} cannot be had ({offline}); run `beamclip models pull` where there is a network, or use "
            "a local-dir: model with the tokenizer's files beside it"
        ) from error
    except (ValueError, ImportError) as error:
        raise RequestError(f"{what} cannot be read: {str(error).splitlines()[0]}") from error
    return tokenizer


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before truncation, start, end and class tokens included."""
    if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer: start and end are added later
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    if not texts:
        return []
    own = getattr(tokenizer, "tokenizer_mode", "") == "clips"  # it adds start, end and class by itself
    clean = [tokenizer.clean_fn(text) for text in texts]
    encoded = tokenizer.tokenizer(
        clean, add_special_tokens=not own, truncation=False, padding=False, verbose=False
    )
    return [len(ids) + 3 * own for ids in encoded["input_ids"]]


def tokenizer_folder(
    url: str, names: Sequence[str], *, storage_options: Mapping[str, object] | None = None
) -> str | None:
    """The local folder of the tokenizer that lies in a model's folder, or None where it has none.

    names: the files of the folder. Those of a store are fetched into the cache.
    """
    if not any(name in names for name in _FILES):
        return None
    local = local_folder(url, storage_options=storage_options)
    if local:
        return str(local)
    wanted = [name for name in names if name.endswith(_SUFFIXES)]
    files = {name: fetch(f"{url}/{name}", storage_options=storage_options) for name in wanted}
    content = "".join(f"{name} {file.sha256}\n" for name, file in sorted(files.items()))
    target = cache_dir() / "tokenizers" / hashlib.sha256(content.encode()).hexdigest()[:32]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent))
        for name, file in files.items():
            shutil.copyfile(file.path, made / name)
        try:
            made.replace(target)
        except OSError:  # another process made the same folder meanwhile
            shutil.rmtree(made)
    return str(target)
