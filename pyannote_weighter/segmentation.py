"""How many people speak when: a pyannote segmentation model, as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pyannote.audio import Inference, Model
from pyannote.audio.pipelines.utils import get_model
from pyannote.audio.pipelines.utils.diarization import SpeakerDiarizationMixin
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature

from pyannote_weighter.pretrained import segmentation_path

PRETRAINED = "segmentation-3.0"


def get_segmentation(
    segmentation: Model | str | dict = PRETRAINED, token=None, cache_dir=None
) -> Model:
    """Load a segmentation model.

    Parameters
    ----------
    segmentation : Model, str or dict
        "segmentation-3.0" is the one of the extra `pretrained`; everything else goes to
        `pyannote.audio.pipelines.utils.get_model`.
    token, cache_dir : optional
        See `pyannote.audio.Model.from_pretrained`.
    """
    if isinstance(segmentation, str) and segmentation == PRETRAINED:
        segmentation = str(segmentation_path())
    elif isinstance(segmentation, Path):
        segmentation = str(segmentation)
    return get_model(segmentation, token=token, cache_dir=cache_dir)


def segmentation_inference(model: Model, step: float = 0.1, batch_size: int = 32) -> Inference:
    """Sliding-window inference without aggregation, as upstream's pipelines use it.

    Parameters
    ----------
    model : Model
    step : float
        Step between windows, as a share of their duration.
    batch_size : int
    """
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
    file,
    threshold: float = 0.5,
    hook: Callable | None = None,
) -> tuple[SlidingWindowFeature, SlidingWindowFeature]:
    """Apply the segmentation and count speakers.

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
    segmentations : (chunks, frames, local speakers) SlidingWindowFeature
        Binary.
    count : (frames, 1) SlidingWindowFeature
        Number of speakers at the same time, uint8.
    """
    model = segmentation.model
    segmentations = segmentation(file, hook=hook)
    if not model.specifications.powerset:
        segmentations = binarize(segmentations, onset=threshold, initial_state=False)
    count = SpeakerDiarizationMixin.speaker_count(
        segmentations, model.receptive_field, warm_up=(0.0, 0.0)
    )
    return segmentations, count


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
    source = feature.sliding_window
    centers = frames.start + 0.5 * frames.duration + frames.step * np.arange(num_frames)
    index = np.rint((centers - source.start - 0.5 * source.duration) / source.step).astype(int)
    if len(feature.data) == 0:
        return np.zeros((num_frames, feature.data.shape[1]), dtype=feature.data.dtype)
    return feature.data[index.clip(0, len(feature.data) - 1)]
