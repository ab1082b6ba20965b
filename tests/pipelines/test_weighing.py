"""Slots of a whole file."""

import numpy as np
import pytest
import torch

from pyannote_weighter.pipelines import weighing
from pyannote_weighter.pipelines.seeds import NUM_SEEDS
from pyannote_weighter.pipelines.weighing import (
    cut_windows,
    improve_and_embed,
    improve_groups,
    settle_groups,
    weigh_file,
)
from pyannote_weighter.pipelines.windows import Weighed, Windows, embed_groups, solo_weights
from pyannote_weighter.presence import Presence
from tests.pipelines.test_seeds import local_of
from tests.pipelines.test_windows import frames_and_count, small_weighter


@pytest.mark.parametrize(("num_frames", "number"), [(1, 1), (50, 1), (51, 2), (148, 3), (151, 4)])
def test_windows_cover_the_file(num_frames, number):
    weighter = small_weighter()
    assert weighter.steps.step == pytest.approx(0.1)
    found = cut_windows(weighter, num_frames, longest=1.0)
    assert [stop for _, stop in found][:-1] == [start for start, _ in found][1:]
    assert all(start % 5 == 0 for start, _ in found)
    assert (found[0][0], found[-1][1]) == (0, num_frames)
    assert max(stop - start for start, stop in found) <= 50
    assert len(found) == number
    for longest in (0.05, 0.1, 0.25, 0.35):  # at least a step, and never more than fits
        found = cut_windows(weighter, num_frames, longest)
        lengths = [stop - start for start, stop in found]
        assert sum(lengths) == num_frames and min(lengths) > 0
        assert max(lengths) <= 5 * max(1, int(longest / 0.1 + 1e-6))


def test_infinity_never_cuts():
    for num_frames in (0, 1, 50, 100000):
        assert cut_windows(small_weighter(), num_frames, np.inf) == [(0, num_frames)]


@pytest.fixture(scope="module")
def file():
    weighter = small_weighter()
    frames, speech = frames_and_count(weighter, 398)
    active = np.zeros((4, 100, 2), dtype=int)
    active[:, :50, 0] = active[:, 50:, 1] = 1
    windows = Windows()
    bounds = cut_windows(weighter, 398, 240 * weighter.frames.step)
    local = local_of(active)
    with torch.inference_mode():
        slots = weigh_file(weighter, bounds, frames, speech, windows, local)
    return weighter, bounds, frames, speech, windows, local, slots


def test_slots_start_at_seeds(file):
    weighter, bounds, frames, speech, _, _, slots = file
    assert len(bounds) == 2 and len(slots.seconds) == 2 * NUM_SEEDS
    assert slots.joined().shape == (80, NUM_SEEDS)
    with torch.inference_mode():
        without = weigh_file(weighter, bounds, frames, speech)
    assert len(without.seconds) == 2 * weighter.dimension[0]
    for each in (slots, without):  # no frame is given out more than once
        total = each.joined().repeat(5, axis=0)[:398].sum(axis=1)
        assert total.max() < 1.01
        assert each.seconds.sum() == pytest.approx(total.sum() * weighter.frames.step, rel=1e-4)


def test_windows_have_as_many_slots_as_they_need(file, monkeypatch):
    weighter, bounds, frames, speech, _, local, _ = file
    rng, numbers, D = np.random.default_rng(0), [NUM_SEEDS + 9, 2], weighter.dimension[1]
    weighed = [
        Weighed(
            rng.random((-((start - stop) // 5), n), np.float32), rng.random((n, D)), rng.random(n)
        )
        for (start, stop), n in zip(bounds, numbers, strict=True)
    ]
    left = iter(weighed)
    monkeypatch.setattr(weighing, "weigh_frames", lambda *args, **options: (next(left), None))
    slots = weigh_file(weighter, bounds, frames, speech, local=local)
    whole = slots.joined()
    assert whole.shape == (80, max(numbers))
    assert [part.shape[1] for part in slots.weightings] == [NUM_SEEDS + 9, NUM_SEEDS]
    assert [len(columns) for columns in slots.columns] == [NUM_SEEDS + 9, NUM_SEEDS]
    first = [0, NUM_SEEDS + 9, 2 * NUM_SEEDS + 9]
    for window, (expected, bound) in enumerate(zip(weighed, bounds, strict=True)):
        some = slice(first[window], first[window + 1])
        frames_of = expected.weightings.repeat(5, axis=0)[: bound[1] - bound[0]]
        rows = slice(bound[0] // 5, -(-bound[1] // 5))
        for found, values in (
            (slots.weightings[window].T, expected.weightings.T),
            (whole[rows].T, expected.weightings.T),
            (slots.embeddings[some], expected.embeddings),
            (slots.confidence[some], expected.confidence),
            (slots.seconds[some], frames_of.sum(axis=0) * weighter.frames.step),
        ):
            np.testing.assert_allclose(found[: len(values)], values, rtol=1e-5)
            assert not found[len(values) :].any()


def test_groups_become_slots(file):
    weighter, bounds, frames, speech, windows, local, _ = file
    with torch.inference_mode():
        slots = weigh_file(weighter, bounds, frames, speech)
    group_of = np.arange(len(slots.seconds)) % 3
    groups = slots.join(group_of)
    improved = improve_groups(weighter, bounds, groups, windows, speech)
    again = improve_groups(weighter, bounds, groups, frames, speech)
    for found, expected in zip(improved.weightings, again.weightings, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    one = slots.join(np.zeros_like(group_of))
    assert improve_groups(weighter, bounds, one, windows, speech) is one

    arguments = weighter, bounds, groups, windows, speech
    plain = settle_groups(*arguments, None, Presence())
    assert plain.is_speaker is None and plain.evidence is None
    whole = improved.spread().repeat(5, axis=0)[:398]
    seconds = whole.sum(axis=0) * weighter.frames.step
    np.testing.assert_allclose(plain.seconds, seconds, rtol=1e-5)
    expected = np.square(whole).sum(axis=0) / whole.sum(axis=0)
    np.testing.assert_allclose(plain.confidence, expected, rtol=1e-4)

    judged = settle_groups(*arguments, local, Presence())
    unit = judged.embeddings / np.linalg.norm(judged.embeddings, axis=1, keepdims=True)
    probability, least = judged.is_speaker(improved, seconds, unit)
    assert probability.shape == (3,) and least == Presence().least
    assert judged.is_speaker(improved, seconds * 100, unit)[1] > Presence().least
    assert ((probability >= 0) & (probability <= 1)).all()
    assert judged.evidence.same.shape == (3, 3)


@pytest.mark.parametrize("num_speakers", [1, 3])
@torch.inference_mode()
def test_groups_are_embedded_as_they_come_out(file, num_speakers):
    weighter, bounds, frames, speech, windows, _, _ = file
    slots = weigh_file(weighter, bounds, frames, speech)
    groups = slots.join(np.arange(len(slots.seconds)) % num_speakers)
    step = weighter.encoder.step
    for weights in (None, [solo_weights(speech[start:stop], step) for start, stop in bounds]):
        arguments = weighter, bounds, groups, windows, speech
        improved, found = improve_and_embed(*arguments, weights)
        assert (improved is groups) == (num_speakers == 1)
        assert (improved.spread() == improve_groups(*arguments).spread()).all()
        expected = embed_groups(weighter, windows, improved, weights)
        np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-5)
