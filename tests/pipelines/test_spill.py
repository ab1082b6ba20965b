"""Rows in memory and on disk against one array."""

import copy
import errno
import gc
import os
import pickle
import tempfile

import numpy as np
import pytest
import torch

from pyannote_weighter.pipelines import spill
from pyannote_weighter.pipelines.spill import Rows


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("memory", [100, 2**20])
def test_rows_are_what_was_appended(half, memory):
    torch.manual_seed(0)
    rows, parts = Rows(7, half, memory), []
    assert len(rows) == 0 and rows[0:5].shape == (0, 7)
    for size in (1, 0, 50, 3):
        parts.append(torch.randn(size, 7))
        rows.append(parts[-1])
        assert rows[0:1].shape == (1, 7)  # reading in between changes nothing
    whole = torch.cat(parts)
    whole = whole.half() if half else whole
    assert len(rows) == 54 and rows.shape == (54, 7)
    for part in (slice(0, 54), slice(3, 20), slice(50, 99), slice(20, 20), slice(-4, None)):
        assert torch.equal(rows[part], whole[part])
    assert rows[:].dtype == whole.dtype
    assert rows.dtype == (np.float16 if half else np.float32)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("memory", [100, 2**20])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_copies_have_rows_of_their_own(half, memory, copied, monkeypatch):
    """Upstream's `ArtifactHook` keeps a copy of frames, be they in memory or in a file."""
    monkeypatch.setattr(spill, "BLOCK", 20)
    rows = Rows(7, half, memory)
    assert copied(rows)[:].shape == (0, 7)
    rows.append(torch.randn(50, 7))
    other = copied(rows)
    assert (other.shape, other.dtype, other.memory) == (rows.shape, rows.dtype, memory)
    assert torch.equal(other[:], rows[:])
    other.append(torch.ones(1, 7))
    assert (len(rows), len(other)) == (50, 51) and torch.equal(other[:50], rows[:])
    del rows
    gc.collect()
    assert (other[50:] == 1).all()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = Rows(100, memory=1000)
    rows.append(torch.zeros(1000, 100))
    file = rows.file
    assert torch.equal(rows[10:20], torch.zeros(10, 100))
    if os.name == "posix":
        assert list(tmp_path.iterdir()) == []  # it has no name
    del rows
    gc.collect()
    assert file.closed and list(tmp_path.iterdir()) == []


def test_full_disk_is_explained(monkeypatch):
    rows = Rows(3)

    def full(content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows.file, "write", full)
    with pytest.raises(OSError, match="no space left for temporary files in .*: set TMPDIR"):
        rows.append(torch.zeros(2, 3))
