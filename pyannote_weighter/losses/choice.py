"""The loss of likes by name, whether it is over slots or over whole recordings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyannote_weighter.losses.criterion import SetCriterion
from pyannote_weighter.losses.elementwise import LOSSES
from pyannote_weighter.losses.recording import (
    ROLE,
    PseudoLabels,
    any_slot,
    like_matrix,
    log_any_slot,
    recording_kl,
    with_unknown,
)

RECORDING = {"recording_kl": None, "role": ROLE, "pseudo_labels": PseudoLabels}
"""Losses over whole recordings, by name, and what keeps labels of each file."""

MOST_EPOCHS = 10**6
_PREPARED = {"self", "likes", "num_files", "num_speakers", "num_epochs", "generator"}


def get_criterion(
    loss: str | dict, lambda_: float = 1.0, assignment: str = "hungarian"
) -> SetCriterion | RecordingCriterion:
    """Make the loss of likes by name.

    Parameters
    ----------
    loss : str or dict
        Key of `LOSSES`, "softmax", or key of `RECORDING`; or `{"name": ..., **options}`.
    lambda_ : float
        See `SetCriterion`; losses over recordings have none.
    assignment : {"hungarian", "sinkhorn"}
        Likewise.

    Returns
    -------
    criterion : SetCriterion or RecordingCriterion

    Raises
    ------
    ValueError
        If there is no such loss, option or assignment, an option is missing, or has no such value.
    """
    options = dict(loss) if isinstance(loss, Mapping) else {"name": loss}
    name, names = options.pop("name", None), [*LOSSES, "softmax", *RECORDING]
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(names)}")
    if name in RECORDING:
        if assignment != "hungarian":
            raise ValueError(f"loss {name!r} assigns nothing to slots: leave assignment out")
        return RecordingCriterion(name, **options)
    if name in LOSSES:
        try:
            return SetCriterion(lambda_, LOSSES[name](**options), assignment)
        except ValueError as error:
            raise ValueError(f"loss {name!r}: {error}") from error
    if options:
        raise ValueError(f"loss 'softmax' has no option {', '.join(options)}")
    return SetCriterion(lambda_, "softmax", assignment)


class RecordingLoss(NamedTuple):
    """What `RecordingCriterion` returns."""

    loss: Tensor
    """Scalar: mean over the files whose likes are known, summed over speakers."""

    def logs(self) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}


class RecordingCriterion(nn.Module):
    """Loss of whole recordings against their likes, with what it keeps of each training file.

    "recording_kl" expects of the N slots of a file with n likes that N - n are unknown. "role" and
    "pseudo_labels" keep labels of each file, so files cannot be spliced (`keeps_labels`).

    Parameters
    ----------
    loss : str
        Key of `RECORDING`.
    **options
        Of the loss. By default "role" expects as many speakers of a file as it has believed likes
        on average, and "pseudo_labels" warms up for 0.4 of the epochs.

    Raises
    ------
    ValueError
        Where an option is unknown or has no such value.
    """

    claims: Tensor
    fresh: Tensor

    def __init__(self, loss: str, **options: Any):
        super().__init__()
        known = set()
        if RECORDING[loss] is not None:
            known = set(inspect.signature(RECORDING[loss].__init__).parameters) - _PREPARED
        if unknown := options.keys() - known:
            choice = ", ".join(sorted(known)) or "none"
            raise ValueError(f"loss {loss!r} has no option {', '.join(unknown)}: it has {choice}")
        self.loss, self.options = loss, options
        self.keeps_labels = RECORDING[loss] is not None
        self.labels: ROLE | PseudoLabels | None = None
        try:  # before any work is done
            trial = self._start([torch.zeros(0).long()], 1, MOST_EPOCHS, torch.Generator())
            if trial is not None:
                value = trial(torch.full((1, 1), 0.5), torch.zeros(1, 1), torch.tensor([0]))
                if not value.isfinite():
                    raise ValueError(f"no finite loss with {options}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"loss {loss!r}: {error}") from error

    def _start(
        self,
        likes: Sequence[Tensor | None],
        num_speakers: int,
        num_epochs: int,
        generator: torch.Generator | None = None,
    ) -> ROLE | PseudoLabels | None:
        """Labels before the first epoch, if the loss keeps any."""
        known = [x for x in likes if x is not None]
        likes = [torch.zeros(0).long() if x is None else x for x in likes]
        if self.loss == "role":
            options = {"expected": sum(map(len, known)) / max(1, len(known))} | self.options
            return ROLE(likes, num_speakers, **options, generator=generator)
        if self.loss == "pseudo_labels":
            self.check_epochs(num_epochs)
            options = {"warm_up": round(0.4 * num_epochs)} | self.options
            return PseudoLabels(len(likes), num_speakers, num_epochs, **options)
        return None

    def check_epochs(self, num_epochs: int) -> None:
        """Refuse a training that is too short for the loss, or of unknown length (-1)."""
        if self.loss != "pseudo_labels":
            return
        if num_epochs < 1:
            raise ValueError(
                "loss 'pseudo_labels' labels more files in every epoch and has to know how many "
                "there will be: give max_epochs"
            )
        PseudoLabels(0, 0, num_epochs, **{"warm_up": 0} | self.options)  # checks it

    def prepare(self, likes: Sequence[Tensor | None], num_speakers: int, num_epochs: int) -> None:
        """Start labels of the training files, before the first call.

        Parameters
        ----------
        likes : list of (like,) tensors, or None
            Of all files, in the order of their indices: those that are believed.
        num_speakers, num_epochs : int
        """
        self.labels = self._start(likes, num_speakers, num_epochs)
        if self.loss == "pseudo_labels":
            likes = [torch.zeros(0).long() if x is None else x for x in likes]
            self.register_buffer("claims", torch.full((len(likes), num_speakers), torch.nan))
            self.register_buffer("fresh", torch.zeros(len(likes)).bool(), persistent=False)
            self.register_buffer("tagged", like_matrix(likes, num_speakers).bool())
            self.register_buffer("epoch", torch.tensor(0))

    def set_epoch(self, epoch: int) -> None:
        """Label more files at the start of an epoch, 0 for the first."""
        if not isinstance(self.labels, PseudoLabels) or epoch <= self.epoch:
            return  # nothing is labelled, or nobody is liked
        self.epoch.fill_(epoch)
        seen = self.claims.isfinite()  # files of which nothing was seen are not labelled
        self.labels.update(self.claims.nan_to_num(), (self.tagged | ~seen).float(), epoch=epoch)
        self.fresh.fill_(False)

    @torch.no_grad()
    def observe(self, claims: Tensor, likes: Sequence[Tensor | None], files: list) -> None:
        """Keep what files claimed last, in any of their crops of one epoch, for `set_epoch`.

        Parameters
        ----------
        claims : (batch, speaker) tensor
        likes : list of (like,) tensors, or None
        files : list of list of int
        """
        if self.loss == "pseudo_labels":
            for claim, liked, (file, *_) in zip(claims.to(self.claims), likes, files, strict=True):
                if liked is not None:
                    before = self.claims[file] if self.fresh[file] else claim
                    self.claims[file] = torch.maximum(before, claim)
                    self.fresh[file] = True

    def forward(
        self,
        confidence: Tensor,
        log_posteriors: Tensor,
        likes: Sequence[Tensor | None],
        files: Sequence[Sequence[int]],
    ) -> RecordingLoss:
        """Compare recordings with likes.

        Parameters
        ----------
        confidence : (batch, slot) torch.Tensor
        log_posteriors : (batch, slot, speaker) torch.Tensor
        likes : list of (like,) torch.Tensor or None
            None: unknown, the file contributes nothing.
        files : list of list of int
            Index of each file, as `prepare` knows it.
        """
        known = [index for index, liked in enumerate(likes) if liked is not None]
        if not known:
            return RecordingLoss(0.0 * confidence.sum())
        confidence, log_posteriors = confidence[known], log_posteriors[known]
        likes = [likes[index] for index in known]
        num_slots, num_speakers = log_posteriors.shape[1:]
        if self.loss == "recording_kl":
            untagged = [max(0, num_slots - len(torch.unique(x[x >= 0]))) for x in likes]
            untagged = torch.tensor(untagged, device=confidence.device)
            loss = recording_kl(with_unknown(confidence, log_posteriors), likes, untagged)
            return RecordingLoss(loss.mean())
        if self.labels is None:
            raise ValueError(f"loss {self.loss!r} keeps labels of files: call prepare first")
        y_hat = any_slot(confidence, log_posteriors)
        y = like_matrix(likes, num_speakers).to(y_hat)
        index = torch.tensor([files[k][0] for k in known], device=y_hat.device)
        log_y_hat = log_any_slot(confidence, log_posteriors)
        return RecordingLoss(num_speakers * self.labels(y_hat, y, index, log_y_hat))
