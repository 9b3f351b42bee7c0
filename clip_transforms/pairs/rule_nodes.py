"""What the entries of a rule set's YAML mean: each becomes one rule, checked as it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.pairs import rules as tests
from clip_transforms.pairs.comparisons import parse_comparison
from clip_transforms.pairs.language import COMMON, check_languages
from clip_transforms.pairs.rules import RESERVED, Rule, bound
from clip_transforms.prompts import PromptSet, load_prompt_set
from clip_transforms.prompts.errors import nearest
from clip_transforms.prompts.nodes import Node
from clip_transforms.sources.urls import canonical_uri, is_local

_COMMON_KEYS = ("rule", "reason", "missing")
_SIDES = ("width", "height")
#: Of rules with a range: the least and the greatest value that makes sense, and whether only whole numbers do.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "caption_characters": (0, math.inf, True),
    "caption_words": (0, math.inf, True),
    "smaller_side": (0, math.inf, True),
    "aspect_ratio": (1, math.inf, False),
    "image_bytes": (0, math.inf, True),
    "similarity": (-1, 1, False),
}
_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_RANGES, ("at_least", "at_most")),
    "smaller_side": ("at_least", "at_most", *_SIDES),
    "aspect_ratio": ("at_least", "at_most", *_SIDES),
    "language": ("any_of", "probability", "among"),
    "label": ("set", "label", "at_most"),
    "column": ("keep",),
}
_READS = {
    "caption_characters": ("caption",),
    "caption_words": ("caption",),
    "language": ("caption",),
    "image_bytes": ("bytes",),
    "similarity": ("similarity",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleReader:
    """Reads the rules of one file; `sets` gathers the prompt sets that they ask for, by name.

    recorded: all sets that the rules had when a run recorded them, by name; they hold, whatever became of the files.
    """

    source: str
    options: dict[str, object]
    recorded: Mapping[str, PromptSet] = field(default_factory=dict)
    sets: dict[str, PromptSet] = field(default_factory=dict)

    def rule(self, node: Node) -> Rule:
        """One entry of `rules`."""
        entries = node.map_of(
            "a rule", sorted({*_COMMON_KEYS, *(k for keys in _KEYS.values() for k in keys)})
        )
        if "rule" not in entries:
            raise node.mistake(f"a rule has no `rule`; write one of {', '.join(_KEYS)}")
        name = entries["rule"].text("`rule`")
        if name not in _KEYS:
            hint = nearest(name, _KEYS) or f"; known are {', '.join(_KEYS)}"
            raise entries["rule"].mistake(f"the rule '{name}' is not known{hint}")
        node.map_of(f"the rule '{name}'", (*_COMMON_KEYS, *_KEYS[name]))
        make: Callable[[Node, str, dict[str, Node]], Rule] = {
            "language": self._language,
            "label": self._label,
            "column": self._column,
        }.get(name, self._range)
        made = make(node, name, entries)
        reason = entries["reason"].text("`reason`") if "reason" in entries else made.reason
        if reason in RESERVED:
            raise node.mistake(f"the reason '{reason}' is one that a selection has already; choose another")
        missing = self._missing(entries)
        spec = {**made.spec, "rule": name, "reason": reason, "missing": "keep" if missing else "drop"}
        return replace(made, reason=reason, missing=missing, spec=spec)

    def _missing(self, entries: dict[str, Node]) -> bool:
        if "missing" not in entries:
            return False
        word = entries["missing"].text("`missing`")
        if word not in ("keep", "drop"):
            raise entries["missing"].mistake(f"`missing` is '{word}', expected keep or drop")
        return word == "keep"

    def _range(self, node: Node, name: str, entries: dict[str, Node]) -> Rule:
        low, high = (_bound(entries, key, name) for key in ("at_least", "at_most"))
        if low is None and high is None:
            raise node.mistake(f"the rule '{name}' has neither `at_least` nor `at_most`")
        if low is not None and high is not None and low > high:
            raise node.mistake(f"the rule '{name}' keeps nothing: at_least {low:g} is above at_most {high:g}")
        bounds = {"at_least": low, "at_most": high}
        spec: dict[str, Any] = {key: value for key, value in bounds.items() if value is not None}
        options: dict[str, Any] = {"low": low, "high": high}
        inputs: tuple[str, ...] = ()
        reads: tuple[str, ...] = _READS.get(name, _SIDES)
        if _SIDES[0] in _KEYS[name]:
            given = {side: entries[side].text(f"`{side}`") for side in _SIDES if side in entries}
            if len(given) == 1:
                raise node.mistake(f"the rule '{name}' names a column for one side only; name both")
            columns = given or {side: side for side in _SIDES}
            inputs = tuple(given.values())
            reads = () if given else _SIDES
            options, spec = {**options, **columns}, {**spec, **given}
        test = bound(getattr(tests, name), **options)
        return _rule(node, name, name, test, reads=reads, inputs=inputs, spec=spec)

    def _language(self, node: Node, name: str, entries: dict[str, Node]) -> Rule:
        if "any_of" not in entries or not entries["any_of"].list_of("any_of"):
            raise node.mistake("the rule 'language' has no `any_of`; write any_of: [en]")
        any_of = entries["any_of"].texts("any_of")
        among = entries["among"].texts("among") if "among" in entries else COMMON
        chance = entries["probability"].number("probability") if "probability" in entries else 0.0
        if not 0 <= chance <= 1:
            raise entries["probability"].mistake(
                f"`probability` is {chance:g}, expected a number from 0 to 1"
            )
        among = tuple(dict.fromkeys((*among, *any_of)))
        try:
            check_languages(among)
        except RequestError as error:
            raise node.mistake(str(error)) from error
        test = bound(tests.language, any_of=any_of, probability=chance, among=among)
        spec = {"any_of": list(any_of), "probability": chance, "among": list(among)}
        return _rule(node, name, name, test, reads=("caption",), spec=spec)

    def _label(self, node: Node, name: str, entries: dict[str, Node]) -> Rule:
        for key in ("set", "label", "at_most"):
            if key not in entries:
                example = "{rule: label, set: web-flags, label: watermark, at_most: 0.9}"
                raise node.mistake(f"the rule 'label' has no `{key}`; write {example}")
        wanted = entries["label"].text("`label`")
        prompts, source = self._prompt_set(entries["set"], wanted)
        if wanted not in prompts.classes:
            hint = nearest(wanted, prompts.classes) or f"; it has {', '.join(prompts.classes[:20])}"
            raise entries["label"].mistake(f"prompt set '{prompts.name}' has no class '{wanted}'{hint}")
        high = entries["at_most"].number("at_most")
        if not 0 <= high < 1:
            raise entries["at_most"].mistake(f"`at_most` is {high:g}, expected a score from 0.0, below 1.0")
        test = bound(tests.label, prompt_set=prompts.name, label=wanted, high=high)
        spec = {"set": source, "label": wanted, "at_most": high}
        return _rule(node, name, f"label_{wanted}", test, reads=(), prompt_set=prompts.name, spec=spec)

    def _prompt_set(self, node: Node, label: str) -> tuple[PromptSet, str]:
        """A set by its shipped name, or a file that lies beside the rules."""
        source = node.text("`set`")
        if "/" in source or "." in source:  # a file; else a shipped set's name
            if "/" not in source:
                source = self.source[: len(self.source) - len(self.source.rpartition("/")[2])] + source
            if is_local(source):  # what is recorded must be found from another folder too
                source = canonical_uri(source)
        try:
            prompts = self._load(source, label)
        except RequestError as error:
            raise node.mistake(str(error)) from error
        known = self.sets.setdefault(prompts.name, prompts)
        if known.hash != prompts.hash:
            raise node.mistake(f"two different prompt sets are called '{prompts.name}'")
        return prompts, source

    def _load(self, source: str, label: str) -> PromptSet:
        """The set behind a source. Recorded ones are told by its name, else by having the label as the only one."""
        fitting = [prompts for prompts in self.recorded.values() if label in prompts.classes]
        try:
            found = load_prompt_set(source, storage_options=self.options)
        except RequestError:
            if len(fitting) == 1:
                return fitting[0]
            raise
        only = fitting[0] if len(fitting) == 1 else found
        return self.recorded.get(found.name, only)

    def _column(self, node: Node, name: str, entries: dict[str, Node]) -> Rule:
        if "keep" not in entries:
            raise node.mistake("the rule 'column' has no `keep`; write keep: \"punsafe < 0.5\"")
        try:
            comparison = parse_comparison(entries["keep"].text("`keep`"))
        except ValueError as error:
            raise entries["keep"].mistake(str(error)) from None
        test = bound(tests.column, comparison=comparison)
        reason = f"column_{comparison.column}"
        spec = {"keep": str(comparison)}
        return _rule(node, name, reason, test, reads=(), inputs=(comparison.column,), spec=spec)


def _rule(
    node: Node,
    name: str,
    reason: str,
    test: Callable[..., Any],
    *,
    reads: tuple[str, ...],
    spec: dict[str, Any],
    inputs: tuple[str, ...] = (),
    prompt_set: str | None = None,
) -> Rule:
    return Rule(
        name=name,
        reason=reason,
        missing=False,
        test=test,
        reads=reads,
        inputs=inputs,
        prompt_set=prompt_set,
        spec=spec,
        source=node.source or None,
        line=node.line if node.source else None,
    )


def _bound(entries: dict[str, Node], key: str, name: str) -> float | None:
    if key not in entries:
        return None
    value = entries[key].number(key)
    low, high, whole = _RANGES[name]
    if not low <= value <= high:
        between = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}"
        raise entries[key].mistake(f"`{key}` of '{name}' is {entries[key].raw}, expected a number {between}")
    if whole and not value.is_integer():
        raise entries[key].mistake(f"`{key}` of '{name}' is {entries[key].raw}, expected a whole number")
    return value
