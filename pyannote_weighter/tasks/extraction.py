"""Frames and speaker counts of the files of a protocol, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from pyannote.audio import Inference
from pyannote.audio.utils.reproducibility import fix_reproducibility
from pyannote.database import ProtocolFile
from rich.progress import Progress

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.likeness import local_voices
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.models.checkpoint import fingerprint
from pyannote_weighter.segmentation import count_speakers, sample_nearest
from pyannote_weighter.tasks.frames import FrameCache
from pyannote_weighter.tasks.identity import audio_id

POLL = 0.5  # seconds between looks at what other processes are doing


class Extractor:
    """Computes frames and speaker counts of files.

    Parameters
    ----------
    model : Weighter
        Its backbone computes the frames.
    segmentation : Inference, optional
        Counts speakers; without it files have no count, and frames know no voices.
    voices : bool, optional
        The segmentation tells a backbone that hears voices which frames are one voice.

    Attributes
    ----------
    id : str
        Names what computes, with the weights as they are now: other models or windows give
        another name.
    """

    def __init__(
        self, model: Weighter, segmentation: Inference | None = None, voices: bool = True
    ):
        self.model = model
        self.segmentation = segmentation
        self._voices = voices and segmentation is not None and model.backbone.hears_voices
        backbone = model.hparams.backbone
        parts = [json.dumps(backbone, sort_keys=True), fingerprint(model.backbone)]
        if segmentation is not None:
            parts += [fingerprint(segmentation.model), f"{segmentation.step:g}"]
        parts += ["voices"] if self._voices else []
        name = backbone if isinstance(backbone, str) else backbone["name"]
        self.id = f"{name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"

    def compute(self, file) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames (T, C) of a file and number of speakers (T,), where they are counted.

        Raises
        ------
        FileNotFoundError, ValueError
            From reading audio, or of audio without a frame; the message names the file.
        """
        backbone, rate = self.model.backbone, self.model.hparams.sample_rate
        fix_reproducibility(self.model.device)  # frames of a GPU are those of a CPU, but rounded
        waveform = load_waveform(file, sample_rate=rate)  # (1, S)
        num_frames = backbone.num_frames(waveform.shape[1])
        if not num_frames:
            raise ValueError(
                f"{file['uri']}: {waveform.shape[1]} samples are too short for one frame: leave "
                "the file out of the protocol"
            )
        if self.segmentation is None:
            return window_frames(backbone, waveform).numpy(), None
        audio = {"waveform": waveform, "sample_rate": rate, "uri": file["uri"]}
        _, speakers, local = count_speakers(self.segmentation, audio)
        told = local_voices(local, self.model.frames, num_frames) if self._voices else None
        frames = window_frames(backbone, waveform, voices=told)  # (T, C)
        return frames.numpy(), sample_nearest(speakers, self.model.frames, num_frames)[:, 0]


def extract(
    files: Iterable, extractor: Extractor, directory: str | os.PathLike
) -> tuple[FrameCache, list[str]]:
    """Fill a cache with what it lacks; what is there is kept, so that it can be resumed.

    Entries are of one audio: a file of the same uri that sounds otherwise has an entry of its own,
    and one that was moved keeps its entry.

    Processes that fill one cache share the files: each takes those that are nobody's, then waits
    for the others. What a process that was killed had begun is done again by another one.

    Parameters
    ----------
    files : iterable of ProtocolFile
    extractor : Extractor
        Asked for what is not there.
    directory : path-like
        Root of the caches; each extractor has a subfolder of its own.

    Returns
    -------
    cache : FrameCache
    keys : list of str
        Of the entries in the cache, one a file.

    Raises
    ------
    FileNotFoundError, ValueError
        See `Extractor.compute`; audio that is lost is named before any work.
    """
    cache = FrameCache(directory, extractor.id)
    files = list(files)
    hidden = rank_zero_only.rank != 0  # one bar for all processes
    with Progress(transient=True, disable=hidden) as progress:
        keys = [_key(file, cache) for file in progress.track(files, description="audio")]
    waiting = [(file, key) for file, key in zip(files, keys, strict=True) if key not in cache]
    with Progress(transient=True, disable=hidden or not waiting) as progress:
        bar = progress.add_task("frames", total=len(waiting))
        while waiting:
            busy = []
            for file, key in waiting:
                with cache.claim(key) as free:
                    if not free:
                        busy.append((file, key))
                        continue
                    if key not in cache:  # which it may be by now
                        cache.put(key, *extractor.compute(file))
                progress.advance(bar)
            if len(busy) == len(waiting):
                time.sleep(POLL)
            waiting = busy
    return cache, keys


def _key(file, cache: FrameCache) -> str:
    """Name of the entry of a file: its uri, for people, and its audio."""
    # waveforms that a protocol computes stay in the file that is asked for them: a copy, here
    return f"{file['uri']} {audio_id(ProtocolFile(file), cache.folder.parent / 'audio')}"
