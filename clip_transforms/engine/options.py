"""The engine's options, checked when they are made, and what they come to on a machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import Encoder
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions

_CPU_BATCH = 32  # a CPU gains nothing from more
_DEVICE_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How much the engine does at once. Picklable; results depend on `fetch` and `decode` alone.

    batch_size: images a call of the encoder; None: 32 on the CPU, 256 on another device. Lowered by itself
        when the device runs out of memory. A device that is idle gets a batch that is half full.
    fetch_threads, decode_threads: in all, spread over the processes if there are any. decode_threads None:
        one for each CPU this process may use.
    fetch_processes: processes that fetch and decode in place of this one's threads; 0: none. For machines
        where one Python process cannot feed the accelerator.
    max_inflight_bytes, max_inflight_images: what may be between source and embedding: encoded bytes and
        pixels at the encoder's size. Exceeded only by a single image larger than all of it, by images whose
        size no listing told (corrected once they are read), and by one payload a unit, which its source
        holds while it waits. Not counted: the full-size picture inside each decode thread, of at most
        `decode.max_pixels`, and with processes the second copy of a payload. max_inflight_images None: two
        images a fetch thread and four batches.
    unit_window: items of one unit between its source and its sink; beyond, a slow sink holds its source back.
    """

    batch_size: int | None = None
    fetch_threads: int = 32
    decode_threads: int | None = None
    fetch_processes: int = 0
    max_inflight_bytes: int = 512 * 2**20
    max_inflight_images: int | None = None
    unit_window: int = 4096
    fetch: FetchOptions = field(default_factory=FetchOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)

    def __post_init__(self) -> None:
        least = {"fetch_threads": 1, "fetch_processes": 0, "max_inflight_bytes": 1, "unit_window": 1}
        optional = {"batch_size": 1, "decode_threads": 1, "max_inflight_images": 1}
        for name, minimum in {**least, **optional}.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if value < minimum:
                raise RequestError(f"{name} is {value}; it must be at least {minimum}")
        if self.fetch_processes and os.name != "posix":
            raise RequestError("fetch_processes needs a POSIX system; leave it at 0 and use decode_threads")

    def batch_size_for(self, encoder: Encoder) -> int:
        """Images a call of `encode_images`."""
        return self.batch_size or (_CPU_BATCH if encoder.device == "cpu" else _DEVICE_BATCH)

    def decode_threads_here(self) -> int:
        """Threads, or processes times threads, that decode on this machine."""
        return self.decode_threads or usable_cpus()

    def images_for(self, batch_size: int) -> int:
        """Images between source and embedding."""
        return self.max_inflight_images or 2 * self.fetch_threads + 4 * batch_size


def usable_cpus() -> int:
    """CPUs this process may run on; a container's CPU set counts, its share of CPU time does not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
