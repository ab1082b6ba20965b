"""Samples: what is refused, what is kept of references, what is spliced and padded."""

import json
import warnings

import pytest
import torch
from pyannote.core import Annotation, Segment, SlidingWindow

from pyannote_weighter.tasks.samples import (
    check_likes,
    collate,
    discretize,
    reference_entry,
    splice,
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
    assert reference_entry({"uri": "a"}) == {"uri": "a", "likes": None, "turns": None}
    annotation = Annotation(uri="a")
    annotation[Segment(0.5, 1.25), "A"] = "bob"
    annotation[Segment(0.5, 1.25), "B"] = 7  # labels need not be text
    entry = reference_entry({"uri": "a", "likes": ("c", "b", "c"), "annotation": annotation})
    assert entry["likes"] == ["b", "c"]
    assert sorted(entry["turns"]) == [[0.5, 1.25, "7"], [0.5, 1.25, "bob"]]
    assert json.loads(json.dumps(entry)) == entry
    empty = reference_entry({"uri": "a", "likes": (), "annotation": Annotation()})
    assert empty == {"uri": "a", "likes": [], "turns": []}  # known to have none


@pytest.mark.parametrize("duration", [0.02, 0.025])
def test_discretize_against_middles_of_frames(duration):
    frames = SlidingWindow(start=0.0, duration=duration, step=0.02)
    turns = [[0.1, 0.5, "b"], [0.3, 0.9, "a"], [0.7, 0.8, "b"], [1.5, 9.0, "c"]]
    reference = discretize(turns, frames, num_frames=100)
    assert reference.shape == (100, 3) and reference.dtype == torch.bool
    wrong = 0
    for t in range(100):
        middle = 0.02 * t + duration / 2
        for column, name in enumerate("abc"):
            active = any(start <= middle < end for start, end, who in turns if who == name)
            wrong += active != reference[t, column].item()
    assert wrong <= 2 * len(turns)  # at most the frames at the edges
    assert reference[-1].tolist() == [False, False, True]  # beyond the last frame


def test_discretize_of_nothing_and_before_the_start():
    frames = SlidingWindow(start=0.0, duration=0.02, step=0.02)
    assert discretize([], frames, 10).shape == (10, 0)
    assert discretize([[-1.0, 0.09, "a"]], frames, 10)[:, 0].tolist() == [True] * 5 + [False] * 5
    assert not discretize([[5.0, 6.0, "a"]], frames, 10).any()


def test_splice_and_collate():
    first, second = sample(4, [2, 0]), sample(2, [0, 1])
    joined = splice(first, second)
    assert joined["frames"][:, 0].tolist() == [4] * 4 + [2] * 2
    assert joined["count"].tolist() == [2] * 6 and joined["likes"].tolist() == [0, 1, 2]
    assert first["likes"].tolist() == [2, 0]  # left alone

    batch = collate([joined, second, sample(1)])
    assert batch["frames"].shape == (3, 6, 3) and batch["count"].shape == (3, 6)
    assert batch["mask"].sum(dim=1).tolist() == [6, 2, 1]
    assert (batch["frames"][~batch["mask"]] == 0).all()
    assert (batch["count"][~batch["mask"]] == 0).all()
    assert [len(likes) for likes in batch["likes"]] == [3, 2, 0]
    assert set(batch) == {"frames", "count", "mask", "likes"}


def test_counts_are_for_all_or_none():
    assert splice(sample(2), sample(2, counted=False))["count"] is None
    assert collate([sample(2), sample(2, counted=False)])["count"] is None


def test_collate_keeps_what_validation_needs():
    development = [sample(n, names=[], reference=torch.zeros(n, 1).bool()) for n in (3, 2)]
    batch = collate(development)
    assert batch["names"] == [[], []]
    assert [len(reference) for reference in batch["reference"]] == [3, 2]  # not padded
