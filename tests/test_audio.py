import io

import numpy as np
import pytest
import soundfile
import torch

from pyannote_weighter import audio
from pyannote_weighter.audio import in_memory, load_waveform


@pytest.fixture
def stereo(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal((8000, 2)).astype("float32")
    path = tmp_path / "two ways.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    return path, torch.from_numpy(samples.T)


def test_path_and_mapping_and_file_object_read_the_same(stereo):
    path, expected = stereo
    with path.open("rb") as opened:
        files = [
            path,
            str(path),
            {"audio": path},
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
    assert in_memory({"waveform": torch.zeros(1, 5), "sample_rate": 8})["uri"] == "waveform"


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
        ({"uri": "x", "waveform": torch.zeros(1, 0), "sample_rate": 1}, "x: no samples"),
        ({"uri": "x", "waveform": torch.full((1, 9), torch.nan), "sample_rate": 1}, "x: .*NaN"),
        ({"uri": "x", "waveform": torch.full((1, 9), torch.inf), "sample_rate": 1}, "x: .*infin"),
    ],
)
def test_bad_input_says_what_to_do(file, message):
    with pytest.raises(ValueError, match=message):
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
