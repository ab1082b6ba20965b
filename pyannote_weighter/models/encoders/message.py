"""Unrolled assignment by approximate message passing.

Rounds of `MarkovRefiner` are variational: each takes the means of the round before as if they
were independent of the frames that made them. Where vectors have about as many dimensions as
there are frames of a speaker, they are not: the noise of a frame is in the mean that the frame is
compared with, and the noise of a mean is in the posteriors that the next mean is made with.
Message passing takes both echoes away, each to first order (Onsager's correction).
"""

import math

import torch
from torch import Tensor, nn

from pyannote_weighter.models.encoders.markov import MarkovRefiner, noise_level


class MessageRefiner(MarkovRefiner):
    """`MarkovRefiner` whose rounds remember, and whose vectors vary around zero.

    Three things differ from it. From the sum of a slot's frames is taken what the means of the
    round before put there by themselves. How well means are known follows from how much weightings
    overlap, not from their sums alone: two slots that share all frames know one mean, not two.
    And frames are not centred: that speakers vary around zero tells where their means can be.
    Frames that have a known offset must be given without it; a shift changes the answer.

    Parameters
    ----------
    num_rounds, dwell, num_phases, window
        See `MarkovRefiner`.

    References
    ----------
    Lesieur, Krzakala, Zdeborova, "Constrained low-rank matrix estimation: phase transitions,
    approximate message passing and applications", J. Stat. Mech. 2017, section 3 (rounds; there
    frames are independent of each other, here the prior is a Markov chain).
    Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing", PNAS 2009 (the
    correction).
    """

    def __init__(
        self,
        num_rounds: int = 6,
        dwell: tuple[float, ...] = (15.0, 40.0, 120.0),
        num_phases: int = 4,
        window: int = 2000,
    ):
        super().__init__(num_rounds, dwell, num_phases, window)
        # 1 is the theory's, which has no uncertainty either: it is in the precisions
        self.echo = nn.Parameter(torch.ones(num_rounds))
        nn.init.zeros_(self.uncertainty)
        # logit of how far precisions are those of overlaps, not of sums
        self.overlap = nn.Parameter(torch.zeros(num_rounds))
        # of these coefficients, a logarithm of the number of slots: where many share few frames,
        # rounds need damping
        slopes = torch.tensor([0.0, -0.4, 0.0, 0.5, -0.3, 0.0])
        self.slopes = nn.Parameter(slopes[:, None].repeat(1, num_rounds))

    def standardize(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Divide frames by the noise; their centre is zero."""
        sigma = noise_level(frames)
        center = frames.new_zeros(len(frames), 1, frames.shape[-1])
        return frames / sigma[:, None, None], center, sigma

    def step(
        self,
        z: Tensor,
        energy: Tensor,
        posterior: Tensor,
        sigma: Tensor,
        r: int,
        memory: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood of frames in slots, without what all slots share.

        Parameters
        ----------
        z : (B, T, D) tensor
            Frames in units of the noise.
        energy : (B, T, 1) tensor
            Squared length of each.
        posterior : (B, T, N) tensor
        sigma : (B,) tensor
            Noise.
        r : int
            Round.
        memory : (B, N, D) tensor or None
            Means of the round before.

        Returns
        -------
        scores : (B, T, N) tensor
        means : (B, N, D) tensor
        """
        coefficients = torch.stack(
            [
                self.log_temperature,
                self.log_spread,
                self.own_share,
                self.uncertainty,
                self.echo,
                self.overlap,
            ]
        )[:, r]
        coefficients = coefficients + self.slopes[:, r] * math.log(posterior.shape[-1] / 2)
        log_temperature, log_spread, own_share, uncertainty, echo, overlap = coefficients

        count = torch.diag_embed(posterior.sum(1))  # (B, N, N)
        # how much posteriors move with their scores, in all: count less their overlaps
        moving = count - posterior.mT @ posterior
        sums = posterior.mT @ z  # (B, N, D)
        if memory is not None:
            sums = sums - echo * (moving @ memory)
        identity = torch.eye(count.shape[-1], device=z.device, dtype=z.dtype)
        prior = (sigma.square() / log_spread.exp())[:, None, None]
        precision = count - overlap.sigmoid() * moving + prior * identity
        covariance = torch.linalg.inv(precision)  # (B, N, N), of the means in each dimension
        means = covariance @ sums
        own = own_share * energy * (posterior @ covariance)  # (B, T, N)
        variance = z.shape[-1] * covariance.diagonal(dim1=1, dim2=2)  # (B, N)
        squared = means.square().sum(-1) + uncertainty * variance
        scores = z @ means.mT - own - squared.unsqueeze(1) / 2
        return log_temperature.exp() * scores, means
