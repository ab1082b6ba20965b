"""Workers, which are not forked, read what a process without them reads."""

import multiprocessing
import pickle

import pytest
import torch

from pyannote_weighter.callbacks import SeedBatches
from pyannote_weighter.tasks.loading import TrainingBatches, ValidationFiles, worker_context
from tests.models.test_weighter import small_weighter
from tests.tasks.conftest import conversation, reference


@pytest.fixture
def development() -> list[dict]:
    file = conversation("dev", "ann bob")
    return [file | {"annotation": reference(file, "ann bob")}]


def test_pickled(task, fit, development):
    """Crops, splices, and likes that were placed; in the epoch that the model is in."""
    trained = task(development=development, splice=0.5, duration=0.7)
    trainer = fit(trained)
    epochs = []
    for epoch in (0, 1):
        trainer.fit_loop.epoch_progress.current.completed = epoch
        epochs.append(list(TrainingBatches(trained)))
        again = pickle.loads(pickle.dumps(TrainingBatches(trained)))
        assert len(again) == len(TrainingBatches(trained))
        torch.testing.assert_close(list(again), epochs[epoch], rtol=0, atol=0)
    first, second = ([s["frames"].float().sum() for b in e for s in b] for e in epochs)
    assert first != second
    again = pickle.loads(pickle.dumps(ValidationFiles(trained)))
    assert len(again) == 1
    for name in ("frames", "reference"):
        assert torch.equal(again[0][name], ValidationFiles(trained)[0][name])


@pytest.fixture(params=["fork", "spawn"])
def start_method(request) -> str:
    """What multiprocessing is set to; a fork, the default of Linux, is not what workers get."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_workers_read_what_the_process_reads(task, fit, start_method, monkeypatch):
    for seed in ("1", "2"):  # of two trainings: the server outlives the first one
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        trained = []
        for num_workers in (0, 1):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = small_weighter(encoder="wavlm")  # with dropout
                reading = task(num_workers=num_workers, splice=0.5)
                fit(reading, model, callbacks=[SeedBatches(0)], max_epochs=1)
            trained.append(model.state_dict())
        torch.testing.assert_close(*trained, rtol=0, atol=0, equal_nan=True)


def test_workers_are_no_forks(task, fit, development, start_method):
    """A fork of a process with threads may wait for ever."""
    trained = task(development=development, num_workers=1)
    fit(trained, max_epochs=1)
    for loader in (trained.train_dataloader(), trained.val_dataloader()):
        context = loader.multiprocessing_context
        if start_method == "fork":
            assert context.get_start_method() == "forkserver"
            assert type(iter(loader)._workers[0]).__name__ == "ForkServerProcess"
        else:
            assert context is None  # as it is set
    assert worker_context(0) is None
