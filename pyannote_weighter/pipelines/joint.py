"""What the segmentation makes of weightings: in its windows, a local speaker is one person."""

from __future__ import annotations

import numpy as np

from pyannote_weighter.likeness import LocalSpeakers

BATCH = 64  # windows at a time
OVERLAP = 0.02  # weight of a frame where others speak too


class LocalOpinion:
    """Who the local speakers of a segmentation are, and so who speaks in each frame.

    A weighting is smooth in time, and where two people talk at once it has to choose one. The
    segmentation has sharp turns and tells both, but knows nobody beyond its window. So each local
    speaker of a window is shared among the speakers as the weightings are over the solo speech
    of the local speaker, and gives that share to all frames where it is active. Windows that see
    the same frame are averaged.

    Parameters
    ----------
    local : LocalSpeakers
        W windows of F frames.
    weightings : (S, K) array
    index : (T',) array of int
        Row of the weightings nearest to each frame of the segmentation, over the whole file.
    """

    def __init__(self, local: LocalSpeakers, weightings: np.ndarray, index: np.ndarray):
        self.local = local
        num_windows, num_frames = local.active.shape
        starts = local.windows.start + local.windows.step * np.arange(num_windows)
        self.starts = np.rint(starts / local.frames.step).astype(int)  # (W,)
        used = int(np.bitwise_or.reduce(local.active, axis=None)) if local.active.size else 0
        self.num_local = max(1, used.bit_length())  # L
        self.shares = np.zeros((num_windows, self.num_local, weightings.shape[1]), np.float32)
        for first in range(0, num_windows, BATCH):
            some = slice(first, first + BATCH)
            at = self.starts[some, None] + np.arange(num_frames)  # (w, F)
            active = self._active(some) * (at < len(index))[..., None]  # (w, F, L)
            solo = active * (active.sum(axis=-1, keepdims=True) == 1) + OVERLAP * active
            x = weightings[index[at.clip(0, len(index) - 1)]]  # (w, F, K)
            held = solo.transpose(0, 2, 1) @ x  # (w, L, K)
            self.shares[some] = held / np.maximum(held.sum(axis=-1, keepdims=True), 1e-9)

    def _active(self, windows: slice) -> np.ndarray:
        """(w, F, L) of 0 and 1."""
        bits = np.unpackbits(self.local.active[windows, :, None], axis=-1, bitorder="little")
        return bits[..., : self.num_local].astype(np.float32)

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Opinion about frames of the segmentation.

        Parameters
        ----------
        first, last : int

        Returns
        -------
        opinion : (last - first, K) array
            Sums to the mean number of local speakers.
        """
        num_frames = self.local.active.shape[1]
        total = np.zeros((last - first, self.shares.shape[-1]), dtype=np.float32)
        seen = np.zeros((last - first, 1), dtype=np.float32)
        near = (self.starts < last) & (self.starts + num_frames > first)
        for window in np.flatnonzero(near):
            start = self.starts[window]
            begin, end = max(first, start), min(last, start + num_frames)
            active = self._active(slice(window, window + 1))[0, begin - start : end - start]
            total[begin - first : end - first] += active @ self.shares[window]
            seen[begin - first : end - first] += 1
        return total / np.maximum(seen, 1)
