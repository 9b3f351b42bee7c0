"""What img2dataset writes beside its shards: whether one is complete, and which urls it could not download."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.elements import Failure, Reason, Stage
from clip_transforms.fetch_errors import status_problem
from clip_transforms.sources.columns import text_of
from clip_transforms.sources.opening import lasting_reason, open_input
from clip_transforms.sources.options import SourceOptions
from clip_transforms.sources.urls import canonical_uri, image_id_of, scrub, shown, suffix_of

logger = logging.getLogger(__name__)

SIBLINGS = ("_stats.json", ".parquet")
_SUCCESS = "success"
#: The columns that tell img2dataset's tables from others.
_COLUMNS = ("key", "status", "error_message")
_HTTP_STATUS = re.compile(r"HTTP Error (\d{3})")
_LONGEST_MESSAGE = 200


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


def why_missing(values: Mapping[str, object]) -> tuple[Stage, Reason, str] | None:
    """Why a row of img2dataset's table has no image; None where it has one, or the table is another's.

    >>> why_missing({"key": "0", "status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"})[1].value
    'not_found'
    """
    status = values.get("status")
    if not isinstance(status, str) or status == _SUCCESS or any(name not in values for name in _COLUMNS):
        return None
    told = scrub(shown(str(values["error_message"] or "")))[:_LONGEST_MESSAGE]
    message = f"img2dataset: {shown(status)[:40]}" + (f": {told}" if told else "")
    if status == "failed_to_resize":
        return Stage.DECODE, Reason.DECODE_ERROR, message
    if found := _HTTP_STATUS.search(told):
        return Stage.FETCH, status_problem(int(found[1])).reason, message
    if "timed out" in told:
        return Stage.FETCH, Reason.TIMEOUT, message
    return Stage.FETCH, Reason.FORBIDDEN if "disallowed" in told else Reason.HTTP_ERROR, message


def missing_images(url: str, options: SourceOptions) -> Iterator[Failure]:
    """A failure for each url that is in the table beside a shard and not in the shard, in the table's order.

    They are called `SHARD#KEY`, as the images are. Raises StoreError where the store may answer later.
    """
    uri, table = canonical_uri(url), sibling_urls(url)[1]
    try:
        with open_input(table, options.storage_options) as stream:
            file = pq.ParquetFile(stream)
            names = [name for name in (*_COLUMNS, options.id_column) if name in file.schema_arrow.names]
            for batch in file.iter_batches(8192, columns=names):
                for values in batch.to_pylist():
                    why = why_missing(values)
                    if why is not None:
                        stage, reason, message = why
                        name = f"{uri}#{shown(str(values['key']))}"
                        own_id = text_of(values.get(options.id_column)) if options.id_column else None
                        yield Failure(
                            image_id=own_id or image_id_of(name),
                            uri=name,
                            stage=stage,
                            reason=reason,
                            message=message,
                        )
    except pa.ArrowException:
        logger.warning("%s is not img2dataset's and is not used", canonical_uri(table))
    except Exception as error:  # noqa: BLE001 (what cannot be read for good is as if it were not there)
        lasting_reason(error, table)
        logger.warning("%s is not there: urls that img2dataset could not download go uncounted", table)


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
