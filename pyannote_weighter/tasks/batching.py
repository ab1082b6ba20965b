"""Batches of samples of similar length, planned alike in every process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

POOL = 25  # optimizer steps whose samples are sorted together: more pad less and mix less


def plan_epoch(
    lengths: Sequence[int],
    splice: float,
    batch_size: int,
    num_processes: int,
    seed: Sequence[int],
    kinds: Sequence[int] | None = None,
    files: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Every file, or piece of one, once, in batches of samples of similar length.

    Files are shuffled, sorted by length within pools of `POOL` steps, and cut into steps, which
    are shuffled. The plan depends on the arguments alone: processes and workers that make the
    same one take their share of it, and who resumes goes on with it.

    Parameters
    ----------
    lengths : list of int
        Frames of each.
    splice : float
        Probability of appending another file.
    batch_size : int
        Of one process.
    num_processes : int
        They have equally many batches of equal sizes: where files do not divide evenly, the first
        ones of the epoch come twice.
    seed : list of int
        Not negative, such as seed and epoch.
    kinds : list of int, optional
        Only files of one kind are appended to each other. Defaults to one kind for all.
    files : list of int, optional
        File of each piece: pieces of one file are not appended to each other. Defaults to one
        piece a file.

    Returns
    -------
    steps : list of (num_processes, at most batch_size, 2) int arrays
        Indices of a file and of the one to append, or -1.
    """
    rng = np.random.default_rng(seed)
    lengths, num_files = np.asarray(lengths), len(lengths)
    kinds = np.zeros(num_files, dtype=int) if kinds is None else np.asarray(kinds)
    _, kind, number = np.unique(kinds, return_inverse=True, return_counts=True)
    by_kind, start = np.argsort(kinds, kind="stable"), number.cumsum() - number
    others = by_kind[start[kind] + rng.integers(number[kind])]  # each of the same kind
    appended = np.where(rng.random(num_files) < splice, others, -1)
    if files is not None:
        files, itself = np.asarray(files), np.arange(num_files)
        appended[(files[appended] == files) & (appended != itself)] = -1
    totals = lengths + np.where(appended >= 0, lengths[appended], 0)
    order = np.resize(
        rng.permutation(num_files), math.ceil(num_files / num_processes) * num_processes
    )
    size = batch_size * num_processes  # of a step
    num_steps = math.ceil(len(order) / size)
    steps = []
    for pool in np.array_split(np.arange(num_steps), math.ceil(num_steps / POOL)):
        pooled = order[pool[0] * size : (pool[-1] + 1) * size]
        pooled = pooled[np.argsort(totals[pooled], kind="stable")]
        for first in range(0, len(pooled), size):
            # neighbours go to different processes, which then have equally much to do
            files = pooled[first : first + size].reshape(-1, num_processes).T
            steps.append(np.stack([files, appended[files]], axis=-1))
    return [steps[index] for index in rng.permutation(len(steps))]
