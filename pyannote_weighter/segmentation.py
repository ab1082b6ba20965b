"""How many people speak when: a pyannote segmentation model, as it is."""

from __future__ import annotations

import copy
import math
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pyannote.audio import Inference, Model
from pyannote.audio.core.io import AudioFile
from pyannote.audio.core.task import Resolution, Specifications
from pyannote.audio.models.blocks.sincnet import SincNet
from pyannote.audio.pipelines.utils import get_model
from pyannote.audio.utils.reproducibility import fix_reproducibility
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature

from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.pretrained import segmentation_path
from pyannote_weighter.recording import open_recording

PRETRAINED = "segmentation-3.0"


def load_model(model: Model | str | dict | Path, token=None, cache_dir=None) -> Model:
    """Load a model as `pyannote.audio.pipelines.utils.get_model` does, or a path to one.

    Parameters
    ----------
    model : Model, str, dict or Path
    token, cache_dir : optional
        See `pyannote.audio.Model.from_pretrained`.

    Raises
    ------
    FileNotFoundError
        If nothing is there, and it cannot be a name on the Hub ("owner/name"), or the Hub does not
        give it out.
    OSError, ValueError
        If what is there is no model.
    """
    path = os.fspath(model) if isinstance(model, str | Path) else None
    if path is not None and not os.path.exists(path):
        if isinstance(model, Path) or path.startswith((".", "~", "/")) or path.count("/") != 1:
            raise FileNotFoundError(
                f"{path}: no such model: give a checkpoint, its folder, a name on the Hub "
                f"(owner/name) or, for the segmentation, {PRETRAINED}"
            )
    name = model_name(model)
    try:
        loaded = get_model(model if path is None else path, token=token, cache_dir=cache_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such model: {error}") from error
    except OSError as error:
        raise OSError(f"{name}: no model to be had: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # whatever is in the file, reading it may raise anything
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise ValueError(f"{name}: no model that can be loaded: {reason}") from error
    if not isinstance(loaded, Model):
        raise FileNotFoundError(f"{name}: the Hub does not give it out; it may need a token")
    return loaded


def model_name(model: str | dict | Path) -> str:
    """Where a model was looked for; options beside it may hold a token."""
    if isinstance(model, Mapping):
        return "/".join(str(model[key]) for key in ("checkpoint", "subfolder") if model.get(key))
    return str(model)


def get_segmentation(
    segmentation: Model | str | dict | Path = PRETRAINED, token=None, cache_dir=None
) -> Model:
    """Load a segmentation model.

    Parameters
    ----------
    segmentation : Model, str, dict or Path
        "segmentation-3.0" is the one of the extra `pretrained`; everything else goes to
        `load_model`.
    token, cache_dir : optional
        See `pyannote.audio.Model.from_pretrained`.

    Raises
    ------
    FileNotFoundError
        See `load_model`.
    ValueError
        If the model is no segmentation.
    """
    if isinstance(segmentation, str) and segmentation == PRETRAINED:
        segmentation = str(segmentation_path())
    model = load_model(segmentation, token=token, cache_dir=cache_dir)
    made_for = model.specifications
    if not isinstance(made_for, Specifications) or made_for.resolution != Resolution.FRAME:
        name = "segmentation" if isinstance(segmentation, Model) else model_name(segmentation)
        raise ValueError(f"{name} is a {type(model).__name__}, not a segmentation")
    return model


class OneByOne(SincNet):
    """SincNet that sees one waveform of a batch after the other on a CPU.

    Its first layers make tens of megabytes of a few waveforms, which leaves the caches and takes
    new pages each time; those of one stay. The result is that of upstream's.
    """

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, 1, samples) to (batch, channels, frames)."""
        if waveforms.device.type != "cpu":
            return super().forward(waveforms)
        return torch.cat([super(OneByOne, self).forward(one) for one in waveforms.split(1)])


def segmentation_inference(model: Model, step: float = 0.1, batch_size: int = 32) -> Inference:
    """Sliding-window inference without aggregation, as upstream's pipelines use it.

    Where it has a SincNet, that of the copy of the model that is used is a `OneByOne`.

    Parameters
    ----------
    model : Model
    step : float
        Step between windows, as a share of their duration.
    batch_size : int
    """
    if type(getattr(model, "sincnet", None)) is SincNet:
        model = copy.copy(model)  # of the same parameters
        model._modules = dict(model._modules, sincnet=copy.copy(model.sincnet))
        model.sincnet.__class__ = OneByOne
    duration = model.specifications.duration
    return Inference(
        model,
        duration=duration,
        step=step * duration,
        skip_aggregation=True,
        batch_size=batch_size,
    )


def count_speakers(
    segmentation: Inference,
    file: AudioFile,
    threshold: float = 0.5,
    hook: Callable | None = None,
) -> tuple[SlidingWindowFeature, SlidingWindowFeature, LocalSpeakers]:
    """Apply the segmentation and count speakers.

    The count is that of upstream's `speaker_count`. Windows are counted as they come: what is
    held is one batch of them, a few bytes for each frame of the file, and a byte for each frame
    of each window.

    Parameters
    ----------
    segmentation : Inference
        See `segmentation_inference`.
    file : AudioFile
    threshold : float, optional
        Onset of multilabel segmentations; powerset ones need none.
    hook : callable, optional
        Progress, as in `Inference`.

    Returns
    -------
    mean : (frames, 1) SlidingWindowFeature
        Number of speakers at the same time, mean over the windows that see the frame, float32.
    count : (frames, 1) SlidingWindowFeature
        The same, rounded, uint8.
    local : LocalSpeakers
        Who speaks in each window.
    """
    model = segmentation.model
    fix_reproducibility(segmentation.device)
    with open_recording(file, model.audio.sample_rate) as recording:
        field = model.receptive_field
        frames = SlidingWindow(duration=field.duration, step=field.step)
        size = model.audio.get_num_samples(segmentation.duration)
        step = round(segmentation.step * model.audio.sample_rate)
        # windows are where they are read, else they would drift apart in long recordings
        windows = SlidingWindow(segmentation.duration, step / model.audio.sample_rate)
        num_windows = 1 + max(0, -(-(recording.num_samples - size) // step))

        last = windows.duration + (num_windows - 1) * windows.step
        num_frames = frames.closest_frame(last + 0.5 * frames.duration) + 1
        total = np.zeros(num_frames, dtype=np.int32)
        seen = np.zeros(num_frames, dtype=np.int32)
        local = []
        if hook is not None:
            hook(completed=0, total=num_windows)
        for first in range(0, num_windows, segmentation.batch_size):
            batch = range(first, min(first + segmentation.batch_size, num_windows))
            samples = recording.read(first * step, batch[-1] * step + size)  # (1, samples)
            missing = (len(batch) - 1) * step + size - samples.shape[1]
            chunks = F.pad(samples, (0, missing)).unfold(1, size, step).transpose(0, 1)
            # (batch, 1, size)
            if len(chunks) == 1:  # a single one would be rounded otherwise than among others
                chunks = chunks.expand(2, -1, -1)
            active = segmentation.infer(chunks)[: len(batch)]  # (batch, frames, local speakers)
            if not model.specifications.powerset:
                active = SlidingWindowFeature(active, windows)
                active = binarize(active, onset=threshold, initial_state=False).data
            local.append(LocalSpeakers.pack(active))
            speakers = active.sum(axis=-1).astype(np.int32)  # (batch, frames)
            for window, counted in zip(batch, speakers, strict=True):
                start = frames.closest_frame(windows[window].start + 0.5 * frames.duration)
                total[start : start + len(counted)] += counted
                seen[start : start + len(counted)] += 1
            if hook is not None:
                hook(completed=batch[-1] + 1, total=num_windows)

    mean = total.astype(np.float32) / np.maximum(seen, 1).astype(np.float32)
    mean, count = (
        SlidingWindowFeature(values[:, None], frames)
        for values in (mean, np.rint(mean).astype(np.uint8))
    )
    return mean, count, LocalSpeakers(np.concatenate(local), windows, frames)


def silence_after(count: SlidingWindowFeature, duration: float) -> None:
    """Let nobody speak after the end of a recording, where the last window holds zeros.

    Turns are from the middle of a frame to the middle of one, so that none ends later; the first
    frame stays, for recordings that are shorter than one.

    Parameters
    ----------
    count : (T, 1) SlidingWindowFeature
        Changed in place.
    duration : float
        Of the recording, in seconds.
    """
    frames = count.sliding_window
    last = (duration - frames.start - 0.5 * frames.duration) / frames.step
    count.data[max(1, math.floor(last + 1e-6)) :] = 0


def nearest_frames(
    source: SlidingWindow, num_source: int, frames: SlidingWindow, num_frames: int
) -> np.ndarray:
    """Which of the source frames is nearest to the center of each of other frames.

    Parameters
    ----------
    source : SlidingWindow
        Frames to choose from, in seconds.
    num_source : int
    frames : SlidingWindow
    num_frames : int

    Returns
    -------
    index : (num_frames,) array of int
    """
    centers = frames.start + 0.5 * frames.duration + frames.step * np.arange(num_frames)
    index = np.rint((centers - source.start - 0.5 * source.duration) / source.step).astype(int)
    return index.clip(0, num_source - 1)


def sample_nearest(
    feature: SlidingWindowFeature, frames: SlidingWindow, num_frames: int
) -> np.ndarray:
    """Read a feature at the centers of other frames.

    Parameters
    ----------
    feature : (T, K) SlidingWindowFeature
    frames : SlidingWindow
        Frames to read at, in seconds.
    num_frames : int

    Returns
    -------
    values : (num_frames, K) array
    """
    num_source = len(feature.data)
    if num_source == 0:
        return np.zeros((num_frames, feature.data.shape[1]), dtype=feature.data.dtype)
    return feature.data[nearest_frames(feature.sliding_window, num_source, frames, num_frames)]
