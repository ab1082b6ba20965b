"""How much alike different people sound, against plain loops and planted projections."""

import numpy as np
import pytest
import torch

from pyannote_weighter.impostors import MOST_SLOTS, USUAL, cosine_offset, impostor_cosine
from tests.models.test_weighter import small_weighter


def test_against_plain_loops():
    rng = np.random.default_rng(0)
    embeddings, files = rng.standard_normal((30, 5)), rng.integers(0, 6, 30)
    related = np.eye(6, dtype=bool)
    related[1, 2] = related[2, 1] = True
    cosines = []
    for i in range(30):
        for j in range(i):
            if files[i] != files[j] and {files[i], files[j]} != {1, 2}:
                a, b = embeddings[i], embeddings[j]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    found = impostor_cosine(embeddings, files, related)
    assert found == pytest.approx(np.quantile(cosines, 0.99))
    assert np.mean(np.array(cosines) > found) == pytest.approx(0.01, abs=0.01)


def test_nobody_to_compare_with():
    everybody = np.ones((2, 2), dtype=bool)
    assert np.isnan(impostor_cosine(np.eye(4), np.array([0, 0, 1, 1]), everybody))
    assert np.isnan(impostor_cosine(np.empty((0, 3)), np.empty(0, dtype=int), everybody))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return small_weighter(dimension=64)  # not less than the backbone has: orthogonal


def samples(model, likes, num_frames: int = 700) -> list[dict]:
    """Files of a few voices each, which follow one another."""
    generator = torch.Generator().manual_seed(1)
    files = []
    for known in likes:
        voices = torch.randn(3, model.backbone.frame_dimension, generator=generator)
        frames = voices.repeat_interleave(num_frames // 3, dim=0)
        frames = frames + 0.1 * torch.randn(frames.shape, generator=generator)
        count = torch.ones(len(frames), dtype=torch.uint8)
        known = None if known is None else torch.tensor(known).long()
        files.append({"frames": frames.half(), "count": count, "likes": known})
    return files


def test_projection_that_moves_nobody_apart(model):
    """What a Weighter is before training: cosines are those of the backbone."""
    offset = cosine_offset(model, samples(model, [[0], [1], None, []]))
    assert offset == pytest.approx(USUAL, abs=1e-3)


def test_projection_that_makes_everybody_alike(model):
    """With a large common part all cosines are 1, of people who had next to nothing in common."""
    files = samples(model, [[0], [1], [2]])
    was = model.project.bias.detach().clone()
    with torch.no_grad():
        model.project.bias += 100.0
    offset = cosine_offset(model, files)
    with torch.no_grad():
        model.project.bias.copy_(was)
    assert USUAL + 0.3 < offset < USUAL + 1.3


def test_recordings_that_cannot_be_compared(model):
    assert cosine_offset(model, []) == 0.0
    assert cosine_offset(model, samples(model, [None])) == 0.0  # one recording
    assert cosine_offset(model, samples(model, [[0, 1], [1, 2]])) == 0.0  # one person in both
    silent = samples(model, [[0], [1]])
    for sample in silent:
        sample["count"][:] = 0
    assert cosine_offset(model, silent) == 0.0
    short = samples(model, [[0], [1]], num_frames=30)
    assert cosine_offset(model, short) == 0.0  # less than two seconds of anybody


def test_it_leaves_the_model_as_it_was(model):
    model.train()
    cosine_offset(model, samples(model, [[0], [1]]))
    assert model.training
    model.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = cosine_offset(model, samples(model, [[0], [1]]))
    assert not model.training and found == cosine_offset(model, samples(model, [[0], [1]]))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_many_slots_are_thinned(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pyannote_weighter.impostors.impostor_cosine",
        lambda embeddings, files, related: seen.append(len(embeddings)) or 0.0,
    )
    monkeypatch.setattr("pyannote_weighter.impostors.MOST_SLOTS", 5)
    assert MOST_SLOTS > 5
    assert cosine_offset(model, samples(model, [[0], [1], [2]])) == pytest.approx(USUAL)
    assert seen == [5, 5]
