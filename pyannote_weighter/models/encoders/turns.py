"""How speakers take turns: Markov chains that are learned, and habits of those in a file."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

MOST_LEAVE = 0.9
"""Greatest probability that a turn ends with a frame, whatever the habits of its speaker."""


class Habits(NamedTuple):
    """How the speakers of a file take turns, beside what is learned of all files."""

    follow: Tensor
    """(B, N, N) who speaks next (column) where a turn (row) ends. Rows sum to one."""
    rate: Tensor
    """(B, N) how often turns end, as a factor."""


class TurnTaking(nn.Module):
    """Markov chains of turns: slots that are alike, each with phases of a turn.

    A chain is in one phase of one slot. From each phase it leaves for another slot (any of them
    alike) with a learned probability, arrives in a learned phase, and moves between phases as long
    as it stays. Phases are what lets turns be anything but memoryless: after a change another
    change is likely, after a long turn it is not. They begin as a diffusion from a shallow phase,
    from which turns end, to deeper ones.

    Parameters
    ----------
    dwell : sequence of float
        Mean frames of a turn that each chain begins with, one chain a time scale.
    num_phases : int
    """

    def __init__(self, dwell: tuple[float, ...] = (15.0, 40.0, 120.0), num_phases: int = 4):
        super().__init__()
        chains = len(dwell)
        rate = 1 / torch.tensor(dwell)[:, None]  # (M, 1)
        depth = torch.arange(num_phases, dtype=torch.float32)
        # half as likely to leave with every phase, about 1 / dwell on average
        leave = (rate * 2 * 0.5**depth).clamp(max=0.5)
        near = -(depth[:, None] - depth).abs()  # (J, J)
        self.leave = nn.Parameter(torch.logit(leave))
        self.stay = nn.Parameter((4 * near).expand(chains, -1, -1).clone())
        self.enter = nn.Parameter((-depth).expand(chains, -1).clone())
        self.prior = nn.Parameter(torch.zeros(chains))

    def forward(self, num_slots: int, habits: Habits | None = None) -> tuple[Tensor, Tensor]:
        """Transition and stationary probabilities, S = slots * phases.

        Parameters
        ----------
        num_slots : int
        habits : Habits, optional
            Of the speakers of each file. Defaults to slots that are alike.

        Returns
        -------
        transition : (M, S, S) tensor, with habits (M, B, S, S)
        stationary : (M, S) tensor
            Of slots that are alike.
        """
        leave = self.leave.sigmoid().unsqueeze(-1)  # (M, J, 1)
        within = (1 - leave) * self.stay.softmax(-1)  # (M, J, J)
        across = leave * self.enter.softmax(-1).unsqueeze(1)  # (M, J, J)
        phases = _stationary(within + across) / num_slots  # (M, J)
        if num_slots == 1:
            return within + across, phases
        same = torch.eye(num_slots, device=leave.device, dtype=leave.dtype)
        if habits is None:
            other = (1 - same) / (num_slots - 1)
            transition = _kronecker(same, within) + _kronecker(other, across)
        else:
            leaves = self.leaves(habits)  # (M, B, N, J)
            within = torch.einsum("ab,mzai,mij->mzaibj", same, 1 - leaves, self.stay.softmax(-1))
            across = torch.einsum(
                "zab,mzai,mj->mzaibj", habits.follow, leaves, self.enter.softmax(-1)
            )
            transition = (within + across).flatten(4, 5).flatten(2, 3)
        return transition, phases.repeat(1, num_slots)

    def leaves(self, habits: Habits) -> Tensor:
        """Probability (M, B, N, J) that a turn ends, by phase."""
        leave = self.leave.sigmoid()[:, None, None]  # (M, 1, 1, J)
        return (leave * habits.rate.unsqueeze(-1)).clamp(max=MOST_LEAVE)

    def ends(self, transitions: Tensor, weight: Tensor, habits: Habits) -> tuple[Tensor, Tensor]:
        """Ends of turns in a file, and how many its slots would have with a rate of one.

        Parameters
        ----------
        transitions : (M, B, S, S) tensor
            Expected number of each, see `count_transitions`.
        weight : (M, B) tensor
            Posterior of the chains.
        habits : Habits
            Under which they were counted.

        Returns
        -------
        ends : (B, N, N) tensor
            By who spoke (row) and who speaks next.
        expected : (B, N) tensor
        """
        M, B, S, _ = transitions.shape
        num_slots = habits.rate.shape[-1]
        pairs = torch.einsum("mb,mbst->mbst", weight, transitions)
        pairs = pairs.view(M, B, num_slots, -1, num_slots, S // num_slots)
        ends = pairs.sum((0, 3, 5))
        ends = ends - torch.diag_embed(ends.diagonal(dim1=1, dim2=2))
        expected = (pairs.sum((4, 5)) * self.leaves(habits)).sum((0, 3)) / habits.rate
        return ends, expected


def _kronecker(slots: Tensor, phases: Tensor) -> Tensor:
    """(N, N), (M, J, J) to (M, N * J, N * J)."""
    product = torch.einsum("ab,mij->maibj", slots, phases)
    return product.flatten(3, 4).flatten(1, 2)


def _stationary(transition: Tensor) -> Tensor:
    """(M, J, J) to the (M, J) distribution that it leaves unchanged."""
    size = transition.shape[-1]
    ones = transition.new_ones(size, size)
    eye = torch.eye(size, device=transition.device, dtype=transition.dtype)
    # p (P - I + 1 1') = 1', as the entries of p sum to one
    system = (transition - eye + ones).transpose(1, 2)
    return torch.linalg.solve(system, transition.new_ones(len(transition), size))
