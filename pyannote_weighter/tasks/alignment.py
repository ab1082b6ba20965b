"""Where in a file its likes are: forced alignment by the prototypes of the liked speakers.

A like says who, not when. But a training speaker has a prototype, learned from all files where the
speaker is liked, and a file names the few prototypes that its speech can come from. Windows of
time are therefore given to the likes of their file with little doubt, although nobody labelled
them, and the weightings can be told, window by window, what to agree with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.matching import EPSILON, assign
from pyannote_weighter.weighting import full_precision


@torch.no_grad()
def align_likes(
    windows: Tensor,
    prototypes: Tensor,
    weights: Tensor | None = None,
    smoothing: int = 7,
    scale: float = 20.0,
    least_cosine: float = 0.25,
) -> Tensor:
    """Posterior of each like of a file, and of somebody else, in each window.

    Parameters
    ----------
    windows : (S, D) tensor
        Embeddings of short windows.
    prototypes : (L, D) tensor
        Of the likes of the file.
    weights : (S,) tensor, optional
        How much each window counts in the average: 0 on padding. Defaults to ones.
    smoothing : int, optional
        Windows over which the cosines are averaged, odd.
    scale : float, optional
        Cosine times scale is the log-likelihood.
    least_cosine : float, optional
        What somebody who is not liked (or noise) is taken to have.

    Returns
    -------
    posteriors : (S, L + 1) tensor
        The last one is that of somebody else.
    """
    cosine = F.normalize(windows, dim=-1) @ F.normalize(prototypes, dim=-1).T  # (S, L)
    weights = windows.new_ones(len(windows)) if weights is None else weights
    near = {"kernel_size": smoothing, "stride": 1, "padding": smoothing // 2}
    held = F.avg_pool1d(weights[None], **near)[0]  # (S,)
    cosine = F.avg_pool1d(cosine.T * weights, **near).T / held.clamp_min(1e-6)[:, None]
    cosine = F.pad(cosine, (0, 1), value=least_cosine)
    return (scale * cosine).softmax(dim=-1)


@torch.no_grad()
def owners(shared: Tensor) -> tuple[Tensor, Tensor]:
    """Give slots to speakers: one to one, and what is left where it shares most.

    Parameters
    ----------
    shared : (N, K) tensor
        Time that slots share with speakers; K is at least 1.

    Returns
    -------
    groups : (N, K) tensor
        One-hot rows. Every speaker has a slot while there are enough slots.
    spare : (N,) tensor
        1 for slots that were left, 0 for those that were given one to one.
    """
    owner = shared.argmax(dim=1)  # (N,)
    slots, speakers = assign(-shared)
    owner[slots] = speakers
    spare = torch.ones_like(shared[:, 0])
    spare[slots] = 0.0
    return F.one_hot(owner, shared.shape[1]).to(shared.dtype), spare


def alignment_loss(
    rounds: Sequence[Tensor],
    windows: Tensor,
    single: Tensor,
    prototypes: Tensor,
    likes: Sequence[Tensor | None],
) -> Tensor:
    """Cross-entropy between weightings and aligned likes.

    Each like is given to the slot of the last round that shares most time with it (Hungarian
    algorithm), and each slot that is left to the like, or the somebody else, with which it shares
    most: a speaker may hold several slots, which `linking` joins later, but a slot should hold one
    speaker. Windows of somebody else belong to the slots of somebody else, where there are any.
    Only windows where one speaker talks alone count.

    Parameters
    ----------
    rounds : list of (B, S, N) tensors
        Weightings after each round.
    windows : (B, S, D) tensor
    single : (B, S) tensor
        Probability that one speaker talks alone, 0 on padding.
    prototypes : (K, D) tensor
    likes : list of (L,) long tensors, or None
        None, or an empty tensor: the file contributes nothing.

    Returns
    -------
    losses : (rounds,) tensor
        Mean over the files that have likes; zeros where none has.
    """
    losses, num_files = torch.zeros(len(rounds), device=windows.device), 0
    for index, speakers in enumerate(likes):
        if speakers is None or not len(speakers):
            continue
        posteriors = align_likes(
            windows[index], prototypes[speakers], weights=single[index]
        )  # (S, L + 1)
        posteriors = posteriors * single[index][:, None]
        if posteriors[:, :-1].sum() < 0.01 * posteriors.sum() + EPSILON:
            continue
        weightings = full_precision(torch.stack([w[index] for w in rounds]))  # (rounds, S, N)
        with torch.autocast(windows.device.type, enabled=False):
            shared = weightings[-1].detach().T @ full_precision(posteriors)  # (N, L + 1)
        groups, spare = owners(shared[:, :-1])  # (N, L), (N,)
        other = spare * (shared.argmax(dim=1) == len(speakers))  # (N,)
        groups = torch.cat([groups * (1 - other)[:, None], other[:, None]], dim=1)
        if not other.any():  # windows of somebody else cannot be anywhere
            posteriors[:, -1] = 0.0
        with torch.autocast(windows.device.type, enabled=False):  # gradients of logs are large
            logs = torch.stack([(w @ groups + 1e-4).log() for w in weightings])
        losses = losses - (posteriors * logs).sum(dim=(1, 2)) / posteriors.sum()  # (rounds,)
        num_files += 1
    return losses / max(1, num_files)
