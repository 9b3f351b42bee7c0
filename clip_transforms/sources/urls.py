"""How inputs are named: canonical uris, image ids, relative references, and urls with credentials."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote_plus, urljoin

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_ALIASES = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "az": "abfs", "local": "file"}
#: In these the part before @ is a container, not a user.
_CONTAINER_AT = {"abfs", "abfss", "adl", "wasb", "wasbs"}
#: In these ? and # are letters of a name, not the start of a query.
_PLAIN_NAMES = {"gs", "s3", "memory", "abfs", "abfss", "hf", "hdfs", "file"}
_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-ms-")
_SIGNING_NAMES = {
    *("signature", "sig", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "expires", "policy"),
    *("key-pair-id", "security-token", "token", "access_token", "auth_token", "id_token", "jwt", "apikey"),
    *("api_key", "api-key", "access_key", "secret", "password", "passwd", "__token__", "hdnea", "hdnts"),
}
#: Parameters that sign only together: Azure's SAS, and Discord's.
_AZURE = {
    *("sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "si", "sip"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv"),
}
_DISCORD = {"ex", "is", "hm"}
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s\"'<>]+")


def scheme_of(url: str) -> str:
    """The url's scheme with aliases folded; "file" for a local path.

    >>> scheme_of("gcs://bucket/a.jpg"), scheme_of("photos/a.jpg")
    ('gs', 'file')
    """
    match = _SCHEME.match(url)
    if match:
        name = match[1].lower()
        return _ALIASES.get(name, name)
    return "file"


def is_local(url: str) -> bool:
    """Whether the url is a path of this machine's file system."""
    return scheme_of(url) == "file" and not _is_chain(url)


def is_http(url: str) -> bool:
    """Whether the url is read over http or https."""
    return scheme_of(url) in ("http", "https") and not _is_chain(url)


def canonical_uri(url: str) -> str:
    """The one name of an input: scheme aliases folded, userinfo and signing parameters removed.

    Local files become absolute paths without a scheme. Nothing is percent-encoded or decoded, and
    http(s) urls otherwise stay as given. Applying it twice changes nothing.

    >>> canonical_uri("s3a://bucket/a b#1.jpg")
    's3://bucket/a b#1.jpg'
    >>> canonical_uri("https://me:pw@host/a.jpg?w=5&X-Amz-Signature=f00&token=1")
    'https://host/a.jpg?w=5'
    >>> canonical_uri("file:///data//x/../a.jpg")
    '/data/a.jpg'
    """
    if _is_chain(url):
        return "::".join(canonical_uri(link) if "://" in link else link for link in url.split("::"))
    if is_local(url):
        path = _SCHEME.sub("", url, count=1) if _SCHEME.match(url) else url.removeprefix("file:")
        return os.path.abspath(path)  # noqa: PTH100 (links stay as they are)
    rest = url[_SCHEME.match(url).end() :]  # type: ignore[union-attr]
    scheme = scheme_of(url)
    if scheme == "memory":
        return f"memory://{rest.strip('/')}"
    return f"{scheme}://{_without_credentials(rest, scheme)}"


def image_id_of(uri: str) -> str:
    """The 128-bit blake2b hex of a canonical uri.

    >>> image_id_of("/data/a.jpg")
    '01c74b03e221dbe581ce233f93f052d6'
    """
    return hashlib.blake2b(uri.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def has_credentials(url: str) -> bool:
    """Whether the url has a user, a password or signing parameters: it must not reach an output.

    >>> has_credentials("https://host/a.jpg?Signature=x"), has_credentials("s3://bucket/me@home.jpg")
    (True, False)
    """
    if _is_chain(url):
        return any(has_credentials(link) for link in url.split("::"))
    match = _SCHEME.match(url)
    if not match or scheme_of(url) in ("file", "memory"):
        return False
    rest = url[match.end() :]
    return _without_credentials(rest, scheme_of(url)) != rest


def scrub(text: str) -> str:
    """The text with credentials taken out of every url in it.

    >>> scrub("see https://host/a?sig=12 and b")
    'see https://host/a and b'
    """
    if "://" not in text:
        return text
    return _URL_IN_TEXT.sub(
        lambda found: canonical_uri(found[0]) if has_credentials(found[0]) else found[0], text
    )


def resolve(reference: str, *, base: str) -> str:
    """What a manifest at the url `base` means by `reference`: relative paths are relative to it.

    >>> resolve("img/a.jpg", base="gs://bucket/sets/train.csv")
    'gs://bucket/sets/img/a.jpg'
    >>> resolve("../a b.jpg", base="/data/sets/train.csv")
    '/data/a b.jpg'
    """
    if _SCHEME.match(reference.strip()):
        return reference.strip()
    if is_local(base):
        return os.path.normpath(os.path.join(os.path.dirname(canonical_uri(base)), reference))  # noqa: PTH118, PTH120
    if is_http(base):
        return urljoin(re.split(r"[?#]", base, maxsplit=1)[0], reference)
    if reference.startswith("/"):
        return reference
    head, _, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(key), reference))
    return f"{head}://{bucket}/{joined.lstrip('/')}"


def suffix_of(url: str) -> str:
    """The lower-case suffix of the url's last name, with its dot; "" where there is none.

    >>> suffix_of("https://host/A.JPG?width=5"), suffix_of("/data/v1.2/readme"), suffix_of("a/.jpg")
    ('.jpg', '', '')
    """
    path = re.split(r"[?#]", url, maxsplit=1)[0] if is_http(url) else url
    stem, dot, end = path.rpartition("/")[2].rpartition(".")
    return dot + end.lower() if stem else ""


def shown(name: str) -> str:
    r"""The name as text that can be written: bytes that are not UTF-8 are escaped.

    >>> print(shown("a\udcff.jpg"))
    a\xff.jpg
    """
    if is_text(name):
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(name: str) -> bool:
    """Whether the name is UTF-8 (undecodable bytes are held as surrogates)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_chain(url: str) -> bool:
    """Whether the url is one of fsspec's chains (`zip://a.jpg::s3://bucket/x.zip`)."""
    return "::" in url and "://" in url and not url.startswith("/")


def _without_credentials(rest: str, scheme: str) -> str:
    """What follows `scheme://`, without userinfo and signing parameters."""
    edges = "/" if scheme in _PLAIN_NAMES else "/?#"
    end = next((index for index, letter in enumerate(rest) if letter in edges), len(rest))
    authority, path = rest[:end], rest[end:]
    if scheme not in _CONTAINER_AT:
        authority = authority.rpartition("@")[2]
    if scheme in _PLAIN_NAMES:
        return authority + path
    path, sharp, fragment = path.partition("#")
    path, mark, query = path.partition("?")
    query, fragment = _unsigned(query), _unsigned(fragment)
    return authority + path + (mark + query if query else "") + (sharp + fragment if fragment else "")


def _unsigned(query: str) -> str:
    """A query string without the parameters that sign or authorise."""
    if "=" not in query:
        return query
    parts = query.split("&")
    names = [unquote_plus(part.partition("=")[0]).lower() for part in parts]
    together = (_AZURE if "sig" in names else set()) | (_DISCORD if _DISCORD.issubset(names) else set())
    secret: Callable[[str], bool] = lambda name: (  # noqa: E731
        name in _SIGNING_NAMES or name in together or name.startswith(_SIGNING_PREFIXES)
    )
    return "&".join(part for part, name in zip(parts, names, strict=True) if not secret(name))
