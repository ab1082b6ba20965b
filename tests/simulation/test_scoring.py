"""Accuracy against all permutations, crossings of known curves, and what intervals cover."""

from itertools import permutations

import numpy as np
import pytest
import torch

from pyannote_weighter.simulation.scoring import (
    accuracy,
    bootstrap,
    crossing,
    interval,
    next_step,
    sigma_at,
)


def best_of_permutations(labels: list[int], speaker: list[int]) -> float:
    """Try all one-to-one namings of labels, padded so that every label has a name."""
    names = sorted(set(labels))
    scored = [(name, who) for name, who in zip(labels, speaker, strict=True) if who >= 0]
    best = 0
    for naming in permutations(range(max(len(names), max(speaker) + 1)), len(names)):
        called = dict(zip(names, naming, strict=True))
        best = max(best, sum(called[name] == who for name, who in scored))
    return best / len(scored)


@pytest.mark.parametrize(("num_labels", "num_speakers"), [(3, 3), (5, 2), (2, 4), (1, 3), (4, 1)])
def test_accuracy_is_that_of_the_best_permutation(num_labels, num_speakers):
    generator = torch.Generator().manual_seed(num_labels)
    speaker = torch.randint(-1, num_speakers, (6, 40), generator=generator)
    labels = 7 * torch.randint(num_labels, (6, 40), generator=generator) - 3  # any numbering
    expected = [
        best_of_permutations(*pair) for pair in zip(labels.tolist(), speaker.tolist(), strict=True)
    ]
    assert accuracy(labels, speaker).tolist() == pytest.approx(expected)


def test_accuracy_of_renamed_speakers_is_one_and_of_silence_unknown():
    speaker = torch.tensor([[0, 1, 2, 1, -1], [-1, -1, -1, -1, -1]])
    labels = torch.tensor([[9, 4, 7, 4, 9], [0, 1, 2, 3, 4]])
    right, unknown = accuracy(labels, speaker).tolist()
    assert right == 1.0
    assert np.isnan(unknown)


def test_accuracy_wants_one_label_a_frame():
    with pytest.raises(ValueError, match="one label a frame"):
        accuracy(torch.zeros(2, 5), torch.zeros(2, 4))


def test_crossing_is_linear_in_log_sigma():
    sigmas = np.array([1.0, 2.0, 4.0])
    curves = np.array([[1.0, 0.8, 1.0, 0.85], [0.95, 0.7, 0.95, 0.92], [0.85, 0.6, 0.9, 0.82]])
    halfway, never, always, last = crossing(sigmas, curves)
    assert halfway == pytest.approx(2 * np.sqrt(2))
    assert np.isnan(never)
    assert np.isinf(always)
    assert last == pytest.approx(2 * 2**0.2)  # a curve that rises first has its fall counted
    with pytest.raises(ValueError, match="increasing"):
        crossing(sigmas[::-1], curves)


def test_sigma_at_recovers_the_noise_of_a_known_law():
    """Accuracy of a line in log sigma is recovered from points that miss the crossing."""
    sigmas = 2 ** np.arange(-3.0, 4)
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 0.02, size=50)
    offsets -= offsets.mean()
    accuracies = 0.9 - 0.07 * np.log2(sigmas / 3)[:, None] + offsets
    assert sigma_at(sigmas, accuracies) == pytest.approx(3.0)
    assert sigma_at(sigmas, accuracies, level=0.97) == pytest.approx(1.5)


def draw(rng, size, sigma, points):
    """Accuracies of sequences whose mean crosses 0.9 at sigma, each with an offset of its own."""
    offsets = rng.normal(0, 0.04, size=size)
    return 0.9 - 0.1 * np.log2(points / sigma)[:, None] + offsets, offsets


def test_intervals_cover_as_often_as_they_say():
    points, rng = 2 ** np.arange(0.0, 4, 0.5), np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = interval(
            bootstrap(points, draw(rng, 60, 3.0, points)[0], seed=seed, resamples=400)
        )
        covered += low <= 3.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_ratios_are_paired_over_different_points():
    """Two methods that differ by a factor alone, on points of their own: no spread is left."""
    here, there = 2 ** np.arange(0.0, 4, 0.5), 2 ** np.arange(1.25, 6, 0.25)
    first, offsets = draw(np.random.default_rng(2), 80, 3.0, here)
    second = 0.9 - 0.1 * np.log2(there / 12)[:, None] + offsets
    low, high = interval(bootstrap(there, second) / bootstrap(here, first))
    assert low == pytest.approx(4.0) and high == pytest.approx(4.0)
    alone = interval(bootstrap(here, first))
    assert alone[1] / alone[0] > 1.1
    low, high = interval(bootstrap(there, second, seed=1) / bootstrap(here, first))
    assert high / low > 1.1  # other draws: not paired


def test_what_is_unknown_widens_the_interval():
    values = np.linspace(1.0, 2.0, 101)
    assert interval(values) == (pytest.approx(1.02), pytest.approx(1.98))
    values[40:45] = np.nan
    assert interval(values) == (0.0, np.inf)
    values = np.r_[np.linspace(1.0, 2.0, 96), [np.inf] * 5]
    low, high = interval(values)
    assert 1.0 < low < 1.1 and high == np.inf


def climb(curve, start, **options):
    """Take steps of the ladder as long as there is a next one; curve(step) is an accuracy."""
    noise = np.random.default_rng(3).normal(0, 0.1, size=200)
    points, step = {}, start
    while step is not None:
        assert step not in points
        points[step] = curve(step) + noise - noise.mean()
        step = next_step(points, **options)
    return sorted(points)


@pytest.mark.parametrize("start", [2, 9, 10, 14])
def test_ladder_brackets_the_level_and_its_interval(start):
    steps = climb(lambda step: 0.9 - 0.014 * (step - 9.5), start)
    assert steps == list(range(min(start, 8), max(start, 11) + 1))  # 0.1 / sqrt(200) * 2.5 = 0.018
    assert climb(lambda step: 0.9 - 0.014 * (step - 9.5), 9, errors=0.0) == [9, 10]
    # a slope so small that it would take many steps: three on either side are enough
    assert climb(lambda step: 0.9 - 0.001 * (step - 9.5), 9) == list(range(6, 14))


def test_ladder_ends():
    assert climb(lambda step: 0.5, -5) == [-8, -7, -6, -5]
    assert climb(lambda step: 1.0, 26) == [26, 27, 28]
    assert climb(lambda step: 0.9 - 0.001 * (step + 7.5), -8) == list(range(-8, -3))


def test_ladder_fills_gaps_where_the_level_is_crossed():
    points = {step: np.full(50, 0.9 - 0.03 * (step - 9.5)) for step in range(0, 21, 4)}
    assert next_step(points) == 10
    points[10] = np.full(50, 0.885)
    assert next_step(points) == 9
    points[9] = np.full(50, 0.915)
    assert next_step(points) is None
