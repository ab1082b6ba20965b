"""What is taken of files that know likes, references, both or nothing, and what is refused."""

import json
import math
import warnings

import pandas as pd
import pytest
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database import registry

from pyannote_weighter.tasks.samples import as_liked, check_references, reference_entry
from pyannote_weighter.tasks.supervision import knows, training_entry, training_files, unnamed

NAME = "Made.SpeakerDiarization.Up"


def file(uri: str, likes: str | None = None, turns: str | None = None, **more) -> dict:
    """Turns are names, a second each."""
    made = {"uri": uri, "scope": "global", **more}
    if likes is not None:
        made["likes"] = tuple(likes.split())
    if turns is not None:
        made["annotation"] = Annotation(uri=uri)
        for second, name in enumerate(turns.split()):
            made["annotation"][Segment(second, second + 1)] = name
    return made


def test_each_supervision_takes_its_own():
    both = file("a", "y x y", "x z", annotated=Timeline([Segment(0, 1.5)]))
    assert training_entry(both) == {
        "uri": "a", "likes": ["x", "y"], "turns": None, "annotated": None, "num_speakers": None,
    }  # fmt: skip
    references = training_entry(both, "references")
    assert references["likes"] is None and references["annotated"] == [[0, 1.5]]
    assert references["turns"] == [[0, 1, "x"], [1, 2, "z"]]
    entry = training_entry(both, "both")
    assert entry == references | {"likes": ["x", "y"]}
    assert json.loads(json.dumps(entry)) == entry
    assert [knows(training_entry(both, s)) for s in ("likes", "references", "both")] == [
        (True, False), (False, True), (True, True),
    ]  # fmt: skip


def test_known_to_have_none_is_not_unknown():
    assert training_entry(file("a", ""))["likes"] == []
    assert training_entry(file("a"))["likes"] is None
    assert training_entry(file("a") | {"likes": None})["likes"] is None


def test_how_many_may_lack_a_like():
    assert unnamed(training_entry(file("a", "x y"))) == math.inf
    assert unnamed(training_entry(file("a", "x y", num_speakers=5))) == 3
    assert unnamed(training_entry(file("a", "x y", num_speakers=1))) == 0
    # an empty list says that nobody who is known is there
    assert unnamed(training_entry(file("a", "", num_speakers=5))) == 0


def test_references_that_say_nothing():
    """RTTM gives an empty annotation for a file that it does not list, UEM likewise."""
    for made in (file("a", "x", ""), file("a", "x", "y", annotated=Timeline())):
        assert knows(training_entry(made, "both")) == (True, False)


def test_references_that_begin_late():
    """Training reads all of a file, however much of development files is judged."""
    late = file("a", "x", scope="file") | {"annotation": Annotation(uri="a")}
    late["annotation"][Segment(700, 760)] = "x"
    late["annotated"] = Timeline([Segment(600, 1200)])
    entry = training_entry(late, "both")
    assert entry["turns"] == [[700, 760, "x of a"]] and entry["annotated"] == [[600, 1200]]


def test_names_of_one_file_alone():
    here, there = (
        training_entry(file(uri, turns="x y", scope="file"), "references") for uri in ("a", "b")
    )
    assert not {who for _, _, who in here["turns"]} & {who for _, _, who in there["turns"]}


def test_names_of_one_database_alone():
    """Where a protocol has files of two: the same name is another person there."""
    files = [
        file(f"{database}{number}", "x y", "x", scope="database", database=database)
        for database in "AB"
        for number in (1, 2)
    ]
    _, entries = training_files(NAME, files, "both", False)
    assert [entry["likes"] for entry in entries[1:3]] == [
        ["x of A", "y of A"],
        ["x of B", "y of B"],
    ]
    assert entries[1]["turns"] == [[0, 1, "x of A"]]
    assert reference_entry(files[0], several=True)["likes"] == ["x of A", "y of A"]

    _, entries = training_files(NAME, files[:2], "both", False)  # one database
    assert entries[0]["likes"] == ["x", "y"] and entries[0]["turns"] == [[0, 1, "x"]]
    everywhere = [made | {"scope": "global"} for made in files]
    assert training_files(NAME, everywhere, "likes", False)[1][3]["likes"] == ["x", "y"]
    with pytest.raises(ValueError, match="no speaker of .* is liked in two files"):
        training_files(NAME, files[::2], "likes", False)


@pytest.mark.parametrize(
    "given, number",
    [(3, 3), (0, 0), ("3", 3), (3.0, 3), (None, None), (math.nan, None), (pd.NA, None)],
)
def test_number_of_speakers(given, number):
    assert training_entry(file("a", num_speakers=given))["num_speakers"] == number


@pytest.mark.parametrize("given", ["many", -1, 2.5, math.inf, True])
def test_number_of_speakers_that_is_none(given):
    with pytest.raises(ValueError, match="^a: num_speakers is .*whole number"):
        training_entry(file("a", num_speakers=given))


def uris(files, supervision, counted=False) -> str:
    kept, entries = training_files(NAME, files, supervision, counted)
    assert [f["uri"] for f in kept] == [entry["uri"] for entry in entries]
    return "".join(entry["uri"] for entry in entries)


def test_files_that_teach_something():
    files = [
        file("a", "x y"), file("b", "x y", "x y"), file("c", turns="x"), file("d"),
        file("e", num_speakers=2), file("f", ""),
    ]  # fmt: skip
    assert uris(files, "likes") == "abef"
    assert uris(files, "references") == "bce"
    assert uris(files, "both") == "abcef"
    for supervision in ("likes", "references", "both"):
        assert uris(files, supervision, counted=True) == "abcdef"
    assert uris(files[2:5], "both") == "ce"  # no likes at all


def test_references_that_are_missing_are_told():
    some = [file("a", turns="x"), file("b", turns=""), file("c", turns="x")]
    with pytest.warns(UserWarning, match=f"1 of 3 training files of {NAME} are empty.*: b$"):
        assert uris(some, "references", counted=True) == "abc"
    development = [reference_entry(f) for f in some]
    with pytest.warns(UserWarning, match=f"1 of 3 development files of {NAME} are not.*: b$"):
        check_references(NAME, some, development)
    with warnings.catch_warnings(action="error"):
        uris(some[::2], "references", counted=True)
        check_references(NAME, some[::2], development[::2])
        check_references(NAME, some[1:2], development[1:2])  # nobody is judged
        without = file("d", "x")  # and is meant to be
        check_references(NAME, [some[0], without], [development[0], reference_entry(without)])


def test_names_as_files_have_them():
    files = [file(uri, "x", scope="database") | {"database": uri[0]} for uri in ("a1", "b1")]
    found = {"a1": ["x of a", "y of b"], "b1": ["x of b"]}
    assert as_liked(found, files) == {"a1": ["x", "y of b"], "b1": ["x"]}
    assert as_liked({"a1": ["x of a"]}, files[:1]) == {"a1": ["x of a"]}  # of one database


def test_refused():
    liked = [file("a", "x y"), file("b", "x y")]
    with pytest.raises(ValueError, match=f"no training file of {NAME} has likes"):
        training_files(NAME, [file("c", turns="x")], "likes", counted=True)
    for supervision in ("references", "both"):
        with pytest.raises(ValueError, match="has a reference: name its RTTM file"):
            training_files(NAME, [file("c"), file("d", num_speakers=2)], supervision, True)
    with pytest.raises(ValueError, match="has a reference"):
        training_files(NAME, liked, "references", counted=True)
    with pytest.raises(ValueError, match="^e: likes are the text 'x': give a list"):
        training_files(NAME, [file("e") | {"likes": "x"}], "likes", True)
    with pytest.raises(ValueError, match="scope: file"):
        training_files(NAME, [f | {"scope": "file"} for f in liked], "both", False)
    by_file = [file("c", turns="x", scope="file")]  # references need no names across files
    assert uris(by_file, "references") == "c"
    with pytest.raises(ValueError, match="'c' more than once"):
        training_files(NAME, [*by_file, *by_file], "references", False)
    with pytest.raises(ValueError, match="'d' more than once"):  # about which nothing is known
        training_files(NAME, [*liked, file("d"), file("d")], "likes", True)


def test_one_protocol_of_many_kinds(tmp_path):
    """Files that are missing from the likes, the references or the table are simply not known."""
    files = {
        "train.lst": "a\nb\nc\nd\n",
        "train.likes": "a x y\nb y x\n",
        "train.rttm": "SPEAKER b 1 0.0 1.5 <NA> <NA> x <NA> <NA>\n"
        "SPEAKER c 1 0.5 1.0 <NA> <NA> y <NA> <NA>\n",
        "train.uem": "a 1 0.0 9.0\nb 1 0.0 2.0\nc 1 0.0 2.0\nd 1 0.0 9.0\n",
        "count.map": "a 2\nd 3\n",
        "database.yml": "Databases: {Mixed: '{uri}.wav'}\n"
        "Protocols:\n  Mixed:\n    SpeakerDiarization:\n      Kinds:\n        scope: global\n"
        "        train: {uri: train.lst, likes: train.likes, annotation: train.rttm, "
        "annotated: train.uem, num_speakers: count.map}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    registry.load_database(tmp_path / "database.yml")
    protocol = registry.get_protocol("Mixed.SpeakerDiarization.Kinds")
    _, entries = training_files(protocol.name, list(protocol.train()), "both", counted=False)
    known = {e["uri"]: (e["likes"], e["turns"], e["num_speakers"]) for e in entries}
    assert known == {
        "a": (["x", "y"], None, 2),
        "b": (["x", "y"], [[0.0, 1.5, "x"]], None),
        "c": (None, [[0.5, 1.5, "y"]], None),
        "d": (None, None, 3),
    }
    assert entries[1]["annotated"] == [[0.0, 2.0]]
