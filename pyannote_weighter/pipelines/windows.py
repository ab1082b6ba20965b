"""Windows of the Weighter: what is computed in each, and what is kept of it for later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pyannote.core import SlidingWindow
from torch import Tensor

from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.linking import Groups
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones.pooling import RESOLUTION, summarize_steps
from pyannote_weighter.models.encoders import Encoded, Pooling
from pyannote_weighter.pipelines.seeds import Seeds
from pyannote_weighter.pipelines.spill import Rows
from pyannote_weighter.weighting import Summary

ROUNDS = 2  # of the encoder, the last ones, from a start: all five are no better
BLOCK = 512  # rows kept at once: what is small enough for the caches is faster
OVERLAP = 0.01  # weight, in embeddings, of steps where nobody talks alone


class Window(NamedTuple):
    """What is kept of a window: all that it takes to weigh it again, and to pool it.

    Attributes
    ----------
    summary : Summary
        Frames averaged over the steps of the encoder.
    embeddings : (1, S, D') tensor or None
        Of short windows around each step, where the encoder uses them.
    num_frames : int
    """

    summary: Summary
    embeddings: Tensor | None
    num_frames: int


class Windows:
    """Windows of a file, of which few are in memory at a time.

    Parameters
    ----------
    half : bool, optional
        Keep them in half precision.
    """

    def __init__(self, half: bool = False):
        self.half = half
        self.rows: Rows | None = None
        self.step = self.channels = 1
        self.device = torch.device("cpu")
        self.known: list[tuple[slice, int]] = []  # rows and num_frames of each

    def append(self, window: Window) -> None:
        """Keep a window.

        All of it goes to the rows. Little things that stay in memory, between large ones that come
        and go, would keep the memory of those from being used again.
        """
        summary = window.summary
        columns = [summary.mean[0], summary.power[0]]
        if window.embeddings is not None:
            columns.append(window.embeddings[0])
        width = sum(part.shape[1] for part in columns)  # 2 C + D'
        if self.rows is None:
            self.rows = Rows(width, self.half)
            self.step, self.channels = int(summary.size[0]), summary.mean.shape[-1]
            self.device = summary.mean.device
        center = summary.center[0]  # (1, C), in the row before the others
        start = len(self.rows)
        self.rows.append(F.pad(center, (0, width - center.shape[1])))
        for mean, power, *embeddings in zip(*(part.split(BLOCK) for part in columns), strict=True):
            # the root has half the range of a power, and half precision little of it
            self.rows.append(torch.cat([mean, power.sqrt(), *embeddings], dim=1))
        self.known.append((slice(start, len(self.rows)), window.num_frames))

    def __len__(self) -> int:
        return len(self.known)

    def __iter__(self) -> Iterator[Window]:
        return (self[index] for index in range(len(self)))

    @property
    def num_frames(self) -> int:
        """Of all windows."""
        return sum(num_frames for _, num_frames in self.known)

    def cut(self, weightings: np.ndarray) -> list[np.ndarray]:
        """(S, K) weightings of the file to those (s, K) of each window."""
        lengths = [rows.stop - rows.start - 1 for rows, _ in self.known]
        return np.split(weightings, np.cumsum(lengths)[:-1])

    def __getitem__(self, index: int) -> Window:
        rows, num_frames = self.known[index]
        values = self.rows[rows].to(self.device).float()[None]  # (1, 1 + S, 2 C + D')
        center = values[:, :1, : self.channels]
        mean, root, embeddings = values[:, 1:].split(
            [self.channels, self.channels, values.shape[-1] - 2 * self.channels], dim=-1
        )
        size = center.new_full((mean.shape[1], 1), self.step)
        size[-1] -= -num_frames % self.step
        summary = Summary(center, mean, root.square(), size)
        return Window(summary, embeddings if embeddings.shape[-1] else None, num_frames)


def alone(count: np.ndarray, step: int) -> np.ndarray:
    """(S,) share of each step in which one speaker talks alone, of (T,) counts."""
    first = np.arange(0, len(count), step)
    return np.add.reduceat((count == 1).astype(np.float32), first) / np.diff(
        first, append=len(count)
    ).astype(np.float32)


def solo_weights(count: np.ndarray, step: int) -> np.ndarray:
    """(S,) weights of steps in embeddings of a slot: hardly any where nobody talks alone."""
    return alone(count, step) + np.float32(OVERLAP)


class Weighed(NamedTuple):
    """Weightings of a window.

    Attributes
    ----------
    weightings : (S, N) array
        Of steps.
    embeddings : (N, D) array
        Of frames in which one speaker talks alone: overlap is two people.
    confidence : (N,) array
    """

    weightings: np.ndarray
    embeddings: np.ndarray
    confidence: np.ndarray


def weigh_frames(
    weighter: Weighter,
    frames: Tensor,
    count: np.ndarray,
    start: np.ndarray | None = None,
    local: LocalSpeakers | None = None,
    grid: SlidingWindow | None = None,
) -> tuple[Weighed, Window]:
    """Weigh the frames of a window, as `Weighter.weigh` does.

    Parameters
    ----------
    weighter : Weighter
    frames : (T, C) tensor
        In half precision too: a block of them at a time is then made full.
    count : (T,) array
        Number of speakers in each frame.
    start : (S, K) array, optional
        Weightings of steps, to improve.
    local : LocalSpeakers, optional
        Who speaks in the windows of the segmentation: slots then start at `Seeds`.
    grid : SlidingWindow, optional
        Frames of the window, in seconds of the recording.
    """
    step = weighter.encoder.step
    frames = frames[None].to(weighter.device)
    summary = summarize_steps(frames, step)
    if start is None and local is not None and weighter.encoder.restarts:
        steps = SlidingWindow(step * grid.step, step * grid.step, grid.start)
        start = Seeds(weighter, summary, local, steps)
    embedded = []

    def embed_windows(*arguments):
        embedded.append(weighter.backbone.embed_windows(*arguments, summary))
        return embedded[-1]

    pooling = Pooling(
        embed=lambda x: weighter.backbone.embed_summary(summary, x), embed_windows=embed_windows
    )
    encoded = _encode(weighter, frames, summary, pooling, count, start)
    steps = encoded.weightings[-1]  # (1, S, N)
    weightings = _at_frames(weighter, steps, frames.shape[1])
    head = None
    if encoded.heads is not None:
        head = _at_frames(weighter, encoded.heads[-1], frames.shape[1])
    solo = torch.from_numpy(solo_weights(count, step)).to(frames.device)[None, :, None]
    weighed = Weighed(
        steps[0].cpu().numpy(),
        weighter.project(pooling.embed(steps * solo))[0].cpu().numpy(),
        weighter.claim(weightings, head)[0].cpu().numpy(),
    )
    return weighed, Window(summary, embedded[-1] if embedded else None, frames.shape[1])


def weigh_again(
    weighter: Weighter, window: Window, count: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Improve the weightings of a window of which the frames are gone.

    Parameters
    ----------
    weighter : Weighter
        Whose encoder takes what it needs of the frames from the summary and from windows.
    window : Window
    count : (T,) array
    start : (S, K) array
        Weightings of steps.

    Returns
    -------
    weightings : (S, K) array
    """
    mean = window.summary.mean
    # nothing reads them; if something did, it would not go unnoticed
    frames = mean.new_full((1, 1, 1), torch.nan).expand(1, window.num_frames, mean.shape[-1])
    pooling = Pooling(
        embed=lambda x: weighter.backbone.embed_summary(window.summary, x),
        embed_windows=lambda *_: window.embeddings,
    )
    encoded = _encode(weighter, frames, window.summary, pooling, count, start)
    return encoded.weightings[-1][0].cpu().numpy()


def _encode(weighter, frames, summary, pooling, count, start) -> Encoded:
    if isinstance(start, np.ndarray):
        start = torch.from_numpy(start[None]).to(frames.device)
        start = _at_frames(weighter, start, frames.shape[1])
    return weighter.encoder(
        frames,
        summary,
        pooling,
        count=torch.from_numpy(count[None]).to(frames.device),
        start=start,
        estimate=False,
        last=None if start is None else ROUNDS,
    )


def _at_frames(weighter: Weighter, steps: Tensor, num_frames: int) -> Tensor:
    """(1, S, N) to (1, T, N)."""
    return steps.repeat_interleave(weighter.encoder.step, dim=1)[:, :num_frames]


class Speakers(NamedTuple):
    """What the weightings of a whole file pool.

    Attributes
    ----------
    embeddings : (K, D) array
    confidence : (K,) array
        sum X^2 / sum X, zero for a speaker with no frame.
    """

    embeddings: np.ndarray
    confidence: np.ndarray


class SpeakerSums:
    """Sums over windows from which speakers are embedded: one pass, whatever the length of a file.

    Same as `Weighter.embed` of all frames.

    Parameters
    ----------
    weighter : Weighter
    num_speakers : int
        K.
    """

    def __init__(self, weighter: Weighter, num_speakers: int):
        self.weighter = weighter
        channels = weighter.backbone.frame_dimension
        exact = {"dtype": torch.float64, "device": weighter.device}
        self.mass, self.squares, self.claimed, self.claimed_squares = torch.zeros(
            4, num_speakers, 1, **exact
        )
        self.sums, self.powers = torch.zeros(2, num_speakers, channels, **exact)
        self.reference = None  # distances to it keep the difference of squares from cancelling

    def add(
        self, window: Window, part: np.ndarray, who: np.ndarray, weight: np.ndarray | None = None
    ) -> None:
        """Add a window.

        Parameters
        ----------
        window : Window
        part : (s, k) array
            Weightings of steps.
        who : (k,) array of int
            Whose they are.
        weight : (s,) array, optional
            Of its steps, in embeddings; confidence is that of the weightings.
        """
        center, mean, power, size = window.summary
        held = torch.from_numpy(part).to(center.device) * size  # (s, k)
        self.claimed[who] += held.sum(dim=0, dtype=torch.float64)[:, None]
        squared = (held.square() / size).sum(dim=0, dtype=torch.float64)[:, None]
        self.claimed_squares[who] += squared
        if weight is not None:
            held = held * torch.from_numpy(weight).to(held)[:, None]
            squared = (held.square() / size).sum(dim=0, dtype=torch.float64)[:, None]
        if self.reference is None:
            self.reference = center
        shift = (center - self.reference)[0].double()  # (1, C)
        total = held.sum(dim=0, dtype=torch.float64)[:, None]  # (k, 1)
        first = (held.T @ mean[0]).double()  # (k, C)
        second = (held.T @ power[0]).double()
        self.mass[who] += total
        self.squares[who] += squared
        self.sums[who] += first + total * shift
        self.powers[who] += second + 2 * shift * first + total * shift.square()

    def speakers(self) -> Speakers:
        """Embed them; at least one window must have been added."""
        reference = self.reference[0].double()
        present = self.mass > 0
        mass = torch.where(present, self.mass, 1.0)
        mean = self.sums / mass  # (K, C), to the reference
        statistics = (mean + reference) * present
        if self.weighter.backbone.deviation:
            # as in `weighting.pool_summary`
            power = self.powers / mass
            variance = power - mean.square()
            unbias = (1.0 - self.squares / mass.square()).clamp(min=RESOLUTION)
            resolved = variance > RESOLUTION * power + 1e-12 * reference.square()
            std = torch.sqrt(torch.where(resolved, variance, 0.0) / unbias) * present
            statistics = torch.cat([statistics, std], dim=-1)
        embeddings = self.weighter.backbone.embed_statistics(statistics.float()[None])
        claimed = self.claimed.clamp_min(torch.finfo(torch.float64).tiny)
        return Speakers(
            embeddings=self.weighter.project(embeddings)[0].cpu().numpy(),
            confidence=(self.claimed_squares / claimed)[:, 0].float().cpu().numpy(),
        )


def embed_groups(
    weighter: Weighter,
    windows: Iterable[Window],
    groups: Groups,
    weights: Sequence[np.ndarray] | None = None,
) -> Speakers:
    """Embed groups of slots as speakers of a file.

    Parameters
    ----------
    weighter : Weighter
    windows : iterable of Window
        Those of the groups.
    groups : Groups
    weights : list of (s,) arrays, optional
        See `SpeakerSums.add`.
    """
    sums = SpeakerSums(weighter, groups.number)
    weights = [None] * len(groups.weightings) if weights is None else weights
    each = zip(windows, groups.weightings, groups.present, weights, strict=True)
    for window, *arguments in each:
        sums.add(window, *arguments)
    return sums.speakers()
