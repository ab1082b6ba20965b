"""Weightings to weights, confidence, and pooled embeddings: pure tensor functions.

A *weighting* X holds one value in [0, 1] per frame for one slot, a *weight* W = X / sum X sums
to one over time. Tensors are (batch, time, slot); every function also takes (time, slot).
Frames that are padding have X = 0 and change nothing, except the plain mean of
``confidence_of(..., mode="mean")``.

Numerics. Half precision is computed, and returned, in float32; float64 stays float64. Each slot
is first divided by its own largest value, so that sums neither underflow nor lose the gradient;
W, c and n are homogeneous in X, which makes the gradient right although that divisor is held
constant. A slot whose largest value is below ``SILENT`` counts as all-zero: W, c, n, and their
gradients, are exactly zero. One that holds a NaN is NaN. Gradients with respect to X grow like
1 / X, which a sigmoid or softmax in front of X takes back: let these work in float32.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

SILENT = 1e-12
"""Largest value of a slot below which it is all-zero (2 ** -14 for float16 weightings, so that
gradients, of the order of one over this, fit into float16)."""

_RESOLUTION = 1e-6
"""What differences of float32 numbers resolve, relative to the numbers."""


def full_precision(values: Tensor) -> Tensor:
    """Cast half precision (and integers) to float32, leave float32 and float64 alone."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def normalize(weightings: Tensor, dim: int = -2) -> Tensor:
    """Turn weightings into weights that sum to one over time.

    Parameters
    ----------
    weightings : (..., time, slot) torch.Tensor
        Values in [0, 1].
    dim : int
        Dimension of time.

    Returns
    -------
    weights : (..., time, slot) torch.Tensor
        W = X / sum_t X; all-zero for an all-zero slot.
    """
    _, scaled = _split_scale(weightings, dim)
    return scaled / _at_least_half(scaled.sum(dim, keepdim=True))


def confidence(weightings: Tensor, dim: int = -2) -> Tensor:
    """Confidence of each slot: its weightings, averaged with themselves as weights.

    Called linear-softmax pooling by Wang, Li and Metze, "A comparison of five multiple instance
    learning pooling functions for sound event detection" (2019). Scaling X scales it. A single
    frame at 1 also gives 1: report `effective_frames` beside it.

    Parameters
    ----------
    weightings : (..., time, slot) torch.Tensor
        Values in [0, 1].
    dim : int
        Dimension of time.

    Returns
    -------
    confidence : (..., slot) torch.Tensor
        c = sum_t X^2 / sum_t X in [0, 1]; zero for an all-zero slot.
    """
    peak, scaled = _split_scale(weightings, dim)
    return peak.squeeze(dim) * (scaled.square().sum(dim) / _at_least_half(scaled.sum(dim)))


def effective_frames(weightings: Tensor, dim: int = -2) -> Tensor:
    """Effective number of frames behind a confidence (Kish's effective sample size).

    Parameters
    ----------
    weightings : (..., time, slot) torch.Tensor
        Values in [0, 1].
    dim : int
        Dimension of time.

    Returns
    -------
    num_frames : (..., slot) torch.Tensor
        n = (sum_t X)^2 / sum_t X^2, between 1 and the number of frames; zero for an all-zero slot.
    """
    _, scaled = _split_scale(weightings, dim)
    return scaled.sum(dim).square() / _at_least_half(scaled.square().sum(dim))


def confidence_of(
    weightings: Tensor,
    head: Tensor | None = None,
    mode: Literal["mean", "weighted", "self"] = "self",
    dim: int = -2,
) -> Tensor:
    """Confidence in one of its three historical forms, kept so that they can be compared.

    Parameters
    ----------
    weightings : (..., time, slot) torch.Tensor
        Values X in [0, 1].
    head : (..., time, slot) torch.Tensor, optional
        Values Y in [0, 1] of a second head; needed by "mean" and "weighted" alone.
    mode : {"mean", "weighted", "self"}
        "mean": Y averaged over time (padding included). "weighted": Y averaged with the weights W.
        "self": Y replaced by X, which is `confidence`.
    dim : int
        Dimension of time.

    Returns
    -------
    confidence : (..., slot) torch.Tensor
    """
    if mode not in ("mean", "weighted", "self"):
        raise ValueError(f"unknown mode {mode!r}: choose 'mean', 'weighted' or 'self'")
    if mode == "self":
        if head is not None:
            raise ValueError("mode 'self' uses no second head: drop it, or choose 'weighted'")
        return confidence(weightings, dim)
    if head is None:
        raise ValueError(f"mode {mode!r} averages a second head: pass it as `head`")
    if head.shape != weightings.shape:
        raise ValueError(
            f"head is {tuple(head.shape)}, weightings are {tuple(weightings.shape)}: "
            "both must be (batch, time, slot)"
        )
    if mode == "mean":
        return full_precision(head).mean(dim)
    return (normalize(weightings, dim) * full_precision(head)).sum(dim)


def pool_mean(frames: Tensor, weightings: Tensor) -> Tensor:
    """Pool frames into one weighted mean per slot.

    Parameters
    ----------
    frames : (..., time, channel) torch.Tensor
    weightings : (..., time, slot) torch.Tensor
        Values in [0, 1], at the frame rate of `frames`; need not be normalised.

    Returns
    -------
    mean : (..., slot, channel) torch.Tensor
        sum_t W frames; all-zero for an all-zero slot.
    """
    _check_same_time(frames, weightings)
    return _pool(full_precision(frames), normalize(weightings))


def pool_mean_std(frames: Tensor, weightings: Tensor) -> Tensor:
    """Pool frames into weighted mean and standard deviation per slot.

    The deviation is unbiased for reliability weights,
    var = sum_t W (f - mean)^2 / (1 - sum_t W^2), as in pyannote.audio's StatsPool. That one has no
    finite gradient where the variance is zero (one-hot weights, silent slot, constant channel).
    Here variance that float32 does not resolve, a millionth of the mean squared distance to the
    mean of the file, counts as zero and has no gradient.

    Parameters
    ----------
    frames : (..., time, channel) torch.Tensor
    weightings : (..., time, slot) torch.Tensor
        Values in [0, 1], at the frame rate of `frames`; need not be normalised.

    Returns
    -------
    mean_std : (..., slot, 2 * channel) torch.Tensor
        Means, then standard deviations; all-zero for an all-zero slot.
    """
    _check_same_time(frames, weightings)
    return pool_summary(summarize(frames, 1), weightings)


class Summary(NamedTuple):
    """Frames averaged over steps of time: all that pooling needs while X is constant in a step."""

    center: Tensor
    """(..., 1, channel) mean of the file, without gradient."""
    mean: Tensor
    """(..., step, channel) mean distance to the center."""
    power: Tensor
    """(..., step, channel) mean squared distance to the center."""
    size: Tensor
    """(step, 1) frames in each step, the last one may be shorter; (..., step, 1) with padding."""


def summarize(frames: Tensor, step: int, mask: Tensor | None = None) -> Summary:
    """Average frames over steps, once for any number of poolings.

    Parameters
    ----------
    frames : (..., time, channel) torch.Tensor
    step : int
        Frames in a step, at least 1.
    mask : (..., time) bool torch.Tensor, optional
        False on padding, which is counted in no step.

    Returns
    -------
    summary : Summary
        Of ceil(time / step) steps.
    """
    frames = full_precision(frames)
    inside = frames.new_ones(frames.shape[-2], 1)
    if mask is not None:
        inside = mask.unsqueeze(-1).to(frames.dtype)
        frames = frames.masked_fill(~mask.unsqueeze(-1), 0.0)
    # distances to the mean of the file keep the difference of squares from cancelling later
    center = (frames.sum(-2, keepdim=True) / inside.sum(-2, keepdim=True).clamp(min=1.0)).detach()
    frames = frames - center if mask is None else (frames - center) * inside
    if step == 1:
        return Summary(center, frames, frames.square(), inside)

    def total(values: Tensor) -> Tensor:
        """(..., time, channel) to (..., step, channel)."""
        padded = torch.nn.functional.pad(values, (0, 0, 0, -values.shape[-2] % step))
        return padded.unflatten(-2, (-1, step)).sum(-2)

    size = total(inside)
    divisor = size.clamp(min=1.0)
    return Summary(center, total(frames) / divisor, total(frames.square()) / divisor, size)


def pool_summary(summary: Summary, weightings: Tensor, deviation: bool = True) -> Tensor:
    """Pool frames that were summarized; weightings are constant within a step.

    Same as `pool_mean_std` (or `pool_mean`) of the frames with each weighting repeated over the
    frames of its step, at the cost of one frame per step.

    Parameters
    ----------
    summary : Summary
    weightings : (..., step, slot) torch.Tensor
        Values in [0, 1]; need not be normalised.
    deviation : bool, optional
        Defaults to True.

    Returns
    -------
    mean_std : (..., slot, channel or 2 * channel) torch.Tensor
        Means, then standard deviations; all-zero for an all-zero slot.
    """
    center, frames, power, size = summary
    weights = normalize(full_precision(weightings) * size)
    # (..., step, slot)
    present = weights.sum(-2).unsqueeze(-1)
    # (..., slot, 1), 1 or, for an all-zero slot, 0
    mean = _pool(frames, weights)
    # (..., slot, channel)
    if not deviation:
        return mean + center * present
    power = _pool(power, weights)
    variance = power - mean.square()
    squares = (weights.square() / size.clamp(min=1.0)).sum(-2).unsqueeze(-1)
    unbias = (1.0 - squares).clamp(min=_RESOLUTION)
    # (..., slot, 1)
    # 1e-12 of the squared level: what is left of a constant channel after the subtraction
    floor = _RESOLUTION * power.detach() + 1e-12 * center.square() + torch.finfo(power.dtype).tiny
    resolved = variance > floor
    std = torch.sqrt(torch.where(resolved, variance, 1.0) / unbias) * resolved
    return torch.cat([mean + center * present, std], dim=-1)


def _split_scale(weightings: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Largest value of each slot, held constant, and weightings divided by it."""
    if weightings.shape[dim] == 0:
        raise ValueError(f"no frames: weightings are {tuple(weightings.shape)}, time is {dim}")
    silent = 2.0**-14 if weightings.dtype == torch.float16 else SILENT
    weightings = full_precision(weightings)
    peak = weightings.detach().amax(dim, keepdim=True)
    heard = ~(peak <= silent)  # NaN is no silence
    peak = torch.where(heard, peak, 0.0)
    return peak, torch.where(heard, weightings, 0.0) / torch.where(heard, peak, 1.0)


def _at_least_half(total: Tensor) -> Tensor:
    """Replace the zero of all-zero slots; other totals hold a 1, so nothing else changes."""
    return total.clamp(min=0.5)


def _pool(frames: Tensor, weights: Tensor) -> Tensor:
    """(..., time, channel), (..., time, slot) -> (..., slot, channel) in full precision."""
    with torch.autocast(frames.device.type, enabled=False):
        return torch.einsum("...tc,...tn->...nc", frames, weights.to(frames.dtype))


def _check_same_time(frames: Tensor, weightings: Tensor) -> None:
    if frames.shape[:-1] != weightings.shape[:-1]:
        raise ValueError(
            f"frames are {tuple(frames.shape)}, weightings {tuple(weightings.shape)}: batch and "
            "time must agree, resample the weightings to the frame rate first"
        )
