"""Slots to speakers: which slots, of one window or of several, are one person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARAMETERS = {"threshold": 0.3, "merge": 0.5, "min_duration": 2.0}
"""Parameters of `Slots.speakers`, near those that recipes/default chose."""

CENTER = 0.3
"""Share of the mean that `Slots.speakers` takes away, chosen on the same development files."""


def link_slots(
    embeddings: np.ndarray,
    seconds: np.ndarray,
    threshold: float,
    min_speakers: int = 1,
    max_speakers: float = np.inf,
    center: float = 0.0,
) -> np.ndarray:
    """Merge slots, the most similar pair first, as centroid linkage does.

    Slots of one window may merge too: the Weighter has more slots than there are speakers, and can
    leave two on the same one.

    Parameters
    ----------
    embeddings : (M, D) array
    seconds : (M,) array
        Speech of each slot: centroids are weighted by it.
    threshold : float
        Least cosine between the centroids of two merged groups.
    min_speakers, max_speakers : int, optional
        Bounds on the number of groups; they go before the threshold.
    center : float, optional
        Share of the mean of all slots that is taken away before slots are compared. What a channel
        adds to everybody in a file makes different speakers look alike.

    Returns
    -------
    speakers : (M,) array of int
        Group of each slot, numbered by first appearance.
    """
    num_slots = len(embeddings)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(norms, 1e-9)
    weights = np.maximum(seconds, 1e-3)[:, None]
    unit = unit - center * (weights * unit).sum(axis=0) / max(weights.sum(), 1e-9)
    sums = unit * weights
    members = [{slot} for slot in range(num_slots)]
    alive = np.ones(num_slots, dtype=bool)
    similarity = _cosine(sums, sums)
    np.fill_diagonal(similarity, -np.inf)
    num_groups = num_slots
    while num_groups > max(1, min_speakers):
        a, b = np.unravel_index(similarity.argmax(), similarity.shape)
        if similarity[a, b] < threshold and num_groups <= max_speakers:
            break
        sums[a] += sums[b]
        members[a] |= members[b]
        alive[b] = False
        similarity[b, :] = similarity[:, b] = -np.inf
        row = np.where(alive, _cosine(sums[a : a + 1], sums)[0], -np.inf)
        row[a] = -np.inf
        similarity[a, :] = similarity[:, a] = row
        num_groups -= 1

    speakers = np.empty(num_slots, dtype=int)
    groups = [group for group, kept in zip(members, alive, strict=True) if kept]
    for speaker, group in enumerate(sorted(groups, key=min)):
        speakers[list(group)] = speaker
    return speakers


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    second = second / np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-9)
    return first @ second.T


@dataclass
class Slots:
    """Slots of all windows of a file.

    Attributes
    ----------
    weightings : list of (t, N) arrays
        One per window; together they cover the file.
    embeddings : (M, D) array
    confidence, seconds : (M,) arrays
    """

    weightings: list[np.ndarray]
    embeddings: np.ndarray
    confidence: np.ndarray
    seconds: np.ndarray

    def speakers(
        self,
        threshold: float,
        merge: float,
        min_duration: float,
        min_speakers: int = 1,
        max_speakers: float = np.inf,
        least_seconds: float = 0.02,
    ) -> np.ndarray:
        """Turn slots into speakers.

        Parameters
        ----------
        threshold : float
            Slots with less confidence are no speakers.
        merge : float
            See `link_slots`.
        min_duration : float
            Speakers with less speech, in seconds, are dropped.
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers; they go before the other parameters.
        least_seconds : float, optional
            Slots with less speech are never speakers.

        Returns
        -------
        weightings : (T, K) array
            One column a speaker.
        """
        audible = self.seconds >= least_seconds
        audible[self.seconds.argmax()] = True  # there is speech: someone has it
        kept = audible & (self.confidence >= threshold)
        if kept.sum() < min_speakers:  # take the best of those that were left out
            best = np.argsort(-self.confidence * audible, kind="stable")[: int(min_speakers)]
            kept[best] = audible[best]
        kept = np.flatnonzero(kept)

        groups = link_slots(
            self.embeddings[kept],
            self.seconds[kept],
            merge,
            min_speakers,
            max_speakers,
            center=CENTER,
        )
        held = np.bincount(groups, weights=self.seconds[kept])
        stays = held >= min_duration
        least = int(min(max(min_speakers, 1), len(held)))
        stays[np.argsort(-held, kind="stable")[:least]] = True
        speaker_of = np.full(len(self.seconds), -1)
        speaker_of[kept] = np.where(stays, np.cumsum(stays) - 1, -1)[groups]

        # where nobody is left in a window, its speech goes to the speakers that sound most alike
        windows = np.repeat(np.arange(len(self.weightings)), self.weightings[0].shape[1])
        deserted = ~np.isin(windows, windows[speaker_of >= 0]) & audible
        if deserted.any():
            known = speaker_of >= 0
            sums = np.zeros((speaker_of.max() + 1, self.embeddings.shape[1]))
            weighted = self.embeddings * self.seconds[:, None]
            np.add.at(sums, speaker_of[known], weighted[known])
            nearest = _cosine(self.embeddings[deserted], sums).argmax(axis=1)
            speaker_of[deserted] = nearest
        return self._merge(windows, speaker_of)

    def _merge(self, windows: np.ndarray, speaker_of: np.ndarray) -> np.ndarray:
        """Add the weightings of the slots of each speaker."""
        stops = np.cumsum([len(part) for part in self.weightings])
        merged = np.zeros((stops[-1], speaker_of.max() + 1), dtype=np.float32)
        for window, (part, stop) in enumerate(zip(self.weightings, stops, strict=True)):
            speakers = speaker_of[windows == window]
            for column in np.flatnonzero(speakers >= 0):
                merged[stop - len(part) : stop, speakers[column]] += part[:, column]
        return merged
