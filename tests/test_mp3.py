"""MP3 files with wrong headers against the samples that they hold."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pyannote_weighter import audio
from pyannote_weighter.audio import in_memory, load_waveform
from pyannote_weighter.mp3 import _declared, _kind, corrected
from pyannote_weighter.recording import OnDisk, open_recording

KINDS = [(44100, 2), (48000, 1), (32000, 2), (22050, 1), (24000, 2), (16000, 1), (8000, 2)]
KINDS += [(11025, 1), (12000, 1)]
ENCODER_DELAY = 576  # samples, of LAME
ID3 = b"ID3\3\0\0\0\0\x20\0" + b"\xff\xfb\x90\x64" * 1024  # a picture that looks like frames


def sound(seconds: float, sample_rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise with pauses: frames of all sizes."""
    noise = np.random.default_rng(seed).standard_normal((round(seconds * sample_rate), channels))
    time = np.arange(len(noise))[:, None] / sample_rate
    return 0.2 * noise.clip(-3, 3) * (np.sin(2 * time + seed + 1) > 0)


def encode(samples: np.ndarray, sample_rate: int, mode: str = "VARIABLE") -> bytes:
    file = BytesIO()
    soundfile.write(
        file, samples, sample_rate, format="MP3", bitrate_mode=mode, compression_level=0.5
    )
    return file.getvalue()


def decode(content: bytes) -> torch.Tensor:
    """(channel, time), by soundfile alone: for files that are as they should be."""
    samples, _ = soundfile.read(BytesIO(content), dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T)


def without_header(content: bytes) -> bytes:
    _, size = _kind(content[:4])
    return content[size:]


def in_pieces(path: Path, sample_rate: int) -> torch.Tensor:
    """The whole file, the second half first, then what is before it."""
    with open_recording(path, sample_rate) as recording:
        assert isinstance(recording, OnDisk)
        half = recording.num_samples // 2
        second = recording.read(half, recording.num_samples)
        return torch.cat([recording.read(0, half), second], dim=1)


def check(path: Path, seconds: float, sample_rate: int) -> torch.Tensor:
    """Read in three ways: what must be as long as that, and the same."""
    whole = in_memory(path)["waveform"]
    assert whole.shape[1] / sample_rate == pytest.approx(seconds, abs=0.25)
    with path.open("rb") as file:
        assert torch.equal(in_memory(file)["waveform"], whole)
    torch.testing.assert_close(
        in_pieces(path, sample_rate), whole.mean(0, keepdim=True), rtol=0, atol=1e-6
    )
    return whole


@pytest.mark.parametrize("sample_rate, channels", KINDS)
def test_joined_files(tmp_path, sample_rate, channels):
    path = tmp_path / "joined.mp3"
    first, second = (
        encode(sound(seconds, sample_rate, channels, seed=round(seconds)), sample_rate, mode)
        for seconds, mode in ((4.0, "VARIABLE"), (7.0, "CONSTANT"))
    )
    path.write_bytes(first + ID3 + second)
    whole = check(path, 11.0, sample_rate)
    expected = decode(first)
    torch.testing.assert_close(
        whole[:, : expected.shape[1]], expected, rtol=0, atol=1e-6
    )  # not shifted
    kind, _ = _kind(first[:4])
    frames, _ = _declared(first, 0, kind)
    second = decode(second)
    start = frames * kind.samples  # what the encoder has added at both ends is kept
    torch.testing.assert_close(
        whole[:, start : start + second.shape[1]], second, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("sample_rate, channels", KINDS)
def test_no_header(tmp_path, sample_rate, channels):
    """The pause at the start has small frames: libsndfile takes the file for a short one."""
    path = tmp_path / "stream.mp3"
    samples = sound(10.0, sample_rate, channels)
    samples[: 2 * sample_rate] *= 3e-4
    content = encode(samples, sample_rate)
    path.write_bytes(without_header(content))
    whole = check(path, 10.0, sample_rate)
    # without a header, what the encoder has added at the start is kept
    whole = whole[:, ENCODER_DELAY:]
    expected = decode(content)[:, : whole.shape[1]]
    torch.testing.assert_close(whole[:, : expected.shape[1]], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sample_rate, channels", KINDS)
def test_half_a_file(tmp_path, sample_rate, channels):
    path = tmp_path / "half.mp3"
    content = encode(sound(10.0, sample_rate, channels), sample_rate, "CONSTANT")
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"half.mp3: its header says 10.\d s, but .* holds [45]"):
        whole = check(path, 5.0, sample_rate)
    expected = decode(content)[:, : whole.shape[1]]
    # of the last frame, the one that follows has the second half
    torch.testing.assert_close(whole[:, :-1152], expected[:, :-1152], rtol=0, atol=1e-6)


def test_something_else_in_the_middle(tmp_path):
    path = tmp_path / "scratched.mp3"
    content = encode(sound(10.0, 16000), 16000)
    path.write_bytes(content[:9000] + bytes(3000) + b"\xff\xf3" * 500 + content[9000:])
    check(path, 10.0, 16000)


def test_headers_that_are_right_are_left_alone(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        audio, "corrected", lambda *what: (found.append(corrected(*what)), found[-1])[1]
    )
    path = tmp_path / "good.mp3"
    for mode in ("VARIABLE", "CONSTANT"):
        content = encode(sound(5.0, 44100, 2), 44100, mode)
        for extra in (b"", b"TAG".ljust(128, b"x")):
            path.write_bytes(ID3 + content + extra)
            torch.testing.assert_close(in_memory(path)["waveform"], decode(content))
    assert found == [None] * 4


def test_pieces_of_a_good_file(tmp_path):
    """After a jump, libsndfile misses bytes of frames before it."""
    path = tmp_path / "good.mp3"
    rng = np.random.default_rng(0)
    for sample_rate in (24000, 44100):
        path.write_bytes(encode(sound(20.0, sample_rate), sample_rate))
        whole = load_waveform(path, sample_rate)
        with open_recording(path, sample_rate) as recording:
            for start in rng.integers(0, whole.shape[1], 40):
                piece = recording.read(start, start + 9000)
                torch.testing.assert_close(piece, whole[:, start : start + 9000])


@pytest.mark.parametrize("following", [(16000, 2), (22050, 1)])
def test_another_kind_follows(tmp_path, following):
    path = tmp_path / "mixture.mp3"
    path.write_bytes(
        encode(sound(4.0, 16000), 16000) + encode(sound(3.0, *following), following[0])
    )
    message = "mixture.mp3: holds 4.[01] s of 16000 Hz mono, then .*convert it"
    with pytest.raises(ValueError, match=message):
        in_memory(path)
    with pytest.raises(ValueError, match=message), open_recording(path, 16000):
        pass
