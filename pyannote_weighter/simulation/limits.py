"""How well anybody can do: posteriors of who speaks when, given the recipe of the simulation.

Each limit knows more than the one before, or less in one named respect:

- `known_means`: the vectors of the speakers, nothing about time;
- `known_means_hmm`: and how often speakers switch, as a Markov chain from speaker to speaker;
- `known_means_walk`: and that they switch along the random walk. This is the exact posterior: no
  method gets more frames right on average;
- `unknown_means_walk`: the random walk, but not the vectors, which are integrated out. This is the
  ceiling for whoever has to find the vectors in the frames, as every clustering must.

The ceilings are for sequences as they are drawn, and for labels that come with names. Where a
ceiling is low, two things may lie above it: labels named afterwards as suits them best (one name
throughout is then right as often as the most frequent speaker speaks) and, on sequences chosen
for their balance, whoever knows of the choice.

All are for one speaker at a time: `RandomWalkVectors` without overlap and silence. Posteriors are
(batch, time, speaker) and sum to one; the likeliest speaker of a frame is its label. They are
computed in the dtype (float32 or float64) and on the device of the frames.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import stdtr
from torch import Tensor
from torch.nn.functional import one_hot

from pyannote_weighter.simulation.vectors import RandomWalkVectors

# Least probability in a recursion. It keeps products of three above the smallest normal float32:
# below it arithmetic is slow, and a frame that no state explains would give 0/0.
_FLOOR = 1e-12

# Numbers in the largest tensor of a forward-backward pass: 256 MB of float32
_MOST_NUMBERS = 2**26


def known_means_accuracy(dimension: int, sigma: float) -> float:
    """Expected accuracy of `known_means` for two speakers with equal shares, in closed form.

    A frame is told by the side of the plane half way between both vectors that it lies on: right
    with probability Phi(D / (2 sigma)), where D is the distance of the vectors. D is sqrt(2) chi
    with `dimension` degrees of freedom, and the mean of Phi(a chi) over chi is the distribution
    function of Student's t at a sqrt(dimension), by its definition as a ratio.

    Parameters
    ----------
    dimension : int
    sigma : float
        Standard deviation of the noise, per dimension; positive.

    Returns
    -------
    accuracy : float
        Mean over the vectors.
    """
    return float(stdtr(dimension, math.sqrt(dimension / 2) / _positive(sigma, "sigma")))


def known_pair_accuracy(vectors: Tensor, sigma: float) -> Tensor:
    """Expected accuracy of `known_means` for given pairs of vectors with equal shares.

    Parameters
    ----------
    vectors : (..., 2, dimension) tensor
    sigma : float

    Returns
    -------
    accuracy : (...) tensor
    """
    distance = (vectors[..., 0, :] - vectors[..., 1, :]).norm(dim=-1)
    return torch.special.ndtr(distance / (2 * _positive(sigma, "sigma")))


def known_means(
    frames: Tensor, vectors: Tensor, sigma: float, shares: Sequence[float] | None = None
) -> Tensor:
    """Posterior of each frame by itself, the vectors being known.

    Parameters
    ----------
    frames : (batch, time, dimension) tensor
    vectors : (batch, speaker, dimension) tensor
    sigma : float
        Standard deviation of the noise, per dimension; positive.
    shares : sequence of float, optional
        Expected share of time of each speaker. Defaults to equal ones.

    Returns
    -------
    posterior : (batch, time, speaker) tensor
    """
    shares = _widths(vectors.shape[1], shares).to(frames)
    return (_scores(frames, vectors, sigma) + shares.log()).softmax(-1)


def known_means_hmm(
    frames: Tensor,
    vectors: Tensor,
    sigma: float,
    scale: float,
    shares: Sequence[float] | None = None,
    rate: float | None = None,
) -> Tensor:
    """Posterior when speakers switch as a Markov chain, the vectors being known.

    Speakers are in the order of the walk and switch to their neighbours only. The walk crosses a
    border inside the interval when it starts less than its step away from it, on the right side;
    as its position is uniform, with density 1, this happens at a rate of E|step| = sqrt(2/pi) /
    scale a frame, the same at each border and for equal and unequal shares. Half of the crossings
    go up, so that a speaker with share w goes to one neighbour with probability rate / (2 w) a
    frame. With two speakers of equal shares this is the rate itself.

    What the chain does not know is that crossings come in bursts.

    Parameters
    ----------
    frames, vectors, sigma, shares
        As in `known_means`.
    scale : float
        That of the walk.
    rate : float, optional
        Crossings of a border, both ways, a frame. Defaults to those of the walk.

    Raises
    ------
    ValueError
        Where speakers would leave with a probability above one: the walk is too fast.
    """
    chain = _switching(vectors.shape[1], scale, shares, rate)
    return _forward_backward(_scores(frames, vectors, sigma), chain)


def known_means_walk(
    frames: Tensor,
    vectors: Tensor,
    sigma: float,
    scale: float,
    shares: Sequence[float] | None = None,
    bins: float = 8.0,
) -> Tensor:
    """Exact posterior under the random walk, the vectors being known.

    Forward-backward over positions of the walk. Before it is folded by ``|x - 1|``, it walks on a
    circle of length 2 with normal steps, wrapped. The frames do not tell the two halves of
    the circle apart and steps are symmetric, so both halves always have the same posterior: the
    circle folds exactly onto [0, 1] with half the bins and steps that are reflected at its ends.

    Parameters
    ----------
    frames, vectors, sigma, shares
        As in `known_means`.
    scale : float
        That of the walk.
    bins : float, optional
        There are at least ``bins * scale`` bins on the circle (half of them after folding). Each
        speaker's part has a whole number of them.
    """
    chain = _walking(vectors.shape[1], scale, shares, bins)
    return _forward_backward(_scores(frames, vectors, sigma), chain)


def unknown_means_walk(
    frames: Tensor,
    speaker: Tensor,
    num_speakers: int,
    sigma: float,
    scale: float,
    shares: Sequence[float] | None = None,
    *,
    bins: float = 8.0,
    steps: int = 40,
    discard: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Posterior under the random walk with the vectors integrated out, by Gibbs sampling.

    Each step draws vectors given the path (normal, with N(0, I) as their prior), then a path given
    the vectors (forward filtering, backward sampling). The result averages the posteriors given
    the vectors of each step instead of the paths, which has less noise (Rao-Blackwell).

    The chain starts at the true path. Truth and frames are drawn together, so that the truth is
    itself a draw from the posterior and the chain is in equilibrium from its first step: there is
    nothing to burn in. Two errors are left. Steps that still resemble the truth make the result
    too good: the first ones are discarded, but a chain that mixes slowly remains optimistic. Few
    independent steps make it too poor, as their average is noisy where speakers are about equally
    likely. Take more steps until the accuracy no longer moves.

    The posterior does not tell numberings of the speakers apart that the walk makes equally
    likely, so that the chain may exchange speakers where noise is strong. Each step is numbered
    like the truth, as accuracy would number it, before it is averaged: this too can only flatter.

    Parameters
    ----------
    frames, sigma, scale, shares, bins
        As in `known_means_walk`.
    speaker : (batch, time) int64 tensor
        The true path, where the chain starts.
    num_speakers : int
    steps, discard : int, optional
        Steps of the chain, and how many of them, at its start, do not count.
    generator : torch.Generator, optional
        Seeds the chain, on any device. Defaults to torch's global one on the CPU.

    Raises
    ------
    ValueError
        Where a frame has no speaker or several, or no step is left to count.

    References
    ----------
    S. Geman and D. Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian
    restoration of images", IEEE TPAMI 6(6), 1984.
    S. L. Scott, "Bayesian methods for hidden Markov models: recursive computing in the 21st
    century", JASA 97(457), 2002, section 2.
    """
    chain = _walking(num_speakers, scale, shares, bins)
    return _gibbs(frames, speaker, sigma, chain, steps, discard, generator)


class _Chain(NamedTuple):
    """A Markov chain whose states belong to speakers, in the order of the speakers."""

    start: Tensor
    """(state,) probabilities of the first frame; they are also the stationary ones."""
    transition: Tensor
    """(state, state) from row to column; rows sum to one."""
    speaker: Tensor
    """(state,) int64: whose state it is."""

    def to(self, frames: Tensor) -> "_Chain":
        """Copy in the dtype and on the device of the frames."""
        start, transition = self.start.to(frames), self.transition.to(frames)
        return _Chain(start, transition, self.speaker.to(frames.device))


def _switching(
    num_speakers: int, scale: float, shares: Sequence[float] | None, rate: float | None = None
) -> _Chain:
    """A state is a speaker; see `known_means_hmm`."""
    widths = _widths(num_speakers, shares)
    rate = math.sqrt(2 / math.pi) / _positive(scale, "scale") if rate is None else rate
    leave = rate / (2 * widths)
    transition = torch.diag(leave[:-1], 1) + torch.diag(leave[1:], -1)
    stay = 1 - transition.sum(1)
    if rate < 0 or stay.min() < 0:
        raise ValueError(
            f"{rate:.3g} crossings of each border a frame leave a speaker with a probability of "
            f"{1 - stay.min():.3g} a frame: choose a larger scale, or a rate from 0 on that is "
            "smaller"
        )
    return _Chain(widths, transition + torch.diag(stay), torch.arange(num_speakers))


def _walking(
    num_speakers: int, scale: float, shares: Sequence[float] | None, bins: float
) -> _Chain:
    """A state is a bin of [0, 1], and all of them are as wide within one speaker's part."""
    wanted = _positive(scale, "scale") * _positive(bins, "bins") / 2
    parts = _widths(num_speakers, shares)
    counts = (parts * wanted - 1e-9).ceil().long().clamp(min=1)
    speaker = torch.arange(num_speakers).repeat_interleave(counts)
    widths = (parts / counts)[speaker]
    centres = widths.cumsum(0) - widths / 2
    transition = torch.zeros(len(widths), len(widths), dtype=torch.float64)
    turns = math.ceil(4 / scale)  # of the circle, within 8 steps
    for turn in range(-turns, turns + 1):
        for image in (centres, -centres):
            distance = (image + 2 * turn) - centres[:, None]
            transition += widths * torch.exp(-0.5 * (distance * scale) ** 2)
    transition /= transition.sum(1, keepdim=True)
    transition[transition < _FLOOR] = 0.0
    return _Chain(widths, transition / transition.sum(1, keepdim=True), speaker)


def _widths(num_speakers: int, shares: Sequence[float] | None) -> Tensor:
    return RandomWalkVectors(num_speakers, shares=shares).edges.diff()  # (K,) float64


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}: choose a positive number")
    return value


def _scores(frames: Tensor, vectors: Tensor, sigma: float) -> Tensor:
    """Log-likelihood of each speaker, up to a constant a frame."""
    if frames.ndim != 3 or vectors.ndim != 3 or frames.shape[::2] != vectors.shape[::2]:
        raise ValueError(
            f"frames are {tuple(frames.shape)}, vectors are {tuple(vectors.shape)}: need (batch, "
            "time, dimension) and (batch, speaker, dimension)"
        )
    half_power = vectors.square().sum(-1).unsqueeze(1) / 2  # (B, 1, K)
    return (frames @ vectors.mT - half_power) / _positive(sigma, "sigma") ** 2  # (B, T, K)


def _forward_backward(scores: Tensor, chain: _Chain) -> Tensor:
    """Posterior of the speakers, (batch, time, speaker) log-likelihoods to the same shape."""
    chain = chain.to(scores)
    blocks = _likelihood(scores).split(_block(scores, chain))
    return torch.cat([_smooth(_filter(block, chain), block, chain) for block in blocks])


def _block(frames: Tensor, chain: _Chain) -> int:
    """Sequences that are treated together, so that memory is bounded."""
    return max(1, _MOST_NUMBERS // (frames.shape[1] * len(chain.start)))


def _likelihood(scores: Tensor) -> Tensor:
    """Relative to the likeliest speaker of a frame."""
    return (scores - scores.amax(-1, keepdim=True)).exp().clamp(min=_FLOOR)


def _filter(likelihood: Tensor, chain: _Chain) -> Tensor:
    """Probabilities of the states given the frames so far, (time, batch, state)."""
    likelihood = likelihood.transpose(0, 1)  # (T, B, K)
    filtered = likelihood.new_empty(*likelihood.shape[:2], len(chain.start))
    state = chain.start.expand(filtered.shape[1:])
    for t, seen in enumerate(likelihood):
        if t > 0:
            state = filtered[t - 1] @ chain.transition
        state = state * seen[:, chain.speaker]  # (B, S)
        filtered[t] = (state / state.sum(-1, keepdim=True)).clamp_(min=_FLOOR)
    return filtered


def _smooth(filtered: Tensor, likelihood: Tensor, chain: _Chain) -> Tensor:
    """Probabilities of the speakers given all frames, (batch, time, speaker)."""
    likelihood = likelihood.transpose(0, 1)  # (T, B, K)
    backward = chain.transition.T.contiguous()
    members = one_hot(chain.speaker, likelihood.shape[-1]).to(likelihood)  # (S, K)
    posterior = torch.empty_like(likelihood)
    ahead = torch.ones_like(filtered[0])  # (B, S): of the frames to come, given the state
    for t in range(len(filtered) - 1, -1, -1):
        posterior[t] = (filtered[t] * ahead) @ members
        ahead = (ahead * likelihood[t][:, chain.speaker]) @ backward
        ahead = (ahead / ahead.sum(-1, keepdim=True)).clamp_(min=_FLOOR)
    return (posterior / posterior.sum(-1, keepdim=True)).transpose(0, 1)


def _draw_path(filtered: Tensor, chain: _Chain, generator: torch.Generator | None) -> Tensor:
    """Draw who speaks, (batch, time) int64, from the last frame to the first."""
    num_frames, batch, num_states = filtered.shape
    backward = chain.transition.T.contiguous()
    level = _draw(torch.rand, (num_frames, batch, 1), filtered, generator)
    states = torch.empty(num_frames, batch, dtype=torch.int64, device=filtered.device)
    for t in range(num_frames - 1, -1, -1):
        weight = filtered[t] if t == num_frames - 1 else filtered[t] * backward[states[t + 1]]
        total = weight.cumsum(-1)  # (B, S)
        state = torch.searchsorted(total, level[t] * total[:, -1:], right=True)
        states[t] = state.squeeze(-1).clamp(max=num_states - 1)
    return chain.speaker[states].T


def _gibbs(
    frames: Tensor,
    speaker: Tensor,
    sigma: float,
    chain: _Chain,
    steps: int,
    discard: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Vectors integrated out, for any chain; see `unknown_means_walk`."""
    num_speakers = int(chain.speaker[-1]) + 1
    if not 0 <= discard < steps:
        raise ValueError(f"{discard} of {steps} steps are discarded: leave at least one to count")
    if speaker.numel() and not 0 <= speaker.min() <= speaker.max() < num_speakers:
        raise ValueError(
            f"speakers are {int(speaker.min())} to {int(speaker.max())}: need one of "
            f"{num_speakers} in each frame, without overlap and silence"
        )
    chain = chain.to(frames)
    size = _block(frames, chain)
    posteriors = []
    for block, truth in zip(frames.split(size), speaker.split(size), strict=True):
        path, total = truth, 0.0
        for step in range(steps):
            vectors = _draw_vectors(block, one_hot(path, num_speakers), sigma, generator)
            likelihood = _likelihood(_scores(block, vectors, sigma))
            filtered = _filter(likelihood, chain)
            if step >= discard:
                total = total + _number(_smooth(filtered, likelihood, chain), truth)
            path = _draw_path(filtered, chain, generator)
        posteriors.append(total / (steps - discard))
    return torch.cat(posteriors)


def _draw_vectors(
    frames: Tensor, active: Tensor, sigma: float, generator: torch.Generator | None
) -> Tensor:
    """Draw the vectors given who speaks, (batch, speaker, dimension)."""
    active = active.to(frames)  # (B, T, K)
    gain = 1 / (active.sum(1) + sigma**2).unsqueeze(-1)  # (B, K, 1)
    noise = _draw(torch.randn, (*gain.shape[:2], frames.shape[-1]), frames, generator)
    return gain * (active.mT @ frames) + gain.sqrt() * sigma * noise


def _draw(distribution, size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return distribution(size, generator=generator, device=device).to(like)


def _number(posterior: Tensor, truth: Tensor) -> Tensor:
    """Number the speakers of each sequence so that they agree best with the truth."""
    active = one_hot(truth, posterior.shape[-1]).to(posterior)  # (B, T, K)
    agreement = (active.mT @ posterior).double().cpu().numpy()  # (B, K, K)
    order = torch.tensor([linear_sum_assignment(a, maximize=True)[1].tolist() for a in agreement])
    return posterior.gather(2, order.to(truth.device).unsqueeze(1).expand_as(posterior))
