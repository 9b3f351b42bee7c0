"""What is known of an encoder before its weights are there."""

from __future__ import annotations

from dataclasses import dataclass

from clip_transforms.encoders.base import Family, Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInfo:
    """The cheap facts of an encoder, for dry runs and lists."""

    name: str  # as requested, aliases resolved
    dim: int  # of an embedding
    preprocess: Preprocess
    parameters: int | None  # None: the text tower's configuration is on a hub and was not asked for
    context_length: int  # tokens, with start and end
    family: Family
