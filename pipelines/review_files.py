"""Files that people give to `beamclip review`: read and written whole, on disk or in any store."""

from __future__ import annotations

from collections.abc import Mapping

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem, shown
from clip_transforms.storage import Store


def read_file(url: str, options: Mapping[str, object], *, flag: str = "") -> bytes:
    """A whole file; RequestError where it cannot be read. flag: the option that named it."""
    told = f"{flag} {shown(url)}".strip()
    try:
        filesystem, path = open_filesystem(url, options)
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise RequestError(f"{told} does not exist") from error
    except IsADirectoryError as error:
        raise RequestError(f"{told} is a folder; give the file") from error
    except RequestError:
        raise
    except Exception as error:  # each store's client has exceptions of its own
        raise RequestError(f"{told} cannot be read: {type(error).__name__}: {error}") from error


def write_file(url: str, data: bytes, options: Mapping[str, object]) -> None:
    """A whole file, an older one is replaced."""
    folder, _, name = url.replace("\\", "/").rpartition("/")
    if not name:
        raise RequestError(f"{shown(url)} is no name of a file")
    Store(folder or ("/" if url.startswith("/") else "."), options).write(name, data)
