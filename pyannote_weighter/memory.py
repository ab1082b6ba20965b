"""Memory that is free, and is not given back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # only the C library of GNU has it
        return None


def give_back() -> None:
    """Return free memory to the system, where the C library would keep it.

    What comes and goes with each window of a long recording leaves holes between what stays, and
    the next windows do not fit into all of them: after some hours they are several hundred MB.
    It takes some milliseconds, and what is needed again has to be asked for again.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
