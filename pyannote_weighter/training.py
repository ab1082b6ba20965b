"""Training from a configuration file: data, model, task, and a pipeline folder at the end."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from pyannote.audio import Model
from pyannote.database import registry

from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.tuning import tune

SECTIONS = {"protocol", "registry", "frames", "seed", "threads", "model", "task", "trainer"}
REQUIRED = {"protocol", "registry"}


def read_config(path: str | Path) -> dict:
    """Read and check a training configuration.

    Parameters
    ----------
    path : path
        YAML file with the keys `protocol` (name) and `registry` (its database.yml), and
        optionally `frames` (folder of cached frames), `seed`, `threads`, `model` (options of
        `Weighter`), `task` (options of `SpeakerLikes`) and `trainer` (options of Lightning's
        `Trainer`). Paths are relative to the YAML file.

    Returns
    -------
    config : dict

    Raises
    ------
    FileNotFoundError
        If the file, or the registry that it names, does not exist.
    ValueError
        If keys are missing or unknown.
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
    config["registry"] = path.parent / config["registry"]
    if not config["registry"].is_file():
        raise FileNotFoundError(
            f"{path}: registry {config['registry']} does not exist: name a database.yml, "
            "relative to the configuration"
        )
    if "frames" in config:
        config["frames"] = path.parent / config["frames"]
    return config


def train(
    config: str | Path, into: str | Path, resume: bool = False, seed: int | None = None
) -> Path:
    """Train a Weighter from likes.

    Parameters
    ----------
    config : path
        See `read_config`.
    into : path
        Folder for checkpoints, metrics (CSV), and the pipeline.
    resume : bool, optional
        Go on from the last checkpoint in `into`.
    seed : int, optional
        In place of the one of the configuration.

    Returns
    -------
    folder : Path
        `into`/pipeline, for pyannote's `Pipeline.from_pretrained`.

    Raises
    ------
    FileNotFoundError, ValueError
        From the configuration; if there is nothing to resume, or something that would be
        overwritten.
    """
    options, into = read_config(config), Path(into)
    last = into / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise FileNotFoundError(f"{last}: nothing to resume; start without --resume")
    if not resume and last.is_file():
        raise ValueError(f"{into} holds a training run: add --resume, or choose another folder")
    into.mkdir(parents=True, exist_ok=True)

    if "threads" in options:
        torch.set_num_threads(options["threads"])
    lightning.seed_everything(options.get("seed", 0) if seed is None else seed, workers=True)
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

    trainer = lightning.Trainer(
        default_root_dir=into,
        logger=CSVLogger(into, name="metrics"),  # a run that goes on has metrics of its own
        callbacks=[
            ModelCheckpoint(into / "checkpoints", save_last=True, enable_version_counter=False),
            RichProgressBar(leave=True),
        ],
        **{"max_epochs": 10, "gradient_clip_val": 1.0} | options.get("trainer", {}),
    )
    trainer.fit(model, ckpt_path=last if resume else None, weights_only=False)

    trained = Model.from_pretrained(last)
    return export_pipeline(trained, into / "pipeline", tune(trained, model.task))
