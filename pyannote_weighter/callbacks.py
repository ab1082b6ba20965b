"""What happens beside training: checkpoints, pictures, reproducible random numbers."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import lightning
import matplotlib.image
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from pyannote.core import Annotation, Segment, SlidingWindowFeature
from torch import Tensor

from pyannote_weighter.matching import assign
from pyannote_weighter.models import Weighter
from pyannote_weighter.plots import plot_weightings, short
from pyannote_weighter.tasks.prepared import development_id
from pyannote_weighter.tasks.samples import collate


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint; ValueError names one that is damaged."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=False)
        stored["epoch"], stored["callbacks"], stored["state_dict"]
    except Exception as error:  # whatever is in the file, reading it may raise anything
        raise ValueError(f"{path}: a damaged checkpoint ({error!r})") from error
    return stored


class Checkpoints(Checkpoint):
    """After each epoch `last.ckpt` and, where a metric tells which epoch is best, `best.ckpt`.

    Nothing is kept of an epoch that ends before all of its batches, as by `max_time`: who resumes
    trains it from its beginning. Early stopping stays stopped, unless its patience was raised.
    Of epochs that are equally good the later one is kept, since metrics of few files saturate.
    What is best so far is read from `best.ckpt` itself, so that a kill between the two files does
    no harm. Values are compared on the same development files only: where these were changed,
    epochs before count no longer, neither here nor in early stopping.

    Parameters
    ----------
    folder : Path
    metric : str, optional
        Logged in validation. Without it there is no `best.ckpt`.
    mode : "min" or "max", optional
    """

    def __init__(self, folder: Path, metric: str | None = None, mode: str = "min"):
        self.last, self.best_path = folder / "last.ckpt", folder / "best.ckpt"
        self.metric, self.mode = metric, mode
        self.best: dict | None = None
        self.value = math.nan  # of this epoch
        # digests of development files: these, and those of `best.ckpt` and of what is resumed
        self.development = self.best_on = self.resumed_on = None
        self.patience: list[int] = []  # of early stopping, in place of what it was
        if self.best_path.is_file():
            try:
                stored = read_checkpoint(self.best_path)["callbacks"][self.state_key]
                if stored["best"]["metric"] == metric:
                    self.best, self.best_on = stored["best"], stored.get("development")
            except (ValueError, KeyError, TypeError) as error:
                rank_zero_warn(f"{error}: the best epoch is looked for anew")

    def state_dict(self) -> dict:
        """What is best so far: metric, value, and epoch, counted from 1; on which files."""
        return {"best": self.best, "development": self.development}

    def load_state_dict(self, state: dict) -> None:
        """Note which files the run was judged on that goes on; earlier versions did not tell."""
        self.resumed_on = state.get("development")

    def setup(self, trainer: lightning.Trainer, model: Weighter, stage: str) -> None:
        """Note the patience that is asked for: a checkpoint brings its own."""
        self.patience = [stopping.patience for stopping in trainer.early_stopping_callbacks]

    def on_train_start(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Forget values of other development files, if there are epochs to come."""
        entries = model.task.prepared_data["development"]
        self.development = development_id(entries, self.metric)
        if self.best is not None and self.best_on not in (None, self.development):
            rank_zero_warn(
                f"epoch {self.best['epoch']} was best on other development files "
                f"({self.metric} {self.best['value']:.4f}): the best one is looked for anew"
            )
            self.best = None
        if self.resumed_on not in (None, self.development):
            for stopping in trainer.early_stopping_callbacks:
                worst = math.inf if stopping.mode == "min" else -math.inf
                stopping.best_score, stopping.wait_count = torch.tensor(worst), 0
        for stopping, patience in zip(
            trainer.early_stopping_callbacks, self.patience, strict=True
        ):
            stopping.patience = patience
            if stopping.wait_count >= max(1, patience):  # which Lightning forgets
                trainer.should_stop = True

    def on_validation_end(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Note the value; not every epoch needs to have one."""
        if self.metric is not None and not trainer.sanity_checking:
            self.value = trainer.callback_metrics[self.metric].item()

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Write the files, if the epoch is whole."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if done < trainer.num_training_batches:
            rank_zero_warn(
                f"epoch {trainer.current_epoch + 1} was stopped after {done} of "
                f"{trainer.num_training_batches} batches, and is not kept"
            )
            self.value = math.nan
            return
        if trainer.strategy.broadcast(self._is_best()):
            epoch = trainer.current_epoch + 1
            self.best = {"metric": self.metric, "value": self.value, "epoch": epoch}
            self._save(trainer, self.best_path)
        self._save(trainer, self.last)  # after the best one: what is not in it is done again
        self.value = math.nan

    def _is_best(self) -> bool:
        if math.isnan(self.value):
            return False
        if self.best is None:
            return True
        if self.mode == "min":
            return self.value <= self.best["value"]
        return self.value >= self.best["value"]

    @staticmethod
    def _save(trainer: lightning.Trainer, path: Path) -> None:
        """Lightning moves files from the temporary folder, which may be on another disk."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            trainer.save_checkpoint(unfinished, weights_only=False)
            if trainer.is_global_zero:
                os.replace(unfinished, path)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path} cannot be written: {error.strerror or error}. When there is room, "
                "--resume goes on",
            ) from error
        finally:
            if trainer.is_global_zero:
                unfinished.unlink(missing_ok=True)


class Pictures(Callback):
    """Every few epochs, how the first development files are weighed.

    A picture is a PNG file, and an image of TensorBoard where that is among the loggers. Names
    beside weightings are those of the reference or, without one, of the likes that the classifier
    knows.

    Parameters
    ----------
    folder : Path
        Gets a folder for each file, with a picture for each epoch.
    every : int
        Epochs between pictures.
    num_files : int, optional
        Those with a reference come first.
    """

    def __init__(self, folder: Path, every: int, num_files: int = 3):
        self.folder, self.every, self.num_files = folder, every, num_files

    def on_validation_end(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Draw, in one process."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or epoch % self.every or not trainer.is_global_zero:
            return
        entries = model.task.prepared_data["development"]
        known = [i for i, e in enumerate(entries) if e["turns"] is not None or e["likes"]]
        known.sort(key=lambda index: entries[index]["turns"] is None)
        for number, index in enumerate(known[: self.num_files], start=1):
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", entries[index]["uri"])
            name = f"{number}-{slug[:100]}"
            path = self.folder / name / f"epoch-{epoch:04d}.png"
            self._draw(path, model, index, entries[index], epoch)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    image = matplotlib.image.imread(path)[..., :3]
                    logger.experiment.add_image(name, image, epoch, dataformats="HWC")

    @staticmethod
    @torch.inference_mode()
    def _draw(path: Path, model: Weighter, index: int, entry: dict, epoch: int) -> None:
        batch = collate([model.task.val__getitem__(index)])
        count = batch["count"]
        weighted = model.weigh(
            batch["frames"].to(model.device),
            count=None if count is None else count.to(model.device),
        )
        reference, names, title = None, {}, f"{entry['uri'][-80:]}, epoch {epoch}"
        if entry["turns"] is not None:
            reference = Annotation(uri=entry["uri"])
            for track, (start, end, speaker) in enumerate(entry["turns"]):
                reference[Segment(start, end), track] = speaker
        if entry["likes"]:
            liked = [short(name) for name in entry["likes"][:5]]
            more = len(entry["likes"]) - len(liked)
            title += f", liked: {', '.join(liked)}" + (f" and {more} more" if more else "")
            names = _slots_of_likes(model, weighted.embeddings[0], weighted.confidence[0], entry)
        slots = SlidingWindowFeature(weighted.weightings[0].float().cpu().numpy(), model.frames)
        plot_weightings(path, slots, reference=reference, names=names, title=title)


def _slots_of_likes(
    model: Weighter, embeddings: Tensor, confidence: Tensor, entry: dict
) -> dict[int, str]:
    """Slot of each like that the classifier knows: the cheapest assignment of -ln(c p)."""
    if not hasattr(model, "loss_func"):  # training makes no use of likes
        return {}
    known = [name for name in entry["likes"] if name in model.task.speaker_index]
    columns = [model.task.speaker_index[name] for name in known]
    posteriors = model.loss_func.get_logits(embeddings).log_softmax(dim=-1)  # (N, K)
    log_c = confidence.clamp_min(1e-6).log()[:, None]
    slots, likes = assign(-(posteriors[:, columns] + log_c).float().cpu())
    return {slot: known[like] for slot, like in zip(slots.tolist(), likes.tolist(), strict=True)}


class SeedBatches(Callback):
    """Let dropout depend on seed, epoch, batch and process alone: who resumes draws the same."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Weighter, batch: dict, batch_idx: int
    ) -> None:
        """Seed what is drawn in the batch."""
        batch_of = self.seed, trainer.current_epoch, batch_idx, trainer.global_rank
        torch.manual_seed(int(np.random.SeedSequence(batch_of).generate_state(1)[0]))
