"""Tests of writing what a pipeline found."""

import csv
import html
import json
import os
import re

import numpy as np
import pytest
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature
from pyannote.database.util import load_rttm

from pyannote_weighter.output import (
    annotation_of,
    atomic,
    check_folder,
    confidences,
    to_json,
    turns,
    write_audacity,
    write_csv,
    write_json,
    write_rttm,
    write_webvtt,
)
from pyannote_weighter.pipelines.answer import WeighterOutput


@pytest.fixture
def diarization() -> Annotation:
    annotation = Annotation(uri="a file")
    annotation[Segment(0.5, 2.0), 0] = "Anna Lee"
    annotation[Segment(1.0, 3.0), 1] = "Bob"
    return annotation


def test_atomic_leaves_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "new folder" / "file"
    with atomic(path) as unfinished:
        unfinished.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as unfinished:
        unfinished.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_writes_beside_the_file_under_a_short_name(tmp_path):
    path = tmp_path / ("a" * 255)
    with atomic(path) as unfinished, atomic(tmp_path / "b") as other:
        assert unfinished.parent == tmp_path and unfinished != other
        assert unfinished.name.startswith(".") and unfinished.suffix == ".unfinished"
        unfinished.write_text("new")
        other.write_text("other")
    assert path.read_text() == "new"


def test_a_folder_is_left_as_it_was(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_names_of_files_that_are_not_utf8(tmp_path, diarization):
    diarization.uri = os.fsdecode(b"caf\xe9 1")
    write_json(to_json(diarization), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["uri"] == r"caf\udce9 1"
    write_rttm(diarization, tmp_path / "a.rttm")
    assert list(load_rttm(tmp_path / "a.rttm")) == [r"caf\udce9_1"]


def test_uris_that_are_no_text(tmp_path):
    turns = Annotation(uri=3)
    turns[Segment(0, 1)] = "ann"
    assert to_json(turns)["uri"] == "3"
    write_rttm(turns, tmp_path / "a.rttm")
    assert list(load_rttm(tmp_path / "a.rttm")) == ["3"]


def test_json_refuses_what_json_has_no_word_for(tmp_path):
    with pytest.raises(ValueError):
        write_json({"confidence": float("nan")}, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_rttm_can_be_read_again(tmp_path, diarization):
    write_rttm(diarization, tmp_path / "a.rttm")
    read = load_rttm(tmp_path / "a.rttm")["a_file"]
    assert read.labels() == ["Anna_Lee", "Bob"]
    assert read.get_timeline() == diarization.get_timeline()
    assert diarization.uri == "a file"  # what was given is not changed


def test_rttm_opens_no_quotes(tmp_path):
    """The next quote would close them, be it in another turn."""
    turns = Annotation(uri='"talk"')
    for second, name in enumerate(['"Ray" Bob', 'Ann "Lee"', "cy"]):
        turns[Segment(second, second + 1)] = name
    write_rttm(turns, tmp_path / "a.rttm")
    again = load_rttm(tmp_path / "a.rttm")["'talk\""]
    assert again.labels() == ["'Ray\"_Bob", 'Ann_"Lee"', "cy"]


def test_rttm_has_the_times_of_json(tmp_path):
    output = conversation()
    write_rttm(output.speaker_diarization, tmp_path / "a.rttm")
    lines = [line.split() for line in (tmp_path / "a.rttm").read_text().splitlines()]
    times = [
        (float(start), float(start) + float(seconds)) for _, _, _, start, seconds, *_ in lines
    ]
    expected = [(turn["start"], turn["end"]) for turn in turns(output)]
    assert np.asarray(times) == pytest.approx(np.asarray(expected), abs=1e-6)


def test_rttm_keeps_turns_of_less_than_a_millisecond(tmp_path, diarization):
    diarization[Segment(4.0001, 4.0004)] = "Cy"
    write_rttm(diarization, tmp_path / "a.rttm")
    assert (
        "SPEAKER a_file 1 4.000 0.001 <NA> <NA> Cy <NA> <NA>\n"
        in (tmp_path / "a.rttm").read_text()
    )
    assert load_rttm(tmp_path / "a.rttm")["a_file"].labels() == ["Anna_Lee", "Bob", "Cy"]


def test_rttm_of_silence_is_an_empty_file(tmp_path):
    write_rttm(Annotation(uri="silence"), tmp_path / "a.rttm")
    assert (tmp_path / "a.rttm").read_text().strip() == ""


def test_rttm_refuses_names_that_would_become_one(tmp_path, diarization):
    diarization[Segment(4, 5)] = "Anna_Lee"
    with pytest.raises(ValueError, match="Anna_Lee"):
        write_rttm(diarization, tmp_path / "a.rttm")


def test_to_json(tmp_path, diarization):
    output = DiarizeOutput(diarization, diarization, np.array([[1.0, 0.0], [0.0, 1.0]]))
    output.confidence = {"Bob": 0.5, "Anna Lee": 0.75}
    write_json(to_json(output), tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["uri"] == "a file"
    assert content["speakers"] == [
        {"speaker": "Anna Lee", "duration": 1.5, "confidence": 0.75, "embedding": [1.0, 0.0]},
        {"speaker": "Bob", "duration": 2.0, "confidence": 0.5, "embedding": [0.0, 1.0]},
    ]
    assert content["diarization"][0] == {"start": 0.5, "end": 2.0, "speaker": "Anna Lee"}
    assert len(content["exclusive_diarization"]) == 2
    assert "audio" not in content
    assert to_json(output, audio={"path": "a.wav"})["audio"] == {"path": "a.wav"}


def test_legacy_output_and_confidences_by_position(diarization):
    assert annotation_of(diarization) is diarization
    assert confidences(diarization) == {}
    assert "exclusive_diarization" not in to_json(diarization, uri="other")
    output = DiarizeOutput(diarization, diarization)
    output.confidence = np.array([0.1, 0.2])
    assert confidences(output) == {"Anna Lee": 0.1, "Bob": 0.2}


# -- other formats, and the way back --------------------------------------------------------------

NAMES = ["Anna Lee", "Bob, jr.", 'the "boss"', "R&D <1>", "a-->b", "Zoë", "=1+1", "o'clock; x"]


def conversation(names=NAMES, num_turns: int = 200) -> WeighterOutput:
    """Turns of any length and overlap, some longer than an hour, with weightings."""
    generator = np.random.default_rng(0)
    annotation = Annotation(uri="talk")
    for track in range(num_turns):
        start, duration = generator.uniform(0, 7200), generator.uniform(0.002, 20)
        annotation[Segment(start, start + duration), track] = names[track % len(names)]
    annotation[Segment(0.0, 4000.0), num_turns] = names[0]
    x = generator.uniform(size=(7300, len(names)))
    weightings = SlidingWindowFeature(x, SlidingWindow(duration=1.0, step=1.0))
    return WeighterOutput(annotation, annotation, weightings=weightings)


def read_json(path):
    for turn in json.loads(path.read_text(encoding="utf-8"))["diarization"]:
        yield turn["start"], turn["end"], turn["speaker"]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            duration = float(row["end"]) - float(row["start"])
            assert float(row["duration"]) == pytest.approx(duration, abs=1e-6)
            yield float(row["start"]), float(row["end"]), row["speaker"]


def read_audacity(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        start, end, label = line.split("\t")
        yield float(start), float(end), label


TIME = r"(\d\d+):([0-5]\d):([0-5]\d)\.(\d{3})"


def read_webvtt(path):
    """Cues as section 4 of the specification allows them, and no others."""
    signature, *cues = path.read_text(encoding="utf-8").removesuffix("\n").split("\n\n")
    assert signature == "WEBVTT"
    for cue in cues:
        times, payload = cue.split("\n")
        found = re.fullmatch(f"{TIME} --> {TIME}", times).groups()
        start, end = (
            int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000
            for h, m, s, ms in (found[:4], found[4:])
        )
        assert end > start
        assert "-->" not in payload
        voice, text = re.fullmatch(r"<v ([^\n>]+)>([^\n<]+)", payload).groups()
        assert not re.search("&(?!amp;|lt;|gt;)", voice + text)
        assert voice == text
        yield start, end, html.unescape(voice)


WAYS = {
    "json": (lambda output, path: write_json(to_json(output), path), read_json),
    "csv": (write_csv, read_csv),
    "audacity": (write_audacity, read_audacity),
    "webvtt": (write_webvtt, read_webvtt),
}
ways = pytest.mark.parametrize(("write", "read"), WAYS.values(), ids=WAYS)


@ways
def test_what_is_written_can_be_read_again(tmp_path, write, read):
    output = conversation()
    write(output, tmp_path / "a")
    expected = list(output.speaker_diarization.itertracks(yield_label=True))
    found = list(read(tmp_path / "a"))
    assert len(found) == len(expected) == 201
    assert [start for start, _, _ in found] == sorted(start for start, _, _ in found)
    for (start, end, speaker), (turn, _, label) in zip(found, expected, strict=True):
        assert speaker == label
        assert (start, end) == pytest.approx((turn.start, turn.end), abs=0.001)


@ways
def test_writing_twice_gives_the_same_file(tmp_path, write, read):
    for name in ("a", "b"):
        write(conversation(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@ways
def test_silence_and_output_that_is_the_diarization(tmp_path, write, read, diarization):
    write(Annotation(uri="silence"), tmp_path / "a")
    assert list(read(tmp_path / "a")) == []
    write(diarization, tmp_path / "b")
    assert list(read(tmp_path / "b")) == [(0.5, 2.0, "Anna Lee"), (1.0, 3.0, "Bob")]


@pytest.mark.parametrize("write", [write_csv, write_audacity, write_webvtt])
def test_old_content_stays_when_writing_fails(tmp_path, diarization, write):
    write(diarization, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    diarization[Segment(0, 5)] = "no \ud800 character"  # a lone surrogate has no UTF-8
    with pytest.raises(UnicodeEncodeError):
        write(diarization, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_names_of_several_lines(tmp_path):
    """CSV quotes them; label tracks and cues have one line."""
    names = ["one\ntwo", "a\tb", "c\r\nd", " ", "e\u2028\nf"]
    output = conversation(names, num_turns=5)
    labels = [label for _, _, label in output.speaker_diarization.itertracks(yield_label=True)]
    write_csv(output, tmp_path / "a.csv")
    assert [speaker for *_, speaker in read_csv(tmp_path / "a.csv")] == labels
    lines = {"one\ntwo": "one two", "a\tb": "a b", "c\r\nd": "c d", " ": "_", names[4]: "e f"}
    for name in ("audacity", "webvtt"):
        write, read = WAYS[name]
        write(output, tmp_path / name)
        assert [speaker for *_, speaker in read(tmp_path / name)] == [lines[la] for la in labels]


@pytest.mark.parametrize(
    ("write", "form"), [(write_audacity, "Audacity labels"), (write_webvtt, "WebVTT")]
)
def test_names_that_would_become_one_are_refused(tmp_path, diarization, write, form):
    diarization[Segment(4, 5)] = "Anna\tLee"
    with pytest.raises(ValueError, match=f"{form}.*Anna"):
        write(diarization, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_files_to_the_letter(tmp_path):
    annotation = Annotation()
    annotation[Segment(0.5, 2.0), 0] = "R&D <1>, Ann"
    annotation[Segment(3599.9996, 3600.0001), 1] = "Bob"
    x = np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    weightings = SlidingWindowFeature(x, SlidingWindow(duration=1.0, step=1.0))
    output = WeighterOutput(annotation.rename_labels({"Bob": "Z"}), annotation)
    output.weightings = weightings
    write_csv(output, tmp_path / "a.csv")
    write_audacity(output, tmp_path / "a.txt")
    write_webvtt(output, tmp_path / "a.vtt")
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "start,end,duration,speaker,confidence\r\n"
        '0.500,2.000,1.500,"R&D <1>, Ann",0.8333\r\n'
        "3600.000,3600.000,0.000,Z,0.0\r\n"
    )
    assert (tmp_path / "a.txt").read_text() == (
        "0.500\t2.000\tR&D <1>, Ann\n3600.000\t3600.000\tZ\n"
    )
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n"
        "00:00:00.500 --> 00:00:02.000\n"
        "<v R&amp;D &lt;1&gt;, Ann>R&amp;D &lt;1&gt;, Ann\n\n"
        "01:00:00.000 --> 01:00:00.001\n<v Z>Z\n"
    )


def test_confidence_of_turns_where_it_is_told(tmp_path, diarization):
    output = conversation(num_turns=3)
    for turn in turns(output):
        segment = Segment(turn["start"], turn["end"])
        expected = output.turn_confidence(segment, turn["speaker"])
        assert turn["confidence"] == pytest.approx(expected, abs=1e-4)
    assert to_json(output)["diarization"] == turns(output)
    assert to_json(output)["exclusive_diarization"] == turns(output, exclusive=True)
    write_csv(output, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        told = [float(row["confidence"]) for row in csv.DictReader(file)]
    assert told == [turn["confidence"] for turn in turns(output)]

    for silent in (diarization, DiarizeOutput(diarization, diarization)):
        assert all("confidence" not in turn for turn in turns(silent))
        write_csv(silent, tmp_path / "b.csv")
        assert "0.500,2.000,1.500,Anna Lee,\r\n" in (tmp_path / "b.csv").read_bytes().decode()
