"""Training a Weighter from likes."""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pyannote.audio import Model
from pyannote.audio.core.task import Task, TrainDataset
from pyannote.audio.utils.random import create_rng_for_worker
from pyannote.database.protocol.protocol import Protocol
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torchmetrics import Metric

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.losses import SetCriterion
from pyannote_weighter.models import Weighter
from pyannote_weighter.segmentation import get_segmentation, segmentation_inference
from pyannote_weighter.tasks.alignment import alignment_loss
from pyannote_weighter.tasks.extraction import extract, extractor_id
from pyannote_weighter.tasks.frames import FrameCache
from pyannote_weighter.tasks.metrics import FrameDiarizationErrorRate, LikesMeanAveragePrecision
from pyannote_weighter.tasks.prototypes import shared_prototypes
from pyannote_weighter.tasks.samples import (
    check_likes,
    collate,
    discretize,
    reference_entry,
    splice,
)
from pyannote_weighter.weighting import confidence

ACTIVITY = ("silence", "one speaker", "several speakers")


class SpeakerLikes(Task):
    """Learn who speaks when from tags that only say who speaks somewhere.

    Parameters
    ----------
    protocol : SpeakerDiarizationProtocol
        Its training files need "likes" (see `pyannote_weighter.database`); files whose likes are
        unknown are left out. Speakers are named alike across files: the scope is "database" or
        "global". Development files may have "likes", "annotation", or both.
    frames : path-like
        Folder for frames and speaker counts, computed once per file and kept.
    segmentation : Model, str or None, optional
        Counts the speakers of each frame, no more. Without it the Weighter estimates speech.
    segmentation_step : float, optional
        Step between windows of the segmentation, as a share of their duration.
    cache : path-like, optional
        Where the list of files is stored for other processes. Defaults to a temporary file.
    duration : float, optional
        Files that are longer (seconds) are cropped in training at random.
    batch_size : int, optional
    num_workers : int, optional
        With workers, a training that is resumed goes through the files as in its first epoch
        again unless Lightning's `Trainer` has `reload_dataloaders_every_n_epochs=1`.
    lambda_ : float, optional
        Price of confidence, see `pyannote_weighter.losses.SetCriterion`.
    temperature : float, optional
        Of the classifier of speakers, which is dropped at inference.
    splice : float, optional
        Probability of appending another file; the likes are then those of both.
    alignment : float, optional
        Weight of the agreement between weightings and likes that were aligned by the prototypes
        of the liked speakers, see `pyannote_weighter.tasks.alignment`. 0 is the published loss.
    learning_rate, classifier_learning_rate : float, optional
        Highest rates of a schedule that warms up and decays to zero along a cosine.

    Raises
    ------
    ValueError
        If the scope is "file", no file has likes, or no speaker is liked in two files.

    References
    ----------
    Carion et al., "End-to-end object detection with transformers", ECCV 2020 (set criterion).
    Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC 2019.
    """

    def __init__(
        self,
        protocol: Protocol,
        frames: str | os.PathLike,
        segmentation: Model | str | None = "segmentation-3.0",
        segmentation_step: float = 0.25,
        cache: str | os.PathLike | None = None,
        duration: float = 120.0,
        batch_size: int = 4,
        num_workers: int = 0,
        lambda_: float = 0.1,
        temperature: float = 0.05,
        splice: float = 0.2,
        alignment: float = 10.0,
        learning_rate: float = 2e-3,
        classifier_learning_rate: float = 1e-2,
    ):
        super().__init__(
            protocol,
            cache=cache,
            duration=duration,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self.frames = Path(frames)
        self.segmentation = segmentation
        self.segmentation_step = segmentation_step
        self.temperature = temperature
        self.splice = splice
        self.alignment = alignment
        self.learning_rate = learning_rate
        self.classifier_learning_rate = classifier_learning_rate
        self.criterion = SetCriterion(lambda_=lambda_)
        self.specifications = Weighter.default_specifications(duration)

    # -- data ---------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Compute missing frames and list the files; runs in one process only."""
        if self.model.hparams.freeze is False:
            raise ValueError(
                "SpeakerLikes trains on frames computed beforehand: the backbone must be frozen "
                "(freeze=True)"
            )
        training = [file for file in self.protocol.train() if file.get("likes") is not None]
        check_likes(self.protocol.name, training)
        development = list(self.protocol.development()) if self.has_validation else []

        segmentation = None
        if self.segmentation is not None:
            segmentation = segmentation_inference(
                get_segmentation(self.segmentation), step=self.segmentation_step
            ).to(self.model.device)
        frame_cache = FrameCache(self.frames, extractor_id(self.model, segmentation))
        extract(training + development, self.model, segmentation, frame_cache)

        self._warn_of_crops(frame_cache, [file["uri"] for file in training])
        prepared = {
            "protocol": self.protocol.name,
            "extractor": frame_cache.extractor_id,
            "speakers": sorted({name for file in training for name in file["likes"]}),
            "train": [{"uri": f["uri"], "likes": sorted(set(f["likes"]))} for f in training],
            "development": [reference_entry(file) for file in development],
        }
        if self.cache is None:
            self.cache = Path(tempfile.mkdtemp()) / "prepared.npz"
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.cache.with_name(f"{self.cache.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as stream:
            np.savez(stream, **{key: np.array(json.dumps(v)) for key, v in prepared.items()})
        os.replace(temporary, self.cache)

    def _warn_of_crops(self, frame_cache: FrameCache, uris: list[str]) -> None:
        """Say so where crops will often lack a speaker whom their file is tagged with."""
        limit = self._num_frames(self.duration)
        cropped = sum(len(frame_cache.get(uri)[0]) > limit for uri in uris)
        if cropped > len(uris) / 2:
            warnings.warn(
                f"{cropped} of {len(uris)} training files are longer than duration="
                f"{self.duration:g} s: a crop keeps all likes of its file, also those of speakers "
                "who are not in it; raise duration to what memory allows",
                stacklevel=2,
            )

    def setup(self, stage: str | None = None) -> None:
        """Load what `prepare_data` wrote."""
        if stage == "fit":
            self.cache = self.trainer.strategy.broadcast(self.cache)
        with np.load(self.cache) as stored:
            self.prepared_data = {key: json.loads(str(stored[key])) for key in stored}
        if self.prepared_data["protocol"] != self.protocol.name:
            raise ValueError(
                f"{self.cache} was written for {self.prepared_data['protocol']}, "
                f"not for {self.protocol.name}: remove it or choose another one"
            )
        self.speaker_index = {s: k for k, s in enumerate(self.prepared_data["speakers"])}
        self.frame_cache = FrameCache(self.frames, self.prepared_data["extractor"])

    def setup_loss_func(self) -> None:
        """Add the classifier of the training speakers to the model."""
        self.model.loss_func = NormalizedSoftmaxLoss(
            num_classes=len(self.speaker_index),
            embedding_size=self.model.hparams.dimension,
            temperature=self.temperature,
        )
        with torch.no_grad():
            self.model.loss_func.W.copy_(self._first_prototypes().T)

    @torch.no_grad()
    def _first_prototypes(self) -> Tensor:
        was_training = self.model.training
        self.model.eval()
        embeddings, weights, likes = [], [], []
        for entry in self.prepared_data["train"]:
            sample = self._load(entry, start=0, num_frames=self._num_frames(self.duration))
            batch = self.collate_fn([sample])
            weighted = self._weigh(batch)
            share = weighted.weightings.sum(dim=1)[0]
            embeddings.append(weighted.embeddings[0].cpu())
            weights.append((share / share.sum().clamp_min(1e-6)).cpu())
            likes.append(sample["likes"])
        self.model.train(was_training)
        return shared_prototypes(embeddings, weights, likes, len(self.speaker_index))

    def _num_frames(self, seconds: float) -> int:
        return max(1, round(seconds / self.model.frames.step))

    def _load(self, entry: dict, start: int, num_frames: int) -> dict:
        frames, count = self.frame_cache.get(entry["uri"])
        stop = start + num_frames
        return {
            "frames": torch.from_numpy(np.array(frames[start:stop])),
            "count": None if count is None else torch.from_numpy(np.array(count[start:stop])),
            "likes": torch.tensor([self.speaker_index[s] for s in entry["likes"]]).long(),
        }

    def _random_crop(self, entry: dict, rng) -> dict:
        available = len(self.frame_cache.get(entry["uri"])[0])
        wanted = self._num_frames(self.duration)
        return self._load(entry, rng.randint(0, max(0, available - wanted)), wanted)

    def train__iter__(self) -> Iterator[dict]:
        """Every file once, in random order, a share `splice` of them with another one appended."""
        rng = create_rng_for_worker(self.model)
        entries = self.prepared_data["train"]
        # the same order in all processes, each of which takes its share
        order = np.random.default_rng(self.model.current_epoch).permutation(len(entries))
        world_size = self.trainer.world_size
        share = np.resize(order, self.train__len__() * world_size)[
            self.model.global_rank :: world_size
        ]
        # a worker fills batches of its own: it takes whole ones, so that only the last is smaller
        worker = get_worker_info()
        batches = range(0, len(share), self.batch_size)
        if worker is not None:
            batches = batches[worker.id :: worker.num_workers]
        for index in (i for start in batches for i in share[start : start + self.batch_size]):
            sample = self._random_crop(entries[index], rng)
            if rng.random() < self.splice:
                other = self._random_crop(entries[rng.randrange(len(entries))], rng)
                sample = splice(sample, other)
            yield sample

    def train__len__(self) -> int:
        """Number of training files of one process."""
        return math.ceil(len(self.prepared_data["train"]) / self.trainer.world_size)

    def train_dataloader(self) -> DataLoader:
        """Batches of all files: upstream drops the last one, and with it whole small corpora."""
        return DataLoader(
            TrainDataset(self),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=partial(self.collate_fn, stage="train"),
        )

    def val_dataloader(self) -> DataLoader | list:
        """Batches of the development files; nothing where there are none."""
        return super().val_dataloader() if self.has_validation else []

    def collate_fn(self, batch: list[dict], stage: str = "train") -> dict:
        """Pad files to the same number of frames; see `collate`."""
        return collate(batch)

    # -- training -----------------------------------------------------------------------------

    def _weigh(self, batch: dict):
        device = self.model.device
        count = batch["count"]
        return self.model.weigh(
            batch["frames"].to(device),
            count=None if count is None else count.to(device),
            mask=batch["mask"].to(device),
        )

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """Set criterion after every round, and agreement with the counted speakers."""
        weighted = self._weigh(batch)
        losses = []
        encoded, batch_size = weighted.encoded, len(batch["frames"])
        for weightings, embeddings in zip(encoded.weightings, encoded.embeddings, strict=True):
            slots = self.model.project(embeddings).flatten(0, 1)  # (B * N, D)
            logits = self.model.loss_func.get_logits(slots)
            log_posteriors = logits.log_softmax(dim=-1).unflatten(0, embeddings.shape[:2])
            set_loss = self.criterion(confidence(weightings), log_posteriors, batch["likes"])
            losses.append(set_loss.loss)
        # later rounds weigh more: r + 1 of R
        ramp = torch.arange(1, len(losses) + 1, device=self.model.device).float()
        loss = (torch.stack(losses) * ramp / ramp.sum()).sum()
        self._log("loss/likes", loss, batch_size)
        if self.alignment > 0 and encoded.windows is not None:
            aligned = alignment_loss(
                encoded.weightings,
                self.model.project(encoded.windows).detach(),
                encoded.single,
                self.model.loss_func.W.detach().T,
                batch["likes"],
            )
            aligned = (aligned * ramp / ramp.sum()).sum()
            self._log("loss/alignment", aligned, batch_size)
            loss = loss + self.alignment * aligned
        for name, value in set_loss.logs().items():
            if name != "loss":  # of the last round alone
                self._log(f"train/{name}", value, batch_size)
        if encoded.activity is not None and batch["count"] is not None:
            activity_loss = self._activity_loss(encoded.activity, batch)
            self._log("loss/activity", activity_loss, batch_size)
            loss = loss + activity_loss
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} in batch {batch_idx} of epoch "
                f"{self.model.current_epoch}: lower learning_rate, or look for broken recordings"
            )
        self._log("loss/train", loss, batch_size)
        return loss

    def _activity_loss(self, activity: Tensor, batch: dict) -> Tensor:
        T = batch["frames"].shape[1]
        step = self.model.encoder.step
        middle = (torch.arange(activity.shape[1]) * step + step // 2).clamp_max(T - 1)
        target = batch["count"][:, middle].clamp_max(len(ACTIVITY) - 1).long()  # (B, T')
        target = target.masked_fill(~batch["mask"][:, middle], -100).to(activity.device)
        return torch.nn.functional.cross_entropy(activity.transpose(1, 2), target)

    def _log(self, name: str, value, batch_size: int) -> None:
        self.model.log(name, value, on_step=False, on_epoch=True, batch_size=batch_size)

    def configure_optimizers(self) -> dict:
        """AdamW, one rate for the classifier and one for the rest, warm-up and cosine decay."""
        classifier = list(self.model.loss_func.parameters())
        known = {id(p) for p in classifier}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        optimizer = torch.optim.AdamW(
            [
                {"params": rest, "lr": self.learning_rate, "weight_decay": 1e-4},
                {"params": classifier, "lr": self.classifier_learning_rate, "weight_decay": 0.0},
            ]
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warm_up = max(1, min(100, total // 10))

        def factor(step: int) -> float:
            progress = min(1.0, max(0.0, (step - warm_up) / max(1, total - warm_up)))
            return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * progress))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # -- validation ---------------------------------------------------------------------------

    def default_metric(self) -> dict[str, Metric]:
        """Mean average precision of likes and, where references exist, frame-level DER.

        For the latter, slots are linked into speakers as the pipeline does by default.
        """
        entries = self.prepared_data["development"]
        metrics: dict[str, Metric] = {}
        if any(entry["turns"] is not None for entry in entries):
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
        """Number of development files."""
        return len(self.prepared_data["development"])

    def val__getitem__(self, index: int) -> dict:
        """Whole development file, up to ten minutes."""
        entry = self.prepared_data["development"][index]
        sample = self._load(
            entry | {"likes": []}, start=0, num_frames=self._num_frames(max(600.0, self.duration))
        )
        reference = None
        if entry["turns"] is not None:
            reference = discretize(entry["turns"], self.model.frames, len(sample["frames"]))
        return sample | {"names": entry["likes"], "reference": reference}

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Update the metrics."""
        weighted = self._weigh(batch)
        metrics = self.model.validation_metric
        metrics["LikesMeanAveragePrecision"].update(
            weighted.embeddings, weighted.confidence, batch["names"]
        )
        for index, reference in enumerate(batch["reference"]):
            if reference is None:
                continue
            weightings = weighted.weightings[index, : len(reference)].float().cpu().numpy()
            slots = Slots(
                [weightings],
                weighted.embeddings[index].float().cpu().numpy(),
                weighted.confidence[index].float().cpu().numpy(),
                weightings.sum(axis=0) * self.model.frames.step,
            )
            speakers = slots.speakers(**PARAMETERS)  # (T, K)
            if batch["count"] is None:
                active = speakers > 0.5
            else:
                count = batch["count"][index, : len(reference)].cpu().numpy()
                active = top_speakers(speakers, count)
            metrics["DiarizationErrorRate"].update(torch.from_numpy(active), reference)
        for name, metric in metrics.items():
            self.model.log(
                name, metric, on_step=False, on_epoch=True, prog_bar=True,
                batch_size=len(batch["frames"]),
            )  # fmt: skip
