"""What a run that goes on must find again of its training files."""

import pytest

from pyannote_weighter.tasks.prepared import first_difference, training_data


def entry(uri: str, likes: str | None = None, reference: bool = False) -> dict:
    likes = None if likes is None else likes.split()
    turns = [[0.0, 1.0, "ann"]] if reference else None
    return {"uri": uri, "likes": likes, "turns": turns, "frames": f"{uri} 12ab"}


WAS = [entry("one", "ann bob"), entry("two", "", True), entry("none")]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({}, None),
        ({0: entry("one", "ann robert")}, "likes of 'one' were ann, bob and are ann, robert now"),
        ({0: entry("one", "ann")}, "likes of 'one' were ann, bob and are ann now"),
        ({0: entry("one")}, "likes of 'one' were ann, bob and are unknown now"),
        ({1: entry("two", None, True)}, "likes of 'two' were none and are unknown now"),
        ({1: entry("two", "")}, "'two' has no reference now"),
        ({2: entry("none", reference=True)}, "'none' has a reference now"),
        ({0: WAS[1], 1: WAS[0]}, "training file 1 was 'one' and is 'two' now"),
        ({3: entry("four", "ann")}, "training file 4 was none and is 'four' now"),
        ({2: None}, "training file 3 was 'none' and is none now"),
    ],
)
def test_first_difference(changes, told):
    now = {**dict(enumerate(WAS)), **changes}
    now = [file for file in now.values() if file is not None]
    assert first_difference(training_data(WAS), training_data(now)) == told


def test_audio_may_lie_elsewhere():
    now = [file | {"frames": "elsewhere"} for file in WAS]
    assert training_data(now) == training_data(WAS)
