import numpy as np
import pytest
from pyannote.core import Annotation, Segment

from pyannote_weighter.simulation import choose_excerpt, read_turns, split_turns

LINE = "SPEAKER {} 1 {} {} <NA> <NA> {} <NA> <NA>\n"


def test_read_turns(tmp_path):
    (tmp_path / "a.rttm").write_text(
        LINE.format("a", 5, 2, "x")
        + LINE.format("a", 6, 3, "x")  # overlaps with the speaker's own turn: one turn
        + LINE.format("a", 0, 1, "y")
        + LINE.format("a", 3, 0, "y")
        + "\nSPKR-INFO ignored\n"
    )
    (tmp_path / "b.rttm").write_text(LINE.format("b", 0, 1, "x"))
    (one,) = read_turns([tmp_path / "a.rttm"])
    assert one.uri == "a" and one.num_speakers == 2 and one.duration == 9.0
    np.testing.assert_array_equal(one.starts, [0, 5])
    np.testing.assert_array_equal(one.ends, [1, 9])
    assert one.speakers[0] != one.speakers[1]
    assert [t.uri for t in read_turns(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("line", ["SPEAKER a 1 zero 1 <NA> <NA> x", "SPEAKER a 1 0 1"])
def test_bad_lines_are_named(tmp_path, line):
    (tmp_path / "a.rttm").write_text(LINE.format("a", 5, 2, "x") + line + "\n")
    with pytest.raises(ValueError, match=r"a\.rttm:2: expected"):
        read_turns(tmp_path / "a.rttm")


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_turns(tmp_path / "absent")
    with pytest.raises(ValueError, match="no turns"):
        read_turns(tmp_path)


@pytest.mark.parametrize("num_speakers", [1, 2, 4, 6])
def test_excerpts_are_cut_from_a_source(turns, num_speakers):
    rng = np.random.default_rng(num_speakers)
    longest = {1: 4.0, 2: 8.0, 4: 14.0, 6: 30.0}[num_speakers]
    for _ in range(20):
        duration, excerpt = choose_excerpt(turns, rng, (3.0, longest), num_speakers, 1.0)
        assert 3.0 <= duration <= longest
        assert {speaker for *_, speaker in excerpt} == set(range(num_speakers))
        firsts = [speaker for *_, speaker in excerpt]
        assert sorted(set(firsts), key=firsts.index) == list(range(num_speakers))
        for speaker in range(num_speakers):
            spoken = sum(end - start for start, end, who in excerpt if who == speaker)
            assert spoken >= 1.0
        assert all(0.0 <= start < end <= duration for start, end, _ in excerpt)


def test_excerpt_like_a_crop_of_the_annotation(turns):
    annotation = Annotation()
    for start, end, speaker in zip(turns[0].starts, turns[0].ends, turns[0].speakers, strict=True):
        annotation[Segment(start, end), annotation.new_track(Segment(start, end))] = int(speaker)
    duration, excerpt = choose_excerpt(
        turns[:1], np.random.default_rng(0), (60.0, 60.0), 6, min_speech=0.0
    )
    lengths = sorted(round(end - start, 6) for start, end, _ in excerpt)
    # the first turn that is whole tells where the excerpt was cut
    whole = next(turn for turn in excerpt if turn[0] > 0.0)
    matches = []
    for start, end in zip(turns[0].starts, turns[0].ends, strict=True):
        if abs((end - start) - (whole[1] - whole[0])) < 1e-6:
            offset = start - whole[0]
            crop = annotation.crop(Segment(offset, offset + duration))
            expected = sorted(round(s.duration, 6) for s, _ in crop.itertracks())
            matches.append([x for x in expected if x >= 0.1] == lengths)
    assert any(matches)


def test_no_such_excerpt(turns):
    with pytest.raises(ValueError, match="7 speakers"):
        choose_excerpt(turns, np.random.default_rng(0), (60.0, 60.0), 7)
    with pytest.raises(ValueError, match="longer durations"):
        choose_excerpt(turns, np.random.default_rng(0), (3.0, 3.0), 6, attempts=50)
    with pytest.raises(ValueError, match="no excerpt"):
        choose_excerpt(turns, np.random.default_rng(0), (900.0, 900.0), 2)


def test_recordings_that_are_exactly_as_long(turns):
    (longest,) = sorted(turns, key=lambda turn_taking: turn_taking.duration)[-1:]
    length = longest.duration
    rng = np.random.default_rng(0)
    seconds, excerpt = choose_excerpt([longest], rng, (length, length), longest.num_speakers, 0.0)
    assert seconds == length and len(excerpt) == len(longest.starts)


def test_split_by_recording(turns):
    subsets = split_turns(turns, {"train": 0.5, "test": 0.5}, seed=0)
    assert {t.uri for t in subsets["train"]} ^ {t.uri for t in subsets["test"]} == {"one", "two"}
    with pytest.raises(ValueError, match="same uri"):
        split_turns([*turns, turns[0]], {"train": 1.0}, seed=0)


def test_real_timings(speech_data):
    turns = read_turns([speech_data / "turns" / "voxconverse-dev"])
    assert len(turns) == 216
    rng = np.random.default_rng(0)
    for num_speakers in (2, 6):
        duration, _ = choose_excerpt(turns, rng, (60.0, 120.0), num_speakers)
        assert 60.0 <= duration <= 120.0
