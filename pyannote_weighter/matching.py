"""Likes to slots: the one-to-one assignment of least cost, as in DETR, or a soft one.

Carion et al., "End-to-end object detection with transformers" (2020). The cost of giving a like
to a slot is -ln(c p), with c the confidence of the slot and p its posterior of the liked speaker.
No gradient runs through the assignment.
"""

import math
from collections.abc import Sequence
from numbers import Real

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
    cost = _cost(confidence, log_posteriors, files).cpu()  # (batch, slot, like)
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


def soft_match_likes(
    confidence: Tensor,
    log_posteriors: Tensor,
    likes: Sequence[Tensor | None],
    temperature: float = 1.0,
) -> Tensor:
    """Match the likes of each file to its slots softly, see `sinkhorn`.

    Parameters
    ----------
    confidence, log_posteriors, likes
        As in `match_likes`.
    temperature : float
        Above 0; towards 0 this is `match_likes`.

    Returns
    -------
    shares : (batch, slot, speaker) torch.Tensor
        Share of a slot in a like, without gradient, on the device of the confidence. 0 for who is
        not liked.

    Raises
    ------
    ValueError
        As in `match_likes`, or where the temperature is not above 0.
    """
    files = distinct_likes(confidence, log_posteriors, likes)
    num_likes = torch.tensor([len(speakers) for speakers in files])
    # thousands of steps on a few numbers: not for a GPU
    soft = sinkhorn(_cost(confidence, log_posteriors, files).cpu(), num_likes, temperature)
    soft = soft.to(log_posteriors.device)
    index = torch.nn.utils.rnn.pad_sequence(files, batch_first=True).to(soft.device)
    index = index.unsqueeze(1).expand_as(soft)
    # padding adds its zeros to the first speaker
    return soft.new_zeros(log_posteriors.shape).scatter_add_(-1, index, soft)


@torch.no_grad()
def sinkhorn(
    cost: Tensor, num_likes: Tensor | None = None, temperature: float = 1.0, iterations: int = 20
) -> Tensor:
    """Soft one-to-one assignments: optimal transport with entropy, in the log domain.

    The q that is least in sum q cost + temperature sum q ln q, where a like has slots that sum to
    1 and a slot has likes that sum to at most 1; what is left of slots goes to one more column,
    "no like", at no cost. With more likes than slots it is the other way round. Cuturi, "Sinkhorn
    distances" (2013); the potentials start from those of twice the temperature, and so on
    upwards (Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport
    problems", 2019), without which low temperatures need very many iterations.

    At temperature 1 it stands in for the E step of expectation-maximisation, the posterior of
    matchings, whose exact marginals are ratios of permanents. By the envelope theorem the
    derivative of the least value with respect to the cost is q itself: a loss with weights q needs
    no gradient through q, and none is kept.

    Parameters
    ----------
    cost : (batch, slot, like) torch.Tensor
        Finite.
    num_likes : (batch,) torch.Tensor, optional
        Likes of each file, the columns beyond are padding. Defaults to all.
    temperature : float
        Above 0, in units of the cost.
    iterations : int
        For each of the temperatures, of which a file has log2(range of its cost / temperature),
        rounded up, and one.

    Returns
    -------
    shares : (batch, slot, like) torch.Tensor
        q, 0 for padding. Likes sum to 1 exactly where there are enough slots; slots sum to 1 at
        most up to what the iterations leave.

    Raises
    ------
    ValueError
        Where the temperature is not above 0, or so low that costs are not exact enough for it, or
        where the cost is not finite.
    """
    if not isinstance(temperature, Real) or not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: choose a finite one above 0")
    cost = full_precision(cost)
    num_files, num_slots, size = cost.shape
    if not cost.isfinite().all():
        raise ValueError(
            "cost is not finite: look for NaN in the weightings or log posteriors, or lower the "
            "learning rate"
        )
    if num_likes is None:
        num_likes = torch.full((num_files,), size, device=cost.device)
    real = torch.arange(size, device=cost.device) < num_likes.unsqueeze(1)  # (batch, like)
    # one row and one column more, which take what is left over on either side
    spare_slots = (num_slots - num_likes).clamp(min=0).unsqueeze(1)
    spare_likes = (num_likes - num_slots).clamp(min=0).unsqueeze(1)
    rows = torch.cat([torch.ones_like(cost[..., :1].flatten(1)), spare_likes], 1).log()
    columns = torch.cat([real, spare_slots], 1).to(cost.dtype).log()
    cost = torch.nn.functional.pad(cost * real.unsqueeze(1), (0, 1, 0, 1))
    # (batch, slot + 1, like + 1)
    spreads = (cost.amax((1, 2)) - cost.amin((1, 2))).tolist()
    spread, precision = max(spreads, default=0.0), torch.finfo(cost.dtype)
    if temperature < max(spread * precision.eps, precision.tiny):
        raise ValueError(
            f"temperature is {temperature}, too low for costs that differ by {spread:.4g}: choose "
            "a higher one, or the assignment itself (match_likes)"
        )
    levels = [math.ceil(math.log2(max(spread, temperature) / temperature)) for spread in spreads]
    start = torch.tensor(levels, device=cost.device).view(-1, 1, 1)  # each file has its own
    slot = torch.zeros_like(cost[:, :, :1])
    for level in range(max(levels, default=0), -1, -1):
        t = temperature * 2.0**level
        for _ in range(iterations):
            like = t * (columns.unsqueeze(1) - torch.logsumexp((slot - cost) / t, 1, keepdim=True))
            moved = t * (rows.unsqueeze(2) - torch.logsumexp((like - cost) / t, 2, keepdim=True))
            slot = torch.where(start >= level, moved, slot)
    like = t * (columns.unsqueeze(1) - torch.logsumexp((slot - cost) / t, 1, keepdim=True))
    return ((slot + like - cost) / t).exp()[:, :-1, :-1]


@torch.no_grad()
def _cost(confidence: Tensor, log_posteriors: Tensor, files: list[Tensor]) -> Tensor:
    """Cost of giving a like to a slot, (batch, slot, like), with likes padded."""
    padded = torch.nn.utils.rnn.pad_sequence(files, batch_first=True)  # (batch, like)
    index = padded.to(log_posteriors.device).unsqueeze(1).expand(-1, confidence.shape[1], -1)
    log_confidence = torch.log(full_precision(confidence) + EPSILON).unsqueeze(-1)
    # (batch, slot, 1)
    return -(log_confidence + full_precision(log_posteriors.gather(-1, index)))
