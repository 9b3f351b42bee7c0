"""What img2dataset writes beside its shards, and whether a shard that was read is complete."""

from __future__ import annotations

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.sources.opening import lasting_reason, open_input
from clip_transforms.sources.options import SourceOptions
from clip_transforms.sources.urls import canonical_uri, suffix_of

logger = logging.getLogger(__name__)

SIBLINGS = ("_stats.json", ".parquet")


def sibling_urls(url: str) -> tuple[str, str]:
    """The `_stats.json` and the `.parquet` that img2dataset writes beside a shard.

    >>> sibling_urls("/data/00001.tar")
    ('/data/00001_stats.json', '/data/00001.parquet')
    """
    stem = url[: -len(".tar")] if url.lower().endswith(".tar") else url
    return stem + SIBLINGS[0], stem + SIBLINGS[1]


def expected_images(url: str, options: SourceOptions) -> int | None:
    """How many images img2dataset says it put into the shard; None where it left no word.

    Raises StoreError where the store may answer later.
    """
    if suffix_of(url) != ".tar" or not url.lower().endswith(".tar"):
        return None
    stats, table = sibling_urls(url)
    try:
        with open_input(stats, options.storage_options) as stream:
            successes = json.loads(stream.read(2**20)).get("successes")
        if isinstance(successes, int):
            return int(successes)
    except (ValueError, AttributeError):
        logger.warning("%s is not img2dataset's and is not used", canonical_uri(stats))
    except Exception as error:  # noqa: BLE001 (what cannot be read for good is as if it were not there)
        lasting_reason(error, stats)
    try:
        with open_input(table, options.storage_options) as stream:
            file = pq.ParquetFile(stream)
            if "status" not in file.schema_arrow.names:
                return None
            batches = file.iter_batches(65_536, columns=["status"])
            return sum(int(batch.column(0).to_pylist().count("success")) for batch in batches)
    except pa.ArrowException:
        logger.warning("%s is not img2dataset's and is not used", canonical_uri(table))
    except Exception as error:  # noqa: BLE001 (as above)
        lasting_reason(error, table)
    return None


def why_incomplete(
    url: str,
    options: SourceOptions,
    *,
    bytes_read: int,
    size: int | None,
    planned_size: int | None,
    images: int,
) -> str | None:
    """Why a shard that was read to its end-of-archive blocks is still not whole; None where it is.

    size: bytes of the object as it was opened, planned_size as it was listed; images: rows that it gave.
    """
    if size is not None and bytes_read != size:
        return f"has {size} bytes, of which {bytes_read} were read"
    if planned_size is not None and bytes_read != planned_size:
        return f"has changed: {planned_size} bytes when it was planned, {bytes_read} now"
    expected = expected_images(url, options)
    if expected is not None and images != expected:
        return f"holds {images} images, img2dataset wrote {expected}"
    return None
