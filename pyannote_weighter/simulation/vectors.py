"""Vectors that switch over time along a random walk: the smallest world that has speakers.

A point walks on [0, 1] and is reflected at both ends,

    position(t) = |((cumsum(randn / scale) + u) mod 2) - 1|,  u uniform on [0, 2]

The interval is cut into one part a speaker, and who speaks is where the point is. Speakers are
vectors of N(0, I_d), a frame is the vector of whoever speaks plus sigma times N(0, I_d).
With two speakers, the walk crosses the border at 1/2 at a rate of sqrt(2/pi)/scale a frame, and
crossings come in bursts: a point that has just crossed is still close to the border.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """A batch of simulated sequences."""

    frames: Tensor
    """(batch, time, dimension) noisy frames."""
    active: Tensor
    """(batch, time, speaker) bool: who speaks. Nobody in silence, two in overlap."""
    vectors: Tensor
    """(batch, speaker, dimension) vectors of the speakers."""

    @property
    def speaker(self) -> Tensor:
        """(batch, time) int64: index of the one who speaks, -1 in silence and overlap."""
        alone = self.active.sum(-1) == 1
        return torch.where(alone, self.active.int().argmax(-1), -1)

    @property
    def present(self) -> Tensor:
        """(batch,) int64: how many speak at all. The walk need not reach every part."""
        return self.active.any(1).sum(1)


def label_by_number(
    frames: Tensor, present: Tensor, label: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Labels of a method that is told how many speak in each sequence.

    Parameters
    ----------
    frames : (batch, time, dimension) tensor
    present : (batch,) int64 tensor
        See `Sequences.present`.
    label : callable
        From frames of some sequences, and how many speak in each of them, to labels.

    Returns
    -------
    labels : (batch, time) int64 tensor
        Zeros where nobody speaks.
    """
    labels = torch.zeros(frames.shape[:2], dtype=torch.int64, device=frames.device)
    for number in present[present > 0].unique().tolist():
        some = (present == number).nonzero().flatten().to(frames.device)
        labels[some] = label(frames[some], number).to(labels)
    return labels


@dataclass(frozen=True)
class RandomWalkVectors:
    """Recipe of sequences of vectors that switch along a reflecting random walk.

    Parameters
    ----------
    num_speakers : int
        K. The interval [0, 1] is cut into K parts, in order: the walk goes from a speaker to one
        of at most two neighbours.
    scale : float
        The walk takes steps of standard deviation 1 / scale: larger is slower.
    num_frames : int
        T.
    dimension : int
        d.
    sigma : float
        Standard deviation of the noise, per dimension. That of the vectors is 1.
    overlap : float, optional
        Share of the interval, in equal bands around the borders, where both neighbours speak: a
        frame is then the sum of two vectors.
    silence : float, optional
        Share of time in which nobody speaks and a frame is noise alone: where a second,
        independent walk is below this value.
    shares : sequence of float, optional
        Parts of the interval, one a speaker, which are their expected shares of time. They are
        normalised to sum to one. Defaults to equal ones.

    Raises
    ------
    ValueError
        Where a parameter is out of its range.
    """

    num_speakers: int = 2
    scale: float = 30.0
    num_frames: int = 900
    dimension: int = 64
    sigma: float = 4.0
    overlap: float = 0.0
    silence: float = 0.0
    shares: Sequence[float] | None = None

    def __post_init__(self):
        for name in ("num_speakers", "num_frames", "dimension"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose at least 1")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}: choose a positive number")
        if not 0 <= self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}: choose a finite number of at least 0")
        for name in ("overlap", "silence"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose from [0, 1)")
        if self.shares is not None and (
            len(self.shares) != self.num_speakers or not min(self.shares) > 0
        ):
            raise ValueError(
                f"shares are {tuple(self.shares)}: give {self.num_speakers} positive numbers, "
                "one a speaker"
            )
        if self.num_speakers > 1 and self.overlap > 0:
            widths = self.edges.diff()
            band = self.overlap / (self.num_speakers - 1)
            if band > widths.min():
                raise ValueError(
                    f"overlap is {self.overlap}: bands of {band:.3g} around the borders do not "
                    f"fit into a speaker's part of {widths.min():.3g}; choose a smaller overlap"
                )

    @property
    def edges(self) -> Tensor:
        """(speaker + 1,) borders of the speakers' parts of [0, 1], float64."""
        shares = [1.0] * self.num_speakers if self.shares is None else self.shares
        shares = torch.as_tensor(shares, dtype=torch.float64)
        edges = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
        return edges / edges[-1]

    def speakers_at(self, position: Tensor) -> Tensor:
        """Who speaks at positions of the walk, before silence.

        Parameters
        ----------
        position : (...) tensor
            Values in [0, 1].

        Returns
        -------
        active : (..., speaker) bool tensor
        """
        edges = self.edges.to(position)
        band = self.overlap / max(self.num_speakers - 1, 1) / 2
        position = position.unsqueeze(-1)
        lower, upper = edges[:-1] - band, edges[1:] + band
        lower[0], upper[-1] = -1.0, 2.0
        return (position >= lower) & (position < upper)

    def draw_active(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw who speaks when, (batch, time, speaker) bool, on the generator's device."""
        active = self.speakers_at(random_walk(batch, self.num_frames, self.scale, generator))
        if self.silence > 0:
            other = random_walk(batch, self.num_frames, self.scale, generator)
            active &= (other >= self.silence).unsqueeze(-1)
        return active

    def draw_frames(self, active: Tensor, generator: torch.Generator | None = None) -> Sequences:
        """Draw vectors and noise for sequences whose speakers are known.

        With a generator in the same state, vectors and noise are the same for every sigma, but
        for its factor.
        """
        device = active.device
        batch, num_frames, _ = active.shape
        size = (batch, self.num_speakers, self.dimension)
        vectors = torch.randn(size, generator=generator, device=device)
        noise = torch.randn(
            (batch, num_frames, self.dimension), generator=generator, device=device
        )
        frames = torch.baddbmm(noise, active.to(vectors.dtype), vectors, beta=self.sigma)
        return Sequences(frames, active, vectors)

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Sequences:
        """Draw a batch of sequences.

        Parameters
        ----------
        batch : int
        generator : torch.Generator, optional
            Seeds the draw and says on which device. Defaults to torch's global one on the CPU.

        Returns
        -------
        sequences : Sequences
        """
        return self.draw_frames(self.draw_active(batch, generator), generator)


def random_walk(
    batch: int, num_frames: int, scale: float, generator: torch.Generator | None = None
) -> Tensor:
    """Reflecting random walk on [0, 1].

    Parameters
    ----------
    batch, num_frames : int
    scale : float
        Steps have a standard deviation of 1 / scale.
    generator : torch.Generator, optional

    Returns
    -------
    position : (batch, time) float32 tensor
    """
    device = "cpu" if generator is None else generator.device
    steps = torch.randn((batch, num_frames), generator=generator, device=device)
    start = 2 * torch.rand((batch, 1), generator=generator, device=device)
    # float64, or the sum loses its last digits in long sequences
    path = (steps.double() / scale).cumsum(1) + start
    return ((path % 2) - 1).abs().float()


def dominance(active: Tensor) -> Tensor:
    """Share of the speaker who speaks most, of all speech: (batch, time, speaker) to (batch,).

    With two speakers, a balance of 20 to 80 % is a dominance of at most 0.8. Silence gives 1.
    """
    speech = active.sum(1, dtype=torch.float32)  # (batch, speaker)
    total = speech.sum(1)
    return torch.where(total > 0, speech.amax(1) / total.clamp(min=1), 1.0)
