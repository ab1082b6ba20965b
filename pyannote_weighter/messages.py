"""Words of messages to people."""

from collections.abc import Sequence


def some_of(names: Sequence[str], most: int = 3) -> str:
    """The first of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
