"""The assignment, against trying all of them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.matching import assign, match_likes


def cheapest(cost: list[list[float]]) -> float:
    """Least total cost, by trying every one-to-one assignment."""
    rows, columns = len(cost), len(cost[0]) if cost else 0
    if rows > columns:
        cost = [list(column) for column in zip(*cost, strict=True)]
        rows, columns = columns, rows
    return min(
        sum(cost[row][column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(columns), rows)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_assign_is_the_cheapest(num_slots, num_likes, data):
    row = st.lists(st.floats(-10, 10), min_size=num_likes, max_size=num_likes)
    cost = data.draw(st.lists(row, min_size=num_slots, max_size=num_slots))
    slots, likes = assign(torch.tensor(cost, dtype=torch.float64))
    assert slots.dtype == likes.dtype == torch.int64
    assert len(slots) == len(likes) == min(num_slots, num_likes)
    assert slots.tolist() == sorted(set(slots.tolist()))
    assert len(set(likes.tolist())) == len(likes)
    total = sum(cost[s][k] for s, k in zip(slots.tolist(), likes.tolist(), strict=True))
    assert total == pytest.approx(cheapest(cost), abs=1e-9)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2)])
def test_assign_of_nothing(shape):
    slots, likes = assign(torch.zeros(shape))
    assert len(slots) == len(likes) == 0 and slots.dtype == likes.dtype == torch.int64


def test_assign_forbidden_pairs_and_bad_numbers():
    inf, nan = math.inf, math.nan
    slots, likes = assign(torch.tensor([[inf, 1.0], [5.0, 0.0]], requires_grad=True).half())
    assert (slots.tolist(), likes.tolist()) == ([0, 1], [1, 0])
    with pytest.raises(ValueError, match="no assignment"):
        assign(torch.tensor([[inf, 1.0], [inf, 0.0]]))
    with pytest.raises(ValueError, match="NaN or -inf in 1 of 2"):
        assign(torch.tensor([[nan, 1.0]]))
    with pytest.raises(ValueError, match="NaN or -inf"):
        assign(torch.tensor([[-inf, 1.0]]))
    with pytest.raises(ValueError, match="one file a call"):
        assign(torch.zeros(2, 3, 4))


def batch(num_files=3, num_slots=4, num_speakers=7, seed=0):
    torch.manual_seed(seed)
    confidence = torch.rand(num_files, num_slots)
    logits = 3 * torch.randn(num_files, num_slots, num_speakers)
    return confidence, torch.log_softmax(logits, -1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(-1, 6), max_size=9), st.randoms())
def test_match_likes_is_the_cheapest_in_any_order(seed, likes, random):
    confidence, log_posteriors = batch(1, seed=seed)
    ((slots, speakers),) = match_likes(confidence, log_posteriors, [torch.tensor(likes).long()])
    wanted = sorted(set(likes) - {-1})
    cost = -(confidence.log()[0, :, None] + log_posteriors[0][:, wanted])
    total = -(confidence[0, slots].log() + log_posteriors[0, slots, speakers]).sum().item()
    assert len(slots) == min(4, len(wanted)) and set(speakers.tolist()) <= set(wanted)
    if wanted:
        assert total == pytest.approx(cheapest(cost.tolist()), rel=1e-5)
    # shuffled slots and likes give the same pairs of slot and speaker
    shuffled = likes.copy()
    random.shuffle(shuffled)
    order = torch.randperm(4)
    ((again, names),) = match_likes(
        confidence[:, order], log_posteriors[:, order], [torch.tensor(shuffled).long()]
    )
    pairs = set(zip(order[again].tolist(), names.tolist(), strict=True))
    assert pairs == set(zip(slots.tolist(), speakers.tolist(), strict=True))


def test_match_likes_batch_equals_single_files():
    confidence, log_posteriors = batch(5)
    likes = [torch.tensor([3, 1]), None, torch.tensor([]), torch.arange(7), torch.tensor([-1, 6])]
    pairs = match_likes(confidence, log_posteriors, likes)
    assert [len(slots) for slots, _ in pairs] == [2, 0, 0, 4, 1]
    for b, pair in enumerate(pairs):
        (single,) = match_likes(confidence[b : b + 1], log_posteriors[b : b + 1], likes[b : b + 1])
        assert torch.equal(pair[0], single[0]) and torch.equal(pair[1], single[1])


def test_match_likes_all_slots_silent_or_half_precision():
    confidence, log_posteriors = batch(1)
    likes = [torch.tensor([0, 5])]
    assert len(match_likes(confidence * 0, log_posteriors, likes)[0][0]) == 2
    single = match_likes(confidence.half(), log_posteriors.half(), likes)
    assert torch.equal(single[0][0], match_likes(confidence, log_posteriors, likes)[0][0])


def test_match_likes_errors():
    confidence, log_posteriors = batch(2)
    likes = [torch.tensor([0]), torch.tensor([1])]
    with pytest.raises(ValueError, match="file 1 .* 7 training speakers"):
        match_likes(confidence, log_posteriors, [likes[0], torch.tensor([7])])
    with pytest.raises(ValueError, match="file 0 .* training speakers"):
        match_likes(confidence, log_posteriors, [torch.tensor([-2]), likes[1]])
    with pytest.raises(ValueError, match="integer speaker indices"):
        match_likes(confidence, log_posteriors, [torch.tensor([0.5]), likes[1]])
    with pytest.raises(ValueError, match="no file in the batch"):
        match_likes(confidence[:0], log_posteriors[:0], [])
    with pytest.raises(ValueError, match="must agree"):
        match_likes(confidence, log_posteriors, likes[:1])
    with pytest.raises(ValueError, match="must agree"):
        match_likes(confidence[:, :2], log_posteriors, likes)
    with pytest.raises(ValueError, match=r"need \(batch, slot\)"):
        match_likes(confidence[0], log_posteriors[0], likes)
    confidence[1, 2] = math.nan
    with pytest.raises(ValueError, match="file 1 of the batch: cost is NaN"):
        match_likes(confidence, log_posteriors, likes)
