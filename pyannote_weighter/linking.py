"""Slots to speakers: which slots, of one window or of several, are one person."""

import numpy as np


def link_slots(
    embeddings: np.ndarray,
    seconds: np.ndarray,
    threshold: float,
    min_speakers: int = 1,
    max_speakers: float = np.inf,
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

    Returns
    -------
    speakers : (M,) array of int
        Group of each slot, numbered by first appearance.
    """
    num_slots = len(embeddings)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    sums = embeddings / np.maximum(norms, 1e-9) * np.maximum(seconds, 1e-3)[:, None]
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
