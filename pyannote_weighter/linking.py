"""Slots to speakers: which slots, of one window or of several, are one person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyannote_weighter.likeness import Evidence, Likeness, own_columns

PARAMETERS = {"threshold": 0.3, "merge": 0.3, "min_duration": 0.5}
"""Parameters of `Slots.assign`, see recipes/linking."""

BLOCK = 256  # slots that are compared with all others at a time


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def link_slots(
    embeddings: np.ndarray,
    seconds: np.ndarray,
    threshold: float,
    min_speakers: int = 1,
    max_speakers: float = np.inf,
    evidence: Evidence | None = None,
    likeness: Likeness | None = None,
    windows: np.ndarray | None = None,
) -> np.ndarray:
    """Merge slots, the most similar pair of groups first.

    Slots of one window may merge too: the Weighter has more slots than there are speakers, and can
    leave two on the same one. Every group remembers the one that is most like it, so that time is
    quadratic in the number of slots, not cubic.

    Parameters
    ----------
    embeddings : (M, D) array
    seconds : (M,) array
        Speech of each slot: centroids are weighted by it.
    threshold : float
        Least similarity of two merged groups.
    min_speakers, max_speakers : int, optional
        Bounds on the number of groups; they go before the threshold.
    evidence : Evidence, optional
        What the segmentation says of pairs of slots; that of a group is the sum over its slots.
        Without it all slots are judged as those of different windows are.
    likeness : Likeness, optional
        Similarity is then the probability that two groups are one person, in a recording with as
        much speech as the slots have. By default it is the cosine of their centroids, as in
        centroid linkage, and evidence is not looked at.
    windows : (M, W) bool array, optional
        Windows of the Weighter in which each slot is. Defaults to the same for all.

    Returns
    -------
    speakers : (M,) array of int
        Group of each slot, numbered by first appearance.
    """
    num_slots = len(embeddings)
    if num_slots == 0:
        return np.empty(0, dtype=int)
    seconds = np.maximum(seconds, 1e-3)
    if likeness is not None:
        likeness = likeness.of_recording(seconds)
    sums = _unit(embeddings) * seconds[:, None]
    heard = evidence is not None
    if evidence is None:
        evidence = Evidence(*np.zeros((2, num_slots, num_slots), dtype=np.float32))
    same, different = evidence.same.copy(), evidence.different.copy()
    if windows is None:
        windows = np.ones((num_slots, 1), dtype=bool)
    windows = windows.astype(np.float32)

    def similarity(group: int | slice) -> np.ndarray:
        """Of one group, or of several, to all others."""
        rows = np.arange(num_slots)[group].reshape(-1, 1)
        cosine = _unit(sums[rows[:, 0]]) @ _unit(sums).T
        if likeness is not None:
            pairs = same[rows[:, 0]], different[rows[:, 0]]
            together = (windows[rows[:, 0]] @ windows.T > 0) & heard
            cosine = likeness(cosine, *pairs, seconds[rows], seconds, together)
        return np.where(alive & (rows != np.arange(num_slots)), cosine, -np.inf)

    group_of = np.arange(num_slots)  # a group is named by its first slot
    alive = np.ones(num_slots, dtype=bool)
    blocks = range(0, num_slots, BLOCK)  # likeness takes several times the memory of its result
    similar = np.concatenate([similarity(slice(b, b + BLOCK)) for b in blocks])  # (M, M)
    nearest = similar.argmax(axis=1)  # (M,)
    best = similar[np.arange(num_slots), nearest]
    num_groups = num_slots
    while num_groups > max(1, min_speakers):
        a = best.argmax()
        b = nearest[a]
        if best[a] < threshold and num_groups <= max_speakers:
            break
        a, b = min(a, b), max(a, b)
        sums[a] += sums[b]
        seconds[a] += seconds[b]
        windows[a] = np.maximum(windows[a], windows[b])
        for seen in (same, different):
            seen[a] += seen[b]
            seen[:, a] += seen[:, b]
        group_of[group_of == b] = a
        alive[b] = False
        row = similarity(a)[0]
        similar[b, :] = similar[:, b] = -np.inf
        similar[a, :] = similar[:, a] = row
        # whoever was closest to one of the two looks again; others may have come closer to a
        again = np.flatnonzero(alive & np.isin(nearest, (a, b)) | (np.arange(num_slots) == a))
        nearest[again] = similar[again].argmax(axis=1)
        best[again] = similar[again, nearest[again]]
        closer = (row > best) | ((row == best) & (a < nearest))
        nearest[closer], best[closer] = a, row[closer]
        best[b] = -np.inf
        num_groups -= 1

    _, first, speakers = np.unique(group_of, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[speakers]


@dataclass(frozen=True)
class Groups:
    """Weightings of groups of slots of a file, window by window.

    Rows are frames or longer steps, whatever the caller keeps.

    Attributes
    ----------
    weightings : list of (t, k) arrays
        One per window, of the groups that are in it; together they cover the file.
    present : list of (k,) arrays of int
        Which groups these are.
    number : int
        K, of all groups of the file.
    """

    weightings: list[np.ndarray]
    present: list[np.ndarray]
    number: int

    @classmethod
    def gather(cls, parts: list[np.ndarray]) -> Groups:
        """Groups of (t, K) weightings: those that are zero throughout a window are not in it."""
        present = [np.flatnonzero(part.any(axis=0)) for part in parts]
        held = [part[:, who] for part, who in zip(parts, present, strict=True)]
        return cls(held, present, parts[0].shape[1])

    def spread(self) -> np.ndarray:
        """(T, K) weightings of the file, zero in windows without the group."""
        whole = np.zeros((sum(map(len, self.weightings)), self.number), dtype=np.float32)
        start = 0
        for part, who in zip(self.weightings, self.present, strict=True):
            whole[start : start + len(part), who] = part
            start += len(part)
        return whole


@dataclass
class Slots:
    """Slots of all windows of a file; rows are frames or longer steps, as in `Groups`.

    Attributes
    ----------
    weightings : list of (t, N) arrays
        One per window; together they cover the file.
    embeddings : (M, D) array
    confidence, seconds : (M,) arrays
    evidence : Evidence or None
        What the segmentation says of pairs of slots.
    columns : list of (n,) arrays of int or None
        Slot of each column of the weightings; a slot has one column in a window, or none. By
        default each window has slots of its own.
    is_speaker : callable or None
        From groups of slots, their seconds (K,) and embeddings (K, D): whether each of them is a
        speaker, a (K,) probability, and the least one of a speaker. Without it only
        `min_duration` tells.
    """

    weightings: list[np.ndarray]
    embeddings: np.ndarray
    confidence: np.ndarray
    seconds: np.ndarray
    evidence: Evidence | None = None
    columns: list[np.ndarray] | None = None
    is_speaker: Callable[..., tuple[np.ndarray, float]] | None = None

    def __post_init__(self):
        if self.columns is None:
            self.columns = own_columns(self.weightings)

    def speakers(self, *args, **options) -> np.ndarray:
        """Turn slots into speakers: `merge` of `assign`, which has the parameters.

        Returns
        -------
        weightings : (T, K) array
            One column a speaker.
        """
        return self.merge(self.assign(*args, **options))

    def assign(
        self,
        threshold: float,
        merge: float,
        min_duration: float,
        min_speakers: int = 1,
        max_speakers: float = np.inf,
        least_seconds: float = 0.02,
        likeness: Likeness | None = None,
    ) -> np.ndarray:
        """Find out which slots are one speaker.

        Parameters
        ----------
        threshold : float
            Slots with less confidence are no speakers.
        merge : float
            Threshold of `link_slots`.
        min_duration : float
            Speakers with less speech, in seconds, are dropped.
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers; they go before the other parameters. Fewer than
            `min_speakers` are found only where fewer slots have speech.
        least_seconds : float, optional
            Slots with less speech are never speakers.
        likeness : Likeness, optional
            See `link_slots`.

        Returns
        -------
        speakers : (M,) array of int
            Speaker of each slot, -1 for none.
        """
        audible = self.seconds >= least_seconds
        audible[self.seconds.argmax()] = True  # there is speech: someone has it
        confident = audible & (self.confidence >= threshold)
        if not confident.any():
            confident[np.where(audible, self.confidence, -1.0).argmax()] = True
        kept = np.flatnonzero(confident)
        groups = self._link(kept, merge, likeness)
        stays = self._stay(kept, groups, min_duration)
        if stays.sum() < min_speakers:
            kept = self._enough(confident, audible, min_speakers)
            groups = self._link(kept, merge, likeness, min_speakers)
            stays = self._stay(kept, groups, min_duration, min_speakers)
        if stays.sum() > max_speakers:  # those that do not stay, scraps, take nobody's place
            kept = kept[stays[groups]]
            groups = self._link(kept, merge, likeness, min_speakers, max_speakers)
            stays = np.ones(groups.max() + 1, dtype=bool)
        speaker_of = np.full(len(self.seconds), -1)
        speaker_of[kept] = np.where(stays, np.cumsum(stays) - 1, -1)[groups]

        # where nobody is left in a window, its speech goes to the speakers that sound most alike
        deserted = np.zeros(len(speaker_of), dtype=bool)
        for slots in self.columns:
            deserted[slots] |= (speaker_of[slots] < 0).all()
        deserted &= audible
        if deserted.any():
            known = speaker_of >= 0
            sums = np.zeros((speaker_of.max() + 1, self.embeddings.shape[1]))
            weighted = self.embeddings * self.seconds[:, None]
            np.add.at(sums, speaker_of[known], weighted[known])
            nearest = (_unit(self.embeddings[deserted]) @ _unit(sums).T).argmax(axis=1)
            speaker_of[deserted] = nearest
        return speaker_of

    def _enough(self, confident: np.ndarray, audible: np.ndarray, min_speakers: int) -> np.ndarray:
        """(k,) slots to find `min_speakers` in, where these are that many."""
        # a slot that is the most probable one nowhere gets time in overlap only, if at all
        heard = audible & self.heard()
        kept = confident & heard if heard.sum() >= min_speakers else confident | heard
        rest = np.lexsort((-self.confidence, ~heard))
        rest = rest[audible[rest] & ~kept[rest]]
        kept[rest[: int(max(0, min_speakers - kept.sum()))]] = True
        return np.flatnonzero(kept)

    def _link(
        self,
        kept: np.ndarray,
        merge: float,
        likeness: Likeness | None,
        min_speakers: int = 1,
        max_speakers: float = np.inf,
    ) -> np.ndarray:
        """(k,) groups of the slots that are kept, see `link_slots`."""
        windows = np.zeros((len(self.seconds), len(self.columns)), dtype=bool)
        for window, slots in enumerate(self.columns):
            windows[slots, window] = True
        evidence = self.evidence
        if evidence is not None:
            evidence = Evidence(*(seen[np.ix_(kept, kept)] for seen in evidence))
        return link_slots(
            self.embeddings[kept],
            self.seconds[kept],
            merge,
            min_speakers,
            max_speakers,
            evidence,
            likeness,
            windows[kept],
        )

    def _stay(
        self, kept: np.ndarray, groups: np.ndarray, min_duration: float, min_speakers: int = 1
    ) -> np.ndarray:
        """(K,) bool array: which groups are speakers, at least `min_speakers` of them."""
        held = np.bincount(groups, weights=self.seconds[kept])
        stays, rank = held >= min_duration, held
        if self.is_speaker is not None:
            group_of = np.full(len(self.seconds), -1)
            group_of[kept] = groups
            sums = np.zeros((len(held), self.embeddings.shape[1]))
            weighted = _unit(self.embeddings[kept]) * self.seconds[kept, None]
            np.add.at(sums, groups, weighted)
            rank, probable = self.is_speaker(self.join(group_of), held, _unit(sums))
            stays &= rank >= probable
        least = int(min(max(min_speakers, 1), len(held)))
        stays[np.argsort(-rank, kind="stable")[:least]] = True
        return stays

    def joined(self) -> np.ndarray:
        """(T, N) weightings of all windows; N is the largest number of slots in a window."""
        num_rows = sum(len(part) for part in self.weightings)
        whole = np.zeros((num_rows, max(part.shape[1] for part in self.weightings)), np.float32)
        start = 0
        for part in self.weightings:
            whole[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        return whole

    def heard(self) -> np.ndarray:
        """(M,) bool array: whether the slot is the most probable one of a window anywhere."""
        heard = np.zeros(len(self.seconds), dtype=bool)
        for part, slots in zip(self.weightings, self.columns, strict=True):
            if len(slots):  # nobody is in a silent window
                heard[slots[part.argmax(axis=1)[part.any(axis=1)]]] = True
        return heard

    def join(self, speaker_of: np.ndarray, add: bool = True) -> Groups:
        """Join the weightings of the slots of each speaker, window by window.

        Parameters
        ----------
        speaker_of : (M,) array of int
            See `assign`.
        add : bool, optional
            Add them (default), to 1 at most, or take the largest: whoever has the most probable
            slot is then the most probable speaker, and nobody is outvoted by two slots of another
            one.

        Returns
        -------
        groups : Groups
        """
        parts, present = [], []
        join = np.add if add else np.maximum
        for part, slots in zip(self.weightings, self.columns, strict=True):
            of_column = speaker_of[slots]
            speakers = np.unique(of_column[of_column >= 0])
            joined = np.zeros((len(part), len(speakers)), dtype=np.float32)
            for column in np.flatnonzero(of_column >= 0):
                target = joined[:, np.searchsorted(speakers, of_column[column])]
                join(target, part[:, column], out=target)
            np.minimum(joined, 1.0, out=joined)  # slots that know nothing of each other add up
            parts.append(joined)
            present.append(speakers)
        return Groups(parts, present, int(speaker_of.max()) + 1)

    def merge(self, speaker_of: np.ndarray, add: bool = True) -> np.ndarray:
        """Join the weightings of the slots of each speaker, see `join`.

        Returns
        -------
        weightings : (T, K) array
            One column a speaker, zero in windows without the speaker.
        """
        return self.join(speaker_of, add).spread()
