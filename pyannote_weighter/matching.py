"""Likes to slots: the one-to-one assignment of least cost, as in DETR.

Carion et al., "End-to-end object detection with transformers" (2020). The cost of giving a like
to a slot is -ln(c p), with c the confidence of the slot and p its posterior of the liked speaker.
No gradient runs through the assignment.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyannote_weighter.weighting import full_precision

EPSILON = 1e-8
"""Added inside logarithms, so that value and gradient stay finite at zero. Added, not clamped: a
clamp would take the gradient away from the very slots that need it."""


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """One-to-one assignment of least total cost (Hungarian algorithm of scipy).

    Parameters
    ----------
    cost : (slot, like) torch.Tensor
        +inf marks a forbidden pair. There may be more slots than likes, or fewer.

    Returns
    -------
    slots, likes : (min(slot, like),) torch.Tensor
        Row and column indices of the pairs, int64, slots ascending, on the device of `cost`.

    Raises
    ------
    ValueError
        Where the cost is NaN or -inf, or forbidden pairs leave no assignment.
    """
    if cost.ndim != 2:
        raise ValueError(f"cost is {tuple(cost.shape)}, not (slot, like): assign one file a call")
    matrix = full_precision(cost.detach()).cpu().numpy()
    if not (matrix > float("-inf")).all():
        raise ValueError(
            f"cost is NaN or -inf in {int((~(matrix > float('-inf'))).sum())} of {matrix.size} "
            "pairs: look for NaN in the weightings or log posteriors, or lower the learning rate"
        )
    try:
        slots, likes = linear_sum_assignment(matrix)
    except ValueError as error:
        raise ValueError(
            "no assignment: forbidden pairs (+inf) leave a like or a slot without a partner; "
            "use log-softmax, which is finite, for posteriors"
        ) from error
    return torch.as_tensor(slots, device=cost.device), torch.as_tensor(likes, device=cost.device)


def match_likes(
    confidence: Tensor, log_posteriors: Tensor, likes: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """Match the likes of each file to its slots.

    Parameters
    ----------
    confidence : (batch, slot) torch.Tensor
        Values in [0, 1].
    log_posteriors : (batch, slot, speaker) torch.Tensor
        Log-softmax over the training speakers.
    likes : list of (like,) torch.Tensor or None
        Speaker indices of each file; -1 is padding, repeated likes count once. None is a file
        with unknown likes.

    Returns
    -------
    pairs : list of (slots, speakers)
        For each file two (match,) int64 tensors on the CPU, slots ascending: at most one slot per
        like and one like per slot. Both are empty for a file without likes or with unknown ones.
        Of more likes than slots the cheapest are kept.

    Raises
    ------
    ValueError
        Where shapes disagree, a like is no speaker index, or the cost is not a number.
    """
    files = distinct_likes(confidence, log_posteriors, likes)
    padded = torch.nn.utils.rnn.pad_sequence(files, batch_first=True)
    # (batch, like)
    num_slots = confidence.shape[1]
    index = padded.to(log_posteriors.device).unsqueeze(1).expand(-1, num_slots, -1)
    with torch.no_grad():
        log_confidence = torch.log(full_precision(confidence) + EPSILON).unsqueeze(-1)
        # (batch, slot, 1)
        cost = -(log_confidence + full_precision(log_posteriors.gather(-1, index))).cpu()
        # (batch, slot, like)
    pairs = []
    for number, speakers in enumerate(files):
        try:
            slots, columns = assign(cost[number, :, : len(speakers)])
        except ValueError as error:
            raise ValueError(f"file {number} of the batch: {error}") from error
        pairs.append((slots, speakers[columns]))
    return pairs


def distinct_likes(
    confidence: Tensor, log_posteriors: Tensor, likes: Sequence[Tensor | None]
) -> list[Tensor]:
    """Likes of each file, checked: without padding or repeats, ascending, on the CPU.

    Unknown likes give an empty tensor. Parameters and errors as in `match_likes`.
    """
    if confidence.ndim != 2 or log_posteriors.ndim != 3:
        raise ValueError(
            f"confidence is {tuple(confidence.shape)}, log posteriors are "
            f"{tuple(log_posteriors.shape)}: need (batch, slot) and (batch, slot, speaker)"
        )
    if not len(likes):
        raise ValueError("no file in the batch: skip empty batches")
    if log_posteriors.shape[:2] != confidence.shape or len(likes) != len(confidence):
        raise ValueError(
            f"confidence is {tuple(confidence.shape)}, log posteriors are "
            f"{tuple(log_posteriors.shape)}, likes are of {len(likes)} files: "
            "files and slots must agree"
        )
    num_speakers = log_posteriors.shape[2]
    files = []
    for number, speakers in enumerate(likes):
        speakers = torch.as_tensor(() if speakers is None else speakers).detach().cpu()
        if speakers.numel() and speakers.is_floating_point():
            raise ValueError(f"file {number} of the batch: likes must be integer speaker indices")
        speakers = torch.unique(speakers.long())
        if speakers.numel() and (speakers[0] < -1 or speakers[-1] >= num_speakers):
            raise ValueError(
                f"file {number} of the batch: likes {speakers.tolist()} are not all within the "
                f"{num_speakers} training speakers (-1 is padding)"
            )
        files.append(speakers[speakers >= 0])
    return files
