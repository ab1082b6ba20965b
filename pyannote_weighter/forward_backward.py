"""Forward-backward over slots as a differentiable function.

A slot is a group of hidden states that share one emission (the phases of a turn), so that how
long a turn has lasted can change how soon it ends. Recursions are scaled, not logarithmic
(Rabiner, "A tutorial on hidden Markov models", 1989, section V.A).

The gradient is exact and costs one more pass. Posteriors are the gradient of the log-evidence with
respect to log-emissions, so the vector-Jacobian product of posteriors is a Hessian-vector
product, and the Hessian is symmetric: it is the directional derivative of posteriors along the
incoming gradient, which the same recursions carry as tangents.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST = -60.0
"""Emissions further than this below the best slot of their frame are raised to it: a frame is never
certain beyond what float32 can undo."""


class Posterior(NamedTuple):
    """What `forward_backward` returns."""

    slots: Tensor
    """(chain, batch, time, slot) posterior of each slot, sums to one over slots."""
    log_evidence: Tensor
    """(chain, batch) log-likelihood of the whole sequence under each chain."""


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
    transition : (chain, state, state) tensor
        Probabilities from (row) state to state; state = slot * phases + phase. Positive.
    initial : (chain, state) tensor
        Probabilities of the first frame.
    window : int, optional
        Sequences longer than this are cut into windows that run side by side. Defaults to none.
    overlap : int, optional
        Frames on both sides of a window that only prepare it. A chain forgets where it began at
        an exponential rate; 500 frames are several mean turns of the slowest walk used here.

    Returns
    -------
    posterior : Posterior
    """
    batch, num_frames, num_slots = log_emission.shape
    best = log_emission.amax(-1, keepdim=True)
    log_emission = (log_emission - best).clamp(min=LOWEST)
    if window is None or num_frames <= window + 2 * overlap:
        slots, log_scale = _ForwardBackward.apply(
            log_emission.transpose(0, 1), transition, initial
        )
        # (time, chain, batch, slot), (time, chain, batch)
        slots = slots.permute(1, 2, 0, 3)
        return Posterior(slots, log_scale.sum(0) + best.sum((1, 2)))

    num_windows = -(-num_frames // window)
    size = window + 2 * overlap
    padded = F.pad(log_emission, (0, 0, overlap, overlap + num_windows * window - num_frames))
    windows = padded.unfold(1, size, window)  # (batch, window, slot, size)
    windows = windows.permute(3, 0, 1, 2).reshape(size, batch * num_windows, num_slots)
    slots, log_scale = _ForwardBackward.apply(windows, transition, initial)
    slots, log_scale = slots[overlap:-overlap], log_scale[overlap:-overlap]
    chains = len(transition)
    slots = slots.permute(1, 2, 0, 3).reshape(chains, batch, -1, num_slots)[:, :, :num_frames]
    log_scale = log_scale.permute(1, 2, 0).reshape(chains, batch, -1)[:, :, :num_frames]
    return Posterior(slots, log_scale.sum(2) + best.sum((1, 2)))


class _ForwardBackward(torch.autograd.Function):
    """(time, batch, slot) log-emissions to (time, chain, batch, slot) posteriors.

    The second output, (time, chain, batch), are logarithms of the scale of each step, which sum
    to the log-evidence; their gradient must be the same at every time.
    """

    @staticmethod
    def forward(ctx, log_emission: Tensor, transition: Tensor, initial: Tensor):
        emission = log_emission.exp()  # (T, B, N)
        num_frames, batch, num_slots = emission.shape
        chains, states = initial.shape
        shape = (chains, batch, num_slots, states // num_slots)
        alphas = emission.new_empty(num_frames, chains, batch, states)
        scales = emission.new_empty(num_frames, chains, batch, 1)
        predicted = initial.unsqueeze(1).expand(chains, batch, states)
        for t in range(num_frames):
            alpha = _emit(predicted, emission[t], shape)
            torch.sum(alpha, -1, keepdim=True, out=scales[t])
            torch.div(alpha, scales[t], out=alphas[t])
            predicted = torch.bmm(alphas[t], transition)
        slots = emission.new_empty(num_frames, *shape[:3])
        beta = emission.new_ones(chains, batch, states)
        backward = transition.transpose(1, 2)
        for t in range(num_frames - 1, -1, -1):
            torch.sum((alphas[t] * beta).view(shape), -1, out=slots[t])
            beta = torch.bmm(_emit(beta, emission[t], shape) / scales[t], backward)
        ctx.save_for_backward(emission, transition, initial, alphas, scales, slots)
        return slots, scales.squeeze(-1).log()

    @staticmethod
    def backward(ctx, grad_slots: Tensor, grad_log_scales: Tensor):
        emission, transition, initial, alphas, scales, slots = ctx.saved_tensors
        num_frames, chains, batch, states = alphas.shape
        shape = slots.shape[1:] + (states // slots.shape[-1],)
        direction = grad_slots.unsqueeze(-1)  # (T, M, B, N, 1), of log-emissions
        weight = grad_log_scales[0].unsqueeze(-1)  # (M, B, 1), of the log-evidence

        # tangents of the forward recursion
        alpha_dots = torch.empty_like(alphas)
        scale_dots = torch.empty_like(scales)
        predicted_dot = torch.zeros_like(alphas[0])
        for t in range(num_frames):
            alpha_dot = _emit(predicted_dot, emission[t], shape)
            moved = (alphas[t].view(shape) * direction[t]).view_as(alphas[t])
            alpha_dot = alpha_dot / scales[t] + moved
            torch.sum(alpha_dot, -1, keepdim=True, out=scale_dots[t])  # relative to the scale
            torch.sub(alpha_dot, alphas[t] * scale_dots[t], out=alpha_dots[t])
            predicted_dot = torch.bmm(alpha_dots[t], transition)

        # and of the backward one
        grad_log_emission = torch.empty_like(slots)
        messages = torch.empty_like(alphas)  # what comes back from t + 1 into transition
        message_dots = torch.empty_like(alphas)
        beta, beta_dot = torch.ones_like(alphas[0]), torch.zeros_like(alphas[0])
        backward = transition.transpose(1, 2)
        for t in range(num_frames - 1, -1, -1):
            gamma_dot = alpha_dots[t] * beta + alphas[t] * beta_dot
            torch.sum(gamma_dot.view(shape), -1, out=grad_log_emission[t])
            moved = beta_dot + (beta.view(shape) * direction[t]).view_as(beta)
            messages[t] = _emit(beta, emission[t], shape) / scales[t]
            message_dots[t] = _emit(moved, emission[t], shape) / scales[t]
            message_dots[t] -= messages[t] * scale_dots[t]
            beta = torch.bmm(messages[t], backward)
            beta_dot = torch.bmm(message_dots[t], backward)
        grad_log_emission = (grad_log_emission + weight * slots).sum(1)  # (T, B, N)
        grad_initial = (message_dots[0] + weight * messages[0]).sum(1)  # (M, S)
        later = message_dots[1:] + weight * messages[1:]
        grad_transition = torch.einsum("tmbi,tmbj->mij", alphas[:-1], later)
        grad_transition += torch.einsum("tmbi,tmbj->mij", alpha_dots[:-1], messages[1:])
        return grad_log_emission, grad_transition, grad_initial


def _emit(states: Tensor, emission: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(chain, batch, state) times (batch, slot), the same for all phases of a slot."""
    return (states.view(shape) * emission.unsqueeze(-1)).view(states.shape)
