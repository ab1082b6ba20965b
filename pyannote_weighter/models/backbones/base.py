"""What the package asks of a frame encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from pyannote_weighter.models.backbones.pooling import pool_windows
from pyannote_weighter.options import ABOVE_ZERO, COUNT, check_options
from pyannote_weighter.weighting import Summary, pool_mean, pool_mean_std, pool_summary

BLOCK = 256  # windows pooled at once: what is small enough for the caches is several times faster
CUDA_BLOCK = 2**22
"""Windows times channels pooled at once on a GPU, where fewer launches are faster: 8192 windows of
one recording with CAM++. They are 16 MB in float32, and take up to 350 MB while they are made."""


def windows_at_once(device: torch.device, channels: int) -> int:
    """Windows that are pooled at once, where those of all recordings have so many channels."""
    return max(BLOCK, CUDA_BLOCK // channels) if device.type == "cuda" else BLOCK


class Backbone(nn.Module):
    """Waveform to frames, frames and weights to embeddings.

    A subclass sets the attributes below, calls `freeze()` at the end of `__init__`, and fills
    `num_frames`, `compute_frames` and, if pooled frames are not yet the embedding,
    `embed_statistics`.

    Frozen (the default): no parameter asks for a gradient, `train()` leaves it in evaluation mode,
    frames are computed without gradient. `embed` always lets gradients through to the weights.
    Change it by `freeze`, or by pyannote's `Model.unfreeze_by_name`.

    Attributes
    ----------
    sample_rate : int
        In Hz.
    frame_dimension : int
        C, channels of a frame.
    dimension : int
        Dimension of the pooled embedding.
    frame_step : int
        Samples from one frame to the next.
    receptive_field_size : int
        Samples that place one frame in time: frame t is centred on sample
        `t * frame_step + (receptive_field_size - 1) // 2`.
    deviation : bool
        Whether frames are pooled into mean and standard deviation, or mean alone.
    reloadable : bool
        Whether the same name or config brings the same weights back, so that checkpoints may
        leave them out. False for random weights, and once they have been let learn.
    config : dict or None
        What makes the same network, with other weights, where its name or config reads a file:
        checkpoints that hold the weights name this, and do not need the file.
    hears_voices : bool
        Whether `compute_frames` takes `voices` too, see `forward`.
    """

    sample_rate: int
    frame_dimension: int
    dimension: int
    frame_step: int
    receptive_field_size: int
    deviation: bool = True
    reloadable: bool = True
    config: dict | None = None
    hears_voices: bool = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def frozen(self) -> bool:
        """Whether the weights are kept as they are: none of them asks for a gradient."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def freeze(self, frozen: bool = True) -> Backbone:
        """Keep the weights as they are (True), or let them learn (False)."""
        self.requires_grad_(not frozen)
        if not frozen:
            self.reloadable = False
        return self.train(self.training and not frozen)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training mode, unless frozen."""
        if mode and not self.frozen:
            self.reloadable = False
        return super().train(mode and not self.frozen)

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples, 0 if they are too few for one."""
        raise NotImplementedError

    def compute_frames(self, waveforms: Tensor) -> Tensor:
        """(batch, 1, samples) to (batch, frames, frame_dimension)."""
        raise NotImplementedError

    def embed_statistics(self, statistics: Tensor) -> Tensor:
        """(batch, items, C or 2 C) pooled frames to (batch, items, dimension)."""
        return statistics

    def forward(self, waveforms: Tensor, voices: Tensor | None = None) -> Tensor:
        """Compute frames.

        Parameters
        ----------
        waveforms : (batch, 1, samples) torch.Tensor
            Samples in [-1, 1].
        voices : (batch, frames) torch.Tensor of int, optional
            Frames of one recording with the same number are one voice, for a backbone whose frames
            depend on who else talks around them. One that does not look at it computes the same
            frames without.

        Returns
        -------
        frames : (batch, frames, frame_dimension) torch.Tensor

        Raises
        ------
        ValueError
            If the shape is another one, or waveforms are too short for one frame.
        """
        if waveforms.ndim != 3 or waveforms.shape[1] != 1:
            raise ValueError(
                f"expected waveforms of shape (batch, 1, samples), got {tuple(waveforms.shape)}"
            )
        if self.num_frames(waveforms.shape[-1]) < 1:
            raise ValueError(
                f"{waveforms.shape[-1]} samples are too few for one frame, which takes "
                f"{self.receptive_field_size}: pad them or leave them out"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if voices is not None and self.hears_voices:
                return self.compute_frames(waveforms, voices)
            return self.compute_frames(waveforms)

    def embed(self, frames: Tensor, weights: Tensor | None = None) -> Tensor:
        """Pool frames into one embedding per slot.

        Parameters
        ----------
        frames : (batch, frames, frame_dimension) torch.Tensor
        weights : (batch, slots, frames) torch.Tensor, optional
            Not negative; need not be normalised. Defaults to one slot of ones.

        Returns
        -------
        embeddings : (batch, slots, dimension) torch.Tensor
            Finite, and with finite gradients, for all-zero, one-hot and constant weights too.
        """
        if weights is None:
            weights = frames.new_ones(frames.shape[0], 1, frames.shape[1])
        pool = pool_mean_std if self.deviation else pool_mean
        return self.embed_statistics(pool(frames, weights.transpose(1, 2)))

    def embed_summary(self, summary: Summary, weightings: Tensor) -> Tensor:
        """Pool summarized frames: as `embed`, for weightings that are constant within a step.

        Parameters
        ----------
        summary : Summary
            See `pyannote_weighter.weighting.summarize`.
        weightings : (batch, steps, slots) torch.Tensor

        Returns
        -------
        embeddings : (batch, slots, dimension) torch.Tensor
        """
        return self.embed_statistics(pool_summary(summary, weightings, self.deviation))

    def embed_windows(
        self,
        frames: Tensor,
        weights: Tensor,
        window: int,
        step: int,
        summary: Summary | None = None,
    ) -> Tensor:
        """Pool frames into one embedding per short window.

        Window i is centred on frames `i * step` to `(i + 1) * step`; what lies outside of the
        recording has no weight.

        Parameters
        ----------
        frames : (batch, frames, frame_dimension) torch.Tensor
        weights : (batch, frames) torch.Tensor
            Not negative. A window without any weight has statistics of zero.
        window, step : int
            In frames; `window - step` must be even.
        summary : Summary, optional
            Of the same frames over the same steps, if it is there: it makes this faster.

        Returns
        -------
        embeddings : (batch, ceil(frames / step), dimension) torch.Tensor
        """
        num_windows = -(-frames.shape[1] // step)
        reach = -(-(window - step) // (2 * step))  # steps that a window sees on either side
        block = windows_at_once(frames.device, frames.shape[0] * frames.shape[2])
        embeddings = []
        for first in range(0, num_windows, block):
            start = max(0, first - reach)
            seen = slice(start * step, (first + block + reach) * step)
            part = None
            if summary is not None:
                steps = slice(start, first + block + reach)
                part = Summary(
                    summary.center,
                    summary.mean[:, steps],
                    summary.power[:, steps],
                    summary.size[..., steps, :],
                )
            statistics = pool_windows(
                frames[:, seen], weights[:, seen], window, step, self.deviation, part
            )[:, first - start :][:, :block]
            embeddings.append(self.embed_statistics(statistics))
        return torch.cat(embeddings, dim=1)


def stream_frames(
    backbone: Backbone,
    read: Callable[[int, int], Tensor],
    num_samples: int,
    window: float = 30.0,
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
    voices: np.ndarray | None = None,
) -> Iterator[Tensor]:
    """Compute the frames of a recording of any length, in windows without overlap.

    Windows are cut at multiples of `frame_step`, so that frame t is where it would be in one pass.
    The last one reaches back to be as long as the others: no frame is computed from a short rest.

    Parameters
    ----------
    backbone : Backbone
        Used in the mode that it is in; a frozen one is always in evaluation mode.
    read : callable
        From first and last sample to a (1, samples) tensor, shorter at the end of the recording.
    num_samples : int
        Length of the recording.
    window : float, optional
        In seconds. Defaults to 30.
    batch_size : int, optional
        Windows computed at once. Defaults to 4.
    progress : callable, optional
        Called with (windows done, windows in all) before the first batch and after every one.
    voices : (num_frames(num_samples),) array of int, optional
        Frames near each other with the same number are one voice, see `Backbone.forward`.

    Yields
    ------
    frames : (some, frame_dimension) torch.Tensor
        One after the other, `num_frames(num_samples)` in all; without gradient, on the device of
        the backbone. Nothing if the recording is too short for one.

    Raises
    ------
    ValueError
        If there are more or fewer voices than frames, or a window or batch is of nothing.
    """
    check_options(
        {"window": ABOVE_ZERO, "batch_size": COUNT}, window=window, batch_size=batch_size
    )
    total = backbone.num_frames(num_samples)
    if voices is not None and len(voices) != total:
        raise ValueError(f"expected the voices of {total} frames, got {len(voices)}")
    if total < 1:
        return
    per_window = max(1, round(window * backbone.sample_rate / backbone.frame_step))
    starts = list(range(0, total, per_window))  # in frames
    if len(starts) > 1:
        starts[-1] = total - per_window
        num_samples = (per_window - 1) * backbone.frame_step + backbone.receptive_field_size
    ends = [*starts[1:], total]

    if progress is not None:
        progress(0, len(starts))
    for done in range(0, len(starts), batch_size):
        batch = starts[done : done + batch_size]
        first = batch[0] * backbone.frame_step
        samples = read(first, batch[-1] * backbone.frame_step + num_samples)
        windows = torch.stack(
            [samples[:, start * backbone.frame_step - first :][:, :num_samples] for start in batch]
        )  # (batch, 1, num_samples)
        told = None
        if voices is not None:
            length = backbone.num_frames(num_samples)
            told = np.stack([voices[start : start + length] for start in batch])
            told = torch.from_numpy(told).to(backbone.device)
        with torch.no_grad():
            computed = backbone(windows.to(backbone.device), told)
        for frames, start, end in zip(computed, batch, ends[done:], strict=False):
            yield frames[: end - start]
        if progress is not None:
            progress(done + len(batch), len(starts))


def window_frames(
    backbone: Backbone,
    waveform: Tensor,
    window: float = 30.0,
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
    voices: np.ndarray | None = None,
) -> Tensor:
    """Compute the frames of a waveform as `stream_frames` does, all in one tensor.

    Parameters
    ----------
    backbone, window, batch_size, progress, voices
        See `stream_frames`.
    waveform : (1, samples) torch.Tensor

    Returns
    -------
    frames : (num_frames(samples), frame_dimension) torch.Tensor
        On the device of the waveform, without gradient. No frame at all if too short for one.

    Raises
    ------
    ValueError
        If the waveform has another shape, or there are more or fewer voices than frames.
    """
    if waveform.ndim != 2 or waveform.shape[0] != 1:
        raise ValueError(f"expected a waveform of shape (1, samples), got {tuple(waveform.shape)}")

    total = max(0, backbone.num_frames(waveform.shape[1]))
    frames = waveform.new_empty(total, backbone.frame_dimension)
    done = 0
    for some in stream_frames(
        backbone,
        lambda start, stop: waveform[:, start:stop],
        waveform.shape[1],
        window,
        batch_size,
        progress,
        voices,
    ):
        frames[done : done + len(some)] = some
        done += len(some)
    return frames
