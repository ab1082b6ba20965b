"""Forward-backward over slots as a differentiable function.

A slot is a group of hidden states that share one emission (the phases of a turn), so that how
long a turn has lasted can change how soon it ends. Recursions are scaled, not logarithmic
(Rabiner, "A tutorial on hidden Markov models", 1989, section V.A).

The gradient is exact and costs one more pass. Posteriors are the gradient of the log-evidence with
respect to log-emissions, so the vector-Jacobian product of posteriors is a Hessian-vector
product, and the Hessian is symmetric: it is the directional derivative of posteriors along the
incoming gradient, which the same recursions carry as tangents.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.weighting import full_precision

LOWEST = -60.0
"""Emissions further than this below the best slot of their frame are raised to it: a frame is
never certain beyond what float32 can undo."""


class Posterior(NamedTuple):
    """What `forward_backward` returns."""

    slots: Tensor
    """(chain, batch, time, slot) posterior of each slot, sums to one over slots."""
    log_evidence: Tensor
    """(chain, batch) log-likelihood of the whole sequence under each chain."""


class Counted(NamedTuple):
    """What `count_transitions` returns."""

    slots: Tensor
    log_evidence: Tensor
    transitions: Tensor
    """(chain, batch, state, state) expected number of each, without gradient."""


def forward_backward(
    log_emission: Tensor,
    transition: Tensor,
    initial: Tensor,
    window: int | None = None,
    overlap: int = 500,
) -> Posterior:
    """Posterior of slots under several Markov chains at once.

    Parameters
    ----------
    log_emission : (batch, time, slot) tensor
        Log-likelihood of each frame in each slot, up to a constant per frame.
    transition : (chain, state, state) or (chain, batch, state, state) tensor
        Probabilities from (row) state to state; state = slot * phases + phase. Positive.
    initial : (chain, state) tensor
        Probabilities of the first frame.
    window : int, optional
        Sequences longer than this are cut into windows that run side by side, the first one from
        the first frame on. Defaults to none.
    overlap : int, optional
        Frames on both sides of a window that only prepare it. A chain forgets where it began at
        an exponential rate; 500 frames are several mean turns of the slowest walk used here.

    Returns
    -------
    posterior : Posterior
    """
    return _in_windows(log_emission, transition, initial, window, overlap, False)[0]


def count_transitions(
    log_emission: Tensor,
    transition: Tensor,
    initial: Tensor,
    window: int | None = None,
    overlap: int = 500,
) -> Counted:
    """`forward_backward`, and how often each transition is expected to have been made.

    In windows, transitions into the frames of the windows' overlaps are not counted twice.

    Returns
    -------
    counted : Counted
    """
    posterior, pairs = _in_windows(log_emission, transition, initial, window, overlap, True)
    with torch.no_grad():
        if transition.ndim == 3:
            transition = transition.unsqueeze(1)
        return Counted(*posterior, pairs * transition)


def _in_windows(
    log_emission: Tensor,
    transition: Tensor,
    initial: Tensor,
    window: int | None,
    overlap: int,
    count: bool,
) -> tuple[Posterior, Tensor]:
    """Posterior, and expected transitions over their probabilities, or nothing."""
    log_emission, transition, initial = map(full_precision, (log_emission, transition, initial))
    batch, num_frames, num_slots = log_emission.shape
    best = log_emission.amax(-1, keepdim=True)
    log_emission = (log_emission - best).clamp(min=LOWEST)
    if window is None or num_frames <= window + 2 * overlap:
        arrives = log_emission.new_ones(num_frames, 1) if count else None
        slots, log_scale, pairs = _ForwardBackward.apply(
            log_emission.transpose(0, 1), transition, initial, arrives
        )
        # (time, chain, batch, slot), (time, chain, batch)
        slots = slots.permute(1, 2, 0, 3)
        return Posterior(slots, log_scale.sum(0) + best.sum((1, 2))), pairs

    num_windows = -(-num_frames // window)
    size = window + 2 * overlap
    padded = F.pad(log_emission, (0, 0, overlap, overlap + num_windows * window - num_frames))
    windows = padded.unfold(1, size, window)  # (batch, window, slot, size)
    windows = windows.permute(3, 0, 1, 2).reshape(size, batch * num_windows, num_slots)
    arrives = None
    if count:  # each frame but the first is arrived at in one window
        frame = torch.arange(size, device=log_emission.device).unsqueeze(1) - overlap
        inside = (frame >= 0) & (frame < window)
        frame = frame + window * torch.arange(num_windows, device=log_emission.device)
        arrives = (inside & (frame > 0) & (frame < num_frames)).to(log_emission)
        arrives = arrives.repeat(1, batch)  # (size, batch * window)
    if transition.ndim == 4:
        transition = transition.repeat_interleave(num_windows, 1)
    slots, log_scale, pairs = _ForwardBackward.apply(
        windows, transition, initial, arrives, overlap, num_windows
    )
    inside = slice(overlap, overlap + window)
    slots, log_scale = slots[inside], log_scale[inside]
    chains = len(transition)
    slots = slots.permute(1, 2, 0, 3).reshape(chains, batch, -1, num_slots)[:, :, :num_frames]
    log_scale = log_scale.permute(1, 2, 0).reshape(chains, batch, -1)[:, :, :num_frames]
    if count:
        pairs = pairs.unflatten(1, (batch, num_windows)).sum(2)
    return Posterior(slots, log_scale.sum(2) + best.sum((1, 2))), pairs


def _without_autocast(function: Callable) -> Callable:
    """The same in full precision: products of half precision would add up over time."""

    @wraps(function)
    def wrapped(ctx, values: Tensor, *others):
        with torch.autocast(values.device.type, enabled=False):
            return function(ctx, values, *others)

    return wrapped


class _ForwardBackward(torch.autograd.Function):
    """(time, batch, slot) log-emissions to (time, chain, batch, slot) posteriors.

    The second output, (time, chain, batch), are logarithms of the scale of each step, which sum
    to the log-evidence. The third one, without gradient, are expected transitions over their
    probabilities, (chain, batch, state, state), into the frames where `arrives`, (time, 1 or
    batch), is one; nothing where there is no `arrives`.

    Sequences begin with the first frame, but for every `every`-th of them: these begin after
    `lead` frames, whose outputs mean nothing and must not be used.
    """

    @staticmethod
    @_without_autocast
    def forward(
        ctx,
        log_emission: Tensor,
        transition: Tensor,
        initial: Tensor,
        arrives: Tensor | None,
        lead: int = 0,
        every: int = 1,
    ):
        num_frames, batch, num_slots = log_emission.shape
        chains, states = initial.shape
        emission = log_emission.exp()[:, None, :, :, None]  # (T, 1, B, N, 1)
        shape = (chains, batch, num_slots, states // num_slots)
        alphas = emission.new_empty(num_frames, *shape)
        scales = emission.new_empty(num_frames, chains, batch, 1, 1)
        predicted = initial.unsqueeze(1).expand(chains, batch, states)
        for t in range(num_frames):
            if t == lead > 0:
                predicted[:, ::every] = initial.unsqueeze(1)
            alpha = predicted.view(shape) * emission[t]
            torch.sum(alpha, (-1, -2), keepdim=True, out=scales[t])
            torch.div(alpha, scales[t], out=alphas[t])
            predicted = _move(alphas[t].flatten(-2), transition)
        emission = emission / scales  # (T, M, B, N, 1), from here on relative to the scale
        betas = torch.empty_like(alphas)
        betas[-1] = 1.0
        _run_back(betas, emission, transition)
        slots = (alphas * betas).sum(-1)  # (T, M, B, N)
        ctx.save_for_backward(emission, transition, alphas, betas, slots)
        pairs = emission.new_empty(0)
        if arrives is not None:
            messages = (emission * betas * arrives[:, None, :, None, None]).flatten(-2)
            pairs = torch.einsum("tmbi,tmbj->mbij", alphas[:-1].flatten(-2), messages[1:])
        ctx.mark_non_differentiable(pairs)
        ctx.lead, ctx.every = lead, every
        return slots, scales.log().flatten(2), pairs

    @staticmethod
    @_without_autocast
    def backward(ctx, grad_slots: Tensor, grad_log_scales: Tensor, _: Tensor):
        emission, transition, alphas, betas, slots = ctx.saved_tensors
        direction = grad_slots.unsqueeze(-1)  # (T, M, B, N, 1), of log-emissions
        weight = grad_log_scales[-1][..., None, None]  # (M, B, 1, 1), of the log-evidence
        # (T - 1, M, B, 1, 1), of the log-evidence of the frames up to each
        more = -grad_log_scales.diff(dim=0)[..., None, None]
        # how the evidence moves, relative to itself; scales are held
        drift = (slots * grad_slots).sum((0, -1))[..., None, None]  # (M, B, 1, 1)

        alpha_dots = alphas * direction
        for t in range(1, len(alphas)):
            predicted_dot = _move(alpha_dots[t - 1].flatten(-2), transition)
            alpha_dots[t].addcmul_(predicted_dot.view_as(alphas[t]), emission[t])
        messages = emission * betas  # what t says to t - 1, before the transition
        message_dots = messages * direction
        message_dots[:-1] += emission[:-1] * more
        beta_dots = torch.zeros_like(betas)
        _run_back(beta_dots, emission, transition, message_dots)
        message_dots += emission * beta_dots
        beta_dots[:-1] += more
        slot_dots = (alpha_dots * betas + alphas * beta_dots).sum(-1)
        grad_log_emission = slot_dots + (weight - drift).squeeze(-1) * slots

        message_dots += (weight - drift) * messages
        messages, message_dots = messages.flatten(-2), message_dots.flatten(-2)
        alphas, alpha_dots = alphas.flatten(-2), alpha_dots.flatten(-2)
        grad_initial = message_dots[0].clone()
        grad_initial[:, :: ctx.every] = message_dots[ctx.lead, :, :: ctx.every]
        message_dots[: ctx.lead + 1, :, :: ctx.every] = 0.0
        sums = "tmbi,tmbj->mij" if transition.ndim == 3 else "tmbi,tmbj->mbij"
        grad_transition = torch.einsum(sums, alphas[:-1], message_dots[1:])
        grad_transition += torch.einsum(sums, alpha_dots[:-1], messages[1:])
        gradients = grad_log_emission.sum(1), grad_transition, grad_initial.sum(1)
        return *gradients, None, None, None


def _run_back(
    betas: Tensor, emission: Tensor, transition: Tensor, added: Tensor | None = None
) -> None:
    """Fill betas from the last frame, which is given, to the first.

    beta(t - 1) = transition (emission(t) beta(t) + added(t))
    """
    backward = transition.mT
    for t in range(len(betas) - 1, 0, -1):
        message = betas[t] * emission[t]
        if added is not None:
            message += added[t]
        betas[t - 1] = _move(message.flatten(-2), backward).view_as(betas[t])


def _move(states: Tensor, transition: Tensor) -> Tensor:
    """(M, B, S) by (M, S, S), or by (M, B, S, S), one a sequence."""
    if transition.ndim == 3:
        return torch.bmm(states, transition)
    return (states.unsqueeze(-2) @ transition).squeeze(-2)
