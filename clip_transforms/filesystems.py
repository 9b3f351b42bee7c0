"""Opens fsspec file systems as beamclip needs them: listings never cached, a missing extra named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from clip_transforms.elements import RequestError

# gcsfs 2026 otherwise asks a gRPC service for each bucket's type, and waits a minute where that is out of
# reach. It reads this when it is imported, so it must be set before; a value that the user has set stays.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}


def protocol_of(url: str) -> str:
    """The scheme of an fsspec url, of a chained one the outermost; `file` for a plain path.

    >>> protocol_of("gs://bucket/run"), protocol_of("simplecache::s3://b/k"), protocol_of("/data/run")
    ('gs', 'simplecache', 'file')
    """
    if "://" not in url:
        return "file"
    scheme = url.split("://", 1)[0].split("::", 1)[0]
    return "file" if scheme == "local" else scheme


def open_filesystem(url: str, storage_options: Mapping[str, object] | None = None) -> tuple[Any, str]:
    """The file system of `url` and the path within it.

    Listings are never cached: other processes write to the same folders. Raises RequestError where the
    scheme is unknown, the library for it is not installed, or the options do not fit it.
    """
    import fsspec  # takes 60 ms, and `beamclip --help` needs none of it

    options = dict(storage_options or {})
    protocol = protocol_of(url)
    if protocol != "file":
        options["use_listings_cache"] = False
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        mend = f"pip install 'beamclip[{extra}]'" if extra else f"install what fsspec needs for {protocol}://"
        raise RequestError(
            f"{url}: {protocol}:// urls need a library that is not installed; {mend}"
        ) from error
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"{url}: this url or its --storage-option values cannot be used: {error}"
        ) from error
    return filesystem, str(path).rstrip("/")
