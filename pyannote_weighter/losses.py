"""Losses between what a file is tagged with and what its slots claim.

With y_hat = c p in [0, 1], the confidence of a slot times its posterior of a speaker:

    wBCE(y, y_hat) = -y ln(y_hat) + y_hat
     BCE(y, y_hat) = -y ln(y_hat) - (1 - y) ln(1 - y_hat)

Both are least at y_hat = y. Where y is 0 and should have been 1, which is what a missing like
looks like, the gradient of BCE has no bound and that of wBCE is 1. wBCE is the negative
log-likelihood of a Poisson count, `torch.nn.PoissonNLLLoss(log_input=False)`.

All are computed in float32 at least. Logarithms are of y_hat + 1e-8, finite at zero with a
finite gradient that does not vanish.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyannote_weighter.matching import EPSILON, distinct_likes, match_likes
from pyannote_weighter.weighting import full_precision


def wbce(y_hat: Tensor, y: Tensor) -> Tensor:
    """Element by element wBCE, -y ln(y_hat) + y_hat, of tensors of one shape."""
    y_hat = full_precision(y_hat)
    return y_hat - y * torch.log(y_hat + EPSILON)


def bce(y_hat: Tensor, y: Tensor) -> Tensor:
    """Element by element binary cross-entropy of tensors of one shape."""
    y_hat = full_precision(y_hat)
    return -y * torch.log(y_hat + EPSILON) - (1 - y) * _log_complement(y_hat)


def _log_complement(y_hat: Tensor) -> Tensor:
    return torch.log((1 - y_hat).clamp(min=0) + EPSILON)


class _Reduced(nn.Module):
    """A loss element by element, then reduced.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    """

    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean"):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"unknown reduction {reduction!r}: choose 'mean', 'sum' or 'none'")
        self.reduction = reduction

    def forward(self, y_hat: Tensor, y: Tensor) -> Tensor:
        loss = self.elementwise(y_hat, y)
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()


class WBCE(_Reduced):
    """`wbce` as a module, with a reduction ("mean", "sum" or "none")."""

    elementwise = staticmethod(wbce)


class BCE(_Reduced):
    """`bce` as a module, with a reduction ("mean", "sum" or "none")."""

    elementwise = staticmethod(bce)


LOSSES: dict[str, type[nn.Module]] = {"wbce": WBCE, "bce": BCE}


class SetLoss(NamedTuple):
    """What `SetCriterion` returns. All but `loss` are detached; (batch,) means one a file."""

    loss: Tensor
    """Scalar: mean over the files whose likes are known, 0 where there is none."""
    assignment: list[tuple[Tensor, Tensor]]
    """For each file its matched (slots, speakers), see `match_likes`."""
    known: Tensor
    """(batch,) bool: likes are known."""
    file_loss: Tensor
    """(batch,) loss of each file, 0 where unknown."""
    num_likes: Tensor
    """(batch,) int64, distinct likes, matched or not."""
    num_matched: Tensor
    """(batch,) int64, likes that have a slot."""
    matched_confidence: Tensor
    """(batch,) mean confidence of the matched slots; NaN where no slot is matched."""
    matched_posterior: Tensor
    """(batch,) geometric mean of p(like) over the matched slots; NaN where none is matched."""
    unmatched_confidence: Tensor
    """(batch,) sum of the confidence of slots without a like, in unknown files too."""

    def logs(self) -> dict[str, float]:
        """Averages over the files of the batch, for a progress bar.

        Keys "loss" and "unmatched_confidence" (over files with known likes), "matched_confidence"
        and "matched_posterior" (over files with a match); left out where there is no such file.
        """
        matched = self.num_matched > 0
        values = {
            "loss": self.file_loss[self.known],
            "matched_confidence": self.matched_confidence[matched],
            "matched_posterior": self.matched_posterior[matched],
            "unmatched_confidence": self.unmatched_confidence[self.known],
        }
        return {name: value.mean().item() for name, value in values.items() if len(value)}


class SetCriterion(nn.Module):
    """Loss of a set of slots against the likes of their file.

    With s the assignment of likes to slots that costs least,

        loss(file) = - sum_likes ln(c_s p_s,like) + lambda * sum_slots c

    This is the sum of wBCE over slots and speakers, since p sums to one over speakers. Its minimum
    is at y_hat = P(like) / lambda: lambda = 1 is the published loss; with lambda the rate at which
    speakers who are present are tagged, untagged ones are not driven down.

    Parameters
    ----------
    lambda_ : float
        Price of the confidence that a slot claims, at least 0.
    loss : {"wbce", "bce"}
        "bce" puts binary cross-entropy in the place of wBCE, over the same assignment, for
        comparison: lambda then weighs - ln(1 - c p) of all pairs of slot and speaker that are not
        matched.
    """

    def __init__(self, lambda_: float = 1.0, loss: Literal["wbce", "bce"] = "wbce"):
        super().__init__()
        if not 0 <= lambda_ < float("inf"):
            raise ValueError(f"lambda_ is {lambda_}: choose a finite price of at least 0")
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}")
        self.lambda_ = lambda_
        self.loss = loss

    def extra_repr(self) -> str:
        """Show the options when the module is printed."""
        return f"lambda_={self.lambda_}, loss={self.loss!r}"

    def forward(
        self, confidence: Tensor, log_posteriors: Tensor, likes: Sequence[Tensor | None]
    ) -> SetLoss:
        """Compare slots with likes.

        Parameters
        ----------
        confidence : (batch, slot) torch.Tensor
            c, values in [0, 1].
        log_posteriors : (batch, slot, speaker) torch.Tensor
            ln p, log-softmax over the training speakers.
        likes : list of (like,) torch.Tensor or None
            Speaker indices of each file. None: unknown, the file contributes nothing. Empty: known
            to have none. -1 is padding, repeats count once; of more likes than slots only the
            matched ones count.

        Returns
        -------
        set_loss : SetLoss

        Raises
        ------
        ValueError
            Where shapes disagree, a like is no speaker index, or numbers are NaN.
        """
        distinct = distinct_likes(confidence, log_posteriors, likes)
        assignment = match_likes(confidence, log_posteriors, distinct)
        confidence, device = full_precision(confidence), confidence.device
        known = torch.tensor([speakers is not None for speakers in likes], device=device)
        num_matched = torch.tensor([len(slots) for slots, _ in assignment])
        files = torch.repeat_interleave(num_matched).to(device)
        slots = torch.cat([slots for slots, _ in assignment]).to(device)
        speakers = torch.cat([speakers for _, speakers in assignment]).to(device)
        # (match,) each
        num_matched = num_matched.to(device)

        def per_file(values: Tensor) -> Tensor:  # (match,) -> (batch,)
            zeros = torch.zeros(len(likes), dtype=values.dtype, device=device)
            return zeros.index_add(0, files, values)

        matched = confidence[files, slots]
        log_p = full_precision(log_posteriors[files, slots, speakers])
        attraction = per_file(-(torch.log(matched + EPSILON) + log_p))
        if self.loss == "wbce":
            price = confidence.sum(1)
        else:
            y_hat = confidence.unsqueeze(-1) * full_precision(log_posteriors).exp()
            # (batch, slot, speaker)
            y_hat = y_hat.index_put((files, slots, speakers), y_hat.new_zeros(()))
            price = -_log_complement(y_hat).sum((1, 2))
        file_loss = torch.where(known, attraction + self.lambda_ * price, 0.0)
        claimed = per_file(matched.detach())
        return SetLoss(
            loss=file_loss.sum() / known.sum().clamp(min=1),
            assignment=assignment,
            known=known,
            file_loss=file_loss.detach(),
            num_likes=torch.tensor([len(speakers) for speakers in distinct], device=device),
            num_matched=num_matched,
            matched_confidence=claimed / num_matched,
            matched_posterior=(per_file(log_p.detach()) / num_matched).exp(),
            unmatched_confidence=confidence.detach().sum(1) - claimed,
        )
