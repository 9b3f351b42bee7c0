"""Comparisons of a column with a value, such as `punsafe < 0.5`: parsed here, never evaluated as code."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_FORM = re.compile(r"\s*([^\s<>=!'\"]+)\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = ("true", "false")
_ORDER: dict[str, Callable[[npt.NDArray[np.float64], float], npt.NDArray[np.bool_]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`column operator value`; the value is a number, or a text for == and !=."""

    column: str
    operator: str
    value: float | str

    def __str__(self) -> str:
        if isinstance(self.value, float):
            return f"{self.column} {self.operator} {self.value!r}"
        quote = "'" if '"' in self.value else '"'
        return f"{self.column} {self.operator} {quote}{self.value}{quote}"

    def holds(self, values: Iterable[object]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(where it holds, where the value is missing). Of numbers, what is none is missing; so are NaN and null.

        >>> holds, missing = parse_comparison("n < 2").holds([1, "1.5", 3, None, "many"])
        >>> holds.tolist(), missing.tolist()
        ([True, True, False, False, False], [False, False, False, True, True])
        """
        if isinstance(self.value, float):
            numbers = np.array([number_of(value) for value in values], np.float64)
            missing = np.isnan(numbers)
            return _ORDER[self.operator](numbers, self.value) & ~missing, missing
        texts = [_text_of(value) for value in values]
        if self.value in _BOOLEANS:  # of columns, of JSON, and as spreadsheets and Python write them
            texts = [None if text is None else text.lower() for text in texts]
        absent = np.array([text is None for text in texts], bool)
        equal = np.array([text == self.value for text in texts], bool)
        return (equal if self.operator == "==" else ~equal) & ~absent, absent


def parse_comparison(text: str) -> Comparison:
    """The comparison that a text spells; raises ValueError that says what is wrong with it.

    >>> str(parse_comparison("punsafe<0.5")), str(parse_comparison("NSFW == 'UNLIKELY'"))
    ('punsafe < 0.5', 'NSFW == "UNLIKELY"')
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no comparison; expected a column, < <= > >= == or !=, and a value")
    column, sign, value = match[1], match[2], match[3]
    if sign == "=":
        raise ValueError(f"{text!r} has a single =; write ==")
    if value[0] in "'\"":
        if len(value) < 2 or value[-1] != value[0] or value[0] in value[1:-1]:
            raise ValueError(f"the value of {text!r} has a quote that is not closed, or more than one text")
        found: float | str = value[1:-1]
    elif _NUMBER.fullmatch(value):
        found = float(value)
    elif re.search(r"[\s<>=!&|()\[\],'\"]", value):
        raise ValueError(f"{text!r} is more than one comparison; write a rule for each, or quote the text")
    else:
        found = value.lower() if value.lower() in _BOOLEANS else value
    if isinstance(found, str) and sign not in ("==", "!="):
        raise ValueError(f"{text!r} puts texts in an order; only numbers have one, texts know == and !=")
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(f"the value of {text!r} is too large")
    return Comparison(column=column, operator=sign, value=found)


def number_of(value: object) -> float:
    """The value as a number, also where it is the text of one; NaN where it is none.

    >>> [number_of(value) for value in (2, " 0.5 ", True, "x", None)]
    [2.0, 0.5, 1.0, nan, nan]
    """
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return math.nan


def _text_of(value: object) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
