"""Weightings against what is known of a file beside likes: who spoke when, and how many spoke."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.tasks.alignment import owners
from pyannote_weighter.weighting import full_precision

EPSILON = 1e-4
"""Added inside the logarithm of weightings, as in `alignment`."""


def to_steps(reference: Tensor, annotated: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Average a reference over the steps of an encoder.

    Parameters
    ----------
    reference : (T, K) bool tensor
    annotated : (T,) bool tensor
    step : int
        Frames in a step.

    Returns
    -------
    share : (S, K) tensor
        Share of the annotated frames of each of ceil(T / step) steps in which a speaker talks.
    known : (S,) tensor
        Share of a step (of `step` frames) that is annotated.
    """
    values = torch.cat([reference & annotated[:, None], annotated[:, None]], dim=1).float()
    values = F.pad(values, (0, 0, 0, -len(values) % step))
    values = values.unflatten(0, (-1, step)).mean(dim=1)  # (S, K + 1)
    share, known = values[:, :-1], values[:, -1]
    return share / known.clamp_min(1e-6)[:, None], known


def reference_loss(
    rounds: Sequence[Tensor],
    references: Sequence[Tensor | None],
    annotated: Sequence[Tensor | None],
    step: int,
) -> Tensor:
    """Divergence between weightings and references.

    With y the share of a step in which a speaker talks and x the sum of the weightings of the
    slots that belong to the speaker, the mean over steps of

        sum_speakers (y ln(y / x) - y + x) + sum_spare X

    the generalised Kullback-Leibler divergence, and what spare slots hold. Where one speaker talks
    and weightings sum to one over slots, the first is cross-entropy; it holds for overlap, for
    silence, and for weightings that do not sum to one as well. Slots are given to speakers as in
    `alignment`: one to one by the Hungarian algorithm on the time that they share in the last
    round, and each spare slot that is left to the speaker with whom it shares most. A speaker may
    hold several slots, then, but pays for it: without that price weightings spread over all slots
    until none is confident. Unlike in a one-to-one loss the price is bounded, so that little is
    lost where the assignment is wrong.

    Parameters
    ----------
    rounds : list of (B, S, N) tensors
        Weightings after each round.
    references : list of (T, K) bool tensors, or None
        Of each file, at frame rate.
    annotated : list of (T,) bool tensors, or None
        Where the reference says something.
    step : int
        Frames in a step of the weightings.

    Returns
    -------
    losses : (rounds,) tensor
        In nats, mean over the files that have references; zeros where none has.
    """
    losses, num_files = torch.stack([0.0 * w.sum() for w in rounds]), 0
    for index, reference in enumerate(references):
        if reference is None or not annotated[index].any():
            continue
        y, known = to_steps(reference, annotated[index], step)
        y, known = y.to(losses.device), known.to(losses.device)  # (S, K), (S,)
        x = full_precision(torch.stack([w[index, : len(y)] for w in rounds]))  # (rounds, S, N)
        divergence = x.sum(dim=-1) - y.sum(dim=-1)  # (rounds, S)
        if y.shape[1]:
            with torch.autocast(x.device.type, enabled=False):  # gradients of logs are large
                shared = x[-1].detach().T @ (y * known[:, None])  # (N, K)
                groups, spare = owners(shared)
                claimed, unclaimed = x @ groups, x @ spare  # (rounds, S, K), (rounds, S)
            entropy = torch.xlogy(y, y) - y * (claimed + EPSILON).log()
            divergence = divergence + entropy.sum(dim=-1) + unclaimed
        losses = losses + (divergence * known).sum(dim=1) / known.sum()
        num_files += 1
    return losses / max(1, num_files)


def count_loss(
    rounds: Sequence[Tensor],
    num_speakers: Sequence[int | None],
    likes: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Share of the speech that slots hold beyond as many as there are speakers.

    With at most K speakers in a file, the K slots that hold most time may hold all of it.

    Parameters
    ----------
    rounds : list of (B, S, N) tensors
        Weightings after each round.
    num_speakers : list of int, or None
        Most speakers that each file can have, None where that is not known.
    likes : list of (L,) tensors, or None
        As many different people are there at least, whatever `num_speakers` says.

    Returns
    -------
    losses : (rounds,) tensor
        Between 0 and 1, mean over the files where the number is known; zeros where none is.
    """
    mass = torch.stack([w.sum(dim=1) for w in rounds])  # (rounds, B, N)
    share = mass / mass.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    share = share.sort(dim=-1, descending=True).values
    num_slots = share.shape[-1]
    bounds = [num_slots if number is None else number for number in num_speakers]
    if likes is not None:
        bounds = [
            bound if liked is None else max(bound, len(liked))
            for bound, liked in zip(bounds, likes, strict=True)
        ]
    bounds = torch.tensor(bounds, device=share.device)
    beyond = torch.arange(num_slots, device=share.device) >= bounds[:, None]  # (B, N)
    num_files = sum(number is not None for number in num_speakers)
    return (share * beyond).sum(dim=(1, 2)) / max(1, num_files)
