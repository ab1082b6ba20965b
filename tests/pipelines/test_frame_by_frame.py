"""Tests of the frame-by-frame assignment made by hand."""

import itertools

import numpy as np
import pytest

from pyannote_weighter.pipelines.frame_by_frame import (
    FrameByFrame,
    merge_closest,
    speaker_means,
    sticky_posteriors,
    unit_length,
)


def enumerated_posteriors(scores: np.ndarray, stay: float) -> np.ndarray:
    """Sum over all paths, one by one."""
    num_frames, num_states = scores.shape
    posteriors = np.zeros_like(scores)
    for path in itertools.product(range(num_states), repeat=num_frames):
        weight = np.exp(sum(scores[t, k] for t, k in enumerate(path)))
        for before, after in itertools.pairwise(path):
            weight *= stay if before == after else (1 - stay) / (num_states - 1)
        for t, k in enumerate(path):
            posteriors[t, k] += weight
    return posteriors / posteriors.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_states", [2, 3])
def test_posteriors_equal_the_sum_over_all_paths(num_states):
    scores = np.random.default_rng(0).normal(0, 2, (6, num_states))
    expected = enumerated_posteriors(scores, 0.9)
    np.testing.assert_allclose(sticky_posteriors(scores, 0.9), expected)


def test_posteriors_of_one_state_and_of_extreme_scores():
    assert (sticky_posteriors(np.zeros((4, 1)), 0.97) == 1).all()
    scores = np.array([[2000.0, 0.0], [0.0, 2000.0]] * 50)
    posteriors = sticky_posteriors(scores, 0.97)
    assert np.isfinite(posteriors).all()
    np.testing.assert_allclose(posteriors.sum(axis=1), 1)


def test_means_come_from_frames_with_one_speaker():
    embeddings = np.eye(3)
    active = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    means, weights = speaker_means(embeddings, active)
    np.testing.assert_allclose(means[0], [1, 0, 0])
    np.testing.assert_allclose(means[1], unit_length(np.array([0, 1, 1])))  # never alone
    assert weights.tolist() == [1, 2, 1]
    means, weights = speaker_means(embeddings, np.zeros((3, 2)))
    assert not means.any() and not weights.any()


def test_merge_joins_the_closest_until_none_is_close():
    means = unit_length(np.array([[1, 0], [1, 0.1], [0, 1], [1, -0.05]]))
    merged = merge_closest(means, np.array([1, 1, 1, 2]), 0.65)
    assert len(merged) == 2
    assert np.abs(merged[0] @ [1, 0]) > 0.99
    assert len(merge_closest(means, np.ones(4), 0.9999)) == 4
    assert len(merge_closest(means[:1], np.ones(1), 0.0)) == 1


@pytest.fixture
def conversation():
    """Two speakers taking turns of 5 s, 0.1 s a frame, embeddings with noise."""
    rng = np.random.default_rng(0)
    truth = np.arange(600) // 50 % 2
    voices = unit_length(rng.normal(size=(2, 32)))
    embeddings = voices[truth] + 0.25 * rng.normal(size=(600, 32))
    return embeddings, truth


def test_assignment_corrects_a_bad_start(conversation):
    embeddings, truth = conversation
    start = np.where(np.random.default_rng(1).random(600) < 0.3, 1 - truth, truth)
    posteriors = FrameByFrame()(embeddings, np.eye(2)[start], np.ones(600, int), step=0.1)
    assert np.mean(posteriors.argmax(axis=1) == truth) > 0.97
    np.testing.assert_allclose(posteriors.sum(axis=1), 1)


def test_over_split_start_is_merged_and_small_speakers_are_dropped(conversation):
    embeddings, truth = conversation
    start = truth + 2 * (np.arange(600) < 300)  # four speakers where two are
    assignment = FrameByFrame(rounds=5, merge=0.65, min_duration=1.5)
    posteriors = assignment(embeddings, np.eye(4)[start], np.ones(600, int), step=0.1)
    assert posteriors.shape == (600, 2)

    dropped = FrameByFrame(rounds=1, min_duration=1e6)
    posteriors = dropped(embeddings, np.eye(4)[start], np.ones(600, int), step=0.1)
    assert posteriors.shape == (600, 1)  # at least one stays


def test_speakers_without_a_frame_are_no_speakers(conversation):
    embeddings, truth = conversation
    start = np.eye(3)[truth]
    posteriors = FrameByFrame()(embeddings, start, np.ones(600, int), step=0.1)
    assert posteriors.shape == (600, 2)
    with pytest.raises(ValueError, match="no speaker"):
        FrameByFrame()(embeddings, np.zeros((600, 2)), np.zeros(600, int), step=0.1)
