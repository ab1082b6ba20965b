"""Likes whose cost is far above their speaker's are left out, and come back."""

import math

import pytest
import torch

from pyannote_weighter.losses import SetCriterion, TrustedLikes, any_slot


def slow_excess(likes, costs) -> list[float]:
    """Cost of each like above the lower median of its speaker's, files then speakers ascending."""
    excess = []
    for number, speakers in enumerate(likes):
        for speaker in sorted(set(speakers or [])):
            own = sorted(
                costs[n][speaker] for n, names in enumerate(likes) if speaker in (names or [])
            )
            excess.append(costs[number][speaker] - own[(len(own) - 1) // 2])
    return excess


def tensors(likes) -> list:
    return [None if x is None else torch.tensor(x).long() for x in likes]


def test_excess_and_choice_against_plain_python():
    torch.manual_seed(0)
    likes = [sorted(torch.randperm(6)[:3].tolist()) for _ in range(20)] + [None, []]
    claims = torch.rand(22, 6)
    trust = TrustedLikes(tensors(likes), 6, wrong=0.2, warm_up=1, ramp=2)
    files = [[n] for n in range(22)]
    trust.observe(claims, tensors(likes), files)
    slow = slow_excess(likes, (-torch.log(claims + 1e-8)).tolist())
    assert trust.excess().tolist() == pytest.approx(slow, abs=1e-5)

    for epoch, left_out in ((0, 0), (1, 6), (2, 12), (5, 12)):  # of 60
        trust.set_epoch(epoch)
        assert (~trust.trusted).sum() == left_out
        worst = sorted(range(60), key=lambda i: -slow[i])[:left_out]
        assert not trust.trusted[worst].any()
    kept = trust.keep(tensors(likes), files)
    assert kept[20] is None and kept[21].tolist() == []
    assert sum(len(x) for x in kept if x is not None) == 48


def test_costs_are_averaged_and_likes_come_back():
    likes = tensors([[0], [0], [0], [0]])
    trust = TrustedLikes(likes, 1, wrong=0.25, warm_up=1, ramp=1)
    files = [[0], [1], [2], [3]]
    trust.observe(torch.tensor([[0.1], [0.9], [0.9], [0.9]]), likes, files)
    trust.set_epoch(1)
    assert trust.trusted.tolist() == [False, True, True, True]
    for _ in range(4):  # what is left out is still observed
        trust.observe(torch.tensor([[0.9], [0.9], [0.1], [0.9]]), likes, files)
    assert trust.cost[1].item() == pytest.approx(-math.log(0.9), abs=1e-5)
    trust.set_epoch(2)
    assert trust.trusted.tolist() == [True, True, False, True]


def test_spliced_files_and_checkpoints():
    likes = tensors([[0, 2], [1, 2], [3]])
    trust = TrustedLikes(likes, 4, wrong=0.4)
    trust.trusted[:] = torch.tensor([False, True, True, False, True])  # 0, 2 | 1, 2 | 3
    (kept,) = trust.keep([torch.tensor([0, 1, 2])], [[0, 1]])
    assert kept.tolist() == [1, 2]  # 2 is believed in one of them
    trust.observe(torch.tensor([[0.5, 0.25, 0.125, 0.9]]), [torch.tensor([0, 1, 2])], [[0, 1]])
    expected = [math.log(2), math.log(8), math.log(4), math.log(8)]
    assert trust.cost[:4].tolist() == pytest.approx(expected, abs=1e-5)
    assert trust.cost[4].isnan()
    again = TrustedLikes(likes, 4, wrong=0.4)
    again.load_state_dict(trust.state_dict())
    assert again.trusted.tolist() == trust.trusted.tolist()


def test_unconfirmed_likes_take_nobodys_place():
    """Nothing teaches them, so that they cost most; they are out already."""
    torch.manual_seed(0)
    likes = tensors([[n % 25, (n + 1) % 25] for n in range(50)])
    confirmed = [torch.tensor([True, n >= 10]) for n in range(50)]
    trust = TrustedLikes(likes, 25, wrong=0.1, confirmed=confirmed)
    files = [[n] for n in range(50)]
    claims = 0.7 + 0.2 * torch.rand(50, 25)
    for n in range(10):
        claims[n, likes[n][1]] = 1e-3
    for n in range(20, 30):  # wrong
        claims[n, likes[n][0]] = 0.2
    trust.observe(claims, likes, files)
    costs = (-torch.log(claims + 1e-8)).tolist()
    known = [[k for k in x.tolist() if s[x == k]] for x, s in zip(likes, confirmed, strict=True)]
    excess = trust.excess()
    assert excess[trust.confirmed].tolist() == pytest.approx(slow_excess(known, costs), abs=1e-5)
    assert excess[~trust.confirmed].isnan().all()
    for epoch, left_out in ((1, 4), (2, 9)):  # of 90
        trust.set_epoch(epoch)
        assert (trust.confirmed & ~trust.trusted).sum() == left_out
        kept = trust.keep(likes, files)
        assert sum(map(len, kept)) == 90 - left_out
    gone = [n for n in range(10, 50) if len(kept[n]) < 2]
    assert len(gone) == 9 and set(gone) <= set(range(20, 30))


@pytest.mark.parametrize(
    "others", [[[0, 2], [1, 2]], [[0, 2], [1, 2], [4]], [[0], [1], [3]]], ids=str
)
def test_state_of_other_likes_is_refused(others):
    trust = TrustedLikes(tensors([[0, 2], [1, 2], [3]]), 5, wrong=0.4)
    state = torch.nn.ModuleDict({"trust": trust}).state_dict()
    other = torch.nn.ModuleDict({"trust": TrustedLikes(tensors(others), 5, wrong=0.4)})
    with pytest.raises(ValueError, match="knows 5 likes and this training .*Go on with what the"):
        other.load_state_dict(state)
    other.load_state_dict({}, strict=False)


@pytest.mark.parametrize("wrong", [-0.1, 0.5, 1.0])
def test_half_wrong_is_too_much(wrong):
    with pytest.raises(ValueError, match="from 0 to under 0.5"):
        TrustedLikes([], 0, wrong)


# -- a toy: slots are noisy voices, a fifth of the likes is wrong ---------------------------------

FILES, SPEAKERS, PRESENT, DIMENSION = 80, 12, 3, 16


def toy():
    """Slots (file, slot, D), who is present, and likes of which 20 % name somebody else."""
    generator = torch.Generator().manual_seed(3)
    voices = torch.randn(SPEAKERS, DIMENSION, generator=generator)
    voices = torch.nn.functional.normalize(voices, dim=-1)
    present = torch.rand(FILES, SPEAKERS, generator=generator).argsort(dim=1)[:, :PRESENT]
    slots = voices[present]
    slots = slots + 0.15 * torch.randn(slots.shape, generator=generator)
    likes = present.clone()
    absent = torch.rand(FILES, SPEAKERS, generator=generator)
    absent = absent.scatter(1, present, -1.0).argmax(dim=1)
    chosen = torch.randperm(FILES * PRESENT, generator=generator)[: FILES * PRESENT // 5]
    wrong = torch.zeros(FILES, PRESENT, dtype=torch.bool)
    wrong.view(-1)[chosen] = True
    wrong[:, 1:] &= ~wrong[:, :1]  # one wrong like a file at most
    wrong[:, 2] &= ~wrong[:, 1]
    likes[wrong] = absent[wrong.any(dim=1)]
    return voices, slots, present, list(likes), wrong


def learn(wrong_share: float, epochs: int = 8):
    """Prototypes learned from the likes of the toy; mean posterior of who is present."""
    voices, slots, present, likes, wrong = toy()
    torch.manual_seed(0)
    prototypes = (voices + 0.5 * torch.randn(SPEAKERS, DIMENSION)).requires_grad_()
    optimizer = torch.optim.Adam([prototypes], lr=0.02)
    criterion, trust = SetCriterion(lambda_=0.1), TrustedLikes(likes, SPEAKERS, wrong_share)
    confidence = torch.ones(FILES, PRESENT)

    def posteriors():
        cosine = torch.nn.functional.normalize(prototypes, dim=-1) @ slots.flatten(0, 1).T
        return (10 * cosine.T).log_softmax(dim=-1).unflatten(0, (FILES, PRESENT))

    order = torch.Generator().manual_seed(1)
    for epoch in range(epochs):
        trust.set_epoch(epoch)
        for batch in torch.randperm(FILES, generator=order).split(8):
            log_p = posteriors()[batch]
            batch_likes, files = [likes[i] for i in batch], [[int(i)] for i in batch]
            trust.observe(any_slot(confidence[batch], log_p), batch_likes, files)
            loss = criterion(confidence[batch], log_p, trust.keep(batch_likes, files)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = posteriors().gather(-1, present[..., None]).exp().mean().item()
    flat = torch.cat([wrong[i][likes[i].argsort()] for i in range(FILES)])
    return right, trust.trusted, flat


def test_a_fifth_of_wrong_likes():
    plain, _, wrong = learn(0.0)
    share = wrong.float().mean().item()
    assert 0.15 < share < 0.2
    robust, trusted, wrong = learn(share)
    found = (~trusted & wrong).sum() / wrong.sum()
    assert found > 0.85  # of the wrong ones; as many right ones are lost
    assert robust > plain + 0.02, (plain, robust)
