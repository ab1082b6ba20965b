"""First prototypes of the liked speakers: what files that share a like have in common."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.matching import assign


def shared_prototypes(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    num_speakers: int,
    num_rounds: int = 10,
) -> Tensor:
    """Alternate between assigning likes to slots and averaging the assigned slots.

    Learning starts from a classifier that knows nothing: the first assignments are arbitrary and
    the classifier learns them by heart. The slots that files with one like have in common are a
    better start, and cost one pass over the files.

    Parameters
    ----------
    embeddings : list of (N, D) tensors
        Slots of each file.
    weights : list of (N,) tensors
        Share of the speech that each slot holds.
    likes : list of (L,) long tensors
        Speaker indices of each file.
    num_speakers : int
        K.
    num_rounds : int

    Returns
    -------
    prototypes : (K, D) tensor
        Unit vectors. Speakers that are liked nowhere get a random one.
    """
    slots = [F.normalize(e.float(), dim=-1) for e in embeddings]
    dimension = slots[0].shape[-1]
    generator = torch.Generator().manual_seed(0)
    unknown = torch.randn(num_speakers, dimension, generator=generator)

    average = torch.stack([w @ e for w, e in zip(weights, slots, strict=True)])  # (files, D)
    total = torch.zeros(num_speakers, dimension)
    for file_average, speakers in zip(average, likes, strict=True):
        total[speakers] += file_average - average.mean(dim=0)
    liked = torch.zeros(num_speakers, dtype=torch.bool)
    liked[torch.cat(list(likes)) if len(likes) else []] = True
    prototypes = F.normalize(torch.where(liked[:, None], total, unknown), dim=-1)

    for _ in range(num_rounds):
        total = torch.zeros(num_speakers, dimension)
        for file_slots, weight, speakers in zip(slots, weights, likes, strict=True):
            if not len(speakers):
                continue
            similarity = file_slots @ prototypes[speakers].T  # (N, L)
            chosen, columns = assign(-similarity - 0.05 * (weight[:, None] + 1e-3).log())
            total[speakers[columns]] += file_slots[chosen]
        found = total.norm(dim=-1) > 1e-6
        prototypes = F.normalize(torch.where(found[:, None], total, prototypes), dim=-1)
    return prototypes
