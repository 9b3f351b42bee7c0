"""How often each file of a folder is opened, by whatever process: Linux inotify."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from pathlib import Path

_OPEN = 0x20  # IN_OPEN of inotify(7)
_HEAD = struct.Struct("iIII")


class Opened:
    """Counts from its making on; `counts` may be asked again and again."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the system refuses."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), _OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._counts: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """Times each name was opened. Raises RuntimeError where events were lost."""
        while True:
            try:
                data = os.read(self._fd, 2**16)
            except BlockingIOError:
                return Counter(self._counts)
            at = 0
            while at < len(data):
                watch, _, _, length = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
                at += _HEAD.size + length
                if watch < 0:
                    raise RuntimeError("inotify lost events: ask more often")
                if name:
                    self._counts[os.fsdecode(name)] += 1

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
