"""Words of messages."""

from pyannote_weighter.messages import some_of


def test_the_first_of_some_names():
    assert some_of([]) == ""
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d"]) == "a, b, c, ..."
    assert some_of(("a", "b"), most=1) == "a, ..."
