"""Inventory reports as Amazon and Google write them, for tests."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.storage import Store

S3_COLUMNS = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag")
S3_PARQUET = pa.schema(
    [
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("version_id", pa.string()),
        pa.field("is_latest", pa.bool_()),
        pa.field("is_delete_marker", pa.bool_()),
        pa.field("size", pa.int64()),
        pa.field("last_modified_date", pa.timestamp("ms")),
        pa.field("e_tag", pa.string()),
    ]
)
_MESSAGE = (
    "message s3.inventory {  required binary bucket (UTF8);  required binary key (UTF8);  optional binary version_id "
    "(UTF8);  optional boolean is_latest;  optional boolean is_delete_marker;  optional int64 size;  optional int64 "
    "last_modified_date (TIMESTAMP_MILLIS);  optional binary e_tag (UTF8);}"
)
GCS_COLUMNS = ("project", "bucket", "name", "location", "size", "timeDeleted", "storageClass", "generation")
GCS_ID = "fc95c52f-157a-494f-af4a-d4a53a69ba66_2026-01-05T00:00"

Row = Mapping[str, Any]


def s3_row(key: str, size: int | None = None, etag: str | None = None, **other: Any) -> Row:
    """One object of the bucket `bucket`, by the names of `S3_COLUMNS`."""
    first = {"Bucket": "bucket", "Key": key, "VersionId": "", "IsLatest": True, "IsDeleteMarker": False}
    return {**first, "Size": size, "ETag": etag, **other}


def s3_csv(rows: Sequence[Row], columns: Sequence[str] = S3_COLUMNS) -> bytes:
    """A data file: gzipped, no header, every cell quoted, keys url-encoded."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        cells = {**row, "Key": quote_plus(row["Key"], safe="/")}
        cells |= {name: str(value).lower() for name, value in cells.items() if isinstance(value, bool)}
        writer.writerow(["" if cells.get(name) is None else cells[name] for name in columns])
    return gzip.compress(text.getvalue().encode())


def s3_parquet(rows: Sequence[Row]) -> bytes:
    """A data file in Parquet, compressed with Snappy."""
    names = dict(zip(S3_PARQUET.names, S3_COLUMNS, strict=True))
    table = pa.table({name: [row.get(old) for row in rows] for name, old in names.items()}, schema=S3_PARQUET)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="snappy")
    return buffer.getvalue()


def s3_manifest(files: Mapping[str, bytes], *, style: str = "CSV", **changed: Any) -> bytes:
    """`manifest.json` over data files in the bucket `bucket`, by their keys."""
    listed = [
        {"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}
        for key, data in files.items()
    ]
    manifest = {
        "sourceBucket": "bucket",
        "destinationBucket": "arn:aws:s3:::bucket",
        "version": "2016-11-30",
        "creationTimestamp": "1767571200000",
        "fileFormat": style,
        "fileSchema": ", ".join(S3_COLUMNS) if style == "CSV" else _MESSAGE,
        "files": listed,
    }
    return json.dumps({**manifest, **changed}, indent=1).encode()


def write_s3_report(bucket: Store, batches: Sequence[Sequence[Row]], *, style: str = "CSV") -> str:
    """A whole report below `inventory/` of the bucket; the url of its manifest."""
    folder, suffix = f"inventory/bucket/{style.lower()}", {"CSV": "csv.gz", "Parquet": "parquet"}[style]
    make = s3_csv if style == "CSV" else s3_parquet
    files = {f"{folder}/data/{number:04d}.{suffix}": make(rows) for number, rows in enumerate(batches)}
    for key, data in files.items():
        bucket.write(key, data)
    name = f"{folder}/2026-01-05T00-00Z/manifest.json"
    bucket.write(name, s3_manifest(files, style=style))
    return bucket.join(name)


def gcs_row(name: str, size: int | None = None, generation: str | None = None, **other: Any) -> Row:
    """One object of the bucket `bucket`, by the names of `GCS_COLUMNS`."""
    first = {
        "project": "1234",
        "bucket": "bucket",
        "name": name,
        "location": "us",
        "storageClass": "STANDARD",
    }
    return {**first, "size": size, "generation": generation, **other}


def gcs_shard(rows: Sequence[Row], *, style: str = "csv", header: bool = True, delimiter: str = ",") -> bytes:
    """A shard in CSV or Parquet."""
    if style == "parquet":
        buffer = io.BytesIO()
        kinds = {"size": pa.int64(), "generation": pa.int64(), "timeDeleted": pa.timestamp("us")}
        columns = {
            name: pa.array([row.get(name) for row in rows], kinds.get(name, pa.string()))
            for name in GCS_COLUMNS
        }
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([GCS_COLUMNS] if header else [])
    writer.writerows([["" if row.get(name) is None else row[name] for name in GCS_COLUMNS] for row in rows])
    return text.getvalue().encode()


def gcs_manifest(shards: Sequence[str], rows: int, *, header: bool = True, delimiter: str = ",") -> bytes:
    """`..._manifest.json` over shards beside it."""
    options = {"delimiter": delimiter, "recordSeparator": "\n", "headerRequired": header}
    manifest = {
        "report_config": {
            "name": "projects/1234/locations/us/reportConfigs/fc95c52f-157a-494f-af4a-d4a53a69ba66",
            "csvOptions": options,
            "objectMetadataReportOptions": {"metadataFields": list(GCS_COLUMNS)},
        },
        "records_processed": rows,
        "snapshot_time": "2026-01-05T00:00:00Z",
        "target_datetime": "2026-01-05T00:00:00Z",
        "shard_count": len(shards),
        "report_shards_file_names": list(shards),
    }
    return json.dumps(manifest, indent=1).encode()


def write_gcs_report(
    store: Store,
    batches: Sequence[Sequence[Row]],
    *,
    style: str = "csv",
    header: bool = True,
    delimiter: str = ",",
) -> str:
    """A whole report below `reports/` of the store; the url of its manifest."""
    shards = {}
    for number, rows in enumerate(batches):
        data = gcs_shard(rows, style=style, header=header, delimiter=delimiter)
        shards[f"{GCS_ID}_{number}.{style}"] = data
    for name, data in shards.items():
        store.write(f"reports/{name}", data)
    rows = sum(map(len, batches))
    manifest = gcs_manifest(list(shards), rows, header=header, delimiter=delimiter)
    store.write(f"reports/{GCS_ID}_manifest.json", manifest)
    return store.join(f"reports/{GCS_ID}_manifest.json")
