"""VBx, without time as in pyannote.audio and with time as published."""

import contextlib
import io

import numpy as np
import torch
from pyannote.audio.utils.vbx import cluster_vbx
from torch import Tensor

from pyannote_weighter.simulation.rivals.clustering import agglomerative
from pyannote_weighter.simulation.rivals.common import noise_variance, rival, starts

# Least probability of a speaker: one who gets no frame would never come back from zero
_FLOOR = 1e-8

# Sequences that `vbx_loop` treats together, so that memory is bounded
_BLOCK = 32


@rival
def vbx(frames: Tensor, num_speakers: int, seed: int = 0) -> Tensor:
    """VBx of pyannote.audio, which knows no time: a Bayesian mixture of Gaussians.

    As in its pipeline it starts from agglomerative clustering, here with the true number of
    clusters. Frames, in units of their noise, are what PLDA makes of embeddings: variance 1 within
    speakers, and known between them. With this, ``Fa = Fb = 1`` is the model itself, and no other
    choice was clearly better. Nothing is random.
    """
    variance = noise_variance(frames).cpu().numpy()  # (B,)
    first = agglomerative(frames, num_speakers).cpu().numpy()  # (B, T)
    labels = []
    for sequence, noise, label in zip(frames.cpu().numpy(), variance, first, strict=True):
        between = np.full(sequence.shape[1], 1 / noise)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where rounding stops it
            gamma, _ = cluster_vbx(label, sequence / np.sqrt(noise), between, Fa=1.0, Fb=1.0)
        labels.append(gamma.argmax(1))
    return torch.from_numpy(np.stack(labels))


@rival
def vbx_loop(
    frames: Tensor,
    num_speakers: int,
    loop: float = 0.97,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """VBx with its loop probability: the Bayesian hidden Markov model as it was published.

    It keeps distributions of the speakers' vectors where `sticky_hmm` keeps points. Fa and Fb are
    1, as in `vbx`. The run with the highest evidence bound is kept, and each frame is given to its
    most probable speaker.

    Parameters
    ----------
    frames : (batch, time, dimension) tensor
    num_speakers : int
    loop : float, optional
        Probability not to draw a speaker anew in the next frame.
    restarts : int, optional
        Runs from each of the five starts of `sticky_hmm`.
    seed : int, optional

    Returns
    -------
    labels : (batch, time) int64 tensor

    Raises
    ------
    ValueError
        Where `loop` is no probability below one.

    References
    ----------
    F. Landini, J. Profant, M. Diez and L. Burget, "Bayesian HMM clustering of x-vector sequences
    (VBx) in speaker diarization: theory, implementation and analysis on standard tasks", Computer
    Speech and Language 71, 2022.
    """
    if not 0 <= loop < 1:
        raise ValueError(f"loop is {loop}: choose a probability below 1")
    labels = []
    for block in frames.double().split(_BLOCK):
        start = starts(block, num_speakers, restarts, seed)
        gamma, bound = _bayesian_hmm(block, noise_variance(block), start, loop)
        best = bound.argmax(1)  # (B,) of the starts
        labels.append(gamma[torch.arange(len(block)), :, best].argmax(-1))
    return torch.cat(labels)


def _bayesian_hmm(
    frames: Tensor, variance: Tensor, gamma: Tensor, loop: float, iterations: int = 50
) -> tuple[Tensor, Tensor]:
    """Iterate the updates of VBx, for several starts at once.

    Numbers are those of the equations of Landini et al. (2022), with Fa = Fb = 1 and the same
    variance in all dimensions.

    Parameters
    ----------
    frames : (batch, time, dimension) tensor
    variance : (batch,) tensor
        That of the noise; between speakers it is 1.
    gamma : (batch, time, start, speaker) tensor
        Responsibilities to start from.
    loop : float
    iterations : int
        At most. It ends where no bound gains 0.1.

    Returns
    -------
    gamma : (batch, time, start, speaker) tensor
    bound : (batch, start) tensor
        Lower bound of the evidence, without the terms that depend on the frames alone.
    """
    batch, num_frames, dimension = frames.shape
    phi = 1 / variance.view(-1, 1, 1)
    rho = frames * phi  # (18), of frames in units of their noise
    prior = gamma.new_full((batch, *gamma.shape[2:]), 1 / gamma.shape[-1])  # (B, R, K)
    bound = torch.full(prior.shape[:2], -torch.inf).to(gamma)
    for _ in range(iterations):
        weights = gamma.flatten(2)  # (B, T, R K)
        spread = 1 / (1 + weights.sum(1).unsqueeze(-1) * phi)  # (17): (B, R K, 1)
        alpha = spread * (weights.mT @ rho)  # (16): (B, R K, d)
        power = dimension * spread + alpha.square().sum(-1, keepdim=True)
        scores = (rho @ alpha.mT - (phi * power / 2).mT).view_as(gamma)  # (23)
        gamma, evidence, drawn = _loop_forward_backward(scores, prior, loop)
        gain = (dimension * (spread.log() + 1) - power).view_as(prior).sum(-1) / 2
        previous, bound = bound, evidence + gain  # (25)
        prior = (drawn / drawn.sum(-1, keepdim=True)).clamp(min=_FLOOR)  # (24)
        if (bound - previous).max() < 0.1:
            break
    return gamma, bound


def _loop_forward_backward(
    scores: Tensor, prior: Tensor, loop: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors of a chain that goes on with probability `loop`, or else draws from `prior`.

    The same speaker may be drawn again. With this one number, a step costs as much as there are
    speakers, not their square.

    Parameters
    ----------
    scores : (batch, time, start, speaker) tensor
        Log-likelihoods.
    prior : (batch, start, speaker) tensor
    loop : float

    Returns
    -------
    gamma : (batch, time, start, speaker) tensor
        Posteriors.
    evidence : (batch, start) tensor
        Log-likelihood of all frames.
    drawn : (batch, start, speaker) tensor
        How often each speaker is expected to have been drawn, the first frame included.
    """
    top = scores.amax(-1, keepdim=True)
    likelihood = (scores - top).exp().transpose(0, 1).contiguous()  # (T, B, R, K)
    fresh = (1 - loop) * prior
    predicted, filtered, total = [prior], [], []
    for seen in likelihood:
        state = predicted[-1] * seen
        total.append(state.sum(-1, keepdim=True))
        filtered.append(state / total[-1])
        predicted.append(torch.add(fresh, filtered[-1], alpha=loop))
    ahead = [torch.ones_like(prior)]
    for seen in likelihood[1:].flip(0):
        state = ahead[-1] * seen
        state = torch.add((fresh * state).sum(-1, keepdim=True), state, alpha=loop)
        ahead.append(state / state.sum(-1, keepdim=True))
    gamma = torch.stack(filtered) * torch.stack(ahead[::-1])
    gamma = gamma / gamma.sum(-1, keepdim=True)
    evidence = torch.stack(total).log().sum((0, -1)) + top.sum((1, -1))
    drawn = gamma[0] + (gamma[1:] * fresh / torch.stack(predicted[1:-1])).sum(0)
    return gamma.transpose(0, 1), evidence, drawn
