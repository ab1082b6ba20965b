"""A first look at files, whole: who is where in them, before anybody is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.impostors import USUAL
from pyannote_weighter.likeness import Likeness
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.models.weighter import Weighted

HEARD = 1.0  # seconds of a speaker in a crop that make it one with the speaker


class Overview(NamedTuple):
    """Who is where in a file.

    Attributes
    ----------
    embeddings : (N, D) tensor
    share : (N,) tensor
        Of the speech of the file.
    seconds : (S + 1, N) tensor
        Speech of each until each second of the file.
    """

    embeddings: Tensor
    share: Tensor
    seconds: Tensor


def overview(windows: Sequence[Weighted], step: float) -> Overview:
    """Put the slots of consecutive windows of a file together.

    Slots of one window stay as they are; those of several are linked as a pipeline would link
    them, by the embeddings of the backbone, whose cosines are known before any training.

    Parameters
    ----------
    windows : list of Weighted
        Of one file each.
    step : float
        Seconds between frames.

    Returns
    -------
    overview : Overview
        Of a group of slots, the embedding is the mean, weighted by seconds, of their directions.
    """
    parts = [w.weightings[0].cpu().numpy() for w in windows]  # (t, N)
    embeddings = torch.cat([w.embeddings[0].cpu() for w in windows])  # (M, D)
    held = torch.cat([w.weightings[0].sum(dim=0).cpu() for w in windows]) * step
    if len(windows) == 1:
        whole = parts[0]
    else:
        slots = Slots(
            parts,
            torch.cat([w.encoded.embeddings[-1][0].cpu() for w in windows]).numpy(),
            torch.cat([w.confidence[0].cpu() for w in windows]).numpy(),
            held.numpy(),
        )
        group_of = slots.assign(
            threshold=0.0,
            merge=PARAMETERS["merge"],
            min_duration=0.0,
            likeness=Likeness(offset=USUAL),
        )
        groups = slots.join(group_of)
        some = np.flatnonzero(group_of >= 0)
        member = F.one_hot(torch.from_numpy(group_of[some]), groups.number).float()  # (M', K)
        embeddings = (member * held[some, None]).T @ F.normalize(embeddings[some], dim=-1)
        held = member.T @ held[some]
        whole = groups.spread()
    starts = np.arange(0, len(whole), frames_per_second(step))
    seconds = np.add.reduceat(whole, starts, axis=0).cumsum(axis=0, dtype=np.float64) * step
    seconds = torch.from_numpy(np.concatenate([np.zeros_like(seconds[:1]), seconds])).float()
    return Overview(embeddings, held / held.sum().clamp_min(1e-6), seconds)


def pieces(lengths: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """Pieces of files in an epoch: about as many as it takes to see all of each file once.

    Parameters
    ----------
    lengths : list of int
        Frames of each file.
    most : int
        Frames of the longest piece.

    Returns
    -------
    pieces : list of (file, number, how many of the file)
    """
    return [
        (file, number, many)
        for file, length in enumerate(lengths)
        for many in [max(1, round(length / most))]
        for number in range(many)
    ]


def speech_of_likes(
    found: Overview, likes: Tensor, slots: Tensor, prototypes: Tensor, least: float
) -> Tensor:
    """Speech of each like until each second of a file.

    A like has its own slot, and those that no like has and that sound like it most.

    Parameters
    ----------
    found : Overview
    likes : (L,) long tensor
        Speakers.
    slots : (L,) long tensor
        Slot of each like, -1 for none.
    prototypes : (K, D) tensor
        Unit vectors.
    least : float
        Cosine from which a slot without a like sounds like a speaker.

    Returns
    -------
    seconds : (S + 1, L) tensor
    """
    if not len(likes):
        return found.seconds[:, :0]
    cosine = F.normalize(found.embeddings, dim=-1) @ prototypes[likes].T  # (N, L)
    belongs = F.one_hot(cosine.argmax(dim=1), len(likes)).bool() & (cosine > least)
    given = slots >= 0
    belongs[slots[given]] = False
    belongs[slots[given], given.nonzero()[:, 0]] = True
    return found.seconds @ belongs.float()


def heard_in(seconds: Tensor, step: float, start: int, num_frames: int) -> Tensor:
    """(N,) bool tensor: who speaks in a crop, of seconds (S + 1, N) and frames."""
    per_second = frames_per_second(step)
    last = len(seconds) - 1
    until = min(-(-(start + num_frames) // per_second), last)
    return seconds[until] - seconds[min(start // per_second, last)] >= HEARD


def frames_per_second(step: float) -> int:
    """Frames of `step` seconds in what is called a second here: a whole number of them."""
    return max(1, round(1 / step))
