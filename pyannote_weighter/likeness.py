"""Are two slots one person? What they sound like, and what the segmentation says of them.

A segmentation model tells the speakers of its windows apart, a few seconds at a time. Two slots
that share a local speaker are probably one person; two that have one each are not. It does not
depend on the channel, which embeddings do. (Those of a backbone that hears voices know a little of
local speakers, too: `local_voices`.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pyannote.core import SlidingWindow

RESOLUTION = 0.1  # seconds; weightings of the default Weighter change no faster
BATCH = 64  # windows at a time


class LocalSpeakers(NamedTuple):
    """Who speaks in the windows of a segmentation, where each window has speakers of its own.

    Attributes
    ----------
    active : (W, F) array of uint8
        Frames of each window, a bit for each local speaker.
    windows, frames : SlidingWindow
        In seconds; the first frame of a window starts `frames.start` after the window.
    """

    active: np.ndarray
    windows: SlidingWindow
    frames: SlidingWindow

    @staticmethod
    def pack(active: np.ndarray) -> np.ndarray:
        """(..., L) of 0 and 1 to (...) of bits; of more than 8 local speakers the first ones."""
        return np.packbits(active[..., :8] > 0, axis=-1, bitorder="little")[..., 0]


def solo_steps(
    local: LocalSpeakers, grid: SlidingWindow, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where local speakers talk alone, in steps of the Weighter.

    Parameters
    ----------
    local : LocalSpeakers
    grid : SlidingWindow
        Steps of a window of the Weighter, in seconds of the recording.
    num_steps : int

    Returns
    -------
    first : (W,) array of int
        First step of each window of the segmentation that the steps reach into; may be negative.
    solo : (W, S', L) array of 0 and 1
        Steps from there on. Beyond `num_steps` there are none.
    """
    windows, frames = local.windows, local.frames
    starts = windows.start + windows.step * np.arange(len(local.active))
    reached = (starts < grid[num_steps - 1].end) & (starts + windows.duration > grid[0].start)
    starts, active = starts[reached], local.active[reached]
    length = max(1, round(windows.duration / grid.step))
    middle = grid.start + 0.5 * grid.duration
    first = np.ceil((starts - middle) / grid.step).astype(int)  # (W,)
    steps = first[:, None] + np.arange(length)  # (W, S')
    inside = middle + steps * grid.step - starts[:, None] - frames.start - 0.5 * frames.duration
    index = np.rint(inside / frames.step).astype(int)
    bits = np.take_along_axis(active, index.clip(0, active.shape[1] - 1), axis=1)  # (W, S')
    used = int(np.bitwise_or.reduce(active, axis=None)) if active.size else 0
    # powers of two are local speakers who talk alone
    solo = bits[..., None] == (1 << np.arange(max(1, used.bit_length()), dtype=np.uint8))
    inside = (index >= 0) & (index < active.shape[1]) & (steps >= 0) & (steps < num_steps)
    return first, (solo & inside[..., None]).astype(np.float32)


def local_voices(local: LocalSpeakers, grid: SlidingWindow, num_frames: int) -> np.ndarray:
    """Number the voices of frames: who talks there, in one window of the segmentation.

    Windows overlap: as few as cover the recording are looked at, and each frame belongs to the one
    whose middle is nearest. A local speaker who talks alone is a voice, each combination of those
    who talk at once is one, and so is silence. Where windows meet, the frames of the segmentation
    leave out some hundredths of a second, which belong to the nearest one.

    Parameters
    ----------
    local : LocalSpeakers
    grid : SlidingWindow
        Frames, in seconds of the recording.
    num_frames : int

    Returns
    -------
    voices : (num_frames,) array of int
        The same number for one voice in one window.
    """
    windows, frames = local.windows, local.frames
    if not local.active.size:
        return np.zeros(num_frames, dtype=np.int32)
    apart = max(1, int(windows.duration / windows.step + 1e-6))
    chosen = np.union1d(np.arange(0, len(local.active), apart), len(local.active) - 1)
    starts = windows.start + windows.step * chosen
    time = grid.start + 0.5 * grid.duration + grid.step * np.arange(num_frames)
    middle = starts + 0.5 * windows.duration
    owner = np.searchsorted(0.5 * (middle[1:] + middle[:-1]), time)
    inside = time - starts[owner] - frames.start - 0.5 * frames.duration
    index = np.rint(inside / frames.step).astype(int)
    bits = local.active[chosen[owner], index.clip(0, local.active.shape[1] - 1)]
    return owner.astype(np.int32) * 256 + bits


class Evidence(NamedTuple):
    """What the segmentation says of pairs of slots, in seconds.

    Attributes
    ----------
    same, different : (M, M) arrays
        Symmetric. How long both were heard in one window as one local speaker, or as two.
    """

    same: np.ndarray
    different: np.ndarray


def own_columns(weightings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Slot of each column of the weightings (t, n) of windows, where no slot is in two windows."""
    bounds = np.cumsum([0] + [part.shape[1] for part in weightings])
    return [np.arange(first, last) for first, last in itertools.pairwise(bounds)]


def local_evidence(
    local: LocalSpeakers,
    weightings: Sequence[np.ndarray],
    frames: SlidingWindow,
    columns: Sequence[np.ndarray] | None = None,
) -> Evidence:
    """Compare slots with the local speakers of a segmentation.

    In each window of the segmentation, a slot is spread over the local speakers as its weighting
    is over their solo speech. Two slots agree as much as these two distributions do; this
    counts for as many seconds as the slot with less speech has in the window. Windows that overlap
    count for their step only.

    Parameters
    ----------
    local : LocalSpeakers
    weightings : list of (t, n) arrays
        Of consecutive windows of the Weighter.
    frames : SlidingWindow
        Of the weightings, in seconds.
    columns : list of (n,) arrays of int, optional
        Slot of each column of the weightings; a slot has one column in a window, or none. Defaults
        to other slots in each window.

    Returns
    -------
    evidence : Evidence
        M is the number of slots.

    Raises
    ------
    ValueError
        If there are no weightings.
    """
    if not len(weightings):
        raise ValueError("weightings are of no window: give those of one at least")
    columns = own_columns(weightings) if columns is None else columns
    M = 1 + max(slots.max(initial=-1) for slots in columns)
    same, different = np.zeros((2, M, M), dtype=np.float32)
    num_windows, num_frames = local.active.shape
    stride = max(1, round(RESOLUTION / local.frames.step))
    read = np.arange(stride // 2, num_frames, stride)
    inside = local.frames.start + 0.5 * local.frames.duration + read * local.frames.step
    starts = local.windows.start + local.windows.step * np.arange(num_windows)
    center = frames.start + 0.5 * frames.duration
    index = np.rint((starts[:, None] + inside - center) / frames.step).astype(int)  # (W, F')
    share = min(1.0, local.windows.step / local.windows.duration)
    seconds = stride * local.frames.step * share

    bounds = np.cumsum([0] + [len(part) for part in weightings])
    owner = np.searchsorted(bounds, index[:, 0].clip(0), side="right") - 1  # (W,)
    for first, part in enumerate(weightings):
        mine = np.flatnonzero(owner == first)
        if not len(mine):
            continue
        # a window of the segmentation may reach into the next windows of the Weighter
        reach = max(0, index[mine].max() + 1 - bounds[first + 1])
        last = max(first + 2, np.searchsorted(bounds, bounds[first + 1] + reach))
        reached = range(len(weightings))[first:last]
        slots = np.unique(np.concatenate([columns[k] for k in reached]))
        x = np.zeros((len(part) + reach + 1, len(slots)), dtype=np.float32)  # last one: nobody
        for k in reached:
            start = bounds[k] - bounds[first]
            values = weightings[k][: len(part) + reach - start]
            x[start : start + len(values), np.searchsorted(slots, columns[k])] = values
        pairs = np.ix_(slots, slots)
        for batch in np.array_split(mine, -(-len(mine) // BATCH)):
            bits = local.active[np.ix_(batch, read)]  # (w, F')
            solo = np.unpackbits(bits[..., None], axis=-1)  # (w, F', 8)
            solo = solo * (solo.sum(axis=-1, keepdims=True) == 1)
            at = index[batch] - bounds[first]
            at = np.where((at >= 0) & (at < len(x) - 1), at, len(x) - 1)
            held = np.einsum("wfl,wfn->wln", solo.astype(np.float32), x[at])  # (w, 8, n)
            total = held.sum(axis=1)  # (w, n)
            spread = held / np.maximum(total, 1e-6)[:, None]
            agreement = np.einsum("wln,wlm->wnm", spread, spread)
            heard = np.minimum(total[:, :, None], total[:, None]) * seconds  # (w, n, n)
            same[pairs] += (heard * agreement).sum(axis=0)
            different[pairs] += (heard * (1 - agreement)).sum(axis=0)
    return Evidence(same, different)


def counted_share(seconds: np.ndarray, typical: float, each: float) -> float:
    """Share of the seconds of a recording that counts, as in one of usual length.

    Parameters
    ----------
    seconds : (M,) array
        Speech of each slot, or of each group of them.
    typical : float
        Seconds of speech of all up to which all of them count.
    each : float
        Seconds that count for each of them at least, as far as all have equally much.
    """
    total, power = seconds.sum(), np.square(seconds).sum()
    number = total * total / max(power, 1e-6)
    return min(1.0, max(typical, each * number) / max(total, 1e-6))


@dataclass(frozen=True)
class Likeness:
    """Log odds that two groups of slots are one person: a logistic regression.

    Groups that are in one window of the Weighter are judged by their embeddings and by what the
    segmentation says of them; groups in different windows, of which it says nothing, by their
    embeddings alone.

    The coefficients come from `recipes/linking` (CAM++, segmentation-3.0); other backbones
    have other cosines.

    Attributes
    ----------
    cosine, cosine_apart : float
        Of the cosine between the embeddings, in one window and apart.
    local : float
        Of (same - different) / (same + different + 0.3 s), see `Evidence`.
    shorter, longer, shorter_apart, longer_apart : float
        Of ln(seconds + 0.1) of the group with less and with more speech: noise makes short ones
        look alike less, and two long ones that are alike only somewhat are two people.
    bias, bias_apart : float
    longest : float
        Seconds above which more speech makes no difference: nothing longer was fitted.
    typical, each, enough : float
        Seconds. In recordings with more than `typical` of speech of all together, and more than
        `each` for each slot, `longest` falls with the square of it, down to `enough`: see
        `of_recording`.
    offset : float
        Taken from cosines, of a Weighter that has other ones than that of the coefficients: see
        `pyannote_weighter.impostors.cosine_offset`.
    """

    cosine: float = 14.3
    local: float = 2.8
    shorter: float = -1.4
    longer: float = -0.5
    bias: float = -5.8
    cosine_apart: float = 16.0
    shorter_apart: float = -1.2
    longer_apart: float = -0.4
    bias_apart: float = -5.8
    longest: float = 60.0
    typical: float = 75.0
    each: float = 20.0
    enough: float = 8.0
    offset: float = 0.0

    def of_recording(self, seconds: np.ndarray) -> Likeness:
        """Likeness in a recording whose slots have so many seconds of speech, an (M,) array.

        The coefficients were fitted to about a minute, in which voices and places do not change:
        the more speech, the better the embeddings, and the more alike two of one person have to
        be. In the course of a longer recording people move and sound different, so that more
        speech makes them no more alike, and one person would become several. Slots count as far as
        they have equally much: of many people, each says little in a long recording too.
        """
        share = counted_share(seconds, self.typical, self.each)
        longest = max(min(self.enough, self.longest), self.longest * share**2)
        return replace(self, longest=longest)

    def features(self, cosine, same, different, seconds, other_seconds) -> np.ndarray:
        """Stack what the first four coefficients are multiplied with: (..., 4)."""
        return np.stack(
            [
                cosine - self.offset,
                (same - different) / (same + different + 0.3),
                np.log(np.minimum(np.minimum(seconds, other_seconds), self.longest) + 0.1),
                np.log(np.minimum(np.maximum(seconds, other_seconds), self.longest) + 0.1),
            ],
            axis=-1,
        )

    def __call__(
        self, cosine, same, different, seconds, other_seconds, together=True
    ) -> np.ndarray:
        """Probability that two groups are one person; arrays of any shapes that broadcast."""
        arrays = np.broadcast_arrays(cosine, same, different, seconds, other_seconds)
        features = self.features(*arrays)
        near = features @ [self.cosine, self.local, self.shorter, self.longer] + self.bias
        apart = features @ [self.cosine_apart, 0.0, self.shorter_apart, self.longer_apart]
        log_odds = np.where(together, near, apart + self.bias_apart)
        return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -500, 500)))
