"""The default encoder: frames pooled over short windows, refined into slots, spread over frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyannote_weighter.models.encoders.refine import SlotRefiner


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

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (B, T', 3) of frames (B, T', C)."""
        x = F.gelu(self.reduce(self.norm(frames)))  # (B, T', H)
        x = x + F.gelu(self.convolution(x.transpose(1, 2))).transpose(1, 2)
        return self.outlet(x)


class RefineEncoder(nn.Module):
    """Frames to weightings by unrolled assignment of short windows to slots.

    Parameters
    ----------
    backbone : Backbone
        Tells dimensions and frame rate, pools the windows; it is not kept.
    num_slots : int
        N.
    window : float, optional
        Duration of the windows in seconds.
    step : float, optional
        Step of the windows in seconds.
    dimension, num_rounds, hidden : int, optional
        See `SlotRefiner`.
    """

    def __init__(
        self,
        backbone,
        num_slots: int,
        window: float = 0.5,
        step: float = 0.1,
        dimension: int = 96,
        num_rounds: int = 5,
        hidden: int = 24,
    ):
        super().__init__()
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
        )

    def to_steps(self, x: Tensor) -> Tensor:
        """Average (B, T, C) over the steps of the windows: (B, T', C)."""
        return F.avg_pool1d(x.transpose(1, 2), self.step, ceil_mode=True).transpose(1, 2)

    def forward(
        self,
        frames: Tensor,
        count: Tensor | None,
        mask: Tensor | None,
        embed: Callable[[Tensor], Tensor],
        embed_windows: Callable[[Tensor, Tensor, int, int], Tensor],
    ) -> tuple[list[Tensor], Tensor | None]:
        """Assign frames to slots.

        Parameters
        ----------
        frames : (B, T, C) tensor
        count : (B, T) tensor or None
            Number of speakers in each frame; estimated when None.
        mask : (B, T) bool tensor or None
            False on padding.
        embed : callable
            (B, T, N) weightings to (B, N, D) unit embeddings.
        embed_windows : callable
            Frames (B, T, C), weights (B, T), window and step in frames to (B, T', D) embeddings.

        Returns
        -------
        rounds : list of (B, T, N) tensors
        activity : (B, T', 3) tensor
            Logits of silence, one speaker, several speakers.
        """
        T = frames.shape[1]
        activity = self.activity(self.to_steps(frames.detach()))  # (B, T', 3)
        if count is None:
            _, one, several = activity.softmax(dim=-1).detach().unbind(dim=-1)
            speech, single = one + several, one
        else:
            count = count[..., None]
            states = torch.cat([count >= 1, count == 1], dim=-1).to(frames.dtype)
            speech, single = self.to_steps(states).unbind(dim=-1)  # (B, T')
        if mask is not None:
            inside = self.to_steps(mask[..., None].to(frames.dtype)).squeeze(-1)
            speech, single = speech * inside, single * inside

        # overlap and silence hardly count in a window that also holds one speaker alone
        weights = self.to_frames(single[..., None], T).squeeze(-1) + 0.01
        if mask is not None:
            weights = weights * mask
        windows = embed_windows(frames, weights, self.window, self.step)  # (B, T', D)
        rounds = self.refiner(
            windows, speech, single, embed=lambda weightings: embed(self.to_frames(weightings, T))
        )
        return [self.to_frames(weightings, T) for weightings in rounds], activity

    def to_frames(self, x: Tensor, num_frames: int) -> Tensor:
        """Repeat (B, T', N) over the frames of each step: (B, T, N)."""
        return x.repeat_interleave(self.step, dim=1)[:, :num_frames]
