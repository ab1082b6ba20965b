"""Tests of what the pipeline answers."""

import json

import numpy as np
import pytest
import torch
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature

from pyannote_weighter.output import to_json
from pyannote_weighter.pipelines.answer import WeighterOutput, speaker_names
from pyannote_weighter.weighting import confidence

STEP, DURATION = 0.1, 0.3
"""Frames of 300 ms, 100 ms apart: the center of frame t is at 0.15 + 0.1 t."""


@pytest.fixture
def answer() -> WeighterOutput:
    """Ann for 3 s, Bob for the last two of them; frames end at 2.65 s."""
    diarization, exclusive = Annotation(uri="talk"), Annotation(uri="talk")
    diarization[Segment(0.0, 3.0), 0] = exclusive[Segment(0.0, 1.0), 0] = "Ann"
    diarization[Segment(1.0, 3.0), 1] = exclusive[Segment(1.0, 3.0), 1] = "Bob"
    x = np.random.default_rng(0).uniform(size=(25, 2)).astype(np.float32)
    return WeighterOutput(
        diarization,
        exclusive,
        confidence={"Ann": 0.7, "Bob": 0.6},
        seconds={"Ann": 1.25, "Bob": 1.5},
        weightings=SlidingWindowFeature(x, SlidingWindow(start=0.0, duration=DURATION, step=STEP)),
    )


def slow_confidence(answer: WeighterOutput, turn: Segment, speaker: str) -> float:
    """Definition, frame by frame: those nearest to a time within the turn."""
    x = answer.weightings.data[:, answer.speaker_diarization.labels().index(speaker)].astype(float)
    centers = [DURATION / 2 + STEP * t for t in range(len(x))]
    times = np.linspace(turn.start, turn.end, 1001)
    frames = sorted({min(range(len(x)), key=lambda t: abs(centers[t] - time)) for time in times})
    return sum(x[t] ** 2 for t in frames) / sum(x[t] for t in frames)


@pytest.mark.parametrize("speaker", ["Ann", "Bob"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0.0, 3.0),  # everything
        (0.33, 1.78),
        (0.51, 0.53),  # between two centers
        (0.0, 0.05),  # before the first center
        (2.8, 3.0),  # after the last center
        (2.42, 9.0),  # goes on after the frames
    ],
)
def test_confidence_of_a_turn(answer, start, end, speaker):
    turn = Segment(start, end)
    found = answer.turn_confidence(turn, speaker)
    assert found == pytest.approx(slow_confidence(answer, turn, speaker), abs=1e-6)


def test_confidence_of_a_turn_over_all_frames_is_that_of_the_speaker(answer):
    of_speakers = confidence(torch.from_numpy(answer.weightings.data)).tolist()
    of_turns = [answer.turn_confidence(Segment(0, 3), speaker) for speaker in ("Ann", "Bob")]
    assert of_turns == pytest.approx(of_speakers, abs=1e-6)


def test_confidence_of_sure_unsure_and_silent_frames(answer):
    answer.weightings.data[:10] = [1.0, 0.25]
    answer.weightings.data[10:] = [0.0, 0.5]
    assert answer.turn_confidence(Segment(0.0, 1.05), "Ann") == 1.0
    assert answer.turn_confidence(Segment(0.0, 1.05), "Bob") == 0.25
    assert answer.turn_confidence(Segment(1.3, 3.0), "Ann") == 0.0
    # frames that are not given to the speaker do not count
    assert answer.turn_confidence(Segment(0.0, 3.0), "Ann") == 1.0


def test_confidence_of_an_unknown_speaker_or_without_weightings(answer):
    with pytest.raises(ValueError, match="no speaker 'Eve': choose from Ann, Bob"):
        answer.turn_confidence(Segment(0, 1), "Eve")
    answer.weightings = None
    assert answer.turn_confidence(Segment(0, 1), "Ann") is None


def test_serialize_extends_upstream(answer):
    content = json.loads(json.dumps(answer.serialize()))
    upstream = DiarizeOutput.serialize(answer)
    assert set(content) == {*upstream, "speakers"}
    assert content["speakers"]["Bob"] == {"confidence": 0.6, "seconds": 1.5}
    for key, turns in upstream.items():
        for turn in turns:
            segment = Segment(turn["start"], turn["end"])
            turn["confidence"] = round(answer.turn_confidence(segment, turn["speaker"]), 4)
        assert content[key] == turns == to_json(answer)[key]
    assert len(content["diarization"]) == len(content["exclusive_diarization"]) == 2


def test_serialize_without_weightings_is_upstream(answer):
    answer.weightings = None
    assert answer.serialize() | DiarizeOutput.serialize(answer) == answer.serialize()


def test_serialize_nobody():
    nobody = WeighterOutput(Annotation(), Annotation())
    assert nobody.serialize() == {"diarization": [], "exclusive_diarization": [], "speakers": {}}


def test_names_sort_as_text_in_the_order_of_speakers():
    for count in (1, 2, 100, 101, 1200):
        names = speaker_names(count)
        assert len(set(names)) == count
        assert sorted(names) == names
    assert speaker_names(3) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
