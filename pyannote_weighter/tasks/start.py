"""What a training from likes begins with: whose voice each like means, and how far likes go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pyannote_weighter.prototypes import (
    Prototypes,
    complete_likes,
    explained_speech,
    shared_prototypes,
)


class Start(NamedTuple):
    """Start of a training.

    Attributes
    ----------
    prototypes : Prototypes
        Of the likes, those that were found to be missing included: they come last in each file.
    missing : list of (M,) long tensors
        Speakers of each file who have no like there.
    explained : float
        Share of the speech that all these likes account for.
    """

    prototypes: Prototypes
    missing: list[Tensor]
    explained: float


def find_start(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    num_speakers: int,
    most: Sequence[float] | None = None,
    complete: bool = True,
) -> Start:
    """Find prototypes of the liked speakers before a training.

    Parameters
    ----------
    embeddings, weights, likes, num_speakers
        See `pyannote_weighter.prototypes.shared_prototypes`.
    most : list of float, optional
        See `pyannote_weighter.prototypes.missing_likes`.
    complete : bool, optional
        Look for likes that are missing (default).

    Returns
    -------
    start : Start
    """
    if complete:
        found = complete_likes(embeddings, weights, likes, num_speakers, most)
    else:
        none = [speakers[:0] for speakers in likes]
        found = shared_prototypes(embeddings, weights, likes, num_speakers), none, likes
    prototypes, missing, every = found
    explained = explained_speech(embeddings, weights, every, prototypes)
    return Start(prototypes, missing, explained)
