"""The random walk that switches vectors: its statistics, its seeds, its words for errors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pyannote_weighter.simulation.vectors import (
    RandomWalkVectors,
    Sequences,
    dominance,
    label_by_number,
    random_walk,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_and_error(values):
    """Mean over sequences, which are independent, and its standard error."""
    values = values.double()
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def residual(recipe, x):
    """Noise of the frames, in units of sigma."""
    return (x.frames - x.active.float() @ x.vectors) / recipe.sigma


@pytest.mark.parametrize("num_speakers", [1, 2, 5])
def test_shapes(num_speakers):
    recipe = RandomWalkVectors(num_speakers, num_frames=30, dimension=7)
    x = recipe.draw(4, seeded())
    assert x.frames.shape == (4, 30, 7) and x.frames.dtype == torch.float32
    assert x.active.shape == (4, 30, num_speakers) and x.active.dtype == torch.bool
    assert x.vectors.shape == (4, num_speakers, 7)
    assert x.speaker.shape == (4, 30) and x.speaker.dtype == torch.int64
    assert (x.active.sum(-1) == 1).all()
    assert x.active.gather(2, x.speaker.unsqueeze(-1)).all()


def test_seeds():
    recipe = RandomWalkVectors(3, num_frames=50, dimension=4, overlap=0.1, silence=0.1)
    for a, b in zip(recipe.draw(3, seeded(5)), recipe.draw(3, seeded(5)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(recipe.draw(3, seeded(5)), recipe.draw(3, seeded(6)), strict=True):
        assert not torch.equal(a, b)
    torch.manual_seed(5)
    assert torch.equal(recipe.draw(3).frames, recipe.draw(3, seeded(5)).frames)


def test_walk_is_its_formula():
    position = random_walk(3, 40, 10.0, seeded(1))
    generator = seeded(1)
    steps = torch.randn((3, 40), generator=generator).double().numpy() / 10
    start = 2 * torch.rand((3, 1), generator=generator).double().numpy()
    expected = np.abs((np.cumsum(steps, axis=1) + start) % 2 - 1)
    np.testing.assert_allclose(position, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_walk_is_reflected(scale):
    position = random_walk(200, 300, scale, seeded())
    assert position.min() >= 0 and position.max() <= 1
    assert position.min() < 0.01 and position.max() > 0.99


@pytest.mark.parametrize("scale", [5.0, 30.0])
def test_steps(scale):
    """Inside the interval, steps are normal with standard deviation 1 / scale."""
    position = random_walk(100, 200, scale, seeded()).double()
    middle = (position[:, :-1] - 0.5).abs() < 0.05
    steps = position.diff(dim=1)[middle] * scale
    inside = 0.45 * scale  # a step that meets an end is more than that
    assert (
        kstest(steps[steps.abs() < min(inside, 2.0)], _truncated(min(inside, 2.0))).pvalue > 0.01
    )


def _truncated(bound):
    scale = math.erf(bound / math.sqrt(2))
    return lambda x: 0.5 + np.vectorize(math.erf)(x / math.sqrt(2)) / 2 / scale


@pytest.mark.parametrize("frame", [0, 7, -1])
def test_position_is_uniform_from_the_first_frame(frame):
    position = random_walk(5000, 100, 20.0, seeded())
    assert kstest(position[:, frame].double(), "uniform").pvalue > 0.01


def test_long_walk_keeps_its_digits():
    position = random_walk(1, 400_000, 1.0, seeded(2))
    generator = seeded(2)
    steps = torch.randn((1, 400_000), generator=generator)
    start = 2 * torch.rand((1, 1), generator=generator)
    # float64, wrapped all along so that numbers stay small
    exact = start.double().item()
    for chunk in steps[0].double().split(1000):
        path = exact + chunk.cumsum(0)
        exact = path[-1].item() % 2
    assert position[0, -1].item() == pytest.approx(abs(exact - 1), abs=1e-6)
    single = ((steps.cumsum(1) + start) % 2 - 1).abs()[0, -1].item()
    assert abs(single - abs(exact - 1)) > 1e-6  # what float32 would have lost


@pytest.mark.parametrize("scale", [10.0, 20.0, 30.0, 100.0])
def test_switch_rate(scale):
    recipe = RandomWalkVectors(2, scale, num_frames=500)
    switches = recipe.draw_active(3000, seeded())[..., 0].int().diff(dim=1).abs()
    mean, error = mean_and_error(switches.double().mean(1))
    assert error < 0.04 * mean
    assert abs(mean - math.sqrt(2 / math.pi) / scale) < 3 * error
    # in bursts: more likely by far in the frame after a switch
    again = (switches[:, 1:] * switches[:, :-1]).sum() / switches[:, :-1].sum()
    assert again > 3 * mean


@pytest.mark.parametrize("shares", [None, (0.2, 0.5, 0.3), (2, 5, 3)])
def test_shares(shares):
    recipe = RandomWalkVectors(3, num_frames=300, shares=shares)
    expected = np.array(shares or (1, 1, 1)) / sum(shares or (1, 1, 1))
    np.testing.assert_allclose(recipe.edges.diff(), expected)
    active = recipe.draw_active(2000, seeded())
    assert (active.sum(-1) == 1).all()
    for k in range(3):
        mean, error = mean_and_error(active[..., k].double().mean(1))
        assert abs(mean - expected[k]) < 3 * error < 0.03


def test_switches_are_between_neighbours():
    speaker = RandomWalkVectors(4, 100.0, 500, 1).draw(200, seeded()).speaker
    assert speaker.diff(dim=1).abs().max() == 1
    assert speaker.unique().tolist() == [0, 1, 2, 3]


def test_speakers_at_borders():
    recipe = RandomWalkVectors(4)
    position = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.7499, 0.75, 1.0])
    assert recipe.speakers_at(position).int().argmax(-1).tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert (recipe.speakers_at(position).sum(-1) == 1).all()
    both = replace(recipe, overlap=0.3)  # bands of 0.1 around three borders
    assert both.speakers_at(torch.tensor([0.19, 0.21, 0.29, 0.31])).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, False, False],
        [False, True, False, False],
    ]
    assert RandomWalkVectors(1).speakers_at(position).all()


def test_frames_are_vectors_with_noise():
    recipe = RandomWalkVectors(3, num_frames=200, dimension=16, sigma=3.0)
    x = recipe.draw(30, seeded())
    noise = residual(recipe, x).double().flatten()
    assert kstest(noise[::7], "norm").pvalue > 0.01
    assert noise.std() == pytest.approx(1, abs=3 / math.sqrt(2 * len(noise)))
    assert kstest(x.vectors.double().flatten(), "norm").pvalue > 0.01
    b, t = 4, 100
    alone = x.vectors[b, x.speaker[b, t]]
    clean = replace(recipe, sigma=0.0).draw(30, seeded())
    assert torch.equal(clean.frames[b, t], alone)


def test_sigma_changes_nothing_else():
    recipe = RandomWalkVectors(3, num_frames=40, dimension=5, sigma=2.0, overlap=0.2, silence=0.2)
    louder = replace(recipe, sigma=8.0)
    x, y = recipe.draw(6, seeded()), louder.draw(6, seeded())
    assert torch.equal(x.active, y.active) and torch.equal(x.vectors, y.vectors)
    torch.testing.assert_close(residual(recipe, x), residual(louder, y), atol=1e-5, rtol=0)
    # the same for frames of sequences that were chosen first
    x, y = (r.draw_frames(x.active[:2], seeded(9)) for r in (recipe, louder))
    torch.testing.assert_close(residual(recipe, x), residual(louder, y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_speakers, shares", [(2, None), (3, (0.2, 0.3, 0.5))])
def test_overlap_is_the_sum_of_two(num_speakers, shares):
    recipe = RandomWalkVectors(
        num_speakers, num_frames=300, dimension=3, sigma=0.0, overlap=0.2, shares=shares
    )
    x = recipe.draw(1000, seeded())
    count = x.active.sum(-1)
    assert count.unique().tolist() == [1, 2]
    mean, error = mean_and_error((count == 2).double().mean(1))
    assert abs(mean - 0.2) < 3 * error < 0.02
    assert (x.speaker[count == 2] == -1).all() and (x.speaker[count == 1] >= 0).all()
    b, t = (int(i) for i in (count == 2).nonzero()[0])
    first, second = x.active[b, t].nonzero().flatten()
    assert second == first + 1
    torch.testing.assert_close(x.frames[b, t], x.vectors[b, first] + x.vectors[b, second])


@pytest.mark.parametrize("num_speakers", [1, 2])
def test_silence_is_noise_alone(num_speakers):
    recipe = RandomWalkVectors(num_speakers, num_frames=300, dimension=3, sigma=0.0, silence=0.3)
    x = recipe.draw(1000, seeded())
    silent = ~x.active.any(-1)
    mean, error = mean_and_error(silent.double().mean(1))
    assert abs(mean - 0.3) < 3 * error < 0.05
    assert (x.frames[silent] == 0).all() and (x.frames[~silent] != 0).any(-1).all()
    assert (x.speaker[silent] == -1).all()
    # silence comes on its own, whoever speaks
    if num_speakers == 2:
        first = x.active[..., 0].double().sum(1) - x.active[..., 1].double().sum(1)
        mean, error = mean_and_error(first / 300)
        assert abs(mean) < 3 * error


def test_silence_leaves_the_walk_of_the_speakers():
    recipe = RandomWalkVectors(2, num_frames=100)
    spoken = replace(recipe, silence=0.4).draw_active(20, seeded())
    always = recipe.draw_active(20, seeded())
    assert torch.equal(spoken, always & spoken.any(-1, keepdim=True))


def test_one_speaker_speaks_all_the_time():
    x = RandomWalkVectors(1, num_frames=20, dimension=2, overlap=0.5).draw(3, seeded())
    assert x.active.all() and (x.speaker == 0).all()


def test_methods_are_told_who_speaks():
    """The walk need not reach every part: two of three speakers, one, three, nobody."""
    active = torch.zeros(4, 5, 3, dtype=torch.bool)
    active[0, :, 2] = active[0, 2:, 0] = True
    active[1, :, 1] = True
    active[2] = torch.eye(3, dtype=torch.bool)[[0, 1, 2, 2, 1]]
    sequences = Sequences(torch.arange(40.0).view(4, 5, 2), active, torch.zeros(4, 3, 2))
    assert sequences.present.tolist() == [2, 1, 3, 0]
    asked = []

    def label(frames, number):
        asked.append((number, frames[:, 0, 0].tolist()))
        return torch.full(frames.shape[:2], number)

    labels = label_by_number(sequences.frames, sequences.present, label)
    assert labels[:, 0].tolist() == [2, 1, 3, 0] and labels.shape == (4, 5)
    assert sorted(asked) == [(1, [10.0]), (2, [0.0]), (3, [20.0])]


def test_dominance():
    active = torch.zeros(4, 10, 2, dtype=torch.bool)
    active[0, :, 0] = True  # one speaks
    active[1, :3, 0] = active[1, 3:, 1] = True  # 3 to 7
    active[2, :4, 0] = active[2, 2:4, 1] = True  # 4 to 2, with overlap and silence
    torch.testing.assert_close(dominance(active), torch.tensor([1.0, 0.7, 4 / 6, 1.0]))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(num_speakers=0), "num_speakers is 0: choose at least 1"),
        (dict(num_frames=0), "num_frames is 0: choose at least 1"),
        (dict(dimension=-1), "dimension is -1: choose at least 1"),
        (dict(scale=0.0), "scale is 0.0: choose a positive number"),
        (dict(scale=math.inf), "scale is inf"),
        (dict(scale=math.nan), "scale is nan"),
        (dict(sigma=-0.1), "sigma is -0.1: choose a finite number of at least 0"),
        (dict(sigma=math.inf), "sigma is inf"),
        (dict(overlap=1.0), r"overlap is 1.0: choose from \[0, 1\)"),
        (dict(overlap=-0.1), "overlap is -0.1"),
        (dict(silence=1.0), r"silence is 1.0: choose from \[0, 1\)"),
        (dict(silence=math.nan), "silence is nan"),
        (dict(shares=(1.0,)), "give 2 positive numbers"),
        (dict(shares=(0.5, 0.0)), "give 2 positive numbers"),
        (dict(shares=(0.5, -0.5)), "give 2 positive numbers"),
        (dict(overlap=0.6), "choose a smaller overlap"),
        (dict(overlap=0.3, shares=(0.1, 0.9)), "do not fit into a speaker's part of 0.1"),
    ],
)
def test_errors(wrong, words):
    with pytest.raises(ValueError, match=words):
        RandomWalkVectors(**wrong)
