"""Brace expansion of inputs: `{00000..00999}` and `{a,b}`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from clip_transforms.elements import RequestError
from clip_transforms.sources.urls import canonical_uri, is_local, scrub

#: No request means more inputs than this by braces; a typing mistake does.
MAX_EXPANSION = 1_000_000
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")


def expand_inputs(inputs: Sequence[str]) -> list[str]:
    """The inputs with braces expanded, in order; a local path that exists as written stays.

    Raises RequestError where an input is empty or braces mean more than MAX_EXPANSION names.

    >>> expand_inputs(["gs://b/{08..10}.tar", "{a,b}/c"])
    ['gs://b/08.tar', 'gs://b/09.tar', 'gs://b/10.tar', 'a/c', 'b/c']
    """
    expanded: list[str] = []
    for text in inputs:
        if not text.strip():
            raise RequestError("an --input is empty; expected a folder, a glob, a file or a url")
        if is_local(text) and "{" in text and os.path.lexists(canonical_uri(text)):
            expanded.append(text)
        else:
            expanded.extend(expand_braces(text))
        if len(expanded) > MAX_EXPANSION:
            raise RequestError(f"--input means more than {MAX_EXPANSION:,} names; use a glob or a url list")
    return expanded


def expand_braces(text: str) -> list[str]:
    """All that `{1..9}`, `{01..10..2}` and `{a,b}` in the text stand for; other braces stay as they are.

    >>> expand_braces("x{a,b{1..2}}y{z}")
    ['xay{z}', 'xb1y{z}', 'xb2y{z}']
    """
    start = text.find("{")
    while start >= 0:
        end = _closing(text, start)
        choices = _choices(text[start + 1 : end]) if end > 0 else None
        if choices is not None:
            tails = expand_braces(text[end + 1 :])
            if len(choices) * len(tails) > MAX_EXPANSION:
                raise RequestError(f"{scrub(text)} means more than {MAX_EXPANSION:,} names; use a glob")
            return [text[:start] + choice + tail for choice in choices for tail in tails]
        start = text.find("{", start + 1)
    return [text]


def _choices(body: str) -> list[str] | None:
    """What the inside of a pair of braces stands for; None where it is plain text."""
    span = _RANGE.fullmatch(body)
    if span:
        first, last, step = int(span[1]), int(span[2]), int(span[3] or 1) or 1
        if abs(last - first) // step >= MAX_EXPANSION:
            raise RequestError(f"{{{body}}} means more than {MAX_EXPANSION:,} names; use a glob")
        padded = any(re.match(r"-?0\d", edge) for edge in span.group(1, 2))
        width = max(len(span[1]), len(span[2])) if padded else 0
        numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
        return [f"{number:0{width}d}" for number in numbers]
    parts = list(_split_commas(body))
    if len(parts) < 2:
        return None
    return [choice for part in parts for choice in expand_braces(part)]


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index
    return -1


def _split_commas(body: str) -> Iterator[str]:
    depth, begin = 0, 0
    for index, letter in enumerate(body):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            yield body[begin:index]
            begin = index + 1
    yield body[begin:]
