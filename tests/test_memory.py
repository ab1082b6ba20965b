import mmap
import sys

import pytest

from pyannote_weighter import memory
from pyannote_weighter.memory import give_back


def resident() -> float:
    """MB that this process holds."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE / 1e6


@pytest.mark.skipif(sys.platform != "linux" or memory._trim() is None, reason="no malloc_trim")
def test_holes_are_given_back():
    pieces = [b"x" * 100_000 for _ in range(1000)]  # on the heap: larger ones have a place alone
    last = pieces.pop()  # keeps the end of the heap where it is
    pieces.clear()
    before = resident()
    give_back()
    assert resident() < before - 50
    assert last == b"x" * 100_000


def test_nothing_happens_where_the_library_cannot(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory._trim.cache_clear()
    try:
        assert memory._trim() is None
        give_back()
    finally:
        memory._trim.cache_clear()
