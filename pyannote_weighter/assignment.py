"""From weightings to who speaks when: plain array functions, no model."""

import numpy as np


def top_speakers(weightings: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Give each frame to its most probable speakers, as many as are counted there.

    Parameters
    ----------
    weightings : (T, K) array
    count : (T,) array of int
        Number of speakers at the same time.

    Returns
    -------
    active : (T, K) bool array
        Exactly min(count, K) speakers in each frame, ties to the first.
    """
    num_frames, num_speakers = weightings.shape
    order = np.argsort(-weightings, axis=1, kind="stable")  # (T, K)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(num_speakers)[None].repeat(num_frames, 0), axis=1)
    return rank < np.asarray(count).reshape(-1, 1)
