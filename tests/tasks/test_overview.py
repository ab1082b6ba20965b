"""Who is where in whole files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.models.encoders import Encoded
from pyannote_weighter.models.weighter import Weighted
from pyannote_weighter.prototypes import STRANGERS, Prototypes
from pyannote_weighter.tasks.overview import (
    Overview,
    Window,
    cut_ticks,
    frames_per_tick,
    heard_in,
    overviews,
    speech_of_likes,
    summarize_window,
)

STEP, TICK = 0.02, 50


def window(owner: list[int], vectors: torch.Tensor, people: list[int]) -> Window:
    """A window whose frames belong to slots (-1: nobody), which are of people."""
    x = torch.zeros(len(owner), len(people))
    for frame, slot in enumerate(owner):
        if slot >= 0:
            x[frame, slot] = 1.0
    embeddings = vectors[people][None]
    unprojected = F.pad(embeddings, (0, 1))
    encoded = Encoded(weightings=[x[None]], embeddings=[unprojected])
    mass = x.sum(dim=0)[None]
    weighted = Weighted(x[None], embeddings, torch.ones_like(mass), mass, encoded)
    return summarize_window(weighted, STEP, TICK)


def overview(windows: list[Window]) -> Overview:
    (found,) = overviews([windows])
    return found


@pytest.fixture
def vectors():
    return F.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_slots_of_one_window_stay_as_they_are(vectors):
    owner = [0] * 100 + [1] * 150 + [-1] * 30 + [0] * 70
    found = overview([window(owner, vectors, [3, 3, 1])])  # two of them are one person
    torch.testing.assert_close(found.embeddings, vectors[[3, 3, 1]])
    np.testing.assert_allclose(found.share, [170 / 320, 150 / 320, 0.0], rtol=1e-5)
    assert found.until.shape == (8, 3)  # 7 s, and a start
    np.testing.assert_allclose(found.until[-1], [3.4, 3.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(found.until[:4, 0], [0.0, 1.0, 2.0, 2.0], atol=1e-5)


def test_slots_of_several_windows_are_linked(vectors):
    first = window([0] * 200 + [1] * 200, vectors, [2, 0])
    second = window([1] * 300 + [0] * 100, vectors, [2, 4])
    third = window([0] * 400, vectors, [0, 3])  # the second slot is empty
    found = overview([first, second, third])
    cosine = F.normalize(found.embeddings, dim=-1) @ vectors.T
    assert cosine.argmax(dim=1).tolist() == [2, 0, 4] and (cosine.amax(dim=1) > 0.999).all()
    np.testing.assert_allclose(found.share, [0.25, 0.5, 0.25], rtol=1e-5)
    np.testing.assert_allclose(found.until[-1], [6.0, 12.0, 6.0], atol=1e-4)
    np.testing.assert_allclose(found.until[16], [6.0, 4.0, 6.0], atol=1e-4)


def test_nobody_in_any_window(vectors):
    silent = window([-1] * 100, vectors, [0, 1])
    found = overview([silent, silent])
    assert torch.isfinite(found.embeddings).all() and found.share.sum() == 0
    assert found.until[-1].sum() == 0


@pytest.mark.parametrize("most", [20, 25, 47, 100])
@pytest.mark.parametrize("num_frames", [0, 1, 20, 47, 100, 101, 333])
def test_windows_are_of_whole_ticks(num_frames, most):
    tick = frames_per_tick(STEP / 2.5, most)  # 125 in a second
    assert tick == most
    for ticks in (tick, 20, 7):
        found = cut_ticks(num_frames, most, ticks)
        assert (found[0][0], found[-1][1]) == (0, num_frames)
        assert [stop for _, stop in found][:-1] == [start for start, _ in found][1:]
        assert all(stop - start <= most and start % ticks == 0 for start, stop in found)
        assert (len(found) > 1) == (num_frames > most)


def test_who_is_heard_in_a_crop(vectors):
    rng = np.random.default_rng(0)
    owner = np.repeat(rng.integers(-1, 3, 60), 25).tolist()  # turns of half a second, 30 s
    found = overview([window(owner, vectors, [0, 1, 2])])
    seen = set()
    for first, last in ((0, 30), (3, 7), (12, 13), (25, 30), (29, 40), (4, 24)):
        within = np.array(owner[first * 50 : last * 50])
        least = min(1.0, 0.1 * (last - first))
        expected = [(within == k).sum() * STEP >= least - 1e-6 for k in range(3)]
        crop = STEP, TICK, first * 50, (last - first) * 50
        assert heard_in(found.until, *crop).tolist() == expected
        seen |= set(expected)
    assert seen == {True, False}
    assert not heard_in(found.until, STEP, TICK, 5000, 100).any()  # behind the end


def test_a_like_has_its_slot_and_those_that_sound_like_it(vectors):
    near = F.normalize(vectors[1] + 0.3 * vectors[4], dim=-1)
    until = torch.arange(3.0)[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = Overview(torch.stack([vectors[0], vectors[1], near, vectors[3]]), until, until)
    likes, slots = torch.tensor([1, 2, 0]), torch.tensor([1, 3, 0])
    few = Prototypes(vectors, [], [], by_chance=0.5)
    speech = speech_of_likes(found, likes, slots, few)
    assert speech[-1].tolist() == [12.0, 16.0, 2.0]  # slots 1 and 2; 3, as it was given; 0
    sure = few._replace(by_chance=0.99)
    without = speech_of_likes(found, likes, torch.tensor([1, -1, 0]), sure)
    assert without[-1].tolist() == [4.0, 0.0, 2.0]
    assert speech_of_likes(found, likes[:0], slots[:0], few).shape == (3, 0)


def test_a_guest_is_not_taken_for_who_is_liked_everywhere(vectors):
    """Where everybody is liked in all files nothing is by chance."""
    until = torch.arange(3.0)[:, None] * torch.tensor([1.0, 2.0])
    found = Overview(vectors[:2], until, until)
    everywhere = Prototypes(vectors, [], [], by_chance=-1.0)
    assert (vectors[0] @ vectors[1]).item() < STRANGERS
    speech = speech_of_likes(found, torch.tensor([0]), torch.tensor([0]), everywhere)
    assert speech[-1].tolist() == [2.0]


@pytest.mark.parametrize("common", [0.0, 1.3])
def test_nobody_is_merged_where_everybody_is_alike(common):
    """Embeddings of a backbone that share a direction are alike whoever speaks."""
    people = F.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(1)), dim=-1)
    people = F.normalize(people + common * F.normalize(torch.ones(64), dim=0), dim=-1)
    alike = (people @ people.T)[~torch.eye(40, dtype=torch.bool)].median().item()
    assert alike == pytest.approx(0.6 if common else 0.0, abs=0.05)
    files, half = [], [0] * 500 + [1] * 500
    for one, other in zip(range(0, 40, 2), range(1, 40, 2), strict=True):
        slots = [one, other], [other, one]
        files.append([window(half, people, some) for some in slots])
    for number, found in enumerate(overviews(files)):
        cosine = F.normalize(found.embeddings, dim=-1) @ people[2 * number : 2 * number + 2].T
        assert (cosine.amax(dim=1) > 0.999).all() and (cosine.amax(dim=0) > 0.999).all()
        assert common or len(cosine) == 2
