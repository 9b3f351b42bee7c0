"""The encoder that a transform is asked for, checked where the pipeline is built."""

from __future__ import annotations

from clip_transforms.elements import RequestError
from clip_transforms.encoders import BUILT_IN, EncoderSpec, describe
from clip_transforms.encoders.names import check_spec, parse_open_clip, split_name

#: The encoder where none is named.
DEFAULT_ENCODER = BUILT_IN


def encoder_spec(encoder: str | EncoderSpec) -> EncoderSpec:
    """The request for an encoder, by name or in full. Raises RequestError, naming what is near.

    Names whose configuration is at hand are looked up, which for open_clip imports torch here too; hub and
    folder names, and models with a `model_config` of their own, are only checked for their form, as the
    launcher may not reach them.

    >>> encoder_spec("fake?dim=16").name
    'fake?dim=16'
    """
    if not isinstance(encoder, (str, EncoderSpec)):
        raise RequestError(f"encoder is a {type(encoder).__name__}, expected a name or an EncoderSpec")
    spec = EncoderSpec(name=encoder) if isinstance(encoder, str) else encoder
    check_spec(spec)
    backend, model = split_name(spec.name)
    if backend == "open_clip":
        near = parse_open_clip(model).kind in ("arch", "built-in") and spec.model_config is None
        if not near:
            return spec
    describe(spec)
    return spec
