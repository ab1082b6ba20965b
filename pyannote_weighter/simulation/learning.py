"""Training on simulated vectors, from frame labels or from likes.

One model is trained over all conditions at once: every step draws a dimension, a number of
speakers, a scale of the walk, a length and a noise. Vectors are drawn anew every step, so what is
learned is a procedure and no speaker.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyannote_weighter.losses import SetCriterion
from pyannote_weighter.matching import assign
from pyannote_weighter.models.encoders.markov import Refined
from pyannote_weighter.simulation.vectors import RandomWalkVectors, Sequences
from pyannote_weighter.weighting import confidence


@dataclass(frozen=True)
class Conditions:
    """What sequences of a training are like: each step draws one of each.

    Parameters
    ----------
    dimensions, speakers, lengths : tuple of int
        Drawn uniformly.
    scales : (float, float)
        Range of the scale of the walk, drawn log-uniformly.
    noise : (float, float)
        Range of sigma / sqrt(dimension), drawn log-uniformly: two speakers are sqrt(2 * dimension)
        apart.
    batch_size : int
        Sequences a step.
    """

    dimensions: tuple[int, ...] = (16, 64, 256)
    speakers: tuple[int, ...] = (2, 2, 3, 5)
    lengths: tuple[int, ...] = (200, 300, 500)
    scales: tuple[float, float] = (15.0, 130.0)
    noise: tuple[float, float] = (0.4, 2.5)
    batch_size: int = 24

    def draw(self, generator: torch.Generator) -> tuple[RandomWalkVectors, Sequences]:
        """Draw the recipe of a step and its sequences."""

        def choose(values):
            return values[torch.randint(len(values), (), generator=generator)]

        def log_uniform(low, high):
            return low * (high / low) ** torch.rand((), generator=generator).item()

        dimension = choose(self.dimensions)
        recipe = RandomWalkVectors(
            num_speakers=choose(self.speakers),
            scale=log_uniform(*self.scales),
            num_frames=choose(self.lengths),
            dimension=dimension,
            sigma=log_uniform(*self.noise) * math.sqrt(dimension),
        )
        return recipe, recipe.draw(self.batch_size, generator)


def frame_loss(refined: Refined, sequences: Sequences) -> Tensor:
    """Cross-entropy of frames under the assignment of speakers to slots that fits best.

    Frames of silence and overlap do not count. The assignment is that of the last round, the loss
    is taken in all rounds.
    """
    target = sequences.active & (sequences.active.sum(-1, keepdim=True) == 1)
    target = target.to(refined.weightings[-1].dtype)  # (B, T, K)
    logs = [(x + 1e-6).log() for x in refined.weightings]  # (B, T, N)
    with torch.no_grad():
        cost = -(logs[-1].transpose(1, 2) @ target)  # (B, N, K)
        order = torch.zeros_like(cost)
        for file, matrix in enumerate(cost):
            order[(file, *assign(matrix))] = 1.0
    total = target.sum().clamp(min=1)
    return -sum((log @ order * target).sum() for log in logs) / total / len(logs)


class LikesLoss:
    """The package's loss from likes, with vectors of the batch as classes.

    A file's likes name its speakers, without times. A class is a vector of unit length, compared with
    the mean frame of a slot by cosine, as a metric-learning classifier that was trained on many
    files would do. No such classifier is trained here: vectors are drawn anew every step.

    Parameters
    ----------
    missing : float
        Share of likes that are left out at random.
    lambda_ : float, optional
        See `SetCriterion`. Defaults to the share of likes that is kept.
    temperature : float
        Factor of cosines.
    """

    def __init__(
        self, missing: float = 0.0, lambda_: float | None = None, temperature: float = 20.0
    ):
        self.missing = missing
        self.temperature = temperature
        self.criterion = SetCriterion(lambda_=1 - missing if lambda_ is None else lambda_)

    def __call__(
        self, refined: Refined, sequences: Sequences, generator: torch.Generator
    ) -> Tensor:
        """Loss of a batch, averaged over rounds."""
        present = sequences.active.any(1)  # (B, K)
        batch, num_speakers = present.shape
        kept = torch.rand(present.shape, generator=generator) >= self.missing
        numbers = torch.arange(batch * num_speakers).view(batch, num_speakers)
        likes = [n[k] for n, k in zip(numbers, present & kept, strict=True)]
        classes = F.normalize(sequences.vectors.flatten(0, 1), dim=-1)  # (B * K, D)
        loss = 0.0
        for weightings, means in zip(refined.weightings, refined.means, strict=True):
            cosine = F.normalize(means, dim=-1) @ classes.T  # (B, N, B * K)
            log_posteriors = (self.temperature * cosine).log_softmax(-1)
            loss = loss + self.criterion(confidence(weightings), log_posteriors, likes).loss
        return loss / len(refined.weightings)


def train(
    model: nn.Module,
    loss: Callable,
    conditions: Conditions,
    num_steps: int,
    learning_rate: float = 0.03,
    seed: int = 0,
) -> Iterator[float]:
    """Train a model in place; yields the loss of each step.

    Parameters
    ----------
    model : nn.Module
        (B, T, D) frames and a number of slots to `Refined`.
    loss : callable
        Refined, sequences and a generator to a scalar.
    conditions : Conditions
    num_steps : int
    learning_rate : float, optional
        Of Adam, falling to zero along a cosine.
    seed : int, optional
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    model.train()
    for _ in range(num_steps):
        recipe, sequences = conditions.draw(generator)
        value = loss(model(sequences.frames, recipe.num_speakers), sequences, generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield value.item()
    model.eval()
