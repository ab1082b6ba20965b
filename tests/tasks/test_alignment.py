"""Likes aligned in time, against the same in plain Python."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.tasks.alignment import align_likes, alignment_loss

K, D = 5, 16


@pytest.fixture
def prototypes() -> torch.Tensor:
    """(K, D), far apart and of any length."""
    torch.manual_seed(0)
    return torch.linalg.qr(torch.randn(D, D))[0][:K] * torch.rand(K, 1).add(0.5)


def planted(prototypes, speakers: list[int], length: int = 20, noise: float = 0.3):
    """(S, D) windows of one speaker after another, and who each of them is of."""
    truth = torch.tensor(speakers).repeat_interleave(length)
    clean = F.normalize(prototypes, dim=-1)[truth]
    return 3 * clean + noise * torch.randn(len(truth), D), truth


def loss_of(weightings, windows, prototypes, likes, single=None) -> float:
    """Loss of one file after one round."""
    single = torch.ones(len(windows)) if single is None else single
    losses = alignment_loss(
        [weightings[None]], windows[None], single[None], prototypes, [torch.tensor(likes).long()]
    )
    assert losses.shape == (1,)
    return losses.item()


# -- the same, slowly -----------------------------------------------------------------------------


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_align(windows, prototypes, weights, smoothing=7, scale=20.0, least_cosine=0.25):
    posteriors = []
    half = smoothing // 2
    for t in range(len(windows)):
        near = range(max(0, t - half), min(len(windows), t + half + 1))
        held = sum(weights[u] for u in near)
        means = [
            sum(weights[u] * cosine(windows[u], p) for u in near) / held if held else 0.0
            for p in prototypes
        ] + [least_cosine]
        total = sum(math.exp(scale * m) for m in means)
        posteriors.append([math.exp(scale * m) / total for m in means])
    return posteriors


def slow_loss(rounds, windows, single, prototypes, likes) -> list[float]:
    """One file; all one-to-one assignments are tried."""
    posteriors = slow_align(windows, prototypes[likes].tolist(), single)
    p = [[single[t] * x for x in row] for t, row in enumerate(posteriors)]
    N, L = len(rounds[-1][0]), len(likes)
    shared = [
        [sum(x[n] * row[k] for x, row in zip(rounds[-1], p, strict=True)) for k in range(L + 1)]
        for n in range(N)
    ]
    owner = [row.index(max(row)) for row in shared]
    if N >= L:
        pairs = max(
            permutations(range(N), L), key=lambda s: sum(map(lambda k: shared[s[k]][k], range(L)))
        )
        matched = {n: k for k, n in enumerate(pairs)}
    else:
        pairs = max(
            permutations(range(L), N), key=lambda s: sum(map(lambda n: shared[n][s[n]], range(N)))
        )
        matched = dict(enumerate(pairs))
    owner = [matched.get(n, owner[n]) for n in range(N)]
    # without a slot for somebody else, windows of somebody else tell nothing
    counted = range(L + 1) if L in owner else range(L)
    total = sum(row[k] for row in p for k in counted)
    losses = []
    for weightings in rounds:
        loss = 0.0
        for x, row in zip(weightings, p, strict=True):
            for k in counted:
                mine = sum(x[n] for n in range(N) if owner[n] == k)
                loss -= row[k] * math.log(mine + 1e-4)
        losses.append(loss / total)
    return losses


@pytest.mark.parametrize("num_slots", [2, 3, 5])  # fewer, as many, more than there are likes
def test_against_slow_reference(prototypes, num_slots):
    speakers = [[4, 0, 2], [1, 3, 0], [2]]
    torch.manual_seed(1)
    windows = torch.stack([planted(prototypes, [4, 0, 2], 8, 1.5)[0] for _ in speakers])
    rounds = [torch.rand(3, 24, num_slots).softmax(dim=-1) for _ in range(2)]
    single = (torch.rand(3, 24) - 0.3).clamp_min(0)
    likes = [torch.tensor(s) for s in speakers]
    losses = alignment_loss(rounds, windows, single, prototypes, likes)
    slow = [
        slow_loss(
            [r[i].tolist() for r in rounds], windows[i].tolist(), single[i].tolist(), prototypes, s
        )
        for i, s in enumerate(speakers)
    ]
    torch.testing.assert_close(losses, torch.tensor(slow).mean(dim=0), rtol=1e-4, atol=1e-4)

    for i, s in enumerate(speakers):
        posteriors = align_likes(windows[i], prototypes[s], weights=single[i])
        expected = slow_align(windows[i].tolist(), prototypes[s].tolist(), single[i].tolist())
        torch.testing.assert_close(posteriors, torch.tensor(expected), rtol=1e-4, atol=1e-5)


# -- who is where ---------------------------------------------------------------------------------


def test_planted_windows_get_their_like(prototypes):
    likes = [3, 1, 4]
    windows, truth = planted(prototypes, [1, 3, 1, 4])
    posteriors = align_likes(windows, prototypes[likes])
    assert posteriors.shape == (80, 4)
    torch.testing.assert_close(posteriors.sum(dim=1), torch.ones(80))
    inner = torch.arange(80) % 20
    inner = (inner >= 4) & (inner < 16)  # changes of speaker are smoothed over
    assert (torch.tensor(likes)[posteriors.argmax(dim=1)] == truth)[inner].all()
    assert (posteriors.amax(dim=1)[inner] > 0.95).all()


def test_windows_like_no_prototype_are_of_somebody_else(prototypes):
    windows, truth = planted(prototypes, [0, 4, 1], noise=0.05)
    posteriors = align_likes(windows, prototypes[[0, 1]])  # nobody liked the one in the middle
    assert (posteriors[24:36, 2] > 0.95).all()
    assert (posteriors[:16, 0] > 0.95).all() and (posteriors[44:, 1] > 0.95).all()

    single = torch.ones(60)
    single[14:26] = single[34:46] = 0.0
    apart = F.one_hot(torch.tensor([0, 2, 1]).repeat_interleave(20), 4).float()
    loss = loss_of(apart, windows, prototypes, [0, 1], single)
    assert loss == pytest.approx(0.0, abs=5e-2)
    for mixed, last in ((0.4, 34), (1.0, 30)):  # somebody else in the slot of a like costs
        into = apart.clone()
        into[26:last] = (1 - mixed) * apart[26:last] + mixed * F.one_hot(torch.tensor(0), 4)
        assert loss_of(into, windows, prototypes, [0, 1], single) > loss + 0.05
    # in two slots of their own they are as good
    split = apart.clone()
    split[30:34] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert loss_of(split, windows, prototypes, [0, 1], single) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("num_windows", [1, 2, 5])
def test_fewer_windows_than_are_averaged(prototypes, num_windows):
    windows = prototypes[[2]].expand(num_windows, -1)
    posteriors = align_likes(windows, prototypes[[2, 0]])
    assert posteriors.shape == (num_windows, 3)
    assert (posteriors[:, 0] > 0.99).all()


# -- loss -----------------------------------------------------------------------------------------


def test_agreement_impurity_and_splits(prototypes):
    likes = [0, 2]
    windows, truth = planted(prototypes, [0, 2, 0, 2], noise=0.1)
    single = ((torch.arange(80) % 20 - 9.5).abs() < 6).float()  # not at changes of speaker
    agreeing = F.one_hot((truth == 2).long(), 3).float()  # the third slot is empty
    loss = loss_of(agreeing, windows, prototypes, likes, single)
    assert loss == pytest.approx(0.0, abs=2e-2)
    # which slot is whose does not matter
    for order in ([1, 0, 2], [2, 0, 1]):
        swapped = loss_of(agreeing[:, order], windows, prototypes, likes, single)
        assert swapped == pytest.approx(loss, abs=1e-5)

    split = agreeing.clone()  # the first speaker holds two slots
    split[40:60] = torch.tensor([0.0, 0.0, 1.0])
    assert loss_of(split, windows, prototypes, likes, single) == pytest.approx(loss, abs=1e-3)
    halves = agreeing.clone()
    halves[:, 0], halves[:, 2] = 0.5 * agreeing[:, 0], 0.5 * agreeing[:, 0]
    assert loss_of(halves, windows, prototypes, likes, single) == pytest.approx(loss, abs=1e-3)

    impure = [loss]
    for mixed in (0.1, 0.3, 0.5):
        leaking = (1 - mixed) * agreeing[:, :2] + mixed * agreeing[:, [1, 0]]
        impure.append(loss_of(leaking, windows, prototypes, likes, single))
    assert impure == sorted(impure) and impure[1] > impure[0] + 0.05
    together = torch.zeros(80, 3)
    together[:, 0] = 1.0
    assert loss_of(together, windows, prototypes, likes, single) > 1.0


def test_gradients(prototypes):
    windows, truth = planted(prototypes, [0, 2])
    likes = [torch.tensor([0, 2])]
    for weightings in (torch.zeros(40, 3), torch.full((40, 3), 1 / 3), torch.eye(3)[[0] * 40]):
        rounds = [weightings[None].clone().requires_grad_() for _ in range(2)]
        losses = alignment_loss(rounds, windows[None], torch.ones(1, 40), prototypes, likes)
        assert torch.isfinite(losses).all()
        losses.sum().backward()
        assert all(torch.isfinite(r.grad).all() for r in rounds)

    # down the gradient, slots that were nearly alike come apart
    scores = (0.1 * F.one_hot((truth == 2).long(), 2).float()).requires_grad_()
    for _ in range(10):
        losses = alignment_loss(
            [scores.softmax(-1)[None]], windows[None], torch.ones(1, 40), prototypes, likes
        )
        (gradient,) = torch.autograd.grad(losses.sum(), scores)
        scores = (scores - 40 * gradient).detach().requires_grad_()
    assert (scores.argmax(dim=1) == (truth == 2)).float().mean() > 0.9
    assert losses.item() < 0.3


def test_more_likes_than_slots(prototypes):
    windows, truth = planted(prototypes, [0, 1, 2])
    weightings = torch.rand(60, 2).softmax(dim=-1).requires_grad_()
    losses = alignment_loss(
        [weightings[None]], windows[None], torch.ones(1, 60), prototypes, [torch.arange(5)]
    )
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(weightings.grad).all()
    assert losses.item() > 1


def test_files_that_tell_nothing_do_not_count(prototypes):
    windows, truth = planted(prototypes, [0, 2])
    known = torch.tensor([0, 2])
    weightings = torch.rand(40, 3).softmax(dim=-1)
    alone = loss_of(weightings, windows, prototypes, [0, 2])
    stranger = -prototypes.sum(dim=0).expand(40, -1)  # resembles nobody
    rounds = [weightings.expand(4, -1, -1)] * 2
    single = torch.ones(4, 40)
    single[2] = 0.0  # nobody talks alone
    losses = alignment_loss(
        rounds,
        torch.stack([windows, windows, windows, stranger]),
        single,
        prototypes,
        [torch.zeros(0).long(), known, known, known],
    )
    assert losses.tolist() == pytest.approx([alone, alone], abs=1e-5)
    none = alignment_loss(
        [r[:1] for r in rounds], windows[None], single[:1], prototypes, [torch.zeros(0).long()]
    )
    assert none.tolist() == [0.0, 0.0]


def test_padding_changes_nothing(prototypes):
    windows, truth = planted(prototypes, [0, 2, 1], length=10)
    weightings = torch.rand(30, 4).softmax(dim=-1)
    alone = loss_of(weightings, windows, prototypes, [0, 1, 2])
    single = torch.cat([torch.ones(30), torch.zeros(12)])
    for filler in (torch.zeros(12, D), 9 * prototypes[[0]].expand(12, -1)):
        padded = loss_of(
            torch.cat([weightings, torch.zeros(12, 4)]),
            torch.cat([windows, filler]),
            prototypes,
            [0, 1, 2],
            single,
        )
        assert padded == pytest.approx(alone, rel=1e-5)


def test_gradients_of_mixed_precision(prototypes):
    """As large as the scale of a loss in half precision makes them."""
    windows, truth = planted(prototypes, [0, 2])
    scores = (12 * F.one_hot((truth == 2).long(), 2).float()).requires_grad_()
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            losses = alignment_loss(
                [scores.softmax(-1)[None]],
                windows[None],
                torch.ones(1, 40),
                prototypes,
                [torch.tensor([0, 2])],
            )
        gradients.append(torch.autograd.grad(655360 * losses.sum(), scores)[0])
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.01 * gradients[0].abs().max().item())
