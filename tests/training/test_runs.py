"""The folder of a run: who may write to it, and what is wrong with what lies there."""

import shutil

import pytest
import torch
import yaml
from filelock import FileLock

from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import train
from tests.training.conftest import (
    checkpoint,
    trainer_options,
    weights,
    write_config,
)

pytestmark = pytest.mark.usefixtures("untuned")  # there is no segmentation to tune with
BOTH = "TrainedTones.SpeakerDiarization.Both"


@pytest.fixture
def run(corpus, tmp_path):
    """Train in this folder, with these options of the trainer."""

    def train_on(
        max_epochs=1, resume=False, seed=None, changes=None, into="run", **trainer
    ) -> dict:
        config = write_config(
            corpus,
            protocol=BOTH,
            trainer=trainer_options(max_epochs, **trainer),
            **changes or {},
        )
        folder = train(config, tmp_path / into, resume, seed)
        return yaml.safe_load((folder / "training.yaml").read_text())

    return train_on


def test_two_trainings_into_one_folder(run, tmp_path):
    into = tmp_path / "run"
    into.mkdir()
    with FileLock(into / ".lock"):
        with pytest.raises(ValueError, match="another training is writing to .*run: wait"):
            run()
        assert [path.name for path in into.iterdir()] == [".lock"]
    run()
    assert not (into / ".lock").exists()


def test_what_is_no_folder_is_told_before_any_work(run, corpus, tmp_path):
    (corpus / "file").touch()
    with pytest.raises(OSError, match="file: results cannot be written.*a file in its place"):
        run(changes={"frames": "file"})
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match="run: results cannot be written.*a file in its place"):
        run()


def test_seeds_that_cannot_be(run, tmp_path):
    with pytest.raises(ValueError, match="^seed is -1: choose a whole number from 0"):
        run(seed=-1)
    assert not (tmp_path / "run").exists()


def test_nothing_is_kept_of_a_first_epoch_that_was_cut(run, tmp_path):
    with (
        pytest.warns(UserWarning, match="epoch 1 was stopped after 1 of 2 batches"),
        pytest.raises(ValueError, match="train.yaml: training ended before its first epoch did"),
    ):
        run(max_steps=1)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_an_epoch_that_was_cut_is_trained_from_its_beginning(run, tmp_path, monkeypatch):
    """By who resumes: as if nothing had been stopped."""
    run(2, into="whole", max_steps=4)
    step = SpeakerLikes.training_step

    def stopped(self, batch, batch_idx):
        self.trainer.should_stop = self.model.current_epoch == 1  # as by max_time
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SpeakerLikes, "training_step", stopped)
        with pytest.warns(UserWarning, match="epoch 2 was stopped after 1 of 2 batches"):
            assert run(2, max_steps=4)["epochs"] == 1
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    assert run(2, max_steps=4, resume=True)["epochs"] == 2
    whole = weights(tmp_path / "whole")
    assert all(
        torch.equal(value, whole[name])
        for name, value in weights(tmp_path / "run").items()
        if not name.endswith("trust.cost")  # NaN
    )


def test_early_stopping_has_to_validate(run, tmp_path):
    with pytest.raises(ValueError, match="train.yaml: early_stopping needs validation"):
        run(limit_val_batches=0, changes={"early_stopping": {"patience": 1}})
    assert not (tmp_path / "run").exists()


def test_damaged_and_missing_checkpoints(run, tmp_path):
    assert run()["exported"] == "best"
    best, last = (tmp_path / "run" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    kept = best.read_bytes()
    best.write_bytes(kept[:1000])
    with pytest.warns(UserWarning, match="best.ckpt: a damaged checkpoint .*looked for anew"):
        summary = run(resume=True)
    assert summary["why"] == "best.ckpt, of epoch 1, is gone or damaged"
    best.unlink()
    assert run(resume=True)["why"] == summary["why"] and summary["exported"] == "last"
    assert run(2, resume=True)["best"]["epoch"] == 2

    last.write_bytes(kept[:1000])
    with pytest.raises(ValueError, match="last.ckpt: a damaged checkpoint .*or one of best.ckpt"):
        run(2, resume=True)
    last.write_bytes(kept)
    run(2, resume=True)
    assert weights(tmp_path / "run")


def test_development_list_without_files(corpus, tmp_path):
    folder = shutil.copytree(corpus / "corpus", tmp_path / "corpus")
    (folder / "dev.lst").write_text("")
    config = write_config(tmp_path, protocol=BOTH)
    with pytest.raises(ValueError, match="lists no files in development: fill its .lst, or leave"):
        train(config, tmp_path / "run")
