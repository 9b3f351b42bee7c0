"""A tar archive read once from front to back, with proof that nothing of it is missing.

Python's own tarfile takes a damaged header for the end of the archive, and an archive that is cut between two
members reads without any error; both are told here. Nothing is unpacked, and at most one member is in memory.
Formats: ustar, GNU long names, pax (IEEE Std 1003.1, `pax` interchange format).
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = b"\0" * _BLOCK
#: Longest header of a long name or of pax records that is believed, in bytes.
_MAX_HEADER = 2**20
_CHUNK = 2**20


class ByteStream(Protocol):
    """What an archive is read from."""

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; none at the end."""
        ...


class BrokenTarError(Exception):
    """The archive ends early or is damaged; the message says how, the same every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file (or link) of an archive."""

    name: str  # UTF-8; other bytes are surrogates
    size: int  # bytes
    data: bytes | None  # None for a link, and for what is not wanted or too large
    is_link: bool = False


class TarStream:
    """The members of an archive, in order; raises BrokenTarError where it is cut or damaged."""

    def __init__(self, stream: ByteStream, *, want: Callable[[str], bool], max_bytes: int) -> None:
        self._stream = stream
        self._want = want
        self._max_bytes = max_bytes
        self._long_name: str | None = None
        self._pax: dict[str, str] = {}
        self._global_pax: dict[str, str] = {}
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Member]:
        while True:
            at = self.bytes_read
            block = self._read(_BLOCK)
            if not block:
                raise BrokenTarError(f"ends at byte {at} without the end-of-archive blocks")
            if len(block) < _BLOCK:
                raise BrokenTarError(f"ends at byte {self.bytes_read}, inside a header")
            if block == _ZEROS:
                self._finish()
                return
            member = self._member(block, at)
            if member is not None:
                yield member

    def _member(self, block: bytes, at: int) -> Member | None:
        """Read what follows a header; None for headers of headers, folders and unwanted kinds."""
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BrokenTarError(f"has a damaged header at byte {at}") from error
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            name = self._header_data(info.size, at).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            self._long_name = name if info.type == tarfile.GNUTYPE_LONGNAME else self._long_name
            return None
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _pax_records(self._header_data(info.size, at), at)
            (self._global_pax if info.type == tarfile.XGLTYPE else self._pax).update(records)
            return None
        records = {**self._global_pax, **self._pax}
        name = records.get("path") or self._long_name or info.name
        self._long_name, self._pax = None, {}
        if info.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_headers(block)
        if info.islnk() or info.issym():
            return Member(name=name, size=0, data=None, is_link=True)
        if info.isdir() or info.ischr() or info.isblk() or info.isfifo():
            return None
        size = _size_of(records, info, at)
        wanted = info.type in tarfile.REGULAR_TYPES and self._want(name)
        data: bytes | None = None
        if wanted and size <= self._max_bytes:
            data = self._data(size, name)
        else:
            self._skip(size, name)
        return Member(name=name, size=size, data=data) if wanted else None

    def _read(self, count: int) -> bytes:
        """Exactly `count` bytes, or all that is left."""
        data = self._stream.read(count)
        while len(data) < count:
            more = self._stream.read(count - len(data))
            if not more:
                break
            data += more
        self.bytes_read += len(data)
        return data

    def _data(self, size: int, name: str) -> bytes:
        data = self._read(size)
        if len(data) == size:
            self._pad(size, name)
            return data
        raise self._cut(name)

    def _skip(self, size: int, name: str) -> None:
        left = size
        while left:
            got = len(self._read(min(left, _CHUNK)))
            if not got:
                raise self._cut(name)
            left -= got
        self._pad(size, name)

    def _pad(self, size: int, name: str) -> None:
        padding = -size % _BLOCK
        if padding and len(self._read(padding)) < padding:
            raise self._cut(name)

    def _cut(self, name: str) -> BrokenTarError:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return BrokenTarError(f"ends at byte {self.bytes_read}, inside the member {shown}")

    def _header_data(self, size: int, at: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise BrokenTarError(f"has a damaged header at byte {at}")
        return self._data(size, "of an extended header")

    def _skip_sparse_headers(self, block: bytes) -> None:
        extended = block[482]
        while extended:
            more = self._read(_BLOCK)
            extended = more[504] if len(more) == _BLOCK else 0

    def _finish(self) -> None:
        """The first of two zero blocks was read: want the second, then nothing but padding."""
        second = self._read(_BLOCK)
        if second != _ZEROS:
            raise BrokenTarError(
                f"has one end-of-archive block at byte {self.bytes_read - len(second)}, not two"
            )
        end = self.bytes_read
        while rest := self._read(_CHUNK):
            if rest.count(0) != len(rest):
                raise BrokenTarError(f"has data after its end at byte {end}")


def _pax_records(data: bytes, at: int) -> dict[str, str]:
    """`<length> <key>=<value>` records."""
    records: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place] != 0:
        digits, _, _ = data[place : place + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[place : place + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if length < 5 or not equals or len(record) != length or record[-1:] != b"\n":
            raise BrokenTarError(f"has a damaged header at byte {at}")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        place += length
    return records


def _size_of(records: dict[str, str], info: tarfile.TarInfo, at: int) -> int:
    text = records.get("size")
    if text is None:
        size = info.size
    else:
        size = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if size < 0:
        raise BrokenTarError(f"has a damaged header at byte {at}")
    return size
