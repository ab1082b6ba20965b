"""Is a group of slots a person? Weightings also gather overlap, noise and what is left of others.

How long it speaks is a poor answer: a short speaker and a short accident last equally long. But an
accident sounds like somebody else in the file, comes in scraps, and has no local speaker of the
segmentation to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyannote.core import SlidingWindow

from pyannote_weighter.likeness import BATCH, LocalSpeakers, counted_share, solo_steps
from pyannote_weighter.linking import Groups

SPEECH = 0.3  # least speech of one speaker in a step that belongs to a turn


def turn_lengths(weightings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of steps in which one group is the most probable one.

    Parameters
    ----------
    weightings : (S, K) array

    Returns
    -------
    group, steps : (R,) arrays of int
    """
    winner = np.where(weightings.sum(axis=1) > SPEECH, weightings.argmax(axis=1), -1)
    bounds = np.flatnonzero(np.diff(winner, prepend=-2, append=-2))
    group, steps = winner[bounds[:-1]], np.diff(bounds)
    return group[group >= 0], steps[group >= 0]


def ownership(
    local: LocalSpeakers, weightings: np.ndarray, grid: SlidingWindow
) -> tuple[np.ndarray, np.ndarray]:
    """How far groups have local speakers of the segmentation to themselves.

    Parameters
    ----------
    local : LocalSpeakers
    weightings : (S, K) array
        Of steps.
    grid : SlidingWindow
        The steps, in seconds of the recording.

    Returns
    -------
    owned, held : (K,) arrays
        Solo speech of local speakers that a group holds, each share weighted with itself, and
        not weighted.
    """
    num_steps, num_groups = weightings.shape
    owned, held = np.zeros((2, num_groups))
    first, solo = solo_steps(local, grid, num_steps)
    for start in range(0, len(first), BATCH):
        some = slice(start, start + BATCH)
        at = first[some, None] + np.arange(solo.shape[1])
        x = weightings[at.clip(0, num_steps - 1)]  # (w, S', K), solo is zero outside
        shares = np.einsum("wsl,wsk->wlk", solo[some], x)
        total = np.maximum(shares.sum(axis=-1, keepdims=True), 1e-6)
        owned += (shares * shares / total).sum(axis=(0, 1))
        held += shares.sum(axis=(0, 1))
    return owned, held


@dataclass(frozen=True)
class Presence:
    """Probability that a group of slots is a speaker: a logistic regression.

    The coefficients come from `recipes/linking` (CAM++, segmentation-3.0).

    Attributes
    ----------
    seconds : float
        Of ln(seconds of speech + 0.1).
    cosine : float
        Of the cosine to the group that sounds most alike, 0 where there is no other.
    owned : float
        Of the mean share that the group has of the local speakers that it is in, see `ownership`.
    turn : float
        Of ln(median length of its turns in seconds + 0.1).
    bias : float
    least : float
        Probability from which a group is a speaker, in short recordings: see `threshold`.
    longest : float
        Seconds of speech from which a group is always one: in some recordings everybody sounds
        alike, and who speaks that long is no accident. In long recordings it takes more, this by
        `trust` and `share`: what overlap and noise leave behind adds up, and the rest of the
        description tells it.
    largest : float
        Share of the speech of all from which a group, if it has `longest` seconds, is always one.
    typical : float
        Speech of all in a recording, in seconds, up to which seconds count as they are. In longer
        ones accidents add up: seconds of a group then count in proportion.
    each : float
        Seconds are taken as they are at least up to so many times the number of people, as far as
        they speak equally long: who says little in a long recording is no accident where everybody
        says little.
    offset : float
        Taken from cosines, as by `pyannote_weighter.likeness.Likeness`.
    """

    seconds: float = 2.1
    cosine: float = -13.4
    owned: float = 3.0
    turn: float = 1.4
    bias: float = 1.5
    least: float = 0.25
    longest: float = 4.0
    largest: float = 0.15
    typical: float = 75.0
    each: float = 15.0
    offset: float = 0.0

    def share(self, seconds: np.ndarray) -> float:
        """Share of the seconds of each that counts, from the (K,) seconds of all groups."""
        return counted_share(seconds, self.typical, self.each)

    def trust(self, seconds: np.ndarray) -> float:
        """How far length tells who is a speaker, from the (K,) seconds of all groups: 0 to 1.

        The less seconds count, the more accidents there are for each speaker. It is near 1 where
        half of each second counts, as in recordings of many people who say little.
        """
        return 1 - (1 - self.share(seconds)) ** 3

    def threshold(self, seconds: np.ndarray) -> float:
        """Probability from which a group is a speaker, from the (K,) seconds of all groups.

        Where length tells nothing, it takes what is more likely a speaker than not.
        """
        trust = self.trust(seconds)
        return self.least * trust + max(0.5, self.least) * (1 - trust)

    def features(
        self,
        groups: Groups,
        single: Sequence[np.ndarray],
        seconds: np.ndarray,
        embeddings: np.ndarray,
        local: LocalSpeakers,
        grids: Sequence[SlidingWindow],
    ) -> np.ndarray:
        """Describe groups.

        Parameters
        ----------
        groups : Groups
            Their weightings are of the steps of each window of the Weighter.
        single : list of (s,) arrays
            Share of each step in which one speaker talks alone.
        seconds : (K,) array
            Speech of each group.
        embeddings : (K, D) array of length one
        local : LocalSpeakers
        grids : list of SlidingWindow
            Steps of each window, in seconds of the recording.

        Returns
        -------
        features : (K, 4) array
            In the order of the attributes.
        """
        K = len(seconds)
        owned, held = np.zeros((2, K))
        turns = [(np.empty(0, dtype=int), np.empty(0))]
        windows = zip(groups.weightings, groups.present, single, grids, strict=True)
        for x, who, alone, grid in windows:
            if not len(who):
                continue
            for total, values in zip((owned, held), ownership(local, x, grid), strict=True):
                total[who] += values
            group, steps = turn_lengths(x * alone[:, None])
            turns.append((who[group], steps * grid.step))
        turn_of, lengths = (np.concatenate(part) for part in zip(*turns, strict=True))
        turn = np.array(
            [np.median(lengths[turn_of == k]) if k in turn_of else 0 for k in range(K)]
        )
        cosine = embeddings @ embeddings.T - 2 * np.eye(K)
        return np.stack(
            [
                np.log(self.share(seconds) * seconds + 0.1),
                cosine.max(axis=1) - self.offset if K > 1 else np.zeros(K),
                owned / np.maximum(held, 1e-6),
                np.log(turn + 0.1),
            ],
            axis=-1,
        )

    def __call__(self, groups: Groups, single, seconds: np.ndarray, *described) -> np.ndarray:
        """(K,) probability that each group is a speaker; see `features` for what it takes."""
        coefficients = [self.seconds, self.cosine, self.owned, self.turn]
        features = self.features(groups, single, seconds, *described)
        log_odds = np.clip(features @ coefficients + self.bias, -500, 500)
        counted = self.trust(seconds) * self.share(seconds) * seconds
        most = np.maximum(self.longest, self.largest * seconds.sum())
        long = (counted >= self.longest) | (seconds >= most)
        return np.where(long, 1.0, 1.0 / (1.0 + np.exp(-log_odds)))
