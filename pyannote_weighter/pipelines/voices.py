"""What speakers sound like alone: seconds of each, joined and given to the backbone again.

A frame of the backbone depends on seconds around it, and on the level of all that it is computed
with: in a conversation, on other people too. That does little harm within a recording, where
everybody's frames have it. Across recordings it does, unless the backbone hears voices apart:
there, an embedding is made as in speaker verification, of one voice at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pyannote.audio.core.io import AudioFile
from pyannote.core import SlidingWindow

from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.recording import open_recording

SECONDS = 10.0  # of each speaker, where the backbone does not hear voices apart
LEAST = 0.3  # seconds that make an embedding


def longest_runs(speaker: np.ndarray, num_speakers: int, most: int) -> list[np.ndarray]:
    """Where each speaker talks longest without a pause.

    Parameters
    ----------
    speaker : (T,) array of int
        Who talks alone in each frame, -1 for nobody or several.
    num_speakers : int
    most : int
        Frames of each speaker in all; of the run that is too long the beginning is taken.

    Returns
    -------
    runs : list of (R, 2) arrays of int
        First frame and end of the runs of each speaker, in order of time.
    """
    bounds = np.flatnonzero(np.diff(speaker, prepend=-2, append=-2))
    runs = np.stack([bounds[:-1], bounds[1:]], axis=1)  # (R, 2)
    length = runs[:, 1] - runs[:, 0]
    who = speaker[runs[:, 0]]
    longest = []
    for number in range(num_speakers):
        (mine,) = np.nonzero(who == number)
        mine = mine[np.argsort(-length[mine], kind="stable")]
        left = most - (np.cumsum(length[mine]) - length[mine])  # before each of them
        mine, left = mine[left > 0], left[left > 0]
        found = runs[mine]
        found[:, 1] = found[:, 0] + np.minimum(length[mine], left)
        longest.append(found[np.argsort(mine)])
    return longest


@torch.inference_mode()
def embed_alone(
    weighter: Weighter,
    file: AudioFile,
    speaker: np.ndarray,
    frames: SlidingWindow,
    num_speakers: int,
    seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embed speakers from audio in which they talk alone, a few seconds of each.

    Parameters
    ----------
    weighter : Weighter
    file : AudioFile
        Read again where speakers are heard. See `pyannote_weighter.audio.in_memory`.
    speaker : (T,) array of int
        Who talks alone in each frame, -1 for nobody or several.
    frames : SlidingWindow
        The frames, in seconds; a frame begins and ends in the middle of its window, as for turns.
    num_speakers : int
        K.
    seconds : float
        What is heard of each at most: the longest stretches.
    progress : callable, optional
        Called with (speakers done, speakers in all) before the first and after each of them.

    Returns
    -------
    embeddings : (K, D) array
    heard : (K,) bool array
        False for speakers of whom there is less than 0.3 s; their embedding is zero.

    Raises
    ------
    FileNotFoundError, ValueError
        From reading the file.
    """
    backbone = weighter.backbone
    rate = weighter.hparams.sample_rate
    runs = longest_runs(speaker, num_speakers, max(1, round(seconds / frames.step)))
    embeddings = np.zeros((num_speakers, weighter.dimension[1]), dtype=np.float32)
    heard = np.zeros(num_speakers, dtype=bool)
    if progress is not None:
        progress(0, num_speakers)
    with open_recording(file, rate) as recording:
        for number, found in enumerate(runs):
            times = frames.start + 0.5 * frames.duration + found * frames.step
            bounds = (times * rate).round().astype(int).clip(0, recording.num_samples)
            pieces = [recording.read(start, stop) for start, stop in bounds if start < stop]
            length = sum(piece.shape[1] for piece in pieces)
            if length >= LEAST * rate and backbone.num_frames(length) > 0:
                alone = window_frames(backbone, torch.cat(pieces, dim=1))
                pooled = backbone.embed(alone[None].to(backbone.device))
                embeddings[number] = weighter.project(pooled)[0, 0].cpu().numpy()
                heard[number] = True
            if progress is not None:
                progress(number + 1, num_speakers)
    return embeddings, heard
