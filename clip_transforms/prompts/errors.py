"""How mistakes in prompt sets are reported: with the file, the line and the nearest name that exists."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

from clip_transforms.elements import RequestError


def shown(source: str) -> str:
    """A path or url as it may be printed: no user name, password, query or fragment of a url.

    >>> shown("https://me:secret@example.org/cats.yaml?sig=abc"), shown("sets/cats.yaml")
    ('https://example.org/cats.yaml', 'sets/cats.yaml')
    """
    if "://" not in source:
        return source
    without_query = re.sub(r"[?].*$", "", source) if source.startswith(("http://", "https://")) else source
    return re.sub(r"://[^/@]*@", "://", without_query)


def mistake(message: str, *, source: str | None = None, line: int | None = None) -> RequestError:
    """The error to raise, its place in brackets at the end.

    >>> str(mistake("prompt set 'cats' has no labels", source="cats.yaml", line=3))
    "prompt set 'cats' has no labels (cats.yaml, line 3)"
    """
    places = [shown(source)] if source else []
    places += [f"line {line}"] if line else []
    return RequestError(f"{message} ({', '.join(places)})" if places else message)


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint to append to a message, or nothing when no option is alike.

    >>> nearest("promts", ["prompts", "parent"])
    "; did you mean 'prompts'?"
    """
    found = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def tidy(text: str) -> str:
    """One line of NFC text, blanks folded as every CLIP tokenizer folds them; so one text has one hash.

    Raises ValueError for what cannot be written: control characters and lone surrogates.

    >>> tidy("  a tall  grey\\nbird ")
    'a tall grey bird'
    """
    folded = unicodedata.normalize("NFC", " ".join(text.split()))
    bad = next((char for char in folded if unicodedata.category(char) in ("Cc", "Cs")), None)
    if bad is not None:
        raise ValueError(f"holds the character U+{ord(bad):04X}, which is not text")
    return folded
