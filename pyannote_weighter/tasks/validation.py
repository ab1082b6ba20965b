"""Development files: samples, metrics, and who is active, much as the pipeline would say.

Slots are linked by their embeddings alone, once, and as if their cosines were those of the
Weighter that linking was fitted to.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.likeness import Likeness
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.models.weighter import Weighted
from pyannote_weighter.tasks.loading import ValidationFiles, worker_options
from pyannote_weighter.tasks.metrics import (
    FrameDiarizationErrorRate,
    LikesMeanAveragePrecision,
    have_references,
)
from pyannote_weighter.tasks.samples import JUDGED, collate, crop_reference


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
    speakers = slots.speakers(**PARAMETERS, likeness=Likeness())  # (T, K)
    if count is None:
        return speakers > 0.5
    return top_speakers(speakers, count[:num_frames].cpu().numpy())


class Validation:
    """What `SpeakerLikes` does with development files."""

    def val_dataloader(self) -> DataLoader | list:
        """Batches of the development files; nothing where there are none."""
        if not self.has_validation:
            return []
        return DataLoader(
            ValidationFiles(self),
            batch_size=self.batch_size,
            pin_memory=self.pin_memory,
            collate_fn=collate,
            **worker_options(self.num_workers),
        )

    def default_metric(self) -> dict[str, Metric]:
        """Mean average precision of likes and, where references exist, frame-level DER.

        For the latter, slots are linked into speakers by their embeddings, see `active_speakers`.
        """
        metrics: dict[str, Metric] = {}
        if have_references(self.prepared_data["development"]):
            metrics["DiarizationErrorRate"] = FrameDiarizationErrorRate()
        metrics["LikesMeanAveragePrecision"] = LikesMeanAveragePrecision()
        return metrics

    @property
    def val_monitor(self) -> tuple[str, str]:
        """DER where references exist, else mean average precision of likes."""
        if "DiarizationErrorRate" in self.metric:
            return "DiarizationErrorRate", "min"
        return "LikesMeanAveragePrecision", "max"

    def val__len__(self) -> int:
        """Number of development files, and what makes it a multiple of the processes."""
        num_files, num_processes = len(self.prepared_data["development"]), self.trainer.world_size
        return math.ceil(num_files / num_processes) * num_processes

    def val__getitem__(self, index: int) -> dict:
        """Whole development file, up to ten minutes."""
        entries = self.prepared_data["development"]
        entry = entries[index % len(entries)]
        if index >= len(entries):  # keeps a process busy while others have a file: not judged
            entry = entry | {"likes": None, "turns": None}
        longest = self.files.frames_in(max(JUDGED, self.duration))
        sample = self.files.read(entry | {"likes": []}, 0, longest)
        known = crop_reference(entry, self.files.frames, 0, len(sample["frames"]))
        return sample | known | {"names": entry["likes"]}

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Update the metrics; what is not annotated is not judged."""
        weighted = self._weigh(batch)
        metrics = self.model.validation_metric
        metrics["LikesMeanAveragePrecision"].update(
            weighted.embeddings, weighted.confidence, batch["names"]
        )
        for index, reference in enumerate(batch["reference"]):
            if reference is None:
                continue
            count = None if batch["count"] is None else batch["count"][index]
            active = active_speakers(
                weighted, index, len(reference), count, self.model.frames.step
            )
            annotated = batch["annotated"][index]
            metrics["DiarizationErrorRate"].update(
                torch.from_numpy(active)[annotated], reference[annotated]
            )
        for name, metric in metrics.items():
            self.model.log(
                name, metric, on_step=False, on_epoch=True, prog_bar=True,
                batch_size=len(batch["frames"]),
            )  # fmt: skip
