"""Chains of turns, and what speakers of a file do otherwise."""

import torch

from pyannote_weighter.forward_backward import count_transitions
from pyannote_weighter.models.encoders.turns import MOST_LEAVE, Habits, TurnTaking


def test_turn_taking_is_a_markov_chain_that_starts_where_it_stays():
    turns = TurnTaking(num_phases=3)
    for num_slots in (1, 2, 5):
        transition, initial = turns(num_slots)
        assert transition.shape == (3, 3 * num_slots, 3 * num_slots)
        assert (transition > 0).all()
        torch.testing.assert_close(transition.sum(-1), torch.ones(3, 3 * num_slots))
        moved = torch.einsum("ms,mst->mt", initial, transition)
        torch.testing.assert_close(moved, initial, atol=1e-5, rtol=0)
        # slots are alike
        torch.testing.assert_close(
            initial.view(3, num_slots, 3).sum(-1).std(1, False) + 1, torch.ones(3)
        )


def alike(batch: int, num_slots: int) -> Habits:
    follow = (1 - torch.eye(num_slots)) / (num_slots - 1)
    return Habits(follow.repeat(batch, 1, 1), torch.ones(batch, num_slots))


def test_speakers_without_habits_are_alike():
    turns = TurnTaking(num_phases=3)
    usual, initial = turns(4)
    found, same = turns(4, alike(2, 4))
    assert found.shape == (3, 2, 12, 12)
    torch.testing.assert_close(found, usual.unsqueeze(1).expand_as(found))
    torch.testing.assert_close(same, initial)


def test_habits_say_who_follows_and_how_often_turns_end():
    turns = TurnTaking(num_phases=3)
    habits = alike(2, 3)
    habits.follow[1] = torch.tensor([[0.0, 0.9, 0.1], [0.3, 0.0, 0.7], [1.0, 0.0, 0.0]])
    habits.rate[1] = torch.tensor([2.0, 0.5, 1e6])
    transition = turns(3, habits)[0].view(3, 2, 3, 3, 3, 3)  # chain, file, from, phase, to, phase
    torch.testing.assert_close(transition.sum((-1, -2)), torch.ones(3, 2, 3, 3))
    leave = turns.leave.sigmoid()  # (chain, phase)
    for slot, rate in enumerate(habits.rate[1]):
        ends = 1 - transition[:, 1, slot, :, slot].sum(-1)
        torch.testing.assert_close(ends, (leave * rate).clamp(max=MOST_LEAVE))
        to = transition[:, 1, slot].sum(-1)  # (chain, phase, to)
        to[..., slot] = 0.0
        follow = habits.follow[1, slot].expand_as(to)
        torch.testing.assert_close(to / to.sum(-1, keepdim=True), follow)


def test_ends_of_turns_are_those_that_are_heard():
    """Where scores leave no doubt, and as many as a rate of one expects where it holds."""
    turns = TurnTaking(dwell=(10.0, 30.0), num_phases=1)
    speaker = torch.tensor([0] * 7 + [1] * 4 + [0] * 5 + [2] * 3 + [1] * 6 + [1] * 6)
    scores = 50 * torch.eye(3)[speaker].unsqueeze(0)
    habits = alike(1, 3)._replace(rate=torch.tensor([[2.0, 0.5, 3.0]]))
    counted = count_transitions(scores, *turns(3, habits))
    weight = torch.tensor([[0.25], [0.75]])
    ends, expected = turns.ends(counted.transitions, weight, habits)
    torch.testing.assert_close(ends[0], torch.tensor([[0, 1.0, 1], [1, 0, 0], [0, 1, 0]]))
    frames = torch.tensor([12.0, 15.0, 3.0])  # the last one has no next
    leave = turns.leave.sigmoid()[:, 0]
    torch.testing.assert_close(expected[0], frames * (leave * weight[:, 0]).sum())
