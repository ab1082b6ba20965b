"""Statistics of frames over short overlapping windows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.weighting import full_precision

RESOLUTION = 1e-6  # differences of squares in float32 resolve no less, relative to the squares
NO_WEIGHT = 1e-12


def pool_windows(
    frames: Tensor, weights: Tensor, window: int, step: int, deviation: bool = True
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
    frames, weights = full_precision(frames), full_precision(weights)
    num_frames = frames.shape[1]
    missing = -num_frames % step  # frames that complete the last step

    def total(values: Tensor) -> Tensor:
        """(batch, frames, channels) to (batch, windows, channels)."""
        values = F.pad(values.transpose(1, 2), (margin, margin + missing))
        return F.avg_pool1d(values, window, stride=step).transpose(1, 2) * window

    weights = weights.unsqueeze(-1)  # (batch, frames, 1)
    mass = total(weights)  # (batch, windows, 1)
    present = (mass > NO_WEIGHT).to(mass.dtype)
    mass = torch.where(mass > NO_WEIGHT, mass, 1.0)

    # distances to the mean of the recording keep the difference of squares from cancelling
    center = frames.mean(dim=1, keepdim=True).detach()
    frames = frames - center
    mean = total(weights * frames) / mass  # (batch, windows, channels)
    if not deviation:
        return (mean + center) * present

    power = total(weights * frames.square()) / mass
    variance = power - mean.square()
    unbias = (1.0 - total(weights.square()) / mass.square()).clamp(min=RESOLUTION)
    floor = RESOLUTION * power.detach() + 1e-12 * center.square() + torch.finfo(power.dtype).tiny
    resolved = variance > floor
    # a constant under the root where nothing is resolved: its gradient there is zero, not NaN
    std = torch.sqrt(torch.where(resolved, variance, 1.0) / unbias) * resolved
    return torch.cat([mean + center, std], dim=-1) * present
