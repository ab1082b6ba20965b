"""Workers, which are not forked, read what a process without them reads."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyannote_weighter.callbacks import SeedBatches
from pyannote_weighter.tasks.loading import (
    TrainingBatches,
    ValidationFiles,
    check_script,
    worker_context,
)
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


def test_workers_end_with_who_wants_their_batches():
    """Also where that process is killed, and the one that started them is another one."""
    command = [sys.executable, "-m", "tests.tasks.idle_worker"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as main:
        worker = int(main.stdout.readline())
        os.kill(worker, 0)  # it is there
        main.kill()
    for _ in range(100):
        time.sleep(0.1)
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
    os.kill(worker, 9)
    pytest.fail("the worker goes on for ever")


def test_a_script_that_is_no_file(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", __file__, raising=False)
    check_script(2)
    monkeypatch.setattr(main, "__file__", "<stdin>")
    check_script(0)
    with pytest.raises(ValueError, match="which is no file .<stdin>.: write it to one, or"):
        check_script(2)
