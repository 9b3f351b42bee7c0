"""One file of an export."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file's name below the export's folder, and its bytes."""

    name: str
    data: bytes
