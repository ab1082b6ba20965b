"""The set criterion, against plain Python, every assignment tried."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.losses import LOSSES, NNPU, SPLC, WBCE, Focal, SetCriterion
from pyannote_weighter.matching import soft_match_likes
from pyannote_weighter.weighting import confidence as confidence_of_slots


def batch(num_files, num_slots, num_speakers, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    confidence = torch.rand(num_files, num_slots, dtype=dtype)
    logits = 3 * torch.randn(num_files, num_slots, num_speakers, dtype=dtype)
    return confidence.requires_grad_(), torch.log_softmax(logits, -1).requires_grad_()


def plain_criterion(confidence, log_posteriors, likes, lambda_, loss="wbce"):
    """One file, slot and like at a time; every assignment is tried."""
    total, known = 0.0, 0
    for c, log_p, names in zip(confidence.tolist(), log_posteriors.tolist(), likes, strict=True):
        if names is None:
            continue
        known += 1
        names = sorted({name for name in names.tolist() if name != -1})
        chosen, cheapest = [], math.inf
        size = min(len(names), len(c))
        for slots in itertools.permutations(range(len(c)), size):
            for kept in itertools.combinations(names, size):
                cost = sum(-math.log(c[s]) - log_p[s][k] for s, k in zip(slots, kept, strict=True))
                if cost < cheapest:
                    chosen, cheapest = list(zip(slots, kept, strict=True)), cost
        total += cheapest
        for s in range(len(c)):
            for k in range(len(log_p[s])):
                y_hat = c[s] * math.exp(log_p[s][k])
                if loss == "wbce":
                    total += lambda_ * y_hat
                elif loss == "bce" and (s, k) not in chosen:
                    total -= lambda_ * math.log(1 - y_hat)
            if loss == "softmax" and s not in [slot for slot, _ in chosen]:
                total -= lambda_ * math.log(1 - c[s])
    return total / known if known else 0.0


like_lists = st.lists(
    st.one_of(st.none(), st.lists(st.integers(-1, 4), max_size=7)), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(
    like_lists,
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["wbce", "bce", "softmax"]),
    st.integers(0, 10**6),
)
def test_criterion_equals_plain_python(likes, num_slots, lambda_, loss, seed):
    likes = [None if names is None else torch.tensor(names).long() for names in likes]
    confidence, log_posteriors = batch(len(likes), num_slots, 5, seed)
    with torch.no_grad():
        confidence.clamp_(0.01, 0.99)
    output = SetCriterion(lambda_, loss)(confidence, log_posteriors, likes)
    expected = plain_criterion(confidence, log_posteriors, likes, lambda_, loss)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    output.loss.backward()
    for b, names in enumerate(likes):
        if names is None:
            assert output.file_loss[b] == 0 and not confidence.grad[b].any()


@settings(max_examples=40, deadline=None)
@given(like_lists, st.integers(0, 10**6), st.randoms())
def test_order_of_slots_likes_and_files_does_not_matter(likes, seed, random):
    confidence, log_posteriors = batch(len(likes), 4, 5, seed)
    criterion = SetCriterion(0.5)
    tensors = [None if names is None else torch.tensor(names).long() for names in likes]
    expected = criterion(confidence, log_posteriors, tensors)
    files, slots = torch.randperm(len(likes)), torch.randperm(4)
    shuffled = []
    for b in files.tolist():
        names = None if likes[b] is None else random.sample(likes[b], len(likes[b])) + [-1]
        shuffled.append(None if names is None else torch.tensor(names))
    again = criterion(confidence[files][:, slots], log_posteriors[files][:, slots], shuffled)
    torch.testing.assert_close(again.loss, expected.loss)
    for name in ("file_loss", "num_matched", "matched_confidence", "unmatched_confidence"):
        ours, theirs = getattr(again, name), getattr(expected, name)[files]
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def everything():
    """Every loss that the criterion takes."""
    names = [name for name in LOSSES if name != "nnpu"]
    return [
        *names,
        "softmax",
        SPLC(start=0),
        NNPU(prior=0.1),
        NNPU(prior=0.3, surrogate="logistic"),
    ]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "nnpu"])
def test_criterion_is_the_sum_of_the_elementwise_loss(name):
    confidence, log_posteriors = batch(1, 4, 5)
    y = torch.zeros(4, 5)
    y_hat = confidence[0, :, None] * log_posteriors[0].exp()
    for lambda_ in (1.0, 0.3):
        output = SetCriterion(lambda_, name)(confidence, log_posteriors, [torch.tensor([2, 4])])
        y[output.assignment[0]] = 1
        if name == "wbce":
            expected = lambda_ * y_hat.sum() - (y * y_hat.log()).sum()
        else:
            elements = LOSSES[name]("none")(y_hat, y)
            expected = (torch.where(y == 1, 1, lambda_) * elements).sum()
        torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)


def test_a_pooled_loss_sees_the_known_files_alone():
    confidence, log_posteriors = batch(3, 4, 5)
    likes = [torch.tensor([2, 4]), None, torch.tensor([0])]
    loss = NNPU(prior=0.2)
    output = SetCriterion(loss=loss)(confidence, log_posteriors, likes)
    y = torch.zeros(3, 4, 5)
    for b, pairs in enumerate(output.assignment):
        y[b][pairs] = 1
    y_hat = (confidence.unsqueeze(-1) * log_posteriors.exp())[[0, 2]]
    # two files of 20 elements
    torch.testing.assert_close(output.loss, 20 * loss(y_hat, y[[0, 2]]))
    assert output.file_loss[1] == 0


@pytest.mark.parametrize("loss", everything(), ids=str)
def test_a_slot_without_posterior_is_drawn_to_its_like(loss):
    # p = 1e-17: 1e-8 inside a logarithm of c p would swallow the gradient
    log_posteriors = torch.tensor([[[-40.0, -1e-17]]], requires_grad=True)
    criterion = SetCriterion(0.0, loss)
    criterion(torch.ones(1, 1), log_posteriors, [torch.tensor([0])]).loss.backward()
    if isinstance(loss, NNPU) and not loss.options.get("surrogate"):
        assert log_posteriors.grad[0, 0, 0].abs() < 1e-9  # bounded surrogate: this is its weakness
    else:
        assert log_posteriors.grad[0, 0, 0] < -0.05


def test_softmax_lets_the_rest_go():
    confidence, log_posteriors = batch(1, 3, 5)
    output = SetCriterion(0.0, "softmax")(confidence, log_posteriors, [torch.tensor([2])])
    output.loss.backward()
    ((slots, speakers),) = output.assignment
    logits = log_posteriors[0, slots].detach().requires_grad_()
    torch.nn.functional.cross_entropy(logits, speakers).backward()
    gradient = torch.zeros(5, dtype=torch.float64)
    gradient[speakers] = -1  # with respect to log p; the softmax is the caller's
    torch.testing.assert_close(log_posteriors.grad[0, slots[0]], gradient)
    others = [slot for slot in range(3) if slot != slots.item()]
    assert not log_posteriors.grad[0, others].any() and not confidence.grad[0, others].any()


def test_self_pacing_follows_the_epoch():
    confidence, log_posteriors = torch.ones(1, 2), torch.log(torch.tensor([[[0.1, 0.9]] * 2]))
    likes = [torch.tensor([0])]
    criterion = SetCriterion(loss="splc")
    before = criterion(confidence, log_posteriors, likes).loss
    criterion.set_epoch(1)
    assert criterion(confidence, log_posteriors, likes).loss < before
    SetCriterion().set_epoch(1)


@pytest.mark.parametrize("loss", ["wbce", "softmax", "bce", Focal(gamma=1.0)], ids=str)
def test_soft_assignment_approaches_the_hungarian_one(loss):
    confidence, log_posteriors = batch(3, 4, 9)
    likes = [torch.tensor([1, 8]), None, torch.arange(6)]
    hard = SetCriterion(0.5, loss)(confidence, log_posteriors, likes)
    cold = SetCriterion(0.5, loss, assignment="sinkhorn", temperature=1e-3)
    output = cold(confidence, log_posteriors, likes)
    torch.testing.assert_close(output.loss, hard.loss, rtol=1e-3, atol=1e-3)
    assert torch.equal(output.num_matched, hard.num_matched)
    warm = SetCriterion(0.5, loss, assignment="sinkhorn")(confidence, log_posteriors, likes)
    assert (warm.loss - hard.loss).abs() > 1e-2


@settings(max_examples=20, deadline=None)
@given(like_lists, st.integers(0, 10**6))
def test_soft_attraction_is_weighted_by_the_shares(likes, seed):
    likes = [None if names is None else torch.tensor(names).long() for names in likes]
    confidence, log_posteriors = batch(len(likes), 3, 5, seed)
    shares = soft_match_likes(confidence, log_posteriors, likes, 2.0)
    y_hat = confidence.unsqueeze(-1) * log_posteriors.exp()
    known = torch.tensor([names is not None for names in likes])
    for loss in ("wbce", "bce"):
        criterion = SetCriterion(0.5, loss, assignment="sinkhorn", temperature=2.0)
        output = criterion(confidence, log_posteriors, likes)
        price = y_hat if loss == "wbce" else -(1 - shares) * torch.log(1 - y_hat)
        expected = (0.5 * price - shares * y_hat.log()).sum((1, 2)) * known
        torch.testing.assert_close(output.file_loss, expected, rtol=1e-4, atol=1e-4)
        if known.any():
            # no gradient through the shares: that of the attraction to log p is the shares
            gradient = torch.autograd.grad(output.loss * known.sum(), log_posteriors)[0]
            if loss == "wbce":
                torch.testing.assert_close(gradient[known], -shares[known])


def test_minimum_is_at_the_tagging_rate_over_lambda():
    # one slot, one speaker, who is tagged in 3 of 10 files
    likes = [torch.tensor([0])] * 3 + [torch.tensor([])] * 7
    for lambda_ in (1.0, 0.5):
        confidence = torch.full((10, 1), 0.3 / lambda_, dtype=torch.float64, requires_grad=True)
        log_posteriors = torch.zeros(10, 1, 1, dtype=torch.float64)
        SetCriterion(lambda_)(confidence, log_posteriors, likes).loss.backward()
        assert abs(confidence.grad.sum().item()) < 1e-6


def test_unknown_is_not_none():
    confidence, log_posteriors = batch(2, 3, 5)
    empty = torch.tensor([], dtype=torch.int64)
    output = SetCriterion(0.5)(confidence, log_posteriors, [empty, None])
    torch.testing.assert_close(output.loss, 0.5 * confidence[0].sum())
    assert output.known.tolist() == [True, False]
    assert set(output.logs()) == {"loss", "unmatched_confidence"}
    nothing = SetCriterion()(confidence, log_posteriors, [None, None])
    assert nothing.loss.item() == 0 and nothing.logs() == {}
    nothing.loss.backward()
    assert not confidence.grad.any()


def test_diagnostics():
    confidence = torch.tensor([[0.9, 0.2, 0.6], [0.5, 0.1, 0.3]], requires_grad=True)
    p = torch.tensor([[0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.7, 0.2, 0.1]]).expand(2, 3, 3)
    output = SetCriterion()(confidence, p.log(), [torch.tensor([1, 0, 1]), None])
    slots, speakers = output.assignment[0]
    assert (slots.tolist(), speakers.tolist()) == ([0, 2], [1, 0])
    assert output.num_likes.tolist() == output.num_matched.tolist() == [2, 0]
    assert output.matched_confidence[0].item() == pytest.approx(0.75)
    assert output.matched_confidence[1].isnan()
    assert output.matched_posterior[0].item() == pytest.approx(math.sqrt(0.8 * 0.7))
    torch.testing.assert_close(output.unmatched_confidence, torch.tensor([0.2, 0.9]))
    logs = output.logs()
    assert logs["loss"] == pytest.approx(output.loss.item())
    assert logs["matched_confidence"] == pytest.approx(0.75)
    assert logs["unmatched_confidence"] == pytest.approx(0.2)
    assert output.loss.requires_grad
    assert not any(v.requires_grad for v in output[2:])
    many = SetCriterion()(confidence, p.log(), [torch.arange(3), torch.tensor([])])
    assert many.num_matched.tolist() == [3, 0]


@pytest.mark.parametrize("assignment", ["hungarian", "sinkhorn"])
@pytest.mark.parametrize("loss", everything(), ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_criterion_is_stable_at_the_ends(loss, dtype, assignment):
    for value, gain in itertools.product((0.0, 1e-30, 1e-8, 0.5, 1.0), (0.0, 5000.0)):
        confidence = torch.full((2, 3), value, dtype=dtype, requires_grad=True)
        logits = (gain * torch.eye(4)[:3]).expand(2, 3, 4).to(dtype)
        log_posteriors = torch.log_softmax(logits, -1).requires_grad_()
        output = SetCriterion(1.0, loss, assignment)(
            confidence, log_posteriors, [torch.tensor([0, 3]), torch.tensor([])]
        )
        assert output.loss.dtype == torch.float32 and output.loss.isfinite()
        output.loss.backward()
        if dtype == torch.float32 or loss == "wbce":  # BCE has its asymptote at c p = 1
            assert log_posteriors.grad.isfinite().all()
        if dtype == torch.float32:  # 1e8, the largest gradient, is beyond float16
            assert confidence.grad.isfinite().all()
            if value == 0 and assignment == "hungarian" and not isinstance(loss, NNPU):
                assert (confidence.grad[0] < 0).sum() >= 2  # matched ones still learn


@pytest.mark.parametrize("kind", ["zero", "one-hot", "constant", "dead"])
def test_gradients_from_weightings_are_finite(kind):
    torch.manual_seed(0)
    weightings = {
        "zero": torch.zeros(1, 6, 3),
        "one-hot": torch.eye(6)[None, :, :3].clone(),
        "constant": torch.full((1, 6, 3), 0.2),
        "dead": torch.full((1, 6, 3), 1e-11),
    }[kind].requires_grad_()
    log_posteriors = torch.log_softmax(torch.randn(1, 3, 5), -1)
    criterion = SetCriterion(0.5)
    criterion(
        confidence_of_slots(weightings), log_posteriors, [torch.tensor([1, 2])]
    ).loss.backward()
    assert weightings.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("assignment", ["hungarian", "sinkhorn"])
@pytest.mark.parametrize("loss", everything(), ids=str)
def test_gpu_equals_cpu(loss, assignment):
    confidence, log_posteriors = batch(3, 4, 9)
    likes = [torch.tensor([1, 8]), None, torch.tensor([-1])]
    criterion = SetCriterion(0.5, loss, assignment)
    expected = criterion(confidence, log_posteriors, likes)
    for device in ("cpu", "cuda"):
        there = [None if names is None else names.to(device) for names in likes]
        output = criterion(confidence.cuda(), log_posteriors.cuda(), there)
        torch.testing.assert_close(output.loss.cpu(), expected.loss)
        assert output.loss.is_cuda and output.logs() == pytest.approx(expected.logs())


def test_options_are_checked():
    assert "lambda_=0.5" in repr(SetCriterion(0.5))
    with pytest.raises(ValueError, match="finite price"):
        SetCriterion(-1.0)
    with pytest.raises(ValueError, match="choose one of wbce, bce, .*, softmax"):
        SetCriterion(loss="mse")
    with pytest.raises(ValueError, match="NNPU needs 'prior'"):
        SetCriterion(loss="nnpu")
    with pytest.raises(ValueError, match="'hungarian' or 'sinkhorn'"):
        SetCriterion(assignment="greedy")
    assert "sinkhorn" in repr(SetCriterion(assignment="sinkhorn"))
    assert SetCriterion(loss=WBCE("sum")).loss == "wbce"  # in closed form, whatever the reduction
