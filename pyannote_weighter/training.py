"""Training from a configuration file: data, model, task, and a pipeline folder at the end."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import lightning
import torch
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from pyannote.audio import Model
from pyannote.audio.utils.reproducibility import fix_reproducibility
from pyannote.database import registry

from pyannote_weighter.callbacks import Checkpoints, Pictures, SeedBatches, read_checkpoint
from pyannote_weighter.configuration import (
    ALLOWED,
    check_room,
    check_same,
    portable,
    read_config,
    record,
    recorded,
)
from pyannote_weighter.database import write_likes
from pyannote_weighter.impostors import MOST_FILES, cosine_offset
from pyannote_weighter.models import Weighter
from pyannote_weighter.options import check_options
from pyannote_weighter.output import atomic, check_folder
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import add_audio, find_protocol, load_registry
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tasks.loading import check_script, starting
from pyannote_weighter.tasks.metrics import choose_metric
from pyannote_weighter.tasks.prepared import first_difference, training_data
from pyannote_weighter.tasks.samples import as_liked
from pyannote_weighter.tuning import tune


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

    Several processes (`trainer: {devices: 2, strategy: ddp}`) share the files of each step, those
    to validate on, and the computing of frames; the first one writes. Lightning starts the others
    by running the same command again: call this from a script or the command line then, not from
    a notebook.

    Parameters
    ----------
    config : path
        See `read_config`.
    into : path
        Folder for the configuration, checkpoints, metrics, pictures, and the pipeline.
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
        From the configuration; if there is nothing to resume, or another configuration, other
        training files or other likes than the run had, or something that would be overwritten.
    ModuleNotFoundError
        If TensorBoard is asked for and not installed.
    RuntimeError
        If a worker that this function has started starts it again.
    """
    if starting():
        raise RuntimeError(
            "workers (task.num_workers) import the script that starts the training, which must "
            'not start it again there: call train() under `if __name__ == "__main__":`'
        )
    options, config, into = read_config(config), Path(config), Path(into)
    options["seed"] = options.get("seed", 0) if seed is None else seed
    check_options(ALLOWED, seed=options["seed"])
    stored, last = portable(options, config, into), into / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise FileNotFoundError(f"{last}: nothing to resume; start without --resume")
    if not resume and last.is_file():
        raise ValueError(f"{into} holds a training run: add --resume, or choose another folder")
    if resume:
        _check_checkpoint(last)
    else:
        check_room(config, into)
    was = recorded(into, config) if resume else {}
    if "config" in was:
        check_same(config, stored, was["config"], into)

    if "threads" in options:
        torch.set_num_threads(options["threads"])
    lightning.seed_everything(options["seed"], workers=True)
    load_registry(options["registry"], registry)
    where = f"{config}: {options['registry']}"
    protocol = find_protocol(options["protocol"], where, registry)
    add_audio(protocol, where, registry)
    frames = options.get("frames", into / "frames")
    model = _start(config, options, last if resume else None)
    _check_names(config, "task", options, SpeakerLikes, {"protocol", "frames"})
    _check_names(config, "early_stopping", options, EarlyStopping, {"monitor", "mode"})
    try:
        with redirect_stdout(StringIO()):  # upstream tells that it finds the audio
            model.task = SpeakerLikes(protocol, frames=frames, **options.get("task", {}))
            check_script(model.task.num_workers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config}: task: {error}") from error
    with warnings.catch_warnings(action="ignore"):  # `prepare_data` warns of the same
        data = training_data(model.task.list_training(model)[1])
    if "data" in was and (change := first_difference(was["data"], data)):
        raise ValueError(
            f"{config}: {into} was trained on other files or likes: {change}. Its "
            "checkpoints know files and speakers by their numbers in the old list: put the list "
            "back as it was, or train into another folder without --resume"
        )

    metric, mode = choose_metric(model.task.list_development()[1])
    if not resume and last.parent.is_dir():
        last.with_name("best.ckpt").unlink(missing_ok=True)  # of a run killed in its first epoch
    checkpoints = Checkpoints(last.parent, metric, mode)
    callbacks = [checkpoints, SeedBatches(options["seed"])]
    if options.get("trainer", {}).get("enable_progress_bar", True):
        callbacks.append(RichProgressBar(leave=True))
    defaults = {"max_epochs": 10, "gradient_clip_val": 1.0, "enable_model_summary": False}
    if resume and model.task.num_workers:  # Lightning starts workers before it knows the epoch
        defaults["reload_dataloaders_every_n_epochs"] = 1
    try:
        if "early_stopping" in options:
            if metric is None:
                raise ValueError(
                    "early_stopping needs development files with references, or with likes that "
                    "tell files apart: some share a name, some do not"
                )
            if options.get("trainer", {}).get("limit_val_batches") == 0:
                raise ValueError("early_stopping needs validation: leave limit_val_batches out")
            callbacks.append(EarlyStopping(metric, mode=mode, **options["early_stopping"]))
        if "pictures" in options:
            if not model.task.has_validation:
                raise ValueError("pictures are of development files, and there are none")
            callbacks.append(Pictures(into / "pictures", options["pictures"]))
        trainer = lightning.Trainer(
            default_root_dir=into,
            logger=_loggers(into, options.get("logger", "csv")),
            callbacks=callbacks,
            **defaults | options.get("trainer", {}),
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ValueError(f"{config}: {error}") from error

    # Lightning resumes a training with max_steps as if it had been stopped within an epoch, and
    # leaves out the next one: tell it that there are epochs nevertheless (bool() is False)
    trainer.fit_loop._iteration_based_training = bool
    if isinstance(trainer.strategy, DDPStrategy):  # a batch may leave parts of the model unused
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # these are of one process
    device = trainer.strategy.root_device
    fix_reproducibility(device)  # the same arithmetic, whether frames are computed or read
    folder, first = into / "pipeline", trainer.is_global_zero
    with _alone(into) if first else nullcontext():
        if first:
            check_folder(frames)
            record(stored, data, config, into)
        else:  # help the first process, which does so in `fit` and tells what is wrong
            with suppress(OSError, ValueError), warnings.catch_warnings(action="ignore"):
                model.to(device).prepare_data()
        try:
            trainer.fit(model, ckpt_path=last if resume else None, weights_only=False)
        except MisconfigurationException as error:  # fewer epochs than were trained, for instance
            raise ValueError(f"{config}: {error}") from error
        except RuntimeError as error:
            if first or "Connection closed by peer" not in str(error):
                raise
            raise SystemExit(1) from None  # the first process has ended, and says why
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # the first process goes on alone
        if first:
            if not last.is_file():
                raise ValueError(
                    f"{config}: training ended before its first epoch did, and nothing of it is "
                    "kept: raise max_time, max_steps or limit_train_batches of the trainer"
                )
            missing = as_liked(model.task.missing, model.task.protocol.train())
            _suggest(missing, into / "missing.likes")
            _export(checkpoints, options.get("export", "best"), model.task, folder, device)
    return folder


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """Keep the folder of a run from other trainings; ValueError where one has it already."""
    check_folder(into)
    lock = FileLock(into / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another training is writing to {into}: wait for its end, or choose another folder"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # still open: cannot be removed on Windows
            os.unlink(lock.lock_file)
        lock.release()


def _check_names(config: Path, section: str, options: dict, made: type, given: set) -> None:
    """Refuse options in a section that what is made of it does not have."""
    known = set(inspect.signature(made).parameters) - given
    if unknown := set(options.get(section, {})) - known:
        raise ValueError(
            f"{config}: {section}: unknown options {', '.join(sorted(map(str, unknown)))}; known "
            f"ones are {', '.join(sorted(known))}"
        )


def _check_checkpoint(last: Path) -> None:
    """Refuse to go on from a damaged checkpoint."""
    try:
        read_checkpoint(last)
    except ValueError as error:
        raise ValueError(
            f"{error}: put a copy of it in its place, or one of best.ckpt, or train into another "
            "folder without --resume"
        ) from error


def _start(config: Path, options: dict, last: Path | None) -> Weighter:
    """Weighter to train: a new one, or one that was trained before.

    Parameters
    ----------
    config : Path
        Of the configuration.
    options : dict
        What it says.
    last : Path or None
        Checkpoint that a run goes on from, where what it began with is gone.
    """
    init = options.get("init")
    if init is None:
        try:
            return Weighter(**options.get("model", {}))
        except (TypeError, ValueError) as error:  # unknown options, or such as cannot be
            raise ValueError(f"{config}: model: {error}") from error
    start = DEFAULT_PIPELINE if init == "default" else config.parent / init
    files = [start / "weighter" / "pytorch_model.bin", start / "pytorch_model.bin", start]
    # what is found in the files before training is found as it was when the run began
    start = next((file for file in files if file.is_file()), last)
    if start is None:
        raise FileNotFoundError(
            f"{config}: init {init} is no pipeline folder with a Weighter, and no checkpoint: "
            "give one, relative to the configuration, or `default`"
        )
    try:
        model = Model.from_pretrained(start)
    except Exception as error:  # whatever is in the file, reading it may raise anything
        raise ValueError(f"{config}: init {init}: {start} is no checkpoint: {error!r}") from error
    if not isinstance(model, Weighter):
        raise ValueError(f"{config}: init {init} is a {type(model).__name__}, not a Weighter")
    return model.train()


def _suggest(missing: dict[str, list[str]], path: Path) -> None:
    """Write the likes that were found missing, for whoever keeps the archive to look at."""
    path.unlink(missing_ok=True)  # of an earlier run
    if not missing:
        return
    write_likes(path, missing)
    number = sum(map(len, missing.values()))
    print(f"found {number} likes that {len(missing)} files lack, and used them: {path}")


def _loggers(into: Path, name: str) -> list[Logger]:
    """Tables, and TensorBoard beside them; a run that goes on has files of its own."""
    loggers: list[Logger] = [CSVLogger(into, name="metrics")]
    if name == "tensorboard":
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "logger: tensorboard needs TensorBoard, which is not installed: "
                'pip install "pyannote-weighter[tensorboard]", or set logger: csv'
            )
        loggers.append(TensorBoardLogger(into, name="tensorboard"))
    return loggers


def _export(
    checkpoints: Checkpoints,
    wanted: str,
    task: SpeakerLikes,
    folder: Path,
    device: torch.device,
) -> None:
    """Make the pipeline from one of the checkpoints; say, and write, from which and why."""
    stored = read_checkpoint(checkpoints.last)
    num_epochs = stored["epoch"] + 1
    was = stored["callbacks"].get(checkpoints.state_key, {}).get("best")
    exported, epoch, path, best = "last", num_epochs, checkpoints.last, checkpoints.best
    if wanted == "last":
        why = "asked for (export: last)"
    elif checkpoints.metric is None:
        why = "no development files with references, or with likes that tell files apart"
    elif best is None and was is not None and was["metric"] == checkpoints.metric:
        why = f"{checkpoints.best_path.name}, of epoch {was['epoch']}, is gone or damaged"
    elif best is None:
        why = f"no epoch has a {checkpoints.metric}: nothing was validated"
    else:
        exported, epoch, path = "best", best["epoch"], checkpoints.best_path
        extreme = "lowest" if checkpoints.mode == "min" else "highest"
        why = f"{extreme} {best['metric']} of the development files, {best['value']:.4f}"
    trained = Model.from_pretrained(path).to(device)  # Lightning has moved the other one away
    development = list(task.protocol.development()) if task.has_validation else []
    offset = cosine_offset(trained, task.training_samples(MOST_FILES))
    options = {"cosine_offset": offset} | segmentation_options(task)
    parameters = tune(trained, task, development, **options)
    export_pipeline(trained, folder, parameters, **options)
    summary = {"exported": exported, "epoch": epoch, "epochs": num_epochs, "why": why}
    if best is not None:
        summary["best"] = best
    with atomic(folder / "training.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(summary, sort_keys=False), encoding="utf-8")
    print(f"exported: {exported} epoch, {epoch} of {num_epochs}: {why}")


def segmentation_options(task: SpeakerLikes) -> dict:
    """Options of the pipeline that count speakers as they were counted for training.

    Those that are the pipeline's anyway are left out, and so is what a file cannot name.
    """
    options, usual = {}, inspect.signature(WeighterDiarization).parameters
    name, step = task.segmentation, task.segmentation_step
    if not isinstance(name, str):
        return options
    if name != usual["segmentation"].default:
        # a pipeline is used from any folder
        options["segmentation"] = os.path.abspath(name) if os.path.exists(name) else name
    if step != usual["segmentation_step"].default:
        options["segmentation_step"] = step
    return options
