"""A small corpus in memory: tones in place of voices, likes in place of references."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from lightning import Trainer
from pyannote.core import Annotation, Segment
from pyannote.database.protocol import SpeakerDiarizationProtocol

from pyannote_weighter.tasks import SpeakerLikes
from tests.models.test_weighter import small_weighter

SAMPLE_RATE = 16000
PITCHES = {"ann": 300.0, "bob": 700.0, "cy": 1500.0, "dee": 3000.0}


class InMemory(SpeakerDiarizationProtocol):
    """Protocol over files that are given as they are."""

    name = "Tones.SpeakerDiarization.InMemory"

    def __init__(self, train: list[dict], development: list[dict] | None = None):
        super().__init__()
        self.subsets = {"train": train, "development": development}

    def train_iter(self) -> Iterator[dict]:
        """Copies, as pyannote may add to them."""
        yield from map(dict, self.subsets["train"])

    def development_iter(self) -> Iterator[dict]:
        """Copies, if there is such a subset."""
        if self.subsets["development"] is None:
            raise NotImplementedError
        yield from map(dict, self.subsets["development"])


def conversation(uri: str, speakers: str, seconds: float = 2.0) -> dict:
    """Speakers one after another, for the same time each; no likes and no reference yet."""
    names = speakers.split()
    rng = np.random.default_rng(len(uri) + int(seconds * 10))
    time = np.arange(int(seconds * SAMPLE_RATE / len(names))) / SAMPLE_RATE
    tones = np.concatenate([0.1 * np.sin(2 * np.pi * PITCHES[name] * time) for name in names])
    waveform = torch.from_numpy(tones + rng.normal(0, 0.01, len(tones))).float()[None]
    return {
        "uri": uri,
        "database": "Tones",
        "scope": "global",
        "waveform": waveform,  # (1, samples)
        "sample_rate": SAMPLE_RATE,
    }


def reference(file: dict, speakers: str) -> Annotation:
    """What `conversation` says."""
    names = speakers.split()
    turn = file["waveform"].shape[1] / SAMPLE_RATE / len(names)
    annotation = Annotation(uri=file["uri"])
    for index, name in enumerate(names):
        annotation[Segment(index * turn, (index + 1) * turn)] = name
    return annotation


def liked(uri: str, speakers: str, likes: str | None = None, **options) -> dict:
    """A conversation and its likes: all of its speakers, unless others are named."""
    names = speakers if likes is None else likes
    return conversation(uri, speakers, **options) | {"likes": tuple(names.split())}


@pytest.fixture(scope="session")
def tones() -> list[dict]:
    """Five training files with likes and nothing else; one of them is known to have none."""
    return [
        liked("one", "ann bob"),
        liked("two", "ann cy", seconds=1.6),
        liked("three", "bob cy"),
        liked("four", "ann bob cy", likes="ann"),
        liked("five", "cy dee", likes=""),
    ]


@pytest.fixture
def fit() -> Callable[..., Trainer]:
    """Train a small Weighter (or the one that is given) for two epochs, without any output."""

    def run(task, model=None, ckpt_path=None, weights_only=None, **options) -> Trainer:
        model = small_weighter() if model is None else model
        model.task = task
        quiet = dict.fromkeys(
            ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
            False,
        )
        trainer = Trainer(**quiet | {"accelerator": "cpu", "max_epochs": 2} | options)
        trainer.fit(model, ckpt_path=ckpt_path, weights_only=weights_only)
        return trainer

    return run


@pytest.fixture
def task(tones, tmp_path):
    """Make a task over protocols in memory; without segmentation unless it is asked for."""

    def make(train=tones, development=None, **options) -> SpeakerLikes:
        options = {"segmentation": None, "batch_size": 2} | options
        return SpeakerLikes(InMemory(train, development), tmp_path / "frames", **options)

    return make
