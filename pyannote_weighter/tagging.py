"""How completely files are tagged: the share of present speakers who have a like.

Whoever is heard in a file without being tagged tells about it. The tagging rate is the price of
confidence (lambda) with which speakers who are present but untagged are not driven down, see
`pyannote_weighter.losses.SetCriterion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyannote_weighter.losses import like_matrix

NUM_BINS = 480
LARGEST_LOGIT = 12.0


def tagging_rate(
    tagged: Tensor, untagged: Tensor, deviations: float = 1.0, least_share: float = 0.1
) -> float:
    """Estimate the share of present speakers who are tagged.

    A pair of a file and a known speaker has a score, such as the claim of the file that the
    speaker is in it. Tagged pairs are all present; untagged ones are a mixture of present
    and absent. At a score that only present pairs reach, let q be the share of the tagged pairs
    that reach it and n the number of untagged ones: then n / q untagged pairs are present, and

        rate = tagged / (tagged + n / q)

    This is mixture proportion estimation from positive and unlabelled data. As in best bin
    estimation (Garg et al., "Mixture proportion estimation and PU learning: a modern approach",
    NeurIPS 2021) the score is the one where an upper bound on n / q is least; here the bound has
    the deviation of a count, sqrt(n), because present pairs are few among many untagged ones.

    It holds as far as (1) who is tagged among the present has nothing to do with the score, (2)
    some scores are reached by present pairs only, and (3) tags are right. A model that knows by
    heart who is tagged breaks the first: the estimate is then too high. Voices that the model
    confounds, and wrong tags, break the others: it is then too low.

    Parameters
    ----------
    tagged, untagged : (bin,) tensors
        Histograms of the scores of pairs, ascending, over the same bins.
    deviations : float, optional
        Width of the upper bound.
    least_share : float, optional
        Of the tagged pairs that have to reach a score to be counted on.

    Returns
    -------
    rate : float
        In (0, 1]; 1 where nothing is tagged.
    """
    tagged, untagged = tagged.double(), untagged.double()
    above_tagged = tagged.flip(0).cumsum(0)
    total = above_tagged[-1]
    if total == 0:
        return 1.0
    share, number = above_tagged / total, untagged.flip(0).cumsum(0)
    spread = (share * (1 - share) / total).sqrt()
    bound = (number + deviations * (number + 1).sqrt()) / (share - deviations * spread).clamp_min(
        1e-9
    )
    best = torch.where(share >= least_share, bound, torch.inf).argmin()
    return (total / (total + number[best] / share[best])).item()


class TaggingRate(nn.Module):
    """Tagging rate of one epoch after another, in memory that does not grow.

    Parameters
    ----------
    first : float
        Taken for the rate until an epoch is over.
    """

    tagged: Tensor
    untagged: Tensor
    rate: Tensor

    def __init__(self, first: float):
        super().__init__()
        self.first = first
        self.register_buffer("tagged", torch.zeros(NUM_BINS, dtype=torch.long))
        self.register_buffer("untagged", torch.zeros(NUM_BINS, dtype=torch.long))
        self.register_buffer("rate", torch.tensor(float(first)))
        self.register_buffer("epoch", torch.tensor(0))

    def reset(self) -> None:
        """Forget everything, before another training."""
        for counted in (self.tagged, self.untagged, self.epoch):
            counted.zero_()
        self.rate.fill_(self.first)

    @torch.no_grad()
    def observe(
        self, claims: Tensor, likes: Sequence[Tensor | None], files: Sequence | None = None
    ) -> None:
        """Count the scores of a batch.

        Parameters
        ----------
        claims : (batch, speaker) tensor
            In [0, 1].
        likes : list of (like,) tensors, or None
            Files with unknown likes are left out.
        files : list, optional
            Not used.
        """
        known = [index for index, speakers in enumerate(likes) if speakers is not None]
        if not known:
            return
        logits = torch.logit(claims[known].float(), eps=1e-6) / LARGEST_LOGIT
        bins = ((logits.clamp(-1, 1) + 1) / 2 * (NUM_BINS - 1)).round().long()  # (file, speaker)
        liked = like_matrix([likes[index] for index in known], bins.shape[1]).bool()
        liked = liked.to(bins.device)
        for histogram, chosen in ((self.tagged, bins[liked]), (self.untagged, bins[~liked])):
            histogram += torch.bincount(chosen, minlength=NUM_BINS).to(histogram)

    def set_epoch(self, epoch: int) -> None:
        """Estimate the rate from what was observed, and start again."""
        if epoch <= self.epoch:
            return
        self.epoch.fill_(epoch)
        self.rate.fill_(tagging_rate(self.tagged, self.untagged))
        self.tagged.zero_()
        self.untagged.zero_()
