"""References and known numbers of speakers against weightings, and the same in plain Python."""

import math
from itertools import permutations

import pytest
import torch

from pyannote_weighter.tasks.references import EPSILON, count_loss, reference_loss, to_steps


def slow_steps(reference, annotated, step):
    """Share of the annotated frames of each step, and share of the step that is annotated."""
    share, known = [], []
    for first in range(0, len(reference), step):
        rows = [r for r, a in zip(reference, annotated, strict=True)][first : first + step]
        kept = [r for r, a in zip(rows, annotated[first : first + step], strict=True) if a]
        known.append(len(kept) / step)
        share.append([sum(r[k] for r in kept) / max(1, len(kept)) for k in range(len(rows[0]))])
    return share, known


def slow_loss(rounds, reference, annotated, step):
    """One file; all one-to-one assignments are tried."""
    y, known = slow_steps(reference, annotated, step)
    N, K = len(rounds[-1][0]), len(y[0])
    shared = [
        [
            sum(x[n] * row[k] * w for x, row, w in zip(rounds[-1], y, known, strict=True))
            for k in range(K)
        ]
        for n in range(N)
    ]
    if N >= K:
        best = max(permutations(range(N), K), key=lambda s: sum(shared[s[k]][k] for k in range(K)))
        matched = {n: k for k, n in enumerate(best)}
    else:
        best = max(permutations(range(K), N), key=lambda s: sum(shared[n][s[n]] for n in range(N)))
        matched = dict(enumerate(best))
    owner = [matched.get(n, shared[n].index(max(shared[n]))) for n in range(N)]
    losses = []
    for weightings in rounds:
        total = 0.0
        for x, row, w in zip(weightings, y, known, strict=True):
            for k in range(K):
                mine = sum(x[n] for n in range(N) if owner[n] == k)
                log = math.log(row[k] / (mine + EPSILON)) if row[k] else 0.0
                total += w * (row[k] * log - row[k] + mine)
            total += w * sum(x[n] for n in range(N) if n not in matched)
        losses.append(total / sum(known))
    return losses


@pytest.mark.parametrize("num_slots", [2, 3, 5])  # fewer, as many, more than there are speakers
def test_against_slow_reference(num_slots):
    torch.manual_seed(num_slots)
    step, T, K = 4, 30, 3  # the last step is short
    reference, annotated = torch.rand(T, K) < 0.4, torch.rand(T) < 0.7
    annotated[8:12] = False  # a whole step about which nothing is known
    rounds = [torch.rand(1, 8, num_slots) for _ in range(2)]
    losses = reference_loss(rounds, [reference], [annotated], step)
    slow = slow_loss(
        [r[0].tolist() for r in rounds], reference.int().tolist(), annotated.tolist(), step
    )
    assert losses.tolist() == pytest.approx(slow, rel=1e-4)
    share, known = to_steps(reference, annotated, step)
    slow_share, slow_known = slow_steps(reference.int().tolist(), annotated.tolist(), step)
    torch.testing.assert_close(share, torch.tensor(slow_share))
    assert known.tolist() == pytest.approx(slow_known)


def talk(*speakers: int, length: int = 10, num_speakers: int = 2) -> torch.Tensor:
    """(T, K) bool: -1 is silence, 9 is everybody at once."""
    rows = []
    for speaker in speakers:
        row = [speaker in (k, 9) for k in range(num_speakers)]
        rows += [row] * length
    return torch.tensor(rows)


def loss_of(weightings, reference, annotated=None) -> float:
    annotated = torch.ones(len(reference), dtype=torch.bool) if annotated is None else annotated
    return reference_loss([weightings[None]], [reference], [annotated], step=1).item()


def test_agreement_in_any_order_with_overlap_and_silence():
    reference = talk(0, -1, 1, 9, 0)
    perfect = torch.cat([reference.float(), torch.zeros(50, 1)], dim=1)
    assert loss_of(perfect, reference) == pytest.approx(0.0, abs=1e-3)
    assert loss_of(perfect[:, [2, 1, 0]], reference) == pytest.approx(0.0, abs=1e-3)
    split = perfect.clone()  # the first speaker has two slots: one pays for its time, no more
    split[40:, [0, 2]] = split[40:, [2, 0]]
    assert loss_of(split, reference) == pytest.approx(10 / 50, abs=1e-3)
    assert loss_of(0.5 * perfect + 0.5 * split, reference) == pytest.approx(5 / 50, abs=1e-3)

    for where in (slice(10, 20), slice(0, 10)):  # speech in silence, two where one talks
        wrong = perfect.clone()
        wrong[where, :2] = 0.5
        assert loss_of(wrong, reference) > 0.05
    merged = torch.zeros(50, 3)
    merged[:, 0] = 1.0
    assert loss_of(merged, reference) > 1.0
    # what is not annotated is of no account
    annotated = torch.ones(50, dtype=torch.bool)
    annotated[10:20] = False
    wrong = perfect.clone()
    wrong[10:20] = 0.7
    assert loss_of(wrong, reference, annotated) == pytest.approx(0.0, abs=1e-3)


def test_silence_is_a_reference():
    quiet, loud = torch.full((20, 3), 0.0), torch.full((20, 3), 0.2)
    assert loss_of(quiet, torch.zeros(20, 0, dtype=torch.bool)) == 0.0
    assert loss_of(loud, torch.zeros(20, 0, dtype=torch.bool)) == pytest.approx(0.6)


def test_gradient_learns_who_speaks_when():
    """Down the gradient of a softmax over slots, random scores become the reference."""
    torch.manual_seed(0)
    reference = talk(0, 1, 2, 1, 0, num_speakers=3)
    scores = (0.1 * torch.randn(50, 4)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(60):
        rounds = [scores.softmax(dim=-1)[None]]
        loss = reference_loss(rounds, [reference], [torch.ones(50, dtype=torch.bool)], 1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    assert loss.item() < 0.1
    speakers = scores.argmax(dim=1)
    for k in range(3):  # no slot is shared by two speakers
        assert not set(speakers[reference[:, k]].tolist()) & set(
            speakers[~reference[:, k]].tolist()
        )


def test_files_without_reference_and_padding_do_not_count():
    reference = talk(0, 1, 0)
    all_known, none_known = torch.ones(30).bool(), torch.zeros(30).bool()
    weightings = torch.rand(1, 30, 3)
    alone = loss_of(weightings[0], reference)
    rounds = [torch.cat([weightings, torch.zeros(1, 5, 3)], dim=1).expand(3, -1, -1)] * 2
    rounds = [r.clone().requires_grad_() for r in rounds]
    losses = reference_loss(
        rounds, [reference, None, reference], [all_known, None, none_known], step=1
    )
    assert losses.tolist() == pytest.approx([alone] * 2)
    losses.sum().backward()
    assert (rounds[0].grad[1:] == 0).all() and (rounds[0].grad[0, 30:] == 0).all()
    nothing = reference_loss(rounds, [None] * 3, [None] * 3, step=1)
    nothing.sum().backward()  # still part of the graph
    assert nothing.tolist() == [0.0, 0.0]


# -- a known number of speakers -------------------------------------------------------------------


def test_speech_beyond_the_known_number():
    mass = torch.tensor([[4.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    rounds = [(mass / 10)[:, None].expand(-1, 10, -1)]
    assert count_loss(rounds, [2, None, None]).item() == pytest.approx(0.3)
    assert count_loss(rounds, [2, 1, None]).item() == pytest.approx((0.3 + 0.75) / 2)
    assert count_loss(rounds, [4, 9, 1]).item() == 0.0
    assert count_loss(rounds, [0, None, None]).item() == pytest.approx(1.0)  # nobody
    assert count_loss(rounds, [None] * 3).item() == 0.0
    # three people are tagged: there are no fewer
    likes = [torch.tensor([5, 1, 7]), None, None]
    assert count_loss(rounds, [2, None, None], likes).item() == pytest.approx(0.1)


def test_gradient_empties_the_weakest_slots():
    torch.manual_seed(0)
    scores = (torch.tensor([1.0, 0.8, 0.6, 0.4]) + 0.1 * torch.randn(1, 40, 4)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(50):
        loss = count_loss([scores.softmax(dim=-1)], [2])
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    share = scores.softmax(dim=-1).mean(dim=1)[0]
    assert share[:2].min() > 0.2 and share[2:].max() < 0.05


def test_gradients_of_mixed_precision():
    """Which are large where a slot is sure of what is wrong."""
    reference = talk(0, 1)
    scores = (12 * torch.eye(2)[[1] * 14 + [0] * 6]).requires_grad_()
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            weightings = [scores.softmax(-1)[None]]
            loss = reference_loss(weightings, [reference], [torch.ones(20).bool()], step=1)
        gradients.append(torch.autograd.grad(655360 * loss.sum(), scores)[0])
    torch.testing.assert_close(*gradients)
