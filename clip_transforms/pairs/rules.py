"""The rules that pairs are judged by: plain functions from a table of pairs to what is kept, and why not.

Each function says what it means for one row; it answers for all rows of a table at once. Columns that are read: those
of `embeddings/` (caption, width, height, bytes, extra, src_*), `similarity` of `scores/`, and for each prompt set of a
`label` rule a column `label_column(set)`, which is `top_k` of its labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.elements import RequestError
from clip_transforms.pairs.comparisons import Comparison, number_of
from clip_transforms.pairs.language import COMMON, detect
from clip_transforms.prompts.errors import mistake, nearest

Keep = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
#: Reasons that other steps of a selection have; no rule may use them.
RESERVED = ("no_caption", "below_cut", "duplicate_exact", "duplicate_near", "duplicate_semantic", "kept")
#: A name with this prefix is a key of `extra`, whatever columns there are.
_EXTRA = "extra."
_SIDES = ("width", "height")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. missing: whether a row without the value is kept. test: one of the functions below, options bound."""

    name: str
    reason: str
    missing: bool
    test: Callable[..., Keep]
    reads: tuple[str, ...]  # columns of the data sets
    inputs: tuple[str, ...] = ()  # names as `input_values` takes them
    prompt_set: str | None = None  # name of the set whose labels it reads
    spec: Mapping[str, Any] = field(default_factory=dict)  # as a rule file would say it
    source: str | None = None  # the file that it is from
    line: int | None = None

    def keep(self, table: pa.Table) -> Keep:
        """Which rows of the table the rule keeps."""
        return self.test(table, missing=self.missing)

    def judge_row(self, row: Mapping[str, Any]) -> tuple[bool, str | None]:
        """(keep, reason) for one row: the meaning of `keep`, a row at a time."""
        kept = bool(self.keep(pa.Table.from_pylist([dict(row)]))[0])
        return kept, None if kept else self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """Rules in the order in which they are asked; the first that drops a row names the reason."""

    name: str
    rules: tuple[Rule, ...]
    prompt_sets: Mapping[str, Any] = field(
        default_factory=dict
    )  # prompts.PromptSet by name: to be scored first

    @property
    def reasons(self) -> tuple[str, ...]:
        """What a row may be dropped for, each once, in the rules' order."""
        return tuple(dict.fromkeys(rule.reason for rule in self.rules))

    def columns(self, available: Collection[str]) -> tuple[str, ...]:
        """The columns that `judge` needs, beside `label_column` of each prompt set. available: those there are."""
        reads = [name for rule in self.rules for name in rule.reads]
        for name in (name for rule in self.rules for name in rule.inputs):
            reads.append(_column_of(name, available) or "extra")
        return tuple(dict.fromkeys(reads))

    def spec(self) -> dict[str, Any]:
        """The set as JSON can hold it, resolved: `rule_files.rules_from_spec` reads it again. To be hashed too."""
        return {
            "name": self.name,
            "rules": [dict(rule.spec) for rule in self.rules],
            "prompt_sets": {name: found.hash for name, found in sorted(self.prompt_sets.items())},
        }


def judge(table: pa.Table, rules: RuleSet) -> npt.NDArray[np.int16]:
    """For each row the place in `rules.reasons` of why it is dropped; -1 where all rules keep it.

    Raises RequestError where label scores are not complete.
    """
    names = rules.reasons
    found = np.full(table.num_rows, -1, np.int16)
    left = np.arange(table.num_rows)
    for rule in rules.rules:  # of what the rules before have left: languages and JSON take their time
        if not len(left):
            break
        rest = table if len(left) == table.num_rows else table.take(pa.array(left))
        kept = rule.keep(rest)
        found[left[~kept]] = names.index(rule.reason)
        left = left[kept]
    return found


def label_column(prompt_set: str) -> str:
    """The column that holds a prompt set's `top_k`: list<struct<label, score, ...>>."""
    return f"labels:{prompt_set}"


def caption_characters(table: pa.Table, *, low: float | None, high: float | None, missing: bool) -> Keep:
    """low <= number of Unicode characters of the caption, as Python's `len` counts them, <= high."""
    return _within(_floats(pc.utf8_length(pc.cast(table.column("caption"), pa.string()))), low, high, missing)


def caption_words(table: pa.Table, *, low: float | None, high: float | None, missing: bool) -> Keep:
    """low <= number of words between white space, as Python's `split` finds them, <= high."""
    captions = table.column("caption").to_pylist()
    counts = np.array([np.nan if text is None else len(text.split()) for text in captions], np.float64)
    return _within(counts, low, high, missing)


def language(
    table: pa.Table,
    *,
    any_of: Sequence[str],
    probability: float,
    among: Sequence[str] = COMMON,
    missing: bool,
) -> Keep:
    """The caption's likeliest language is one of any_of, and its probability at least `probability`."""
    codes, chances = detect(table.column("caption").to_pylist(), among=among)
    fits = np.array([code in any_of for code in codes], bool) & (chances >= probability)
    return np.where(np.isnan(chances), missing, fits)


def smaller_side(
    table: pa.Table, *, low: float | None, high: float | None, width: str, height: str, missing: bool
) -> Keep:
    """low <= the shorter side of the image in pixels <= high. width, height: names of the columns to ask."""
    sides = np.minimum(input_numbers(table, width), input_numbers(table, height))
    return _within(sides, low, high, missing)


def aspect_ratio(
    table: pa.Table, *, low: float | None, high: float | None, width: str, height: str, missing: bool
) -> Keep:
    """low <= longer side / shorter side <= high; a side that is not above 0 is a missing one."""
    wide, tall = input_numbers(table, width), input_numbers(table, height)
    shorter = np.minimum(wide, tall)
    ratio = np.maximum(wide, tall) / np.where(shorter > 0, shorter, np.nan)
    return _within(ratio, low, high, missing)


def image_bytes(table: pa.Table, *, low: float | None, high: float | None, missing: bool) -> Keep:
    """low <= bytes of the encoded image <= high."""
    return _within(_floats(table.column("bytes")), low, high, missing)


def similarity(table: pa.Table, *, low: float | None, high: float | None, missing: bool) -> Keep:
    """low <= cosine of image and caption <= high, the float32 compared exactly."""
    return _within(_floats(table.column("similarity")), low, high, missing)


def label(table: pa.Table, *, prompt_set: str, label: str, high: float, missing: bool) -> Keep:
    """The score of a prompt set's label <= high.

    Of a row whose `top_k` does not list the label only its lowest score is known to be no less: where that is above
    `high` the answer would be a guess, and RequestError is raised.
    """
    scores = np.full(table.num_rows, np.nan)
    for place, found in enumerate(table.column(label_column(prompt_set)).to_pylist()):
        if not found:
            continue
        listed = {each["label"]: each["score"] for each in found}
        bound = listed.get(label, min(listed.values()))
        if label not in listed and bound > high:
            raise RequestError(
                f"prompt set '{prompt_set}': the {len(found)} best classes that are stored do not tell the "
                f"score of '{label}'; label with a --top-k of as many classes as the set has"
            )
        scores[place] = bound
    return _within(scores, None, high, missing)


def column(table: pa.Table, *, comparison: Comparison, missing: bool) -> Keep:
    """The comparison holds for the value of a column, a carried column or a key of `extra`."""
    holds, absent = comparison.holds(input_values(table, comparison.column))
    return np.where(absent, missing, holds)


def input_values(table: pa.Table, name: str) -> list[object]:
    """The values that a rule's name stands for: a column of the table, else `src_<name>`, else a key of `extra`.

    `extra.<name>` is the key of `extra` in any case.
    """
    known = _column_of(name, table.column_names)
    if known is not None:
        return list(table.column(known).to_pylist())
    if "extra" not in table.column_names:
        return [None] * table.num_rows
    key = name.removeprefix(_EXTRA)
    return [json.loads(text).get(key) if text else None for text in table.column("extra").to_pylist()]


def input_numbers(table: pa.Table, name: str) -> Floats:
    """`input_values` as numbers, NaN where there is none."""
    if name in _SIDES:
        return _floats(table.column(name))
    return np.array([number_of(value) for value in input_values(table, name)], np.float64)


def check_inputs(table: pa.Table, rules: RuleSet) -> None:
    """Raise RequestError where a rule asks for a column that no row of the table has, saying which there are."""
    for rule in rules.rules:
        for name in rule.inputs:
            if table.num_rows and not rule.missing and all(v is None for v in input_values(table, name)):
                known = {each for each in table.column_names if each.startswith("src_")}
                if "extra" in table.column_names:
                    found = table.column("extra").to_pylist()
                    known |= {key for text in found if text for key in json.loads(text)}
                listed = ", ".join(sorted(known)[:20]) or "none"
                raise mistake(
                    f"the rule '{rule.name}' asks for the column {name!r}, which the input does not have; it "
                    f"has {listed}{nearest(name, known)}",
                    source=rule.source,
                    line=rule.line,
                )


def bound(test: Callable[..., Keep], **options: Any) -> Callable[..., Keep]:
    """A rule's function with its options; can be pickled."""
    return partial(test, **options)


def _column_of(name: str, available: Collection[str]) -> str | None:
    return next((each for each in (name, f"src_{name}") if each in available), None)


def _within(values: Floats, low: float | None, high: float | None, missing: bool) -> Keep:
    kept = np.ones(len(values), bool)
    if low is not None:
        kept &= values >= low
    if high is not None:
        kept &= values <= high
    return np.where(np.isnan(values), missing, kept)


def _floats(values: Any) -> Floats:
    """Numbers with NaN for null."""
    found = pc.cast(values, pa.float64())
    return np.asarray(pc.fill_null(found, float("nan")).to_numpy(), np.float64)
