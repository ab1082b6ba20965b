"""The assignments, against trying all of them and against plain Python."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.matching import assign, match_likes, sinkhorn, soft_match_likes


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


def plain_sinkhorn(cost, temperature, rounds=20000):
    """Rows and columns scaled in turn, one number at a time; a dummy takes what is left over."""
    num_slots, num_likes = len(cost), len(cost[0])
    rows = [1.0] * num_slots + [max(num_likes - num_slots, 0)]
    columns = [1.0] * num_likes + [max(num_slots - num_likes, 0)]
    kernel = [[math.exp(-c / temperature) for c in row] + [1.0] for row in cost]
    kernel.append([1.0] * (num_likes + 1))
    u, v = [1.0] * len(rows), [1.0] * len(columns)
    for _ in range(rounds):
        v = [columns[k] / sum(u[s] * kernel[s][k] for s in range(len(u))) for k in range(len(v))]
        before = u
        u = [rows[s] / sum(v[k] * kernel[s][k] for k in range(len(v))) for s in range(len(u))]
        if max(abs(a - b) for a, b in zip(u, before, strict=True)) < 1e-9 * max(u):
            break
    return [[u[s] * kernel[s][k] * v[k] for k in range(num_likes)] for s in range(num_slots)]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_sinkhorn_equals_plain_python(num_slots, num_likes, seed):
    torch.manual_seed(seed)
    cost = 3 * torch.rand(1, num_slots, num_likes, dtype=torch.float64)
    expected = torch.tensor(plain_sinkhorn(cost[0].tolist(), 0.7), dtype=torch.float64)
    shares = sinkhorn(cost, temperature=0.7, iterations=200)[0]
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(1e-3, 100),
    st.floats(0.1, 40),
    st.integers(0, 10**6),
)
def test_sinkhorn_properties(num_slots, num_likes, temperature, scale, seed):
    torch.manual_seed(seed)
    cost = scale * torch.rand(1, num_slots, num_likes, dtype=torch.float64)
    shares = sinkhorn(cost, temperature=temperature, iterations=100)[0]
    assert (shares >= 0).all()
    # what is exact is one-to-one, what is left to the iterations nearly so
    slack = 0.02
    if num_likes <= num_slots:
        torch.testing.assert_close(shares.sum(0), torch.ones(num_likes).double())
        assert (shares.sum(1) <= 1 + slack).all()
    else:
        assert (shares.sum(0) <= 1 + 1e-9).all()
        assert ((shares.sum(1) - 1).abs() <= slack).all()
    # no dearer than the cheapest assignment by more than the entropy is worth
    entropy = temperature * min(num_slots, num_likes) * math.log(max(num_slots, num_likes) + 1)
    total = (shares * cost[0]).sum().item()
    assert total <= cheapest(cost[0].tolist()) + entropy + slack * cost.sum().item()
    # slots and likes in another order; a like that costs more everywhere
    rows, columns = torch.randperm(num_slots), torch.randperm(num_likes)
    again = sinkhorn(cost[:, rows][:, :, columns], temperature=temperature, iterations=100)[0]
    torch.testing.assert_close(again, shares[rows][:, columns])
    if num_likes <= num_slots:
        dearer = cost + torch.rand(num_likes).double()
        more = sinkhorn(dearer, temperature=temperature, iterations=100)[0]
        torch.testing.assert_close(more, shares, rtol=0, atol=slack)


def test_sinkhorn_approaches_the_hungarian_assignment():
    torch.manual_seed(0)
    cost = 10 * torch.rand(20, 6, 4)
    hard = torch.zeros_like(cost)
    for b in range(20):
        hard[(b, *assign(cost[b]))] = 1
    distances = [
        (sinkhorn(cost, temperature=t) - hard).abs().amax((1, 2)).mean().item()
        for t in (10.0, 1.0, 0.1, 0.001)
    ]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.01 < distances[1]
    uniform = sinkhorn(cost, temperature=1e4)
    torch.testing.assert_close(uniform, torch.full_like(cost, 1 / 6), atol=1e-3, rtol=0)


def test_sinkhorn_settles_where_everybody_wants_the_same_slot():
    # both likes at home in slot 0, one of them more: at a fixed temperature this takes 1 / error
    cost = torch.tensor([[[0.0, 0.0], [40.0, 80.0]]])
    shares = sinkhorn(cost)
    torch.testing.assert_close(
        shares[0], torch.tensor([[0.0, 1.0], [1.0, 0.0]]), atol=5e-3, rtol=0
    )


def test_sinkhorn_gradient_of_the_least_value_is_the_shares():
    torch.manual_seed(0)
    cost, step = torch.rand(1, 3, 2, dtype=torch.float64), 1e-4

    def least(cost):
        q = sinkhorn(cost, temperature=0.5, iterations=200)
        spare = 1 - q.sum(-1)
        return (q * cost).sum() + 0.5 * (torch.xlogy(q, q).sum() + torch.xlogy(spare, spare).sum())

    shares = sinkhorn(cost, temperature=0.5, iterations=200)
    for s, k in itertools.product(range(3), range(2)):
        change = torch.zeros_like(cost)
        change[0, s, k] = step
        derivative = (least(cost + change) - least(cost - change)) / (2 * step)
        assert derivative.item() == pytest.approx(shares[0, s, k].item(), abs=1e-5)


def test_sinkhorn_of_padding_nothing_and_bad_numbers():
    torch.manual_seed(0)
    cost = torch.rand(4, 3, 5)
    cost[:, :, 4] = 1e30
    shares = sinkhorn(cost, torch.tensor([2, 0, 4, 3]))
    assert shares.isfinite().all()
    for b, number in enumerate([2, 0, 4, 3]):
        assert not shares[b, :, number:].any()
        single = sinkhorn(cost[b : b + 1, :, :number])[0]
        torch.testing.assert_close(shares[b, :, :number], single, atol=1e-4, rtol=0)
    assert sinkhorn(torch.zeros(2, 3, 0)).shape == (2, 3, 0)
    assert not sinkhorn(cost[:, :, :2].requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="finite one above 0"):
        sinkhorn(cost, temperature=0.0)
    with pytest.raises(ValueError, match="cost is not finite"):
        sinkhorn(cost * math.nan)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_sinkhorn_of_a_file_does_not_depend_on_the_others(temperature):
    torch.manual_seed(1)
    cost = torch.rand(3, 4, 3) * torch.tensor([3.0, 0.5, 300.0]).view(3, 1, 1)
    shares = sinkhorn(cost, temperature=temperature)
    for b in range(3):
        assert torch.equal(shares[b : b + 1], sinkhorn(cost[b : b + 1], temperature=temperature))


@pytest.mark.parametrize("temperature", ["x", None, math.nan, math.inf, -1.0, 1e-30])
def test_sinkhorn_temperatures_that_cannot_be(temperature):
    cost = torch.tensor([[[1.0, 2.5], [0.3, 8.7]]])
    with pytest.raises(ValueError, match=f"temperature is {temperature}.*choose a"):
        sinkhorn(cost, temperature=temperature)


def test_soft_match_likes():
    confidence, log_posteriors = batch(4)
    likes = [torch.tensor([3, 1, 3, -1]), None, torch.tensor([]), torch.arange(7)]
    shares = soft_match_likes(confidence.requires_grad_(), log_posteriors, likes)
    assert shares.shape == log_posteriors.shape and not shares.requires_grad
    assert not shares[1].any() and not shares[2].any()
    assert shares[0].sum(0).tolist() == pytest.approx([0, 1, 0, 1, 0, 0, 0])
    torch.testing.assert_close(shares[3].sum(1), torch.ones(4), atol=0.02, rtol=0)
    cold = soft_match_likes(confidence, log_posteriors, likes, temperature=1e-3)
    for b, pairs in enumerate(match_likes(confidence, log_posteriors, likes)):
        hard = torch.zeros(4, 7)
        hard[pairs] = 1
        torch.testing.assert_close(cold[b], hard, atol=1e-2, rtol=0)
    silent = soft_match_likes(confidence * 0, log_posteriors.half(), likes)
    assert silent.isfinite().all()
    # padding must not wipe out the first speaker
    padded = soft_match_likes(confidence[2:], log_posteriors[2:], [torch.tensor([0]), likes[3]])
    assert padded[0, :, 0].sum().item() == pytest.approx(1)
