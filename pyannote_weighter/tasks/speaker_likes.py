"""Training a Weighter from likes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from pyannote.audio import Model
from pyannote.audio.core.task import Task
from pyannote.database.protocol.protocol import Protocol
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from pyannote_weighter.models import Weighter
from pyannote_weighter.options import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    COUNT,
    COUNT_OR_ZERO,
    SHARE,
    SWITCH,
    Rule,
    check_options,
)
from pyannote_weighter.segmentation import get_segmentation, segmentation_inference
from pyannote_weighter.tasks.activity import activity_loss
from pyannote_weighter.tasks.crops import TrainingFiles
from pyannote_weighter.tasks.extraction import Extractor, extract
from pyannote_weighter.tasks.frames import FrameCache
from pyannote_weighter.tasks.loading import TrainingBatches, worker_options
from pyannote_weighter.tasks.objective import LikesObjective, known_losses
from pyannote_weighter.tasks.optimization import encoder_schedule, optimize
from pyannote_weighter.tasks.overview import (
    Window,
    cut_ticks,
    overviews,
    summarize_window,
)
from pyannote_weighter.tasks.prepared import load, store
from pyannote_weighter.tasks.samples import (
    check_references,
    collate,
    reference_entry,
    several_databases,
)
from pyannote_weighter.tasks.start import Start, find_start
from pyannote_weighter.tasks.supervision import SUPERVISION, training_files, unnamed
from pyannote_weighter.tasks.validation import Validation

NO_FIT = 1000
"""Epochs that a loss is told of where nothing is trained."""
ALLOWED: dict[str, Rule] = {
    "segmentation_step": ("a share above 0, at most 1", lambda value: 0 < value <= 1),
    "duration": ("a number of at least 0.5", lambda value: 0.5 <= value < math.inf),
    "complete": SWITCH,
    "voices": SWITCH,
    "batch_size": COUNT,
    "num_workers": COUNT_OR_ZERO,
    "wrong_likes": ("a share from 0 to under 0.5", lambda value: 0 <= value < 0.5),
    "temperature": ABOVE_ZERO,
    "splice": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "alignment": AT_LEAST_ZERO,
    "reference": AT_LEAST_ZERO,
    "learning_rate": AT_LEAST_ZERO,
    "classifier_learning_rate": AT_LEAST_ZERO,
    "encoder_learning_rate": AT_LEAST_ZERO,
    "encoder_start": (
        "a share from 0 to 1, or auto",
        lambda value: value == "auto" or SHARE[1](value),
    ),
}
"""What options of `SpeakerLikes` may be."""


class SpeakerLikes(Validation, Task):
    """Learn who speaks when from tags that only say who speaks somewhere.

    Parameters
    ----------
    protocol : SpeakerDiarizationProtocol
        Training files may have "likes" (see `pyannote_weighter.database`), "annotation" (with
        "annotated"), both or neither, and "num_speakers". Speakers who are liked are named alike
        across files: the scope is "database" or "global". With "database" and training files of
        several databases, names are told with theirs. Development files may have "likes",
        "annotation", or both.
    frames : path-like
        Folder for frames and speaker counts, computed once per audio and kept. Several corpora may
        share it.
    segmentation : Model, str or None, optional
        Counts the speakers of each frame, and tells the backbone which frames are one voice
        (`voices`). Without it frames know no voices, the Weighter estimates speech, and
        training files about which nothing is known are left out.
    segmentation_step : float, optional
        Step between windows of the segmentation, as a share of their duration.
    cache : path-like, optional
        Where the list of files is stored for other processes. Defaults to a temporary file.
    duration : float, optional
        Files that are longer (seconds) are cropped in training at random, in as many places an
        epoch as it takes to see about all of them. Before training they are looked at whole, and a
        crop has the likes of those who were found to speak in it. Where `loss` keeps labels of
        each file, it has all likes of its file.
    batch_size : int, optional
    num_workers : int, optional
        Workers are not forked (see `worker_context`): a script that starts a training needs the
        usual `if __name__ == "__main__":`. With workers, a training that is resumed goes through
        the files as in its first epoch again unless Lightning's `Trainer` has
        `reload_dataloaders_every_n_epochs=1`.
    supervision : {"likes", "references", "both"}, optional
        What training makes use of. A file without it still teaches how many people talk at a time.
        An empty reference counts as none, since RTTM cannot tell silence from a missing file.
    loss : str or dict, optional
        What likes cost, by name or as `{"name": ..., **options}`: wbce (the published loss), bce,
        smoothed_bce, weak_negatives, focal, asymmetric, hill, splc, entropy_maximization, nnpu,
        softmax, recording_kl, role, pseudo_labels. See `pyannote_weighter.losses`. The last two
        keep labels of each file, and files are then not spliced. The last one has to know the
        number of epochs.
    assignment : {"hungarian", "sinkhorn"}, optional
        Likes to slots one to one, or softly.
    lambda_ : float or "auto", optional
        Price of confidence, see `pyannote_weighter.losses.SetCriterion`. "auto": after the first
        epoch the tagging rate, estimated again in every epoch, see `pyannote_weighter.tagging`;
        wherever it was compared (`recipes/likes`) it did harm. recording_kl, role and
        pseudo_labels have no such price. For nnpu, which has a prior in its place, 0.1 is taken
        for 1, and "auto" is refused.
    complete : bool, optional
        Before training, look for speakers who are in a file without a like, by the voice that
        their other files have in common, and train as if they were liked there too, see
        `pyannote_weighter.prototypes.missing_likes`. `missing` says who was found.
    wrong_likes : float, optional
        Share of the likes that name someone who is not there, or are thought to, among those that
        are confirmed: as many, of highest cost, are left out after the first epochs, see
        `pyannote_weighter.losses.TrustedLikes`.
    temperature : float, optional
        Of the classifier of speakers, which is dropped at inference.
    splice : float, optional
        Probability of appending another file; the likes are then those of both.
    alignment : float, optional
        Weight of the agreement between weightings and likes that were aligned by the prototypes
        of the liked speakers, see `pyannote_weighter.tasks.alignment`. 0 is the published loss.
    reference : float, optional
        Weight of the agreement between weightings and references, and between the number of slots
        that hold speech and a known number of speakers, see `pyannote_weighter.tasks.references`.
    learning_rate, classifier_learning_rate : float, optional
        Highest rates of a schedule that warms up and decays to zero along a cosine.
    encoder_start : float or "auto", optional
        Share of the training before which the encoder (its activity head left out) stands still.
        Where likes leave many people untagged, it learns to put two of them into one slot as long
        as prototypes are poor. "auto" (default): half, where confirmed likes, with those that were
        found missing, account for less than 0.9 of the speech, `supervision` is "likes" and the
        encoder works untrained (`restarts`); else none.
    encoder_learning_rate : float, optional
        Rate of the encoder. Defaults to that of the rest; to 0.0004 where "auto" lets it wait.
    voices : bool, optional
        Frames know whose voice they are, as those of the pipeline do, if the backbone hears it.
        If not, epochs and parameters are chosen on other frames than the pipeline's.

    Attributes
    ----------
    missing : dict
        Names of the speakers who were found in files without a like there, by uri.

    Raises
    ------
    ValueError
        If an option has no such value; if the training has too few epochs for `loss`; if no
        training file has what `supervision` asks for; of likes, if the scope is "file" or no
        speaker is liked in two files.

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
        supervision: str = "likes",
        loss: str | dict = "wbce",
        assignment: str = "hungarian",
        lambda_: float | str = 0.1,
        complete: bool = True,
        wrong_likes: float = 0.0,
        temperature: float = 0.05,
        splice: float = 0.2,
        alignment: float = 10.0,
        reference: float = 10.0,
        learning_rate: float = 2e-3,
        classifier_learning_rate: float = 1e-2,
        encoder_learning_rate: float | None = None,
        encoder_start: float | str = "auto",
        voices: bool = True,
    ):
        _check_numbers(
            segmentation_step=segmentation_step,
            duration=duration,
            batch_size=batch_size,
            num_workers=num_workers,
            wrong_likes=wrong_likes,
            temperature=temperature,
            splice=splice,
            alignment=alignment,
            reference=reference,
            learning_rate=learning_rate,
            classifier_learning_rate=classifier_learning_rate,
        )
        if encoder_learning_rate is not None:
            _check_numbers(encoder_learning_rate=encoder_learning_rate)
        check_options(ALLOWED, complete=complete, voices=voices)
        _check_development(protocol)
        super().__init__(
            protocol,
            cache=cache,
            duration=duration,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        check_options(ALLOWED, encoder_start=encoder_start)
        if supervision not in SUPERVISION:
            raise ValueError(f"supervision is {supervision!r}: choose {', '.join(SUPERVISION)}")
        self.frames = Path(frames)
        self.segmentation = segmentation
        self.segmentation_step = segmentation_step
        self.voices = voices
        self.supervision = supervision
        self.temperature = temperature
        self.complete = complete
        self.missing: dict[str, list[str]] = {}
        self.objective = LikesObjective(loss, assignment, lambda_, wrong_likes)
        self.splice = 0.0 if self.objective.keeps_labels else splice
        self.alignment = alignment
        self.reference = reference
        self.learning_rate = learning_rate
        self.classifier_learning_rate = classifier_learning_rate
        self.encoder_learning_rate = encoder_learning_rate
        self.encoder_start = encoder_start
        self.specifications = Weighter.default_specifications(duration)

    # -- data ---------------------------------------------------------------------------------

    def list_training(self, model: Weighter) -> tuple[list, list[dict]]:
        """Training files that teach a Weighter something, and what they know."""
        # the head that counts speakers learns from every file that is counted
        counted = self.segmentation is not None and hasattr(model.encoder, "activity")
        return training_files(self.protocol.name, self.protocol.train(), self.supervision, counted)

    def list_development(self) -> tuple[list, list[dict]]:
        """Development files, if there are any, and what they know."""
        files = list(self.protocol.development()) if self.has_validation else []
        several = several_databases(self.protocol.train())
        return files, [reference_entry(file, several) for file in files]

    def prepare_data(self) -> None:
        """Compute missing frames and list the files; runs in one process only."""
        if not self.model.backbone.frozen:
            raise ValueError(
                "SpeakerLikes trains on frames computed beforehand: the backbone must be frozen "
                "(freeze=True, model.backbone.freeze())"
            )
        training, entries = self.list_training(self.model)
        trainer = self.model._trainer
        fitting = trainer is not None and trainer.state.fn == "fit"
        if fitting and trainer.max_epochs == trainer.max_steps == -1:
            raise ValueError(
                "the learning rate decays over the whole training, whose length is not known: "
                "give max_epochs or max_steps, beside max_time"
            )
        if fitting and any(entry["likes"] for entry in entries):
            self.objective.check_epochs(trainer.max_epochs)
        development, judged = self.list_development()
        check_references(self.protocol.name, development, judged)

        segmentation = None
        if self.segmentation is not None:
            segmentation = segmentation_inference(
                get_segmentation(self.segmentation), step=self.segmentation_step
            ).to(self.model.device)
        extractor = Extractor(self.model, segmentation, self.voices)
        _, keys = extract(training + development, extractor, self.frames)
        for entry, key in zip(entries + judged, keys, strict=True):
            entry["frames"] = key

        prepared = {
            "protocol": self.protocol.name,
            "extractor": extractor.id,
            "speakers": sorted({name for entry in entries for name in entry["likes"] or ()}),
            "train": entries,
            "development": judged,
        }
        if self.cache is None:
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # or at exit
            self.cache = Path(folder) / "prepared.npz"
        store(prepared, self.cache)

    def setup(self, stage: str | None = None) -> None:
        """Load what `prepare_data` wrote.

        Parameters
        ----------
        stage : str, optional
            Of Lightning, such as "fit" and "validate". None: a checkpoint is about to be loaded,
            after the setup of the stage.
        """
        self.stage = stage
        if stage is not None:
            self.trainer = self.model.trainer  # pyannote tells the one of "fit" alone
            self.cache = self.trainer.strategy.broadcast(self.cache)
        elif hasattr(self, "files"):
            return
        self.prepared_data = load(self.cache, self.protocol.name)
        self.speaker_index = {s: k for k, s in enumerate(self.prepared_data["speakers"])}
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # which workers need not know
        self.frame_cache = FrameCache(self.frames, self.prepared_data["extractor"])
        self.files = TrainingFiles(
            self.prepared_data["train"],
            self.speaker_index,
            self.frame_cache,
            self.model.frames,
            self.duration,
        )

    def setup_loss_func(self) -> None:
        """Add the classifier of the training speakers, if likes name any, to the model.

        A training starts with a new one; otherwise one that fits stays.
        """
        if not self.speaker_index:
            return
        shape = self.model.hparams.dimension, len(self.speaker_index)
        if self.stage != "fit" and hasattr(self.model, "loss_func"):
            if self.model.loss_func.W.shape == shape:
                return
        self.model.loss_func = NormalizedSoftmaxLoss(
            num_classes=len(self.speaker_index),
            embedding_size=self.model.hparams.dimension,
            temperature=self.temperature,
        )
        first = self._find_start()
        with torch.no_grad():
            self.model.loss_func.W.copy_(first.prototypes.vectors.T)
        likes = [self.files.likes(entry) for entry in self.prepared_data["train"]]
        found = iter(first.prototypes.confirmed)
        confirmed = [None if known is None else next(found) for known in likes]
        epochs = self.trainer.max_epochs if self.stage == "fit" else NO_FIT
        self.objective.prepare(likes, len(self.speaker_index), epochs, confirmed, first.explained)
        self.model.loss_func.objective = self.objective

    @torch.no_grad()
    def _find_start(self) -> Start:
        """Prototypes of the liked speakers; `missing` and the entries get whom nobody liked."""
        was_training = self.model.training
        self.model.eval()
        entries = [e for e in self.prepared_data["train"] if e["likes"] is not None]
        hidden = {"transient": True, "disable": rank_zero_only.rank != 0}
        looked = [self._look_at(e) for e in track(entries, description="first look", **hidden)]
        found = list(overviews(looked))
        likes = [self.files.likes(entry) for entry in entries]
        self.model.train(was_training)
        slots = [f.embeddings for f in found], [f.share for f in found]
        most = [unnamed(entry) for entry in entries]
        start = find_start(*slots, likes, len(self.speaker_index), most, self.complete)
        names = self.prepared_data["speakers"]
        for entry, speakers in zip(entries, start.missing, strict=True):
            entry["missing"] = [names[k] for k in speakers]
        self.missing = {e["uri"]: e["missing"] for e in entries if e["missing"]}
        if not self.objective.keeps_labels:  # else each crop has all likes of its file
            self.files.place_likes(entries, found, start.prototypes)
        return start

    def _look_at(self, entry: dict) -> list[Window]:
        """Weigh all of a file, in windows that are not longer than crops."""
        files, windows = self.files, []
        for first, stop in cut_ticks(files.num_frames(entry), files.longest, files.tick):
            batch = collate([files.read(entry, first, stop - first)])
            windows.append(summarize_window(self._weigh(batch), files.frames.step, files.tick))
        return windows

    def training_samples(self, most: int) -> Iterator[dict]:
        """First ten minutes of training files, of so many that lie evenly in their list."""
        entries = self.prepared_data["train"]
        some = np.linspace(0, len(entries) - 1, min(len(entries), most)).round().astype(int)
        for index in some:
            yield self.files.read(entries[index], 0, self.files.frames_in(600.0))

    def train__iter__(self) -> Iterator[list[dict]]:
        """Batches of all pieces of files, a share `splice` of them with another one appended."""
        seed = self.seed, self.model.current_epoch
        steps = self.files.plan(self.splice, self.batch_size, self.trainer.world_size, seed)
        worker = get_worker_info()
        if worker is not None:
            steps = steps[worker.id :: worker.num_workers]
        for step in steps:
            pairs = step[self.model.global_rank].tolist()
            yield [self.files.sample(first, second, seed) for first, second in pairs]

    def train__len__(self) -> int:
        """Number of batches of one process."""
        share = math.ceil(len(self.files.pieces) / self.trainer.world_size)
        return math.ceil(share / self.batch_size)

    def train_dataloader(self) -> DataLoader:
        """Batches of all files: upstream drops the last one, and with it whole small corpora."""
        return DataLoader(
            TrainingBatches(self),
            batch_size=None,  # batches are what it gives
            pin_memory=self.pin_memory,
            collate_fn=collate,
            **worker_options(self.num_workers),
        )

    def reader(self) -> SpeakerLikes:
        """Task that reads files as this one does now, and knows no more: it can be pickled."""
        reader = object.__new__(type(self))
        model = {name: getattr(self.model, name) for name in ("current_epoch", "global_rank")}
        reader.model = SimpleNamespace(**model)
        reader.trainer = SimpleNamespace(world_size=self.trainer.world_size)
        reader.prepared_data = {"development": self.prepared_data["development"]}
        for name in ("files", "seed", "splice", "batch_size", "duration"):
            setattr(reader, name, getattr(self, name))
        return reader

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
        """Everything that is known of the files, after every round."""
        self.objective.set_epoch(self.model.current_epoch)
        encoded, batch_size = self._weigh(batch).encoded, len(batch["frames"])
        # later rounds weigh more: r + 1 of R
        ramp = torch.arange(1, len(encoded.weightings) + 1, device=self.model.device).float()
        ramp = ramp / ramp.sum()
        losses, logs = known_losses(
            self.model, encoded, batch, self.objective, self.alignment, self.reference
        )
        parts = {name: ((loss * ramp).sum(), weight) for name, (loss, weight) in losses.items()}
        if encoded.activity is not None and batch["count"] is not None:
            activity = activity_loss(
                encoded.activity, batch["count"], batch["mask"], self.model.encoder.step
            )
            parts["activity"] = activity, 1.0
        loss = sum(weight * value for value, weight in parts.values())
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} in batch {batch_idx} of epoch "
                f"{self.model.current_epoch}: lower learning_rate, or look for broken recordings"
            )
        for name, (value, _) in parts.items():
            self._log(f"loss/{name}", value, batch_size)
        for name, value in logs.items():
            self._log(f"train/{name}", value, batch_size)
        self._log("loss/train", loss, batch_size)
        return loss

    def _log(self, name: str, value, batch_size: int) -> None:
        """Over all processes only what every one of them is sure to have."""
        self.model.log(
            name, value, on_step=False, on_epoch=True, batch_size=batch_size,
            sync_dist=name == "loss/train",
        )  # fmt: skip

    def configure_optimizers(self) -> dict:
        """AdamW with rates for the classifier, the encoder and the rest; see `optimize`."""
        explained = 1.0
        # an encoder that knows no procedure before training has nothing to keep
        keeps = self.supervision == "likes" and self.model.encoder.restarts
        if keeps and self.objective.explained is not None:
            explained = self.objective.explained.item()
        start, rate = encoder_schedule(
            self.encoder_start, self.encoder_learning_rate, self.learning_rate, explained
        )
        if self.encoder_start == "auto" and start > 0:
            warnings.warn(
                f"likes that other files confirm account for {explained:.0%} of the speech: the "
                "encoder starts to learn in the middle of the training (encoder_start: auto; 0 "
                "does not wait)",
                stacklevel=2,
            )
        return optimize(
            self.model,
            int(self.trainer.estimated_stepping_batches),
            self.learning_rate,
            self.classifier_learning_rate,
            rate,
            start,
        )


def _check_development(protocol: Protocol) -> None:
    """Refuse a list of development files without any: upstream stops at it, and tells nothing."""
    try:
        empty = next(protocol.development(), None) is None
    except (AttributeError, NotImplementedError):  # there is no such list
        return
    if empty:
        raise ValueError(
            f"{protocol.name} lists no files in development: fill its .lst, or leave development "
            "out"
        )


def _check_numbers(**options) -> None:
    """Refuse what would fail late, such as text: frames take long."""
    for name, value in options.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: give a number")
    check_options(ALLOWED, **options)
