"""What is known of files against what the Weighter gave, after every round."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from pyannote_weighter.losses import NNPU, SetCriterion, TrustedLikes, any_slot, get_criterion
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.encoders import Encoded
from pyannote_weighter.tagging import TaggingRate
from pyannote_weighter.tasks.alignment import alignment_loss
from pyannote_weighter.tasks.references import count_loss, reference_loss

FIRST_LAMBDA = 0.1
"""Price of confidence before the first estimate."""


class LikesObjective(nn.Module):
    """Loss of slots against the likes of their file, with what it keeps from epoch to epoch.

    Parameters
    ----------
    loss : str or dict, optional
        See `pyannote_weighter.losses.get_criterion`.
    assignment : {"hungarian", "sinkhorn"}, optional
    lambda_ : float or "auto", optional
        "auto": the tagging rate that the epoch before tells, see `TaggingRate`. Losses over
        recordings have no such price, and "nnpu" needs 1, which 0.1, the default, is taken for.
    wrong_likes : float, optional
        See `TrustedLikes`.

    Raises
    ------
    ValueError
        If an option has no such value.
    """

    explained: Tensor | None
    """Share of the speech that likes account for at the beginning, see `prepare`."""

    def __init__(
        self,
        loss: str | dict = "wbce",
        assignment: str = "hungarian",
        lambda_: float | str = FIRST_LAMBDA,
        wrong_likes: float = 0.0,
    ):
        super().__init__()
        if lambda_ != "auto" and (not isinstance(lambda_, Real) or isinstance(lambda_, bool)):
            raise ValueError(f"lambda_ is {lambda_!r}: choose a price of at least 0, or auto")
        TrustedLikes([], 0, wrong_likes)  # checks it
        first = FIRST_LAMBDA if lambda_ == "auto" else lambda_
        self.criterion = get_criterion(loss, first, assignment)
        priced = isinstance(self.criterion, SetCriterion)
        if priced and isinstance(self.criterion.elementwise, NNPU):
            if lambda_ == "auto":
                raise ValueError(
                    "loss 'nnpu' has a prior in place of a tagging rate: lambda_ is 1"
                )
            if lambda_ == FIRST_LAMBDA:  # the default; the risk has a bias but at 1
                self.criterion.lambda_ = 1.0
        if not priced and lambda_ not in (FIRST_LAMBDA, 1.0):  # the default, and to weigh nothing
            raise ValueError(f"loss {self.criterion.loss!r} has no price: leave lambda_ out")
        self.wrong_likes = wrong_likes
        self.trust: TrustedLikes | None = None
        self.tagging = TaggingRate(first) if lambda_ == "auto" else None
        self.register_buffer("explained", None)

    @property
    def keeps_labels(self) -> bool:
        """Whether the loss keeps labels of each file, so that files cannot be spliced."""
        return getattr(self.criterion, "keeps_labels", False)

    def prepare(
        self,
        likes: Sequence[Tensor | None],
        num_speakers: int,
        num_epochs: int,
        confirmed: Sequence[Tensor | None] | None = None,
        explained: float | None = None,
    ) -> None:
        """Start what is kept of the training files, whatever was kept of a training before.

        Parameters
        ----------
        likes : list of (like,) tensors, or None
            Of all files, in the order of their indices.
        num_speakers, num_epochs : int
        confirmed : list of (like,) bool tensors, or None, optional
            Likes to believe from the beginning. Defaults to all.
        explained : float, optional
            Kept with the rest, see `pyannote_weighter.prototypes.explained_speech`.
        """
        if explained is not None:
            self.explained = torch.tensor(explained)
        self.trust = None
        if self.wrong_likes or confirmed is not None:
            self.trust = TrustedLikes(likes, num_speakers, self.wrong_likes, confirmed=confirmed)
        if hasattr(self.criterion, "prepare"):
            believed = self.believed(likes, [[number] for number in range(len(likes))])
            self.criterion.prepare(believed, num_speakers, num_epochs)
        if self.tagging is not None:
            self.tagging.reset()
            self.criterion.lambda_ = FIRST_LAMBDA

    def check_epochs(self, num_epochs: int) -> None:
        """Refuse a number of epochs that the loss cannot do with; -1 is one not known."""
        if hasattr(self.criterion, "check_epochs"):
            self.criterion.check_epochs(num_epochs)

    def set_epoch(self, epoch: int) -> None:
        """Draw conclusions from the epochs before, 0 for the first."""
        self.criterion.set_epoch(epoch)
        if self.trust is not None:
            self.trust.set_epoch(epoch)
        if self.tagging is not None:
            self.tagging.set_epoch(epoch)
            self.criterion.lambda_ = self.tagging.rate.item()

    def believed(
        self, likes: Sequence[Tensor | None], files: Sequence[Sequence[int]]
    ) -> Sequence[Tensor | None]:
        """Likes without those that are thought to be wrong."""
        return likes if self.trust is None else self.trust.keep(likes, files)

    def forward(
        self,
        confidences: Sequence[Tensor],
        log_posteriors: Sequence[Tensor],
        likes: Sequence[Tensor | None],
        files: Sequence[Sequence[int]],
    ) -> tuple[Tensor, dict[str, float]]:
        """Compare the slots of each round with likes.

        Parameters
        ----------
        confidences : list of (batch, slot) tensors
        log_posteriors : list of (batch, slot, speaker) tensors
        likes : list of (like,) tensors, or None
            All of them, see `believed`.
        files : list of list of int
            Indices of the training files that each sample is spliced of.

        Returns
        -------
        losses : (rounds,) tensor
        logs : dict
            Averages of the last round.
        """
        believed = self.believed(likes, files)
        results = [
            self.criterion(c, log_p, believed, files)
            for c, log_p in zip(confidences, log_posteriors, strict=True)
        ]
        logs = results[-1].logs()
        logs.pop("loss", None)
        watching = [self.trust, self.tagging, self.criterion if self.keeps_labels else None]
        watching = [module for module in watching if module is not None]
        if watching and self.training:
            claims = any_slot(confidences[-1].detach(), log_posteriors[-1].detach())
            for seen in _of_all_processes((claims.cpu(), likes, files)):
                for module in watching:
                    module.observe(*seen)
        if self.tagging is not None:
            logs["lambda"] = self.criterion.lambda_
        if self.trust is not None:
            believed = self.trust.trusted & self.trust.confirmed
            logs["believed"] = believed.float().mean().item() if len(believed) else 1.0
        return torch.stack([result.loss for result in results]), logs


def known_losses(
    model: Weighter,
    encoded: Encoded,
    batch: dict,
    objective: LikesObjective,
    alignment: float,
    reference: float,
) -> tuple[dict[str, tuple[Tensor, float]], dict[str, float]]:
    """Losses of what is known of the files of a batch.

    Parameters
    ----------
    model : Weighter
        With the classifier of its training speakers, if there are any, under `loss_func`.
    encoded : Encoded
    batch : dict
        See `pyannote_weighter.tasks.samples.collate`.
    objective : LikesObjective
    alignment, reference : float
        Weights, see `SpeakerLikes`.

    Returns
    -------
    losses : dict
        Losses after each round, (rounds,), and their weight, by name: "likes", "alignment",
        "references", "speakers" (of which the number is known).
    logs : dict
        Averages of the last round.
    """
    likes, references, step = batch["likes"], batch["reference"], model.encoder.step
    losses, logs = {}, {}
    if hasattr(model, "loss_func"):
        confidences, log_posteriors = _claims(model, encoded, batch["mask"][:, ::step])
        likes_loss, logs = objective(confidences, log_posteriors, likes, batch["file"])
        losses["likes"] = likes_loss, 1.0
        likes = objective.believed(likes, batch["file"])
        if alignment > 0 and encoded.windows is not None:
            # who has a reference needs no guess of it, unless it says nothing of this crop
            told = [
                reference is not None and bool(annotated.any())
                for reference, annotated in zip(references, batch["annotated"], strict=True)
            ]
            aligned = alignment_loss(
                encoded.weightings,
                model.project(encoded.windows).detach(),
                encoded.single,
                model.loss_func.W.detach().T,
                [None if known else k for k, known in zip(likes, told, strict=True)],
            )
            losses["alignment"] = aligned, alignment
    if any(known is not None for known in references):
        divergence = reference_loss(encoded.weightings, references, batch["annotated"], step)
        losses["references"] = divergence, reference
    if any(number is not None for number in batch["num_speakers"]):
        beyond = count_loss(encoded.weightings, batch["num_speakers"], likes)
        losses["speakers"] = beyond, reference
    return losses, logs


def _claims(
    model: Weighter, encoded: Encoded, inside: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Confidence (B, N) and log posteriors (B, N, K) of the slots after each round."""
    heads = encoded.heads or [None] * len(encoded.weightings)
    confidences, log_posteriors = [], []
    for x, y, embeddings in zip(encoded.weightings, heads, encoded.embeddings, strict=True):
        slots = model.project(embeddings).flatten(0, 1)  # (B * N, D)
        logits = model.loss_func.get_logits(slots)
        log_posteriors.append(logits.log_softmax(dim=-1).unflatten(0, embeddings.shape[:2]))
        confidences.append(model.claim(x, y, inside.to(x.device)))
    return confidences, log_posteriors


def _of_all_processes(value) -> list:
    """What every process has, in the order of their ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
