"""One input, looked at and opened: a folder, a glob, or a file of any kind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import chain

from clip_transforms.elements import BeamclipError, Reason, RequestError, UnitKind
from clip_transforms.sources.img2dataset import sibling_urls
from clip_transforms.sources.inventory import read_report, report_of_table
from clip_transforms.sources.inventory_rows import report_items
from clip_transforms.sources.kinds import Kind, kind_of, known_kind, suffixes_for
from clip_transforms.sources.listing import Listed, list_objects, stat_object
from clip_transforms.sources.manifests import layout_of, manifest_items
from clip_transforms.sources.opening import open_input, refusal
from clip_transforms.sources.options import PlanItem, SourceOptions, problem
from clip_transforms.sources.parquet import SUFFIXES as PARQUET_SUFFIXES
from clip_transforms.sources.parquet import parquet_items
from clip_transforms.sources.patterns import Glob, Selection, Suffixes, has_magic
from clip_transforms.sources.urls import canonical_uri, is_http, is_local, is_text, scheme_of, shown
from clip_transforms.sources.webdataset import first_fields


def open_one(url: str, options: SourceOptions) -> Iterator[PlanItem]:
    """The items of one input; it is checked before this returns.

    Raises RequestError where it is missing, matches nothing, cannot be read, or has no usable column.
    """
    if is_http(url):
        return _open_file(url, options)
    uri = canonical_uri(url)
    if is_local(url):
        if os.path.isdir(uri):  # noqa: PTH112
            return _open_folder(uri, options)
        if os.path.lexists(uri):
            return _open_file(uri, options)
        if has_magic(uri):
            return _open_glob(uri, options)
        raise RequestError(f"--input {shown(uri)} was not found: there is no such file or folder")
    if has_magic(uri) and not _exists(uri, options):
        return _open_glob(uri, options)
    if not url.endswith("/") and (known_kind(uri) is not None or _exists(uri, options)):
        try:
            return _open_file(uri, options)
        except IsADirectoryError:
            pass
    return _open_folder(uri.rstrip("/") if not uri.endswith("://") else uri, options)


def _open_file(url: str, options: SourceOptions) -> Iterator[PlanItem]:
    """A single file that the user named."""
    kind = kind_of(url, options)
    try:
        found = _stat(url, kind, options)
    except (BeamclipError, IsADirectoryError):
        raise
    except Exception as error:
        raise refusal(url, error) from error
    if kind == "tar":
        _check_shard(url, options)
    return _items(found, kind, options, url=url)


def _stat(url: str, kind: Kind, options: SourceOptions) -> Listed:
    uri = canonical_uri(url)
    if is_http(url):
        if kind == "image":  # a web server may refuse to be asked; a dead link is a failure row
            return Listed(uri, None, None)
        with open_input(url, options.storage_options) as stream:
            return Listed(uri, stream.size, None)
    if is_local(url) and not stat.S_ISREG(os.stat(uri).st_mode):  # noqa: PTH116
        raise RequestError(f"--input {shown(uri)} is neither a file nor a folder")
    return stat_object(uri, options.storage_options)


def _open_folder(root: str, options: SourceOptions) -> Iterator[PlanItem]:
    """All files below a folder with the format's suffixes; Parquet files where there is nothing else."""
    searched = [suffixes_for(options)]
    if options.format in ("auto", "img2dataset"):
        searched.append(PARQUET_SUFFIXES)
    for suffixes in searched:
        items = _open_listing(root, root, "", Suffixes(suffixes), options)
        if items is not None:
            return items
    looked = " ".join(chain.from_iterable(searched))
    raise RequestError(
        f"--input {shown(root)}: nothing was found in this folder; looked for {looked} at any depth"
    )


def _open_glob(pattern: str, options: SourceOptions) -> Iterator[PlanItem]:
    glob = Glob(pattern)
    if scheme_of(pattern) in ("gs", "s3") and glob.root.endswith("://"):
        raise RequestError(f"--input {pattern}: the bucket's name cannot have wildcards; name the bucket")
    select: Selection = glob
    if not glob.suffix and options.format != "images":  # the pattern leaves open what it takes
        select = _Both(glob, Suffixes(suffixes_for(options)))
    items = _open_listing(pattern, glob.root, glob.prefix, select, options)
    if items is not None:
        return items
    only = "" if select is glob else f" with one of the suffixes {' '.join(suffixes_for(options))}"
    raise RequestError(
        f"--input {shown(pattern)}: the pattern matches nothing{only}, below {shown(glob.root)}"
    )


class _Both:
    """Names that a glob matches and that have one of some suffixes."""

    def __init__(self, glob: Glob, suffixes: Suffixes) -> None:
        self._glob, self._suffixes = glob, suffixes

    def want(self, name: str) -> bool:
        return self._glob.want(name) and name.lower().endswith(self._suffixes.suffixes)

    def enter(self, folder: str) -> bool:
        return self._glob.enter(folder)


def _open_listing(
    url: str, root: str, prefix: str, select: Selection, options: SourceOptions
) -> Iterator[PlanItem] | None:
    """The items of a listing; None where it is empty. The first match is checked."""
    listed = _guarded(url, root, prefix, select, options)
    first = next(listed, None)
    if first is None:
        return None
    kind = _kind_in_listing(first, options)
    if kind == "tar":
        _check_shard(first.url, options)
    items = _items(first, kind, options)
    return chain(items, _rest(url, first, kind, listed, options))


def _rest(
    url: str, first: Listed, kind: Kind, listed: Iterator[Listed], options: SourceOptions
) -> Iterator[PlanItem]:
    """The other items; images beside shards are told, for either may be there by mistake."""
    for found in listed:
        other = _kind_in_listing(found, options)
        if {kind, other} == {"image", "tar"}:
            raise RequestError(
                f"--input {shown(url)} holds both images and tar shards ({shown(first.url)}, "
                f"{shown(found.url)}); say which are meant with --format images or --format webdataset"
            )
        yield from _items(found, other, options)


def _kind_in_listing(found: Listed, options: SourceOptions) -> Kind:
    """What a listed file is; one that only the user's own pattern chose is an image."""
    if options.format == "auto":
        return known_kind(found.url) or "image"
    return kind_of(found.url, options)


def _guarded(url: str, root: str, prefix: str, select: Selection, options: SourceOptions) -> Iterator[Listed]:
    """The listing, with the store's errors as ours."""
    try:
        yield from list_objects(root, options.storage_options, prefix=prefix, select=select)
    except BeamclipError:
        raise
    except FileNotFoundError:
        if is_local(root) or scheme_of(root) in ("gs", "s3"):
            raise RequestError(f"--input {shown(url)}: {shown(root)} was not found") from None
    except Exception as error:
        raise refusal(url, error, "listed") from error


def _items(
    found: Listed, kind: Kind, options: SourceOptions, *, url: str | None = None
) -> Iterator[PlanItem]:
    """One file's items. url: as it is opened, where that is not its uri."""
    if not is_text(found.url):
        return iter([problem(shown(found.url), Reason.BAD_NAME, "the name is not UTF-8")])
    if kind == "image":
        return iter([PlanItem(kind=UnitKind.REFS, uri=found.url, size=found.size, version=found.version)])
    if kind == "tar":
        return iter(
            [PlanItem(kind=UnitKind.TAR, uri=found.url, size=found.size, version=found.version, rows=None)]
        )
    target = url or found.url
    if kind == "parquet":
        return parquet_items(target, found, options)
    if kind == "report":
        return report_items(read_report(target, options), options)
    layout = layout_of(target, options)
    if layout.is_report:
        table = report_of_table(target, layout.header, style="csv", delimiter=layout.delimiter)
        return report_items(table, options)
    return manifest_items(target, layout, options)


def _exists(uri: str, options: SourceOptions) -> bool:
    """Whether there is an object of exactly this name; a store that will not say is asked again later."""
    try:
        stat_object(uri, options.storage_options)
    except RequestError:
        raise
    except Exception:  # noqa: BLE001 (the listing that follows tells what is wrong)
        return False
    return True


def _check_shard(url: str, options: SourceOptions) -> None:
    """Early checks of a shard: img2dataset's files beside it, and the fields that were asked for."""
    uri = canonical_uri(url)
    if options.format == "img2dataset":
        names = sibling_urls(url)
        if not any(_exists(canonical_uri(name), options) for name in names):
            raise RequestError(
                f"--input {uri}: neither {names[0]} nor {names[1]} is beside it, which img2dataset writes; "
                "use --format webdataset for other shards"
            )
    asked = [("--id-column", options.id_column), ("--caption-column", options.caption_column)]
    asked += [("--carry", name) for name, _ in options.carry]
    fields = first_fields(url, options) if any(name for _, name in asked) else None
    if fields is None:
        return
    for option, name in asked:
        if name is not None and name not in fields:
            has = ", ".join(sorted(fields)) or "none"
            raise RequestError(f"{option} {name}: the first sample of {uri} has no such field; it has {has}")
