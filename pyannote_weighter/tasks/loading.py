"""What is given to the workers of data loaders, and how these are started."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing.context import BaseContext

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
    context.set_forkserver_preload(["__main__", __name__])  # imported once, not by each worker
    return context
