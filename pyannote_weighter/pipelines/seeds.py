"""Where slots start: at local speakers of the segmentation, and at stretches unlike them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pyannote.core import SlidingWindow
from torch import Tensor

from pyannote_weighter.likeness import LocalSpeakers, solo_steps
from pyannote_weighter.models import Weighter
from pyannote_weighter.weighting import Summary

NUM_LOCAL = NUM_STRETCHES = 12
NUM_SEEDS = NUM_LOCAL + NUM_STRETCHES
"""Slots of a window of the Weighter, unless many people speak in it."""

MOST_LOCAL = 48
DISTANT = 0.75  # distance, as `far_apart` weighs it, from which a local speaker is one more

LEAST = 0.6  # seconds of solo speech of a local speaker
ENOUGH = 4.0  # seconds from which more solo speech makes an embedding no better
STRETCH, HOP = 1.5, 0.4  # seconds
BATCH = 128  # parts of the recording at a time
ALIKE = 0.98  # cosine above which a seed is none that others are not


def far_apart(
    embeddings: np.ndarray,
    weights: np.ndarray,
    number: int,
    known: np.ndarray | None = None,
    most: int = 0,
) -> list[int]:
    """Choose vectors that are far from each other: greedy, the farthest first.

    Parameters
    ----------
    embeddings : (M, D) array of length one
    weights : (M,) array
        Not negative. The distance of a vector (one minus cosine) counts so many times.
    number : int
        How many at most.
    known : (K, D) array of length one, optional
        Vectors to be far from.
    most : int, optional
        How many at most where distances, so weighted, are at least `DISTANT`.

    Returns
    -------
    chosen : list of int
    """
    chosen: list[int] = []
    closest = np.full(len(embeddings), -1.0)
    if known is not None and len(known) and len(embeddings):
        closest = (embeddings @ known.T).max(axis=1)
    while len(chosen) < min(max(number, most), len(embeddings)):
        # rounded, so that what is alike but for rounding does not depend on batches
        distances = np.round((1 - closest) * weights * 2**12)
        best = int(distances.argmax())
        enough = len(chosen) >= number and distances[best] < DISTANT * 2**12
        if closest[best] > ALIKE or enough:
            break
        chosen.append(best)
        closest = np.maximum(closest, embeddings @ embeddings[best])
    return chosen


def _pad(values: Tensor, first: np.ndarray, length: int) -> Tensor:
    """(S, C) with zeros around it, as far as parts that begin at `first` reach."""
    before, after = max(0, -int(first.min())), max(0, int(first.max()) + length - len(values))
    return F.pad(values, (0, 0, before, after)) if before or after else values


def _cut(values: Tensor, first: np.ndarray, length: int) -> Tensor:
    """(S, C) to (P, length, C), from each first step on; a view where these are evenly spaced."""
    spacing = np.diff(first)
    if len(spacing) and (spacing == spacing[0]).all() and spacing[0] > 0:
        parts = values[first[0] : first[-1] + length].unfold(0, length, int(spacing[0]))
        return parts.transpose(1, 2)
    index = torch.from_numpy(first[:, None] + np.arange(length))
    return values[index.to(values.device)]


def embed_parts(
    weighter: Weighter, summary: Summary, first: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Pool parts of a window of the Weighter that begin anywhere in it.

    Parameters
    ----------
    weighter : Weighter
    summary : Summary
        Of one recording, S steps.
    first : (P,) array of int
        First step of each part; evenly spaced ones are faster.
    weights : (P, S', L) array
        Of its steps, zero outside of the window; L poolings of each.

    Returns
    -------
    embeddings : (P, L, D') array of length one, as the backbone makes them
    """
    embeddings = []
    length = weights.shape[1]
    values = [_pad(v, first, length) for v in (summary.mean[0], summary.power[0], summary.size)]
    first = first - min(0, first.min())
    for start in range(0, len(first), BATCH):
        some = slice(start, start + BATCH)
        part = Summary(summary.center, *(_cut(v, first[some], length) for v in values))
        weighed = torch.from_numpy(weights[some]).to(summary.mean.device)
        embeddings.append(F.normalize(weighter.backbone.embed_summary(part, weighed), dim=-1))
    return torch.cat(embeddings).cpu().numpy()


class Seeds:
    """Where the slots of a window of the Weighter start.

    Some are local speakers of the segmentation that are far from each other, more where there are
    many: with seconds of one voice behind it, an embedding tells people apart, where that of a
    short window is far from all others as often because of noise. Others are short stretches that
    are far from all of these, for whom the segmentation took for somebody else.

    Parameters
    ----------
    weighter : Weighter
    summary : Summary
        Of the window, S steps.
    local : LocalSpeakers
    grid : SlidingWindow
        Steps of the window, in seconds of the recording.
    """

    def __init__(
        self, weighter: Weighter, summary: Summary, local: LocalSpeakers, grid: SlidingWindow
    ):
        self.weighter, self.summary, self.local, self.grid = weighter, summary, local, grid

    def __call__(self, windows: Tensor, single: Tensor) -> Tensor:
        """Find seeds.

        Parameters
        ----------
        windows : (1, S, D') tensor
            Embeddings of short windows around each step.
        single : (1, S) tensor
            Probability that exactly one speaker talks.

        Returns
        -------
        start : (1, S, K) tensor
            Values in [0, 1], zero where nobody starts. K is at least 1, at most `NUM_SEEDS` or,
            where so many voices are far apart, `MOST_LOCAL` and `NUM_STRETCHES`.
        """
        num_steps = windows.shape[1]
        alone = single[0].cpu().numpy()
        first, solo = solo_steps(self.local, self.grid, num_steps)
        seconds = solo.sum(axis=1) * self.grid.step  # (W, L)
        voices = embed_parts(self.weighter, self.summary, first, solo) if len(first) else None
        which = np.argwhere(seconds >= LEAST)  # (M, 2)
        rows = []
        known = None
        if len(which):
            w, m = which.T
            weights = np.sqrt(np.minimum(seconds[w, m], ENOUGH))
            chosen = far_apart(voices[w, m], weights, NUM_LOCAL, most=MOST_LOCAL)
            known = voices[w[chosen], m[chosen]]
            rows += [(first[w[c]], solo[w[c], :, m[c]]) for c in chosen]

        length = round(STRETCH / self.grid.step)
        first = np.arange(0, num_steps, max(1, round(HOP / self.grid.step))) - length // 2
        at = first[:, None] + np.arange(length)  # (M, S')
        weights = alone[at.clip(0, num_steps - 1)] * ((at >= 0) & (at < num_steps))
        heard = weights.sum(axis=1) >= length / 3
        if heard.any():
            # all of them: evenly spaced
            voices = embed_parts(self.weighter, self.summary, first, weights[..., None])[heard, 0]
            unit = F.normalize(windows[0], dim=-1)
            # the length of the mean tells whether neighbours agree: low at changes and in noise
            parts = _cut(_pad(unit, first, length), first - min(0, first.min()), length)
            mean = (torch.from_numpy(weights).to(unit)[:, None] @ parts)[heard, 0]
            first, weights = first[heard], weights[heard]
            agreement = mean.norm(dim=-1).cpu().numpy() / weights.sum(axis=1)
            chosen = far_apart(voices, agreement**2, NUM_STRETCHES, known)
            rows += [(first[c], weights[c]) for c in chosen]

        start = np.zeros((num_steps, max(1, len(rows))), dtype=np.float32)
        for column, (begin, values) in enumerate(rows):
            skip, end = max(0, -begin), min(len(values), num_steps - begin)
            start[begin + skip : begin + end, column] = values[skip:end]
        if not rows:
            start[:] = 1.0
        return torch.from_numpy(start)[None].to(windows.device)
