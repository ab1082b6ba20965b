"""Statistics of frames over steps of time, and over short overlapping windows."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.weighting import Summary, full_precision

RESOLUTION = 1e-6  # differences of squares in float32 resolve no less, relative to the squares
NO_WEIGHT = 1e-12
BLOCK = 2**18
"""Values worked on at once: what is small enough for the caches is several times faster."""
CUDA_BLOCK = 2**24
"""The same on a GPU, where fewer launches are faster: 64 MB in float32, three such at a time."""


def values_at_once(device: torch.device) -> int:
    """Values that sums over frames work on at once on that device."""
    return CUDA_BLOCK if device.type == "cuda" else BLOCK


def sum_steps(
    frames: Tensor, weights: Tensor | None, step: int, center: Tensor, deviation: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Weighted sums of frames, and of their squares, over steps of time.

    Parameters
    ----------
    frames : (batch, frames, channels) torch.Tensor
    weights : (batch, frames) torch.Tensor or None
        None is a weight of one for each.
    step : int
        In frames.
    center : (batch, 1, channels) torch.Tensor
        Taken away from the frames first, which keeps differences of squares from cancelling.
    deviation : bool, optional
        Whether squares are wanted too. Defaults to True.

    Returns
    -------
    sums, squares : (batch, ceil(frames / step), channels) torch.Tensor
        `squares` is None unless `deviation`.
    """
    at_once = values_at_once(frames.device)
    block = max(1, at_once // (step * frames.shape[0] * frames.shape[2])) * step
    sums, squares = [], []
    for number, part in enumerate(frames.split(block, dim=1)):
        part = full_precision(part) - center
        missing = -part.shape[1] % step  # frames that complete the last step
        if missing:
            part = F.pad(part, (0, 0, 0, missing))
        part = part.unflatten(1, (-1, step))  # (B, S, step, C)
        if weights is None:
            sums.append(part.sum(dim=2))
            if deviation:
                squares.append(part.square().sum(dim=2))
            continue
        weight = weights[:, number * block : (number + 1) * block].to(part.dtype)
        weight = F.pad(weight, (0, missing))
        weight = weight.unflatten(1, (-1, step)).unsqueeze(2)  # (B, S, 1, step)
        # differences of these sums are taken: half precision would leave nothing of them
        with torch.autocast(part.device.type, enabled=False):
            sums.append((weight @ part).squeeze(2))
            if deviation:
                squares.append((weight @ part.square()).squeeze(2))
    return torch.cat(sums, dim=1), torch.cat(squares, dim=1) if deviation else None


def weigh_steps(
    summary: Summary, frames: Tensor, weights: Tensor, step: int, deviation: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Same as `sum_steps`, from the summary of these frames wherever weights are alike in a step.

    For weights without gradient: what each frame of a step would add is not known any more.

    Parameters
    ----------
    summary : Summary
        Of the same frames and step; its center is the one that is taken away.
    frames, weights, step, deviation
        See `sum_steps`.

    Returns
    -------
    sums, squares : (batch, ceil(frames / step), channels) torch.Tensor
    """
    weight = F.pad(weights, (0, -weights.shape[1] % step)).unflatten(1, (-1, step))  # (B, S, step)
    total = weight.sum(dim=2).unsqueeze(-1)  # (B, S, 1)
    sums = summary.mean * total
    squares = summary.power * total if deviation else None
    unlike = (weight != weight[..., :1]).any(dim=2).any(dim=0)  # (S,)
    (some,) = unlike.nonzero(as_tuple=True)
    if len(some):
        seen = some[:, None] * step + torch.arange(step, device=some.device)  # (some, step)
        seen = seen.flatten().clamp_max(frames.shape[1] - 1)  # beyond the end there is no weight
        again = sum_steps(frames[:, seen], weight[:, some].flatten(1), step, summary.center)
        sums[:, some] = again[0]
        if deviation:
            squares[:, some] = again[1]
    return sums, squares


def center_of(frames: Tensor) -> Tensor:
    """(batch, 1, channels) mean of (batch, frames, channels), without gradient."""
    frames = frames.detach()
    block = max(1, values_at_once(frames.device) // (frames.shape[0] * frames.shape[2]))
    sums = [full_precision(part).sum(dim=1, keepdim=True) for part in frames.split(block, dim=1)]
    return torch.cat(sums, dim=1).sum(dim=1, keepdim=True) / frames.shape[1]


def summarize_steps(frames: Tensor, step: int) -> Summary:
    """Same as `weighting.summarize` of frames without padding, several times faster.

    Parameters
    ----------
    frames : (batch, frames, channels) torch.Tensor
    step : int
        In frames.
    """
    center = center_of(frames)
    sums, squares = sum_steps(frames, None, step, center)
    size = sums.new_full((sums.shape[1], 1), step)
    size[-1] -= -frames.shape[1] % step
    return Summary(center, sums / size, squares / size, size)


def pool_windows(
    frames: Tensor,
    weights: Tensor,
    window: int,
    step: int,
    deviation: bool = True,
    summary: Summary | None = None,
) -> Tensor:
    """Weighted mean, and unbiased standard deviation, of every window.

    Same values as `weighting.pool_mean` or `weighting.pool_mean_std` with weights that are zero
    outside of the window, by sums over windows in place of one slot per window.

    Parameters
    ----------
    frames : (batch, frames, channels) torch.Tensor
    weights : (batch, frames) torch.Tensor
        Not negative, around 1 where they matter.
    window, step : int
        In frames; window i is centred on frames `i * step` to `(i + 1) * step`.
    deviation : bool, optional
        Defaults to True.
    summary : Summary, optional
        Of these frames over the same steps, which is faster.

    Returns
    -------
    statistics : (batch, ceil(frames / step), channels or 2 * channels) torch.Tensor
        Means, then standard deviations; zero for windows without any weight.

    Raises
    ------
    ValueError
        If `window - step` is odd or negative.
    """
    margin, odd = divmod(window - step, 2)
    if odd or margin < 0:
        raise ValueError(
            f"window ({window}) must be step ({step}) plus an even number of frames: "
            "windows lie symmetrically around their step"
        )
    weights = full_precision(weights)
    num_windows = -(-frames.shape[1] // step)
    unit = math.gcd(step, margin)  # every window is a number of units of so many frames

    def total(values: Tensor) -> Tensor:
        """(batch, units, channels) to (batch, windows, channels)."""
        stride, reach = step // unit, margin // unit
        missing = num_windows * stride - values.shape[1]
        values = F.pad(values, (0, 0, reach, reach + missing))
        end = (num_windows - 1) * stride + 1
        first, *others = (values[:, tap : tap + end : stride] for tap in range(window // unit))
        if not others:
            return first
        summed = first + others[0]
        for other in others[1:]:
            summed.add_(other)
        return summed

    def total_weight(weights: Tensor) -> Tensor:
        """(batch, frames) to (batch, windows, 1)."""
        weights = F.pad(weights, (0, -weights.shape[1] % unit)).unflatten(1, (-1, unit))
        return total(weights.sum(dim=2).unsqueeze(-1))

    mass = total_weight(weights)
    present = (mass > NO_WEIGHT).to(mass.dtype)
    mass = torch.where(mass > NO_WEIGHT, mass, 1.0)

    # distances to the mean of the recording keep the difference of squares from cancelling
    if summary is not None and unit == step and not weights.requires_grad:
        center = summary.center
        sums, squares = weigh_steps(summary, frames, weights, step, deviation)
    else:
        center = center_of(frames)
        sums, squares = sum_steps(frames, weights, unit, center, deviation)
    mean = total(sums) / mass  # (batch, windows, channels)
    if not deviation:
        return (mean + center) * present

    power = total(squares) / mass
    variance = power - mean.square()
    unbias = (1.0 - total_weight(weights.square()) / mass.square()).clamp(min=RESOLUTION)
    least = 1e-12 * center.square() + torch.finfo(power.dtype).tiny
    resolved = variance > torch.add(least, power.detach(), alpha=RESOLUTION)
    # a constant under the root where nothing is resolved: its gradient there is zero, not NaN
    std = torch.sqrt(torch.where(resolved, variance, 1.0) / unbias) * resolved
    return torch.cat([mean + center, std], dim=-1) * present
