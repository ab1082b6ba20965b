"""Hyper-parameters of the pipeline, chosen on development files by exhaustive search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from pyannote.database import ProtocolFile
from rich.progress import track

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.diarization import WeighterDiarization
from pyannote_weighter.pipelines.windows import Windows
from pyannote_weighter.segmentation import (
    count_speakers,
    get_segmentation,
    segmentation_inference,
)
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tasks.metrics import FrameDiarizationErrorRate

GRID = {
    "threshold": (0.3,),
    "merge": (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    "min_duration": (0.5, 1.0, 2.0),
}


def tune(
    model: Weighter,
    task: SpeakerLikes,
    files: Sequence[ProtocolFile] = (),
    grid: dict[str, tuple] = GRID,
    **options,
) -> dict:
    """Choose the hyper-parameters of least frame-level DER on the development files.

    Frames and speaker counts come from the cache of the task. Without references there is nothing
    to choose by, and the defaults are kept. `pyannote.pipeline.Optimizer` is the way to more
    thorough tuning.

    Parameters
    ----------
    model : Weighter
    task : SpeakerLikes
        Task that the model was trained with, after `setup`.
    files : sequence of ProtocolFile, optional
        The development files, for the local speakers of their segmentation. Without them slots
        are compared by their embeddings alone, which is not what the pipeline does.
    grid : dict, optional
        Values to try for each hyper-parameter of `weighter`.
    **options
        Further options of `WeighterDiarization`, such as `cosine_offset`.

    Returns
    -------
    parameters : dict
        For `WeighterDiarization.instantiate`.
    """
    pipeline = WeighterDiarization(weighter=model.eval(), **options)
    parameters = pipeline.default_parameters()
    num_files = len(task.prepared_data["development"])  # not `val__len__`: there is one process
    samples = [task.val__getitem__(index) for index in range(num_files)]
    wanted = [s["reference"] is not None and s["count"] is not None for s in samples]
    samples = list(itertools.compress(samples, wanted))
    if not samples:
        return parameters
    files = list(itertools.compress(files, wanted)) or [None] * len(samples)
    for sample, file in track(
        list(zip(samples, files, strict=True)), description="weightings", transient=True
    ):
        sample["count"], sample["windows"] = sample["count"].numpy(), Windows()
        sample["local"] = None if file is None else _local_speakers(task, file, model.device)
        sample["slots"] = pipeline.attribution.weigh(
            sample["frames"].float(), sample["count"], sample["windows"], sample["local"]
        )
    best, settled = None, {}
    for values in track(
        list(itertools.product(*grid.values())), description="tuning", transient=True
    ):
        weighter = dict(zip(grid, values, strict=True))
        pipeline.instantiate(parameters | {"weighter": weighter})
        attribution = pipeline.attribution
        sure = tuple(attribution.sure().values())  # what else it depends on is the same each time
        if sure not in settled:
            settled[sure] = [
                attribution.settle(*(s[key] for key in ("slots", "windows", "count", "local")))
                for s in samples
            ]
        metric = FrameDiarizationErrorRate()  # of what is annotated
        for sample, slots in zip(samples, settled[sure], strict=True):
            weightings = attribution.link(slots)
            weightings = attribution.improve(weightings, sample["windows"], sample["count"])
            weightings = weightings.repeat(model.encoder.step, axis=0)[: len(sample["count"])]
            active = top_speakers(weightings, sample["count"])
            annotated = sample["annotated"]
            metric.update(torch.from_numpy(active)[annotated], sample["reference"][annotated])
        error = metric.compute().item()
        if best is None or error < best[0]:
            best = error, weighter
    return parameters | {"weighter": best[1]}


def _local_speakers(
    task: SpeakerLikes, file: ProtocolFile, device: torch.device
) -> LocalSpeakers | None:
    """Segment a file as the task did, which kept no more than the count."""
    if task.segmentation is None:
        return None
    segmentation = segmentation_inference(
        get_segmentation(task.segmentation), step=task.segmentation_step
    )
    return count_speakers(segmentation.to(device), file)[2]
