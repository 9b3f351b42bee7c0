"""What a run's identity is made of, and where a later job must agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from clip_transforms.elements import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a run is: kept in its plan; a later `--resume` may repeat these options, not change them."""

    input: tuple[str, ...] = ()
    format: str = "auto"
    id_column: str | None = None
    caption_column: str | None = None
    image_column: str | None = None
    carry: tuple[str, ...] = ()
    limit: int | None = None
    sample: float | None = None
    seed: int = 0
    encoder: str = "beamclip-tiny"
    weights: str | None = None
    model_config: str | None = None
    precision: str = "auto"
    background: str = "white"
    no_exif_transpose: bool = False
    no_draft: bool = False
    allow_truncated: bool = False
    max_bytes: int = 100 * 2**20
    max_pixels: int = 178_956_970
    embedding_dtype: str = "float32"
    unit_size: int | None = None


#: What each option of an `Identity` is when neither the command line nor a run says.
IDENTITY_DEFAULTS = Identity()


def identity_from(given: Mapping[str, Any], stored: Mapping[str, Any] | None) -> Identity:
    """The identity of a run: what was given over the defaults, or what is stored, with which `given` must agree.

    Raises RequestError naming the option, the value given and the run's.
    """
    names = {item.name for item in fields(Identity)}
    asked = {name: _frozen(value) for name, value in given.items() if name in names}
    if stored is None:
        return Identity(**asked)
    kept = {name: _frozen(value) for name, value in stored.items() if name in names}
    for name, value in asked.items():
        if kept.get(name, getattr(IDENTITY_DEFAULTS, name)) != value:
            flag = "--" + name.replace("_", "-")
            raise RequestError(
                f"{flag} {_shown(value)} does not agree with the run, which has {_shown(kept.get(name))}; "
                f"leave {flag} out, or give another --output"
            )
    return Identity(**kept)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
