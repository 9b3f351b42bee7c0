"""CLIP's byte-pair tokenizer, counting only: whether a text fits is told without loading torch or a model."""

from __future__ import annotations

import gzip
import html
import importlib.util
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from clip_transforms.elements import RequestError

_MERGES = 49152 - 256 - 2  # of the vocabulary file; what follows them is not used by CLIP
_MARKS = ("<start_of_text>", "<end_of_text>")  # tokens of their own, in texts too
_SPECIAL = 2  # the start and the end of a text


class ClipTokenCounter:
    """Counts tokens as OpenAI's CLIP and most open_clip models do (lower-cased BPE, 77 tokens).

    Source: openai/CLIP, simple_tokenizer.py (MIT), whose vocabulary the open_clip package carries. Models
    with a tokenizer of their own, such as SigLIP, count differently. Raises RequestError without open_clip.
    """

    name = "CLIP's own tokenizer"
    context_length = 77

    def __init__(self) -> None:
        self._ranks = _merge_ranks()
        self._bytes = _byte_characters()
        self._known = dict.fromkeys(_MARKS, 1)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before truncation, start and end included.

        >>> ClipTokenCounter().token_counts(["a photo of a cat.", ""])
        [8, 2]
        """
        return [_SPECIAL + sum(map(self._count, _words(text))) for text in texts]

    def _count(self, word: str) -> int:
        if word not in self._known:
            self._known[word] = len(self._split(word))
        return self._known[word]

    def _split(self, word: str) -> list[str]:
        """The word's parts after all merges, the earliest learned first."""
        parts = [self._bytes[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            ranked = [self._ranks.get(pair, _MERGES) for pair in itertools.pairwise(parts)]
            best = min(ranked)
            if best == _MERGES:
                break
            place = ranked.index(best)
            pair = (parts[place], parts[place + 1])
            merged: list[str] = []
            position = 0
            while position < len(parts):
                if tuple(parts[position : position + 2]) == pair:
                    merged.append("".join(pair))
                    position += 2
                else:
                    merged.append(parts[position])
                    position += 1
            parts = merged
        return parts


def _words(text: str) -> list[str]:
    import ftfy
    import regex  # type: ignore[import-untyped, unused-ignore]  # its stubs are a package of their own

    clean = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    pattern = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return list(regex.findall(pattern, clean, regex.IGNORECASE))


@lru_cache(maxsize=1)
def _merge_ranks() -> dict[tuple[str, str], int]:
    package = importlib.util.find_spec("open_clip")  # finds it without importing it, and so without torch
    if package is None or not package.submodule_search_locations:
        raise RequestError("counting tokens needs the open_clip package: pip install open_clip_torch")
    path = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : _MERGES + 1]
    pairs = (line.split() for line in lines)
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


@lru_cache(maxsize=1)
def _byte_characters() -> dict[int, str]:
    """Each byte as one printable character: itself where it is one, else one from 256 on."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}
