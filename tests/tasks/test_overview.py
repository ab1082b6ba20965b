"""Who is where in whole files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.models.encoders import Encoded
from pyannote_weighter.models.weighter import Weighted
from pyannote_weighter.tasks.overview import (
    HEARD,
    Overview,
    heard_in,
    overview,
    pieces,
    speech_of_likes,
)

STEP = 0.02


def window(owner: list[int], vectors: torch.Tensor, people: list[int]) -> Weighted:
    """A window whose frames belong to slots (-1: nobody), which are of people."""
    x = torch.zeros(len(owner), len(people))
    for frame, slot in enumerate(owner):
        if slot >= 0:
            x[frame, slot] = 1.0
    embeddings = vectors[people][None]
    encoded = Encoded(weightings=[x[None]], embeddings=[embeddings])
    mass = x.sum(dim=0)[None]
    return Weighted(x[None], embeddings, torch.ones_like(mass), mass, encoded)


@pytest.fixture
def vectors():
    return F.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_slots_of_one_window_stay_as_they_are(vectors):
    owner = [0] * 100 + [1] * 150 + [-1] * 30 + [0] * 70
    found = overview([window(owner, vectors, [3, 3, 1])], STEP)  # two of them are one person
    torch.testing.assert_close(found.embeddings, vectors[[3, 3, 1]])
    np.testing.assert_allclose(found.share, [170 / 320, 150 / 320, 0.0], rtol=1e-5)
    assert found.seconds.shape == (8, 3)  # 7 s, and a start
    np.testing.assert_allclose(found.seconds[-1], [3.4, 3.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(found.seconds[:4, 0], [0.0, 1.0, 2.0, 2.0], atol=1e-5)


def test_slots_of_several_windows_are_linked(vectors):
    first = window([0] * 200 + [1] * 200, vectors, [2, 0])
    second = window([1] * 300 + [0] * 100, vectors, [2, 4])
    third = window([0] * 400, vectors, [0, 3])  # the second slot is empty
    found = overview([first, second, third], STEP)
    cosine = F.normalize(found.embeddings, dim=-1) @ vectors.T
    assert cosine.argmax(dim=1).tolist() == [2, 0, 4] and (cosine.amax(dim=1) > 0.999).all()
    np.testing.assert_allclose(found.share, [0.25, 0.5, 0.25], rtol=1e-5)
    np.testing.assert_allclose(found.seconds[-1], [6.0, 12.0, 6.0], atol=1e-4)
    np.testing.assert_allclose(found.seconds[16], [6.0, 4.0, 6.0], atol=1e-4)


def test_nobody_in_any_window(vectors):
    silent = window([-1] * 100, vectors, [0, 1])
    found = overview([silent, silent], STEP)
    assert torch.isfinite(found.embeddings).all() and found.share.sum() == 0
    assert found.seconds[-1].sum() == 0


@pytest.mark.parametrize(
    ("length", "many"), [(1, 1), (100, 1), (149, 1), (160, 2), (300, 3), (1000, 10)]
)
def test_an_epoch_sees_all_of_a_file_about_once(length, many):
    assert pieces([50, length], 100) == [(0, 0, 1)] + [(1, k, many) for k in range(many)]


def test_who_is_heard_in_a_crop(vectors):
    rng = np.random.default_rng(0)
    owner = np.repeat(rng.integers(-1, 3, 60), 25).tolist()  # turns of half a second, 30 s
    found = overview([window(owner, vectors, [0, 1, 2])], STEP)
    for first, last in ((0, 30), (3, 7), (12, 13), (25, 30), (29, 40)):
        within = np.array(owner[first * 50 : last * 50])
        expected = [(within == k).sum() * STEP >= HEARD - 1e-6 for k in range(3)]
        assert heard_in(found.seconds, STEP, first * 50, (last - first) * 50).tolist() == expected
    assert not heard_in(found.seconds, STEP, 5000, 100).any()  # behind the end


def test_a_like_has_its_slot_and_those_that_sound_like_it(vectors):
    near = F.normalize(vectors[1] + 0.3 * vectors[4], dim=-1)
    seconds = torch.arange(3.0)[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = Overview(torch.stack([vectors[0], vectors[1], near, vectors[3]]), seconds, seconds)
    likes, slots = torch.tensor([1, 2, 0]), torch.tensor([1, 3, 0])
    speech = speech_of_likes(found, likes, slots, vectors, 0.5)
    assert speech[-1].tolist() == [12.0, 16.0, 2.0]  # slots 1 and 2; 3, as it was given; 0
    without = speech_of_likes(found, likes, torch.tensor([1, -1, 0]), vectors, 0.99)
    assert without[-1].tolist() == [4.0, 0.0, 2.0]
    assert speech_of_likes(found, likes[:0], slots[:0], vectors, 0.5).shape == (3, 0)
