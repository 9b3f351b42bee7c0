"""A folder on a local disk as a store: whole objects appear at once, and create-only puts are hard links."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from clip_transforms.elements import RequestError

#: Temporary files begin so: hidden to every reader of data sets, and never the suffix of a part.
TEMPORARY = ".tmp-"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_TRIES = 5


class LocalFiles:
    """Objects are files under `root`; names are '/'-separated. Errors are the OS's own."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str, block_size: int) -> BinaryIO:
        return (self.root / name).open("rb", buffering=min(block_size, 1 << 20))

    def write(self, name: str, data: bytes) -> None:
        self._put(name, data, create=False)

    def create(self, name: str, data: bytes) -> bool:
        return self._put(name, data, create=True)

    def exists(self, name: str) -> bool:
        try:
            return (self.root / name).is_file()
        except NotADirectoryError:
            return False

    def list(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """(name, size, mtime in ns) of the files below; links to folders are not followed."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                entries = os.scandir(self.root / current)
            except (FileNotFoundError, NotADirectoryError):
                continue  # deleted meanwhile, or never there
            with entries:
                for entry in entries:
                    name = f"{current}/{entry.name}" if current else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif not entry.name.startswith(TEMPORARY):
                        with contextlib.suppress(FileNotFoundError):
                            found = entry.stat()
                            yield name, found.st_size, str(found.st_mtime_ns)

    def folders(self, folder: str) -> Iterator[str]:
        try:
            entries = os.scandir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            yield from (entry.name for entry in entries if entry.is_dir())

    def delete(self, names: Iterable[str]) -> None:
        """Remove files, and folders that become empty, but the root: as in an object store, none stays."""
        for name in names:
            path = self.root / name
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for parent in path.relative_to(self.root).parents:
                if parent == Path():
                    break
                try:
                    (self.root / parent).rmdir()
                except OSError:
                    break

    def delete_temporaries(self, folder: str) -> None:
        """Remove what killed writers left in `folder`; a live one notices and writes again."""
        for base, _, files in os.walk(self.root / folder):
            for file in files:
                if file.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):
                        (Path(base) / file).unlink()

    def check(self) -> None:
        """Raise RequestError where the root is no folder."""
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"{self.root} is a file; give a folder as --output")

    def missing_folders(self) -> tuple[Path, ...]:
        """The root and those of its parents that are not there, deepest first."""
        return tuple(path for path in (self.root, *self.root.parents) if not path.exists())

    def _put(self, name: str, data: bytes, *, create: bool) -> bool:
        target = self.root / name
        for left in reversed(range(_TRIES)):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
            try:
                _write_through(temporary, data)
                made = _link(temporary, target) if create else _replace(temporary, target)
            except FileNotFoundError:
                # A cleaner removed the temporary file or the still empty folder under our hands.
                if not left:
                    raise
                continue
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            _sync_folder(target.parent)
            return made
        raise AssertionError("unreachable")


def _write_through(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(temporary: Path, target: Path) -> bool:
    temporary.replace(target)
    return True


def _link(temporary: Path, target: Path) -> bool:
    """Give the finished file its name unless that is taken: the local create that is whole and exclusive.

    O_EXCL would show a half-written object to readers and leave it behind when the writer is killed.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        # NFS may lose the answer to a link that succeeded, and repeat it: then the file has our second name.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise OSError(
                error.errno, "this file system has no hard links, so objects cannot be created only if absent"
            ) from error
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut: a commit must not outlive its parts."""
    with contextlib.suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
