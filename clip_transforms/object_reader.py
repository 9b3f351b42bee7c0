"""Opens one remote object for reading by ranges: of Google Cloud Storage with two kinds of requests and no more."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from clip_transforms.client_options import GCS
from clip_transforms.listing_pages import stat_entry
from clip_transforms.retries import retried


def open_object(filesystem: Any, path: str, *, block_size: int) -> BinaryIO:
    """A seekable reader that reads `block_size` bytes ahead; raises what the store's client raises.

    path: as the file system names it. gcsfs's own file asks for the object and for a folder of its name at once,
    leaves the slower answer alone, and fetches ahead in the background; here an object is one request for its size
    and one a block, each retried until it is answered.
    """
    protocol = filesystem.protocol
    if GCS.isdisjoint([protocol] if isinstance(protocol, str) else protocol):
        return cast(BinaryIO, filesystem.open(path, "rb", block_size=block_size, cache_type="readahead"))
    return cast(BinaryIO, _reader(filesystem, path, block_size))


def _reader(filesystem: Any, path: str, block_size: int) -> Any:
    from fsspec.spec import AbstractBufferedFile  # not needed to start

    class Ranges(AbstractBufferedFile):  # type: ignore[misc]
        """The bytes of an object whose size is known."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            return retried(
                lambda: bytes(filesystem.cat_file(path, start=start, end=end)), what=f"read {path}"
            )

    size = stat_entry(filesystem, path).size
    return Ranges(filesystem, path, "rb", block_size=block_size, cache_type="readahead", size=size)
