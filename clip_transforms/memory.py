"""Memory of this process: the C allocator kept from hoarding it, and its peak."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time

import pyarrow as pa

_M_TRIM_THRESHOLD = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_ARENAS = 2
_MMAP_BYTES = 32 * 2**20  # the most that glibc takes
_TRIM_BYTES = 64 * 2**20
_PAUSE_S = 0.25
_released = -_PAUSE_S  # when memory was given back last
_logger = logging.getLogger(__name__)


def limit_malloc() -> bool:
    """Keep glibc's malloc at few arenas, and pictures in these; whether that was done.

    By default each of the many threads that fetch, decode and write gets an arena of its own, which keeps what
    was freed: a run over 200,000 members of tars then grew by 170 MB more. The thresholds are high, as a picture or a
    layer's activations above them would be mapped and unmapped each time, page by page: in a virtual machine that
    took a tenth to a third of the time of decoding and of encoding on the CPU. What is free is given back by
    `release_memory`. Left alone where MALLOC_ARENA_MAX is set, and where there is no glibc. Source: mallopt(3).
    """
    if "MALLOC_ARENA_MAX" in os.environ or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    limits = {_M_ARENA_MAX: _ARENAS, _M_MMAP_THRESHOLD: _MMAP_BYTES, _M_TRIM_THRESHOLD: _TRIM_BYTES}
    done = all(mallopt(limit, value) for limit, value in limits.items())
    _logger.info("malloc is kept at %d arenas: %s", _ARENAS, done)
    return done


def release_memory() -> None:
    """Give free memory back to the system: Arrow's pool, and glibc's heap where there is one.

    Around each commit, so that the peak is that of the largest units and not of how often they came; nothing where it
    was done a moment ago, as pages that are given back must be had again.
    """
    global _released
    now = time.monotonic()
    if now - _released < _PAUSE_S:
        return
    _released = now
    pa.default_memory_pool().release_unused()
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
