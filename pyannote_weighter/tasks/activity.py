"""Silence, one speaker, several speakers: what every file teaches, whatever is known of it."""

import torch
from torch import Tensor

ACTIVITY = ("silence", "one speaker", "several speakers")


def activity_loss(activity: Tensor, count: Tensor, mask: Tensor, step: int) -> Tensor:
    """Cross-entropy with the number of speakers that a segmentation counts.

    Parameters
    ----------
    activity : (B, S, 3) tensor
        Logits, see `ACTIVITY`.
    count : (B, T) tensor
        Speakers of each frame.
    mask : (B, T) bool tensor
        False on padding.
    step : int
        Frames in a step: the frame in its middle tells, or the last one of the file.
    """
    count, mask = count.to(activity.device), mask.to(activity.device)
    first = torch.arange(0, count.shape[1], step, device=activity.device)  # (S,)
    lengths = mask.sum(dim=1, keepdim=True)  # (B, 1)
    middle = torch.minimum(first + step // 2, lengths - 1)  # (B, S)
    target = count.gather(1, middle).clamp_max(len(ACTIVITY) - 1).long()
    target = target.masked_fill(~mask[:, first], -100)
    # of two dimensions: of three it has no deterministic gradient on a GPU
    return torch.nn.functional.cross_entropy(activity.flatten(0, 1), target.flatten())
