"""Which listed names an input takes: suffixes of a folder, or a glob with `*`, `**`, `?` and `[...]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_MAGIC = re.compile(r"[*?\[]")


class Selection(Protocol):
    """Which names below a root are wanted; names are relative to it, separated by /."""

    def want(self, name: str) -> bool:
        """Whether this file is wanted."""
        ...

    def enter(self, folder: str) -> bool:
        """Whether a wanted file can lie below this folder."""
        ...


def has_magic(url: str) -> bool:
    """Whether the url has letters of a glob in it.

    >>> has_magic("gs://b/*.jpg"), has_magic("gs://b/a.jpg")
    (True, False)
    """
    return _MAGIC.search(url) is not None


@dataclass(frozen=True, slots=True)
class Suffixes:
    """All files below a folder with one of these suffixes, in any case of letters, but no dot files."""

    suffixes: tuple[str, ...]

    def want(self, name: str) -> bool:
        """Whether the name has such a suffix, and no part that begins with a dot."""
        return name.lower().endswith(self.suffixes) and not _has_dot_part(name)

    def enter(self, folder: str) -> bool:
        """Whether no part of the folder's name begins with a dot."""
        return not _has_dot_part(folder)


class Glob:
    """A glob below its longest literal folder.

    `*` and `?` stay within one name, `**` crosses folders (also as a part of a name: `**.jpg`), `[...]` is a
    set of letters, `[!...]` its complement. Names that begin with a dot are matched only by a pattern with
    a part that does.

    >>> glob = Glob("gs://bucket/photos/2024-*/**/*.jpg")
    >>> glob.root, glob.prefix
    ('gs://bucket/photos', '2024-')
    >>> glob.want("2024-01/a.jpg"), glob.want("2024-01/x/y/a.jpg"), glob.want("2023/a.jpg")
    (True, True, False)
    """

    def __init__(self, url: str) -> None:
        head = url[: url.find("://") + 3] if "://" in url else ""
        rest = url[len(head) :]
        first = _MAGIC.search(rest)
        literal = rest[: first.start()] if first else rest
        cut = literal.rfind("/")
        self.root = head + rest[: max(cut, 0)] or "/"
        self.prefix = literal[cut + 1 :]
        pattern = rest[cut + 1 :]
        self.parts = pattern.split("/")
        self._dots = any(part.startswith(".") for part in self.parts)
        self._matches = re.compile(translate(pattern), re.DOTALL)
        deep = next((index for index, part in enumerate(self.parts) if "**" in part), None)
        self._any_depth = deep is not None
        fixed: Sequence[str] = self.parts[:-1] if deep is None else self.parts[:deep]
        self._folders = [re.compile(translate(part), re.DOTALL) for part in fixed]

    @property
    def suffix(self) -> str:
        """The literal lower-case suffix that every match has; "" where the pattern leaves it open.

        >>> Glob("/a/*.JPG").suffix, Glob("/a/*").suffix, Glob("/a/*.[jp]*").suffix
        ('.jpg', '', '')
        """
        _, dot, end = self.parts[-1].rpartition(".")
        return (dot + end).lower() if dot and not has_magic(end) else ""

    def want(self, name: str) -> bool:
        """Whether the whole name matches."""
        return self._matches.fullmatch(name) is not None and (self._dots or not _has_dot_part(name))

    def enter(self, folder: str) -> bool:
        """Whether the pattern can match below the folder."""
        names = folder.split("/")
        if len(names) > len(self._folders) and not self._any_depth:
            return False
        if not self._dots and _has_dot_part(folder):
            return False
        return all(part.fullmatch(name) for part, name in zip(self._folders, names, strict=False))


def translate(pattern: str) -> str:
    """The glob as a regular expression for the whole name.

    >>> translate("a?/**/*.jpg")
    'a[^/]/(?:[^/]+/)*[^/]*\\\\.jpg'
    """
    out: list[str] = []
    index = 0
    while index < len(pattern):
        at_start = index == 0 or pattern[index - 1] == "/"
        if at_start and pattern.startswith("**/", index):
            out.append("(?:[^/]+/)*")
            index += 3
        elif pattern.startswith("**", index):
            out.append(".*")
            index += 2
        elif pattern[index] == "*":
            out.append("[^/]*")
            index += 1
        elif pattern[index] == "?":
            out.append("[^/]")
            index += 1
        else:
            text, index = _letter_or_set(pattern, index)
            out.append(text)
    return "".join(out)


def _letter_or_set(pattern: str, index: int) -> tuple[str, int]:
    """One letter, or a whole `[...]`; an opening bracket that is never closed is a letter."""
    end = pattern.find("]", index + 2 + pattern.startswith("[!", index)) if pattern[index] == "[" else -1
    if end < 0:
        return re.escape(pattern[index]), index + 1
    body = pattern[index + 1 : end]
    negated = body.startswith("!")
    letters = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[negated:])
    return f"(?!/)[{'^' if negated else ''}{letters}]", end + 1


def _has_dot_part(name: str) -> bool:
    return name.startswith(".") or "/." in name
