"""The slot model with a learned prior of turns."""

import pytest
import torch

from pyannote_weighter.models.encoders.markov import (
    MarkovRefiner,
    moving_average,
    noise_level,
    start_weightings,
)
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors


def draw(batch=4, seed=0, **recipe):
    recipe = {"dimension": 32, "num_frames": 400, "sigma": 3.0} | recipe
    return RandomWalkVectors(**recipe).draw(batch, torch.Generator().manual_seed(seed))


def test_moving_average_is_that_of_a_loop():
    series = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0))
    for width in (1, 5, 31):
        found = moving_average(series, width)
        for t in range(11):
            part = series[:, max(0, t - width // 2) : t + width // 2 + 1]
            torch.testing.assert_close(found[:, t], part.mean(1))


def test_noise_level_is_that_of_the_recipe():
    sequences = draw(sigma=5.0, dimension=64)
    torch.testing.assert_close(
        noise_level(sequences.frames), torch.full((4,), 5.0), rtol=0.03, atol=0
    )


@pytest.mark.parametrize("num_speakers", [1, 2, 3, 5])
def test_easy_vectors_are_separated_before_any_training(num_speakers):
    sequences = draw(num_speakers=num_speakers, sigma=0.5, num_frames=600, scale=20)
    heard = sequences.active.any(1).sum(1) == num_speakers
    refined = MarkovRefiner().eval()(sequences.frames, num_speakers)
    labels = refined.weightings[-1].argmax(-1)
    assert heard.any()
    assert accuracy(labels, sequences.speaker)[heard].mean() > 0.97
    torch.testing.assert_close(refined.weightings[-1].sum(-1), torch.ones(4, 600))


def test_score_is_the_plain_formula_of_a_loop():
    sequences = draw(batch=1, num_frames=12, dimension=3)
    model = MarkovRefiner()
    sigma = noise_level(sequences.frames)
    z = (sequences.frames - sequences.frames.mean(1, keepdim=True)) / sigma
    posterior = torch.rand(1, 12, 2).softmax(-1)
    found = model.score(z, z.square().sum(-1, keepdim=True), posterior, sigma, 0)
    for t in range(12):
        for n in range(2):
            count = posterior[0, :, n].sum() + sigma[0] ** 2  # vectors vary by 1 / sigma^2 in z
            weight = posterior[0, :, n].clone()
            weight[t] = 0.0  # the frame does not vote on itself
            mean = (weight[:, None] * z[0]).sum(0) / count
            expected = z[0, t] @ mean - (mean.square().sum() + 3 / count) / 2
            torch.testing.assert_close(found[0, t, n], expected)


def test_rotation_order_of_time_and_shift_change_nothing():
    sequences = draw(sigma=6.0)
    model = MarkovRefiner().eval()
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(3)))[0]
    plain = model(sequences.frames, 2).weightings[-1]
    moved = model(sequences.frames @ rotation + 7.0, 2).weightings[-1]
    same = accuracy(moved.argmax(-1), plain.argmax(-1))
    assert same.min() > 0.99
    scaled = model(10 * sequences.frames, 2, start=plain).weightings[0]
    assert scaled.isfinite().all()


def test_long_sequences_in_windows_are_as_in_one_piece():
    sequences = draw(batch=1, num_frames=5000, sigma=5.0, scale=20)
    whole = MarkovRefiner(window=10_000).eval()(sequences.frames, 2).weightings[-1]
    cut = MarkovRefiner(window=1000).eval()(sequences.frames, 2).weightings[-1]
    torch.testing.assert_close(cut, whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 10])
def test_very_short_and_constant_sequences_are_finite(num_frames):
    model = MarkovRefiner()
    for frames in (torch.randn(2, num_frames, 4), torch.zeros(2, num_frames, 4)):
        refined = model(frames, 3)
        assert refined.weightings[-1].isfinite().all()
        sum(x.square().sum() for x in refined.weightings).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_more_slots_than_speakers_still_find_the_speakers():
    sequences = draw(sigma=1.0, scale=20)
    refined = MarkovRefiner().eval()(sequences.frames, 4)
    labels = refined.weightings[-1].argmax(-1)
    # every slot holds one speaker: purity, not accuracy
    for file in range(4):
        for slot in labels[file].unique():
            speakers = sequences.speaker[file][labels[file] == slot]
            share = speakers.bincount().max() / len(speakers)
            assert share > 0.9 or len(speakers) < 10


def test_start_is_a_distribution_over_slots():
    z = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    for num_slots in (1, 2, 6):  # more slots than dimensions too
        start = start_weightings(z, num_slots)
        torch.testing.assert_close(start.sum(-1), torch.ones(2, 50))


def test_frames_that_are_none_or_no_numbers_are_refused():
    for shape in ((2, 0, 4), (0, 5, 4), (5, 4)):
        with pytest.raises(ValueError, match="not \\(batch, time, dimension\\)"):
            MarkovRefiner()(torch.zeros(shape), 2)
    frames = torch.randn(2, 20, 4)
    frames[1, 3, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        MarkovRefiner()(frames, 2)
