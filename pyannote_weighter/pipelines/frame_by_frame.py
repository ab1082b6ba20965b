"""Frame-by-frame speaker assignment made by hand: no learning, numpy only.

Frames are compared with one mean per speaker, smoothed over time by a sticky Markov chain, and
handed to their most probable speakers, as many as the segmentation counts there; repeat.
"""

from dataclasses import dataclass

import numpy as np

from pyannote_weighter.assignment import top_speakers


@dataclass(frozen=True)
class FrameByFrame:
    """Parameters of the assignment.

    Parameters
    ----------
    rounds : int
        Number of rounds of means, posteriors, assignment.
    scale : float
        Log-likelihood of a frame is `scale` times its cosine to the mean of a speaker.
    stay : float
        Probability that the speaker of a frame is the speaker of the frame before.
    merge : float, optional
        Speakers whose means are closer than this cosine become one. Defaults to no merging.
    min_duration : float
        Speakers that are given less than this (seconds) are dropped. Defaults to 0.
    """

    rounds: int = 3
    scale: float = 20.0
    stay: float = 0.97
    merge: float | None = None
    min_duration: float = 0.0

    def __call__(
        self, embeddings: np.ndarray, active: np.ndarray, count: np.ndarray, step: float
    ) -> np.ndarray:
        """Give frames to speakers.

        Parameters
        ----------
        embeddings : (T, D) array
            Embedding of every frame.
        active : (T, K) array
            Speakers to start from: 1 where a speaker is active, 0 elsewhere.
        count : (T,) array
            Number of speakers who are active at every frame.
        step : float
            Duration of a frame, in seconds.

        Returns
        -------
        posteriors : (T, K') array
            Probability of every speaker at every frame, K' <= K when speakers are merged or
            dropped. Rows sum to one.
        """
        embeddings = unit_length(embeddings)
        active = active[:, active.sum(axis=0) > 0]
        if active.shape[1] == 0:
            raise ValueError("no speaker to start from: `active` is zero everywhere")

        for _ in range(self.rounds):
            means, weights = speaker_means(embeddings, active)
            if self.merge is not None:
                means = merge_closest(means, weights, self.merge)
            # frames without speech say nothing about who speaks
            scores = np.where(count[:, None] > 0, self.scale * embeddings @ means.T, 0.0)
            posteriors = sticky_posteriors(scores, self.stay)  # (T, K)
            active = 1.0 * top_speakers(posteriors, count)

            long_enough = active.sum(axis=0) * step >= self.min_duration
            if not long_enough.any():
                long_enough[np.argmax(active.sum(axis=0))] = True
            if not long_enough.all():
                posteriors = posteriors[:, long_enough] + 1e-12
                posteriors /= posteriors.sum(axis=1, keepdims=True)
                active = 1.0 * top_speakers(posteriors, count)

        return posteriors


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (..., D) to length one; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def speaker_means(embeddings: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every speaker, from frames with exactly one active speaker.

    A speaker who is never alone gets the mean of all its frames, one without frames a zero mean.

    Parameters
    ----------
    embeddings : (T, D) array
    active : (T, K) array of 0 and 1

    Returns
    -------
    means : (K, D) array of length one
    weights : (K,) array
        Number of frames behind every mean.
    """
    alone = active * (active.sum(axis=1, keepdims=True) == 1)
    frames = np.where(alone.sum(axis=0) > 0, alone, active)  # (T, K)
    return unit_length(frames.T @ embeddings), frames.sum(axis=0)


def merge_closest(means: np.ndarray, weights: np.ndarray, cosine: float) -> np.ndarray:
    """Merge the two closest means, as often as two are closer than `cosine`.

    Parameters
    ----------
    means : (K, D) array of length one
    weights : (K,) array
        Number of frames behind every mean: what a merged mean is weighted with.
    cosine : float

    Returns
    -------
    means : (K', D) array of length one
    """
    means, weights = means.copy(), weights.astype(float)
    while len(means) > 1:
        closeness = means @ means.T
        np.fill_diagonal(closeness, -np.inf)
        first, second = np.unravel_index(np.argmax(closeness), closeness.shape)
        if closeness[first, second] <= cosine:
            break
        means[first] = unit_length(weights[first] * means[first] + weights[second] * means[second])
        weights[first] += weights[second]
        means, weights = np.delete(means, second, axis=0), np.delete(weights, second)
    return means


def sticky_posteriors(scores: np.ndarray, stay: float) -> np.ndarray:
    """Forward-backward over a Markov chain that stays where it is with probability `stay`.

    Parameters
    ----------
    scores : (T, K) array
        Log-likelihood of every frame under every state.
    stay : float
        Probability to stay; the rest is shared evenly by the other states.

    Returns
    -------
    posteriors : (T, K) array
        Rows sum to one.
    """
    num_frames, num_states = scores.shape
    if num_states == 1:
        return np.ones((num_frames, 1))

    leave = (1.0 - stay) / (num_states - 1)
    likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))  # (T, K)

    # transition matrix = leave everywhere + (stay - leave) on the diagonal; messages sum to one
    forward = np.empty_like(likelihoods)
    message = np.full(num_states, 1.0 / num_states)
    for t in range(num_frames):
        message = likelihoods[t] * (leave + (stay - leave) * message)
        message /= message.sum()
        forward[t] = message

    backward = np.empty_like(likelihoods)
    message = np.full(num_states, 1.0 / num_states)
    for t in range(num_frames - 1, -1, -1):
        backward[t] = message
        message = likelihoods[t] * message
        message /= message.sum()
        message = leave + (stay - leave) * message

    posteriors = forward * backward
    return posteriors / posteriors.sum(axis=1, keepdims=True)
