"""How much alike different people sound, against plain loops and planted projections."""

import numpy as np
import pytest
import torch

from pyannote_weighter.impostors import MOST_SLOTS, USUAL, cosine_offset, impostor_cosine
from tests.models.test_weighter import small_weighter


def test_against_plain_loops():
    rng = np.random.default_rng(0)
    embeddings, files = rng.standard_normal((30, 5)), rng.integers(0, 6, 30)
    cosines = []
    for i in range(30):
        for j in range(i):
            if files[i] != files[j]:
                a, b = embeddings[i], embeddings[j]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert impostor_cosine(embeddings, files) == pytest.approx(np.median(cosines))


def test_a_host_of_all_recordings_makes_no_difference():
    rng = np.random.default_rng(0)
    guests, files = rng.standard_normal((60, 3, 128)), np.repeat(np.arange(60), 4)
    hosts = rng.standard_normal(128) + 0.3 * rng.standard_normal((60, 1, 128))
    others = impostor_cosine(guests.reshape(-1, 128), np.repeat(np.arange(60), 3))
    found = impostor_cosine(np.concatenate([guests, hosts], axis=1).reshape(-1, 128), files)
    assert found == pytest.approx(others, abs=0.015)


def test_too_few_to_tell():
    assert np.isnan(impostor_cosine(np.eye(18), np.arange(18) // 9))  # 81 pairs
    assert impostor_cosine(np.eye(20), np.arange(20) // 10) == 0.0  # 100 pairs
    assert np.isnan(impostor_cosine(np.eye(40), np.zeros(40)))  # one recording
    assert np.isnan(impostor_cosine(np.empty((0, 3)), np.empty(0)))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return small_weighter(dimension=64)  # not less than the backbone has: orthogonal


def samples(model, number: int = 15, num_frames: int = 700) -> list[dict]:
    """Files of a few voices each, which follow one another."""
    generator = torch.Generator().manual_seed(1)
    files = []
    for _ in range(number):
        voices = torch.randn(3, model.backbone.frame_dimension, generator=generator)
        frames = voices.repeat_interleave(num_frames // 3, dim=0)
        frames = frames + 0.1 * torch.randn(frames.shape, generator=generator)
        count = torch.ones(len(frames), dtype=torch.uint8)
        files.append({"frames": frames.half(), "count": count})
    return files


def test_projection_that_moves_nobody_apart(model):
    """What a Weighter is before training: cosines are those of the backbone."""
    offset = cosine_offset(model, iter(samples(model)))
    assert offset == pytest.approx(USUAL, abs=1e-3)
    uncounted = [sample | {"count": None} for sample in samples(model)]
    assert cosine_offset(model, uncounted) == pytest.approx(USUAL, abs=1e-3)


def test_projection_that_makes_everybody_alike(model):
    """With a large common part all cosines are 1, of people who had next to nothing in common."""
    was = model.project.bias.detach().clone()
    with torch.no_grad():
        model.project.bias += 100.0
    offset = cosine_offset(model, samples(model))
    with torch.no_grad():
        model.project.bias.copy_(was)
    assert USUAL + 0.3 < offset < USUAL + 1.3


def test_recordings_that_tell_nothing(model):
    assert cosine_offset(model, []) == 0.0
    assert cosine_offset(model, samples(model, number=1)) == 0.0
    silent = samples(model)
    for sample in silent:
        sample["count"][:] = 0
    assert cosine_offset(model, silent) == 0.0
    short = samples(model, num_frames=30)
    assert cosine_offset(model, short) == 0.0  # less than two seconds of anybody


def test_it_leaves_the_model_as_it_was(model):
    model.train()
    cosine_offset(model, samples(model))
    assert model.training
    model.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = cosine_offset(model, samples(model))
    assert not model.training and found == cosine_offset(model, samples(model))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_many_slots_are_thinned(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pyannote_weighter.impostors.impostor_cosine",
        lambda embeddings, files: seen.append((len(embeddings), len(set(files)))) or 0.0,
    )
    monkeypatch.setattr("pyannote_weighter.impostors.MOST_SLOTS", 5)
    assert MOST_SLOTS > 5
    assert cosine_offset(model, samples(model, number=5)) == pytest.approx(USUAL)
    assert seen == [(5, 5), (5, 5)]
