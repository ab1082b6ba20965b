"""Likes that are dropped, and likes that become wrong."""

import pytest

from pyannote_weighter.database import corrupt_likes, drop_likes

NAMES = [f"n{k}" for k in range(12)]
LIKES = {f"f{i}": tuple(NAMES[(i + j) % 12] for j in range(4)) for i in range(50)}
LIKES |= {"empty": (), "unknown": None}


def pairs(likes) -> set:
    return {(uri, name) for uri, names in likes.items() for name in names or ()}


@pytest.mark.parametrize("kept", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_share_of_likes_is_kept(kept):
    dropped = drop_likes(LIKES, kept, seed=1)
    assert pairs(dropped) <= pairs(LIKES) and len(pairs(dropped)) == 200 * kept
    assert list(dropped) == list(LIKES)
    assert dropped["empty"] == () and dropped["unknown"] is None
    assert pairs(drop_likes(LIKES, kept / 2, seed=1)) <= pairs(dropped)
    if 0 < kept < 1:
        assert drop_likes(LIKES, kept, seed=2) != dropped == drop_likes(LIKES, kept, seed=1)


@pytest.mark.parametrize("wrong", [0.0, 0.05, 0.1, 0.2])
def test_a_share_of_likes_becomes_wrong(wrong):
    corrupted = corrupt_likes(LIKES, wrong, seed=1)
    assert len(pairs(corrupted) - pairs(LIKES)) == round(200 * wrong)
    for uri, names in corrupted.items():  # as many as there were, nobody twice
        assert (names is None) == (LIKES[uri] is None)
        assert len(set(names or ())) == len(LIKES[uri] or ())
    assert corrupted == corrupt_likes(LIKES, wrong, seed=1)


def test_who_is_present_is_not_wrong():
    present = {f"f{i}": [NAMES[(i + j) % 12] for j in range(8)] for i in range(50)}
    corrupted = corrupt_likes(LIKES, 0.2, present=present)
    assert not (pairs(corrupted) - pairs(LIKES)) & pairs(present)
    with pytest.raises(ValueError, match="f.*: everybody who is liked anywhere is in it"):
        corrupt_likes(LIKES, 0.1, present={uri: NAMES for uri in LIKES})


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_are_shares(share):
    with pytest.raises(ValueError, match="from 0 to 1"):
        drop_likes(LIKES, share)
    with pytest.raises(ValueError, match="from 0 to 1"):
        corrupt_likes(LIKES, share)
