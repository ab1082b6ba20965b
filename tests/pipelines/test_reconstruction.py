"""Turns against upstream's loop over frames; which weightings are taken."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyannote.audio.pipelines.utils.diarization import SpeakerDiarizationMixin
from pyannote.core import SlidingWindow, SlidingWindowFeature

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.pipelines import reconstruction
from pyannote_weighter.pipelines.reconstruction import (
    fill_pauses,
    have_turns,
    one_hot,
    rank_speakers,
    reconstruct,
    to_annotation,
)
from pyannote_weighter.pipelines.windows import Speakers, Windows, weigh_frames
from pyannote_weighter.segmentation import sample_nearest
from tests.models.test_weighter import small_weighter

FRAMES = SlidingWindow(start=0.0, duration=0.0619375, step=0.016875)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 60), st.integers(1, 30), st.floats(0, 1), st.sampled_from([0, 0.03, 0.2]),
    st.integers(0, 1000),
)  # fmt: skip
def test_turns_are_upstream_s(num_frames, num_speakers, share, min_duration_off, seed):
    rng = np.random.default_rng(seed)
    active = rng.random((num_frames, num_speakers)) < share
    expected = SpeakerDiarizationMixin.to_annotation(
        SlidingWindowFeature(active.astype(float), FRAMES), min_duration_off=min_duration_off
    )
    numbers = np.where(active, np.arange(num_speakers), -1)
    speakers = rng.permuted(numbers, axis=1)
    np.testing.assert_array_equal(one_hot(speakers, num_speakers), active)
    found = to_annotation(speakers, FRAMES, min_duration_off)
    assert found == expected and found.labels() == expected.labels()
    assert list(found.itertracks(yield_label=True)) == list(expected.itertracks(yield_label=True))
    assert have_turns(speakers) == sorted(expected.labels())
    names = {speaker: f"number {speaker:02d}" for speaker in have_turns(speakers)}
    named = to_annotation(speakers, FRAMES, min_duration_off, names, "uri")
    renamed = expected.rename_labels(mapping=names)
    assert named.uri == "uri" and named.labels() == renamed.labels()
    for name in named.labels():
        assert named.label_timeline(name) == renamed.label_timeline(name)
        one = {speaker: label for speaker, label in names.items() if label == name}
        assert to_annotation(speakers, FRAMES, min_duration_off, one).labels() == [name]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([-1, -1, 0, 1]), max_size=40),
    st.floats(0, 6) | st.sampled_from([1.0, 2.0, 3.0]),
)
def test_pauses_are_filled_as_in_a_plain_loop(speakers, shorter_than):
    expected = list(speakers)
    for start in range(len(speakers)):
        for end in range(start + 2, len(speakers)):
            between = speakers[start + 1 : end]
            same = speakers[start] == speakers[end] >= 0
            if same and set(between) == {-1} and len(between) < shorter_than:
                expected[start + 1 : end] = [speakers[start]] * len(between)
    given_ = np.array(speakers, dtype=int)
    assert fill_pauses(given_, shorter_than).tolist() == expected
    assert given_.tolist() == speakers  # which are left as they were


def test_no_frame_and_one_frame():
    for num_frames in (0, 1):
        speakers = np.tile([0, 1], (num_frames, 1))
        assert not to_annotation(speakers, FRAMES)
        assert have_turns(speakers) == []


@pytest.mark.parametrize("block", [35, 5000])
def test_frames_go_to_the_most_probable(block, monkeypatch):
    monkeypatch.setattr(reconstruction, "BLOCK", block)
    rng = np.random.default_rng(0)
    x = SlidingWindowFeature(rng.random((40, 5)).round(1), SlidingWindow(0.025, 0.02, 0.0025))
    count = rng.integers(0, 7, 50)
    speakers = rank_speakers(x, count, FRAMES)
    opinion = sample_nearest(x, FRAMES, 50)
    assert (one_hot(speakers, 5) == top_speakers(opinion, count)).all()
    for t in range(50):
        assert speakers[t, 0] == (opinion[t].argmax() if count[t] else -1)
        assert (np.diff(opinion[t][speakers[t][speakers[t] >= 0]]) <= 0).all()


# -- the answer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weighter():
    with torch.random.fork_rng():
        return small_weighter()


def answer(
    weighter, candidates, count, least: int = 1, hook=lambda *args, **options: None, speakers=None
):
    """From weightings and counts of 100 frames."""
    candidates = ((each, speakers) for each in candidates)
    windows = Windows()
    with torch.inference_mode():
        frames = torch.randn(100, weighter.backbone.frame_dimension)
        windows.append(weigh_frames(weighter, frames, np.ones(100, dtype=np.uint8))[1])
    count = SlidingWindowFeature(np.uint8(count).reshape(100, 1), weighter.frames)
    return reconstruct(
        weighter, candidates, count, None, windows, least, np.inf, 0.0, "made", hook
    )


def halves(*columns) -> np.ndarray:
    """(20, K) weightings of steps of five frames: values of the first 50 frames, of the others."""
    return np.float32(columns).repeat(10, axis=0)


def test_speaker_without_any_time_has_no_name(weighter):
    """The last frame alone makes no turn: embeddings must not be shifted by it."""
    weightings = np.tile(np.float32([0.1, 0.9, 0.0]), (20, 1))
    weightings[-1] = [0.9, 0.1, 0.0]
    count = [1] * 95 + [0] * 4 + [1]
    output = answer(weighter, [weightings.copy()], count)
    assert output.speaker_diarization.labels() == ["SPEAKER_00"] == list(output.confidence)
    assert output.speaker_embeddings.shape == (1, 32)
    assert output.confidence["SPEAKER_00"] == pytest.approx(0.9, abs=0.01)

    known = Speakers(np.eye(3, 32, dtype=np.float32), np.float32([0.3, 0.5, 0.7]))
    output = answer(weighter, [weightings.copy()], count, speakers=known)
    assert (output.speaker_embeddings == known.embeddings[[1]]).all()
    assert output.confidence == {"SPEAKER_00": 0.5}

    nobody = answer(weighter, [weightings], [0] * 99 + [1])
    assert not nobody.speaker_diarization and nobody.speaker_embeddings.shape == (0, 32)


def test_first_weightings_with_enough_speakers_are_taken(weighter):
    one, two = halves([0.9, 0.1], [0.8, 0.2]), halves([0.9, 0.1], [0.2, 0.8])
    three = halves([0.1, 0.9, 0.0], [0.0, 0.2, 0.8])
    later = []

    def candidates(*weightings):
        for each in weightings:
            later.append(each)
            yield each

    for least, offered, taken in (
        (1, (one, two), one),
        (2, (one, two, three), two),
        (3, (one, two), two),
        (3, (two, one), two),
    ):
        later.clear()
        output = answer(weighter, candidates(*offered), [1] * 100, least)
        assert (output.weightings.data == taken[:, sorted(set(taken.argmax(axis=1)))]).all()
        looked_at = next(i for i, each in enumerate(offered, 1) if each is taken)
        assert len(later) == (len(offered) if least == 3 else looked_at)


def test_overlap_and_hooks(weighter):
    steps = {}
    count = [1] * 40 + [2] * 20 + [0] * 40
    output = answer(
        weighter,
        [halves([0.6, 0.4], [0.3, 0.7])],
        count,
        hook=lambda step, artifact: steps.update({step: artifact}),
    )
    assert list(steps) == ["weightings", "discrete_diarization", "speaker_embeddings"]
    assert steps["discrete_diarization"].data.sum(axis=1).tolist() == count
    step = weighter.frames.step
    assert output.speaker_diarization.get_overlap().duration() == pytest.approx(20 * step)
    exclusive = output.exclusive_speaker_diarization
    assert not exclusive.get_overlap() and exclusive.uri == "made"
    assert exclusive.label_duration("SPEAKER_00") == pytest.approx(50 * step)
    assert exclusive.label_duration("SPEAKER_01") == pytest.approx(10 * step)
