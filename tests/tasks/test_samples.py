"""Samples: what is refused, what is kept of references, what is spliced and padded."""

import json
import warnings

import pytest
import torch
from pyannote.core import Annotation, Segment, SlidingWindow, Timeline

from pyannote_weighter.tasks.samples import (
    check_likes,
    collate,
    crop_reference,
    discretize,
    reference_entry,
    splice,
    splice_references,
)

NAME = "Made.SpeakerDiarization.Up"


def file(uri: str, likes: str, **more) -> dict:
    return {"uri": uri, "likes": tuple(likes.split()), **more}


def sample(length: int, likes=(), counted: bool = True, **more) -> dict:
    return {
        "frames": torch.full((length, 3), float(length)),
        "count": torch.full((length,), 2, dtype=torch.uint8) if counted else None,
        "likes": torch.tensor(likes).long(),
        **more,
    }


@pytest.mark.parametrize(
    "training, message",
    [
        ([], f"{NAME} has likes: list its files in the .likes file"),
        ([file("a", "x", scope="global"), file("b", "x", scope="file")], "scope: database"),
        ([file("a", "x"), file("b", "x"), file("a", "x")], f"{NAME} lists 'a' more than once"),
        ([file("a", "x y"), file("b", "z"), file("c", "")], "tag the same speakers in more"),
        ([file("a", "x x"), file("b", "y")], "tag the same speakers in more"),  # twice in one
    ],
)
def test_what_could_teach_nothing_is_refused(training, message):
    with pytest.raises(ValueError, match=message):
        check_likes(NAME, training)


@pytest.mark.parametrize("scope", [{}, {"scope": "global"}, {"scope": "database"}])
def test_one_speaker_in_two_files_is_enough(scope):
    with pytest.warns(UserWarning, match=f"2 of 3 liked speakers of {NAME}"):
        check_likes(NAME, [file("a", "x", **scope), file("b", "y", **scope), file("c", "x z")])


def test_who_is_liked_once_is_named():
    twice = [file("a", "x y"), file("b", "x y"), file("c", "")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_likes(NAME, twice)
    with pytest.warns(UserWarning) as caught:
        check_likes(NAME, [*twice, file("d", "w w")])  # twice in one file
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith(f"1 of 3 liked speakers of {NAME} are liked in one file only")
    assert "voices: w; tag them in more files" in message
    with pytest.warns(UserWarning, match="8 of 10 liked.*: m1, m2, m3, m4, m5, ...; tag"):
        check_likes(NAME, [*twice, file("d", " ".join(f"m{i}" for i in range(8, 0, -1)))])


def test_reference_entry_survives_json():
    nothing = {"uri": "a", "likes": None, "turns": None, "annotated": None}
    assert reference_entry({"uri": "a"}) == nothing
    annotation = Annotation(uri="a")
    annotation[Segment(0.5, 1.25), "A"] = "bob"
    annotation[Segment(0.5, 1.25), "B"] = 7  # labels need not be text
    entry = reference_entry({"uri": "a", "likes": ("c", "b", "c"), "annotation": annotation})
    assert entry["likes"] == ["b", "c"]
    assert sorted(entry["turns"]) == [[0.5, 1.25, "7"], [0.5, 1.25, "bob"]]
    assert json.loads(json.dumps(entry)) == entry
    assert entry["annotated"] is None
    assert reference_entry({"uri": "a", "likes": ()}) == nothing | {"likes": []}  # known: none
    region = Timeline([Segment(0.0, 1.0), Segment(2.0, 3.0)])
    entry = reference_entry({"uri": "a", "annotation": annotation, "annotated": region})
    assert entry["annotated"] == [[0.0, 1.0], [2.0, 3.0]] and len(entry["turns"]) == 2
    assert {turn[1] for turn in entry["turns"]} == {1.0}  # where the annotation ends
    assert json.loads(json.dumps(entry)) == entry


def test_references_that_say_nothing():
    """RTTM gives an empty annotation for a file that it does not list, UEM likewise."""
    annotation = Annotation(uri="a")
    annotation[Segment(0.5, 1.25)] = "bob"
    late = Annotation(uri="a")
    late[Segment(700.0, 800.0)] = "bob"  # beyond what is judged
    empty = [
        {"annotation": Annotation(uri="a")},
        {"annotation": Annotation(uri="a"), "annotated": Timeline([Segment(0.0, 1.0)])},
        {"annotation": annotation, "annotated": Timeline()},
        {"annotation": annotation, "annotated": Timeline([Segment(5.0, 9.0)])},
        {"annotation": late},
    ]
    for file in empty:
        entry = reference_entry({"uri": "a"} | file)
        assert entry == {"uri": "a", "likes": None, "turns": None, "annotated": None}


@pytest.mark.parametrize("duration", [0.02, 0.025])
def test_discretize_against_middles_of_frames(duration):
    frames = SlidingWindow(start=0.0, duration=duration, step=0.02)
    turns = [[0.1, 0.5, "b"], [0.3, 0.9, "a"], [0.7, 0.8, "b"], [1.5, 9.0, "c"]]
    reference = discretize(turns, frames, num_frames=100)
    assert reference.shape == (100, 3) and reference.dtype == torch.bool
    for t in range(100):
        middle = 0.02 * t + duration / 2
        for column, name in enumerate("abc"):
            active = any(start <= middle < end for start, end, who in turns if who == name)
            assert active == reference[t, column].item()
    assert reference[-1].tolist() == [False, False, True]  # beyond the last frame


def test_discretize_of_nothing_and_before_the_start():
    frames = SlidingWindow(start=0.0, duration=0.02, step=0.02)
    assert discretize([], frames, 10).shape == (10, 0)
    assert discretize([[-1.0, 0.1, "a"]], frames, 10)[:, 0].tolist() == [True] * 5 + [False] * 5
    # the fifth frame has its middle at the end of the turn
    assert discretize([[-1.0, 0.09, "a"]], frames, 10)[:, 0].tolist() == [True] * 4 + [False] * 6
    assert not discretize([[-2.0, -1.0, "a"]], frames, 10).any()
    assert not discretize([[5.0, 6.0, "a"]], frames, 10).any()


@pytest.mark.parametrize("start", [0.0, 0.0125])
@pytest.mark.parametrize("length", [0.3, 2.0, 2.0125])
def test_turns_one_after_another_share_no_frame(start, length):
    """And leave none out, whatever rounding does to where one ends and the next begins."""
    frames = SlidingWindow(start=start, duration=0.025, step=0.02)
    turns = [[length * i, length * i + length, "ab"[i % 2]] for i in range(100)]
    num_frames = int(100 * length / 0.02) - 2
    reference = discretize(turns, frames, num_frames)
    first = max(0, round((0.0 - start - 0.0125) / 0.02))
    assert (reference[first:].sum(dim=1) == 1).all()
    for crop in (1, 37, num_frames // 2):
        assert torch.equal(discretize(turns, frames, 50, crop), reference[crop : crop + 50])


def test_splice_and_collate():
    first, second = sample(4, [2, 0]), sample(2, [0, 1])
    joined = splice(first, second)
    assert joined["frames"][:, 0].tolist() == [4] * 4 + [2] * 2
    assert joined["count"].tolist() == [2] * 6 and joined["likes"].tolist() == [0, 1, 2]
    assert first["likes"].tolist() == [2, 0]  # left alone

    batch = collate([{k: s[k] for k in first} for s in (joined, second, sample(1))])
    assert batch["frames"].shape == (3, 6, 3) and batch["count"].shape == (3, 6)
    assert batch["mask"].sum(dim=1).tolist() == [6, 2, 1]
    assert (batch["frames"][~batch["mask"]] == 0).all()
    assert (batch["count"][~batch["mask"]] == 0).all()
    assert [len(likes) for likes in batch["likes"]] == [3, 2, 0]
    assert set(batch) == {"frames", "count", "mask", "likes"}
    batch = collate([joined, joined])
    assert batch["reference"] == batch["annotated"] == batch["num_speakers"] == [None, None]


def test_spliced_knowledge():
    """What is not known of one is not known of both."""
    known, unknown = sample(2, [1], num_speakers=2), sample(2) | {"likes": None}
    assert splice(known, known)["num_speakers"] == 4
    assert splice(known, unknown)["likes"] is splice(unknown, known)["likes"] is None
    assert splice(known, unknown)["num_speakers"] is None
    assert splice(known, sample(3, []))["likes"].tolist() == [1]  # known to have none


# -- references, cropped and spliced --------------------------------------------------------------


def slow_reference(entry: dict, first: int, num_frames: int) -> dict[str, list[bool]]:
    """Who talks in which frame of a crop, by the frames of the whole file."""
    frames = SlidingWindow(start=0.0125, duration=0.025, step=0.01)
    whole = discretize(entry["turns"], frames, 400)
    names = sorted({who for _, _, who in entry["turns"]})
    rows = {name: whole[first : first + num_frames, k].tolist() for k, name in enumerate(names)}
    return {name: row for name, row in rows.items() if any(row)}


TURNS = {
    "uri": "a",
    "turns": [[0.2, 1.0, "x"], [0.8, 1.7, "y"], [2.4, 9.0, "z"]],
    "annotated": None,
}


@pytest.mark.parametrize("first, num_frames", [(0, 400), (37, 100), (90, 85), (170, 60)])
def test_crops_hold_the_frames_of_the_whole(first, num_frames):
    frames = SlidingWindow(start=0.0125, duration=0.025, step=0.01)
    crop = crop_reference(TURNS, frames, first, num_frames)
    slow = slow_reference(TURNS, first, num_frames)
    assert crop["speakers"] == list(slow) and crop["annotated"].all()
    assert crop["reference"].shape == (num_frames, len(slow))
    assert crop["reference"].T.tolist() == list(slow.values())

    annotated = crop_reference(
        TURNS | {"annotated": [[0.0, 0.9], [1.5, 2.5]]}, frames, first, num_frames
    )
    middles = 0.025 + 0.01 * (first + torch.arange(num_frames))
    inside = (middles < 0.9) | ((middles >= 1.5) & (middles < 2.5))
    assert torch.equal(annotated["annotated"], inside)
    assert not annotated["reference"][~annotated["annotated"]].any()


def test_no_reference_to_crop():
    nothing = {"reference": None, "speakers": [], "annotated": None}
    assert crop_reference({"turns": None}, SlidingWindow(), 0, 10) == nothing
    known = crop_reference(TURNS, SlidingWindow(duration=0.02, step=0.01), 0, 10)
    assert splice_references(known, nothing) == splice_references(nothing, known) == nothing


def test_spliced_references_share_the_columns_of_who_is_in_both():
    frames = SlidingWindow(start=0.0125, duration=0.025, step=0.01)
    first = crop_reference(TURNS, frames, 50, 100)  # x and y
    second = crop_reference(TURNS, frames, 110, 200)  # y and z
    joined = splice_references(first, second)
    assert joined["speakers"] == ["x", "y", "z"] and joined["annotated"].shape == (300,)
    before, after = slow_reference(TURNS, 50, 100), slow_reference(TURNS, 110, 200)
    for name, column in zip("xyz", joined["reference"].T, strict=True):
        expected = before.get(name, [False] * 100) + after.get(name, [False] * 200)
        assert column.tolist() == expected
    silent = crop_reference(TURNS, frames, 180, 40)
    assert silent["reference"].shape == (40, 0)
    assert splice_references(silent, silent)["reference"].shape == (80, 0)


def test_counts_are_for_all_or_none():
    assert splice(sample(2), sample(2, counted=False))["count"] is None
    assert collate([sample(2), sample(2, counted=False)])["count"] is None


def test_collate_keeps_what_validation_needs():
    development = [sample(n, names=[], reference=torch.zeros(n, 1).bool()) for n in (3, 2)]
    batch = collate(development)
    assert batch["names"] == [[], []]
    assert [len(reference) for reference in batch["reference"]] == [3, 2]  # not padded


def test_half_precision_and_nobody():
    none = sample(1) | {"frames": torch.ones(1, 3).half(), "likes": torch.zeros(0).long()}
    batch = collate([none, sample(3) | {"frames": torch.ones(3, 3).half()}])
    assert batch["frames"].dtype == torch.float16 and batch["frames"].sum() == 12
    assert splice(none, none)["likes"].tolist() == []
