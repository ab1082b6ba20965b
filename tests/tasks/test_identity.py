"""What audio is called: by its content alone, read once."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch

from pyannote_weighter.tasks import identity
from pyannote_weighter.tasks.identity import audio_id

CONTENT = bytes(range(256)) * 4000  # a megabyte; nothing here decodes it


@pytest.fixture
def known(tmp_path):
    return tmp_path / "known"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "radio.wav"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reads(monkeypatch):
    """How often a file was read; times of files are believed at once."""
    count, read = [], hashlib.file_digest
    monkeypatch.setattr(identity, "SETTLED", -1.0)
    monkeypatch.setattr(
        identity.hashlib, "file_digest", lambda *args: (count.append(1), read(*args))[1]
    )
    return count


def test_content_alone_counts(path, known, tmp_path):
    same = tmp_path / "elsewhere.wav"
    same.write_bytes(CONTENT)
    name = audio_id({"uri": "radio", "audio": path}, known)
    assert len(name) == 32 and set(name) <= set("0123456789abcdef")
    assert name == audio_id({"uri": "other", "audio": str(same)}, known)
    with io.BytesIO(CONTENT) as stream:
        stream.read(10)
        assert name == audio_id({"audio": stream}, known) and stream.tell() == 0


@pytest.mark.parametrize("place", [0, 123_456, len(CONTENT) // 2, len(CONTENT) - 1])
def test_every_byte_counts(path, known, reads, place):
    before = audio_id({"audio": path}, known)
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    path.write_bytes(changed)
    assert audio_id({"audio": path}, known) != before
    path.write_bytes(CONTENT)
    assert audio_id({"audio": path}, known) == before


def test_channels_are_told_apart(path, known):
    names = {audio_id({"audio": path, "channel": c}, known) for c in (None, 0, 1)}
    assert len(names) == 3


def test_a_file_is_read_once(path, known, reads):
    name = audio_id({"audio": path}, known)
    assert audio_id({"audio": path}, known) == name and len(reads) == 1
    moved = path.rename(path.with_name("moved.wav"))
    assert audio_id({"audio": moved}, known) == name and len(reads) == 2


def test_other_audio_with_the_same_size_and_time_is_noticed(path, known, reads):
    before, times = audio_id({"audio": path}, known), path.stat()
    while path.stat().st_ctime_ns == times.st_ctime_ns:  # clocks of file systems may be coarse
        path.write_bytes(CONTENT[::-1])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    assert audio_id({"audio": path}, known) != before


def test_times_that_may_be_too_coarse_are_not_believed(path, known, reads, monkeypatch):
    monkeypatch.setattr(identity, "SETTLED", 60.0)
    for _ in range(2):
        audio_id({"audio": path}, known)
    assert len(reads) == 2 and not known.exists()


def test_a_file_that_changes_while_it_is_read_is_read_again(path, known, reads, monkeypatch):
    states = iter(([1, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]))
    monkeypatch.setattr(identity, "_state", lambda path: next(states))
    for _ in range(3):
        audio_id({"audio": path}, known)
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["", "[]", "3", "{}", '{"state": [1]}', "\x00"])
def test_damaged_notes_are_written_again(path, known, reads, damage):
    name = audio_id({"audio": path}, known)
    (note,) = known.iterdir()
    note.write_text(damage)
    for _ in range(2):
        assert audio_id({"audio": path}, known) == name
    assert len(reads) == 2


def test_notes_that_cannot_be_written_do_no_harm(path, known, reads):
    known.write_text("a file where a folder should be")
    assert audio_id({"audio": path}, known) == audio_id({"audio": path}, known)
    assert len(reads) == 2


def test_waveforms(known):
    waveform = torch.linspace(-1, 1, 1000).reshape(2, 500)
    name = audio_id({"waveform": waveform, "sample_rate": 16000}, known)
    foreign = waveform.numpy().astype(">f4")
    backwards = waveform.numpy()[:, ::-1].copy()[:, ::-1]
    whole = waveform.numpy()
    assert np.shares_memory(identity.as_tensor(whole), whole)  # long ones are not copied
    for same in (whole, waveform.T.contiguous().T, waveform.double().numpy(), foreign, backwards):
        assert audio_id({"waveform": same, "sample_rate": 16000}, known) == name
    changed = waveform.clone()
    changed[1, 250] = 0.1
    others = [
        {"waveform": changed, "sample_rate": 16000},
        {"waveform": waveform, "sample_rate": 8000},
        {"waveform": waveform, "sample_rate": 16000, "channel": 1},
        {"waveform": waveform.reshape(1, 1000), "sample_rate": 16000},
        {"waveform": np.zeros((1, 1)), "sample_rate": 16000},
    ]
    assert len({name, *(audio_id(other, known) for other in others)}) == 6
    assert not known.exists()


def test_what_is_no_audio(tmp_path, known):
    with pytest.raises(FileNotFoundError, match="lost.wav: no such audio file"):
        audio_id({"audio": tmp_path / "lost.wav"}, known)
    with pytest.raises(ValueError, match="is a folder"):
        audio_id({"audio": tmp_path}, known)
    with pytest.raises(ValueError, match='radio: no audio: add "audio"'):
        audio_id({"uri": "radio"}, known)
