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
from pyannote_weighter.models.encoders.markov import MarkovRefiner, Refined
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
        Range of K / 2 * sigma / sqrt(dimension), drawn log-uniformly: two speakers are
        sqrt(2 * dimension) apart, and more of them bear less noise.
    batch_size : int
        Sequences a step.
    """

    dimensions: tuple[int, ...] = (16, 64, 256)
    speakers: tuple[int, ...] = (2, 2, 3, 5)
    lengths: tuple[int, ...] = (300, 1000)
    scales: tuple[float, float] = (15.0, 130.0)
    noise: tuple[float, float] = (0.5, 1.8)
    batch_size: int = 16

    def draw(self, generator: torch.Generator) -> tuple[RandomWalkVectors, Sequences]:
        """Draw the recipe of a step and its sequences."""

        def choose(values):
            return values[torch.randint(len(values), (), generator=generator)]

        def log_uniform(low, high):
            return low * (high / low) ** torch.rand((), generator=generator).item()

        dimension, speakers = choose(self.dimensions), choose(self.speakers)
        recipe = RandomWalkVectors(
            num_speakers=speakers,
            scale=log_uniform(*self.scales),
            num_frames=choose(self.lengths),
            dimension=dimension,
            sigma=2 / speakers * log_uniform(*self.noise) * math.sqrt(dimension),
        )
        return recipe, recipe.draw(self.batch_size, generator)


def frame_loss(
    model: nn.Module, refined: Refined, sequences: Sequences, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of frames under the assignment of speakers to slots that fits best.

    Frames of silence and overlap do not count. The assignment is that of the last round. The loss
    is taken in all rounds, the r-th with weight r.
    """
    target = sequences.active & (sequences.active.sum(-1, keepdim=True) == 1)
    target = target.to(refined.weightings[-1].dtype)  # (B, T, K)
    # (B, T, N); a sigmoid's weightings do not sum to one over slots
    logs = [(x / x.sum(-1, keepdim=True) + 1e-6).log() for x in refined.weightings]
    with torch.no_grad():
        cost = -(logs[-1].transpose(1, 2) @ target)  # (B, N, K)
        order = torch.zeros_like(cost)
        for file, matrix in enumerate(cost):
            order[(file, *assign(matrix))] = 1.0
    total = target.sum().clamp(min=1)
    return -_over_rounds([(log @ order * target).sum() for log in logs]) / total


def _over_rounds(losses: list[Tensor]) -> Tensor:
    """Mean in which the r-th has weight r."""
    weights = range(1, len(losses) + 1)
    return sum(r * loss for r, loss in zip(weights, losses, strict=True)) / sum(weights)


class LikesLoss:
    """The package's loss from likes, with vectors of the batch as classes.

    A file's likes name its speakers, without times. A class is a vector of the batch, as the
    prototypes of a metric-learning classifier that was trained on many files would be. No such
    classifier is trained here: vectors are drawn anew every step.

    Two parts. `SetCriterion` matches likes to slots and compares their embeddings with the
    classes: the published loss. `alignment` then says where in the file each like probably is:
    frames are assigned once more, with the mean of each matched slot replaced by the prototype
    of its like, and the weightings should agree with that. As the prototypes are known there,
    the evidence of that assignment also tells how speakers take turns. Slots without a like keep
    their means, so that likes may be missing.

    Parameters
    ----------
    missing : float
        Share of likes that are left out at random.
    alignment : float
        Weight of the second part; 0 leaves the published loss.
    lambda_ : float, optional
        See `SetCriterion`. Defaults to the share of likes that is kept.
    temperature : float
        Factor of cosines in the posterior of classes.
    """

    def __init__(
        self,
        missing: float = 0.0,
        alignment: float = 10.0,
        lambda_: float | None = None,
        temperature: float = 20.0,
    ):
        self.missing = missing
        self.alignment = alignment
        self.temperature = temperature
        self.criterion = SetCriterion(lambda_=1 - missing if lambda_ is None else lambda_)

    def __call__(
        self,
        model: MarkovRefiner,
        refined: Refined,
        sequences: Sequences,
        generator: torch.Generator,
    ) -> Tensor:
        """Loss of a batch, over rounds as in `frame_loss`."""
        present = sequences.active.any(1)  # (B, K)
        batch, num_speakers = present.shape
        kept = torch.rand(present.shape, generator=generator) >= self.missing
        numbers = torch.arange(batch * num_speakers).view(batch, num_speakers)
        likes = [n[k] for n, k in zip(numbers, present & kept, strict=True)]
        vectors = sequences.vectors.flatten(0, 1)  # (B * K, D)
        classes = F.normalize(vectors, dim=-1)
        results = []
        for weightings, means in zip(refined.weightings, refined.means, strict=True):
            cosine = F.normalize(means, dim=-1) @ classes.T  # (B, N, B * K)
            log_posteriors = (self.temperature * cosine).log_softmax(-1)
            results.append(self.criterion(confidence(weightings), log_posteriors, likes))
        loss = _over_rounds([result.loss for result in results])
        if self.alignment > 0:
            target, surprise = align(
                model, refined, sequences.frames, vectors, results[-1].assignment
            )
            disagreement = [-(target * (x + 1e-6).log()).sum(-1) for x in refined.weightings]
            agreed = _over_rounds([x.mean() for x in disagreement])
            loss = loss + self.alignment * (agreed + surprise)
        return loss


def align(
    model: MarkovRefiner,
    refined: Refined,
    frames: Tensor,
    vectors: Tensor,
    assignment: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Assign frames once more, with prototypes in the place of the means of matched slots.

    Parameters
    ----------
    model : MarkovRefiner
    refined : Refined
        What it made of the frames.
    frames : (B, T, D) tensor
    vectors : (speaker, D) tensor
        Prototypes.
    assignment : list of (slots, speakers)
        Of each file, see `match_likes`.

    Returns
    -------
    target : (B, T, N) tensor
        Posterior of slots, without gradient.
    surprise : scalar tensor
        Negative log-evidence a frame, less that of the best slot of each frame. Its gradient
        reaches how speakers take turns, nothing else.
    """
    z, center, sigma = model.standardize(frames)
    scores = refined.scores.detach().clone()  # (B, T, N)
    for file, (slots, speakers) in enumerate(assignment):
        prototypes = (vectors[speakers] - center[file]) / sigma[file]  # (like, D)
        scores[file, :, slots] = z[file] @ prototypes.T - prototypes.square().sum(-1) / 2
    target, log_evidence = model.assign(scores, refined.habits)
    surprise = (scores.amax(-1).sum(1) - log_evidence) / scores.shape[1]
    return target.detach(), surprise.mean()


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
        Model, `Refined`, sequences and a generator to a scalar: `frame_loss` or a `LikesLoss`.
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
        refined = model(sequences.frames, recipe.num_speakers)
        value = loss(model, refined, sequences, generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield value.item()
    model.eval()
