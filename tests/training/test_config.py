"""What a configuration may say, and what is told where it cannot be."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pyannote.audio import Model

from pyannote_weighter import configuration, training
from pyannote_weighter.configuration import read_config
from pyannote_weighter.training import train
from tests.training.conftest import (
    trainer_options,
    weights,
    write_config,
    write_corpus,
)


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
