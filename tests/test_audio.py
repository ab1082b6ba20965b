import io
import os
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pyannote_weighter import audio
from pyannote_weighter.audio import in_memory, load_waveform
from pyannote_weighter.recording import OnDisk, open_recording

# headers of frames of MPEG-1 layer II, 48 kHz mono, 32 and 192 kbit/s
SMALL, LARGE = b"\xff\xfd\x14\xc0", b"\xff\xfd\xa4\xc0"


@pytest.fixture
def stereo(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal((8000, 2)).astype("float32")
    path = tmp_path / "two ways.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    return path, torch.from_numpy(samples.T)


class Named:
    """A path-like object that is no Path."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_path_and_mapping_and_file_object_read_the_same(stereo):
    path, expected = stereo
    with open_recording(Named(path), 8000) as recording:
        assert isinstance(recording, OnDisk)
    with path.open("rb") as opened:
        files = [
            path,
            str(path),
            Named(path),
            {"audio": path},
            {"audio": Named(path)},
            opened,
            {"audio": io.BytesIO(path.read_bytes())},
        ]
        for file in files:
            loaded = in_memory(file)
            assert loaded["sample_rate"] == 8000
            assert loaded["waveform"].dtype == torch.float32
            torch.testing.assert_close(loaded["waveform"], expected, rtol=0, atol=0)


def test_uri_and_other_keys_are_kept(stereo):
    path, _ = stereo
    assert in_memory(path)["uri"] == "two ways"
    loaded = in_memory({"audio": path, "uri": "mine", "likes": ("alice",)})
    assert (loaded["uri"], loaded["likes"], loaded["audio"]) == ("mine", ("alice",), path)
    assert in_memory({"waveform": torch.zeros(1, 5), "sample_rate": 8000})["uri"] == "waveform"


def test_reads_a_file_of_a_protocol(stereo):
    from pyannote.database.protocol.protocol import ProtocolFile

    file = ProtocolFile({"uri": "u"}, lazy={"audio": lambda current: stereo[0]})
    loaded = in_memory(file)
    assert loaded["uri"] == "u" and loaded["waveform"].shape == (2, 8000)


def test_does_not_touch_what_it_was_given(stereo):
    file = {"audio": stereo[0], "channel": 0}
    in_memory(file)
    assert file == {"audio": stereo[0], "channel": 0}


def test_channel(stereo):
    path, expected = stereo
    for file in ({"audio": path}, {"waveform": expected, "sample_rate": 8000}):
        loaded = in_memory({**file, "channel": 1})
        torch.testing.assert_close(loaded["waveform"], expected[1:])
        assert "channel" not in loaded  # nothing left to be chosen a second time
    with pytest.raises(ValueError, match="no channel 2: it has 2"):
        in_memory({"audio": path, "channel": 2})


def test_load_waveform_mixes_and_resamples(stereo):
    path, expected = stereo
    torch.testing.assert_close(load_waveform(path, 8000), expected.mean(0, keepdim=True))
    assert load_waveform(path).shape == (1, 16000)


def test_one_dimensional_array():
    loaded = in_memory({"waveform": np.zeros(4), "sample_rate": 16000})
    assert loaded["waveform"].shape == (1, 4) and loaded["waveform"].dtype == torch.float32


def test_pyannote_accepts_it(sample_audio):
    from pyannote.audio import Audio

    loaded = in_memory(sample_audio)
    waveform, sample_rate = Audio(sample_rate=16000, mono="downmix")(loaded)
    torch.testing.assert_close(waveform, loaded["waveform"])
    assert loaded["waveform"].shape == (1, 480000)


def test_formats(speech_data):
    for path in ("an4", "speechocean"):
        file = next(p for p in sorted((speech_data / path).rglob("*")) if p.suffix != "")
        assert load_waveform(file).abs().max() > 0.01


@pytest.mark.parametrize(
    "file, message",
    [
        ({}, "no audio in a file with the keys"),
        (3, "cannot read audio from a int"),
        ({"uri": "x", "waveform": torch.zeros(1, 5)}, 'x: "waveform" without "sample_rate"'),
        ({"uri": "x", "waveform": torch.zeros(5, 1), "sample_rate": 1}, "x: .*transpose"),
        ({"uri": "x", "waveform": torch.zeros(1, 5).int(), "sample_rate": 1}, "x: .*int32"),
        ({"uri": "x", "waveform": torch.zeros(1, 0), "sample_rate": 100}, "x: no samples"),
        ({"uri": "x", "waveform": torch.zeros(0, 9), "sample_rate": 100}, "x: no samples"),
        ({"uri": "x", "audio": None}, "x: audio is None: give a path or a binary file object"),
        ({"uri": "x", "audio": 5}, "x: audio is 5: give a path or a binary file object"),
        ({"uri": "x", "waveform": torch.full((1, 9), torch.nan), "sample_rate": 100}, "x: .*NaN"),
        (
            {"uri": "x", "waveform": torch.full((1, 9), torch.inf), "sample_rate": 100},
            "x: .*infin",
        ),
    ],
)
def test_bad_input_says_what_to_do(file, message):
    with pytest.raises(ValueError, match=message):
        in_memory(file)


@pytest.mark.parametrize(
    "rate", [16000.7, None, float("nan"), float("inf"), 0, -16000, "fast", True, 99]
)
def test_sample_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match=f"x: sample_rate is {rate!r}: give a whole number"):
        in_memory({"uri": "x", "waveform": torch.zeros(1, 5), "sample_rate": rate})
    for good in (16000.0, np.int64(16000), torch.tensor(16000), "16000"):
        loaded = in_memory({"waveform": torch.zeros(1, 5), "sample_rate": good})
        assert loaded["sample_rate"] == 16000 and type(loaded["sample_rate"]) is int


def test_files_of_sample_rates_that_cannot_be(tmp_path):
    path = tmp_path / "slow.wav"
    soundfile.write(path, np.zeros(50), 8)
    for file in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match="its header says 8 Hz, which is no sample rate"):
            in_memory(file)
    with pytest.raises(ValueError, match="slow.wav: its header says 8 Hz"):
        with open_recording(path, 16000):
            pass


def test_what_is_checked_is_what_is_heard(tmp_path):
    """Channels that are not chosen do not matter; loud ones have an infinite mean."""
    path = tmp_path / "half.wav"
    samples = np.stack([np.full(50, np.nan), np.full(50, 0.5)], axis=1)
    loud = np.full((50, 2), 3e38)
    for channels, chosen in ((samples, (None, 0)), (loud, (None,))):
        soundfile.write(path, channels, 8000, subtype="FLOAT")
        waveform = {"waveform": channels.T, "sample_rate": 8000, "uri": "half.wav"}
        for channel in (None, 0, 1):
            for file in ({"audio": path, "channel": channel}, waveform | {"channel": channel}):
                if channel not in chosen:
                    assert load_waveform(file, 8000).isfinite().all()
                    with open_recording(file, 8000) as recording:
                        assert recording.read(0, 50).isfinite().all()
                    continue
                with pytest.raises(ValueError, match="half.wav: some samples are NaN or inf"):
                    load_waveform(file, 8000)
                with pytest.raises(ValueError, match="half.wav: some samples are NaN or inf"):
                    with open_recording(file, 8000) as recording:
                        recording.read(0, 50)


@pytest.mark.parametrize("channel", ["0", 0.0, [0]])
def test_channels_that_cannot_be(stereo, channel):
    file = {"audio": stereo[0], "channel": channel}
    with pytest.raises(ValueError, match="two ways.wav: channel is .*: give a whole number"):
        in_memory(file)
    with pytest.raises(ValueError, match="two ways.wav: channel is .*: give a whole number"):
        with open_recording(file, 16000):
            pass


@pytest.mark.parametrize("waveform", [None, "sound", np.array(["a", "b"]), [[1.0], [1.0, 2.0]]])
def test_waveforms_that_cannot_be(waveform):
    with pytest.raises(ValueError, match="x: waveform is no array of numbers, but .*: give a"):
        in_memory({"uri": "x", "waveform": waveform, "sample_rate": 16000})


def test_what_can_be_shared_is_not_copied(monkeypatch):
    def mean(*args, **kwargs):
        raise AssertionError("a copy")

    monkeypatch.setattr(torch.Tensor, "mean", mean)
    samples = np.zeros((1, 9), dtype=np.float32)
    assert np.shares_memory(
        in_memory({"waveform": samples, "sample_rate": 8000})["waveform"], samples
    )


def test_waveforms_that_are_reversed_short_or_want_gradients():
    samples = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    loaded = in_memory({"waveform": samples[:, ::-1], "sample_rate": 8000})["waveform"]
    assert loaded.tolist() == [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
    assert in_memory({"waveform": samples[:, :1], "sample_rate": 8000})["waveform"].shape == (2, 1)
    for order in "<>":  # of bytes
        loaded = in_memory({"waveform": samples.astype(f"{order}f4"), "sample_rate": 8000})
        assert loaded["waveform"].tolist() == samples.tolist()
    waveform = torch.rand(1, 44099, requires_grad=True)
    assert load_waveform({"waveform": waveform, "sample_rate": 44099}).shape == (1, 16000)


@pytest.mark.parametrize("size", [0, 400])
def test_mp3_without_a_whole_frame_is_there_all_the_same(tmp_path, size):
    path = tmp_path / "tiny.mp3"
    soundfile.write(path, np.zeros(3000), 44100)
    path.write_bytes(path.read_bytes()[:size])
    for file in (path, io.BytesIO(path.read_bytes())):
        told = "cannot be read: (?!File does not exist).*Convert" if size else "the file is empty"
        with pytest.raises(ValueError, match=told):
            in_memory(file)


def test_missing_folder_and_garbage(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.wav.*check the path"):
        in_memory(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="is a folder"):
        in_memory(tmp_path)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"neither sound nor picture" * 100)
    with pytest.raises(ValueError, match="garbage.mp4: cannot be read.*Convert it"):
        in_memory(garbage)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    for source in (path, io.BytesIO()):
        with pytest.raises(ValueError, match="the file is empty: was it copied or downloaded"):
            in_memory({"audio": source})


def test_pyannote_reads_what_soundfile_cannot(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"a film")
    monkeypatch.setattr(
        audio, "Audio", lambda: lambda source: (torch.ones(1, 7), {path: 44100}[source])
    )
    loaded = in_memory(path)
    assert loaded["sample_rate"] == 44100 and loaded["uri"] == "film"


def test_resamples_rates_without_a_common_divisor():
    time = torch.arange(44099) / 44099
    tone = torch.sin(2 * torch.pi * 440 * time)[None]
    resampled = load_waveform({"waveform": tone, "sample_rate": 44099})
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None]
    assert resampled.shape == (1, 16000) and resampled.dtype == torch.float32
    assert torch.allclose(resampled[:, 500:-500], expected[:, 500:-500], atol=0.01)


def wav(seconds: float) -> bytes:
    """8000 Hz, 16 bits, one channel: the size of all samples comes at byte 40."""
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(8000 * seconds))
    soundfile.write(file, samples, 8000, format="WAV", subtype="PCM_16")
    assert file.getvalue()[36:40] == b"data"
    return file.getvalue()


def test_wav_that_holds_more_than_its_header_says(tmp_path):
    path = tmp_path / "crash.wav"
    content = wav(4.0)
    path.write_bytes(content[:40] + struct.pack("<I", 16000) + content[44:])
    message = r"crash.wav: 1.0 s are read, .* seems to hold 4.0 s: repair"
    for file in (path, io.BytesIO(path.read_bytes())):
        with pytest.warns(UserWarning, match=message.removeprefix(path.name)):
            assert in_memory(file)["waveform"].shape == (1, 8000)
    with pytest.warns(UserWarning, match=message), open_recording(path, 8000) as recording:
        assert recording.num_samples == 8000
    path.write_bytes(content[:40] + bytes(4) + content[44:])
    with pytest.warns(UserWarning, match=r"0.0 s are read, .* seems to hold 4.0 s"):
        with pytest.raises(ValueError, match="crash.wav: no samples"):
            in_memory(path)


@pytest.mark.parametrize("size", [64000, 2**31 - 1, 2**31 - 4096, 2**32 - 1])
def test_wav_without_a_warning(tmp_path, size):
    """Other chunks may follow, and programs that write to a pipe do not know the size."""
    path = tmp_path / "good.wav"
    content = wav(4.0)
    content = content[:40] + struct.pack("<I", size) + content[44:]
    chunks = b"LIST" + struct.pack("<I", 20001) + bytes(20002) + b"id3 " + struct.pack("<I", 0)
    path.write_bytes(content + (chunks if size == 64000 else b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for file in (path, io.BytesIO(path.read_bytes())):
            assert in_memory(file)["waveform"].shape == (1, 32000)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_file_that_was_cut_off(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(32000), 8000)
    path.write_bytes(path.read_bytes()[:32000])
    message = f"half.{suffix}: its header says 4.0 s, but the file holds 2.0 s: was it copied"
    with pytest.warns(UserWarning, match=message):
        assert in_memory(path)["waveform"].shape[1] == pytest.approx(16000, abs=40)
    with pytest.warns(UserWarning, match=message.removeprefix(path.name)):
        in_memory(io.BytesIO(path.read_bytes()))


def test_wav_that_was_cut_off_after_long_tags(tmp_path):
    """Notes of libsndfile have no room after them."""
    tags = b"INFO" + 5 * (b"ICMT" + struct.pack("<I", 1000) + b"x" * 1000)
    content = wav(4.0)
    content = content[:36] + b"LIST" + struct.pack("<I", len(tags)) + tags + content[36:-32000]
    (tmp_path / "half.wav").write_bytes(content)
    for file in (tmp_path / "half.wav", io.BytesIO(content)):
        with pytest.warns(UserWarning, match="header says 4.0 s, but the file holds 2.0 s"):
            assert in_memory(file)["waveform"].shape == (1, 16000)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_its_end(tmp_path, subtype):
    path = tmp_path / "half.ogg"
    samples = 0.1 * np.random.default_rng(0).standard_normal(80000)
    soundfile.write(path, samples, 8000, subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        in_memory(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="half.ogg: the end of its ogg stream is missing: was"):
        assert 0 < in_memory(path)["waveform"].shape[1] < 60000


def test_format_that_cannot_be_searched(tmp_path):
    path = tmp_path / "phone.wav"
    soundfile.write(path, np.sin(np.arange(8000.0) / 5), 8000, subtype="GSM610")
    waveform = in_memory(path)["waveform"]
    assert waveform.shape[1] == pytest.approx(8000, abs=320) and waveform.abs().max() > 0.5
    with open_recording(path, 8000) as recording:
        assert torch.equal(recording.read(0, 10**6), waveform)


def test_fewer_samples_than_expected(tmp_path):
    """Frames of an MPEG layer II file that get larger: libsndfile expects more of them."""
    path = tmp_path / "short.mp2"
    small, large = (head.ljust(size, b"\0") for head, size in ((SMALL, 96), (LARGE, 576)))
    path.write_bytes(small * 100 + large * 200)
    assert soundfile.info(path).duration > 10
    with pytest.raises(ValueError, match="short.mp2: cannot be read beyond 7.2 s: it ends there"):
        in_memory(path)
    with open_recording(path, 48000) as recording:
        for start in (0, recording.num_samples - 100):
            with pytest.raises(ValueError, match="short.mp2: cannot be read beyond"):
                recording.read(start, recording.num_samples)


def test_half_a_frame_at_the_end_does_no_harm(tmp_path):
    path = tmp_path / "cut.mp2"
    path.write_bytes(LARGE.ljust(576, b"\0") * 100 + LARGE.ljust(500, b"\0"))
    assert in_memory(path)["waveform"].shape == (1, 115200)
    with open_recording(path, 48000) as recording:
        assert 115200 < recording.num_samples < 115200 + 1152
        for start in (0, recording.num_samples - 100):
            piece = recording.read(start, recording.num_samples)
            assert piece.shape[1] == recording.num_samples - start and not piece.any()


@pytest.mark.parametrize("seconds", [3.0, 60.0])  # libsndfile: like the first, or endless
def test_joined_ogg(tmp_path, monkeypatch, seconds):
    path = tmp_path / "joined.ogg"
    parts = []
    for part in (2.0, seconds):
        soundfile.write(path, 0.1 * np.random.default_rng(0).random(round(8000 * part)), 8000)
        assert in_memory(path)["waveform"].shape == (1, 8000 * part)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    message = "joined.ogg: cannot be read: Its length is not known. Convert it"
    with pytest.raises(ValueError, match=message):
        in_memory(path)
    with pytest.raises(ValueError, match=message), open_recording(path, 16000):
        pass
    monkeypatch.setattr(audio, "Audio", lambda: lambda source: (torch.ones(1, 7), 8000))
    assert in_memory(path)["waveform"].shape == (1, 7)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_name_that_is_not_utf8(tmp_path, stereo):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.write_bytes(stereo[0].read_bytes())
    for file in (path, str(path)):
        assert torch.equal(in_memory(file)["waveform"], stereo[1])
        with open_recording(file, 8000) as recording:
            assert torch.equal(recording.read(0, 8000), stereo[1].mean(0, keepdim=True))
