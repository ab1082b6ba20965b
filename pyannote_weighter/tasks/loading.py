"""What is given to the workers of data loaders, whether they are forked or spawned."""

from __future__ import annotations

import pickle

from pyannote.audio.core.task import TrainDataset, ValDataset


class _Read:
    """Dataset of a task of which, where a worker is spawned, it gets the reader alone.

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
