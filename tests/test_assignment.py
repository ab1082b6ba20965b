"""Frames to their most probable speakers, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.assignment import top_speakers


def slow_top(weightings, count):
    active = np.zeros(weightings.shape, dtype=bool)
    for t, row in enumerate(weightings):
        left = list(range(len(row)))
        for _ in range(min(int(count[t]), len(row))):
            best = max(left, key=lambda k: (row[k], -k))
            active[t, best] = True
            left.remove(best)
    return active


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_against_plain_loop(num_frames, num_speakers, ties, seed):
    rng = np.random.default_rng(seed)
    weightings = rng.random((num_frames, num_speakers))
    if ties:
        weightings = weightings.round(1) * 2 // 1
    count = rng.integers(0, num_speakers + 3, num_frames)
    active = top_speakers(weightings, count)
    assert active.dtype == bool
    assert (active == slow_top(weightings, count)).all()
    assert (active.sum(axis=1) == np.minimum(count, num_speakers)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_count_as_it_comes(dtype):
    weightings = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.0, 0.0]], dtype=np.float32)
    count = np.array([[1], [2], [1], [0]], dtype=dtype)  # as a (frames, 1) feature holds it
    expected = [[False, True], [True, True], [True, False], [False, False]]
    assert top_speakers(weightings, count).tolist() == expected


def test_no_speaker_at_all():
    assert top_speakers(np.zeros((4, 0)), np.array([0, 1, 2, 0])).shape == (4, 0)
