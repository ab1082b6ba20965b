"""Trainings that were stopped, and go on."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from pyannote_weighter.configuration import RECORD
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import train
from tests.models.test_weighter import BACKBONE, ENCODERS
from tests.training.conftest import (
    checkpoint,
    trainer_options,
    weights,
    write_config,
    write_corpus,
)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_training_is_the_same_bit_for_bit(
    corpus, tmp_path, untuned, monkeypatch, num_workers
):
    """Killed within an epoch; with dropout, random crops and splices."""
    config = write_config(
        corpus,
        "stopped.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        model={"backbone": BACKBONE, "encoder": ENCODERS["wavlm"], "num_slots": 3},
        task={
            "segmentation": None,
            "batch_size": 1,
            "num_workers": num_workers,
            "splice": 0.5,
            "duration": 0.7,
        },
        trainer=trainer_options(3),
    )
    train(config, tmp_path / "whole")

    step = SpeakerLikes.training_step

    def killed(self, batch, batch_idx):
        if self.model.current_epoch == 1 and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(SpeakerLikes, "training_step", killed)
        train(config, tmp_path / "stopped")
    assert checkpoint(tmp_path / "stopped")["epoch"] == 0
    torch.manual_seed(1000)  # whatever happened since
    train(config, tmp_path / "stopped", resume=True)

    for name in ("last", "best"):
        whole, stopped = (checkpoint(tmp_path / run, name) for run in ("whole", "stopped"))
        assert whole["epoch"] == stopped["epoch"]
        for run in (whole, stopped):  # likes that no crop had so far have no cost
            cost = run["state_dict"]["loss_func.objective.trust.cost"]
            cost[cost.isnan()] = -1.0
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(stopped[part], whole[part], rtol=0, atol=0)


def test_a_worker_does_not_train(corpus, tmp_path, monkeypatch):
    """As multiprocessing does while it imports the script that started a training."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match='under `if __name__ == "__main__":`'):
        train(write_config(corpus, trainer=trainer_options(1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    """Folder of a run of three epochs."""
    into = tmp_path_factory.mktemp("finished") / "run"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr("pyannote_weighter.training.tune", lambda *arguments, **options: {})
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        train(write_config(corpus, "finished.yaml", trainer=trainer_options(3)), into)
    torch.set_num_threads(threads)
    return into


@pytest.mark.parametrize(
    "changes, seed, named",
    [
        (
            {"task": {"segmentation": None, "batch_size": 3}},
            None,
            r"task.batch_size \(2, now 3\)",
        ),
        (
            {"task": {"batch_size": 2, "splice": 0.0}},
            None,
            r"task.segmentation \(None, now not set\), task.splice \(not set, now 0.0\)",
        ),
        (
            {"model": {"backbone": BACKBONE, "num_slots": 3}},
            None,
            r"model.encoder.name \(refine, now not set\)",
        ),
        ({"trainer": trainer_options(3, devices=2)}, None, r"devices \(not set, now 2\)"),
        ({}, 7, r"seed \(3, now 7\)"),
    ],
)
def test_another_configuration_is_not_resumed(
    corpus, finished, tmp_path, monkeypatch, changes, seed, named
):
    monkeypatch.setattr("pyannote_weighter.training.Weighter", None)  # before any work is done
    config = write_config(corpus, "changed.yaml", **changes)
    stored = (finished / "config.yaml").read_text()
    with pytest.raises(ValueError, match=f"changed.yaml: .* otherwise: .*{named}") as error:
        train(config, finished, resume=True, seed=seed)
    assert "Set them as they were" in str(error.value)
    assert "trainer.max_epochs" in str(error.value).split("What may change")[1]
    assert (finished / "config.yaml").read_text() == stored


def test_fewer_epochs_than_trained(corpus, finished):
    config = write_config(corpus, "fewer.yaml", trainer=trainer_options(1))
    with pytest.raises(ValueError, match="fewer.yaml: .*current_epoch=2.*max_epochs=1"):
        train(config, finished, resume=True)


def test_another_list_is_not_resumed(tmp_path, untuned):
    """Checkpoints know files and speakers by their numbers alone."""
    lists = write_corpus(tmp_path / "corpus")
    protocol = "TrainedTones.SpeakerDiarization.Both"
    config = write_config(tmp_path, protocol=protocol, trainer=trainer_options(1))
    into = tmp_path / "run"
    train(config, into)
    longer = write_config(tmp_path, protocol=protocol, trainer=trainer_options(2))

    trained = weights(into)
    likes, files = (lists / "train.likes").read_text(), (lists / "train.lst").read_text()
    changes = [
        (likes.replace("bob", "robert"), files, "likes of 'one' were ann, bob and are ann, rob"),
        (likes.replace("bob cy", "ann cy"), files, "likes of 'three' were bob, cy and are ann, c"),
        (likes, "three\none\ntwo\n", "training file 1 was 'one' and is 'three' now"),
        (likes, "one\ntwo\n", "training file 3 was 'three' and is none now"),
    ]
    for changed, listed, named in changes:
        (lists / "train.likes").write_text(changed)
        (lists / "train.lst").write_text(listed)
        with pytest.raises(ValueError, match=f"train.yaml: .*{named}.*put the list back") as error:
            train(longer, into, resume=True)
        assert "or train into another folder" in str(error.value)
    assert all(torch.equal(value, trained[name]) for name, value in weights(into).items())

    # put back; with other development files, and everything in another place
    (lists / "train.likes").write_text(likes)
    (lists / "train.lst").write_text(files)
    (lists / "dev.lst").write_text("one\ndev\n")
    lists.rename(tmp_path / "moved")
    longer = write_config(
        tmp_path,
        protocol=protocol,
        trainer=trainer_options(2),
        registry="moved/database.yml",
    )
    train(longer, into, resume=True)
    assert checkpoint(into)["epoch"] == 1


def test_runs_that_noted_nothing_are_resumed(tmp_path, untuned):
    """Those of earlier versions: they are compared with what they go on with from then on."""
    lists = write_corpus(tmp_path / "corpus")
    into = tmp_path / "run"
    train(write_config(tmp_path, trainer=trainer_options(1)), into)
    (into / RECORD).unlink()
    with pytest.raises(ValueError, match=r"task.batch_size \(2, now 3\)"):
        train(write_config(tmp_path, task={"segmentation": None, "batch_size": 3}), into, True)
    longer = write_config(tmp_path, trainer=trainer_options(2))
    train(longer, into, resume=True)
    likes = lists / "train.likes"
    likes.write_text(likes.read_text().replace("bob", "robert"))
    with pytest.raises(ValueError, match="likes of 'one' were ann, bob"):
        train(longer, into, resume=True)
