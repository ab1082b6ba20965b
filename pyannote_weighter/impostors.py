"""How much alike different people sound to a Weighter, which linking has to know.

Training moves the embeddings of different people apart: from likes, most of all by taking away
what all voices have in common. The coefficients of linking were fitted to the cosines of one
trained Weighter, and take people apart wrongly where cosines are higher, as they are before
training. Slots of different recordings tell by how much, without any reference.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from rich.progress import track

from pyannote_weighter.models import Weighter

USUAL = 0.126
"""By how much the projection of the default Weighter lowers the cosines of impostors."""
QUANTILE = 0.99
LEAST_SECONDS = 2.0  # of a slot that is looked at
MOST_FILES = 100
MOST_SLOTS = 2000


def impostor_cosine(embeddings: np.ndarray, files: np.ndarray, related: np.ndarray) -> float:
    """Cosine that few pairs of slots reach that are of different people.

    Parameters
    ----------
    embeddings : (M, D) array
    files : (M,) array of int
        Recording of each slot.
    related : (files, files) bool array
        Recordings whose slots may be of the same people; at least of each with itself.

    Returns
    -------
    cosine : float
        Of 1 % of the pairs; NaN where there is none.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    first, second = np.triu_indices(len(unit), k=1)
    apart = ~related[files[first], files[second]]
    if not apart.any():
        return float("nan")
    return float(np.quantile((unit @ unit.T)[first[apart], second[apart]], QUANTILE))


@torch.inference_mode()
def cosine_offset(model: Weighter, samples: Iterable[dict]) -> float:
    """How much higher the cosines of a Weighter are than those of the default one.

    The cosine of impostors, as the projection of the Weighter has it, is compared with that of the
    embeddings of the backbone, before the projection. The default Weighter lowers it by `USUAL`.

    Parameters
    ----------
    model : Weighter
    samples : iterable of dict
        Recordings: "frames" (T, C), "count" (T,) or None, and "likes", a tensor of speaker
        indices, or None. Recordings that share a like are not compared.

    Returns
    -------
    offset : float
        `cosine_offset` of `WeighterDiarization`; 0 where no two recordings can be compared.
    """
    was_training = model.training
    model.eval()
    before, after, files, likes = [], [], [], []
    for sample in track(list(samples), description="impostors", transient=True):
        count = sample["count"]
        weighed = model.weigh(
            sample["frames"].to(model.device).float()[None],
            count=None if count is None else count.to(model.device)[None],
        )
        seconds = weighed.weightings[0].sum(dim=0) * model.frames.step
        kept = seconds >= LEAST_SECONDS
        before.append(weighed.encoded.embeddings[-1][0, kept].cpu())
        after.append(weighed.embeddings[0, kept].cpu())
        files += [len(likes)] * int(kept.sum())
        likes.append(set() if sample["likes"] is None else set(sample["likes"].tolist()))
    model.train(was_training)
    if not files:
        return 0.0
    related = np.array([[bool(mine & other) for other in likes] for mine in likes])
    np.fill_diagonal(related, True)
    some = np.linspace(0, len(files) - 1, min(len(files), MOST_SLOTS)).round().astype(int)
    cosines = [
        impostor_cosine(torch.cat(part).numpy()[some], np.array(files)[some], related)
        for part in (before, after)
    ]
    offset = USUAL + cosines[1] - cosines[0]
    return round(offset, 3) if np.isfinite(offset) else 0.0
