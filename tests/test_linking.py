"""Slots to speakers, against centroid linkage written the slow way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.linking import link_slots


def slow_link(embeddings, seconds, threshold, least=1, most=np.inf) -> list[int]:
    """Compare all pairs of groups again after every merge."""
    groups = [[m] for m in range(len(embeddings))]

    def centroid(group):
        units = [embeddings[m] / max(np.linalg.norm(embeddings[m]), 1e-9) for m in group]
        total = sum(u * max(seconds[m], 1e-3) for u, m in zip(units, group, strict=True))
        return total / max(np.linalg.norm(total), 1e-9)

    while len(groups) > max(1, least):
        similarity, a, b = max(
            (centroid(groups[a]) @ centroid(groups[b]), a, b)
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        )
        if similarity < threshold and len(groups) <= most:
            break
        groups[a] += groups.pop(b)
    groups.sort(key=min)
    return [
        next(g for g, group in enumerate(groups) if m in group) for m in range(len(embeddings))
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.floats(-0.9, 0.99),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(0, 1000),
)
def test_against_slow_reference(num_slots, threshold, least, more, seed):
    rng = np.random.default_rng(seed)
    speakers = rng.standard_normal((3, 5))
    embeddings = speakers[rng.integers(0, 3, num_slots)] + 0.5 * rng.standard_normal(
        (num_slots, 5)
    )
    embeddings *= rng.uniform(0.1, 10, (num_slots, 1))
    seconds = rng.uniform(0, 9, num_slots)
    most = least + more if more < 8 else np.inf
    found = link_slots(embeddings, seconds, threshold, least, most)
    assert found.tolist() == slow_link(embeddings, seconds, threshold, least, most)
    assert min(least, num_slots) <= len(set(found)) <= most


def test_planted_speakers_over_windows():
    rng = np.random.default_rng(0)
    speakers = np.linalg.qr(rng.standard_normal((16, 16)))[0][:4]
    truth = np.array([2, 0, 1, 0, 2, 3, 1, 2, 3])
    embeddings = 3 * speakers[truth] + 0.3 * rng.standard_normal((9, 16))
    found = link_slots(embeddings, np.full(9, 5.0), threshold=0.5)
    assert found.tolist() == [0, 1, 2, 1, 0, 3, 2, 0, 3]  # by first appearance


def test_centroids_are_weighted_by_speech():
    # the first two merge; where their centroid lies decides about the third
    angles = np.radians([0, 40, 85])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for seconds, groups in (([99.0, 1.0, 1.0], [0, 0, 1]), ([1.0, 99.0, 1.0], [0, 0, 0])):
        found = link_slots(embeddings, np.array(seconds), threshold=0.6)
        assert found.tolist() == groups


def test_bounds_go_before_the_threshold():
    embeddings, seconds = np.eye(5), np.ones(5)
    for most in (1, 2, 4):
        found = link_slots(embeddings, seconds, threshold=0.9, max_speakers=most)
        assert len(set(found)) == most
    same = np.ones((5, 3))
    for least in (2, 4, 5):
        found = link_slots(same, seconds, threshold=0.1, min_speakers=least)
        assert len(set(found)) == least
    # more than there are slots cannot be had
    assert len(set(link_slots(same, seconds, threshold=0.1, min_speakers=9))) == 5


@pytest.mark.parametrize("num_slots", [0, 1, 4])
def test_few_slots_and_zero_embeddings(num_slots):
    embeddings, seconds = np.zeros((num_slots, 8)), np.zeros(num_slots)
    with np.errstate(all="raise"):
        found = link_slots(embeddings, seconds, threshold=0.5)
    assert found.tolist() == list(range(num_slots))  # nothing is like them
    together = link_slots(embeddings, seconds, threshold=0.5, max_speakers=1)
    assert together.tolist() == [0] * num_slots


def test_inputs_are_left_alone():
    embeddings, seconds = np.random.default_rng(0).standard_normal((6, 4)), np.ones(6)
    before = embeddings.copy()
    link_slots(embeddings, seconds, threshold=-1.0)
    assert (embeddings == before).all() and (seconds == 1).all()
