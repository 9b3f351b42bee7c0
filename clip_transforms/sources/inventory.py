"""Inventory reports of buckets (S3 Inventory, Google's Storage Insights): their manifests, files and columns.

S3 Inventory writes `manifest.json` (sourceBucket, destinationBucket, fileFormat, fileSchema, files) and gzipped CSV
without a header, ORC or Parquet:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html. Storage Insights writes
`<id>_<time>_manifest.json` (report_config, records_processed, report_shards_file_names) and CSV or Parquet beside it:
https://cloud.google.com/storage/docs/insights/inventory-reports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clip_transforms.elements import RequestError
from clip_transforms.sources.columns import URI_COLUMNS, listed
from clip_transforms.sources.opening import open_input, refusal
from clip_transforms.sources.options import SourceOptions
from clip_transforms.sources.urls import canonical_uri, resolve

#: A manifest of a report is small: some 100 bytes a file.
_MAX_MANIFEST_BYTES = 64 * 2**20
#: What reports tell of each object; these go into no row, unless they are asked for with --carry.
_KNOWN = frozenset(
    {"bucket", "key", "versionid", "islatest", "isdeletemarker", "size", "lastmodifieddate", "etag"}
    | {"storageclass", "ismultipartuploaded", "replicationstatus", "encryptionstatus", "bucketkeystatus"}
    | {"objectlockretainuntildate", "objectlockmode", "objectlocklegalholdstatus", "checksumalgorithm"}
    | {"intelligenttieringaccesstier", "objectaccesscontrollist", "objectowner", "lifecycleexpirationdate"}
    | {"project", "name", "location", "timecreated", "timedeleted", "updated", "retentionexpirationtime"}
    | {"crc32c", "md5hash", "generation", "metageneration", "contenttype", "contentencoding"}
    | {"timestorageclassupdated"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFile:
    """One data file of a report."""

    url: str
    size: int | None = None  # bytes, where the manifest tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report's manifest says, or the one table that was given instead of it."""

    where: str  # for messages: what --input names
    files: tuple[ReportFile, ...]
    style: Literal["csv", "parquet"]
    scheme: Literal["s3", "gs"]  # of the objects
    header: tuple[str, ...] | None = None  # of CSV without a header line
    delimiter: str = ","
    encoded: bool = False  # keys are url-encoded, spaces as +
    rows: int | None = None  # of all files, where the manifest tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which columns of a report say what; None where it has none of them."""

    bucket: str
    key: str
    size: str | None
    version: str | None  # what the store's own listing tells too
    latest: str | None
    deleted: str | None  # a delete marker, or the time at which this version stopped being the current one

    @property
    def scheme(self) -> Literal["s3", "gs"]:
        """S3 Inventory calls a name `key`, Storage Insights `name`."""
        return "s3" if _folded(self.key) == "key" else "gs"


def find_fields(names: Iterable[str]) -> Fields | None:
    """The columns of a report, by either store's names in CSV or Parquet; None where it is none.

    >>> find_fields(["Bucket", "Key", "IsLatest", "ETag"])
    Fields(bucket='Bucket', key='Key', size=None, version='ETag', latest='IsLatest', deleted=None)
    >>> find_fields(["bucket", "uri"])
    """
    by_name = {_folded(name): name for name in names}
    key = by_name.get("key") or by_name.get("name")
    if "bucket" not in by_name or key is None:
        return None
    s3 = _folded(key) == "key"
    return Fields(
        bucket=by_name["bucket"],
        key=key,
        size=by_name.get("size"),
        version=by_name.get("etag" if s3 else "generation"),
        latest=by_name.get("islatest"),
        deleted=by_name.get("isdeletemarker" if s3 else "timedeleted"),
    )


def is_report(names: Sequence[str], options: SourceOptions) -> bool:
    """Whether a table has no column that points at images, but a bucket and the name of an object in it."""
    known = {name for names in URI_COLUMNS for name in names}
    if options.image_column is not None or options.format not in ("auto", "manifest"):
        return False
    return not any(name.strip().lower() in known for name in names) and find_fields(names) is not None


def report_of_table(
    url: str, names: Sequence[str], *, style: Literal["csv", "parquet"], delimiter: str = ","
) -> Report:
    """A single table with the columns of a report, as a report of one file; `is_report` said that it is one."""
    fields = find_fields(names)
    return Report(
        where=f"--input {canonical_uri(url)}",
        files=(ReportFile(url=url),),
        style=style,
        scheme=fields.scheme if fields else "s3",
        delimiter=delimiter,
    )


def is_known(column: str) -> bool:
    """Whether a column is one of those that reports have.

    >>> is_known("last_modified_date"), is_known("caption")
    (True, False)
    """
    return _folded(column) in _KNOWN


def read_report(url: str, options: SourceOptions) -> Report:
    """The report behind a manifest; raises RequestError where it is none, or cannot be read."""
    uri = canonical_uri(url)
    try:
        with open_input(url, options.storage_options, sequential=True) as stream:
            data = stream.read(_MAX_MANIFEST_BYTES)
    except Exception as error:
        raise refusal(url, error) from error
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise RequestError(f"--input {uri} is not JSON ({error}); {_EXPECTED}") from error
    if isinstance(manifest, dict) and "fileSchema" in manifest:
        return _s3_report(manifest, uri)
    if isinstance(manifest, dict) and "report_shards_file_names" in manifest:
        return _gcs_report(manifest, url)
    raise RequestError(f"--input {uri} is no manifest of an inventory report; {_EXPECTED}")


_EXPECTED = (
    "of .json files, those of S3 Inventory (with fileSchema and files) and of Storage Insights (with "
    "report_shards_file_names) are read; other manifests are .jsonl, .csv or .parquet"
)


def _s3_report(manifest: Mapping[str, Any], uri: str) -> Report:
    where = f"--input {uri}"
    kind, schema = str(manifest.get("fileFormat")), str(manifest["fileSchema"])
    style = _style(kind, where)
    names = [name.strip() for name in schema.split(",")]
    if style == "parquet":  # message s3.inventory { required binary bucket (UTF8); ... }
        names = re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", schema)
    _need_fields(names, where)
    bucket = str(manifest.get("destinationBucket", "")).rpartition(":")[2]
    files = tuple(
        ReportFile(url=f"s3://{bucket}/{file['key']}", size=_whole(file.get("size")))
        for file in manifest.get("files", ())
    )
    if not bucket or not files:
        raise RequestError(f"{where} names no {'files' if bucket else 'destinationBucket'}: is it whole?")
    return Report(
        where=where,
        files=files,
        style=style,
        scheme="s3",
        header=tuple(names) if style == "csv" else None,
        encoded=style == "csv",
    )


def _gcs_report(manifest: Mapping[str, Any], url: str) -> Report:
    where = f"--input {canonical_uri(url)}"
    names = [str(name) for name in manifest["report_shards_file_names"]]
    if not names:
        raise RequestError(f"{where} names no files: the bucket was empty, or the report is not finished")
    style = _style(names[0].rpartition(".")[2], where)
    config = _part(manifest, "report_config", "reportConfig")
    csv = _part(config, "csvOptions", "csv_options")
    columns = _part(config, "objectMetadataReportOptions", "object_metadata_report_options")
    header = columns.get("metadataFields", columns.get("metadata_fields", ()))
    with_header = csv.get("headerRequired", csv.get("header_required", not header))
    if style == "csv" and not with_header:
        _need_fields(header, where)
    return Report(
        where=where,
        files=tuple(ReportFile(url=resolve(name.rpartition("/")[2], base=url)) for name in names),
        style=style,
        scheme="gs",
        header=tuple(map(str, header)) if style == "csv" and not with_header else None,
        delimiter=str(csv.get("delimiter") or ","),
        rows=_whole(manifest.get("records_processed")),
    )


def _style(kind: str, where: str) -> Literal["csv", "parquet"]:
    if kind.lower() in ("csv", "parquet"):
        return "csv" if kind.lower() == "csv" else "parquet"
    raise RequestError(f"{where}: the report's files are {kind}; configure it to write Parquet or CSV")


def _need_fields(names: Sequence[str], where: str) -> None:
    if find_fields(names) is None:
        raise RequestError(
            f"{where}: the report has no columns with bucket and key (S3) or name (Google); it has {listed(names)}"
        )


def _part(found: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A block of a JSON object under one of its spellings."""
    for name in names:
        if isinstance(found.get(name), Mapping):
            part: Mapping[str, Any] = found[name]
            return part
    return {}


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdigit()) else None


def _folded(name: str) -> str:
    """IsDeleteMarker and is_delete_marker alike."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
