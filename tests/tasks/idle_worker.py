"""A process that waits, as a worker of it does, for a test that kills it."""

import os
import time

from torch.utils.data import DataLoader, Dataset

from pyannote_weighter.tasks.loading import worker_options


class Idle(Dataset):
    """Who reads it, and then nothing for a long time."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(600 * index)
        return os.getpid()


if __name__ == "__main__":
    batches = iter(DataLoader(Idle(), batch_size=None, **worker_options(1)))
    print(next(batches), flush=True)
    next(batches)
