"""Warnings about a sound prompt set: texts that get cut, labels nearly the same, words of two meanings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import numpy as np

from clip_transforms.encoders.base import Encoder
from clip_transforms.prompts.templates import data_folder
from clip_transforms.prompts.types import Label, PromptSet
from clip_transforms.text_features import text_features

Kind = Literal["too_long", "near_identical", "ambiguous", "one_class"]

#: Cosine of two classes' text features from which on they are called nearly identical.
NEAR_COSINE = 0.98

_ARTICLES = {"a", "an", "the"}


class TokenCounter(Protocol):
    """What counts tokens: `clip_tokens.ClipTokenCounter`, or an encoder."""

    name: str
    context_length: int  # tokens, with start and end

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before truncation, start and end included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWarning:
    """Something that is allowed and probably not meant. classes are the class keys it is about."""

    kind: Kind
    message: str
    classes: tuple[str, ...]
    line: int | None = None  # of the first class in its file


def check_prompt_set(
    prompts: PromptSet,
    *,
    counter: TokenCounter | None = None,
    encoder: Encoder | None = None,
    near_cosine: float = NEAR_COSINE,
) -> list[PromptWarning]:
    """What to look at before a long run, in the order of the classes.

    counter: finds texts over its context length. encoder: the same with its own tokenizer, and finds pairs
    of classes whose text features have a cosine of near_cosine or more (a text encode of the whole set).
    """
    lines = {label.id: label.line for label in prompts.labels}
    found = [*_one_class(prompts), *_shared_texts(prompts), *_ambiguous(prompts)]
    tokens = counter if encoder is None else encoder
    if tokens is not None:
        found += _too_long(prompts, tokens)
    if encoder is not None:
        known = {warning.classes for warning in found if warning.kind == "near_identical"}
        found += [pair for pair in _near_features(prompts, encoder, near_cosine) if pair.classes not in known]
    return [_with_line(warning, lines) for warning in found]


def normalised(text: str) -> str:
    """What is left of a name when spelling is taken away: case, accents, marks, articles and plural s.

    >>> normalised("The T-Shirts"), normalised("tshirt")
    ('tshirt', 'tshirt')
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    words = [word for word in re.split(r"[\W_]+", plain) if word and word not in _ARTICLES]
    return "".join(words[:-1] + [_singular(word) for word in words[-1:]])


@cache
def ambiguous_words() -> dict[str, str]:
    """The shipped list of words that name several visible things: word -> meanings.

    >>> ambiguous_words()["crane"]
    'a bird, a machine'
    """
    lines = data_folder().joinpath("ambiguous-words.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def _singular(word: str) -> str:
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )


def _with_line(warning: PromptWarning, lines: dict[str, int | None]) -> PromptWarning:
    line = next((lines[key] for key in warning.classes if lines.get(key)), None)
    return PromptWarning(kind=warning.kind, message=warning.message, classes=warning.classes, line=line)


def _one_class(prompts: PromptSet) -> list[PromptWarning]:
    if prompts.task == "multi" or len(prompts.classes) > 1:
        return []
    message = "one class alone gets the probability 1 for every image; add labels, or `none`"
    return [PromptWarning(kind="one_class", message=message, classes=prompts.classes)]


def _shared_texts(prompts: PromptSet) -> list[PromptWarning]:
    """Pairs of classes of which a name, a synonym or a prompt is the same but for spelling."""
    owners: dict[str, str] = {}
    pairs: dict[tuple[str, str], str] = {}
    for label in _leaves(prompts):
        texts = dict.fromkeys((label.name, *label.synonyms, *label.prompts))
        for text in texts if prompts.templates_of(label) else label.prompts:
            owner = owners.setdefault(normalised(text) or text, label.id)
            if owner != label.id:
                pairs.setdefault((owner, label.id), text)
    return [
        PromptWarning(
            kind="near_identical",
            message=f"'{first}' and '{second}' are both described by '{text}'",
            classes=(first, second),
        )
        for (first, second), text in pairs.items()
    ]


def _ambiguous(prompts: PromptSet) -> list[PromptWarning]:
    """Labels whose only text is one word of several meanings."""
    found = []
    for label in _leaves(prompts):
        word = label.name.casefold()
        meanings = ambiguous_words().get(word) or ambiguous_words().get(_singular(word))
        if meanings and not label.synonyms and not label.prompts:
            message = f"'{label.name}' may be {meanings}; say which by its name, synonyms or prompts"
            found.append(PromptWarning(kind="ambiguous", message=message, classes=(label.id,)))
    return found


def _too_long(prompts: PromptSet, counter: TokenCounter) -> list[PromptWarning]:
    """A warning a class, about its longest text."""
    found = []
    for key, texts in prompts.prompts_by_class().items():
        counts = counter.token_counts(texts)
        over = sum(count > counter.context_length for count in counts)
        if over:
            longest = texts[counts.index(max(counts))]
            start = longest if len(longest) <= 60 else longest[:57] + "..."
            lead = f"{over} of {len(texts)} texts of '{key}' are over {counter.context_length} tokens"
            message = f"{lead} and will be cut; the longest has {max(counts)}: '{start}'"
            found.append(PromptWarning(kind="too_long", message=message, classes=(key,)))
    return found


def _near_features(prompts: PromptSet, encoder: Encoder, near_cosine: float) -> list[PromptWarning]:
    classes = prompts.classes
    matrix = text_features(prompts, encoder).rows(classes).astype(np.float64)
    found = []
    for row, key in enumerate(classes):
        cosines = matrix[row + 1 :] @ matrix[row]
        for place in np.flatnonzero(cosines >= near_cosine):
            other = classes[row + 1 + int(place)]
            message = f"'{key}' and '{other}' are the same to {encoder.name}: cosine {cosines[place]:.3f}"
            found.append(PromptWarning(kind="near_identical", message=message, classes=(key, other)))
    return found


def _leaves(prompts: PromptSet) -> list[Label]:
    return sorted((label for label in prompts.labels if not label.group), key=lambda label: label.id)
