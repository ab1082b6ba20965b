"""Tests of RTTM and JSON writing."""

import json

import numpy as np
import pytest
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import Annotation, Segment
from pyannote.database.util import load_rttm

from pyannote_weighter.output import (
    annotation_of,
    atomic,
    confidences,
    to_json,
    write_json,
    write_rttm,
)


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


def test_legacy_output_and_confidences_by_position(diarization):
    assert annotation_of(diarization) is diarization
    assert confidences(diarization) == {}
    assert "exclusive_diarization" not in to_json(diarization, uri="other")
    output = DiarizeOutput(diarization, diarization)
    output.confidence = np.array([0.1, 0.2])
    assert confidences(output) == {"Anna Lee": 0.1, "Bob": 0.2}
