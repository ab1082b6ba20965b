"""Training of an encoder on simulated vectors, before it hears anything."""

import torch
from torch import Tensor, nn

from pyannote_weighter.models.encoders.markov import Refined
from pyannote_weighter.models.encoders.refine import SlotRefiner
from pyannote_weighter.simulation.learning import Conditions, LikesLoss, frame_loss, train

LOSSES = {"labels": frame_loss, "likes": LikesLoss(alignment=0.0)}
STEPS = 200
RATE = 0.002  # that of `SpeakerLikes`


class Procedure(nn.Module):
    """What the default encoder does with windows, for vectors that speak all the time.

    Parameters
    ----------
    refiner : SlotRefiner
    """

    def __init__(self, refiner: SlotRefiner):
        super().__init__()
        self.refiner = refiner

    def forward(self, frames: Tensor, num_speakers: int) -> Refined:
        """Assign (B, T, D) vectors to all slots of the refiner."""

        def embed(weightings: Tensor) -> Tensor:
            total = weightings.sum(dim=1).clamp_min(1e-6)[..., None]  # (B, N, 1)
            return weightings.transpose(1, 2) @ frames / total  # (B, N, D)

        speech = frames.new_ones(frames.shape[:2])
        weightings, means, _ = self.refiner(frames, speech, speech, embed)
        return Refined(weightings, means, scores=None, log_evidence=None)


def conditions(dimension: int) -> Conditions:
    """Turns, numbers of people and cosines of the order of those of windows of speech.

    Windows are 0.1 s apart; turns take 1.5 to 12 s; a vector and its speaker have a cosine of 0.8
    to 0.2 where two speak, and a higher one where more do.
    """
    return Conditions(
        dimensions=(dimension,),
        speakers=(2, 3, 5, 8),
        lengths=(600, 1200),
        scales=(15.0, 120.0),
        noise=(0.05, 0.3),
        batch_size=8,
    )


def pretrain(refiner: SlotRefiner, supervision: str, seed: int) -> None:
    """Train in place.

    Parameters
    ----------
    refiner : SlotRefiner
    supervision : str
        "labels" of frames, or "likes", the published loss.
    seed : int
    """
    torch.manual_seed(seed)
    (dimension,) = refiner.norm.normalized_shape
    steps = train(
        Procedure(refiner), LOSSES[supervision], conditions(dimension), STEPS, RATE, seed
    )
    for _ in steps:
        pass
