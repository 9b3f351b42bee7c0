"""The template filters of a report: numbers, times, sizes, names and links as people read them."""

from __future__ import annotations

import datetime
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from clip_transforms.prompts.rules import NONE

_CONTAINER = re.compile(r"\.(tar|tgz|tar\.gz|parquet)#", re.IGNORECASE)

#: What a failure's reason means.
REASONS = {
    "bad_name": "the name is not valid UTF-8",
    "not_found": "there is no such object, or a link points nowhere",
    "forbidden": "the store refused access",
    "timeout": "no answer in time",
    "http_error": "the server answered with an error",
    "blocked_address": "the address is private and was not asked",
    "too_many_bytes": "larger than the byte limit",
    "empty": "the object has no bytes",
    "not_an_image": "the bytes are no image of a known format",
    "truncated": "the file ends before its picture does",
    "too_many_pixels": "larger than the pixel limit",
    "decode_error": "the picture's data is damaged",
    "truncated_shard": "the tar shard ends early; what could be read was kept",
    "crashed_worker": "a worker process died on it",
    "encode_error": "the encoder failed on it",
}

#: What a row's decision_reason means.
DECISION_REASONS = {
    "below_threshold": "no class reached its threshold",
    "accepted": "the score reached the label's accept threshold",
    "backed_off": "no leaf passed its threshold, the group did",
    "none_of_these": "“none of these” won",
    "uncalibrated": "there are no accept thresholds yet",
    "no_accept_threshold": "the label has no accept threshold",
    "below_accept_threshold": "below the label's accept threshold",
}


def count(value: int | None) -> str:
    """
    >>> count(1234567), count(None)
    ('1,234,567', '–')
    """
    return "–" if value is None else f"{value:,}"


def percent(share: float) -> str:
    """A share as a percentage; what is little is not shown as nothing, nor what is nearly all as all.

    >>> percent(0.4123), percent(0.00001), percent(0.0), percent(0.99999), percent(1.0)
    ('41.2%', '<0.1%', '0%', '>99.9%', '100%')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    if share < 0.001:
        return "<0.1%"
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def number(value: float) -> str:
    """A probability or cosine with three decimals; what rounds to nothing says so.

    >>> number(0.41234), number(0.00001), number(0.0), number(-0.25)
    ('0.412', '<0.001', '0', '-0.250')
    """
    if value == 0:
        return "0"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def size(value: int | None) -> str:
    """Bytes in the largest fitting unit.

    >>> size(900), size(1_500_000)
    ('900 B', '1.5 MB')
    """
    if value is None:
        return "–"
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value} B"


def moment(text: str | None) -> str:
    """An ISO 8601 time in UTC to the minute; other texts as they are.

    >>> moment("2026-11-23T21:14:05.123+00:00")
    '23 Nov 2026, 21:14 UTC'
    """
    try:
        found = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return text or "–"
    if found.tzinfo is not None:
        found = found.astimezone(datetime.timezone.utc)
    return f"{found.day} {found:%b %Y, %H:%M} UTC"


def duration(started: str | None, ended: str | None) -> str | None:
    """The time between two ISO 8601 times, or None where one is missing.

    >>> duration("2026-11-23T21:14:05+00:00", "2026-11-23T23:15:10+00:00")
    '2 h 1 min'
    """
    try:
        first, last = (
            datetime.datetime.fromisoformat(started or ""),
            datetime.datetime.fromisoformat(ended or ""),
        )
        seconds = max(0.0, (last - first).total_seconds())
    except (ValueError, TypeError):
        return None
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def base_name(uri: str) -> str:
    """The last part of a uri, for a narrow place.

    >>> base_name("gs://bucket/a/cat.jpg"), base_name("/shards/00.tar#dir/0001"), base_name("https://a/b/?q=1")
    ('cat.jpg', '0001', '?q=1')
    """
    return uri.rstrip("/").rsplit("/", 1)[-1].rsplit("#", 1)[-1] or uri


def link(uri: str) -> str | None:
    """Where a reader's browser can open an image: local files and http(s); else None.

    >>> link("/photos/a b#1.jpg"), link("https://example.org/a.jpg"), link("javascript:alert(1)")
    ('file:///photos/a%20b%231.jpg', 'https://example.org/a.jpg', None)
    """
    if _CONTAINER.search(uri):
        return None
    if uri.startswith("/"):
        return f"file://{urllib.parse.quote(uri)}"
    return uri if re.match(r"https?://[^/]", uri) else None


def word(label: str) -> str:
    """A label's key as it is shown.

    >>> word("cat"), word("__none__")
    ('cat', 'none of these')
    """
    return "none of these" if label == NONE else label


def flat(value: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as lines of dotted names and values; what is empty is left out.

    >>> flat({"a": {"b": 1}, "c": ["x", "y"], "d": None})
    [('a.b', '1'), ('c', 'x, y')]
    """
    lines = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            lines += flat(item, prefix=f"{name}.")
        elif isinstance(item, (list, tuple)):
            lines += [(name, ", ".join(map(str, item)))] if item else []
        elif item not in (None, ""):
            lines.append((name, str(item)))
    return lines


def json_block(value: object) -> Markup:
    """JSON that is safe inside a script element: it cannot end the element nor begin a comment.

    >>> json_block({"a": "</script>"})
    Markup('{"a":"\\\\u003c/script\\\\u003e"}')
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


FILTERS = {
    "count": count,
    "percent": percent,
    "number": number,
    "size": size,
    "moment": moment,
    "base_name": base_name,
    "link": link,
    "word": word,
}
