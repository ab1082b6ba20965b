"""Rows that are many: the first ones in memory, all of them in a temporary file beyond that."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

MEMORY = 2**26  # bytes
BLOCK = 2**14  # rows that are copied at a time


class Rows:
    """Rows of numbers, written once in order, read in any order.

    The file has no name where the system allows (it does but for Windows), so that nothing is
    left of it when the process ends, whatever ends it. Rows can be copied and pickled.

    Parameters
    ----------
    width : int
        Numbers in a row.
    half : bool, optional
        Keep them in half precision. Defaults to single precision.
    memory : int, optional
        Bytes that are held in memory before a file is used, in the folder for temporary files
        (see `tempfile.gettempdir`).

    Usage
    -----
    >>> rows = Rows(width=512)
    >>> rows.append(torch.zeros(100, 512))
    >>> rows[10:20].shape, len(rows)
    (torch.Size([10, 512]), 100)
    """

    def __init__(self, width: int, half: bool = False, memory: int = MEMORY):
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self.precision = torch.float16 if half else torch.float32
        self.shape = (0, width)
        self.memory = memory
        self.file = tempfile.SpooledTemporaryFile(max_size=memory)
        weakref.finalize(self, self.file.close)

    def append(self, rows: Tensor) -> None:
        """Add rows (some, width) of any type and device.

        Raises
        ------
        OSError
            If the disk is full.
        """
        # torch uses vector instructions for half precision, numpy does not
        values = rows.detach().to(self.precision).cpu().contiguous().numpy()
        self.file.seek(0, os.SEEK_END)
        try:
            self.file.write(values.data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"no space left for temporary files in {tempfile.gettempdir()}: set TMPDIR to a "
                "folder on a larger disk"
            ) from error
        self.shape = (self.shape[0] + len(values), self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """(some, width) tensor of a slice without a step, as it is kept, on the CPU."""
        start, stop, _ = rows.indices(len(self))
        values = np.empty((max(0, stop - start), self.shape[1]), dtype=self.dtype)
        self.file.seek(start * self.shape[1] * self.dtype.itemsize)
        self.file.readinto(values.data)
        return torch.from_numpy(values)

    def __deepcopy__(self, memo: dict) -> Rows:
        """Same rows, in a file of their own where they are many."""
        parts = (self[start : start + BLOCK] for start in range(0, len(self), BLOCK))
        return _filled(self.shape[1], self.dtype == np.float16, self.memory, parts)

    def __reduce__(self):
        """What `pickle` needs: all rows, at once."""
        return _filled, (self.shape[1], self.dtype == np.float16, self.memory, [self[:]])


def _filled(width: int, half: bool, memory: int, parts: Iterable[Tensor]) -> Rows:
    rows = Rows(width, half, memory)
    for part in parts:
        rows.append(part)
    return rows
