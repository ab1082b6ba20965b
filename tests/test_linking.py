"""Slots to speakers, against centroid linkage written the slow way."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.likeness import Evidence, Likeness
from pyannote_weighter.linking import Groups, Slots, link_slots


def slow_link(embeddings, seconds, threshold, least=1, most=np.inf) -> list[int]:
    """Compare all pairs of groups again after every merge."""
    groups = [[m] for m in range(len(embeddings))]

    def centroid(group):
        units = [embeddings[m] / max(np.linalg.norm(embeddings[m]), 1e-9) for m in group]
        total = sum(u * max(seconds[m], 1e-3) for u, m in zip(units, group, strict=True))
        return total / max(np.linalg.norm(total), 1e-9)

    while len(groups) > max(1, least):
        similarity, a, b = max(
            (centroid(groups[a]) @ centroid(groups[b]), a, b)
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        )
        if similarity < threshold and len(groups) <= most:
            break
        groups[a] += groups.pop(b)
    groups.sort(key=min)
    return [
        next(g for g, group in enumerate(groups) if m in group) for m in range(len(embeddings))
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.floats(-0.9, 0.99),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(0, 1000),
)
def test_against_slow_reference(num_slots, threshold, least, more, seed):
    rng = np.random.default_rng(seed)
    speakers = rng.standard_normal((3, 5))
    embeddings = speakers[rng.integers(0, 3, num_slots)] + 0.5 * rng.standard_normal(
        (num_slots, 5)
    )
    embeddings *= rng.uniform(0.1, 10, (num_slots, 1))
    seconds = rng.uniform(0, 9, num_slots)
    most = least + more if more < 8 else np.inf
    found = link_slots(embeddings, seconds, threshold, least, most)
    assert found.tolist() == slow_link(embeddings, seconds, threshold, least, most)
    assert min(least, num_slots) <= len(set(found)) <= most


def test_planted_speakers_over_windows():
    rng = np.random.default_rng(0)
    speakers = np.linalg.qr(rng.standard_normal((16, 16)))[0][:4]
    truth = np.array([2, 0, 1, 0, 2, 3, 1, 2, 3])
    embeddings = 3 * speakers[truth] + 0.3 * rng.standard_normal((9, 16))
    found = link_slots(embeddings, np.full(9, 5.0), threshold=0.5)
    assert found.tolist() == [0, 1, 2, 1, 0, 3, 2, 0, 3]  # by first appearance


def test_centroids_are_weighted_by_speech():
    # the first two merge; where their centroid lies decides about the third
    angles = np.radians([0, 40, 85])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for seconds, groups in (([99.0, 1.0, 1.0], [0, 0, 1]), ([1.0, 99.0, 1.0], [0, 0, 0])):
        found = link_slots(embeddings, np.array(seconds), threshold=0.6)
        assert found.tolist() == groups


def test_bounds_go_before_the_threshold():
    embeddings, seconds = np.eye(5), np.ones(5)
    for most in (1, 2, 4):
        found = link_slots(embeddings, seconds, threshold=0.9, max_speakers=most)
        assert len(set(found)) == most
    same = np.ones((5, 3))
    for least in (2, 4, 5):
        found = link_slots(same, seconds, threshold=0.1, min_speakers=least)
        assert len(set(found)) == least
    # more than there are slots cannot be had
    assert len(set(link_slots(same, seconds, threshold=0.1, min_speakers=9))) == 5


@pytest.mark.parametrize("num_slots", [0, 1, 4])
def test_few_slots_and_zero_embeddings(num_slots):
    embeddings, seconds = np.zeros((num_slots, 8)), np.zeros(num_slots)
    with np.errstate(all="raise"):
        found = link_slots(embeddings, seconds, threshold=0.5)
    assert found.tolist() == list(range(num_slots))  # nothing is like them
    together = link_slots(embeddings, seconds, threshold=0.5, max_speakers=1)
    assert together.tolist() == [0] * num_slots


def test_inputs_are_left_alone():
    embeddings, seconds = np.random.default_rng(0).standard_normal((6, 4)), np.ones(6)
    before, evidence = embeddings.copy(), Evidence(np.ones((6, 6)), np.ones((6, 6)))
    link_slots(embeddings, seconds, -1.0, evidence=evidence, likeness=Likeness())
    assert (embeddings == before).all() and (seconds == 1).all()
    assert all((seen == 1).all() for seen in evidence)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_likeness_of_groups_against_slow_reference(num_slots, threshold, seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((3, 5))[rng.integers(0, 3, num_slots)]
    embeddings = embeddings + 0.7 * rng.standard_normal((num_slots, 5))
    seconds = rng.uniform(0.1, 9, num_slots)
    same, different = rng.exponential(1.0, (2, num_slots, num_slots))
    same, different = same + same.T, different + different.T
    likeness = Likeness()

    groups = [[m] for m in range(num_slots)]

    def probability(a, b):
        first, second = (
            sum(embeddings[m] / np.linalg.norm(embeddings[m]) * seconds[m] for m in group)
            for group in (a, b)
        )
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        return likeness(
            cosine,
            sum(same[m, n] for m in a for n in b),
            sum(different[m, n] for m in a for n in b),
            sum(seconds[m] for m in a),
            sum(seconds[m] for m in b),
        )

    while len(groups) > 1:
        best, a, b = max(
            (probability(groups[a], groups[b]), a, b)
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        )
        if best < threshold:
            break
        groups[a] += groups.pop(b)
    groups.sort(key=min)
    expected = [next(g for g, who in enumerate(groups) if m in who) for m in range(num_slots)]
    found = link_slots(
        embeddings, seconds, threshold, evidence=Evidence(same, different), likeness=likeness
    )
    assert found.tolist() == expected


def test_the_segmentation_tells_apart_what_sounds_alike():
    seconds = np.full(4, 5.0)
    embeddings = np.sqrt(0.7) * np.eye(5)[4] + np.sqrt(0.3) * np.eye(4, 5)  # cosines 0.7
    same = np.kron(np.eye(2), np.ones((2, 2)))
    evidence = Evidence(3.0 * same, 30.0 * (1 - same))
    options = {"threshold": 0.3, "likeness": Likeness()}
    assert len(set(link_slots(embeddings, seconds, **options))) == 1
    found = link_slots(embeddings, seconds, evidence=evidence, **options)
    assert found.tolist() == [0, 0, 1, 1]


def test_without_evidence_slots_are_judged_as_those_of_different_windows():
    """What was fitted to slots with evidence asks for more, the longer they are."""
    embeddings, seconds = np.array([[1.0, 0.0], [0.75, np.sqrt(1 - 0.75**2)]]), np.full(2, 40.0)
    options = {"threshold": 0.3, "likeness": Likeness()}
    assert link_slots(embeddings, seconds, **options).tolist() == [0, 0]
    nothing = Evidence(*np.zeros((2, 2, 2)))
    assert link_slots(embeddings, seconds, evidence=nothing, **options).tolist() == [0, 1]


def test_a_voice_that_returns_in_every_window_is_one_person():
    """Eight people in ten windows of ten minutes: windows know of no other window's speakers."""
    rng = np.random.default_rng(0)
    people, num_windows, dimension = 8, 10, 64
    voices = rng.standard_normal((people, dimension))
    who = np.tile(np.arange(people), num_windows)
    embeddings = voices[who] + 0.3 * rng.standard_normal((len(who), dimension))
    seconds = rng.uniform(20, 150, len(who))
    window = np.repeat(np.arange(num_windows), people)
    apart = 20.0 * (window[:, None] == window) * (who[:, None] != who)
    evidence = Evidence(np.zeros_like(apart), apart)
    within = {"cosine": 15.0, "local": 4.0, "shorter": -1.8, "longer": -0.6, "bias": -6.6}
    in_windows = {"windows": window[:, None] == np.arange(num_windows)}
    for likeness in (Likeness(), Likeness(**within)):
        options = {"evidence": evidence, "likeness": likeness}
        found = link_slots(embeddings, seconds, 0.4, **options, **in_windows)
        assert found.tolist() == who.tolist()
    one_window = link_slots(embeddings, seconds, 0.4, **options)
    assert one_window.tolist() == who.tolist()  # seconds say less in a long recording
    everywhere = replace(likeness, enough=likeness.longest)
    fallen = link_slots(embeddings, seconds, 0.4, evidence=evidence, likeness=everywhere)
    assert len(set(fallen.tolist())) > people  # what was fitted to a minute does not hold


# -- slots to speakers ----------------------------------------------------------------------------


def slots_of(windows: list[list[float]], embeddings, confidence, num_frames: int = 10) -> Slots:
    """Windows in which slots hold so many seconds each, a second per frame at full weight."""
    weightings = [np.tile(np.array(w) / num_frames, (num_frames, 1)) for w in windows]
    return Slots(
        weightings=weightings,
        embeddings=np.array(embeddings, dtype=float),
        confidence=np.array(confidence, dtype=float),
        seconds=np.concatenate([w.sum(axis=0) for w in weightings]),
    )


A, B, C = np.eye(3)
OPTIONS = {"threshold": 0.5, "merge": 0.5, "min_duration": 1.0}


def test_slots_of_one_speaker_are_added_across_and_within_windows():
    slots = slots_of([[3, 4, 2], [5, 0, 4]], [A, B, A, B, C, A], [1, 1, 1, 1, 0, 1])
    speakers = slots.speakers(**OPTIONS)
    assert speakers.shape == (20, 2)
    np.testing.assert_allclose(speakers[:10].sum(axis=0), [5, 4], rtol=1e-6)
    np.testing.assert_allclose(speakers[10:].sum(axis=0), [4, 5], rtol=1e-6)


def test_weightings_of_one_speaker_add_to_one_at_most():
    """Independent sigmoids, as of the encoder wavlm, say of two slots that both have a frame."""
    slots = slots_of([[8, 7, 2, 1], [9, 3, 0, 0]], [A] * 2 + [B] * 2 + [A, B] * 2, [1] * 8)
    groups = slots.join(np.array([0, 0, 1, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(groups.weightings[0], np.tile([1.0, 0.3], (10, 1)), rtol=1e-6)
    np.testing.assert_allclose(groups.weightings[1], np.tile([0.9, 0.3], (10, 1)), rtol=1e-6)
    assert slots.speakers(**OPTIONS).max() <= 1


def test_confidence_duration_and_bounds():
    slots = slots_of([[4, 3, 0.5]], [A, B, C], [0.9, 0.3, 0.9])
    assert slots.speakers(**OPTIONS).sum(axis=0) == pytest.approx([4])
    # bounds go first: the most confident that were left out come back
    for least, seconds in ((2, [4, 0.5]), (3, [4, 3, 0.5]), (9, [4, 3, 0.5])):
        found = slots.speakers(**OPTIONS, min_speakers=least)
        assert found.sum(axis=0) == pytest.approx(seconds)
    lenient = {"threshold": 0.0, "merge": 0.5, "min_duration": 0.0}
    assert slots.speakers(**lenient).shape == (10, 3)
    assert slots.speakers(**lenient, max_speakers=2).sum(axis=0).sum() == pytest.approx(7.5)
    assert slots.speakers(**lenient, max_speakers=1).sum(axis=0) == pytest.approx([7.5])


def test_somebody_has_the_speech_that_there_is():
    # nobody is sure, nobody says much: the best one stays
    slots = slots_of([[0.4, 0.3]], [A, B], [0.1, 0.2])
    assert slots.speakers(**OPTIONS).sum(axis=0) == pytest.approx([0.3])
    empty = slots_of([[0.0, 0.0]], [0 * A, 0 * A], [0.0, 0.0])
    with np.errstate(all="raise"):
        assert empty.speakers(**OPTIONS).sum(axis=0).tolist() == [0.0]
    # silent slots are never speakers, however many are asked for
    half = slots_of([[4, 0.0, 0.0]], [A, B, C], [1, 1, 1])
    assert half.speakers(**OPTIONS, min_speakers=3).shape == (10, 1)


def test_window_that_nobody_is_left_in_goes_to_the_nearest():
    slots = slots_of(
        [[5, 4], [0.6, 0.5], [0.0, 0.0]],
        [A, B, B + 0.2 * C, 0.9 * B + A, 0 * A, 0 * A],
        [1, 1, 0.2, 0.3, 0, 0],
    )
    speakers = slots.speakers(**OPTIONS)
    assert speakers[:10].sum(axis=0) == pytest.approx([5, 4])
    assert speakers[10:20].sum(axis=0) == pytest.approx([0.5, 0.6])
    assert (speakers[20:] == 0).all()  # silence stays silent


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 5), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 9),
    st.integers(1, 6), st.integers(0, 1000),
)  # fmt: skip
def test_whatever_the_parameters(windows, num_slots, threshold, merge, least, bound, seed):
    rng = np.random.default_rng(seed)
    held = rng.uniform(0.1, 5, (windows, num_slots))
    slots = slots_of(
        held.tolist(), rng.standard_normal((held.size, 4)), rng.uniform(0, 1, held.size)
    )
    before = slots.embeddings.copy(), slots.confidence.copy(), slots.seconds.copy()
    speakers = slots.speakers(threshold, merge, least, min_speakers=bound, max_speakers=bound)
    assert speakers.shape == (10 * windows, min(bound, held.size))
    total = np.concatenate(slots.weightings).sum(axis=1)
    assert (speakers.sum(axis=1) <= total + 1e-5).all() and (speakers.sum(axis=0) > 0).all()
    assert (speakers.sum(axis=1) > 0).all()  # no window is deserted
    after = slots.embeddings, slots.confidence, slots.seconds
    assert all((x == y).all() for x, y in zip(before, after, strict=True))


def test_who_is_no_speaker_is_left_out_unless_that_many_were_asked_for():
    slots = slots_of([[4.0, 3.0, 3.0]], np.eye(3), [0.9, 0.9, 0.9])
    asked = []

    def is_speaker(groups, seconds, embeddings):
        asked.append((groups, seconds, embeddings))
        return np.array([0.9, 0.1, 0.2]), 0.25

    assert slots.assign(**OPTIONS).tolist() == [0, 1, 2]
    slots.is_speaker = is_speaker
    assert slots.assign(**OPTIONS).tolist() == [0, -1, -1]
    (groups, seconds, embeddings) = asked[-1]
    np.testing.assert_allclose(groups.weightings[0], slots.weightings[0])
    assert groups.present[0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(seconds, [4.0, 3.0, 3.0])
    np.testing.assert_allclose(embeddings, np.eye(3), atol=1e-6)
    # the more probable one first, though both speak equally long
    assert slots.assign(**OPTIONS, min_speakers=2).tolist() == [0, -1, 1]
    assert slots.assign(**OPTIONS, min_speakers=3).tolist() == [0, 1, 2]


def test_heard_where_a_window_has_no_slots():
    parts = [np.array([[0.9, 0.1], [0.0, 0.0], [0.7, 0.3]]), np.zeros((4, 0)), np.ones((1, 1))]
    slots = Slots(parts, np.eye(3), np.ones(3), np.ones(3))
    assert slots.heard().tolist() == [True, False, True]


def test_groups_are_in_the_windows_where_they_have_time():
    whole = np.random.default_rng(0).uniform(0.1, 1, (30, 3)).astype(np.float32)
    whole[:10, 1] = whole[10:20] = whole[20:, 0] = 0
    groups = Groups.gather([whole[:10], whole[10:20], whole[20:]])
    assert [who.tolist() for who in groups.present] == [[0, 2], [], [1, 2]]
    assert [part.shape for part in groups.weightings] == [(10, 2), (10, 0), (10, 2)]
    assert (groups.spread() == whole).all()


def test_bounds_that_hold_anyway_change_nothing():
    """Scraps that are no speakers take no place: two voices stay two, whatever else there is."""
    generator = np.random.default_rng(0)
    directions, _ = np.linalg.qr(generator.standard_normal((8, 8)))
    embeddings = directions[:5].copy()
    embeddings[1] = 0.25 * directions[0] + np.sqrt(1 - 0.25**2) * directions[1]
    slots = slots_of([[20.0, 20.0, 0.4, 0.4, 0.4]], embeddings, [0.9] * 5)
    options = {"threshold": 0.3, "merge": 0.3, "min_duration": 0.5}
    free = slots.assign(**options).tolist()
    assert free == [0, 1, -1, -1, -1]
    for bounds in (
        {"max_speakers": 4},
        {"max_speakers": 2},
        {"min_speakers": 2, "max_speakers": 2},
        {"min_speakers": 2},
    ):
        assert slots.assign(**options, **bounds).tolist() == free, bounds
    # one who talks in overlap only, and is the most probable one nowhere
    x = np.zeros((600, 4))
    x[:200, 0] = x[200:400, 1] = x[400:, 2] = 1.0
    x[:60, 3] = 0.9
    beside = Slots([x], np.eye(4), np.array([1.0, 1.0, 1.0, 0.9]), 0.1 * x.sum(axis=0))
    for least in (1, 2, 3, 4):
        assert beside.assign(**options, min_speakers=least).tolist() == [0, 1, 2, 3]
    assert slots.assign(**options, max_speakers=1).tolist() == [0, 0, -1, -1, -1]
    asked = slots.assign(**options, min_speakers=3, max_speakers=3)
    assert asked[:2].tolist() == [0, 1] and asked.max() == 2
