"""Forward-backward against sums over all paths, its gradient against finite differences."""

import itertools

import pytest
import torch

from pyannote_weighter.forward_backward import count_transitions, forward_backward


def random_chains(chains: int, states: int, seed: int = 0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    transition = torch.rand(chains, states, states, generator=generator, dtype=dtype) + 0.05
    initial = torch.rand(chains, states, generator=generator, dtype=dtype) + 0.05
    return transition / transition.sum(-1, keepdim=True), initial / initial.sum(-1, keepdim=True)


def sum_over_paths(log_emission, transition, initial):
    """Posterior (time, slot), evidence and expected transitions of a sequence and a chain."""
    num_frames, num_slots = log_emission.shape
    states = len(initial)
    phases = states // num_slots
    slots, evidence = torch.zeros(num_frames, num_slots, dtype=torch.double), 0.0
    counts = torch.zeros(states, states, dtype=torch.double)
    for path in itertools.product(range(states), repeat=num_frames):
        probability = initial[path[0]]
        for before, after in itertools.pairwise(path):
            probability = probability * transition[before, after]
        for t, state in enumerate(path):
            probability = probability * log_emission[t, state // phases].exp()
        evidence += probability
        for t, state in enumerate(path):
            slots[t, state // phases] += probability
        for before, after in itertools.pairwise(path):
            counts[before, after] += probability
    return slots / evidence, evidence.log(), counts / evidence


@pytest.mark.parametrize("phases", [1, 2])
def test_posteriors_and_evidence_are_sums_over_all_paths(phases):
    emission = 2 * torch.randn(2, 4, 2, dtype=torch.double, generator=torch.Generator())
    transition, initial = random_chains(3, 2 * phases)
    found = forward_backward(emission, transition, initial)
    assert found.slots.shape == (3, 2, 4, 2)
    for chain, batch in itertools.product(range(3), range(2)):
        slots, evidence, _ = sum_over_paths(emission[batch], transition[chain], initial[chain])
        torch.testing.assert_close(found.slots[chain, batch], slots)
        torch.testing.assert_close(found.log_evidence[chain, batch], evidence)


@pytest.mark.parametrize("own", [False, True])
def test_transitions_are_counted_over_all_paths(own):
    """`own`: each sequence has a chain of its own."""
    emission = 2 * torch.randn(2, 4, 2, dtype=torch.double, generator=torch.Generator())
    transition, initial = random_chains(6, 4)
    initial = initial[:3]
    transition = transition.view(3, 2, 4, 4) if own else transition[:3]
    found = count_transitions(emission, transition, initial)
    posterior = forward_backward(emission, transition, initial)
    assert found.transitions.shape == (3, 2, 4, 4) and not found.transitions.requires_grad
    for chain, batch in itertools.product(range(3), range(2)):
        chains = transition[chain, batch] if own else transition[chain]
        slots, evidence, counts = sum_over_paths(emission[batch], chains, initial[chain])
        for result in (found, posterior):
            torch.testing.assert_close(result.slots[chain, batch], slots)
            torch.testing.assert_close(result.log_evidence[chain, batch], evidence)
        torch.testing.assert_close(found.transitions[chain, batch], counts)


@pytest.mark.parametrize("num_frames", [1, 999, 1000, 1001, 1234])
def test_windows_count_each_transition_once(num_frames):
    emission = torch.randn(2, num_frames, 2, generator=torch.Generator().manual_seed(3))
    transition = torch.tensor([[[0.95, 0.05], [0.1, 0.9]], [[0.7, 0.3], [0.5, 0.5]]])
    initial = torch.tensor([[2 / 3, 1 / 3], [5 / 8, 3 / 8]])  # stationary
    for chains in (transition, transition.unsqueeze(1).repeat(1, 2, 1, 1)):
        whole = count_transitions(emission, chains, initial)
        cut = count_transitions(emission, chains, initial, window=100, overlap=200)
        total = torch.full((2, 2), float(num_frames - 1))
        torch.testing.assert_close(whole.transitions.sum((2, 3)), total, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(cut.transitions, whole.transitions, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(cut.slots, whole.slots, rtol=0, atol=1e-4)


def test_gradient_of_chains_of_each_sequence():
    emission = torch.randn(2, 5, 2, dtype=torch.double, requires_grad=True)
    transition, initial = random_chains(4, 4)
    transition = transition.view(2, 2, 4, 4).requires_grad_()
    inputs = [emission, transition, initial[:2].requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: tuple(forward_backward(*x)), inputs)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_gradient_is_that_of_finite_differences(num_frames):
    generator = torch.Generator().manual_seed(1)
    emission = torch.randn(2, num_frames, 3, dtype=torch.double, generator=generator)
    transition, initial = random_chains(2, 6)
    inputs = [x.requires_grad_() for x in (emission, transition, initial)]
    assert torch.autograd.gradcheck(lambda *x: tuple(forward_backward(*x)), inputs)


def test_gradient_reaches_evidence_alone_and_posterior_alone():
    emission = torch.randn(2, 5, 2, dtype=torch.double, requires_grad=True)
    transition, initial = random_chains(1, 2)
    for pick in range(2):
        assert torch.autograd.gradcheck(
            lambda x, pick=pick: forward_backward(x, transition, initial)[pick], [emission]
        )


def test_adding_a_constant_to_a_frame_changes_evidence_only():
    emission = torch.randn(1, 6, 2, dtype=torch.double)
    transition, initial = random_chains(1, 2)
    before = forward_backward(emission, transition, initial)
    offset = torch.zeros(1, 6, 1, dtype=torch.double)
    offset[0, 2] = 1e4
    after = forward_backward(emission + offset, transition, initial)
    torch.testing.assert_close(after.slots, before.slots)
    torch.testing.assert_close(after.log_evidence, before.log_evidence + 1e4)


def test_windows_that_overlap_give_what_the_whole_gives():
    generator = torch.Generator().manual_seed(2)
    emission = torch.randn(2, 1234, 3, generator=generator)
    transition = torch.tensor([[[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]])
    initial = torch.full((1, 3), 1 / 3)
    whole = forward_backward(emission, transition, initial)
    cut = forward_backward(emission, transition, initial, window=100, overlap=300)
    assert cut.slots.shape == whole.slots.shape
    torch.testing.assert_close(cut.slots, whole.slots, atol=1e-4, rtol=0)
    torch.testing.assert_close(cut.log_evidence, whole.log_evidence, atol=0.1, rtol=1e-4)
    # the frames between windows do matter: without them it is another result
    bare = forward_backward(emission, transition, initial, window=100, overlap=1)
    assert (bare.slots - whole.slots).abs().max() > 0.01


@pytest.mark.parametrize("function", [forward_backward, count_transitions])
def test_windows_start_where_the_whole_starts(function):
    emission = torch.randn(2, 150, 2, generator=torch.Generator().manual_seed(4))
    transition, _ = random_chains(2, 4, dtype=torch.float)
    initial = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.01, 0.01, 0.01, 0.97]])
    whole = function(emission, transition, initial)
    cut = function(emission, transition, initial, window=20, overlap=30)
    for ours, expected in zip(cut, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_gradient_in_windows_is_that_of_finite_differences(own):
    """`own`: each sequence has a chain of its own."""
    generator = torch.Generator().manual_seed(5)
    emission = torch.randn(2, 11, 2, dtype=torch.double, generator=generator)
    transition, initial = random_chains(4, 4)
    transition, initial = transition.view(2, 2, 4, 4) if own else transition[:2], initial[:2]
    inputs = [x.requires_grad_() for x in (emission, transition, initial)]
    for overlap in (0, 1, 3):
        assert torch.autograd.gradcheck(
            lambda *x, n=overlap: tuple(forward_backward(*x, window=3, overlap=n)), inputs
        )


def test_autocast_changes_nothing():
    emission = 3 * torch.randn(1, 200, 3, generator=torch.Generator().manual_seed(6))
    chains = random_chains(2, 6, dtype=torch.float)
    gradients = []
    for enabled in (False, True):
        inputs = [x.clone().requires_grad_() for x in (emission, *chains)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = forward_backward(*inputs)
            loss = found.slots.square().sum() + found.log_evidence.sum()
            gradients.append([*found, *torch.autograd.grad(loss, inputs)])
            if enabled:
                half = forward_backward(emission.bfloat16(), *chains)
                assert half.slots.dtype == torch.float32
    for plain, cast in zip(*gradients, strict=True):
        assert torch.equal(plain, cast)


def test_hopeless_scores_stay_finite():
    emission = torch.zeros(1, 50, 2)
    emission[0, ::2, 0] = -1e6
    emission[0, 1::2, 1] = -1e6
    emission.requires_grad_()
    transition, initial = random_chains(2, 4, dtype=torch.float)
    found = forward_backward(emission, transition, initial)
    (found.slots.square().sum() + found.log_evidence.sum()).backward()
    assert found.slots.isfinite().all() and emission.grad.isfinite().all()
    torch.testing.assert_close(found.slots.sum(-1), torch.ones(2, 1, 50))
