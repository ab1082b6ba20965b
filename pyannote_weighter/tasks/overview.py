"""A first look at files, whole: who is where in them, before anybody is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.impostors import LEAST_SECONDS, backbone_offset
from pyannote_weighter.likeness import Likeness
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.models.weighter import Weighted
from pyannote_weighter.prototypes import STRANGERS, Prototypes

TICK = 1.0  # seconds, about, in which it is told who speaks
HEARD = 1.0, 0.1  # seconds, and share of a crop, of which a speaker has the less in each with them


class Window(NamedTuple):
    """What is kept of a window of a file.

    Attributes
    ----------
    embeddings : (N, D) tensor
        Of its slots.
    unprojected : (N, D') tensor
        The same before the projection of the Weighter.
    confidence : (N,) tensor
    seconds : (s, N) tensor
        Speech of each slot in each tick.
    """

    embeddings: Tensor
    unprojected: Tensor
    confidence: Tensor
    seconds: Tensor


class Overview(NamedTuple):
    """Who is where in a file.

    Attributes
    ----------
    embeddings : (N, D) tensor
    share : (N,) tensor
        Of the speech of the file.
    until : (S + 1, N) tensor
        Speech of each, in seconds, until each tick of the file.
    """

    embeddings: Tensor
    share: Tensor
    until: Tensor


def frames_per_tick(step: float, most: int) -> int:
    """Frames of a tick, where frames are `step` seconds apart and windows have `most` of them."""
    return min(most, max(1, round(TICK / step)))


def cut_ticks(num_frames: int, most: int, tick: int) -> list[tuple[int, int]]:
    """First frame and end of windows of about equal length, none longer than `most` frames.

    All but the last one are of whole ticks of so many frames, at most `most`.
    """
    length = max(1, num_frames)
    if num_frames > most:
        ticks, longest = -(-num_frames // tick), most // tick
        length = -(-ticks // -(-ticks // longest)) * tick
    starts = range(0, max(1, num_frames), length)
    return [(first, min(first + length, num_frames)) for first in starts]


def summarize_window(weighted: Weighted, step: float, tick: int) -> Window:
    """Keep what `overviews` needs of a window of one file, see `frames_per_tick`."""
    x = weighted.weightings[0]  # (t, N)
    x = F.pad(x, (0, 0, 0, -len(x) % tick))
    return Window(
        weighted.embeddings[0].cpu(),
        weighted.encoded.embeddings[-1][0].cpu(),
        weighted.confidence[0].cpu(),
        x.unflatten(0, (-1, tick)).sum(dim=1).cpu() * step,
    )


def overviews(files: Sequence[Sequence[Window]]) -> Iterator[Overview]:
    """Put the slots of the windows of each file together.

    Slots of a file of one window stay as they are; those of several are linked by the embeddings
    of the backbone alone: their cosines before any training are compared with those that linking
    was fitted to (`pyannote_weighter.impostors`).

    Parameters
    ----------
    files : list of lists of Window

    Yields
    ------
    overview : Overview
        Of each file. The embedding of linked slots is the mean, weighted by seconds, of their
        directions.
    """
    likeness = None
    if any(len(windows) > 1 for windows in files):
        likeness = Likeness(offset=_offset(files))
    for windows in files:
        seconds = torch.cat([w.seconds for w in windows])  # (S, N)
        held = torch.cat([w.seconds.sum(dim=0) for w in windows])  # (M,)
        embeddings = torch.cat([w.embeddings for w in windows])
        if len(windows) > 1:
            slots = Slots(
                [w.seconds.numpy() for w in windows],
                torch.cat([w.unprojected for w in windows]).numpy(),
                torch.cat([w.confidence for w in windows]).numpy(),
                held.numpy(),
            )
            group_of = slots.assign(
                threshold=0.0, merge=PARAMETERS["merge"], min_duration=0.0, likeness=likeness
            )
            groups = slots.join(group_of)
            some = np.flatnonzero(group_of >= 0)
            member = F.one_hot(torch.from_numpy(group_of[some]), groups.number).float()  # (M', K)
            embeddings = (member * held[some, None]).T @ F.normalize(embeddings[some], dim=-1)
            held = member.T @ held[some]
            seconds = torch.from_numpy(groups.spread())
        until = F.pad(seconds.double().cumsum(dim=0), (0, 0, 1, 0)).float()
        yield Overview(embeddings, held / held.sum().clamp_min(1e-6), until)


def _offset(files: Sequence[Sequence[Window]]) -> float:
    """Offset of `Likeness` for the embeddings of the backbone in these files."""
    embeddings, number = [], []
    for index, window in ((i, w) for i, windows in enumerate(files) for w in windows):
        kept = window.seconds.sum(dim=0) >= LEAST_SECONDS
        embeddings.append(window.unprojected[kept])
        number += [index] * int(kept.sum())
    return backbone_offset(torch.cat(embeddings).numpy(), np.array(number))


def speech_of_likes(
    overview: Overview, likes: Tensor, slots: Tensor, prototypes: Prototypes
) -> Tensor:
    """Speech of each like, in seconds, until each tick of a file.

    A like has its own slot, and those without a like that sound like it, more than by chance and
    more than like any other like of the file.

    Parameters
    ----------
    overview : Overview
    likes : (L,) long tensor
        Speakers.
    slots : (L,) long tensor
        Slot of each like, -1 for none.
    prototypes : Prototypes

    Returns
    -------
    until : (S + 1, L) tensor
    """
    if not len(likes):
        return overview.until[:, :0]
    cosine = F.normalize(overview.embeddings, dim=-1) @ prototypes.vectors[likes].T  # (N, L)
    least = max(prototypes.by_chance, STRANGERS)  # nobody tells where all are liked everywhere
    belongs = F.one_hot(cosine.argmax(dim=1), len(likes)).bool() & (cosine > least)
    given = slots >= 0
    belongs[slots[given]] = False
    belongs[slots[given], given.nonzero()[:, 0]] = True
    return overview.until @ belongs.float()


def heard_in(until: Tensor, step: float, tick: int, start: int, num_frames: int) -> Tensor:
    """Tell who speaks in a crop.

    Parameters
    ----------
    until : (S + 1, N) tensor
        See `Overview`.
    step : float
        Seconds between frames.
    tick : int
        See `frames_per_tick`.
    start, num_frames : int
        First frame of the crop, and how many there are.

    Returns
    -------
    heard : (N,) bool tensor
    """
    last = len(until) - 1
    stop = min(-(-(start + num_frames) // tick), last)
    seconds, share = HEARD
    return until[stop] - until[min(start // tick, last)] >= min(seconds, share * num_frames * step)
