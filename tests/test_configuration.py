"""What a configuration may say, where its paths lead, and what a run notes of it."""

import re
from pathlib import Path

import pytest
import yaml

from pyannote_weighter.configuration import (
    RECORD,
    check_room,
    check_same,
    portable,
    read_config,
    record,
    recorded,
)
from pyannote_weighter.training import train


@pytest.fixture
def write(tmp_path):
    """Write a configuration into a folder of its own, beside its registry."""

    def run(**options) -> Path:
        folder = tmp_path / "configs"
        folder.mkdir(exist_ok=True)
        (folder / "database.yml").touch()
        path = folder / "train.yaml"
        path.write_text(yaml.safe_dump({"protocol": "P", "registry": "database.yml"} | options))
        return path

    return run


@pytest.mark.parametrize(
    "section, name, value, allowed",
    [
        ("trainer", "max_epochs", 0, "a whole number of at least 1, or -1"),
        ("trainer", "max_steps", 0, "a whole number of at least 1, or -1"),
        ("trainer", "limit_train_batches", 0, "a whole number of at least 1, or a share above 0"),
        ("trainer", "fast_dev_run", True, "false, as it keeps no checkpoint"),
        ("trainer", "fast_dev_run", 2, "false, as it keeps no checkpoint"),
        ("trainer", "accumulate_grad_batches", 0, "a whole number of at least 1"),
        ("trainer", "check_val_every_n_epoch", 0, "None, or a whole number of at least 1"),
        ("trainer", "num_sanity_val_steps", "x", "a whole number of at least -1"),
        ("early_stopping", "patience", "3", "a whole number of at least 0"),
        ("early_stopping", "min_delta", "x", "a number of at least 0"),
        ("early_stopping", "stopping_threshold", "x", "a number, or null"),
        ("early_stopping", "divergence_threshold", [1], "a number, or null"),
        ("task", "segmentation", 5, "a name or path"),
        ("task", "cache", 5, "the path of a file"),
    ],
)
def test_options_that_would_fail_late(write, section, name, value, allowed):
    message = re.escape(f"{section}.{name} is {value!r}: choose {allowed}")
    with pytest.raises(ValueError, match=f"train.yaml: {message}"):
        read_config(write(**{section: {name: value}}))


def test_options_that_may_be(write):
    trainer = {
        "max_epochs": -1, "max_steps": 5, "limit_train_batches": 0.5, "fast_dev_run": False,
        "num_sanity_val_steps": -1, "check_val_every_n_epoch": None,
    }  # fmt: skip
    stopping = {"patience": 0, "min_delta": 1e-3, "stopping_threshold": None}
    task = {"segmentation": None}
    config = read_config(write(trainer=trainer, early_stopping=stopping, task=task))
    assert (config["trainer"], config["early_stopping"], config["task"]) == (
        trainer,
        stopping,
        task,
    )


def test_paths_of_the_task(write, tmp_path, monkeypatch):
    """Relative to the configuration; where a run stores them, to the run; names stay names."""
    config = write(task={"segmentation": "counts", "cache": "list.npz"})
    for folder in ("counts", "segmentation-3.0"):
        (config.parent / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    config = config.relative_to(tmp_path)
    options, into = read_config(config), Path("runs/mine")
    assert options["task"]["segmentation"] == "configs/counts"
    assert options["task"]["cache"] == "configs/list.npz"
    stored = portable(options, config, into)
    assert stored["task"]["segmentation"] == "../../configs/counts"
    assert stored["task"]["cache"] == "../../configs/list.npz"
    assert options["task"]["segmentation"] == "configs/counts"

    moved = Path("elsewhere/deep/mine")  # by then the path in the notes leads nowhere
    check_same(config, portable(options, config, moved), stored, moved)

    for name in ("segmentation-3.0", "pyannote/segmentation"):
        options = read_config(write(task={"segmentation": name}))
        assert portable(options, config, into)["task"] == {"segmentation": name}


def test_configuration_of_no_run_is_not_overwritten(write, tmp_path):
    config, into = write(), tmp_path / "run"
    into.mkdir()
    (into / "config.yaml").write_text("mine")
    with pytest.raises(ValueError, match="run/config.yaml is there already.*move it"):
        train(config, into)
    assert [path.name for path in into.iterdir()] == ["config.yaml"]
    check_room(into / "config.yaml", into)  # that is what is trained from
    (into / RECORD).touch()
    check_room(config, into)  # that of a run killed in its first epoch


@pytest.mark.parametrize("text", ["[]", "{}", '{"config": ', "\xff"])
def test_damaged_notes_are_named(write, tmp_path, text):
    config, into = write(), tmp_path / "run"
    record({"protocol": "P"}, [], config, into)
    assert recorded(into, config) == {"config": {"protocol": "P"}, "data": []}
    (into / RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="run/run.json: damaged .*put back a copy of it, or"):
        recorded(into, config)
