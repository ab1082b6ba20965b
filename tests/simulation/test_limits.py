"""Limits of the random walk against enumeration, closed forms, simulation and each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi, multivariate_normal, norm
from torch.nn.functional import one_hot

from pyannote_weighter.simulation import limits
from pyannote_weighter.simulation.limits import (
    known_means,
    known_means_accuracy,
    known_means_hmm,
    known_means_walk,
    known_pair_accuracy,
    unknown_means_walk,
)
from pyannote_weighter.simulation.vectors import RandomWalkVectors


def draw(batch=100, seed=0, **recipe):
    return RandomWalkVectors(**recipe).draw(batch, torch.Generator().manual_seed(seed))


def right(posterior, speaker):
    """Share of frames whose likeliest speaker is the true one, (batch,)."""
    return (posterior.argmax(-1) == speaker).double().mean(1)


def right_of_two(posterior, speaker):
    """The same for two speakers under the better of both numberings."""
    share = right(posterior, speaker)
    return torch.maximum(share, 1 - share)


def mean_and_error(values):
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def enumerated(scores, start, transition, owner):
    """Posterior of the speakers, (time, speaker), by going through all paths of states."""
    posterior = np.zeros(scores.shape)
    for path in itertools.product(range(len(start)), repeat=len(scores)):
        weight = start[path[0]] * math.prod(transition[i, j] for i, j in itertools.pairwise(path))
        weight *= math.exp(sum(scores[t, owner[s]] for t, s in enumerate(path)))
        for t, s in enumerate(path):
            posterior[t, owner[s]] += weight
    return posterior / posterior.sum(1, keepdims=True)


def forward_backward_on_circle(scores, scale, num_bins, edges):
    """Posterior of the speakers, (time, speaker), on the whole circle without folding."""
    position = 2 * (np.arange(num_bins) + 0.5) / num_bins
    turns = 2 * np.arange(-4, 5)[:, None, None]
    distance = position - position[:, None] + turns
    transition = np.exp(-0.5 * (distance * scale) ** 2).sum(0)
    transition /= transition.sum(1, keepdims=True)
    owner = np.searchsorted(edges[1:-1], np.abs(position - 1))
    likelihood = np.exp(scores - scores.max(1, keepdims=True))[:, owner]
    forward = [likelihood[0] / num_bins]
    for seen in likelihood[1:]:
        forward.append(forward[-1] / forward[-1].sum() @ transition * seen)
    backward = [np.ones(num_bins)]
    for seen in likelihood[:0:-1]:
        backward.append(transition @ (backward[-1] / backward[-1].sum() * seen))
    states = np.array(forward) * np.array(backward[::-1])
    posterior = states @ np.eye(scores.shape[1])[owner]
    return posterior / posterior.sum(1, keepdims=True)


@pytest.mark.parametrize("owner", [[0, 1], [0, 0, 1], [0, 1, 1, 2]])
def test_forward_backward_against_enumeration(owner):
    rng = np.random.default_rng(1)
    start = rng.dirichlet(np.ones(len(owner)))
    transition = rng.dirichlet(np.ones(len(owner)), size=len(owner))
    scores = rng.normal(0, 2, (3, 5, owner[-1] + 1))
    chain = limits._Chain(*map(torch.tensor, (start, transition, owner)))
    posterior = limits._forward_backward(torch.tensor(scores), chain)
    expected = [enumerated(s, start, transition, owner) for s in scores]
    np.testing.assert_allclose(posterior, expected, atol=1e-9)


def test_draws_of_paths_against_enumeration():
    rng = np.random.default_rng(2)
    owner = np.array([0, 0, 1])
    start, transition = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=3)
    scores = rng.normal(0, 1, (4, 2))
    chain = limits._Chain(*map(torch.tensor, (start, transition, owner)))
    many = torch.tensor(scores).expand(20000, -1, -1)
    filtered = limits._filter(limits._likelihood(many), chain)
    paths = limits._draw_path(filtered, chain, torch.Generator().manual_seed(0))
    share = one_hot(paths, 2).double().mean(0)
    expected = enumerated(scores, start, transition, owner)
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / math.sqrt(20000))
    # and not only frame by frame: pairs of frames too
    both = ((paths[:, 0] == 1) & (paths[:, 1] == 1)).double().mean()
    joint = np.zeros(2)
    for path in itertools.product(range(3), repeat=4):
        weight = start[path[0]] * math.prod(transition[i, j] for i, j in itertools.pairwise(path))
        weight *= math.exp(sum(scores[t, owner[s]] for t, s in enumerate(path)))
        joint += weight * np.array([owner[path[0]] * owner[path[1]], 1])
    assert both == pytest.approx(joint[0] / joint[1], abs=4 * 0.5 / math.sqrt(20000))


@pytest.mark.parametrize("num_speakers, scale", [(1, 5.0), (2, 1.0), (2, 10.0), (3, 10.0)])
def test_folded_circle_is_the_circle(num_speakers, scale):
    num_bins = 2 * num_speakers * math.ceil(4 * scale / num_speakers)
    x = draw(2, num_speakers=num_speakers, scale=scale, num_frames=30, dimension=4, sigma=2.0)
    frames, vectors = x.frames.double(), x.vectors.double()
    posterior = known_means_walk(frames, vectors, 2.0, scale)
    scores = -((frames.unsqueeze(2) - vectors.unsqueeze(1)) ** 2).sum(-1).numpy() / 8
    edges = np.linspace(0, 1, num_speakers + 1)
    expected = [forward_backward_on_circle(s, scale, num_bins, edges) for s in scores]
    np.testing.assert_allclose(posterior, expected, atol=1e-8)


def test_bins_of_unlike_widths():
    """Coarse bins that fit each speaker's part, against fine ones that need not."""
    shares, scale = (0.11, 0.35, 0.54), 3.0
    recipe = dict(num_speakers=3, scale=scale, num_frames=100, dimension=4, sigma=4.0)
    x = draw(2, shares=shares, **recipe)
    assert limits._walking(3, scale, shares, 8).start.unique().numel() > 1
    posterior = known_means_walk(x.frames.double(), x.vectors.double(), 4.0, scale, shares)
    scores = -((x.frames.unsqueeze(2) - x.vectors.unsqueeze(1)) ** 2).sum(-1).double().numpy() / 32
    edges = np.cumsum((0, *shares))
    expected = [forward_backward_on_circle(s, scale, 1000, edges) for s in scores]
    np.testing.assert_allclose(posterior, expected, atol=5e-3)


def test_closed_form_against_integral_and_simulation():
    for dimension, sigma in [(1, 0.5), (16, 2.0), (64, 4.0), (256, 30.0)]:
        expected, _ = quad(
            lambda x, d=dimension, s=sigma: chi.pdf(x, d) * norm.cdf(x / math.sqrt(2) / s),
            *chi.interval(1 - 1e-12, dimension),
        )
        assert known_means_accuracy(dimension, sigma) == pytest.approx(expected, abs=1e-7)
    x = draw(2000, scale=10.0, num_frames=100, dimension=16, sigma=2.0)
    share = right(known_means(x.frames, x.vectors, 2.0), x.speaker)
    mean, error = mean_and_error(share)
    assert abs(mean - known_means_accuracy(16, 2.0)) < 3 * error
    mean, error = mean_and_error(share - known_pair_accuracy(x.vectors, 2.0))
    assert error < 0.002 and abs(mean) < 3 * error


def test_known_means_is_the_posterior_of_a_frame():
    x = draw(2, num_speakers=3, num_frames=5, dimension=2, sigma=1.5)
    shares = [0.2, 0.3, 0.5]
    posterior = known_means(x.frames, x.vectors, 1.5, shares)
    for b, t in itertools.product(range(2), range(5)):
        weight = shares * norm.pdf(x.frames[b, t], x.vectors[b], 1.5).prod(1)
        np.testing.assert_allclose(posterior[b, t], weight / weight.sum(), atol=1e-5)


def test_switch_rate_of_two_speakers():
    chain = limits._switching(2, 30.0, None)
    rate = math.sqrt(2 / math.pi) / 30
    expected = torch.tensor([[1 - rate, rate], [rate, 1 - rate]], dtype=torch.float64)
    torch.testing.assert_close(chain.transition, expected)
    chain = limits._switching(2, 30.0, None, rate=0.2)
    assert chain.transition[0, 1] == pytest.approx(0.2)


@pytest.mark.parametrize("shares", [None, (0.2, 0.5, 0.3)])
def test_chains_switch_as_the_walk_does(shares):
    scale = 30.0
    speaker = draw(
        1500, num_speakers=3, scale=scale, num_frames=500, dimension=1, shares=shares
    ).speaker
    for chain in (limits._switching(3, scale, shares), limits._walking(3, scale, shares, 8)):
        torch.testing.assert_close(chain.transition.sum(1), torch.ones(len(chain.start)).double())
        # the first frame is like any other
        torch.testing.assert_close(chain.start @ chain.transition, chain.start, atol=1e-3, rtol=0)
        flow = chain.start.unsqueeze(1) * chain.transition
        for lower in (0, 1):
            up = flow[chain.speaker == lower][:, chain.speaker == lower + 1].sum().item()
            assert 2 * up == pytest.approx(math.sqrt(2 / math.pi) / scale, rel=0.01)
            for a, b in ((lower, lower + 1), (lower + 1, lower)):
                switches = ((speaker[:, :-1] == a) & (speaker[:, 1:] == b)).double().mean(1)
                mean, error = mean_and_error(switches)
                assert abs(mean - up) < 3 * error + 1e-4


@pytest.mark.parametrize("shares, expected", [(None, [40] * 3), ((1, 2, 3), [20, 40, 60])])
def test_borders_are_edges_of_bins(shares, expected):
    chain = limits._walking(3, 30.0, shares, 8)
    assert chain.speaker.bincount().tolist() == expected
    recipe = RandomWalkVectors(3, shares=shares)
    centres = chain.start.cumsum(0) - chain.start / 2
    assert torch.equal(recipe.speakers_at(centres).int().argmax(-1), chain.speaker)
    assert limits._walking(3, 30.5, None, 8).speaker.bincount().tolist() == [41] * 3


def test_more_bins_change_nothing():
    x = draw(40, num_frames=300, dimension=16, sigma=6.0)
    coarse = known_means_walk(x.frames, x.vectors, 6.0, 30.0)
    fine = known_means_walk(x.frames, x.vectors, 6.0, 30.0, bins=16)
    assert 0 < (coarse - fine).abs().mean() < 1e-3
    assert abs((right(coarse, x.speaker) - right(fine, x.speaker)).mean()) < 1e-3


@pytest.mark.parametrize("num_speakers, shares", [(2, None), (3, (0.5, 0.2, 0.3))])
def test_walk_posterior_is_calibrated(num_speakers, shares):
    """Only the exact posterior is right as often as it says, for whatever it says."""
    recipe = dict(num_speakers=num_speakers, scale=20.0, num_frames=300, dimension=16, sigma=8.0)
    x = draw(400, shares=shares, **recipe)
    posterior = known_means_walk(x.frames, x.vectors, 8.0, 20.0, shares)
    # mean over frames, so that one sequence gives one independent number
    claim = posterior.amax(-1).double().mean(1)
    mean, error = mean_and_error(claim - right(posterior, x.speaker))
    assert error < 0.005 and abs(mean) < 3 * error
    quadratic = (posterior - one_hot(x.speaker, num_speakers)).square().sum(-1).mean(1)
    mean, error = mean_and_error(quadratic - (1 - posterior.square().sum(-1).mean(1)))
    assert abs(mean) < 3 * error


def test_limits_are_ordered():
    """What knows more is more often right; paired differences, fixed seed."""
    x = draw(150, num_frames=400, dimension=16, sigma=7.0, seed=3)
    without_time = right(known_means(x.frames, x.vectors, 7.0), x.speaker)
    hmm = right(known_means_hmm(x.frames, x.vectors, 7.0, 30.0), x.speaker)
    posterior = known_means_walk(x.frames, x.vectors, 7.0, 30.0)
    walk = right(posterior, x.speaker)
    generator = torch.Generator().manual_seed(0)
    unknown = unknown_means_walk(
        x.frames, x.speaker, 2, 7.0, 30.0, bins=4, steps=12, discard=4, generator=generator
    )
    pairs = [
        (without_time, hmm),
        (hmm, walk),
        (right_of_two(unknown, x.speaker), right_of_two(posterior, x.speaker)),
    ]
    for worse, better in pairs:
        mean, error = mean_and_error(better - worse)
        assert mean > 1.96 * error
    # with time helps far more than knowing the walk does
    assert without_time.mean() < 0.7 < 0.88 < hmm.mean()


@pytest.mark.parametrize("num_speakers", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posteriors_are_probabilities(num_speakers, dtype):
    x = draw(3, num_speakers=num_speakers, scale=20.0, num_frames=40, dimension=8, sigma=3.0)
    frames, vectors = x.frames.to(dtype), x.vectors.to(dtype)
    posteriors = [
        known_means(frames, vectors, 3.0),
        known_means_hmm(frames, vectors, 3.0, 20.0),
        known_means_walk(frames, vectors, 3.0, 20.0),
        unknown_means_walk(frames, x.speaker, num_speakers, 3.0, 20.0, steps=3, discard=1),
    ]
    for posterior in posteriors:
        assert posterior.shape == (3, 40, num_speakers) and posterior.dtype == dtype
        assert posterior.min() >= 0
        torch.testing.assert_close(posterior.sum(-1), torch.ones(3, 40, dtype=dtype))


@pytest.mark.parametrize("num_speakers", [2, 3])
def test_all_is_right_without_noise(num_speakers):
    x = draw(5, num_speakers=num_speakers, scale=20.0, num_frames=200, dimension=8, sigma=0.01)
    for posterior in (
        known_means(x.frames, x.vectors, 0.01),
        known_means_hmm(x.frames, x.vectors, 0.01, 20.0),
        known_means_walk(x.frames, x.vectors, 0.01, 20.0),
        unknown_means_walk(x.frames, x.speaker, num_speakers, 0.01, 20.0, steps=4, discard=1),
    ):
        assert right(posterior, x.speaker).min() == 1


def test_time_is_needed_where_noise_is_strong():
    x = draw(60, num_speakers=3, scale=30.0, num_frames=300, dimension=64, sigma=8.0)
    without_time = right(known_means(x.frames, x.vectors, 8.0), x.speaker).mean()
    walk = right(known_means_walk(x.frames, x.vectors, 8.0, 30.0), x.speaker).mean()
    assert without_time < 0.7 and walk > 0.9


def test_leaps_that_the_chain_forbids_are_survived():
    """From the first to the last of three speakers within a frame, almost without noise."""
    speaker = torch.tensor([[0] * 5 + [2] * 5 + [0] * 5])
    vectors = torch.eye(3).unsqueeze(0)
    frames = vectors[:, speaker[0]]
    for posterior in (
        known_means_hmm(frames, vectors, 1e-3, 100.0),
        known_means_walk(frames, vectors, 1e-3, 100.0),
    ):
        assert posterior.isfinite().all()
        torch.testing.assert_close(posterior.sum(-1), torch.ones(1, 15))


def test_blocks_change_nothing(monkeypatch):
    x = draw(5, num_frames=50, dimension=8, sigma=3.0, scale=10.0)
    whole = known_means_walk(x.frames, x.vectors, 3.0, 10.0)
    monkeypatch.setattr(limits, "_MOST_NUMBERS", 2 * 50 * 40)
    sizes, once = [], limits._filter
    monkeypatch.setattr(limits, "_filter", lambda l, c: sizes.append(len(l)) or once(l, c))
    torch.testing.assert_close(known_means_walk(x.frames, x.vectors, 3.0, 10.0), whole)
    unknown_means_walk(x.frames, x.speaker, 2, 3.0, 10.0, steps=1, discard=0)
    assert sizes == [2, 2, 1] * 2
    monkeypatch.setattr(limits, "_MOST_NUMBERS", 1)
    torch.testing.assert_close(known_means_walk(x.frames, x.vectors, 3.0, 10.0), whole)


def test_gibbs_against_enumeration(monkeypatch):
    """Six numbers and two speakers with unlike shares, vectors integrated out in closed form.

    Chains that start at draws of the posterior, as the truth is one, stay there.
    """
    monkeypatch.setattr(limits, "_number", lambda posterior, truth: posterior)
    sigma, shares, rate = 0.8, (0.3, 0.7), 0.25
    x = np.array([1.9, 1.2, -0.4, -1.1, 0.9, 2.2])
    leave = [rate / 2 / share for share in shares]
    paths = np.array(list(itertools.product((0, 1), repeat=6)))
    weights = []
    for path in paths:
        weight = shares[path[0]]
        for i, j in itertools.pairwise(path):
            weight *= leave[i] if i != j else 1 - leave[i]
        for own in (x[path == 0], x[path == 1]):
            if len(own):
                covariance = sigma**2 * np.eye(len(own)) + 1.0
                weight *= multivariate_normal.pdf(own, cov=covariance)
        weights.append(weight)
    weights = np.array(weights) / np.sum(weights)
    expected = weights @ paths  # of the second speaker
    assert np.ptp(expected) > 0.3  # there is something to find

    # as often as the posterior says, without chance: the chain mixes slowly
    truth = torch.tensor(np.repeat(paths, np.rint(10000 * weights).astype(int), axis=0))
    frames = torch.tensor(x).float().view(1, 6, 1).expand(len(truth), -1, -1)
    generator = torch.Generator().manual_seed(0)
    chain = limits._switching(2, 30.0, shares, rate)
    posterior = limits._gibbs(frames, truth, sigma, chain, 30, 20, generator)
    np.testing.assert_allclose(posterior[..., 1].mean(0), expected, atol=0.01)


def test_gibbs_numbers_speakers_like_the_truth():
    truth = torch.tensor([[0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0]])
    posterior = 0.7 * one_hot(torch.tensor([[1, 1, 2, 2, 0, 0]] * 2), 3) + 0.1
    numbered = limits._number(posterior, truth)
    torch.testing.assert_close(numbered, 0.7 * one_hot(truth, 3) + 0.1)


def test_gibbs_may_exchange_speakers(monkeypatch):
    x = draw(4, num_frames=100, dimension=8, sigma=0.5, scale=10.0)
    once = limits._draw_path
    monkeypatch.setattr(limits, "_draw_path", lambda *inputs: 1 - once(*inputs))
    posterior = unknown_means_walk(x.frames, x.speaker, 2, 0.5, 10.0, steps=6, discard=1)
    assert right(posterior, x.speaker).min() > 0.95


def test_gibbs_is_seeded():
    x = draw(4, num_frames=60, dimension=4, sigma=3.0, scale=10.0)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return unknown_means_walk(
            x.frames, x.speaker, 2, 3.0, 10.0, steps=3, discard=1, generator=generator
        )

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_errors():
    x = draw(2, num_frames=10, dimension=4)
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma is .* choose a positive"):
            known_means_walk(x.frames, x.vectors, sigma, 30.0)
        with pytest.raises(ValueError, match="sigma is"):
            known_means_accuracy(16, sigma)
    for limit in (known_means_hmm, known_means_walk):
        with pytest.raises(ValueError, match="scale is 0"):
            limit(x.frames, x.vectors, 1.0, 0)
        with pytest.raises(ValueError, match=r"vectors are \(2, 2, 3\): need"):
            limit(x.frames, x.vectors[..., :3], 1.0, 30.0)
        with pytest.raises(ValueError, match="2 positive numbers"):
            limit(x.frames, x.vectors, 1.0, 30.0, (0.2, 0.3, 0.5))
    with pytest.raises(ValueError, match="bins is 0"):
        known_means_walk(x.frames, x.vectors, 1.0, 30.0, bins=0)
    with pytest.raises(ValueError, match="choose a larger scale"):
        known_means_hmm(x.frames, x.vectors, 1.0, 0.5)
    with pytest.raises(ValueError, match="from 0 on"):
        known_means_hmm(x.frames, x.vectors, 1.0, 30.0, rate=-0.1)
    for steps, discard in [(3, 3), (3, -1), (0, 0)]:
        with pytest.raises(ValueError, match="leave at least one"):
            unknown_means_walk(x.frames, x.speaker, 2, 1.0, 30.0, steps=steps, discard=discard)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="without overlap and silence"):
            unknown_means_walk(x.frames, torch.full((2, 10), wrong), 2, 1.0, 30.0)
