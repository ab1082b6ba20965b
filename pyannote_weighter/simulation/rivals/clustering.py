"""Clustering of scikit-learn: without time, and after a moving average."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from torch import Tensor

from pyannote_weighter.simulation.rivals.common import each, moving_average, rival
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors, dominance, label_by_number


@rival
def k_means(frames: Tensor, num_speakers: int, seed: int = 0) -> Tensor:
    """k-means of scikit-learn, the best of four runs."""
    return each(frames, KMeans(num_speakers, n_init=4, random_state=seed).fit_predict)


@rival
def agglomerative(frames: Tensor, num_speakers: int, seed: int = 0) -> Tensor:
    """Agglomerative clustering of scikit-learn with Ward's criterion; nothing is random."""
    return each(frames, AgglomerativeClustering(num_speakers, linkage="ward").fit_predict)


@rival
def spectral(frames: Tensor, num_speakers: int, seed: int = 0) -> Tensor:
    """Spectral clustering of scikit-learn; similarity falls with squared distance, as exp(-4 x).

    Distances are in units of the root of their mean square. In many dimensions all of them are
    about 1, and the factor of 4 (the best of 1/4 to 4) decides how much the differences count.
    """

    def cluster(sequence: np.ndarray) -> np.ndarray:
        mean_square = 2 * sequence.var(0, dtype=np.float64).sum()
        return SpectralClustering(
            num_speakers, gamma=4 / mean_square, n_init=4, random_state=seed
        ).fit_predict(sequence)

    return each(frames, cluster)


@rival
def smoothed_k_means(frames: Tensor, num_speakers: int, window: int = 25, seed: int = 0) -> Tensor:
    """k-means on the moving average over `window` frames; see `choose_window`."""
    return k_means(moving_average(frames, window), num_speakers, seed)


def choose_window(
    recipe: RandomWalkVectors,
    windows: Sequence[int] = (1, 3, 5, 7, 11, 15, 21, 31, 41, 61, 81, 121),
    num_sequences: int = 50,
    seed: int = 0,
) -> int:
    """Window of best mean accuracy of `smoothed_k_means`, on sequences drawn for this alone.

    Parameters
    ----------
    recipe : RandomWalkVectors
        That of the sequences which are to be labelled.
    windows : sequence of int, optional
        Windows to choose from.
    num_sequences : int, optional
        All of them balanced: a dominance of at most 0.8.
    seed : int, optional
        Choose one that the sequences to be labelled were not drawn with.

    Returns
    -------
    window : int

    Raises
    ------
    ValueError
        Where there is no window, or the recipe hardly ever gives a balanced sequence.
    """
    if not windows:
        raise ValueError("there is no window to choose from: give at least one")
    generator = torch.Generator().manual_seed(seed)
    active = recipe.draw_active(100 * num_sequences, generator)
    active = active[dominance(active) <= 0.8][:num_sequences]
    if len(active) < num_sequences:
        raise ValueError(
            f"only {len(active)} of {100 * num_sequences} sequences have a dominance of at most "
            "0.8: choose more frames, a smaller scale, or equal shares"
        )
    sequences = recipe.draw_frames(active, generator)

    def score(window: int) -> float:
        labels = label_by_number(
            sequences.frames,
            sequences.present,
            lambda frames, number: smoothed_k_means(frames, number, window, seed),
        )
        return accuracy(labels, sequences.speaker).mean().item()

    return max(windows, key=score)
