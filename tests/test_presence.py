"""Whether a group of slots is a person."""

import numpy as np
import pytest
from pyannote.core import SlidingWindow

from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.linking import Groups
from pyannote_weighter.presence import Presence, ownership, turn_lengths

GRID = SlidingWindow(0.1, 0.1)


def local_of(active: np.ndarray) -> LocalSpeakers:
    """One window of ten seconds, (100, L)."""
    return LocalSpeakers(
        LocalSpeakers.pack(active[None]), SlidingWindow(10.0, 2.5), SlidingWindow(0.1, 0.1)
    )


def described(weightings, local, embeddings=None):
    K = weightings.shape[1]
    seconds = weightings.sum(axis=0) * GRID.step
    embeddings = np.eye(K) if embeddings is None else embeddings
    ones = np.ones(len(weightings))
    groups = Groups([weightings], [np.arange(K)], K)
    return groups, [ones], seconds, embeddings, local, [GRID]


def test_turns():
    x = np.zeros((10, 2))
    x[1:4, 0] = x[6:8, 0] = x[8:, 1] = 1.0
    group, steps = turn_lengths(x)
    assert group.tolist() == [0, 0, 1] and steps.tolist() == [3, 2, 2]
    assert len(turn_lengths(np.zeros((5, 2)))[0]) == 0


def test_ownership_is_of_who_has_a_local_speaker_alone():
    active = np.zeros((100, 2), dtype=int)
    active[:50, 0] = active[50:, 1] = 1
    x = np.zeros((100, 3), dtype=np.float32)
    x[:50, 0] = x[50:90, 1] = x[90:, 2] = 1.0
    owned, held = ownership(local_of(active), x, GRID)
    np.testing.assert_allclose(owned / held, [1.0, 0.8, 0.2], atol=1e-6)


def test_scraps_that_sound_like_another_are_nobody():
    active = np.zeros((100, 2), dtype=int)
    active[:50, 0] = active[50:, 1] = 1
    local = local_of(active)
    x = np.zeros((100, 3), dtype=np.float32)
    x[:50, 0] = x[50:, 1] = 1.0
    x[5:50:9] = [0, 0, 1]  # a step each, here and there
    alike = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.9]])
    presence = Presence()
    first, second, scraps = presence(*described(x, local, alike))
    assert min(first, second) > presence.least > scraps


def test_offset_is_taken_from_cosines_if_there_are_any():
    local = local_of(np.ones((100, 1), dtype=int))
    x = np.zeros((100, 2), dtype=np.float32)
    x[:50, 0] = x[50:, 1] = 1.0
    apart, near = np.eye(2), np.array([[1.0, 0.0], [0.6, 0.8]])
    shifted = Presence(offset=0.6, longest=1e3)(*described(x, local, near))
    np.testing.assert_allclose(shifted, Presence(longest=1e3)(*described(x, local, apart)))
    alone = described(np.ones((100, 1), dtype=np.float32), local)
    assert Presence(offset=0.6)(*alone) == Presence()(*alone)


def test_one_group_and_a_silent_one():
    local = local_of(np.ones((100, 1), dtype=int))
    probability = Presence()(*described(np.ones((100, 1), dtype=np.float32), local))
    assert probability.shape == (1,) and probability[0] > 0.9
    x = np.stack([np.ones(100), np.zeros(100)], axis=1).astype(np.float32)
    assert np.isfinite(Presence()(*described(x, local))).all()


def test_no_group_at_all():
    nobody = described(
        np.zeros((100, 0), dtype=np.float32), local_of(np.ones((100, 1), dtype=int))
    )
    assert Presence()(*nobody).shape == (0,)


def test_accidents_add_up_in_long_recordings():
    """As long a scrap is less of a person where all speak for longer."""
    active = np.zeros((100, 2), dtype=int)
    active[:50, 0] = active[50:, 1] = 1
    local = local_of(active)
    alike = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.9]])
    x = np.zeros((100, 3), dtype=np.float32)
    x[:50, 0] = x[50:, 1] = 1.0
    x[5:50:9] = [0, 0, 1]
    groups, ones, _, *rest = described(x, local, alike)
    presence = Presence(typical=75.0)

    def judged(*seconds):
        return presence(groups, ones, np.array(seconds), *rest)

    for scrap in (1.0, 5.0):
        short, long = judged(30.0, 40.0, scrap), judged(300.0, 400.0, scrap)
        plain = Presence(typical=np.inf)(groups, ones, np.array([30.0, 40.0, scrap]), *rest)
        np.testing.assert_allclose(short, plain, rtol=0.02)
        assert long[2] < short[2] and (short[:2] == 1.0).all() and (long[:2] > 0.99).all()
    assert judged(30.0, 40.0, 5.0)[2] == 1.0  # longer than `longest`
    assert judged(60.0, 80.0, 10.0)[2] == 1.0  # each second is half of one, and 4.6 are wanted
    assert judged(60.0, 81.0, 9.0)[2] < 1.0
    assert judged(300.0, 400.0, 50.0)[2] < 0.5  # as loud as five seconds, and a scrap all the same
    assert judged(300.0, 400.0, 5.0)[2] < presence.least
    assert np.isfinite(judged(0.0, 0.0, 0.0)).all()


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ((10.0, 20.0), 0.25),
        ((75.0, 75.0), 0.28125),
        ((750.0, 750.0), 0.46434375),
        ((0.0, 0.0), 0.25),
    ],
)
def test_the_longer_a_recording_the_more_is_asked_for(seconds, expected):
    presence = Presence(least=0.25, typical=75.0, each=15.0)
    assert presence.threshold(np.array(seconds)) == pytest.approx(expected)


def test_more_is_never_less_than_what_was_asked_for():
    assert Presence(least=0.7).threshold(np.array([750.0, 750.0])) == pytest.approx(0.7)


def test_who_has_much_of_the_speech_is_a_speaker_however_alike():
    active = np.zeros((100, 2), dtype=int)
    active[:50, 0] = active[50:, 1] = 1
    x = np.zeros((100, 2), dtype=np.float32)
    x[:50, 0] = x[50:, 1] = 1.0
    alike = np.array([[1.0, 0.0], [0.96, 0.28]])
    groups, ones, _, *rest = described(x, local_of(active), alike)
    for seconds, expected in (
        ((3000.0, 600.0), True),
        ((3000.0, 400.0), False),
        ((10.0, 2.0), False),  # much of little
    ):
        seconds = np.array(seconds)
        probability = Presence()(groups, ones, seconds, *rest)
        assert (probability[1] >= Presence().threshold(seconds)) == expected


def test_many_people_who_say_little_are_no_accidents():
    presence = Presence(typical=75.0, each=15.0)
    for people, seconds, expected in (
        (2, 20.0, 1.0),  # less than 75 s
        (4, 15.0, 1.0),
        (2, 75.0, 0.5),  # two people: 75 of 150 s
        (4, 100.0, 75.0 / 400.0),
        (20, 15.0, 1.0),  # of so many, 300 s are no long recording
        (20, 30.0, 0.5),
    ):
        assert presence.share(np.full(people, seconds)) == pytest.approx(expected)
    # scraps beside them are nearly nobody
    few = presence.share(np.array([200.0] * 4 + [5.0] * 10))
    assert few == pytest.approx(75.0 / 850.0)
    assert presence.share(np.zeros(3)) == 1.0
