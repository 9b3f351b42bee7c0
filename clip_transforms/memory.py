"""Memory of this process: the C allocator kept from hoarding it, and its peak."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

import pyarrow as pa

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_M_ARENA_MAX = -8
_ARENAS = 2
_MMAP_BYTES = 128 * 1024
_logger = logging.getLogger(__name__)


def limit_malloc() -> bool:
    """Keep glibc's malloc at few arenas and a fixed mmap threshold; whether that was done.

    By default each of the many threads that fetch, decode and write gets an arena of its own, which keeps what
    was freed: a run over 200,000 members of tars then grew by 170 MB more. Left alone where MALLOC_ARENA_MAX is
    set, and where there is no glibc. Source: mallopt(3).
    """
    if "MALLOC_ARENA_MAX" in os.environ or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    done = bool(mallopt(_M_ARENA_MAX, _ARENAS)) and bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))
    _logger.info("malloc is kept at %d arenas: %s", _ARENAS, done)
    return done


def release_memory() -> None:
    """Give free memory back to the system: Arrow's pool, and glibc's heap where there is one.

    After each unit, so that the peak is that of the largest units and not of how often they came.
    """
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
