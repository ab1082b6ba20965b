"""The default encoder: frames pooled over short windows, then refined into slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyannote_weighter.models.encoders.base import Encoded, Encoder, Pooling
from pyannote_weighter.models.encoders.refine import SlotRefiner
from pyannote_weighter.options import ABOVE_ZERO, COUNT, COUNT_OR_NONE, Rule, check_options
from pyannote_weighter.weighting import Summary

ALLOWED: dict[str, Rule] = {
    "window": ABOVE_ZERO,
    "step": ABOVE_ZERO,
    "dimension": COUNT_OR_NONE,
    "num_rounds": COUNT,
}
"""What options of the encoder may be."""


class ActivityHead(nn.Module):
    """Silence, one speaker or several speakers, from frames averaged over a window step.

    It stands in for a segmentation model when none is at hand, and is trained to agree with one.

    Parameters
    ----------
    frame_dimension : int
    hidden : int
    """

    def __init__(self, frame_dimension: int, hidden: int = 32):
        super().__init__()
        self.norm = nn.LayerNorm(frame_dimension)
        self.reduce = nn.Linear(frame_dimension, hidden)
        self.convolution = nn.Conv1d(hidden, hidden, 9, padding=4)
        self.outlet = nn.Linear(hidden, 3)

    def forward(self, frames: Tensor, inside: Tensor | None = None) -> Tensor:
        """Logits (B, T', 3) of frames (B, T', C); `inside` (B, T') is 0 on padding."""
        x = F.gelu(self.reduce(self.norm(frames)))  # (B, T', H)
        if inside is not None:
            x = x * inside[..., None]
        x = x + F.gelu(self.convolution(x.transpose(1, 2))).transpose(1, 2)
        return self.outlet(x)


class RefineEncoder(Encoder):
    """Frames to weightings by unrolled assignment of short windows to slots.

    Parameters
    ----------
    backbone : Backbone
        Tells dimensions and frame rate, pools the windows; it is not kept.
    num_slots : int
        N.
    window : float, optional
        Duration of the windows in seconds, rounded to an odd number of steps. These are counted
        in steps as they are given: where `step` is rounded, windows are as much longer or shorter.
        `self.window` tells their frames.
    step : float, optional
        Step of the windows in seconds, rounded to frames of the backbone: `self.step`.
    dimension, num_rounds, hidden : int, optional
        See `SlotRefiner`.
    second_head : bool, optional
        See `Encoder`.

    Raises
    ------
    ValueError
        If an option is none that it may be.
    """

    restarts = True

    def __init__(
        self,
        backbone,
        num_slots: int,
        window: float = 0.5,
        step: float = 0.1,
        dimension: int | None = None,
        num_rounds: int = 5,
        hidden: int = 16,
        second_head: bool = False,
    ):
        super().__init__()
        check_options(
            ALLOWED, window=window, step=step, dimension=dimension, num_rounds=num_rounds
        )
        frame_rate = backbone.sample_rate / backbone.frame_step
        self.step = max(1, round(step * frame_rate))
        # an odd multiple of the step puts windows symmetrically around their step
        self.window = self.step * (2 * round((window / step - 1) / 2) + 1)
        self.activity = ActivityHead(backbone.frame_dimension)
        self.refiner = SlotRefiner(
            in_dimension=backbone.dimension,
            num_slots=num_slots,
            dimension=dimension,
            num_rounds=num_rounds,
            hidden=hidden,
            window_step=self.step / frame_rate,
            second_head=second_head,
        )

    def to_steps(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Average (B, T, C) over steps, padding left out: (B, S, C)."""
        if mask is not None:
            kept = mask[..., None].to(x.dtype)
            return self.to_steps(x * kept) / self.to_steps(kept).clamp_min(1e-6)
        return F.avg_pool1d(x.transpose(1, 2), self.step, ceil_mode=True).transpose(1, 2)

    def forward(
        self,
        frames: Tensor,
        summary: Summary,
        pooling: Pooling,
        count=None,
        mask=None,
        start=None,
        estimate=True,
        last=None,
    ) -> Encoded:
        """Assign frames to slots; see `Encoder`."""
        dtype = summary.mean.dtype
        inside = activity = None
        if mask is not None:
            inside = (summary.size.squeeze(-1) > 0).to(dtype)  # (B, S)
        if estimate or count is None:
            averages = (summary.mean + summary.center).detach()  # (B, S, C)
            activity = self.activity(averages, inside)  # (B, S, 3)
        if count is None:
            _, one, several = activity.softmax(dim=-1).detach().unbind(dim=-1)
            speech, single = one + several, one
            weights = one.repeat_interleave(self.step, dim=1)[:, : frames.shape[1]]
        else:
            states = torch.stack([count >= 1, count == 1], dim=-1).to(dtype)  # (B, T, 2)
            speech, single = self.to_steps(states, mask).unbind(dim=-1)  # (B, S)
            weights = states[..., 1]
        # overlap and silence hardly count in a window that also holds one speaker alone
        weights = weights + 0.01  # (B, T)
        if mask is not None:
            speech, single, weights = speech * inside, single * inside, weights * mask
            frames = torch.where(mask[..., None], frames, 0)  # keeps their order in memory

        windows = pooling.embed_windows(frames, weights, self.window, self.step)  # (B, S, D)
        if callable(start):
            start = start(windows, single)
        elif start is not None:
            if mask is not None:
                start = start.masked_fill(~mask[..., None], 0)
            start = self.to_steps(start, mask)
        weightings, embeddings, heads = self.refiner(
            windows,
            speech,
            single,
            embed=pooling.embed,
            inside=inside,
            start=start,
            last=last,
            finish=estimate,
        )
        return Encoded(weightings, embeddings, activity, windows, single, heads)
