"""Unrolled assignment by approximate message passing.

Rounds of `MarkovRefiner` are variational, and a frame is left out of the mean that it is compared
with. Where vectors have about as many dimensions as a speaker has frames there is a second echo:
the noise of a mean is in the posteriors that were made with it, and comes back from them into the
next mean. Approximate message passing subtracts it, to first order (Onsager's reaction term).
"""

import math

import torch
from torch import Tensor, nn

from pyannote_weighter.forward_backward import count_transitions
from pyannote_weighter.models.encoders.markov import MarkovRefiner, noise_level
from pyannote_weighter.models.encoders.turns import Habits

LEAST = 1e-5  # precision of the prior, as a share of the frames, that float32 still sees

COEFFICIENTS = {
    "log_temperature": 0.0,
    "log_spread": -0.4,
    "own_share": 0.0,
    "uncertainty": 0.5,
    "onsager": -0.3,
    "overlap": 0.0,
}
"""What each coefficient of a round begins to change by where slots are e times as many."""


class MessageRefiner(MarkovRefiner):
    """`MarkovRefiner` whose rounds remember, and whose vectors vary around zero.

    What differs: from the sum of a slot's frames the reaction term is taken, the means of the
    round before times the summed derivative of the posteriors with respect to their scores. The
    precision of the means is, in part, that of the overlaps of posteriors, not of their sums: two
    slots that share all frames know one mean, not two; and a frame is left out through it, to
    first order. Frames are not centred: that speakers vary around zero tells where their means
    can be. Frames that have a known offset must be given without it; a shift changes the answer.

    Speakers have habits: whom they are followed by, how often their turns end. These are counted
    in every round and used in the next one (Baum and Welch's algorithm, with a prior in which
    speakers are alike, whose weight is learned).

    All coefficients of a round are learned, and change with the logarithm of the number of slots
    over two. They begin at those of the theory for two slots, but for the precision, which begins
    half way. Where more slots share few frames, the theory's (of infinitely many frames) merges
    speakers: less reaction and some uncertainty of the means is what they begin with there, chosen
    by hand on simulated vectors.

    Parameters
    ----------
    num_rounds, dwell, num_phases, window
        See `MarkovRefiner`.

    References
    ----------
    Lesieur, Krzakala, Zdeborova, "Constrained low-rank matrix estimation: phase transitions,
    approximate message passing and applications", J. Stat. Mech. 2017 (Low-RAMP, bipartite case;
    there frames are independent of each other, here the prior is a Markov chain). Lesieur et al.,
    "Phase transitions and optimal algorithms in high-dimensional Gaussian mixture clustering",
    Allerton 2016. Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing",
    PNAS 2009 (the reaction term). Baum, Petrie, Soules, Weiss, "A maximization technique occurring
    in the statistical analysis of probabilistic functions of Markov chains", Annals of
    Mathematical Statistics 1970 (habits).
    """

    def __init__(
        self,
        num_rounds: int = 6,
        dwell: tuple[float, ...] = (15.0, 40.0, 120.0),
        num_phases: int = 4,
        window: int = 2000,
    ):
        super().__init__(num_rounds, dwell, num_phases, window)
        # share of the reaction term; the first round has none
        self.onsager = nn.Parameter(torch.ones(num_rounds))
        nn.init.zeros_(self.uncertainty)
        # logit of how far precisions are those of overlaps, not of sums
        self.overlap = nn.Parameter(torch.zeros(num_rounds))
        # how many ends of turns the assumption that slots are alike is worth: whom they are
        # followed by, and how often they end
        self.log_follow = nn.Parameter(torch.tensor(0.0))
        self.log_rate = nn.Parameter(torch.tensor(1.0))
        slopes = torch.tensor(list(COEFFICIENTS.values()))
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
        """Log-likelihood of frames in slots that were made without them, up to a constant a frame.

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
        coefficients = torch.stack([getattr(self, name)[r] for name in COEFFICIENTS])
        coefficients = coefficients + self.slopes[:, r] * math.log(posterior.shape[-1] / 2)
        log_temperature, log_spread, own_share, uncertainty, onsager, overlap = coefficients

        count = torch.diag_embed(posterior.sum(1))  # (B, N, N)
        # how much posteriors move with their scores, in all: count less their overlaps
        moving = count - posterior.mT @ posterior
        sums = posterior.mT @ z  # (B, N, D)
        if memory is not None:
            sums = sums - onsager * (moving @ memory)
        identity = torch.eye(count.shape[-1], device=z.device, dtype=z.dtype)
        prior = (sigma.square() / log_spread.exp())[:, None, None]
        prior = prior.clamp(min=LEAST * z.shape[1])  # of frames without noise
        precision = count - overlap.sigmoid() * moving + prior * identity
        covariance = torch.linalg.inv(precision)  # (B, N, N), of the means in each dimension
        means = covariance @ sums
        own = own_share * energy * (posterior @ covariance)  # (B, T, N)
        variance = z.shape[-1] * covariance.diagonal(dim1=1, dim2=2)  # (B, N)
        squared = means.square().sum(-1) + uncertainty * variance
        scores = z @ means.mT - own - squared.unsqueeze(1) / 2
        return log_temperature.exp() * scores, means

    def take_turns(
        self, scores: Tensor, habits: Habits | None, learn: bool
    ) -> tuple[Tensor, Tensor, Habits | None]:
        """Posterior and evidence of a round, and habits of the speakers for the next one.

        Habits are those that this round's ends of turns show, and some ends of speakers who are
        all alike (a Dirichlet and a gamma prior).
        """
        num_slots = scores.shape[-1]
        if not learn or num_slots == 1:
            return super().take_turns(scores, habits, learn)
        chains = self.run(count_transitions, scores, habits)
        posterior, log_evidence, weight = self.combine(chains)

        alike = (1 - torch.eye(num_slots).to(scores)) / (num_slots - 1)
        with torch.no_grad():
            if habits is None:
                rate = scores.new_ones(len(scores), num_slots)
                habits = Habits(alike.expand(len(scores), -1, -1), rate)
            ends, expected = self.turns.ends(chains.transitions, weight, habits)
        follow = ends + self.log_follow.exp() * alike
        prior = self.log_rate.exp()
        rate = (ends.sum(-1) + prior) / (expected + prior)
        return posterior, log_evidence, Habits(follow / follow.sum(-1, keepdim=True), rate)
