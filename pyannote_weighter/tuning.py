"""Hyper-parameters of the pipeline, chosen on development files by exhaustive search."""

from __future__ import annotations

import itertools

import torch
from rich.progress import track

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.diarization import WeighterDiarization
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tasks.metrics import FrameDiarizationErrorRate

GRID = {
    "threshold": (0.3,),
    "merge": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65),
    "min_duration": (1.0, 1.5, 2.0, 3.0),
}


def tune(model: Weighter, task: SpeakerLikes, grid: dict[str, tuple] = GRID) -> dict:
    """Choose the hyper-parameters of least frame-level DER on the development files.

    Frames and speaker counts come from the cache of the task. Without references there is nothing
    to choose by, and the defaults are kept. `pyannote.pipeline.Optimizer` is the way to more
    thorough tuning.

    Parameters
    ----------
    model : Weighter
    task : SpeakerLikes
        Task that the model was trained with, after `setup`.
    grid : dict, optional
        Values to try for each hyper-parameter of `weighter`.

    Returns
    -------
    parameters : dict
        For `WeighterDiarization.instantiate`.
    """
    pipeline = WeighterDiarization(weighter=model.eval())
    parameters = pipeline.default_parameters()
    samples = [task.val__getitem__(index) for index in range(task.val__len__())]
    samples = [s for s in samples if s["reference"] is not None and s["count"] is not None]
    if not samples:
        return parameters
    for sample in track(samples, description="weightings", transient=True):
        sample["frames"], sample["count"] = sample["frames"].float(), sample["count"].numpy()
        sample["slots"] = pipeline.weigh(sample["frames"], sample["count"])
    best = None
    for values in track(
        list(itertools.product(*grid.values())), description="tuning", transient=True
    ):
        weighter = dict(zip(grid, values, strict=True))
        pipeline.instantiate(parameters | {"weighter": weighter})
        metric = FrameDiarizationErrorRate()
        for sample in samples:
            weightings = pipeline.link(sample["slots"])
            weightings = pipeline.improve(weightings, sample["frames"], sample["count"])
            active = top_speakers(weightings, sample["count"])
            metric.update(torch.from_numpy(active), sample["reference"])
        error = metric.compute().item()
        if best is None or error < best[0]:
            best = error, weighter
    return parameters | {"weighter": best[1]}
