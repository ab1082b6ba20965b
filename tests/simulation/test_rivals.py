import itertools
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pyannote.audio.utils.vbx import VBx

from pyannote_weighter.simulation.rivals import (
    agglomerative,
    choose_window,
    common,
    k_means,
    moving_average,
    noise_variance,
    smoothed_k_means,
    spectral,
    sticky_hmm,
    vbx,
    vbx_loop,
)
from pyannote_weighter.simulation.rivals.bayesian import _bayesian_hmm, _loop_forward_backward
from pyannote_weighter.simulation.rivals.common import starts
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors

needs_hmmlearn = pytest.mark.skipif(find_spec("hmmlearn") is None, reason="needs hmmlearn")
WITHOUT_TIME = [k_means, agglomerative, spectral, vbx]
WITH_TIME = [smoothed_k_means, pytest.param(sticky_hmm, marks=needs_hmmlearn), vbx_loop]
RIVALS = WITHOUT_TIME + WITH_TIME


def draw(num_speakers=2, sigma=0.5, batch=2, num_frames=200, dimension=32, scale=20.0, seed=1):
    recipe = RandomWalkVectors(num_speakers, scale, num_frames, dimension, sigma)
    return recipe.draw(batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_speakers", [2, 3])
@pytest.mark.parametrize("rival", RIVALS)
def test_easy_sequences_are_solved(rival, num_speakers):
    sequences = draw(num_speakers, num_frames=400)
    assert sequences.active.any(1).all()  # everybody speaks
    options = {"window": 1} if rival is smoothed_k_means else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = rival(sequences.frames, num_speakers, **options)
    assert labels.shape == (2, 400) and labels.dtype == torch.int64
    assert 0 <= labels.min() and labels.max() < num_speakers
    torch.testing.assert_close(accuracy(labels, sequences.speaker), torch.ones(2).double())


@pytest.mark.parametrize("rival", RIVALS)
def test_seeds_are_reproducible(rival):
    frames = draw(3, sigma=3.0).frames
    before = frames.clone()
    assert torch.equal(rival(frames, 3, seed=3), rival(frames, 3, seed=3))
    assert torch.equal(frames, before)


@pytest.mark.parametrize("rival", RIVALS)
def test_sequences_do_not_depend_on_their_neighbours(rival):
    frames = draw(batch=3, sigma=1.0).frames
    frames[1] = 1.0  # nothing to cluster
    labels = rival(frames, 2)
    assert torch.equal(labels[1], torch.zeros(200).long())
    for index in range(3):
        assert torch.equal(labels[index], rival(frames[index : index + 1], 2)[0])


@pytest.mark.parametrize("rival", RIVALS)
def test_nothing_to_cluster(rival):
    frames = torch.randn(2, 1, 4)
    assert torch.equal(rival(frames, 2), torch.zeros(2, 1).long())  # one frame
    frames = torch.randn(2, 9, 4)
    assert torch.equal(rival(frames, 1), torch.zeros(2, 9).long())  # one speaker
    pattern = torch.tensor([0, 1, 1, 0, 0, 1])
    for values in (torch.randn(2, 4), torch.tensor([[0.0, 1.0], [0.0, 2.0]])):
        labels = rival(values[pattern].expand(2, -1, -1), 3)  # fewer distinct frames than speakers
        assert (accuracy(labels, pattern.expand(2, -1)) == 1).all()


@pytest.mark.parametrize("rival", RIVALS)
def test_bad_frames_are_refused(rival):
    frames = torch.randn(2, 10, 4)
    for value in (float("nan"), float("inf")):
        broken = frames.clone()
        broken[1, 3, 0] = value
        with pytest.raises(ValueError, match="1 of 20 frames are NaN or infinite: remove"):
            rival(broken, 2)
    with pytest.raises(ValueError, match="need .batch, time, dimension."):
        rival(frames[0], 2)
    with pytest.raises(ValueError, match="none of them 0"):
        rival(frames[:, :0], 2)
    with pytest.raises(ValueError, match="num_speakers is 0"):
        rival(frames, 0)


@pytest.mark.parametrize("rival", WITH_TIME)
def test_time_helps(rival):
    sequences = draw(sigma=6.0, batch=3, num_frames=600, dimension=64, scale=30.0)
    plain = accuracy(k_means(sequences.frames, 2), sequences.speaker).mean()
    timed = accuracy(rival(sequences.frames, 2), sequences.speaker).mean()
    assert plain < 0.85 and timed > 0.93


@pytest.mark.parametrize("rival", [pytest.param(sticky_hmm, marks=needs_hmmlearn), vbx_loop])
def test_the_best_of_several_starts_is_kept(rival, monkeypatch):
    sequences = draw(3, sigma=7.0, batch=4, num_frames=600, dimension=64, scale=30.0, seed=5)
    best = accuracy(rival(sequences.frames, 3), sequences.speaker).mean()
    monkeypatch.setattr(common, "_WINDOWS", (1,))
    alone = accuracy(rival(sequences.frames, 3), sequences.speaker).mean()
    assert best > alone + 0.02


@pytest.mark.parametrize("window", [1, 3, 9, 31])
def test_moving_average_equals_a_slow_loop(window):
    frames = torch.randn(2, 12, 3)
    means = torch.empty_like(frames)
    for time in range(12):
        near = [t for t in range(12) if abs(t - time) <= window // 2]
        means[:, time] = sum(frames[:, t] for t in near) / len(near)
    torch.testing.assert_close(moving_average(frames, window), means)
    assert moving_average(frames, window).dtype == torch.float32


@pytest.mark.parametrize("window", [0, 4, -3])
def test_windows_have_a_centre(window):
    with pytest.raises(ValueError, match="choose an odd number"):
        moving_average(torch.zeros(1, 5, 1), window)
    with pytest.raises(ValueError, match="choose an odd number"):
        smoothed_k_means(torch.randn(1, 9, 2), 2, window)


def test_the_chosen_window_follows_noise_and_turns():
    recipe = RandomWalkVectors(2, 20.0, 200, 32, sigma=0.1)
    windows = (1, 9, 101)
    assert choose_window(recipe, windows, num_sequences=5) == 1
    recipe = RandomWalkVectors(2, 20.0, 200, 32, sigma=5.0)
    assert choose_window(recipe, windows, num_sequences=5) == 9


def test_no_window_to_choose():
    with pytest.raises(ValueError, match="give at least one"):
        choose_window(RandomWalkVectors(), ())
    with pytest.raises(ValueError, match="only 0 of 500 sequences"):
        choose_window(RandomWalkVectors(num_speakers=1, num_frames=9), (1,), num_sequences=5)


def test_noise_variance_hardly_sees_the_speakers():
    noise = noise_variance(draw(sigma=3.0, num_frames=1000, scale=30.0).frames)
    torch.testing.assert_close(noise, torch.full((2,), 9.0), rtol=0.03, atol=0)


@pytest.mark.parametrize("rival", [*WITHOUT_TIME, *WITH_TIME[1:]])
def test_short_sequences_are_quiet(rival):
    frames = torch.randn(1, 6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(rival(frames, 3).flatten().tolist()) <= {0, 1, 2}


@needs_hmmlearn
def test_em_never_decreases_what_it_reports(caplog):
    # hmmlearn logs a decrease of what it maximises, here with the priors, as a warning
    sticky_hmm(draw(3, sigma=6.0, dimension=64).frames, 3)
    assert not caplog.records


def test_missing_hmmlearn_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "hmmlearn.hmm", None)
    with pytest.raises(ImportError, match=r"pyannote-weighter\[recipes\]"):
        sticky_hmm(torch.randn(1, 9, 2), 2)


def test_settings_out_of_range():
    frames = torch.randn(1, 9, 2)
    for settings in ({"stay": 1.0}, {"stay": 0.0}, {"weight": 0.0}):
        with pytest.raises(ValueError, match="choose a probability between"):
            sticky_hmm(frames, 2, **settings)
    with pytest.raises(ValueError, match="choose a probability below 1"):
        vbx_loop(frames, 2, loop=1.0)


def test_loop_forward_backward_equals_the_sum_over_all_paths():
    num_frames, num_speakers, loop = 5, 3, 0.7
    scores = 3 * torch.randn(num_frames, num_speakers, dtype=torch.float64)
    prior = torch.rand(num_speakers, dtype=torch.float64)
    prior /= prior.sum()
    gamma, drawn, total = torch.zeros_like(scores), torch.zeros_like(prior), 0.0
    for path in itertools.product(range(num_speakers), repeat=num_frames):
        for draws in itertools.product([True, False], repeat=num_frames - 1):
            weight = prior[path[0]] * scores[0, path[0]].exp()
            for t, draw_anew in enumerate(draws, start=1):
                step = (
                    (1 - loop) * prior[path[t]] if draw_anew else loop * (path[t] == path[t - 1])
                )
                weight = weight * step * scores[t, path[t]].exp()
            total += weight
            for t, speaker in enumerate(path):
                gamma[t, speaker] += weight
                drawn[speaker] += weight * (t == 0 or draws[t - 1])
    result = _loop_forward_backward(scores[None, :, None], prior[None, None], loop)
    torch.testing.assert_close(result[0][0, :, 0], gamma / total)
    torch.testing.assert_close(result[1][0, 0], total.log())
    torch.testing.assert_close(result[2][0, 0], drawn / total)


def slow_vbx(frames, variance, gamma, loop, iterations):
    """One sequence and start, (time, speaker) `gamma`: the equations, without scaling."""
    num_frames, num_speakers = gamma.shape
    features, phi = frames / np.sqrt(variance), 1 / variance
    prior = np.full(num_speakers, 1 / num_speakers)
    for _ in range(iterations):
        scores, bound = np.zeros_like(gamma), 0.0
        for s in range(num_speakers):
            spread = np.full(frames.shape[1], 1 / (1 + phi * gamma[:, s].sum()))
            alpha = spread * np.sqrt(phi) * (gamma[:, s] @ features)
            for t in range(num_frames):
                power = phi * (spread + alpha**2).sum()
                scores[t, s] = np.sqrt(phi) * features[t] @ alpha - power / 2
            bound += (1 + np.log(spread) - spread - alpha**2).sum() / 2
        seen, transition = np.exp(scores), loop * np.eye(num_speakers) + (1 - loop) * prior
        forward, backward = [prior * seen[0]], [np.ones(num_speakers)]
        for t in range(1, num_frames):
            forward.append(forward[-1] @ transition * seen[t])
            backward.insert(0, transition @ (backward[0] * seen[-t]))
        evidence = forward[-1].sum()
        gamma = np.array(forward) * np.array(backward) / evidence
        drawn = gamma[0].copy()
        for t in range(1, num_frames):
            drawn += (1 - loop) * prior * forward[t - 1].sum() * seen[t] * backward[t] / evidence
        prior, bound = drawn / drawn.sum(), bound + np.log(evidence)
    return gamma, bound


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_vbx_equals_a_slow_reference(iterations):
    frames = draw(3, sigma=4.0, num_frames=12, dimension=6, scale=4.0, seed=2).frames.double()
    gamma = torch.rand(2, 12, 2, 3, dtype=torch.float64)
    gamma /= gamma.sum(-1, keepdim=True)
    variance = torch.tensor([1.0, 2.0]).double()
    result, bound = _bayesian_hmm(frames, variance, gamma, 0.8, iterations)
    for index, start in itertools.product(range(2), range(2)):
        expected = slow_vbx(
            frames[index].numpy(),
            variance[index].item(),
            gamma[index, :, start].numpy(),
            0.8,
            iterations,
        )
        np.testing.assert_allclose(result[index, :, start], expected[0], atol=1e-7)
        np.testing.assert_allclose(bound[index, start], expected[1])


def test_vbx_with_a_loop_of_zero_is_the_mixture_of_pyannote():
    frames = draw(3, sigma=3.0, batch=1, seed=2).frames.double()
    variance = noise_variance(frames)
    gamma = torch.rand(1, 200, 2, 3, dtype=torch.float64)
    gamma /= gamma.sum(-1, keepdim=True)
    result, bound = _bayesian_hmm(frames, variance, gamma, loop=0.0, iterations=4)
    features = (frames[0] / variance.sqrt()).numpy()
    constant = (np.square(features).sum() + features.size * np.log(2 * np.pi)) / 2
    for start in range(2):
        first = gamma[0, :, start].numpy()
        between = np.full(32, 1 / variance.item())
        expected, _, bounds = VBx(features, between, pi=3, gamma=first, maxIters=4, epsilon=-1)
        np.testing.assert_allclose(result[0, :, start], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bound[0, start], bounds[-1][0] + constant, atol=1e-3)


def test_the_bound_of_vbx_never_falls():
    frames = draw(3, sigma=5.0, dimension=64).frames.double()
    first = starts(frames, 3, restarts=2, seed=0)
    assert first.shape == (2, 200, 10, 3)
    bounds = torch.stack(
        [
            _bayesian_hmm(frames, noise_variance(frames), first, 0.9, iterations)[1]
            for iterations in range(1, 9)
        ]
    )
    assert (bounds.diff(dim=0) > -1e-6).all()
    assert (bounds[-1] > bounds[0] + 1).all()
