"""The loss of a set of slots against the likes of their file."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyannote_weighter.losses.elementwise import LOSSES, WBCE, ElementwiseLoss
from pyannote_weighter.matching import EPSILON, distinct_likes, match_likes, soft_match_likes
from pyannote_weighter.weighting import full_precision


class SetLoss(NamedTuple):
    """What `SetCriterion` returns. All but `loss` are detached; (batch,) means one a file."""

    loss: Tensor
    """Scalar: mean over the files whose likes are known, 0 where there is none."""
    assignment: list[tuple[Tensor, Tensor]]
    """For each file its matched (slots, speakers), see `match_likes`: one to one, also where the
    loss is that of soft assignments."""
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

    Any loss element by element can take the place of wBCE over the same assignment: a matched pair
    of slot and speaker has y = 1, any other pair y = 0, and lambda weighs what y = 0 costs.

    "softmax" is cross-entropy over the speakers and "no speaker", whose probability is 1 - c, as
    in DETR (Carion et al. 2020, section 3.1, where lambda is 0.1):

        loss(file) = - sum_likes ln(c_s p_s,like) - lambda * sum_(slots without a like) ln(1 - c)

    With lambda = 0 slots without a like pay nothing, and p learns from the softmax cross-entropy
    of the matched slots.

    Parameters
    ----------
    lambda_ : float
        Price of the confidence that a slot claims, at least 0.
    loss : str or ElementwiseLoss
        "softmax", a key of `LOSSES`, or one of its modules, whose reduction does not matter: files
        are summed over slots and speakers. `NNPU` pools the files of the batch.
    assignment : {"hungarian", "sinkhorn"}
        One to one, or soft (`soft_match_likes`), as in expectation-maximisation: every slot then
        takes its share y in a like, between 0 and 1.
    temperature : float
        Of the soft assignment.
    """

    def __init__(
        self,
        lambda_: float = 1.0,
        loss: str | ElementwiseLoss = "wbce",
        assignment: Literal["hungarian", "sinkhorn"] = "hungarian",
        temperature: float = 1.0,
    ):
        super().__init__()
        if not 0 <= lambda_ < float("inf"):
            raise ValueError(f"lambda_ is {lambda_}: choose a finite price of at least 0")
        if assignment not in ("hungarian", "sinkhorn"):
            raise ValueError(
                f"unknown assignment {assignment!r}: choose 'hungarian' or 'sinkhorn'"
            )
        self.elementwise = None
        if isinstance(loss, ElementwiseLoss):
            self.elementwise = loss
            loss = type(loss).__name__
        elif loss in LOSSES:
            self.elementwise = LOSSES[loss]()
        elif loss != "softmax":
            raise ValueError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}, softmax")
        if isinstance(self.elementwise, WBCE):  # in closed form below
            self.elementwise, loss = None, "wbce"
        self.lambda_ = lambda_
        self.loss = loss
        self.assignment = assignment
        self.temperature = temperature

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss where training is, see `SPLC`."""
        if self.elementwise is not None:
            self.elementwise.set_epoch(epoch)

    def extra_repr(self) -> str:
        """Show the options when the module is printed."""
        options = f"lambda_={self.lambda_}, loss={self.loss!r}"
        if self.assignment == "sinkhorn":
            options += f", assignment='sinkhorn', temperature={self.temperature}"
        return options

    def forward(
        self,
        confidence: Tensor,
        log_posteriors: Tensor,
        likes: Sequence[Tensor | None],
        files: Sequence | None = None,
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
        files : list, optional
            Not used: which files these are matters to losses over recordings alone.

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
        soft = None
        if self.assignment == "sinkhorn":
            soft = soft_match_likes(confidence, log_posteriors, distinct, self.temperature)
        confidence, device = full_precision(confidence), confidence.device
        known = torch.tensor([speakers is not None for speakers in likes], device=device)
        num_matched = torch.tensor([len(slots) for slots, _ in assignment])
        files = torch.repeat_interleave(num_matched).to(device)
        slots = torch.cat([slots for slots, _ in assignment]).to(device)
        speakers = torch.cat([speakers for _, speakers in assignment]).to(device)
        # (match,) each
        num_matched = num_matched.to(device)

        def per_file(values: Tensor, files: Tensor = files) -> Tensor:  # (match,) -> (batch,)
            zeros = torch.zeros(len(likes), dtype=values.dtype, device=device)
            return zeros.index_add(0, files, values)

        matched = confidence[files, slots]
        log_p = full_precision(log_posteriors[files, slots, speakers])
        if self.elementwise is not None:
            y = soft
            if y is None:
                y = torch.zeros_like(log_posteriors, dtype=confidence.dtype)
                y[files, slots, speakers] = 1
            file_loss = self._sum_of_elements(confidence, log_posteriors, y, known)
        else:
            pairs, attraction = files, -(torch.log(matched + EPSILON) + log_p)
            if soft is not None:
                pairs, s, k = soft.nonzero(as_tuple=True)
                pair_log_p = full_precision(log_posteriors[pairs, s, k])
                attraction = torch.log(confidence[pairs, s] + EPSILON) + pair_log_p
                attraction = -soft[pairs, s, k] * attraction
            if self.loss == "wbce":
                price = confidence.sum(1)
            else:
                taken = torch.zeros_like(confidence) if soft is None else soft.sum(-1)
                # (batch, slot)
                if soft is None:
                    taken[files, slots] = 1
                free = (1 - taken).clamp(min=0)
                price = -(free * torch.log((1 - confidence).clamp(min=0) + EPSILON)).sum(1)
            file_loss = per_file(attraction, pairs) + self.lambda_ * price
        file_loss = torch.where(known, file_loss, 0.0)
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

    def _sum_of_elements(
        self, confidence: Tensor, log_posteriors: Tensor, y: Tensor, known: Tensor
    ) -> Tensor:
        """(batch,) sum over slots and speakers; files that are not known are 0 and unseen."""
        confidence = confidence[known].unsqueeze(-1)
        log_p = full_precision(log_posteriors[known])
        log_y_hat = torch.log(confidence + EPSILON) + log_p  # (known, slot, speaker)
        elements = self.elementwise.elements(
            confidence * log_p.exp(), y[known], log_y_hat, self.lambda_
        )
        zeros = torch.zeros(len(known), dtype=elements.dtype, device=elements.device)
        return zeros.masked_scatter(known, elements.sum((1, 2)))
