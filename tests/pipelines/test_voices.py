"""Speakers heard alone."""

import numpy as np
import pytest
import soundfile
import torch
from pyannote.core import SlidingWindow

from pyannote_weighter.pipelines.voices import LEAST, embed_alone, longest_runs
from tests.models.test_weighter import small_weighter

RATE = 16000
FRAMES = SlidingWindow(start=0.0, duration=0.02, step=0.01)


def plain_runs(speaker: list[int], number: int, most: int) -> list[tuple[int, int]]:
    """Frame by frame."""
    runs, start = [], None
    for t, who in enumerate([*speaker, -5]):
        if who == number and start is None:
            start = t
        elif who != number and start is not None:
            runs.append((start, t))
            start = None
    found = []
    for first, end in sorted(runs, key=lambda run: run[0] - run[1]):
        if most > 0:
            found.append((first, min(end, first + most)))
            most -= end - first
    return sorted(found)


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, 40)
    speaker = np.repeat(rng.integers(-1, 4, 40), lengths)
    most = int(rng.integers(1, 200))
    runs = longest_runs(speaker, 4, most)
    for number, found in enumerate(runs):
        assert list(map(tuple, found.tolist())) == plain_runs(speaker.tolist(), number, most)
        assert (found[:, 1] - found[:, 0]).sum() == min(most, (speaker == number).sum())


def test_nobody_has_no_runs():
    assert [len(r) for r in longest_runs(np.full(9, -1), 2, 5)] == [0, 0]
    assert [len(r) for r in longest_runs(np.empty(0, dtype=int), 2, 5)] == [0, 0]


@pytest.fixture(scope="module")
def weighter():
    return small_weighter().eval()


def test_embeddings_are_those_of_joined_audio(weighter, tmp_path):
    """From memory and from a file at another rate: the samples of the runs, and no others."""
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(1, 4 * RATE, generator=generator)
    speaker = np.full(390, -1)
    speaker[10:60], speaker[200:260], speaker[100:180] = 0, 0, 1
    speaker[300:310] = 2  # too short
    done = []
    embeddings, heard = embed_alone(
        weighter,
        {"waveform": waveform, "sample_rate": RATE},
        speaker,
        FRAMES,
        4,
        1.0,
        lambda *args: done.append(args),
    )
    assert embeddings.shape == (4, weighter.dimension[1])
    assert heard.tolist() == [True, True, False, False]
    assert done == [(k, 4) for k in range(5)]
    assert not embeddings[2:].any()

    def cut(first: int, end: int) -> torch.Tensor:
        """Turns begin in the middle of a frame."""
        return waveform[:, 160 + first * 160 : 160 + end * 160]

    # one second of speaker 0: the long run, and the beginning of the other one
    parts = torch.cat([cut(10, 50), cut(200, 260)], dim=1), cut(100, 180)
    with torch.inference_mode():
        for embedding, part in zip(embeddings, parts, strict=False):
            pooled = weighter.backbone.embed(weighter.backbone(part[None]))
            expected = weighter.project(pooled)[0, 0].numpy()
            np.testing.assert_allclose(embedding, expected, atol=1e-5)

    path = tmp_path / "made.wav"
    soundfile.write(path, waveform[0].numpy(), RATE, subtype="FLOAT")
    again, _ = embed_alone(weighter, path, speaker, FRAMES, 4, 1.0)
    np.testing.assert_allclose(again, embeddings, atol=1e-5)


@pytest.mark.parametrize("rate", [None, RATE, 22050])
def test_runs_beyond_the_end(weighter, tmp_path, rate):
    """Frames of a padded window may reach further than the audio, in memory or on disk."""
    waveform = 0.1 * torch.randn(1, rate or RATE, generator=torch.Generator().manual_seed(1))
    file = {"waveform": waveform, "sample_rate": RATE}
    if rate is not None:
        file = tmp_path / "second.wav"
        soundfile.write(file, waveform[0].numpy(), rate)
    embeddings, heard = embed_alone(weighter, file, np.zeros(200, dtype=int), FRAMES, 1, 10.0)
    assert heard.all() and np.isfinite(embeddings).all()
    speaker = np.full(300, -1)
    speaker[150:300] = 0
    embeddings, heard = embed_alone(weighter, file, speaker, FRAMES, 1, 10.0)
    assert not heard.any() and not embeddings.any()


def test_least(weighter):
    waveform = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(2))
    file = {"waveform": waveform, "sample_rate": RATE}
    for frames, enough in ((round(LEAST * 100), True), (round(LEAST * 100) - 1, False)):
        speaker = np.where(np.arange(90) < frames, 0, -1)
        assert embed_alone(weighter, file, speaker, FRAMES, 1, 5.0)[1].tolist() == [enough]
