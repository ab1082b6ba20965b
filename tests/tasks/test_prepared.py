"""What a run that goes on must find again of its training files."""

import json

import pytest

from pyannote_weighter.tasks.prepared import development_id, first_difference, training_data


def entry(uri: str, likes: str | None = None, reference: bool = False, **more) -> dict:
    likes = None if likes is None else likes.split()
    turns = [[0.0, 1.0, "ann"]] if reference else None
    known = {"uri": uri, "likes": likes, "turns": turns, "annotated": None, "num_speakers": None}
    return known | {"frames": f"{uri} 12ab"} | more


WAS = [
    entry("one", "ann bob"),
    entry("two", "", True),
    entry("none"),
    entry("five", num_speakers=5),
]


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
        ({4: entry("four", "ann")}, "training file 5 was none and is 'four' now"),
        ({3: None}, "training file 4 was 'five' and is none now"),
        ({3: entry("five", num_speakers=1)}, "num_speakers of 'five' was 5 and is 1 now"),
        ({3: entry("five")}, "num_speakers of 'five' was 5 and is unknown now"),
        ({2: entry("none", num_speakers=0)}, "num_speakers of 'none' was unknown and is 0 now"),
        ({1: entry("two", "", turns=[[0.0, 1.5, "ann"]])}, "'two' has another reference now"),
        ({1: entry("two", "", True, annotated=[[0.0, 2.0]])}, "'two' has another reference now"),
    ],
)
def test_first_difference(changes, told):
    now = {**dict(enumerate(WAS)), **changes}
    now = [file for file in now.values() if file is not None]
    assert first_difference(training_data(WAS), training_data(now)) == told


def test_audio_may_lie_elsewhere():
    now = [file | {"frames": "elsewhere"} for file in WAS]
    assert training_data(now) == training_data(WAS)


def test_what_earlier_versions_did_not_note():
    """They noted whether there is a reference, and no number of speakers."""
    was = [
        {"uri": e["uri"], "likes": e["likes"], "reference": e["turns"] is not None} for e in WAS
    ]
    was = json.loads(json.dumps(was))
    assert first_difference(was, training_data(WAS)) is None
    now = [WAS[0], entry("two", "", turns=[[3.0, 4.0, "bob"]]), WAS[2], entry("five")]
    assert first_difference(was, training_data(now)) is None
    now[1] = entry("two", "")
    assert first_difference(was, training_data(now)) == "'two' has no reference now"


def test_data_survive_json():
    data = training_data(WAS)
    assert json.loads(json.dumps(data)) == data
    assert first_difference(json.loads(json.dumps(data)), data) is None


def test_development_files_are_told_apart():
    der, precision = "DiarizationErrorRate", "LikesMeanAveragePrecision"
    same = development_id([file | {"frames": "elsewhere"} for file in WAS], der)
    assert development_id(WAS, der) == same == development_id(WAS[::-1], der)
    others = [
        WAS[:2],
        [*WAS[:2], entry("other"), WAS[3]],
        [entry("one", "ann"), *WAS[1:]],
        [entry("one"), *WAS[1:]],
        [WAS[0], entry("two", ""), *WAS[2:]],
        [WAS[0], entry("two", "", turns=[[0.0, 1.0, "bob"]]), *WAS[2:]],
        [WAS[0], entry("two", "", True, annotated=[[0.0, 1.0]]), *WAS[2:]],
    ]
    by_likes = others[2:4]  # what differs is what is judged
    by_reference = [*others[:2], *others[4:]]
    assert len({same, *(development_id(o, der) for o in by_reference)}) == 1 + len(by_reference)
    assert {development_id(o, der) for o in by_likes} == {same}
    same = development_id(WAS, precision)
    assert len({same, *(development_id(o, precision) for o in by_likes)}) == 1 + len(by_likes)
    assert {development_id(o, precision) for o in others[4:]} == {same}
