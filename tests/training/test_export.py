"""Which epoch becomes the pipeline."""

from pathlib import Path

import pytest
import torch
import yaml
from pyannote.audio import Model

from pyannote_weighter.training import Checkpoints, train
from tests.training.conftest import checkpoint, trainer_options, weights, write_config


def assert_exported(into: Path, name: str) -> None:
    exported = Model.from_pretrained(into / "pipeline" / "weighter").state_dict()
    stored = weights(into, name)
    assert all(torch.equal(value, stored[key]) for key, value in exported.items())


def test_best_epoch_is_exported(corpus, tmp_path, judged, capsys):
    """The later one of equals; an epoch without a value is none."""
    summary = judged(corpus, tmp_path, 0.5, 0.2, 0.2, float("nan"), 0.4)
    assert summary["exported"] == "best" and summary["epoch"] == 3 and summary["epochs"] == 5
    assert summary["why"] == "lowest DiarizationErrorRate of the development files, 0.2000"
    assert f"exported: best epoch, 3 of 5: {summary['why']}" in capsys.readouterr().out
    assert checkpoint(tmp_path, "best")["epoch"] == 2 and checkpoint(tmp_path)["epoch"] == 4
    assert_exported(tmp_path, "best")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]

    # asked for, from what is there, without training
    steps = checkpoint(tmp_path)["global_step"]
    summary = judged(corpus, tmp_path, epochs=5, resume=True, export="last")
    assert summary["exported"] == "last" and summary["epoch"] == 5
    assert summary["why"] == "asked for (export: last)"
    assert summary["best"]["epoch"] == 3 and summary["best"]["value"] == pytest.approx(0.2)
    assert checkpoint(tmp_path)["global_step"] == steps
    assert_exported(tmp_path, "last")


def test_best_epoch_is_remembered(corpus, tmp_path, judged):
    judged(corpus, tmp_path / "run", 0.2, 0.5)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    summary = judged(corpus, moved, 0.0, 0.0, 0.3, resume=True)
    assert summary["epoch"] == 1 and summary["epochs"] == 3
    summary = judged(corpus, moved, 0.0, 0.0, 0.0, 0.1, resume=True)
    assert summary["epoch"] == 4


def test_killed_between_the_checkpoints(corpus, tmp_path, judged, monkeypatch):
    """The best epoch is done again; where that ends worse, the file tells its own value."""
    save = Checkpoints._save

    def killed(trainer, path):
        if trainer.current_epoch == 1 and path.name == "last.ckpt":
            raise RuntimeError("killed")
        save(trainer, path)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Checkpoints, "_save", staticmethod(killed))
        judged(corpus, tmp_path, 0.5, 0.2, 0.4)
    summary = judged(corpus, tmp_path, 0.0, 0.3, 0.4, resume=True)
    assert summary["epoch"] == 2 and summary["best"]["value"] == pytest.approx(0.2)

    # a run that was killed in its first epoch is begun again, not compared with
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert judged(corpus, tmp_path, 0.5, 0.6)["best"]["value"] == 0.5


def test_last_epoch_is_exported_where_none_is_best(corpus, tmp_path, untuned):
    folder = train(write_config(corpus), tmp_path / "likes")
    summary = yaml.safe_load((folder / "training.yaml").read_text())
    assert summary == {
        "exported": "last",
        "epoch": 1,
        "epochs": 1,
        "why": "no development files with references, or with likes that tell files apart",
    }
    assert not (tmp_path / "likes" / "checkpoints" / "best.ckpt").exists()

    config = write_config(
        corpus,
        "unseen.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        trainer=trainer_options(1, limit_val_batches=0),
    )
    folder = train(config, tmp_path / "unseen")
    summary = yaml.safe_load((folder / "training.yaml").read_text())
    assert summary["exported"] == "last" and "nothing was validated" in summary["why"]


def test_early_stopping(corpus, tmp_path, judged):
    stop = {"early_stopping": {"patience": 2}}
    summary = judged(corpus, tmp_path, 0.3, 0.4, 0.5, 0.1, 0.1, **stop)
    assert summary["epoch"] == 1 and summary["epochs"] == 3
