"""How much noise a method withstands: frame accuracy, where it falls to 90 %, its intervals.

Methods are compared by sigma90, the noise at which their mean accuracy over sequences falls to
90 %. Intervals come from drawing sequences with replacement (Efron and Tibshirani 1993, "An
Introduction to the Bootstrap", section 13.3: percentiles).
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LADDER = 2**0.25  # noise is evaluated at its powers
STEPS = (-8, 28)  # least and greatest power: 0.25 and 128


def accuracy(labels: Tensor, speaker: Tensor) -> Tensor:
    """Share of frames with the right label, under the best one-to-one naming of labels.

    Parameters
    ----------
    labels : (batch, time) int64 tensor
        Any numbering. There may be more labels than speakers, or fewer: what is left without a
        partner is wrong.
    speaker : (batch, time) int64 tensor
        Who speaks; frames of -1 are not scored.

    Returns
    -------
    accuracy : (batch,) float64 tensor
        NaN where no frame is scored.
    """
    if labels.shape != speaker.shape:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} for speakers of shape {tuple(speaker.shape)}: "
            "give one label a frame"
        )
    batch = len(labels)
    names, labels = labels.unique(return_inverse=True)
    num_labels, num_speakers = len(names), max(int(speaker.max()), 0) + 1
    scored = speaker >= 0
    sequence = torch.arange(batch, device=labels.device).unsqueeze(1)
    cell = (sequence * num_labels + labels) * num_speakers + speaker
    confusion = cell[scored].bincount(minlength=batch * num_labels * num_speakers)
    confusion = confusion.view(batch, num_labels, num_speakers).cpu().numpy()
    right = [matrix[linear_sum_assignment(matrix, maximize=True)].sum() for matrix in confusion]
    return torch.tensor(right, dtype=torch.float64) / scored.sum(1).cpu()


def crossing(sigmas: np.ndarray, curves: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Noise at which falling curves cross a level, linear in log sigma between points.

    Of several crossings it is the last: the greatest noise at which the level is still reached.

    Parameters
    ----------
    sigmas : (points,) array
        Increasing, positive.
    curves : (points, curves) array
        Accuracies.
    level : float, optional

    Returns
    -------
    sigma : (curves,) array
        NaN where a curve never reaches the level, infinity where it does at the last point.
    """
    sigmas, curves = np.asarray(sigmas, dtype=float), np.asarray(curves, dtype=float)
    if not (np.diff(sigmas) > 0).all():
        raise ValueError(f"sigmas are {sigmas.tolist()}: give them in increasing order")
    last, columns = len(sigmas) - 1, np.arange(curves.shape[1])
    reached = curves >= level  # (points, curves)
    left = last - reached[::-1].argmax(0)  # last point that reaches it
    right = np.minimum(left + 1, last)
    above, below = curves[left, columns], curves[right, columns]
    share = (above - level) / np.where(above > below, above - below, 1.0)
    log_sigma = np.log(sigmas)
    sigma = np.exp(log_sigma[left] + share * (log_sigma[right] - log_sigma[left]))
    return np.where(reached.any(0), np.where(left == last, np.inf, sigma), np.nan)


def sigma_at(sigmas: np.ndarray, accuracies: np.ndarray, level: float = 0.9) -> float:
    """Noise at which the mean accuracy of (points, sequences) `accuracies` crosses a level.

    See `crossing`, which says what NaN and infinity mean.
    """
    return float(crossing(sigmas, np.mean(accuracies, axis=1, keepdims=True), level)[0])


def next_step(
    points: dict[int, np.ndarray], level: float = 0.9, errors: float = 2.5, beyond: int = 3
) -> int | None:
    """Power of `LADDER` at which to evaluate a method next.

    It is done where neighbouring powers lie on both sides of the level and, further out, others do
    so by some standard errors: intervals then end between them.

    Parameters
    ----------
    points : dict
        Powers that were evaluated, at least one, to (sequences,) accuracies.
    level : float, optional
    errors : float, optional
        Standard errors of the mean by which the outer powers have to be off the level.
    beyond : int, optional
        How many more are tried for that on either side.

    Returns
    -------
    step : int or None
        None where it is done or the ladder ends.
    """
    mean = {step: values.mean() for step, values in points.items()}
    spread = {step: errors * v.std() / len(v) ** 0.5 for step, v in points.items()}
    left = max((step for step in points if mean[step] >= level), default=min(points) - 1)
    right = min((step for step in points if step > left), default=left + 1)
    for step in (left, right):
        if step not in points:
            return step if STEPS[0] <= step <= STEPS[1] else None
    if right > left + 1:
        return (left + right) // 2
    outwards: list[int] = []
    if not any(mean[step] - spread[step] >= level for step in points if step <= left):
        outwards += range(left - 1, left - 1 - beyond, -1)
    if not any(mean[step] + spread[step] < level for step in points if step >= right):
        outwards += range(right + 1, right + 1 + beyond)
    return next((s for s in outwards if s not in points and STEPS[0] <= s <= STEPS[1]), None)


def bootstrap(
    sigmas: np.ndarray,
    accuracies: np.ndarray,
    level: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """`sigma_at` of sequences drawn with replacement.

    The draws depend on the number of sequences and the seed alone. Results of two methods on the
    same sequences are therefore paired, whatever the points at which each was evaluated, and
    their ratio is `bootstrap(...) / bootstrap(...)`.

    Parameters
    ----------
    sigmas : (points,) array
    accuracies : (points, sequences) array
    level : float, optional
    resamples : int, optional
    seed : int, optional

    Returns
    -------
    sigma : (resamples,) array
        0 where the level is never reached, so that ratios become 0 or infinite and not NaN.
    """
    accuracies = np.asarray(accuracies, dtype=float)
    num_sequences = accuracies.shape[1]
    weights = np.random.default_rng(seed).multinomial(
        num_sequences, np.full(num_sequences, 1 / num_sequences), size=resamples
    )  # (resamples, sequences): how often each is drawn
    found = crossing(sigmas, accuracies @ weights.T / num_sequences, level)
    return np.where(np.isnan(found), 0.0, found)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval between percentiles of positive values.

    NaN, the ratio of two values that both lie below or both above all points, may be anything: it
    counts as 0 in the lower bound and as infinity in the upper one.

    Parameters
    ----------
    values : (resamples,) array
    level : float, optional

    Returns
    -------
    low, high : float
    """
    values, tail = np.asarray(values, dtype=float), (1 - level) / 2
    unknown = np.isnan(values)
    low = np.quantile(np.where(unknown, 0.0, values), tail, method="lower")
    high = np.quantile(np.where(unknown, np.inf, values), 1 - tail, method="higher")
    return float(low), float(high)
