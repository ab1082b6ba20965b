"""What is given to the workers of data loaders, and how these are started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from multiprocessing.context import BaseContext
from threading import Thread

from pyannote.audio.core.task import TrainDataset, ValDataset


class _Read:
    """Dataset of a task; a worker, which is no fork of this process, gets its reader alone.

    The rest of the task knows the model, the trainer and the protocol, which cannot be pickled.
    """

    def __reduce__(self) -> tuple:
        """As bytes: of each tensor, PyTorch would keep a file open until the worker ends."""
        return _unpack, (type(self), pickle.dumps(self.task.reader()))


def _unpack(kind: type, reader: bytes) -> _Read:
    return kind(pickle.loads(reader))


class TrainingBatches(_Read, TrainDataset):
    """Batches of one epoch, the one that the model is in."""


class ValidationFiles(_Read, ValDataset):
    """Development files."""


def worker_options(num_workers: int) -> dict:
    """What data loaders are told of so many workers."""
    return {
        "num_workers": num_workers,
        "multiprocessing_context": worker_context(num_workers),
        "worker_init_fn": end_with_parent,
    }


def end_with_parent(worker: int) -> None:
    """Let a worker end when the process does that wants its batches, be it killed.

    PyTorch looks whether a worker is still a child of the same process, which for ours is the
    server; and the server stays for as long as it has workers.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def worker_context(num_workers: int) -> BaseContext | None:
    """Start workers from a server that has no threads, where they would be forks of this process.

    A lock that another thread holds at the time of a fork is never released in the worker, and
    training waits for ever: in Python before 3.11.10 a thread that ends (those of the data loader
    of the epoch before do) holds one, see https://github.com/python/cpython/issues/112275.

    Parameters
    ----------
    num_workers : int

    Returns
    -------
    context : BaseContext or None
        For `multiprocessing_context` of a data loader; None is what multiprocessing is set to.
    """
    if not num_workers or multiprocessing.get_start_method() != "fork":
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by each worker
    return context


def starting() -> bool:
    """Whether multiprocessing is starting this process, which reads what it needs to begin."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def check_script(num_workers: int) -> None:
    """Refuse workers where they could not import the script that starts them (ValueError)."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if num_workers and path and getattr(main, "__spec__", None) is None:
        if not os.path.isfile(path):
            raise ValueError(
                f"num_workers is {num_workers}, and workers import the script that starts the "
                f"training, which is no file ({path}): write it to one, or set num_workers: 0"
            )
