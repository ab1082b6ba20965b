"""The slot model whose rounds take their own echoes away."""

import math

import pytest
import torch

from pyannote_weighter.models.encoders.markov import MarkovRefiner, noise_level
from pyannote_weighter.models.encoders.message import COEFFICIENTS, MessageRefiner
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors


def draw(batch=4, seed=0, **recipe):
    recipe = {"dimension": 32, "num_frames": 400, "sigma": 3.0} | recipe
    return RandomWalkVectors(**recipe).draw(batch, torch.Generator().manual_seed(seed))


def test_a_round_is_the_plain_formula_of_a_loop():
    T, N, D = 12, 3, 4
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    z, posterior, memory = random(1, T, D), random(1, T, N).softmax(-1), random(1, N, D)
    sigma = torch.tensor([2.0], dtype=torch.float64)
    model = MessageRefiner().double()
    with torch.no_grad():
        for parameter in (*(getattr(model, name) for name in COEFFICIENTS), model.slopes):
            parameter.copy_(0.3 + 0.2 * random(*parameter.shape))
    found, means = model.step(z, z.square().sum(-1, keepdim=True), posterior, sigma, 1, memory)
    x, q, v = z[0], posterior[0], memory[0]
    temperature, spread, own_share, uncertainty, onsager, overlap = (
        float(getattr(model, name)[1] + model.slopes[row, 1] * math.log(3 / 2))
        for row, name in enumerate(COEFFICIENTS)
    )
    overlap = 1 / (1 + math.exp(-overlap))

    moving, precision = torch.zeros(N, N).double(), torch.zeros(N, N).double()
    for a in range(N):
        precision[a, a] += sigma[0] ** 2 / math.exp(spread)
        for b in range(N):
            for t in range(T):
                # the derivative of the posterior with respect to its own scores
                moving[a, b] += q[t, a] * (float(a == b) - q[t, b])
                precision[a, b] += overlap * q[t, a] * q[t, b]
                precision[a, b] += (1 - overlap) * q[t, a] * float(a == b)
    covariance = precision.inverse()
    expected = covariance @ (sum(q[t, :, None] * x[t] for t in range(T)) - onsager * moving @ v)
    torch.testing.assert_close(means[0], expected)
    for t in range(T):
        for n in range(N):
            own = own_share * x[t].square().sum() * (covariance[n] @ q[t])
            squared = expected[n].square().sum() + uncertainty * D * covariance[n, n]
            score = math.exp(temperature) * (x[t] @ expected[n] - own - squared / 2)
            torch.testing.assert_close(found[0, t, n], score)


def test_what_moves_is_the_derivative_of_posteriors_under_the_chain_too():
    scores = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(1)).double()
    model = MessageRefiner().double().eval()
    scores.requires_grad_()
    posterior, _ = model.assign(scores)
    for t in range(7):
        for n in range(3):
            (gradient,) = torch.autograd.grad(posterior[0, t, n], scores, retain_graph=True)
            q = posterior[0, t].detach()
            expected = q[n] * ((torch.arange(3) == n).double() - q)
            torch.testing.assert_close(gradient[0, t], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_speakers", [1, 2, 3, 5])
def test_easy_vectors_are_separated_before_any_training(num_speakers):
    sequences = draw(num_speakers=num_speakers, sigma=0.5, num_frames=600, scale=20)
    heard = sequences.active.any(1).sum(1) == num_speakers
    refined = MessageRefiner().eval()(sequences.frames, num_speakers)
    labels = refined.weightings[-1].argmax(-1)
    assert heard.any()
    assert accuracy(labels, sequences.speaker)[heard].mean() > 0.97
    torch.testing.assert_close(refined.weightings[-1].sum(-1), torch.ones(4, 600))


def test_in_many_dimensions_rounds_that_remember_are_ahead():
    sequences = draw(batch=24, dimension=256, num_frames=500, scale=30, num_speakers=3, sigma=9.0)

    def share(model):
        labels = model.eval()(sequences.frames, 3).weightings[-1].argmax(-1)
        return accuracy(labels, sequences.speaker).mean()

    forgetful = MessageRefiner()
    with torch.no_grad():
        forgetful.onsager.zero_()
        forgetful.slopes[list(COEFFICIENTS).index("onsager")] = 0.0
    assert share(MessageRefiner()) > share(forgetful) + 0.008
    assert share(MessageRefiner()) > share(MarkovRefiner()) + 0.01


def without_habits() -> MessageRefiner:
    """Slots are alike whatever is heard."""
    model = MessageRefiner().eval()
    with torch.no_grad():
        model.log_follow.fill_(20.0)
        model.log_rate.fill_(20.0)
    return model


def test_who_follows_whom_is_learned_from_the_file():
    """The walk goes to neighbours only."""
    sequences = draw(batch=24, num_speakers=5, dimension=16, num_frames=1000, scale=30, sigma=2.3)
    refined = MessageRefiner().eval()(sequences.frames, 5)
    plain = without_habits()(sequences.frames, 5)
    found = accuracy(refined.weightings[-1].argmax(-1), sequences.speaker).mean()
    alike = accuracy(plain.weightings[-1].argmax(-1), sequences.speaker).mean()
    assert found > alike + 0.01

    easy = draw(num_speakers=5, dimension=64, num_frames=3000, scale=20, sigma=1.0)
    refined = MessageRefiner().eval()(easy.frames, 5)
    follow, rate = refined.habits
    torch.testing.assert_close(follow.sum(-1), torch.ones(4, 5))
    assert not follow.diagonal(dim1=1, dim2=2).any() and (rate > 0).all()
    for file, weighting in enumerate(refined.weightings[-1]):
        speaker = (weighting.T @ easy.active[file].float()).argmax(-1)  # of each slot
        apart = (speaker[:, None] - speaker).abs()
        neighbours = (follow[file] * (apart == 1)).sum(-1)
        assert neighbours.min() > 0.9


def test_speakers_who_speak_seldom_are_heard_out():
    sequences = draw(batch=48, dimension=64, num_frames=1000, scale=30, sigma=14.0)
    uneven = sequences.active.float().mean(1).amax(-1) > 0.8
    frames, speaker = sequences.frames[uneven], sequences.speaker[uneven]
    assert len(frames) > 5
    found, alike = (
        accuracy(model(frames, 2).weightings[-1].argmax(-1), speaker).mean()
        for model in (MessageRefiner().eval(), without_habits())
    )
    assert found > alike + 0.01


def test_one_slot_has_no_habits():
    refined = MessageRefiner().eval()(draw().frames, 1)
    assert refined.habits is None


def test_rotation_changes_nothing_and_a_shift_does():
    sequences = draw(sigma=6.0)
    model = MessageRefiner().eval()
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(3)))[0]
    plain = model(sequences.frames, 2).weightings[-1]
    moved = model(sequences.frames @ rotation, 2).weightings[-1]
    turned = moved.flip(-1) if (moved - plain).abs().mean() > 0.2 else moved  # names of slots
    torch.testing.assert_close(turned, plain, atol=0.01, rtol=0)
    shifted = model(sequences.frames + 7.0, 2).weightings[-1]
    assert not torch.allclose(shifted, plain, atol=1e-3)


def test_long_sequences_in_windows_are_as_in_one_piece():
    sequences = draw(batch=1, num_frames=5000, sigma=5.0, scale=20)
    whole = MessageRefiner(window=10_000).eval()(sequences.frames, 2).weightings[-1]
    cut = MessageRefiner(window=1000).eval()(sequences.frames, 2).weightings[-1]
    torch.testing.assert_close(cut, whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 10, 1000])
@pytest.mark.parametrize("num_slots", [1, 3, 16])
def test_very_short_and_constant_sequences_are_finite(num_frames, num_slots):
    model = MessageRefiner(num_rounds=3)
    with torch.no_grad():
        model.overlap.fill_(30.0)  # the precision has nothing but overlaps and the prior
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, num_frames, 4, generator=generator)
    for frames in (noise, torch.zeros(2, num_frames, 4), torch.full((2, num_frames, 4), 3.0)):
        refined = model(frames, num_slots)
        assert refined.weightings[-1].isfinite().all()
        sum(x.square().sum() for x in refined.weightings).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_rounds_go_on_from_weightings_that_are_given():
    sequences = draw(sigma=6.0)
    model = MessageRefiner().eval()
    first = model(sequences.frames, 2)
    again = model(sequences.frames, 2, start=first.weightings[-1], num_rounds=9)
    assert accuracy(
        again.weightings[-1].argmax(-1), first.weightings[-1].argmax(-1)
    ).mean() == pytest.approx(1, abs=0.03)
    assert len(again.weightings) == 9


def test_frames_are_divided_by_the_noise_alone():
    sequences = draw(sigma=5.0)
    z, center, sigma = MessageRefiner().standardize(sequences.frames)
    torch.testing.assert_close(sigma, noise_level(sequences.frames))
    torch.testing.assert_close(z, sequences.frames / sigma[:, None, None])
    assert center.shape == (4, 1, 32) and not center.any()
