"""Training from a configuration file: data, model, task, and a pipeline folder at the end."""

from __future__ import annotations

import math
import os
from pathlib import Path

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LambdaCallback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from pyannote.audio import Model
from pyannote.database import registry

from pyannote_weighter.models import Weighter
from pyannote_weighter.output import atomic
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tasks.metrics import choose_metric
from pyannote_weighter.tasks.samples import reference_entry
from pyannote_weighter.tuning import tune

SECTIONS = {
    "protocol", "registry", "frames", "seed", "threads", "export", "early_stopping", "model",
    "task", "trainer",
}  # fmt: skip
REQUIRED = {"protocol", "registry"}
MAY_CHANGE = (  # between a run and its resumption
    "registry", "frames", "threads", "export", "early_stopping", "task.cache", "task.num_workers",
    "trainer.accelerator", "trainer.enable_model_summary", "trainer.enable_progress_bar",
    "trainer.log_every_n_steps", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time",
    "trainer.precision",
)  # fmt: skip


def read_config(path: str | Path) -> dict:
    """Read and check a training configuration.

    Parameters
    ----------
    path : path
        YAML file with the keys `protocol` (name) and `registry` (its database.yml), and
        optionally `frames` (folder of cached frames), `seed`, `threads`, `export` (epoch that
        becomes the pipeline: best or last), `early_stopping` (options of Lightning's
        `EarlyStopping`, such as patience), `model` (options of `Weighter`), `task` (options of
        `SpeakerLikes`) and `trainer` (options of Lightning's `Trainer`). Paths are relative to
        the YAML file.

    Returns
    -------
    config : dict

    Raises
    ------
    FileNotFoundError
        If the file, or the registry that it names, does not exist.
    ValueError
        If keys are missing or unknown, or `export` is neither best nor last.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such training configuration; see recipes/default")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected keys and values, such as `protocol: ...`")
    config = {key: value for key, value in config.items() if value is not None}  # empty sections
    if unknown := set(config) - SECTIONS:
        raise ValueError(
            f"{path}: unknown keys {', '.join(sorted(map(str, unknown)))}; "
            f"known ones are {', '.join(sorted(SECTIONS))}"
        )
    if missing := REQUIRED - set(config):
        raise ValueError(f"{path}: missing keys {', '.join(sorted(missing))}")
    if config.get("export", "best") not in ("best", "last"):
        raise ValueError(f"{path}: export is {config['export']!r}; it may be best or last")
    config["registry"] = path.parent / config["registry"]
    if not config["registry"].is_file():
        raise FileNotFoundError(
            f"{path}: registry {config['registry']} does not exist: name a database.yml, "
            "relative to the configuration"
        )
    if "frames" in config:
        config["frames"] = path.parent / config["frames"]
    return config


class Checkpoints(Checkpoint):
    """After each epoch `last.ckpt` and, where a metric tells which epoch is best, `best.ckpt`.

    Of epochs that are equally good the later one is kept, since metrics of few files saturate.
    What is best so far is read from `best.ckpt` itself, so that a kill between the two files does
    no harm.

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
        if self.best_path.is_file():
            stored = torch.load(self.best_path, map_location="cpu", weights_only=False)
            stored = stored["callbacks"][self.state_key]["best"]
            if stored["metric"] == metric:
                self.best = stored

    def state_dict(self) -> dict:
        """What is best so far: metric, value, and epoch, counted from 1."""
        return {"best": self.best}

    def on_validation_end(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Note the value; not every epoch needs to have one."""
        if self.metric is not None and not trainer.sanity_checking:
            self.value = trainer.callback_metrics[self.metric].item()

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Weighter) -> None:
        """Write the files."""
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
        trainer.save_checkpoint(unfinished, weights_only=False)
        if trainer.is_global_zero:
            os.replace(unfinished, path)


def _flatten(config: dict, prefix: str = "") -> dict:
    """Nested keys joined by dots."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_same(path: str | Path, options: dict, stored: Path) -> None:
    """Refuse to resume with options that would not go on with the same training."""
    was = _flatten(yaml.safe_load(stored.read_text(encoding="utf-8")))
    given, unset = _flatten(options), "not set"  # which is not the same as null
    differing = [
        f"{key} ({was.get(key, unset)}, now {given.get(key, unset)})"
        for key in sorted(was.keys() | given.keys())
        if was.get(key, unset) != given.get(key, unset)
        and not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)
    ]
    if differing:
        raise ValueError(
            f"{path}: {stored.parent} was trained otherwise: {', '.join(differing)}. Set them "
            "as they were (the seed: with --seed), or train into another folder without --resume. "
            f"What may change: {', '.join(MAY_CHANGE)}"
        )


def train(
    config: str | Path, into: str | Path, resume: bool = False, seed: int | None = None
) -> Path:
    """Train a Weighter from likes.

    The pipeline is made from the epoch that does best on the development files, by frame-level
    DER where they have references, else by mean average precision of likes; from the last epoch
    where neither can be told, or if the configuration says `export: last`. Its `training.yaml`
    tells which epoch that is.

    Training that was stopped and resumed ends, on CPU, with the same weights bit for bit as
    training that was not, unless `trainer.max_epochs` or the like was changed, on which learning
    rates depend.

    Parameters
    ----------
    config : path
        See `read_config`.
    into : path
        Folder for the configuration, checkpoints, metrics (CSV), and the pipeline.
    resume : bool, optional
        Go on after the last epoch that is whole in `into`.
    seed : int, optional
        In place of the one of the configuration.

    Returns
    -------
    folder : Path
        `into`/pipeline, for pyannote's `Pipeline.from_pretrained`.

    Raises
    ------
    FileNotFoundError, ValueError
        From the configuration; if there is nothing to resume, or another configuration than the
        run had, or something that would be overwritten.
    """
    options, into = read_config(config), Path(into)
    options["seed"] = options.get("seed", 0) if seed is None else seed
    stored = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    stored_path, last = into / "config.yaml", into / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise FileNotFoundError(f"{last}: nothing to resume; start without --resume")
    if not resume and last.is_file():
        raise ValueError(f"{into} holds a training run: add --resume, or choose another folder")
    if resume and stored_path.is_file():  # runs of earlier versions have none
        _check_same(config, stored, stored_path)

    if "threads" in options:
        torch.set_num_threads(options["threads"])
    lightning.seed_everything(options["seed"], workers=True)
    registry.load_database(options["registry"])
    try:
        protocol = registry.get_protocol(options["protocol"])
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{config}: {options['registry']} defines no protocol {options['protocol']!r}: {error}"
        ) from error
    frames = options.get("frames", into / "frames")
    try:
        model = Weighter(**options.get("model", {}))
        model.task = SpeakerLikes(protocol, frames=frames, **options.get("task", {}))
    except TypeError as error:  # unknown options
        raise ValueError(f"{config}: {error}") from error

    development = protocol.development() if model.task.has_validation else ()
    metric, mode = choose_metric([reference_entry(file) for file in development])
    if not resume:
        last.with_name("best.ckpt").unlink(missing_ok=True)  # of a run killed in its first epoch
    checkpoints = Checkpoints(last.parent, metric, mode)
    callbacks = [checkpoints, _seed_batches(options["seed"])]
    if options.get("trainer", {}).get("enable_progress_bar", True):
        callbacks.append(RichProgressBar(leave=True))
    defaults = {"max_epochs": 10, "gradient_clip_val": 1.0}
    if resume and model.task.num_workers:  # Lightning starts workers before it knows the epoch
        defaults["reload_dataloaders_every_n_epochs"] = 1
    try:
        if "early_stopping" in options:
            if metric is None:
                raise ValueError(
                    "early_stopping needs development files with references, or with likes that "
                    "tell files apart: some share a name, some do not"
                )
            callbacks.append(EarlyStopping(metric, mode=mode, **options["early_stopping"]))
        trainer = lightning.Trainer(
            default_root_dir=into,
            logger=CSVLogger(into, name="metrics"),  # a run that goes on has metrics of its own
            callbacks=callbacks,
            **defaults | options.get("trainer", {}),
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ValueError(f"{config}: {error}") from error

    into.mkdir(parents=True, exist_ok=True)
    with atomic(stored_path) as unfinished:
        unfinished.write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    try:
        trainer.fit(model, ckpt_path=last if resume else None, weights_only=False)
    except MisconfigurationException as error:  # fewer epochs than were trained, for instance
        raise ValueError(f"{config}: {error}") from error
    return _export(checkpoints, options.get("export", "best"), model.task, into / "pipeline")


def _seed_batches(seed: int) -> LambdaCallback:
    """Let dropout depend on seed, epoch, batch and process alone: who resumes draws the same."""

    def start(trainer: lightning.Trainer, model: Weighter, batch: dict, batch_idx: int) -> None:
        key = np.random.SeedSequence((seed, trainer.current_epoch, batch_idx, trainer.global_rank))
        torch.manual_seed(int(key.generate_state(1)[0]))

    return LambdaCallback(on_train_batch_start=start)


def _export(checkpoints: Checkpoints, wanted: str, task: SpeakerLikes, folder: Path) -> Path:
    """Make the pipeline from one of the checkpoints; say, and write, from which and why."""
    num_epochs = torch.load(checkpoints.last, map_location="cpu", weights_only=False)["epoch"] + 1
    exported, epoch, path, best = "last", num_epochs, checkpoints.last, checkpoints.best
    if wanted == "last":
        why = "asked for (export: last)"
    elif checkpoints.metric is None:
        why = "no development files with references, or with likes that tell files apart"
    elif best is None:
        why = f"no epoch has a {checkpoints.metric}: nothing was validated"
    else:
        exported, epoch, path = "best", best["epoch"], checkpoints.best_path
        extreme = "lowest" if checkpoints.mode == "min" else "highest"
        why = f"{extreme} {best['metric']} of the development files, {best['value']:.4f}"
    trained = Model.from_pretrained(path)
    export_pipeline(trained, folder, tune(trained, task))
    summary = {"exported": exported, "epoch": epoch, "epochs": num_epochs, "why": why}
    if best is not None:
        summary["best"] = best
    with atomic(folder / "training.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(summary, sort_keys=False), encoding="utf-8")
    print(f"exported: {exported} epoch, {epoch} of {num_epochs}: {why}")
    return folder
