"""Who is active in a development file, as the pipeline would say by default."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.models.weighter import Weighted


def active_speakers(
    weighted: Weighted, index: int, num_frames: int, count: Tensor | None, step: float
) -> np.ndarray:
    """Link the slots of one file into speakers, and give its frames to them.

    Parameters
    ----------
    weighted : Weighted
        Of a batch.
    index : int
        Of the file in the batch.
    num_frames : int
        T, without padding.
    count : (at least T,) tensor, optional
        Speakers of each frame; without it every speaker with more than half of a frame has it.
    step : float
        Seconds from frame to frame.

    Returns
    -------
    active : (T, K) bool array
    """
    weightings = weighted.weightings[index, :num_frames].float().cpu().numpy()
    slots = Slots(
        [weightings],
        weighted.embeddings[index].float().cpu().numpy(),
        weighted.confidence[index].float().cpu().numpy(),
        weightings.sum(axis=0) * step,
    )
    speakers = slots.speakers(**PARAMETERS)  # (T, K)
    if count is None:
        return speakers > 0.5
    return top_speakers(speakers, count[:num_frames].cpu().numpy())
