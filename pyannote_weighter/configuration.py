"""The configuration of a training: reading it, and what a run notes of it to be resumed by."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import yaml

from pyannote_weighter.options import (
    AT_LEAST_ZERO,
    COUNT,
    COUNT_OR_NONE,
    COUNT_OR_ZERO,
    Rule,
    check_options,
    is_whole,
)
from pyannote_weighter.output import atomic
from pyannote_weighter.segmentation import PRETRAINED

SECTIONS = {
    "protocol", "registry", "frames", "seed", "threads", "export", "early_stopping", "logger",
    "pictures", "init", "model", "task", "trainer",
}  # fmt: skip
RECORD = "run.json"  # in the folder of a run: what must be the same where it is resumed
_ANEW = "put back a copy of it, or train into another folder without --resume"
REQUIRED = {"protocol", "registry"}
MAY_CHANGE = (  # between a run and its resumption
    "registry", "frames", "threads", "export", "early_stopping", "logger", "pictures",
    "task.cache", "task.num_workers",
    "trainer.accelerator", "trainer.enable_model_summary", "trainer.enable_progress_bar",
    "trainer.log_every_n_steps", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time",
    "trainer.precision",
)  # fmt: skip
_TEXT: Rule = "a name or path, in quotes if it looks like a number", lambda v: isinstance(v, str)
_OPTIONS: Rule = "options, such as `{name: value}`", lambda value: isinstance(value, dict)
_OWN = "written without point or exponent"
_WHOLE: Rule = (
    f"a whole number, {_OWN}",
    lambda value: value is None or is_whole(value),
)
_LENGTH: Rule = (
    f"a whole number of at least 1, or -1 for no limit, {_OWN}",
    lambda value: value is None or (is_whole(value) and (value >= 1 or value == -1)),
)
_THRESHOLD: Rule = "a number, or null", lambda value: value is None or math.isfinite(value)
ALLOWED: dict[str, Rule] = {
    "protocol": _TEXT,
    "registry": _TEXT,
    "frames": _TEXT,
    "seed": (
        "a whole number from 0 to 4294967295, written without point or exponent",
        lambda value: is_whole(value) and 0 <= value < 2**32,
    ),
    "threads": COUNT,
    "early_stopping": _OPTIONS,
    "early_stopping.patience": COUNT_OR_ZERO,
    "early_stopping.min_delta": AT_LEAST_ZERO,
    "early_stopping.stopping_threshold": _THRESHOLD,
    "early_stopping.divergence_threshold": _THRESHOLD,
    "model": _OPTIONS,
    "task": _OPTIONS,
    "task.segmentation": (
        "a name or path, in quotes if it looks like a number, or null",
        lambda value: value is None or isinstance(value, str),
    ),
    "task.cache": (
        "the path of a file, in quotes if it looks like a number, or null",
        lambda value: value is None or isinstance(value, str),
    ),
    "trainer": _OPTIONS,
    "trainer.max_epochs": _LENGTH,
    "trainer.min_epochs": _WHOLE,
    "trainer.max_steps": _LENGTH,
    "trainer.min_steps": _WHOLE,
    "trainer.limit_train_batches": (
        "a whole number of at least 1, or a share above 0",
        lambda value: value is None or (not isinstance(value, bool) and value > 0),
    ),
    "trainer.fast_dev_run": (
        "false, as it keeps no checkpoint to make a pipeline from; for a short training, set "
        "limit_train_batches",
        lambda value: value in (None, False),
    ),
    "trainer.log_every_n_steps": _WHOLE,
    "trainer.check_val_every_n_epoch": COUNT_OR_NONE,
    "trainer.num_sanity_val_steps": (
        f"a whole number of at least -1, {_OWN}",
        lambda value: value is None or (is_whole(value) and value >= -1),
    ),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.precision": (
        "bf16-mixed or 16-mixed, whose weights stay in full precision",
        lambda value: value not in ("bf16-true", "16-true"),
    ),
}
"""What values may be, of the `Trainer` those that Lightning would not refuse itself."""


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2; in YAML 1.1 it would be text.

    A key that is there twice is refused, as in YAML 1.2 too.
    """

    def compose_mapping_node(self, anchor):
        """Read keys and values; ValueError where one is set twice."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: {key.value} is set twice: keep one of them")
                seen.add((key.tag, key.value))
        return node


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_config(path: str | Path) -> dict:
    """Read and check a training configuration.

    Parameters
    ----------
    path : path
        YAML file with the keys `protocol` (name) and `registry` (its database.yml), and
        optionally `frames` (folder of cached frames), `seed`, `threads`, `export` (epoch that
        becomes the pipeline: best or last), `early_stopping` (options of Lightning's
        `EarlyStopping`, such as patience), `logger` (csv, or tensorboard beside it), `pictures`
        (epochs between pictures of development files), `init` (Weighter that training starts
        from: default, a pipeline folder or a checkpoint) or `model` (options of a new
        `Weighter`), `task` (options of `SpeakerLikes`) and `trainer` (options of Lightning's
        `Trainer`). Paths are relative to the YAML file, `segmentation` and `cache` of the task
        among them.

    Returns
    -------
    config : dict

    Raises
    ------
    FileNotFoundError
        If the file, or the registry that it names, does not exist.
    ValueError
        If it is no YAML file in UTF-8, keys are missing, unknown or set twice, or a value is none
        of those that a key may have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such training configuration; see recipes/default")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8: {error}; save it in UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
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
    options = _flatten(config) | config
    try:
        check_options(ALLOWED, **{key: options[key] for key in ALLOWED if key in options})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for key, values in {"export": ("best", "last"), "logger": ("csv", "tensorboard")}.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{path}: {key} is {config[key]!r}; it may be {' or '.join(values)}")
    pictures = config.get("pictures", 1)
    if not is_whole(pictures) or pictures < 1:
        raise ValueError(f"{path}: pictures is {pictures!r}; it is a number of epochs, such as 5")
    config["registry"] = path.parent / config["registry"]
    if not config["registry"].is_file():
        raise FileNotFoundError(
            f"{path}: registry {config['registry']} does not exist: name a database.yml, "
            "relative to the configuration"
        )
    if "frames" in config:
        config["frames"] = path.parent / config["frames"]
    task = config.get("task", {})
    if _is_path(task.get("segmentation"), path.parent):
        task["segmentation"] = str(path.parent / task["segmentation"])
    if task.get("cache"):
        task["cache"] = str(path.parent / task["cache"])
    if "init" in config:
        if "model" in config:
            raise ValueError(
                f"{path}: init and model: a Weighter that exists has its options already; "
                "give one of them"
            )
        if not isinstance(config["init"], str):
            raise ValueError(
                f"{path}: init is {config['init']!r}; it is `default`, a pipeline folder or a "
                "checkpoint, relative to the configuration"
            )
    return config


def _is_path(segmentation: str | None, folder: Path) -> bool:
    """Whether it is a file, or a folder, and no name of a model."""
    if not segmentation or segmentation == PRETRAINED:
        return False
    return (folder / segmentation).exists()


def _flatten(config: dict, prefix: str = "") -> dict:
    """Nested keys joined by dots."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def portable(options: dict, config: Path, into: Path) -> dict:
    """Options of a configuration whose paths are relative to the folder of the run."""
    paths = {key: Path(options[key]) for key in ("registry", "frames") if key in options}
    if options.get("init", "default") != "default":
        paths["init"] = config.parent / options["init"]
    options = options | {key: _relative(path, into) for key, path in paths.items()}
    if "task" in options:
        task = options["task"] = dict(options["task"])
        if _is_path(task.get("segmentation"), Path()):
            task["segmentation"] = _relative(Path(task["segmentation"]), into)
        if task.get("cache"):
            task["cache"] = _relative(Path(task["cache"]), into)
    return options


def _relative(path: Path, folder: Path) -> str:
    path = path.parent.resolve() / path.name  # through a link to a folder, .. leads elsewhere
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return str(path)


def recorded(into: Path, config: Path) -> dict:
    """What a run noted when it began: "config" and "data"; earlier versions noted less."""
    noted, stored = into / RECORD, into / "config.yaml"
    if noted.is_file():
        try:
            was = json.loads(noted.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{noted}: damaged ({error}): {_ANEW}") from error
        if not (isinstance(was, dict) and {"config", "data"} <= set(was)):
            raise ValueError(f"{noted}: damaged (it tells no configuration and data): {_ANEW}")
        return was
    if stored.is_file():
        options = yaml.load(stored.read_text(encoding="utf-8"), Loader)
        return {"config": portable(options, config, into)}  # `init` was as it was given
    return {}


def check_room(config: Path, into: Path) -> None:
    """Refuse to begin a run where another configuration lies that is of no run."""
    stored = into / "config.yaml"
    if stored.is_file() and not (stored.samefile(config) or (into / RECORD).is_file()):
        raise ValueError(
            f"{stored} is there already, and would be overwritten: move it, or choose another "
            "folder"
        )


def record(options: dict, data: list[dict], config: Path, into: Path) -> None:
    """Note what `recorded` reads, and write a configuration that can be trained from again.

    The user's own file stays as it is, if that is where the configuration would be written.
    """
    stored = into / "config.yaml"
    if not (stored.is_file() and stored.samefile(config)):
        with atomic(stored) as unfinished:
            unfinished.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    with atomic(into / RECORD) as unfinished:
        text = json.dumps({"config": options, "data": data}, indent=2)
        unfinished.write_text(text + "\n", encoding="utf-8")


def check_same(path: Path, options: dict, was: dict, into: Path) -> None:
    """Refuse to resume with options that would not go on with the same training."""
    was, given, unset = _flatten(was), _flatten(options), "not set"  # which is not null
    for key in ("init", "task.segmentation"):
        if was.get(key) and given.get(key) and not (into / was[key]).exists():
            # the run was moved, or what it began with is gone
            if Path(was[key]).name == Path(given[key]).name:
                was[key] = given[key]
    differing = [
        f"{key} ({was.get(key, unset)}, now {given.get(key, unset)})"
        for key in sorted(was.keys() | given.keys())
        if was.get(key, unset) != given.get(key, unset)
        and not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)
    ]
    if differing:
        raise ValueError(
            f"{path}: {into} was trained otherwise: {', '.join(differing)}. Set them "
            "as they were (the seed: with --seed), or train into another folder without --resume. "
            f"What may change: {', '.join(MAY_CHANGE)}"
        )
