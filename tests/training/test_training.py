"""From a YAML file to a pipeline folder, on tones with likes."""

import shutil

import pytest
import torch
import yaml
from pyannote.audio import Model, Pipeline
from typer.testing import CliRunner

from pyannote_weighter import training
from pyannote_weighter.cli import app
from pyannote_weighter.configuration import read_config
from pyannote_weighter.database import read_likes
from pyannote_weighter.impostors import cosine_offset
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pretrained import segmentation_path
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import train
from pyannote_weighter.tuning import tune
from tests.models.test_weighter import BACKBONE, ENCODERS
from tests.tasks.conftest import InMemory, conversation
from tests.training.conftest import (
    checkpoint,
    needs_segmentation,
    trainer_options,
    weights,
    write_config,
    write_corpus,
)


@needs_segmentation
def test_from_likes_to_a_pipeline(corpus, tmp_path, monkeypatch):
    config, into = write_config(corpus), tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="last.ckpt: nothing to resume; start without"):
        train(config, into, resume=True)
    assert not into.exists()

    def add(model, samples):  # too few to tell
        assert cosine_offset(model, samples) == 0.0
        return 0.05

    def search(model, task, files, **options):
        searched.append(options)
        return tune(model, task, files, **options)

    searched = []
    monkeypatch.setattr("pyannote_weighter.training.cosine_offset", add)
    monkeypatch.setattr("pyannote_weighter.training.tune", search)
    folder = train(config, into)
    assert folder == into / "pipeline"
    assert (corpus / "frames").is_dir() and not (into / "frames").exists()
    first = weights(into)

    # the folder is a pipeline, and its weights are those that were trained
    pipeline = Pipeline.from_pretrained(folder)
    assert isinstance(pipeline, WeighterDiarization)
    assert pipeline.parameters(instantiated=True) == pipeline.default_parameters()
    trained = Model.from_pretrained(folder / "weighter").state_dict()
    assert all(torch.equal(value, first[name]) for name, value in trained.items())
    stored = yaml.safe_load((folder / "config.yaml").read_text())["pipeline"]["params"]
    assert stored["cosine_offset"] == 0.05 and searched == [{"cosine_offset": 0.05}]
    assert pipeline.likeness.offset == pipeline.presence.offset == 0.05
    output = pipeline(str(corpus / "corpus" / "dev.wav"))
    extent = output.speaker_diarization.get_timeline().extent()
    assert not extent or extent.end <= 1.6

    # no run is overwritten by accident
    with pytest.raises(ValueError, match="run holds a training run: add --resume, or choose"):
        train(config, into)
    assert all(torch.equal(value, first[name]) for name, value in weights(into).items())

    # more epochs
    trainer = yaml.safe_load(config.read_text())["trainer"]
    longer = write_config(corpus, "longer.yaml", trainer=trainer | {"max_epochs": 2})
    assert train(longer, into, resume=True) == folder
    last = torch.load(into / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["epoch"] == 1 and last["global_step"] == 2 * 2
    changed = {n for n, value in last["state_dict"].items() if not torch.equal(value, first[n])}
    assert changed and not any(name.startswith("backbone.") for name in changed)
    trained = Model.from_pretrained(folder / "weighter").state_dict()
    assert all(torch.equal(v, last["state_dict"][name]) for name, v in trained.items())
    # metrics of both runs are there
    tables = sorted((into / "metrics").glob("**/metrics.csv"))
    assert len(tables) == 2
    assert all("loss/likes" in table.read_text() for table in tables)


def test_training_starts_from_a_weighter_that_exists(corpus, tmp_path, untuned):
    folder = train(write_config(corpus, "first.yaml"), tmp_path / "first")
    first = Model.from_pretrained(folder / "weighter" / "pytorch_model.bin").state_dict()
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    for init in (folder, folder / "weighter", checkpoint):
        path = write_config(corpus, "then.yaml", init=str(init), model=None)
        model = training._start(path, read_config(path), None)
        assert model.encoder.training and not model.backbone.training
        torch.testing.assert_close(model.state_dict(), first)
    path = write_config(corpus, "then.yaml", init=str(folder), model=None)
    again = train(path, tmp_path / "again") / "weighter" / "pytorch_model.bin"
    trained = Model.from_pretrained(again)
    assert trained.hparams.dimension == 32
    assert any((trained.state_dict()[name] != first[name]).any() for name in first)


def test_resumed_without_what_it_began_with(corpus, tmp_path, untuned, monkeypatch):
    began = train(write_config(corpus, "first.yaml"), tmp_path / "first")
    options = {"init": str(began), "model": None}
    path = write_config(corpus, "then.yaml", trainer=trainer_options(1), **options)
    train(path, tmp_path / "then")
    shutil.rmtree(tmp_path / "first")
    write_config(corpus, "then.yaml", trainer=trainer_options(2), **options)
    monkeypatch.chdir(corpus)
    train("then.yaml", tmp_path / "then", resume=True)
    assert checkpoint(tmp_path / "then")["epoch"] == 1


@needs_segmentation
def test_likes_that_are_missing_are_written(tmp_path, capsys):
    path = tmp_path / "missing.likes"
    training._suggest({"a b": ["Ann Lee", "bob"], "c": ["cy"]}, path)
    assert read_likes(path) == {"a b": ("Ann Lee", "bob"), "c": ("cy",)}
    assert "found 3 likes that 2 files lack" in capsys.readouterr().out
    training._suggest({}, path)  # of an earlier run, which is being replaced
    assert not path.exists() and not capsys.readouterr().out


def test_seed_decides_about_the_weights(corpus, tmp_path):
    config = write_config(corpus)
    runs = {"given": None, "same": 3, "other": 4}
    for name, seed in runs.items():
        train(config, tmp_path / name, seed=seed)
    given, same, other = (weights(tmp_path / name) for name in runs)
    assert all(torch.equal(value, same[name]) for name, value in given.items())
    assert any(not torch.equal(value, other[name]) for name, value in given.items())


@needs_segmentation
def test_pipeline_has_the_segmentation_of_its_training(corpus, tmp_path, monkeypatch):
    """A path, which the pipeline finds from any folder, and a step."""

    def search(model, task, files, **options):
        searched.append(options)
        return tune(model, task, files, **options)

    searched = []
    monkeypatch.setattr("pyannote_weighter.training.tune", search)
    weights = segmentation_path()
    monkeypatch.chdir(weights.parent)
    config = write_config(
        corpus,
        "counted.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        task={"batch_size": 2, "segmentation": weights.name, "segmentation_step": 0.5},
    )
    folder = train(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    expected = {"segmentation": str(weights), "segmentation_step": 0.5}
    stored = yaml.safe_load((folder / "config.yaml").read_text())["pipeline"]["params"]
    assert stored == {"weighter": "$model/weighter", "cosine_offset": 0.0} | expected
    assert searched == [{"cosine_offset": 0.0} | expected]
    segmentation = Pipeline.from_pretrained(folder)._segmentation
    assert segmentation.step == 0.5 * segmentation.duration


@pytest.mark.parametrize(
    "segmentation, step, options",
    [
        ("segmentation-3.0", 0.25, {}),
        ("segmentation-3.0", 0.1, {"segmentation_step": 0.1}),
        ("pyannote/segmentation", 0.25, {"segmentation": "pyannote/segmentation"}),
        (None, 0.1, {}),  # a pipeline needs one
    ],
)
def test_segmentation_is_written_where_it_is_another(segmentation, step, options):
    protocol = InMemory([conversation("one", "ann")])
    task = SpeakerLikes(protocol, "frames", segmentation, segmentation_step=step)
    assert training.segmentation_options(task) == options


@needs_segmentation
def test_command_tunes_on_references(corpus, tmp_path):
    """With the real segmentation and a development file, by the command line."""
    config = write_config(
        corpus,
        "both.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        task={"batch_size": 2},
    )
    result = CliRunner().invoke(app, ["train", str(config), "--into", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"pipeline: {tmp_path / 'run' / 'pipeline'}" in result.output.replace("\n", "")
    metrics = next((tmp_path / "run").glob("metrics/**/metrics.csv")).read_text()
    assert "DiarizationErrorRate" in metrics and "loss/activity" in metrics
    stored = yaml.safe_load((tmp_path / "run" / "pipeline" / "config.yaml").read_text())
    assert set(stored["params"]["weighter"]) == {"threshold", "merge", "min_duration"}

    again = CliRunner().invoke(app, ["train", str(config), "--into", str(tmp_path / "run")])
    assert again.exit_code != 0 and "add --resume" in str(again.exception)


def test_accumulated_gradients(corpus, tmp_path, untuned):
    trainer = trainer_options(1, accumulate_grad_batches=2)
    train(write_config(corpus, trainer=trainer), tmp_path / "accumulated")
    assert checkpoint(tmp_path / "accumulated")["global_step"] == 1  # two batches
    first = checkpoint(tmp_path / "accumulated")["optimizer_states"][0]["state"]
    assert first and all(torch.isfinite(state["exp_avg"]).all() for state in first.values())


def test_pictures_beside_the_metrics(corpus, tmp_path, untuned):
    config = write_config(
        corpus,
        "drawn.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        trainer=trainer_options(2),
        pictures=2,
    )
    train(config, tmp_path / "run")
    drawn = (tmp_path / "run" / "pictures").rglob("*.png")
    assert [path.name for path in drawn] == ["epoch-0002.png"]


@pytest.mark.parametrize("encoder", ["refine", "wavlm"])
def test_mixed_precision(corpus, tmp_path, untuned, encoder):
    model = {"backbone": BACKBONE, "encoder": ENCODERS[encoder], "num_slots": 3}
    protocol = "TrainedTones.SpeakerDiarization.Both"
    trained = {}
    for precision in ("32-true", "bf16-mixed"):
        trainer = trainer_options(1, precision=precision)
        train(
            write_config(corpus, model=model, protocol=protocol, trainer=trainer),
            tmp_path / precision,
        )
        trained[precision] = weights(tmp_path / precision)
    for name, value in trained["bf16-mixed"].items():
        assert value.dtype == trained["32-true"][name].dtype, name
        assert torch.isfinite(value).all(), name
    assert any(
        not torch.equal(value, trained["32-true"][name])
        for name, value in trained["bf16-mixed"].items()
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "precision, task",
    [
        ("32-true", {"supervision": "both", "num_workers": 1}),
        ("bf16-mixed", {"lambda_": "auto", "wrong_likes": 0.1}),
        ("16-mixed", {"assignment": "sinkhorn", "loss": "softmax"}),
        ("32-true", {"loss": "role"}),
    ],
)
@needs_segmentation
def test_on_a_gpu(tmp_path, sample_audio, precision, task):
    """Trained, resumed, used on a GPU and on the CPU."""
    write_corpus(tmp_path / "corpus")
    changes = {
        "protocol": "TrainedTones.SpeakerDiarization.Both",
        "task": {"batch_size": 2} | task,
    }
    trainer = {"accelerator": "gpu", "precision": precision, "enable_model_summary": False}
    for epochs in (1, 2):
        config = write_config(tmp_path, trainer=trainer | {"max_epochs": epochs}, **changes)
        folder = train(config, tmp_path / "run", resume=epochs > 1)
    for device in ("cuda", "cpu"):
        pipeline = Pipeline.from_pretrained(folder).to(torch.device(device))
        assert pipeline(sample_audio).speaker_diarization.uri == "sample"
