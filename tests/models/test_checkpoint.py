import os

import pytest
import torch
from pyannote.audio import Model

from pyannote_weighter.models.campplus import CAMPPlus
from pyannote_weighter.models.checkpoint import fingerprint, save_checkpoint


def test_from_pretrained_brings_it_back(tmp_path):
    torch.manual_seed(0)
    model = CAMPPlus().eval()
    path = save_checkpoint(model, tmp_path / "new" / "pytorch_model.bin")
    assert [p.name for p in path.parent.iterdir()] == ["pytorch_model.bin"]

    waveforms = torch.randn(2, 1, 16000)
    for where in (path, path.parent):
        loaded = Model.from_pretrained(where)
        assert type(loaded) is CAMPPlus and loaded.specifications == model.specifications
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(waveforms), model(waveforms))


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"old")

    def fail(checkpoint, file):
        file.write(b"half of a checkp")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(CAMPPlus(), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_others_may_read_it_as_any_file(tmp_path, monkeypatch):
    """The mask of the process, which other threads write by too, is left alone."""
    monkeypatch.setattr(os, "umask", None)
    path = save_checkpoint(CAMPPlus(), tmp_path / "pytorch_model.bin")
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_class_of_a_script(tmp_path, monkeypatch):
    monkeypatch.setattr(CAMPPlus, "__module__", "__main__")
    with pytest.raises(ValueError, match="defined in a script"):
        save_checkpoint(CAMPPlus(), tmp_path / "pytorch_model.bin")


def test_fingerprint_of_any_type():
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(3)  # counts batches in a number without dimensions
    assert fingerprint(model) == "b1c9f9c15d3d"
    half = fingerprint(model.bfloat16())
    assert half == fingerprint(model) != fingerprint(model.half())
