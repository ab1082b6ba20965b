"""Pictures; checkpoints where development files change, with more in `training`."""

import errno
from importlib.util import find_spec

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from pyannote_weighter import callbacks
from pyannote_weighter.callbacks import Checkpoints, Pictures
from pyannote_weighter.tasks import SpeakerLikes
from tests.models.test_weighter import small_weighter
from tests.tasks.conftest import InMemory, conversation, liked, reference


@pytest.fixture
def task(tmp_path):
    """Development files with likes, with nothing, with a reference."""
    training = [liked("one", "ann bob", seconds=1.0), liked("two", "ann cy", seconds=1.0)]
    referenced = conversation("d/3", "ann bob")
    referenced["annotation"] = reference(referenced, "ann bob")
    development = [
        liked("d 1", "ann cy", likes="ann zoe"),  # nobody knows zoe
        conversation("d2", "ann"),
        referenced,
    ]
    return SpeakerLikes(
        InMemory(training, development), tmp_path / "frames", segmentation=None, batch_size=4
    )


def test_a_checkpoint_for_which_there_is_no_room(tmp_path):
    (tmp_path / "last.ckpt").write_text("the one before")

    class Full:
        is_global_zero = True

        def save_checkpoint(self, path, weights_only):
            path.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device", path)

    with pytest.raises(OSError, match="last.ckpt cannot be written: No space .*--resume goes on"):
        Checkpoints._save(Full(), tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_text() == "the one before"


def fit(task, model=None, **options) -> None:
    model = small_weighter() if model is None else model
    model.task = task
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    options = dict.fromkeys(quiet, False) | {"accelerator": "cpu"} | options
    Trainer(**options).fit(model)


def test_every_few_epochs(task, tmp_path, monkeypatch):
    drawn, plot = [], callbacks.plot_weightings

    def record(path, slots, reference=None, names=None, title=None):
        drawn.append((title, reference and reference.labels(), sorted((names or {}).values())))
        plot(path, slots, reference=reference, names=names, title=title)

    monkeypatch.setattr(callbacks, "plot_weightings", record)
    fit(task, callbacks=[Pictures(tmp_path / "pictures", every=2)], max_epochs=3)
    paths = sorted(p.relative_to(tmp_path / "pictures") for p in tmp_path.rglob("*.png"))
    assert [str(path) for path in paths] == ["1-d-3/epoch-0002.png", "2-d-1/epoch-0002.png"]
    assert drawn == [
        ("d/3, epoch 2", ["ann", "bob"], []),
        ("d 1, epoch 2, liked: ann, zoe", None, ["ann"]),
    ]


def test_long_uris(tmp_path):
    """Names of folders are cut: they may have 255 bytes."""
    training = [liked("one", "ann bob", seconds=1.0), liked("two", "ann cy", seconds=1.0)]
    development = [liked(f"{'d/' * 200}{number}", "ann cy", seconds=1.0) for number in (1, 2)]
    task = SpeakerLikes(
        InMemory(training, development), tmp_path / "frames", segmentation=None, batch_size=4
    )
    fit(task, callbacks=[Pictures(tmp_path / "pictures", every=1)], max_epochs=1)
    assert len(list((tmp_path / "pictures").rglob("epoch-0001.png"))) == 2


def test_many_and_long_names(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        callbacks, "plot_weightings", lambda *_, title, **options: titles.append(title)
    )
    names = " ".join(["ann", "x" * 100, *(f"n{number}" for number in range(50))])
    training = [liked("one", "ann bob", seconds=1.0), liked("two", "ann cy", seconds=1.0)]
    development = [liked("u" * 200, "ann", likes=names)]
    task = SpeakerLikes(InMemory(training, development), tmp_path / "frames", segmentation=None)
    fit(task, callbacks=[Pictures(tmp_path / "pictures", every=1)], max_epochs=1)
    assert titles[0].startswith("u" * 80 + ", epoch 1, liked: ann, n0, ")
    assert titles[0].endswith(" and 47 more") and len(titles[0]) < 150


def test_likes_that_training_makes_no_use_of(tmp_path):
    """Without a classifier nobody knows which slot is who: pictures have no names."""
    training = conversation("one", "ann bob", seconds=1.0)
    training["annotation"] = reference(training, "ann bob")
    development = [liked("dev", "ann cy")]
    task = SpeakerLikes(
        InMemory([training], development),
        tmp_path / "frames",
        segmentation=None,
        supervision="references",
    )
    fit(task, callbacks=[Pictures(tmp_path / "pictures", every=1)], max_epochs=1)
    assert (tmp_path / "pictures" / "1-dev" / "epoch-0001.png").is_file()


def test_training_does_not_notice(task, tmp_path):
    trained = []
    for name in ("with", "without"):
        model = small_weighter()
        watching = [Pictures(tmp_path / "pictures", every=1)] if name == "with" else []
        fit(task, model, callbacks=watching, max_epochs=2)
        trained.append(model.state_dict())
    assert all((value == trained[1][name]).all() for name, value in trained[0].items())


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra `tensorboard` is missing")
def test_in_tensorboard(task, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tensorboard")
    fit(
        task,
        callbacks=[Pictures(tmp_path / "pictures", every=1, num_files=1)],
        logger=logger,
        max_epochs=2,
        log_every_n_steps=1,
    )
    events = EventAccumulator(logger.log_dir).Reload()
    assert [image.step for image in events.Images("1-d-3")] == [1, 2]
    assert {"loss/train", "DiarizationErrorRate"} <= set(events.Tags()["scalars"])


# -- checkpoints, where development files change --------------------------------------------------

METRIC = "DiarizationErrorRate"


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Train on, for as many epochs as there are values, with these as error rates."""
    training = [liked("one", "ann bob", seconds=1.0), liked("two", "ann cy", seconds=1.0)]

    def run(values: list[float], who: str = "ann bob", mode: str = "min", patience: int = 9):
        development = conversation("dev", "ann bob", seconds=1.0)
        development["annotation"] = reference(development, who)
        task = SpeakerLikes(
            InMemory(training, [development]), tmp_path / "frames", segmentation=None
        )
        last = tmp_path / "last.ckpt"
        resume = last if last.is_file() else None
        done = torch.load(last, weights_only=False)["epoch"] + 1 if resume else 0

        def log_value(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                value = torch.tensor(values[self.model.current_epoch - done])
                self.model.log(METRIC, value, on_epoch=True, batch_size=1)

        monkeypatch.setattr(SpeakerLikes, "validation_step", log_value)
        checkpoints = Checkpoints(tmp_path, METRIC, mode)
        model = small_weighter()
        model.task = task
        quiet = ("logger", "enable_progress_bar", "enable_model_summary")
        trainer = Trainer(
            **dict.fromkeys(quiet, False),
            accelerator="cpu",
            max_epochs=done + len(values),
            callbacks=[EarlyStopping(METRIC, mode=mode, patience=patience), checkpoints],
        )
        trainer.fit(model, ckpt_path=resume, weights_only=False)
        return checkpoints.best, trainer.current_epoch

    return run


@pytest.mark.parametrize("mode, first, then", [("min", 0.1, 0.3), ("max", 0.3, 0.1)])
def test_best_of_other_development_files(judge, mode, first, then):
    """Values of other files can neither be beaten nor beat."""
    assert judge([first], mode=mode)[0]["epoch"] == 1
    with pytest.warns(UserWarning, match="epoch 1 was best on other development files .*Diariza"):
        best, _ = judge([then], "bob ann", mode)
    assert best["epoch"] == 2 and best["value"] == pytest.approx(then)
    assert set(best) == {"metric", "value", "epoch"}
    best, _ = judge([(first + then) / 2], "bob ann", mode)  # the same files: better than that
    assert best["epoch"] == 3
    assert judge([then], "bob ann", mode)[0] == best


def test_best_of_a_finished_training_stays(judge):
    """Whatever the development files are by now: nothing is looked for anew."""
    best, _ = judge([0.1])
    assert judge([], "bob ann")[0] == best


def test_early_stopping_on_other_development_files(judge):
    assert judge([0.1, 0.3], patience=2)[1] == 2
    with pytest.warns(UserWarning, match="other development files"):
        assert judge([0.5, 0.4, 0.6, 0.6, 0.6], "bob ann", patience=2)[1] == 6  # not at 0.5


def test_early_stopping_goes_on_with_the_same_files(judge):
    assert judge([0.1, 0.3], patience=2)[1] == 2
    assert judge([0.3, 0.2, 0.2], patience=2)[1] == 3


def test_who_stopped_early_stays_stopped(judge):
    """Until the patience is raised."""
    assert judge([0.1, 0.3], patience=1)[1] == 2
    assert judge([0.0, 0.0], patience=1)[1] == 2
    assert judge([0.2, 0.3, 0.0], patience=3)[1] == 4


def test_best_of_earlier_versions(judge, tmp_path):
    """They did not tell the files: nothing says that these are others."""
    judge([0.1])
    for name in ("best.ckpt", "last.ckpt"):
        stored = torch.load(tmp_path / name, weights_only=False)
        assert stored["callbacks"]["Checkpoints"].pop("development")
        torch.save(stored, tmp_path / name)
    assert judge([0.2])[0]["epoch"] == 1
