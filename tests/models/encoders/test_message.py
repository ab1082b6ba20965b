"""The slot model whose rounds take their own echoes away."""

import pytest
import torch

from pyannote_weighter.models.encoders.markov import MarkovRefiner, noise_level
from pyannote_weighter.models.encoders.message import MessageRefiner
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors


def draw(batch=4, seed=0, **recipe):
    recipe = {"dimension": 32, "num_frames": 400, "sigma": 3.0} | recipe
    return RandomWalkVectors(**recipe).draw(batch, torch.Generator().manual_seed(seed))


def test_a_round_is_the_plain_formula_of_a_loop():
    T, N, D = 12, 3, 4
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, T, D, generator=generator, dtype=torch.float64)
    posterior = torch.randn(1, T, N, generator=generator, dtype=torch.float64).softmax(-1)
    memory = torch.randn(1, N, D, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([2.0], dtype=torch.float64)
    model = MessageRefiner().double()
    with torch.no_grad():
        model.overlap.fill_(30.0)  # precisions are those of overlaps
        model.uncertainty.fill_(0.5)
        model.slopes.zero_()
    found, means = model.step(z, z.square().sum(-1, keepdim=True), posterior, sigma, 0, memory)
    x, q, v = z[0], posterior[0], memory[0]

    # the derivative of the posteriors with respect to their own scores, frame by frame
    moving, precision = torch.zeros(N, N).double(), torch.diag(sigma.square().expand(N))
    for t in range(T):
        for a in range(N):
            for b in range(N):
                moving[a, b] += q[t, a] * (float(a == b) - q[t, b])
                precision[a, b] += q[t, a] * q[t, b]
    sums = sum(q[t, :, None] * x[t] for t in range(T)) - moving @ v
    covariance = precision.inverse()
    expected_means = covariance @ sums
    torch.testing.assert_close(means[0], expected_means)
    for t in range(T):
        for n in range(N):
            own = x[t].square().sum() * (covariance[n] @ q[t])
            certain = expected_means[n].square().sum() + 0.5 * D * covariance[n, n]
            expected = x[t] @ expected_means[n] - own - certain / 2
            torch.testing.assert_close(found[0, t, n], expected)


def test_what_moves_is_the_derivative_of_the_posteriors():
    scores = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(1)).double()
    jacobian = torch.func.jacrev(lambda s: s.softmax(-1))(scores[0, 0])
    q = scores.softmax(-1)
    torch.testing.assert_close(torch.diag_embed(q.sum(1))[0] - (q.mT @ q)[0], jacobian)


@pytest.mark.parametrize("num_speakers", [1, 2, 3, 5])
def test_easy_vectors_are_separated_before_any_training(num_speakers):
    sequences = draw(num_speakers=num_speakers, sigma=0.5, num_frames=600, scale=20)
    heard = sequences.active.any(1).sum(1) == num_speakers
    refined = MessageRefiner().eval()(sequences.frames, num_speakers)
    labels = refined.weightings[-1].argmax(-1)
    assert heard.any()
    assert accuracy(labels, sequences.speaker)[heard].mean() > 0.97
    torch.testing.assert_close(refined.weightings[-1].sum(-1), torch.ones(4, 600))


def test_in_many_dimensions_it_is_ahead_of_rounds_that_do_not_remember():
    sequences = draw(batch=24, dimension=256, num_frames=500, scale=30, num_speakers=3, sigma=9.0)
    accuracies = {
        kind: accuracy(kind().eval()(sequences.frames, 3).weightings[-1].argmax(-1), truth).mean()
        for truth in [sequences.speaker]
        for kind in (MarkovRefiner, MessageRefiner)
    }
    assert accuracies[MessageRefiner] > accuracies[MarkovRefiner] + 0.02


def test_rotation_changes_nothing_and_a_shift_does():
    sequences = draw(sigma=6.0)
    model = MessageRefiner().eval()
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(3)))[0]
    plain = model(sequences.frames, 2).weightings[-1]
    moved = model(sequences.frames @ rotation, 2).weightings[-1]
    assert accuracy(moved.argmax(-1), plain.argmax(-1)).min() > 0.99
    shifted = model(sequences.frames + 7.0, 2).weightings[-1]
    assert not torch.allclose(shifted, plain, atol=1e-3)


def test_long_sequences_in_windows_are_as_in_one_piece():
    sequences = draw(batch=1, num_frames=5000, sigma=5.0, scale=20)
    whole = MessageRefiner(window=10_000).eval()(sequences.frames, 2).weightings[-1]
    cut = MessageRefiner(window=1000).eval()(sequences.frames, 2).weightings[-1]
    torch.testing.assert_close(cut, whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 10])
def test_very_short_and_constant_sequences_are_finite(num_frames):
    model = MessageRefiner()
    for frames in (torch.randn(2, num_frames, 4), torch.zeros(2, num_frames, 4)):
        refined = model(frames, 3)
        assert refined.weightings[-1].isfinite().all()
        sum(x.square().sum() for x in refined.weightings).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_frames_are_divided_by_the_noise_alone():
    sequences = draw(sigma=5.0)
    z, center, sigma = MessageRefiner().standardize(sequences.frames)
    torch.testing.assert_close(sigma, noise_level(sequences.frames))
    torch.testing.assert_close(z * sigma[:, None, None] + center, sequences.frames)
