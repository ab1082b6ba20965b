"""Losses of whole recordings, against plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.losses import (
    ROLE,
    PseudoLabels,
    any_slot,
    bce,
    entropy_maximization,
    like_matrix,
    log_any_slot,
    recording_kl,
    with_unknown,
)


def batch(num_files=2, num_slots=3, num_speakers=4, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    confidence = torch.rand(num_files, num_slots, dtype=dtype)
    logits = 3 * torch.randn(num_files, num_slots, num_speakers, dtype=dtype)
    return confidence.requires_grad_(), torch.log_softmax(logits, -1).requires_grad_()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_any_slot(seed, num_slots):
    confidence, log_posteriors = batch(2, num_slots, 4, seed)
    y_hat = any_slot(confidence, log_posteriors)
    for b in range(2):
        for k in range(4):
            nobody = 1.0
            for s in range(num_slots):
                nobody *= 1 - confidence[b, s].item() * math.exp(log_posteriors[b, s, k].item())
            assert y_hat[b, k].item() == pytest.approx(1 - nobody, rel=1e-5, abs=1e-9)
    order = torch.randperm(num_slots)
    torch.testing.assert_close(any_slot(confidence[:, order], log_posteriors[:, order]), y_hat)


def test_any_slot_at_the_ends():
    tiny = torch.full((1, 1, 1), math.log(1e-9))
    assert any_slot(torch.ones(1, 1), tiny).item() == pytest.approx(1e-9, rel=1e-3)
    for value, dtype in ((0.0, torch.float32), (1.0, torch.float32), (1.0, torch.float16)):
        confidence = torch.full((1, 2), value, dtype=dtype, requires_grad=True)
        log_posteriors = torch.tensor([0.0, -1e4]).log_softmax(-1).expand(1, 2, 2).to(dtype)
        y_hat = any_slot(confidence, log_posteriors)
        torch.testing.assert_close(y_hat, torch.tensor([[value, 0.0]]), atol=1e-6, rtol=0)
        bce(y_hat, torch.ones(1, 2)).sum().backward()
        assert confidence.grad.isfinite().all() or dtype == torch.float16


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_log_any_slot(seed, num_slots):
    confidence, log_posteriors = batch(2, num_slots, 4, seed)
    log_posteriors = log_posteriors - 4 * torch.rand(2, num_slots, 4)  # rare ones, too
    y_hat = any_slot(confidence, log_posteriors)
    torch.testing.assert_close(
        log_any_slot(confidence, log_posteriors), y_hat.log(), atol=1e-4, rtol=0
    )


def test_log_any_slot_at_the_ends():
    confidence = torch.tensor([[0.0, 1.0]], requires_grad=True)
    log_posteriors = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]], requires_grad=True)
    value = log_any_slot(confidence, log_posteriors)
    value.sum().backward()
    assert value.isfinite().all() and confidence.grad.isfinite().all()
    assert log_posteriors.grad.isfinite().all()


@pytest.mark.parametrize("logit", [0.0, -5.0, -20.0, -80.0])
def test_likes_draw_slots_however_small_posteriors_are(logit):
    logits = torch.tensor([[[logit, 0.0], [logit, 0.0]]], requires_grad=True)
    y_hat = log_any_slot(torch.full((1, 2), 0.9), logits.log_softmax(-1))
    (-y_hat[0, 0]).backward()
    assert logits.grad[0, :, 0].sum().item() < -0.3
    for loss in (ROLE([torch.tensor([0])], 2, 1.0), PseudoLabels(1, 2, 2, 0)):
        logits.grad = None
        log_p = logits.log_softmax(-1)
        claims = torch.full((1, 2), 0.9), log_p
        y, files = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        loss(any_slot(*claims), y, files, log_any_slot(*claims)).backward()
        assert logits.grad[0, :, 0].sum().item() < -0.1
        assert logits.grad.isfinite().all()


def test_like_matrix():
    y = like_matrix([torch.tensor([2, 0, 2, -1]), torch.tensor([])], 4)
    assert y.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_with_unknown_is_a_distribution():
    confidence, log_posteriors = batch()
    extended = with_unknown(confidence, log_posteriors)
    torch.testing.assert_close(extended.logsumexp(-1).exp(), torch.ones(2, 3).double())
    torch.testing.assert_close(extended[..., -1].exp(), 1 - confidence)


def plain_kl(p, names, untagged):
    """One recording of segments (list of posteriors, the last class unknown)."""
    classes = len(p[0])
    q = [0.0] * classes
    names = {name for name in names if name != -1}
    for name in names:
        q[name] = 1 / (len(names) + untagged)
    q[-1] = untagged / (len(names) + untagged) if names or untagged else 1.0
    mean = [sum(segment[k] for segment in p) / len(p) for k in range(classes)]
    return sum(q[k] * math.log(q[k] / mean[k]) for k in range(classes) if q[k] > 0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.lists(st.integers(-1, 4), max_size=6)), min_size=1, max_size=3
    ),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.integers(0, 10**6),
)
def test_recording_kl(likes, untagged, seed):
    _, log_posteriors = batch(len(likes), 3, 6, seed)
    tensors = [None if names is None else torch.tensor(names).long() for names in likes]
    loss = recording_kl(log_posteriors, tensors, torch.full((len(likes),), untagged))
    for value, p, names in zip(loss.tolist(), log_posteriors.exp().tolist(), likes, strict=True):
        expected = 0.0 if names is None else plain_kl(p, names, untagged)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-9) and value >= -1e-9
    loss.sum().backward()
    for b, names in enumerate(likes):
        assert names is not None or not log_posteriors.grad[b].any()


def test_recording_kl_is_least_at_what_is_expected():
    # four segments: two speakers who are liked, two of nobody known
    log_posteriors = torch.log_softmax(50 * torch.eye(4)[[0, 2, 3, 3]], -1).unsqueeze(0)
    assert recording_kl(log_posteriors, [torch.tensor([0, 2])], 2).item() == pytest.approx(0)
    assert recording_kl(log_posteriors, [torch.tensor([0, 2])], 1) > 0.01
    assert recording_kl(log_posteriors, [torch.tensor([0, 1])], 2) > 0.01
    with pytest.raises(ValueError, match="untagged is negative"):
        recording_kl(log_posteriors, [torch.tensor([0])], -1)
    with pytest.raises(ValueError, match="training speakers"):
        recording_kl(log_posteriors, [torch.tensor([3])])  # unknown is no like


def test_recording_kl_at_the_ends():
    for value in (0.0, 1.0):
        confidence = torch.full((1, 3), value, requires_grad=True)
        log_posteriors = torch.log_softmax(100 * torch.eye(4)[:3], -1).unsqueeze(0)
        loss = recording_kl(with_unknown(confidence, log_posteriors), [torch.tensor([3])], 1)
        loss.sum().backward()
        assert loss.isfinite().all() and confidence.grad.isfinite().all()
        half = with_unknown(confidence.half(), log_posteriors.half())
        assert half.dtype == torch.float32 and half.isfinite().all()


def plain_role(f, g, z, expected):
    """Formulas of the paper: f is the model, g are the labels, z the likes."""

    def one_way(f, g):
        cells = [(b, k) for b in range(len(f)) for k in range(len(f[0]))]
        total = 0.0
        for b, k in cells:
            total -= g[b][k] * math.log(f[b][k]) + (1 - g[b][k]) * math.log(1 - f[b][k])
            total -= z[b][k] * math.log(f[b][k])
        count = sum(map(sum, f)) / len(f)
        return total / len(cells) + ((count - expected) / len(f[0])) ** 2

    return (one_way(f, g) + one_way(g, f)) / 2


def test_role():
    likes = [torch.tensor([1]), torch.tensor([0, 3]), torch.tensor([])]
    generator = torch.Generator().manual_seed(0)
    role = ROLE(likes, 4, expected=2.0, start=0.5, generator=generator)
    labels = role.labels(torch.arange(3))
    liked = like_matrix(likes, 4) == 1
    torch.testing.assert_close(labels[liked], torch.full((3,), 0.995))
    assert (labels[~liked] - 0.5).abs().max() <= 0.1 + 1e-6
    rare = ROLE(likes, 4, expected=2.0, start=0.01).labels(torch.arange(3))
    assert 0.006 < rare[~liked].min() and rare[~liked].max() < 0.015

    files = torch.tensor([2, 0])
    y = like_matrix([likes[2], likes[0]], 4)
    y_hat = torch.rand(2, 4).clamp(0.05, 0.95).requires_grad_()
    loss = role(y_hat, y, files)
    expected = plain_role(y_hat.tolist(), role.labels(files).tolist(), y.tolist(), 2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert role.table.grad[[2, 0]].abs().min() > 0 and not role.table.grad[1].any()

    # the model takes the labels for constants, and the labels the model
    ours = torch.autograd.grad(role(y_hat, y, files), (y_hat, role.table))
    for f, g, parameter, gradient in (
        (y_hat, role.labels(files).detach(), y_hat, ours[0]),
        (role.labels(files), y_hat.detach(), role.table, ours[1]),
    ):
        excess = (f.sum(1).mean() - 2) / 4
        alone = (bce(f, g) - y * f.log()).mean() + excess**2
        (expected,) = torch.autograd.grad(alone / 2, parameter)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 4))
def test_role_regulariser_is_least_at_the_expected_number(count):
    role = ROLE([torch.tensor([]).long()], 4, expected=2.0, weight=1000.0)
    y, files = torch.zeros(1, 4), torch.tensor([0])
    at_expected = role(torch.full((1, 4), 0.5), y, files)
    # the rest of the loss is least within 0.1 of labels that start between 0.4 and 0.6
    assert role(torch.full((1, 4), count / 4), y, files) >= at_expected - 0.1


def test_role_at_the_ends():
    role, files = ROLE([torch.tensor([1])], 4, expected=2.0), torch.tensor([0])
    for value, dtype in ((0.0, torch.float32), (1.0, torch.float32), (1.0, torch.float16)):
        y_hat = torch.full((1, 4), value, dtype=dtype, requires_grad=True)
        loss = role(y_hat, torch.ones(1, 4), files)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert role.table.grad.isfinite().all()
        assert dtype == torch.float16 or y_hat.grad.isfinite().all()


def test_role_finds_labels_that_were_left_out():
    """Two kinds of file with three speakers each, one of whom is tagged: the table fills in."""
    torch.manual_seed(0)
    truth = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(30, 1)
    likes = [torch.tensor([3 * (b % 2) + b // 2 % 3]) for b in range(60)]
    role = ROLE(likes, 6, expected=3.0)
    model = torch.zeros(2, 6, requires_grad=True)  # logits of each kind
    kind, y = torch.arange(60) % 2, like_matrix(likes, 6)
    for _ in range(60):
        loss = role(torch.sigmoid(model)[kind], y, torch.arange(60))
        gradients = torch.autograd.grad(loss, (model, role.table))
        with torch.no_grad():
            model -= 0.05 * gradients[0].sign()
            role.table -= 0.1 * gradients[1].sign()
    assert torch.equal(torch.sigmoid(model)[kind] > 0.5, truth == 1)
    assert ((role.labels(torch.arange(60)) > 0.5) == (truth == 1)).float().mean() > 0.95


def test_pseudo_labels():
    torch.manual_seed(0)
    y = torch.zeros(20, 2)
    y[:4, 0] = 1
    loss = PseudoLabels(20, 2, num_epochs=6, warm_up=2, share=0.5, alpha=0.3, beta=0.7)
    files = torch.arange(20)
    y_hat = torch.rand(20, 2)
    torch.testing.assert_close(
        loss(y_hat, y, files), entropy_maximization(y_hat, y, alpha=0.3).mean()
    )
    loss.update(y_hat, y, epoch=1)
    assert loss.labels.isnan().all()  # warm-up

    # 0.5 * 16 / 4 and 0.5 * 20 / 4 files, rounded down, the least likely ones
    loss.update(y_hat, y, epoch=2)
    for speaker, number in ((0, 2), (1, 2)):
        untagged = [b for b in range(20) if y[b, speaker] == 0]
        least = sorted(untagged, key=lambda b: y_hat[b, speaker])[:number]
        labelled = loss.labels[:, speaker].isfinite().nonzero().flatten().tolist()
        assert sorted(least) == labelled
        assert torch.equal(loss.labels[labelled, speaker], y_hat[labelled, speaker])
    first = loss.labels.clone()
    loss.update(y_hat + 1e-3, y, epoch=3)
    # others, although the first are still the least: 0.5 * 16 / 2 and 0.5 * 20 / 2 in all
    assert loss.labels.isfinite().sum(0).tolist() == [4, 5]
    assert torch.equal(loss.labels[first.isfinite()], first[first.isfinite()])

    claims = torch.rand(20, 2, requires_grad=True)
    value = loss(claims, y, files)
    total = 0.0
    for b in range(20):
        for k in range(2):
            p, label = claims[b, k].item(), loss.labels[b, k].item()
            if y[b, k] == 1:
                total -= math.log(p)
            elif math.isnan(label):
                total += 0.3 * (p * math.log(p) + (1 - p) * math.log(1 - p))
            else:
                total -= 0.7 * (label * math.log(p) + (1 - label) * math.log(1 - p))
    assert value.item() == pytest.approx(total / 40, rel=1e-4)
    value.backward()
    assert claims.grad.isfinite().all()
    assert "labels" in loss.state_dict()  # survives a checkpoint
    with pytest.raises(ValueError, match="fewer than the 6 epochs"):
        PseudoLabels(20, 2, num_epochs=6, warm_up=6)
    with pytest.raises(ValueError, match="share is 1.5: choose a number from 0 to 1"):
        PseudoLabels(20, 2, num_epochs=6, warm_up=2, share=1.5)


@pytest.mark.parametrize("warm_up", range(5))
@pytest.mark.parametrize("num_files", [400, 10])
def test_pseudo_labels_are_all_there_in_the_last_epoch(warm_up, num_files):
    loss = PseudoLabels(num_files, 1, num_epochs=5, warm_up=warm_up, share=0.9)
    for epoch in range(1, 5):  # the last one is the fifth
        loss.update(torch.rand(num_files, 1), torch.zeros(num_files, 1), epoch)
    assert loss.labels.isfinite().float().mean().item() == pytest.approx(0.9)


def test_pseudo_labels_of_a_training_that_is_made_longer():
    loss = PseudoLabels(10, 1, num_epochs=3, warm_up=1, share=0.9)
    for epoch in (1, 2):
        loss.update(torch.rand(10, 1), torch.zeros(10, 1), epoch)
    longer = PseudoLabels(10, 1, num_epochs=6, warm_up=1, share=0.9)
    longer.load_state_dict(loss.state_dict())
    for epoch in (3, 4, 5):
        longer.update(torch.rand(10, 1), torch.zeros(10, 1), epoch)
    assert longer.labels.isfinite().sum() == 9
