"""What a file is, by `--format` or else by its suffix, and which suffixes a folder is searched for."""

from __future__ import annotations

from typing import Literal

from clip_transforms.elements import RequestError
from clip_transforms.sources import manifests, parquet
from clip_transforms.sources.options import IMAGE_SUFFIXES, TAR_SUFFIXES, SourceOptions
from clip_transforms.sources.urls import canonical_uri, is_http, suffix_of

Kind = Literal["image", "tar", "parquet", "manifest", "report"]

LIST_SUFFIXES = (".txt",)
_TEXT_SUFFIXES = manifests.CSV_SUFFIXES + manifests.JSON_SUFFIXES
#: Manifests of inventory reports.
_REPORT_SUFFIXES = (".json",)
_COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".xz", ".zip", ".7z")

#: What a folder is searched for under each format.
_FOLDER_SUFFIXES = {
    "auto": IMAGE_SUFFIXES + TAR_SUFFIXES,
    "images": IMAGE_SUFFIXES,
    "manifest": _TEXT_SUFFIXES + parquet.SUFFIXES,
    "parquet-images": parquet.SUFFIXES,
    "webdataset": TAR_SUFFIXES,
    "img2dataset": TAR_SUFFIXES,
    "urls": LIST_SUFFIXES,
}


def suffixes_for(options: SourceOptions) -> tuple[str, ...]:
    """The suffixes that a folder is searched for."""
    return _FOLDER_SUFFIXES[options.format]


def known_kind(url: str) -> Kind | None:
    """What the suffix says; None where it says nothing.

    >>> known_kind("a/b.JPG"), known_kind("x.tar"), known_kind("manifest.json"), known_kind("README")
    ('image', 'tar', 'report', None)
    """
    suffix = suffix_of(url)
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in TAR_SUFFIXES:
        return "tar"
    if suffix in parquet.SUFFIXES:
        return "parquet"
    if suffix in _REPORT_SUFFIXES:
        return "report"
    return "manifest" if suffix in _TEXT_SUFFIXES + LIST_SUFFIXES else None


def kind_of(url: str, options: SourceOptions) -> Kind:
    """What a single file is read as; raises RequestError where neither format nor suffix tells."""
    known = known_kind(url)
    if known == "report" and options.format not in ("parquet-images", "urls"):
        return "report"
    if options.format == "images":
        return "image"
    if options.format == "img2dataset" and known == "parquet":
        return "parquet"
    if options.format in ("webdataset", "img2dataset"):
        _refuse_compressed(url)
        return "tar"
    if options.format == "parquet-images":
        return "parquet"
    if options.format == "urls":
        return "manifest"
    if options.format == "manifest" and known not in ("manifest", "parquet", "report"):
        known = None
    if known is not None:
        return known
    _refuse_compressed(url)
    hint = " A web server has no listing: folders of it cannot be given." if is_http(url) else ""
    images, tables = " ".join(IMAGE_SUFFIXES), " ".join(_TEXT_SUFFIXES)
    raise RequestError(
        f"--input {canonical_uri(url)}: the suffix {suffix_of(url)!r} does not tell what it is; expected an "
        f"image ({images}), a manifest ({tables}), a url list (.txt), .parquet, .tar, or an inventory's .json. "
        f"Say it with --format.{hint}"
    )


def _refuse_compressed(url: str) -> None:
    if suffix_of(url) in _COMPRESSED:
        raise RequestError(
            f"--input {canonical_uri(url)} is compressed, which is not read; unpack it, and give .tar shards "
            "or plain manifests (of an inventory report give its manifest.json)"
        )
