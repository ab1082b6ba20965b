"""What local speakers make of weightings, against a plain loop over windows and frames."""

import numpy as np
import pytest
from pyannote.core import SlidingWindow, SlidingWindowFeature

from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.pipelines import joint, reconstruction
from pyannote_weighter.pipelines.joint import OVERLAP, LocalOpinion
from pyannote_weighter.pipelines.reconstruction import one_hot, rank_speakers

FRAMES = SlidingWindow(start=0.0, duration=0.0619375, step=0.016875)


def made(num_windows=5, num_frames=30, num_local=3, step=0.2, seed=0):
    active = np.random.default_rng(seed).random((num_windows, num_frames, num_local)) < 0.4
    windows = SlidingWindow(start=0.0, duration=num_frames * FRAMES.step, step=step)
    return active, LocalSpeakers(LocalSpeakers.pack(active), windows, FRAMES)


def slow_opinion(active, local, x, index):
    """(T', K), by definition."""
    total, seen = np.zeros((len(index), x.shape[1])), np.zeros(len(index))
    for window, bits in enumerate(active):
        start = round(local.windows[window].start / FRAMES.step)
        inside = [f for f in range(len(bits)) if start + f < len(index)]
        shares = np.zeros((bits.shape[1], x.shape[1]))
        for speaker in range(bits.shape[1]):
            for f in inside:
                if bits[f, speaker]:
                    weight = OVERLAP + (bits[f].sum() == 1)
                    shares[speaker] += weight * x[index[start + f]]
            shares[speaker] /= max(shares[speaker].sum(), 1e-9)
        for f in inside:
            seen[start + f] += 1
            for speaker in range(bits.shape[1]):
                total[start + f] += bits[f, speaker] * shares[speaker]
    return total / np.maximum(seen, 1)[:, None]


@pytest.mark.parametrize("num_frames", [20, 60, 76, 200])  # shorter and longer than the windows
@pytest.mark.parametrize("batch", [2, 64])
def test_against_plain_loop(num_frames, batch, monkeypatch):
    monkeypatch.setattr(joint, "BATCH", batch)
    active, local = made()
    rng = np.random.default_rng(1)
    x = rng.random((40, 4)).astype(np.float32)
    index = np.sort(rng.integers(0, 40, num_frames))
    opinion = LocalOpinion(local, x, index)
    expected = slow_opinion(active, local, x, index)
    np.testing.assert_allclose(opinion(0, num_frames), expected, atol=1e-5)
    parts = [opinion(a, min(a + 17, num_frames)) for a in range(0, num_frames, 17)]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


@pytest.mark.parametrize("active", [np.zeros((3, 30, 3)), np.zeros((0, 30, 3))])
def test_nobody_says_nothing(active):
    windows = SlidingWindow(start=0.0, duration=0.5, step=0.1)
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, FRAMES)
    opinion = LocalOpinion(local, np.ones((50, 2), np.float32), np.arange(50))
    assert not opinion(0, 50).any()


def two_speakers(overlap: bool):
    """A weighting that gives overlap to one of two, and a short turn to its neighbour."""
    bits = np.zeros((1, 100, 2))
    bits[0, :40, 0] = bits[0, 40:80, 1] = bits[0, 80:85, 0] = bits[0, 85:, 1] = 1
    if overlap:
        bits[0, 30:45] = 1
    windows = SlidingWindow(start=0.0, duration=100 * FRAMES.step, step=100 * FRAMES.step)
    x = np.zeros((100, 3), np.float32)
    x[:40], x[40:] = [0.7, 0.14, 0.16], [0.1, 0.7, 0.2]
    x[80:85] = [0.4, 0.45, 0.15]
    count = bits[0].sum(axis=1).astype(int)
    local = LocalSpeakers(LocalSpeakers.pack(bits), windows, FRAMES)
    return SlidingWindowFeature(x, FRAMES), count, local, bits[0]


@pytest.mark.parametrize("block", [27, 3000])
def test_two_local_speakers_are_two_speakers(block, monkeypatch):
    monkeypatch.setattr(reconstruction, "BLOCK", block)
    x, count, local, bits = two_speakers(overlap=True)
    alone = one_hot(rank_speakers(x, count, FRAMES), 3)
    assert alone[30:45, 2].all()  # whoever was second
    together = one_hot(rank_speakers(x, count, FRAMES, local), 3)
    np.testing.assert_array_equal(together[:, :2], bits)
    assert not together[:, 2].any()


def test_a_short_turn_is_of_the_local_speaker():
    x, count, local, bits = two_speakers(overlap=False)
    first = rank_speakers(x, count, FRAMES)[:, 0]
    assert (first[80:85] == 1).all()
    first = rank_speakers(x, count, FRAMES, local)[:, 0]
    assert (first[80:85] == 0).all() and (first[85:] == 1).all()
