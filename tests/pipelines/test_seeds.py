"""Where slots start."""

import numpy as np
import pytest
import torch
from pyannote.core import SlidingWindow

from pyannote_weighter.likeness import LocalSpeakers, solo_steps
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.seeds import (
    NUM_SEEDS,
    Seeds,
    _cut,
    _pad,
    embed_parts,
    far_apart,
)
from pyannote_weighter.weighting import summarize
from tests.pipelines.test_windows import small_weighter


def local_of(active: np.ndarray, step: float = 2.5) -> LocalSpeakers:
    """Windows of ten seconds, frames of 0.1 s, (W, 100, L)."""
    return LocalSpeakers(
        LocalSpeakers.pack(active), SlidingWindow(10.0, step, 0.0), SlidingWindow(0.1, 0.1, 0.0)
    )


def test_far_apart_against_a_loop():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = rng.uniform(0.5, 1.0, 30)
    expected = []
    for _ in range(5):
        distance = [
            1 - max([float(v @ vectors[c]) for c in expected], default=-1.0) for v in vectors
        ]
        expected.append(int(np.argmax(np.array(distance) * weights)))
    assert far_apart(vectors, weights, 5) == expected
    assert not set(far_apart(vectors, weights, 30, known=vectors[:3])) & {0, 1, 2}
    assert far_apart(vectors[:0], weights[:0], 5) == []
    assert len(far_apart(np.repeat(vectors[:1], 9, axis=0), weights[:9], 5)) == 1


@pytest.mark.parametrize(("length", "expected"), [(1.0, 20), (0.74, 5), (0.76, 20)])
def test_more_are_chosen_while_they_are_far_apart(length, expected):
    vectors = np.eye(20)  # each is 1 from all others
    assert len(far_apart(vectors, np.full(20, length), 5, most=48)) == expected
    assert len(far_apart(vectors, np.full(20, length), 5, most=9)) == min(9, expected)
    assert len(far_apart(vectors, np.full(20, length), 5)) == 5
    near = np.concatenate([vectors[:8], 0.6 * vectors[:8] + 0.8 * vectors[8:16]])
    assert far_apart(near, np.ones(16), 3, most=48) == list(range(8))  # 0.4 from the others


def test_solo_steps_against_a_loop():
    rng = np.random.default_rng(1)
    active = rng.integers(0, 2, (4, 100, 3))
    local = local_of(active)
    grid = SlidingWindow(0.1, 0.1, 1.0)
    first, solo = solo_steps(local, grid, 60)
    assert solo.shape == (3, 100, 3)  # the fourth window begins after the last step
    for w in range(3):
        expected = np.zeros((60, 3))
        for step in range(60):
            frame = int(np.floor((grid[step].middle - 2.5 * w) / 0.1 + 1e-6))
            if 0 <= frame < 100 and active[w, frame].sum() == 1:
                expected[step] = active[w, frame]
        found = np.zeros((60, 3))
        for index, values in enumerate(solo[w]):
            if 0 <= first[w] + index < 60:
                found[first[w] + index] = values
            else:
                assert not values.any()
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def weighter() -> Weighter:
    return small_weighter()


@torch.inference_mode()
def test_parts_are_pooled_as_the_whole(weighter):
    step = weighter.encoder.step
    frames = torch.randn(1, 40 * step, weighter.backbone.frame_dimension)
    summary = summarize(frames, step)
    first, weights = np.array([-2, 5, 33]), np.random.default_rng(0).random((3, 10, 2), np.float32)
    weights[0, :2] = weights[2, 7:] = 0.0  # outside
    whole = np.zeros((3, 40, 2), np.float32)
    for part, begin in enumerate(first):
        for index in range(10):
            if 0 <= begin + index < 40:
                whole[part, begin + index] = weights[part, index]
    found = embed_parts(weighter, summary, first, weights)
    for part in range(3):
        expected = weighter.backbone.embed_summary(summary, torch.from_numpy(whole[part])[None])
        expected = torch.nn.functional.normalize(expected[0], dim=-1)
        np.testing.assert_allclose(found[part], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 9, 300])
@pytest.mark.parametrize("kind", ["silence", "one", "many"])
@torch.inference_mode()
def test_seeds_of_any_length(weighter, num_steps, kind):
    step = weighter.encoder.step
    frames = torch.randn(1, num_steps * step, weighter.backbone.frame_dimension)
    windows = torch.randn(1, num_steps, weighter.backbone.dimension)
    active = np.zeros((9, 100, 3), dtype=int)
    if kind != "silence":
        active[:, :, 0] = 1
    if kind == "many":
        active[:, 50:] = [0, 1, 0]
    single = torch.full((1, num_steps), float(kind != "silence"))
    seeds = Seeds(weighter, summarize(frames, step), local_of(active), SlidingWindow(0.1, 0.1))
    start = seeds(windows, single)
    assert start.shape[:2] == (1, num_steps) and 1 <= start.shape[2] <= NUM_SEEDS
    assert start.min() >= 0 and start.max() <= 1
    assert start.sum(dim=1).min() > 0  # nobody starts nowhere


@pytest.mark.parametrize(("people", "more"), [(30, True), (4, False)])
@torch.inference_mode()
def test_more_seeds_where_many_people_speak(weighter, people, more):
    """One for each voice, also of the last of thirty; not for each turn of few people."""
    step, turns, turn = weighter.encoder.step, 30, 40  # steps of 0.1 s
    torch.manual_seed(0)
    voices = 3 * torch.randn(people, weighter.backbone.frame_dimension)
    who = torch.arange(turns) % people
    frames = voices[who].repeat_interleave(turn * step, dim=0)[None]
    frames = frames + 0.3 * torch.randn_like(frames)
    num_steps = turns * turn
    active = np.zeros((turns // 2 - 1, 100, 3), dtype=int)  # ten seconds, every eight
    at = 80 * np.arange(len(active))[:, None] + np.arange(100)
    for speaker in range(3):
        active[:, :, speaker] = at // turn - 2 * np.arange(len(active))[:, None] == speaker
    summary, grid = summarize(frames, step), SlidingWindow(0.1, 0.1)
    windows = torch.randn(1, num_steps, weighter.backbone.dimension)
    seeds = Seeds(weighter, summary, local_of(active, step=8.0), grid)
    start = seeds(windows, torch.ones(1, num_steps))[0]
    assert (start.shape[1] > NUM_SEEDS) == more
    held = start.unflatten(0, (turns, turn)).sum(dim=1)  # (turns, K)
    assert len(set(who[held.argmax(dim=0)].tolist())) == people


@pytest.mark.parametrize("first", [[0, 3, 6, 9], [-4, -1, 2], [5, 9, 13, 17], [1, 2, 5], [7]])
def test_parts_that_are_evenly_spaced_are_not_copied(first):
    """The same rows as one by one, zeros outside."""
    values, first, length = torch.randn(20, 3), np.array(first), 5
    padded = _pad(values, first, length)
    parts = _cut(padded, first - min(0, first.min()), length)
    assert parts.shape == (len(first), length, 3)
    for part, start in zip(parts, first, strict=True):
        for t, row in enumerate(part, start=start):
            expected = values[t] if 0 <= t < len(values) else torch.zeros(3)
            assert torch.equal(row, expected)
    shared = parts.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
    assert shared == (len(first) > 1 and len(set(np.diff(first))) == 1)
