"""Options that cannot be are refused before any work is done."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

Rule = tuple[str, Callable[[Any], bool]]
"""What an option may be, in words that complete "choose ...", and as a test."""


def is_whole(value: Any) -> bool:
    """Whether it is an integer, of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, of Python or NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_above_zero(value: Any) -> bool:
    return not isinstance(value, bool) and 0 < value < math.inf


COUNT: Rule = "a whole number of at least 1", lambda value: is_whole(value) and value >= 1
COUNT_OR_ZERO: Rule = (
    "a whole number of at least 0",
    lambda value: is_whole(value) and value >= 0,
)
COUNT_OR_NONE: Rule = "None, or a whole number of at least 1", lambda v: v is None or COUNT[1](v)
ABOVE_ZERO: Rule = "a number above 0", _is_above_zero
AT_LEAST_ZERO: Rule = (
    "a number of at least 0",
    lambda value: not isinstance(value, bool) and 0 <= value < math.inf,
)
SHARE: Rule = "a number from 0 to 1", lambda value: not isinstance(value, bool) and 0 <= value <= 1
FINITE: Rule = "a finite number", is_number
SWITCH: Rule = "True or False", lambda value: isinstance(value, bool | np.bool_)


def check_options(rules: Mapping[str, Rule], **options: Any) -> None:
    """Refuse options that their rules do not allow.

    Parameters
    ----------
    rules : mapping
        By the name of the option.
    **options
        Values. A test that fails with TypeError, as a comparison of text does, does not allow it.

    Raises
    ------
    ValueError
        With the name, the value and what to choose.
    """
    for name, value in options.items():
        words, test = rules[name]
        try:
            allowed = test(value)
        except TypeError:
            allowed = False
        if not allowed:
            raise ValueError(f"{name} is {value!r}: choose {words}")
