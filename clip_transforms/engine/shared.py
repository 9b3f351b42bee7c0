"""The engines of this process: one for each encoder and set of options, whichever thread asks."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass

from clip_transforms import encoders
from clip_transforms.encoders.base import Encoder, EncoderSpec
from clip_transforms.engine.core import Engine
from clip_transforms.engine.options import EngineOptions

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_engines: dict[Hashable, Engine] = {}


def engine_for(spec: EncoderSpec, options: EngineOptions) -> Engine:
    """The process's engine for an encoder and options, made (and the encoder loaded) at the first call.

    Runners call from many threads: all get the same engine, and the others wait while the first loads. A
    forked process starts without engines and makes its own. Closed engines are replaced. Raises what
    `encoders.load` raises; the next call then tries again.
    """
    key = (_frozen(spec), _frozen(options))
    with _lock:
        engine = _engines.get(key)
        if engine is None or engine.closed:
            engine = _engines[key] = Engine(_loaded(spec), options)
        return engine


def _loaded(spec: EncoderSpec) -> Encoder:
    started = time.perf_counter()
    encoder = encoders.load(spec)
    seconds = time.perf_counter() - started
    # A runner's worker logs tell by this how many processes hold a model, and what each waited for it.
    _logger.info("process %d loaded %s on %s in %.1f s", os.getpid(), encoder.name, encoder.device, seconds)
    return encoder


def _frozen(value: object) -> Hashable:
    """A value that is equal, and hashes alike, for equal options; mappings may be in any order.

    >>> _frozen({"b": [1, 2], "a": None}) == _frozen({"a": None, "b": (1, 2)})
    True
    """
    if is_dataclass(value) and not isinstance(value, type):
        parts = tuple(_frozen(getattr(value, field.name)) for field in fields(value))
        return (type(value).__qualname__, *parts)
    if isinstance(value, Mapping):
        return frozenset((_frozen(key), _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return pickle.dumps(value)
    return value


def _after_fork() -> None:
    """The parent's threads are not here, and its lock may have been held."""
    global _lock
    _lock = threading.Lock()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
