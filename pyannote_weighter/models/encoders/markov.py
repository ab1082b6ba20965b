"""Unrolled assignment with a learned prior of how speakers take turns.

A mixture of Gaussians whose components are slots and whose assignment over time is a Markov
chain, solved by a few rounds of variational expectation-maximisation (Attias 1999; for speakers
Valente 2005, Landini et al. 2022), each step a differentiable function. Learned are the
procedure's own few numbers: how turns begin and end, at several time scales; how much speakers
differ; how far to trust each round. No voice is learned and no dimension is fixed: frames enter
through inner products only, so one set of weights serves any dimension, length and number of
slots, and a rotation of the frames changes nothing.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyannote_weighter.forward_backward import Counted, Posterior, forward_backward
from pyannote_weighter.models.encoders.turns import Habits, TurnTaking
from pyannote_weighter.weighting import pool_mean

EPS = 1e-6
START_WIDTHS = (9, 31, 101)
"""Frames of the moving averages that the start looks through."""
START_FRAMES = 20_000
"""Of longer sequences, about as many frames tell in which directions speakers differ."""


class Refined(NamedTuple):
    """What `MarkovRefiner` returns."""

    weightings: list[Tensor]
    """(B, T, N) of each round; the last one is the answer. They sum to one over slots."""
    means: list[Tensor]
    """(B, N, D) mean frames of these weightings; at inference of the last round alone."""
    scores: Tensor
    """(B, T, N) scores of frames that the last round assigned by."""
    log_evidence: Tensor
    """(B,) log-likelihood of these scores, up to a constant per file."""
    habits: Habits | None = None
    """What the last round took the habits of speakers for; None: all alike."""


class MarkovRefiner(nn.Module):
    """Frames to weightings by rounds of mean, score, forward-backward.

    Parameters
    ----------
    num_rounds : int
        Rounds in training. At inference the last one can be repeated.
    dwell, num_phases
        See `TurnTaking`.
    window : int
        Frames that forward-backward takes in one piece at inference; more are cut into windows
        that overlap.

    References
    ----------
    Attias, "Inferring parameters and structure of latent variable models by variational Bayes",
    UAI 1999. Landini et al., "Bayesian HMM clustering of x-vector sequences (VBx)", Computer
    Speech & Language 2022. Greff et al., "Neural expectation maximization", NeurIPS 2017.
    """

    def __init__(
        self,
        num_rounds: int = 6,
        dwell: tuple[float, ...] = (15.0, 40.0, 120.0),
        num_phases: int = 4,
        window: int = 2000,
    ):
        super().__init__()
        self.num_rounds = num_rounds
        self.window = window
        self.turns = TurnTaking(dwell, num_phases)

        self.log_temperature = nn.Parameter(torch.zeros(num_rounds))
        self.log_spread = nn.Parameter(torch.zeros(num_rounds))
        # shares of two corrections: what a frame did to its own slot's mean, and how uncertain
        # that mean is
        self.own_share = nn.Parameter(torch.ones(num_rounds))
        self.uncertainty = nn.Parameter(torch.ones(num_rounds))
        # weightings are posteriors to this power: how sure to be is one thing, what to go on
        # with in the next round another
        self.log_sharpness = nn.Parameter(torch.zeros(num_rounds))

    def forward(
        self,
        frames: Tensor,
        num_slots: int,
        start: Tensor | None = None,
        num_rounds: int | None = None,
    ) -> Refined:
        """Assign frames to slots.

        Parameters
        ----------
        frames : (B, T, D) tensor
            Noise of about the same size in all dimensions. Its size is measured.
        num_slots : int
            N.
        start : (B, T, N) tensor, optional
            Weightings to start from. Defaults to `start_weightings`.
        num_rounds : int, optional

        Returns
        -------
        refined : Refined

        Raises
        ------
        ValueError
            Where there are no frames, or some are NaN or infinite.
        """
        if frames.ndim != 3 or not frames.numel():
            raise ValueError(f"frames are {tuple(frames.shape)}, not (batch, time, dimension)")
        if not frames.isfinite().all():
            raise ValueError("frames are NaN or infinite: look for what made them, or drop them")
        z, _, sigma = self.standardize(frames)
        posterior = start
        if start is None:
            posterior = start_weightings(z, num_slots)
        energy = z.square().sum(-1, keepdim=True)  # (B, T, 1)
        weightings, means, memory, habits = [], [], None, None
        rounds = range(self.num_rounds if num_rounds is None else num_rounds)
        for number in rounds:
            r = min(number, self.num_rounds - 1)
            scores, memory = self.step(z, energy, posterior, sigma, r, memory)
            known = habits
            posterior, log_evidence, habits = self.take_turns(
                scores, habits, learn=number != rounds[-1]
            )
            sharpness = self.log_sharpness[r].exp()
            weightings.append((sharpness * (posterior + EPS).log()).softmax(-1))
            if self.training or number == rounds[-1]:
                means.append(pool_mean(frames, weightings[-1]))
        return Refined(weightings, means, scores, log_evidence, known)

    def standardize(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames as the rounds see them, what was taken from them, and the noise.

        See the function of this name.
        """
        return standardize(frames)

    def step(
        self,
        z: Tensor,
        energy: Tensor,
        posterior: Tensor,
        sigma: Tensor,
        r: int,
        memory: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (B, T, N) of a round (`score`), and means (B, N, D) for the next one, or None."""
        return self.score(z, energy, posterior, sigma, r), None

    def take_turns(
        self, scores: Tensor, habits: Habits | None, learn: bool
    ) -> tuple[Tensor, Tensor, Habits | None]:
        """Posterior and evidence of a round (`assign`), and habits for the next one."""
        return *self.assign(scores, habits), habits

    def assign(self, scores: Tensor, habits: Habits | None = None) -> tuple[Tensor, Tensor]:
        """Posterior of slots given the scores of frames, over time and over chains.

        Parameters
        ----------
        scores : (B, T, N) tensor
        habits : Habits, optional
            Of the speakers. Defaults to slots that are alike.

        Returns
        -------
        posterior : (B, T, N) tensor
        log_evidence : (B,) tensor
        """
        posterior, log_evidence, _ = self.combine(self.run(forward_backward, scores, habits))
        return posterior, log_evidence

    def run(self, function: Callable, scores: Tensor, habits: Habits | None):
        """`forward_backward` or `count_transitions` of scores, in windows where that pays."""
        window = None if self.training else self.window
        return function(scores, *self.turns(scores.shape[-1], habits), window)

    def combine(self, chains: Posterior | Counted) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior (B, T, N) and evidence (B,) over chains, and posterior (M, B) of chains."""
        log_evidence = chains.log_evidence + self.turns.prior.log_softmax(0).unsqueeze(1)
        weight = log_evidence.softmax(0)
        posterior = torch.einsum("mb,mbtn->btn", weight, chains.slots)
        return posterior, log_evidence.logsumexp(0), weight

    def score(self, z: Tensor, energy: Tensor, posterior: Tensor, sigma: Tensor, r: int) -> Tensor:
        """Expected log-likelihood of frames in slots, without what all slots share.

        A slot's vector has a Gaussian posterior around the regularised mean of its frames. The
        mean leaves out the frame that is scored: it would otherwise vote for where it is
        already, with a weight that grows with the dimension.

        Parameters
        ----------
        z : (B, T, D) tensor
            Frames, centred, in units of the noise.
        energy : (B, T, 1) tensor
            Squared length of each.
        posterior : (B, T, N) tensor
        sigma : (B,) tensor
            Noise.
        r : int
            Round.

        Returns
        -------
        scores : (B, T, N) tensor
        """
        spread = self.log_spread[r].exp() / sigma.square()  # (B,), of vectors in z
        count = posterior.sum(1) + 1 / spread.unsqueeze(1)  # (B, N)
        mean = posterior.transpose(1, 2) @ z / count.unsqueeze(-1)  # (B, N, D)
        inner = z @ mean.transpose(1, 2)  # (B, T, N)
        own = self.own_share[r] * posterior / count.unsqueeze(1)  # (B, T, N)
        squared = mean.square().sum(-1).unsqueeze(1)
        squared = squared - 2 * own * inner + own.square() * energy
        variance = self.uncertainty[r] * z.shape[-1] / count  # (B, N)
        scores = inner - own * energy - (squared + variance.unsqueeze(1)) / 2
        return self.log_temperature[r].exp() * scores


def standardize(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Center frames and divide them by the noise.

    Parameters
    ----------
    frames : (B, T, D) tensor

    Returns
    -------
    z : (B, T, D) tensor
    center : (B, 1, D) tensor
    sigma : (B,) tensor
    """
    center, sigma = frames.mean(1, keepdim=True), noise_level(frames)
    return (frames - center) / sigma[:, None, None], center, sigma


def noise_level(frames: Tensor) -> Tensor:
    """Standard deviation of the noise of (B, T, D) frames, (B,).

    From differences of neighbours, which are of one speaker but for the few frames of a change.
    """
    if frames.shape[1] < 2:
        return frames.new_ones(len(frames))
    variance = (frames[:, 1:] - frames[:, :-1]).square().mean((1, 2)) / 2
    return variance.clamp(min=EPS).sqrt()


def moving_average(series: Tensor, width: int) -> Tensor:
    """Mean over as many frames as there are of a window around each.

    Parameters
    ----------
    series : (B, T, D) tensor
    width : int
        Frames in a window, odd, so that it has a centre.

    Returns
    -------
    means : (B, T, D) tensor

    Raises
    ------
    ValueError
        Where the width is even or less than one.
    """
    return next(_moving_averages(series, (width,)))


def _moving_averages(series: Tensor, widths: tuple[int, ...], every: int = 1) -> Iterator[Tensor]:
    """See `moving_average`, of some widths from the same sums, around every so many frames."""
    num_frames = series.shape[1]
    total = F.pad(series.cumsum(1), (0, 0, 1, 0))  # (B, T + 1, D)
    index = torch.arange(0, num_frames, every, device=series.device)
    for width in widths:
        if width < 1 or width % 2 == 0:
            raise ValueError(f"window is {width}: choose an odd number of at least 1")
        first = (index - width // 2).clamp(min=0)
        last = (index + width // 2 + 1).clamp(max=num_frames)
        yield (total[:, last] - total[:, first]) / (last - first).unsqueeze(-1)


@torch.no_grad()
def start_weightings(z: Tensor, num_slots: int, num_passes: int = 5) -> Tensor:
    """Where to start: slots around frames that are far apart where speakers differ most.

    Noise is independent from frame to frame and speakers are not, so the covariance of frames
    with their neighbours, without themselves, holds speakers alone. Its leading N - 1 directions
    are what N speakers can differ in. In them frames are averaged over time and clustered: first
    those far apart, then soft k-means.

    Parameters
    ----------
    z : (B, T, D) tensor
        Frames in units of the noise.
    num_slots : int
        N.
    num_passes : int, optional
        Of soft k-means.

    Returns
    -------
    posterior : (B, T, N) tensor
    """
    B, T, D = z.shape
    if num_slots == 1:
        return z.new_ones(B, T, 1)
    z = z - z.mean(1, keepdim=True)
    every = max(1, T // START_FRAMES)
    some = z[:, ::every]
    around = sum(_moving_averages(z, START_WIDTHS, every))
    around = around - some * sum(1 / width for width in START_WIDTHS)
    covariance = some.transpose(1, 2) @ around  # (B, D, D)
    _, directions = torch.linalg.eigh(covariance + covariance.transpose(1, 2))
    y = z @ directions[..., -min(num_slots - 1, D) :]
    y = sum(_moving_averages(y, START_WIDTHS[:2])) / 2  # (B, T, R)

    batch = torch.arange(B, device=z.device)
    distance = y.square().sum(-1)  # (B, T), to the centre, then to the closest slot
    centers = []
    for _ in range(num_slots):
        centers.append(y[batch, distance.argmax(1)])
        to_last = (y - centers[-1].unsqueeze(1)).square().sum(-1)
        distance = to_last if len(centers) == 1 else torch.minimum(distance, to_last)
    centers = torch.stack(centers, 1)  # (B, N, R)
    for _ in range(num_passes):
        distance = torch.cdist(y, centers).square()  # (B, T, N)
        width = distance.amin(-1).mean(1)[:, None, None].clamp(min=EPS)
        posterior = (-distance / width).softmax(-1)
        mass = posterior.sum(1).unsqueeze(-1).clamp(min=EPS)
        centers = posterior.transpose(1, 2) @ y / mass
    return posterior
