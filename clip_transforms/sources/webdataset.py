"""Webdataset shards: members grouped by key, images with their captions and fields, and completeness.

A key is the member's folder and name up to the first dot of the name; members of one key lie side by side
(the webdataset format). Members are never unpacked and their names are never paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip_transforms.elements import Failure, ImageRef, Reason, Stage, StoreError
from clip_transforms.sources.columns import CAPTION_COLUMNS, Columns, take_carry, text_of
from clip_transforms.sources.img2dataset import missing_images, why_incomplete
from clip_transforms.sources.opening import InputStream, lasting_reason, open_input, refusal
from clip_transforms.sources.options import IMAGE_SUFFIXES, SourceOptions
from clip_transforms.sources.tarstream import BrokenTarError, Member, TarStream
from clip_transforms.sources.urls import image_id_of, is_text, shown

_TEXT_SUFFIXES = (".json", ".txt", ".cls")
_LOST = "the shard cannot be read"  # in messages about shards as a whole only


@dataclass(slots=True)
class _Group:
    """The members of one key, so far."""

    key: str
    images: list[tuple[str, Member]] = field(default_factory=list)  # with their suffixes
    texts: dict[str, Member] = field(default_factory=dict)
    bytes: int = 0
    emitted: int = 0  # images that were already given out


def read_shard(row: Mapping[str, Any], options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The images of one shard in their order, before `--sample`; then a failure where it is not complete.

    Complete: both end-of-archive blocks were seen, the bytes read equal the object's size, and the count
    equals img2dataset's own where it is beside the shard. With `--format img2dataset` the urls that it could not
    download are failures too. Raises StoreError where the store may answer later.
    """
    uri = str(row["uri"])
    url = options.open_url(uri)
    stream: InputStream | None = None
    images = 0
    try:
        stream = open_input(url, options.storage_options, sequential=True)
        tar = TarStream(stream, want=is_wanted, max_bytes=options.max_bytes)
        for found in _images(tar, uri, options):
            images += 1
            yield found
        why = why_incomplete(
            url, options, bytes_read=tar.bytes_read, size=stream.size, planned_size=row["size"], images=images
        )
    except BrokenTarError as error:
        why = str(error)
    except StoreError:
        raise
    except Exception as error:
        if stream is not None and stream.error is None and not isinstance(error, OSError):
            raise
        reason = lasting_reason((stream.error if stream is not None else None) or error, url)
        yield _failure(uri, Stage.FETCH, reason, f"{_LOST}: {reason.value}")
        return
    finally:
        if stream is not None:
            stream.close()
    if options.format == "img2dataset":
        yield from missing_images(url, options)
    if why is not None:
        yield _failure(uri, Stage.FETCH, Reason.TRUNCATED_SHARD, f"the shard {why}")


def is_lost_shard(failure: Failure) -> bool:
    """Whether the failure is that of a shard that could not be read, or not to its end: the rest of it has no rows."""
    return failure.message.startswith(_LOST)


def first_fields(url: str, options: SourceOptions) -> set[str] | None:
    """The names of the values beside a shard's first image; None where that cannot be told."""
    group: _Group | None = None
    try:
        with open_input(url, options.storage_options, sequential=True) as stream:
            for member in TarStream(stream, want=is_wanted, max_bytes=options.max_bytes):
                if not is_wanted(member.name):
                    continue
                key, suffix = split_key(member.name) or ("", "")
                if group is not None and key != group.key:
                    break
                group = group or _Group(key)
                if _is_text_member(suffix):
                    group.texts[suffix] = member
    except (BrokenTarError, FileNotFoundError):
        return None  # a shard that is broken is a failure of the run, not of the request
    except Exception as error:
        raise refusal(url, error) from error
    return None if group is None else set(_fields(group, options)[1])


def split_key(name: str) -> tuple[str, str] | None:
    """A member's key and suffix; None for what is no sample (dot files, no suffix, `__names__`).

    >>> split_key("./a.b/0001.seg.PNG"), split_key("a/.hidden.jpg"), split_key("README")
    (('a.b/0001', 'seg.PNG'), None, None)
    """
    while name.startswith("./"):
        name = name[2:]
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or not dot or (base.startswith("__") and base.endswith("__")):
        return None
    return folder + slash + stem, suffix


def is_wanted(name: str) -> bool:
    """Whether a member is an image or belongs to one.

    >>> is_wanted("a/1.JPG"), is_wanted("a/1.json"), is_wanted("a/1.npy")
    (True, True, False)
    """
    parts = split_key(name)
    return parts is not None and f".{parts[1]}".lower().endswith(IMAGE_SUFFIXES + _TEXT_SUFFIXES)


def _is_text_member(suffix: str) -> bool:
    return f".{suffix}".lower().endswith(_TEXT_SUFFIXES)


def _images(tar: TarStream, uri: str, options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The shard's images. What was read of the last group is given out even if the archive is cut."""
    group: _Group | None = None
    try:
        for member in tar:
            if not is_wanted(member.name):
                continue
            key, suffix = split_key(member.name) or ("", "")
            if group is None or key != group.key:
                if group is not None:
                    yield from _flush(group, uri, options)
                group = _Group(key)
            if _is_text_member(suffix):
                group.texts[suffix] = member
            else:
                group.images.append((suffix, member))
            group.bytes += len(member.data or b"")
            if group.bytes > options.max_bytes:  # a key with very many images is not held as a whole
                yield from _flush(group, uri, options)
    except BrokenTarError:
        if group is not None:
            yield from _flush(group, uri, options)
        raise
    if group is not None:
        yield from _flush(group, uri, options)


def _flush(group: _Group, uri: str, options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The group's images, as rows; its texts stay for images of the same key that may follow."""
    columns, values = _fields(group, options)
    too_large = next((member for member in group.texts.values() if member.data is None), None)
    for suffix, member in group.images:
        name = f"{uri}#{group.key}" if group.emitted == 0 else f"{uri}#{group.key}.{suffix}"
        group.emitted += 1
        if member.data is not None and too_large is not None:
            member = Member(name=too_large.name, size=too_large.size, data=None, is_link=too_large.is_link)
        yield _row(shown(name), member, columns, values, options)
    group.images.clear()
    group.bytes = sum(len(member.data or b"") for member in group.texts.values())


def _fields(group: _Group, options: SourceOptions) -> tuple[Columns, dict[str, object]]:
    """The values beside a group's images: the fields of its json, its txt and cls."""
    values: dict[str, object] = {}
    for suffix, member in group.texts.items():
        text = (member.data or b"").decode("utf-8", "backslashreplace").removeprefix("\ufeff")
        if suffix.lower().endswith("json"):
            parsed = _parsed(text)
            values.update(
                parsed if suffix.lower() == "json" and isinstance(parsed, dict) else {suffix: parsed}
            )
        else:
            values[suffix.lower()] = text.strip()
    known = ("txt", *CAPTION_COLUMNS)
    columns = Columns(
        uri=None,
        image_id=options.id_column,
        caption=options.caption_column or next((name for name in known if text_of(values.get(name))), None),
        carry=options.carry_types(),
    )
    return columns, values


def _parsed(text: str) -> object:
    """The JSON value; the text itself where it is not JSON, so that nothing is lost."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _row(
    uri: str, member: Member, columns: Columns, values: dict[str, object], options: SourceOptions
) -> ImageRef | Failure:
    own_id = columns.id_of(values)
    name = shown(member.name)
    if not is_text(member.name):
        return _failure(
            uri, Stage.LIST, Reason.BAD_NAME, f"member {name} has a name that is not UTF-8", own_id
        )
    if member.is_link:
        return _failure(
            uri, Stage.FETCH, Reason.NOT_FOUND, f"member {name} is a link, which has no data", own_id
        )
    if member.data is None:
        why = f"member {name} has {member.size} bytes, over {options.max_bytes}"
        return _failure(uri, Stage.FETCH, Reason.TOO_MANY_BYTES, why, own_id)
    if not member.data:
        return _failure(uri, Stage.FETCH, Reason.EMPTY, f"member {name} has no bytes", own_id)
    try:
        extra, carry = take_carry(columns.extra_of(values), columns.carry)
    except ValueError as error:
        return _failure(uri, Stage.LIST, Reason.BAD_NAME, f"member {name}: {error}", own_id)
    return ImageRef(
        image_id=own_id or image_id_of(uri),
        uri=uri,
        url=uri,
        size=member.size,
        caption=columns.caption_of(values),
        extra=extra,
        carry=carry,
        payload=member.data,
    )


def _failure(uri: str, stage: Stage, reason: Reason, message: str, image_id: str | None = None) -> Failure:
    return Failure(
        image_id=image_id or image_id_of(uri), uri=uri, stage=stage, reason=reason, message=message
    )
