"""Pipeline with real segmentation and backbone, and an untrained Weighter; the sample."""

import pytest
import torch

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines import WeighterDiarization

# an untrained Weighter is not confident and its slots are alike: keep them, merge few
PARAMETERS = {
    "segmentation": {"min_duration_off": 0.0},
    "weighter": {"threshold": 0.0, "merge": 0.9, "min_duration": 0.5},
}


@pytest.fixture(scope="module")
def weighter() -> Weighter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Weighter().eval()


@pytest.fixture(scope="module")
def loaded(weighter) -> WeighterDiarization:
    return WeighterDiarization(weighter=weighter, segmentation_step=0.25)


def as_at_start(loaded: WeighterDiarization) -> WeighterDiarization:
    """Undo what tests have changed."""
    loaded.legacy, loaded.training, loaded.window = False, False, 600.0
    loaded.embedding_batch_size, loaded._segmentation.batch_size = 1, 32
    loaded.half, loaded.embedding_duration = True, 0.0
    return loaded.instantiate(PARAMETERS)


@pytest.fixture
def pipeline(loaded) -> WeighterDiarization:
    """One pipeline for all, as it was at the start."""
    return as_at_start(loaded)


@pytest.fixture(scope="module")
def sample(sample_audio) -> dict:
    """The 30 s sample in memory; no test may change it."""
    return {"uri": "sample", "waveform": load_waveform(sample_audio), "sample_rate": 16000}


def audio(waveform, sample_rate: int = 16000) -> dict:
    return {"uri": "made", "waveform": waveform, "sample_rate": sample_rate}
