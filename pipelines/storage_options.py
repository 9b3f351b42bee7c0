"""`--storage-option K=V`: what a file system is told, without the secrets that must not travel with a job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from clip_transforms.elements import RequestError

#: A name that holds one of these words is a secret's, at any depth: aws_secret_access_key, sas_token, Authorization.
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "token", "tokens", "password", "passwd", "passwords", "passphrase", "pass", "pwd"}
    | {"credential", "credentials", "creds", "authorization", "auth", "cookie", "cookies", "apikey", "sas"}
    | {"pkey", "keyfile", "keytab", "assertion", "bearer", "jwt"}
)
#: A name that ends so is one too, but for those of encryption keys, which are names and not secrets.
_SECRET_ENDS = ("key", "keys", "key id", "access key", "connection string", "sse customer key")
_NO_SECRET_NAMES = re.compile(r"kms|\bkey (name|prefix)\b")
#: What gcsfs takes as `token` without there being one.
_MODES = ("anon", "google_default", "cloud", "cache", "browser", None, False)
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def storage_options(pairs: Sequence[str]) -> dict[str, object]:
    """`K=V` pairs as keyword arguments; values that are JSON (true, 3, {"a": 1}) are read as such.

    Raises RequestError, which never repeats a value, for what is no pair and for secrets at any depth.

    >>> storage_options(["anon=true", "endpoint_url=http://localhost:1"])
    {'anon': True, 'endpoint_url': 'http://localhost:1'}
    """
    options: dict[str, object] = {}
    for number, pair in enumerate(pairs, 1):
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"\w[\w.-]*", key):
            raise RequestError(f"--storage-option number {number} is not K=V, for example anon=true")
        if key in options:
            raise RequestError(f"--storage-option {key} is given twice")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
        if secret := next(_secrets(key, options[key]), None):
            raise RequestError(
                f"--storage-option {secret}: secrets are not taken on the command line, where they would travel to "
                "every worker and log; give the machines their own credentials (environment, service account)"
            )
    return options


def _secrets(name: str, value: object) -> Iterator[str]:
    """The dotted names of the secrets in an option: by their names, or by a url that is the value."""
    if isinstance(value, Mapping):
        if _is_secret(name) and value:
            yield name
        for inner, under in value.items():
            yield from (f"{name}.{found}" for found in _secrets(str(inner), under))
    elif isinstance(value, list):
        for under in value:
            yield from _secrets(name, under)
    elif (_is_secret(name) and value not in _MODES) or (isinstance(value, str) and _in_url(value)):
        yield name


def _in_url(value: str) -> bool:
    from clip_transforms.sources import (
        has_credentials,
    )  # loads pyarrow, which most commands need, but not --help

    return "://" in value and has_credentials(value)


def _is_secret(name: str) -> bool:
    words = " ".join(word.lower() for word in _WORD.findall(name))
    if _NO_SECRET_NAMES.search(words):
        return False
    return words.endswith(_SECRET_ENDS) or not _SECRET_WORDS.isdisjoint(words.split())
