import numpy as np
import pytest
from pyannote.core import SlidingWindow

from pyannote_weighter.likeness import Likeness, LocalSpeakers, local_evidence, local_voices

FRAMES = SlidingWindow(duration=0.025, step=0.02)
LOCAL = SlidingWindow(duration=0.062, step=0.017)


def plain_evidence(active, windows, weightings, N):
    """Count pair by pair, window by window, frame by frame; `active` is (W, F, L)."""
    bounds = np.cumsum([0] + [len(part) for part in weightings])
    M = N * len(weightings)
    same, different = np.zeros((M, M)), np.zeros((M, M))
    share = min(1.0, windows.step / windows.duration)
    for w, window in enumerate(active):
        held = np.zeros((window.shape[1], M))
        for f in range(3, len(window), 6):  # every 6 x 17 ms
            (speakers,) = np.nonzero(window[f])
            time = windows.start + w * windows.step + 0.5 * 0.062 + f * 0.017
            t = round((time - 0.0125) / 0.02)
            if len(speakers) == 1 and 0 <= t < bounds[-1]:
                part = np.searchsorted(bounds, t, side="right") - 1
                held[speakers[0], N * part : N * part + N] += weightings[part][t - bounds[part]]
        total = held.sum(axis=0)
        for n in range(M):
            for m in range(M):
                if total[n] > 0 and total[m] > 0:
                    agreement = held[:, n] / total[n] @ (held[:, m] / total[m])
                    seconds = min(total[n], total[m]) * 6 * 0.017 * share
                    same[n, m] += agreement * seconds
                    different[n, m] += (1 - agreement) * seconds
    return same, different


@pytest.mark.parametrize(
    "step, num_windows", [(0.5, 15), (2.0, 4), (0.75, 1), (0.75, 6), (0.3, 9)]
)
def test_voices_are_those_of_the_nearest_window_slow_and_plain(step, num_windows):
    rng = np.random.default_rng(0)
    windows = SlidingWindow(duration=2.0, step=step)
    active = rng.random((num_windows, 115, 3)) < 0.3
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, LOCAL)
    length = round(((num_windows - 1) * step + 2.0) / 0.02) + 30  # beyond the last window
    voices = local_voices(local, FRAMES, length)
    apart = max(k for k in range(1, 9) if k * step <= 2.0)  # no gap between windows
    chosen = sorted({*range(0, num_windows, apart), num_windows - 1})
    said = {}
    for t in range(length):
        time = 0.02 * t + 0.0125
        w = min(chosen, key=lambda w: abs(w * step + 1.0 - time))
        f = min(max(round((time - w * step - 0.031) / 0.017), 0), 114)
        said.setdefault(voices[t], set()).add((w, tuple(active[w, f])))
    assert all(len(meant) == 1 for meant in said.values())
    assert len(set.union(*said.values())) == len(said) > 3 * len(chosen)


def test_voices_without_windows():
    nothing = LocalSpeakers(
        np.zeros((0, 115), dtype=np.uint8), SlidingWindow(duration=2.0, step=0.5), LOCAL
    )
    assert not local_voices(nothing, FRAMES, 7).any()
    assert local_voices(nothing, FRAMES, 0).shape == (0,)


@pytest.mark.parametrize(
    "lengths", [[400], [150, 250], [199, 201], [130, 40, 230], [130, 20, 30, 220]]
)
def test_evidence_is_that_of_a_plain_count(lengths):
    rng = np.random.default_rng(0)
    windows = SlidingWindow(duration=2.0, step=0.5)
    active = rng.random((15, 115, 3)) < 0.4
    weightings = [rng.random((length, 2)).astype(np.float32) ** 4 for length in lengths]
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, LOCAL)
    evidence = local_evidence(local, weightings, FRAMES)
    same, different = plain_evidence(active, windows, weightings, 2)
    np.testing.assert_allclose(evidence.same, same, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(evidence.different, different, rtol=1e-4, atol=1e-6)


def test_slots_without_windows():
    windows = SlidingWindow(duration=2.0, step=0.5)
    local = LocalSpeakers(np.zeros((1, 115), dtype=np.uint8), windows, LOCAL)
    with pytest.raises(ValueError, match="weightings are of no window: give"):
        local_evidence(local, [], FRAMES)


def test_two_slots_on_one_local_speaker_and_one_on_another():
    windows = SlidingWindow(duration=10.0, step=10.0)
    active = np.zeros((1, 588, 3))
    active[0, :300, 0] = active[0, 300:, 2] = 1
    x = np.zeros((500, 3), dtype=np.float32)
    x[:120, 0] = x[120:250, 1] = x[260:, 2] = 1
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, LOCAL)
    same, different = local_evidence(local, [x], FRAMES)
    assert same[0, 1] == pytest.approx(2.4, abs=0.2) and different[0, 1] == 0
    assert different[0, 2] == pytest.approx(2.4, abs=0.2) and same[0, 2] == 0
    np.testing.assert_array_equal(same, same.T)


@pytest.mark.parametrize("active", [np.zeros((2, 588, 3)), np.ones((2, 588, 3))])
def test_silence_and_overlap_say_nothing(active):
    windows = SlidingWindow(duration=10.0, step=5.0)
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, LOCAL)
    x = np.ones((750, 4), dtype=np.float32)
    for values in local_evidence(local, [x], FRAMES):
        assert values.shape == (4, 4) and not values.any()


def test_windows_beyond_the_recording_and_none_at_all():
    windows = SlidingWindow(duration=10.0, step=5.0)
    active = np.ones((4, 588, 1))
    x = np.ones((30, 2), dtype=np.float32)  # 0.6 s
    local = LocalSpeakers(LocalSpeakers.pack(active), windows, LOCAL)
    same, _ = local_evidence(local, [x], FRAMES)
    assert same[0, 1] == pytest.approx(0.5 * 0.6, abs=0.06)
    none = LocalSpeakers(np.zeros((0, 588), np.uint8), windows, LOCAL)
    assert not local_evidence(none, [x], FRAMES).same.any()


def test_pack_keeps_eight_speakers():
    active = np.random.default_rng(0).random((2, 5, 10)) < 0.5
    bits = LocalSpeakers.pack(active)
    assert bits.dtype == np.uint8 and bits.shape == (2, 5)
    unpacked = np.unpackbits(bits[..., None], axis=-1, bitorder="little")
    np.testing.assert_array_equal(unpacked, active[..., :8])


def log_odds(together=True, **changes):
    """Of a usual pair of groups, but for what is changed."""
    usual = {"cosine": 0.5, "same": 0.0, "different": 0.0, "seconds": 5.0, "other_seconds": 9.0}
    p = Likeness()(**{**usual, **changes}, together=together)
    return np.log(p / (1 - p))


@pytest.mark.parametrize("together", [True, False])
def test_likeness_follows_every_kind_of_evidence(together):
    likeness = Likeness()
    usual = log_odds(together)
    cosine, local = (likeness.cosine, likeness.local) if together else (likeness.cosine_apart, 0.0)
    assert log_odds(together, cosine=0.6) == pytest.approx(usual + 0.1 * cosine)
    assert log_odds(together, same=2.7) == pytest.approx(usual + 0.9 * local)
    assert log_odds(together, different=2.7) == pytest.approx(usual - 0.9 * local)
    assert log_odds(together, seconds=9.0, other_seconds=5.0) == pytest.approx(usual)
    assert log_odds(together, seconds=1.0) > usual  # short ones are alike less: it takes less


@pytest.mark.parametrize("together", [True, False])
def test_offset_is_taken_from_cosines(together):
    given = {"same": 0.5, "different": 0.1, "seconds": 3.0, "other_seconds": 1.0}
    higher = Likeness(offset=0.12)(cosine=0.62, **given, together=together)
    assert higher == pytest.approx(Likeness()(cosine=0.5, **given, together=together))


def test_pairs_are_judged_one_by_one():
    seconds, together = np.array([[1.0, 2.0]]), np.array([[True, False]])
    found = Likeness()(np.array([[0.6, 0.6]]), 0.5, 0.1, 3.0, seconds, together)
    assert found.shape == (1, 2)
    assert found[0, 0] == Likeness()(0.6, 0.5, 0.1, 3.0, 1.0)
    assert found[0, 1] == Likeness()(0.6, 0.5, 0.1, 3.0, 2.0, False)


@pytest.mark.parametrize("seconds", [20.0, 100.0, 600.0])
def test_one_voice_in_distant_windows_is_one_person_however_long(seconds):
    """It used not to be: what was fitted on short files said that long ones are never alike."""
    likeness = Likeness()
    assert likeness(0.85, 0.0, 0.0, seconds, seconds, False) > 0.5
    assert likeness(0.95, 0.0, 0.0, seconds, seconds, False) > 0.85
    assert likeness(0.4, 0.0, 0.0, seconds, seconds, False) < 0.2


def test_seconds_say_less_in_long_recordings():
    likeness = Likeness()
    assert (
        likeness.of_recording(np.zeros(1)) == likeness.of_recording(np.full(1, 75.0)) == likeness
    )
    longest = [
        likeness.of_recording(np.full(3, seconds / 3)).longest
        for seconds in (75.0, 76.0, 150.0, 200.0, 300.0, 1e5)
    ]
    assert longest == sorted(longest, reverse=True)
    assert longest[2] == pytest.approx(15.0) and longest[-2:] == [8.0, 8.0]
    alike = {"cosine": 0.6, "same": 1.0, "different": 0.0, "other_seconds": 200.0}
    hour = likeness.of_recording(np.full(4, 500.0))
    assert likeness(**alike, seconds=100.0) < 0.1 < 0.5 < hour(**alike, seconds=100.0)
    # those with little speech are judged as ever
    short = {"cosine": 0.6, "same": 0.0, "different": 1.0, "seconds": 2.0, "other_seconds": 5.0}
    assert likeness(**short) == hour(**short)
    assert Likeness(longest=3.0).of_recording(np.full(2, 1e5)).longest == 3.0  # never more
    # of many people each says little
    assert likeness.of_recording(np.full(50, 20.0)) == likeness
    assert likeness.of_recording(np.r_[np.full(50, 20.0), 9000.0]).longest == 8.0
