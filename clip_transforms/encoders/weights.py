"""Files of models fetched from any fsspec url, once a machine, into a locked cache."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import platformdirs
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.filesystems import shown as shown  # the backends' errors name urls, too

_LOG = logging.getLogger(__name__)

#: Names another folder for the cache, e.g. one that is baked into a container image.
CACHE_VARIABLE = "BEAMCLIP_CACHE"
_CHUNK = 8 * 1024 * 1024  # bytes
#: The fields of `fs.info` that tell one version of an object from the next, by store.
_VERSION_FIELDS = (
    "generation", "ETag", "etag", "md5Hash", "crc32c", "mtime", "LastModified", "last_modified", "updated",
    "created",
)  # fmt: skip

#: Called with (bytes so far, bytes in all or None) while a file is fetched.
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file of a model on this machine."""

    path: Path
    sha256: str  # hex
    fetched: bool = False  # this call brought it here


def cache_dir() -> Path:
    """Where fetched files are kept: `$BEAMCLIP_CACHE`, or the platform's cache folder of the user."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("beamclip"))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(
    url: str,
    *,
    storage_options: Mapping[str, object] | None = None,
    expected_sha256: str = "",
    progress: Progress | None = None,
) -> LocalFile:
    """The file behind `url` on this machine: itself if it is local, else a copy in the cache.

    A copy is named by the url, its size and its version (generation, etag or time), so a changed object is
    fetched anew and an old copy is never passed off as the new one. One process a machine downloads, the
    others wait for its lock, which the system lets go when a process dies. A copy appears under its name
    only when it is whole: its size is the object's and its hash begins with `expected_sha256`.
    Raises RequestError where the object is missing, forbidden, unreachable or not what was expected.
    """
    fs, path = open_filesystem(url, storage_options)
    if isinstance(fs, LocalFileSystem):
        return _local(Path(path), expected_sha256)
    info = _call(url, fs.info, path)
    if info.get("type") == "directory":
        raise RequestError(f"{shown(url)} is a folder; expected a file")
    target = _target(url, info)
    _make_folder(target.parent)
    with FileLock(f"{target}.lock"):
        digest_file = target.with_name(f"{target.name}.sha256")
        digest = _cached_digest(target, digest_file, info.get("size"))
        fetched = digest is None
        if digest is None:
            part = target.with_name(
                f"{target.name}.part"
            )  # left over only by a process that died: overwritten
            digest = _download(
                url, fs, path, part=part, size=info.get("size"), expected=expected_sha256, progress=progress
            )
            digest_file.write_text(digest, encoding="ascii")
            part.replace(target)
            _LOG.info("fetched %s to %s", shown(url), target)
    _expect(url, digest, expected_sha256)
    return LocalFile(path=target, sha256=digest, fetched=fetched)


def fetch_text(url: str, *, storage_options: Mapping[str, object] | None = None) -> str:
    """A small text file (a model's JSON), read where it is; nothing is cached. Raises RequestError."""
    fs, path = open_filesystem(url, storage_options)
    data: bytes = _call(url, fs.cat_file, path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{shown(url)} is not UTF-8 text") from None


def list_folder(url: str, *, storage_options: Mapping[str, object] | None = None) -> list[str]:
    """The names of the files in a folder, sorted. Raises RequestError where there is no such folder."""
    fs, path = open_filesystem(url, storage_options)
    entries: list[dict[str, Any]] = _call(url, lambda folder: fs.ls(folder, detail=True), path)
    files = [str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "file"]
    if files == [path.rstrip("/")]:
        raise RequestError(f"{shown(url)} is a file; expected a folder")
    return sorted(name.rsplit("/", 1)[-1] for name in files)


def local_folder(url: str, *, storage_options: Mapping[str, object] | None = None) -> Path | None:
    """The path behind a url of this machine's own disk; None for a store."""
    fs, path = open_filesystem(url, storage_options)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def _call(url: str, function: Callable[[str], Any], path: str) -> Any:
    """A store's answer, its errors turned into ones that name the url."""
    try:
        return function(path)
    except (FileNotFoundError, NotADirectoryError):
        # fsspec's http file system says "not found" of a host that does not answer, too
        unless = ", or its host cannot be reached" if url.startswith(("http://", "https://")) else ""
        raise RequestError(f"there is no {shown(url)}{unless}") from None
    except IsADirectoryError:
        raise RequestError(f"{shown(url)} is a folder; expected a file") from None
    except PermissionError:
        raise RequestError(
            f"{shown(url)} may not be read: check the credentials and --storage-option"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(
                f"no room for {shown(url)} in {cache_dir()}: {CACHE_VARIABLE} names another"
            ) from error
        raise RequestError(f"{shown(url)} cannot be read ({type(error).__name__})") from error
    except Exception as error:
        # the store's message may hold a signed url, its type does not
        raise RequestError(f"{shown(url)} cannot be read ({type(error).__name__})") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"the cache folder {folder} cannot be made ({error.strerror}): set {CACHE_VARIABLE} to another"
        ) from None


def _local(path: Path, expected_sha256: str) -> LocalFile:
    if path.is_dir():
        raise RequestError(f"{path} is a folder; expected a file")
    try:
        digest = sha256_of(path)
    except FileNotFoundError:
        raise RequestError(f"there is no {path}") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror})") from None
    _expect(str(path), digest, expected_sha256)
    return LocalFile(path=path, sha256=digest)


def _target(url: str, info: Mapping[str, Any]) -> Path:
    version = next((f"{key}={info[key]}" for key in _VERSION_FIELDS if info.get(key)), "")
    # with a version the query is no part of the name: it is a signature, new with every request
    identity = f"{shown(url)} {version}" if version else url
    key = hashlib.sha256(f"{identity} {info.get('size')}".encode()).hexdigest()[:32]
    name = re.sub(r"[^\w.-]", "_", shown(url).rsplit("/", 1)[-1])[-80:]
    return cache_dir() / "weights" / f"{key}-{name}"


def _cached_digest(target: Path, digest_file: Path, size: int | None) -> str | None:
    """The hash of the cached copy, or None where there is none of the right size."""
    with suppress(FileNotFoundError):
        digest = digest_file.read_text(encoding="ascii")
        if size is None or target.stat().st_size == size:
            return digest
    return None


def _download(
    url: str,
    fs: fsspec.AbstractFileSystem,
    path: str,
    *,
    part: Path,
    size: int | None,
    expected: str,
    progress: Progress | None,
) -> str:
    """Write the object to `part`; returns its SHA-256. Raises RequestError, leaving nothing behind."""
    try:
        with open(part, "wb") as output:
            digest, count = _call(url, lambda name: _copy(fs, name, output, size, progress), path)
            output.flush()
            os.fsync(output.fileno())
        if size is not None and count != size:
            raise RequestError(f"{shown(url)} ended after {count} of {size} bytes; try again")
        _expect(url, digest, expected)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return str(digest)


def _copy(
    fs: fsspec.AbstractFileSystem, path: str, output: BinaryIO, size: int | None, progress: Progress | None
) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    with fs.open(path, "rb", block_size=_CHUNK) as source:
        while chunk := source.read(_CHUNK):
            output.write(chunk)
            digest.update(chunk)
            count += len(chunk)
            if progress:
                progress(count, size)
    return digest.hexdigest(), count


def _expect(url: str, digest: str, expected: str) -> None:
    if not digest.startswith(expected):
        raise RequestError(
            f"{shown(url)} is not the file it should be: SHA-256 {digest}, expected {expected}"
        )
