"""Pieces of audio files against the whole of them."""

import numpy as np
import pytest
import soundfile
import torch

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.recording import InMemory, OnDisk, open_recording


def noise(seconds: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 0.3 * rng.standard_normal((round(seconds * sample_rate), channels)).clip(-3, 3)


@pytest.mark.parametrize(
    "name, sample_rate, channels",
    [
        ("a.wav", 16000, 1),
        ("a.flac", 16000, 2),
        ("a.ogg", 16000, 1),
        ("a.wav", 8000, 1),
        ("a.wav", 44100, 2),
        ("a.flac", 48000, 1),
        ("a.wav", 22050, 1),
    ],
)
def test_pieces_are_those_of_the_whole(tmp_path, name, sample_rate, channels):
    path = tmp_path / name
    soundfile.write(path, noise(5.317, sample_rate, channels), sample_rate)
    whole = load_waveform(path)
    total = whole.shape[1]
    rng = np.random.default_rng(1)
    pieces = [(0, 1), (0, total), (total - 1, total + 500), (100, 40000), (30000, 50000)]
    pieces += [(40000, 45000), *np.sort(rng.integers(0, total, (20, 2)), axis=1).tolist()]
    with open_recording(path, 16000) as recording:
        assert isinstance(recording, OnDisk) and recording.num_samples == total
        for start, stop in pieces:
            torch.testing.assert_close(
                recording.read(start, stop), whole[:, start:stop], rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("sample_rate, channels", [(16000, 1), (44100, 2)])
def test_jumps_in_vorbis(tmp_path, sample_rate, channels):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(12.0, sample_rate, channels), sample_rate, subtype="VORBIS")
    whole = load_waveform(path)
    with open_recording(path, 16000) as recording:
        for start in range(0, recording.num_samples - 4000, 9000):
            torch.testing.assert_close(
                recording.read(start, start + 4000),
                whole[:, start : start + 4000],
                rtol=0,
                atol=1e-6,
            )


@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_nothing_at_and_beyond_the_end(tmp_path, sample_rate):
    path = tmp_path / "short.wav"
    soundfile.write(path, noise(1.0, sample_rate), sample_rate)
    whole = InMemory(load_waveform(path))
    with open_recording(path, 16000) as recording:
        recording.read(15000, 16000)
        for start, stop in ((16000, 17000), (10**6, 10**6 + 1), (100, 100), (15500, 15100)):
            assert recording.read(start, stop).shape == whole.read(start, stop).shape == (1, 0)


def test_channels(tmp_path):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, noise(1.0, 16000, 2), 16000)
    for channel in (0, 1):
        file = {"audio": path, "channel": channel}
        with open_recording(file, 16000) as recording:
            assert torch.equal(recording.read(10, 900), load_waveform(file)[:, 10:900])
    with pytest.raises(ValueError, match="stereo.wav: no channel 2: it has 2"):
        with open_recording({"audio": path, "channel": 2}, 16000):
            pass


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(20.0, 16000), 16000)
    with open_recording(path, 16000) as recording:
        decoded = []
        read = recording.file.read
        monkeypatch.setattr(
            recording.file, "read", lambda n, **how: (decoded.append(n), read(n, **how))[1]
        )
        recording.read(1000, 5000)
        recording.read(4000, 9000)  # overlaps: 1000 samples are there already
        recording.read(0, 100)
    assert decoded == [4000, 4000, 100]


def test_what_is_read_as_a_whole(tmp_path):
    waveform = torch.randn(2, 16000)
    with open_recording({"waveform": waveform, "sample_rate": 16000}, 16000) as recording:
        assert isinstance(recording, InMemory) and recording.num_samples == 16000
        assert torch.equal(recording.read(5, 9), waveform.mean(dim=0, keepdim=True)[:, 5:9])
    path = tmp_path / "odd.wav"
    soundfile.write(path, noise(0.5, 44099), 44099)
    with open_recording(path, 16000) as recording:
        assert isinstance(recording, InMemory)


def test_files_that_are_unusable(tmp_path):
    def read(path):
        with open_recording(path, 16000) as recording:
            return recording.read(0, recording.num_samples)

    with pytest.raises(FileNotFoundError, match="lost.wav: no such audio file"):
        read(tmp_path / "lost.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="text.wav: cannot be read"):
        read(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match="empty.wav: no samples"):
        read(tmp_path / "empty.wav")
    samples = noise(0.5, 16000)
    samples[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="nan.wav: some samples are NaN"):
        read(tmp_path / "nan.wav")
    soundfile.write(tmp_path / "cut.flac", noise(5.0, 16000), 16000)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.flac: cannot be read beyond \d\.\d s"):
        read(tmp_path / "cut.flac")
