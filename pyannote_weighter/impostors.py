"""How much alike different people sound to a Weighter, which linking has to know.

Training moves the embeddings of different people apart: from likes, most of all by taking away
what all voices have in common. The coefficients of linking were fitted to the cosines of one
trained Weighter, and take people apart wrongly where cosines are higher, as they are before
training. Slots of different recordings, nearly all of them of different people ("impostors"), tell
by how much, without any label.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from rich.progress import track

from pyannote_weighter.models import Weighter

USUAL = 0.09
"""By how much the Weighter that linking was fitted to lowers the cosines of impostors."""
UNPROJECTED = 0.1
"""Cosine of impostors as CAM++ has it, before any projection, in training conversations of all
corpora (0.09 to 0.22 in one corpus)."""
LEAST_SECONDS = 2.0  # of a slot that is looked at
LEAST_PAIRS = 100
MOST_FILES = 100
MOST_SLOTS = 2000


def impostor_cosine(embeddings: np.ndarray, files: np.ndarray) -> float:
    """Median cosine of two slots of different recordings.

    Most of them are of different people, whoever recurs: the median hardly depends on the rest.

    Parameters
    ----------
    embeddings : (M, D) array
    files : (M,) array of int
        Recording of each slot.

    Returns
    -------
    cosine : float
        NaN where there are fewer than 100 pairs.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    apart = np.triu(files[:, None] != files)
    if apart.sum() < LEAST_PAIRS:
        return float("nan")
    return float(np.median((unit @ unit.T)[apart]))


def _evenly(number: int) -> np.ndarray:
    """Indices of so many slots, or of `MOST_SLOTS` that lie evenly among them."""
    return np.linspace(0, number - 1, min(number, MOST_SLOTS)).round().astype(int)


def backbone_offset(embeddings: np.ndarray, files: np.ndarray) -> float:
    """`cosine_offset` for embeddings of a backbone, before any projection.

    Parameters
    ----------
    embeddings : (M, D) array
    files : (M,) array of int
        Recording of each slot.

    Returns
    -------
    offset : float
        `USUAL` for CAM++, and where there are too few slots to tell.
    """
    some = _evenly(len(files))
    cosine = impostor_cosine(embeddings[some], files[some])
    return USUAL + cosine - UNPROJECTED if np.isfinite(cosine) else USUAL


@torch.inference_mode()
def cosine_offset(model: Weighter, samples: Iterable[dict]) -> float:
    """How much less a Weighter moves people apart than the one that linking was fitted to.

    The cosine of impostors as the projection of the Weighter has it is compared with that of the
    embeddings of the backbone, before the projection. That Weighter lowers it by `USUAL`: an
    offset of 0. Of an untrained Weighter, whose projection leaves cosines as they are, it is
    `USUAL`. What other backbones' cosines are like is not looked at.

    Parameters
    ----------
    model : Weighter
    samples : iterable of dict
        Recordings: "frames" (T, C), "count" (T,) or None.

    Returns
    -------
    offset : float
        `cosine_offset` of `WeighterDiarization`; 0 where there are too few slots to tell.
    """
    was_training = model.training
    model.eval()
    before, after, files = [], [], []
    for number, sample in enumerate(track(samples, description="impostors", transient=True)):
        count = sample["count"]
        weighed = model.weigh(
            sample["frames"].to(model.device).float()[None],
            count=None if count is None else count.to(model.device)[None],
        )
        seconds = weighed.weightings[0].sum(dim=0) * model.frames.step
        kept = seconds >= LEAST_SECONDS
        before.append(weighed.encoded.embeddings[-1][0, kept].cpu())
        after.append(weighed.embeddings[0, kept].cpu())
        files += [number] * int(kept.sum())
    model.train(was_training)
    if not files:
        return 0.0
    some = _evenly(len(files))
    cosines = [
        impostor_cosine(torch.cat(part).numpy()[some], np.array(files)[some])
        for part in (before, after)
    ]
    offset = USUAL + cosines[1] - cosines[0]
    return round(offset, 3) if np.isfinite(offset) else 0.0
