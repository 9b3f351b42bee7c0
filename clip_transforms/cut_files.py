"""Whether an image file ends before its own structure says it does."""

from __future__ import annotations

import struct

END_OF_JPEG = b"\xff\xd9"


def is_cut(name: str, data: bytes) -> bool:
    """Whether the file is shorter than its own structure says; asked only where decoding has failed.

    >>> is_cut("GIF", b"GIF89a" + bytes(20))
    True
    """
    size = len(data)
    if name == "JPEG":
        return END_OF_JPEG not in data
    if name == "PNG":
        return b"IEND" not in data
    if name == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if name == "BMP":
        return size < 18 or int.from_bytes(data[2:6], "little") > size
    if name == "WEBP":
        return size < 12 or int.from_bytes(data[4:8], "little") + 8 > size
    if name == "JPEG2000" and data.startswith(b"\xff\x4f"):
        return not data.endswith(END_OF_JPEG)
    if name in ("AVIF", "JPEG2000"):
        return _last_box_end(data) > size
    if name == "TIFF":
        return _last_tiff_byte(data) > size
    return False


def _last_box_end(data: bytes) -> int:
    """End of the last top-level box of an ISO base media file (ISO/IEC 14496-12, 4.2)."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0: to the end of the file
            return len(data)
        place += size
    return place if place >= len(data) else len(data) + 1


def _last_tiff_byte(data: bytes) -> int:
    """End of the first directory and of its strips or tiles (TIFF 6.0, section 2); 0 for BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    beyond = len(data) + 1
    if len(data) < 8 or struct.unpack(order + "H", data[2:4])[0] != 42:
        return beyond if len(data) < 8 else 0
    (place,) = struct.unpack(order + "I", data[4:8])
    if place + 2 > len(data):
        return beyond
    (count,) = struct.unpack(order + "H", data[place : place + 2])
    end = int(place) + 2 + 12 * int(count)
    if end > len(data):
        return beyond
    spans: dict[int, tuple[int, ...]] = {}
    for start in range(place + 2, end, 12):
        tag, kind, length, value = struct.unpack(order + "HHI4s", data[start : start + 12])
        if tag in (273, 279, 324, 325) and kind in (3, 4):
            width = 2 if kind == 3 else 4
            at = start + 8 if length * width <= 4 else struct.unpack(order + "I", value)[0]
            if at + length * width > len(data):
                return beyond
            spans[tag] = struct.unpack_from(f"{order}{length}{'H' if kind == 3 else 'I'}", data, at)
    for offsets, lengths in ((273, 279), (324, 325)):
        ends = [a + b for a, b in zip(spans.get(offsets, ()), spans.get(lengths, ()), strict=False)]
        end = max([end, *ends])
    return end
