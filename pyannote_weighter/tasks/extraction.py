"""Frames and speaker counts of the files of a protocol, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from pyannote.audio import Inference
from rich.progress import track

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.segmentation import count_speakers, sample_nearest
from pyannote_weighter.tasks.frames import FrameCache


def fingerprint(model: torch.nn.Module) -> str:
    """Short hash of the weights of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def extractor_id(model: Weighter, segmentation: Inference | None) -> str:
    """Name of what computes frames and counts: other models or windows give another name."""
    parts = [json.dumps(model.hparams.backbone, sort_keys=True), fingerprint(model.backbone)]
    if segmentation is not None:
        parts += [fingerprint(segmentation.model), f"{segmentation.step:g}"]
    name = model.hparams.backbone
    name = name if isinstance(name, str) else name["name"]
    return f"{name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def extract(
    files: Iterable, model: Weighter, segmentation: Inference | None, cache: FrameCache
) -> None:
    """Fill the cache with what it lacks; what is there is kept, so that it can be resumed.

    Parameters
    ----------
    files : iterable of ProtocolFile
    model : Weighter
        Its backbone computes the frames.
    segmentation : Inference or None
        Counts speakers; without it files have no count.
    cache : FrameCache

    Raises
    ------
    FileNotFoundError, ValueError
        From reading audio; the message names the file.
    """
    missing = [file for file in files if file["uri"] not in cache]
    for file in track(missing, description="frames", disable=not missing, transient=True):
        waveform = load_waveform(file, sample_rate=model.hparams.sample_rate)  # (1, S)
        frames = window_frames(model.backbone, waveform)  # (T, C)
        if not len(frames):
            raise ValueError(
                f"{file['uri']}: {waveform.shape[1]} samples are too short for one frame: leave "
                "the file out of the protocol"
            )
        count = None
        if segmentation is not None:
            audio = {"waveform": waveform, "sample_rate": model.hparams.sample_rate}
            _, speakers = count_speakers(segmentation, audio | {"uri": file["uri"]})
            count = sample_nearest(speakers, model.frames, len(frames))[:, 0]
        cache.put(file["uri"], frames.numpy(), count)
