"""The Weighter: frame features in, N weightings over time and N speaker embeddings out."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from pyannote.audio import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications, Task
from pyannote.core import SlidingWindow
from torch import Tensor, nn

from pyannote_weighter.models.backbones import get_backbone
from pyannote_weighter.models.encoders import Encoded, Pooling, get_encoder
from pyannote_weighter.options import ABOVE_ZERO, COUNT, SWITCH, Rule, check_options
from pyannote_weighter.weighting import confidence_of, effective_frames, summarize

BACKBONE = "backbone."
TRAINING_ONLY = ("loss_func.", "validation_metric.")
CONFIDENCES = {"self": "self", "mean_head": "mean", "weighted_head": "weighted"}
"""Options of the Weighter, and the mode of `confidence_of` that each stands for."""
ALLOWED: dict[str, Rule] = {
    "num_slots": COUNT,
    "dimension": COUNT,
    "freeze": SWITCH,
    "confidence": (", ".join(CONFIDENCES), lambda value: value in CONFIDENCES),
    "duration": ABOVE_ZERO,
    "num_channels": ("1, which is what is read: mix others down", lambda value: value == 1),
}
"""What options of the Weighter may be."""


class Weighted(NamedTuple):
    """Answer of a Weighter to a batch of frame sequences.

    Attributes
    ----------
    weightings : (B, T, N) tensor
        X, each value in [0, 1].
    embeddings : (B, N, D) tensor
        E, one embedding a slot.
    confidence : (B, N) tensor
        c = sum X^2 / sum X, unless the Weighter was made otherwise.
    effective_frames : (B, N) tensor
        n = (sum X)^2 / sum X^2.
    encoded : Encoded
        What the encoder gave, round by round and step by step (each `step` frames long).
    """

    weightings: Tensor
    embeddings: Tensor
    confidence: Tensor
    effective_frames: Tensor
    encoded: Encoded


class Weighter(Model):
    """Learned weighting of frames in place of clustering.

    Parameters
    ----------
    backbone : str or dict, optional
        Frame encoder: a name, or `{"name": ..., **options}`.
        See `pyannote_weighter.models.backbones`.
    encoder : str or dict, optional
        "refine" (unrolled assignment, the default) or "wavlm" (the published form), or
        `{"name": ..., **options}`. See `pyannote_weighter.models.encoders`.
    num_slots : int, optional
        N, the largest number of speakers in one window of the Weighter, unless slots are started
        from a segmentation (`pyannote_weighter.pipelines.seeds`).
    dimension : int, optional
        D, dimension of the embeddings.
    freeze : bool, optional
        Keep the backbone as it was pretrained (default). Its weights then stay out of the
        checkpoint whenever they can be loaded again by the name of the backbone. False lets
        gradients reach it, for tasks of one's own: `SpeakerLikes` needs a frozen one. Once it was
        let learn (by `backbone.freeze(False)`, or in training mode by pyannote's
        `unfreeze_by_name`), its weights are in the checkpoint.
    confidence : {"self", "mean_head", "weighted_head"}, optional
        Where the confidence of a slot comes from: its weightings X averaged with themselves as
        weights (default), a second head Y averaged over time, or Y averaged with the weights of X.
        The three steps of its history, kept for comparison.
    duration : float, optional
        Nominal input duration in seconds; any duration is accepted.
    sample_rate, num_channels, task
        See `pyannote.audio.Model`.

    Raises
    ------
    ValueError
        If the backbone or the encoder is unknown, or an option is none that it may be.

    References
    ----------
    Wang, Li, Metze, "A comparison of five multiple instance learning pooling functions for sound
    event detection with weak labeling", ICASSP 2019 (linear softmax pooling: the confidence).
    """

    def __init__(
        self,
        backbone: str | dict = "campplus",
        encoder: str | dict = "refine",
        num_slots: int = 16,
        dimension: int = 256,
        freeze: bool = True,
        confidence: str = "self",
        duration: float = 60.0,
        sample_rate: int = 16000,
        num_channels: int = 1,
        task: Task | None = None,
    ):
        check_options(
            ALLOWED,
            num_slots=num_slots,
            dimension=dimension,
            freeze=freeze,
            confidence=confidence,
            duration=duration,
            num_channels=num_channels,
        )
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.save_hyperparameters(
            "backbone", "encoder", "num_slots", "dimension", "freeze", "confidence", "duration"
        )
        self.backbone = get_backbone(backbone)
        if self.backbone.sample_rate != sample_rate:
            raise ValueError(
                f"backbone {backbone!r} reads {self.backbone.sample_rate} Hz audio, "
                f"but sample_rate={sample_rate}"
            )
        self.backbone.freeze(freeze)
        self.encoder = get_encoder(
            encoder, self.backbone, num_slots, second_head=confidence != "self"
        )
        self.project = nn.Linear(self.backbone.dimension, dimension)
        if dimension >= self.backbone.dimension:
            nn.init.orthogonal_(self.project.weight)  # keeps the cosines of the backbone
            nn.init.zeros_(self.project.bias)
        if task is None:
            self.specifications = self.default_specifications(duration)

    @staticmethod
    def default_specifications(duration: float) -> tuple[Specifications, Specifications]:
        """Specifications of (weightings, embeddings)."""
        return (
            Specifications(
                problem=Problem.MULTI_LABEL_CLASSIFICATION,
                resolution=Resolution.FRAME,
                duration=duration,
                min_duration=duration,
                classes=[],
                permutation_invariant=True,
            ),
            Specifications(
                problem=Problem.REPRESENTATION,
                resolution=Resolution.CHUNK,
                duration=duration,
                min_duration=duration,
                classes=[],
            ),
        )

    @property
    def dimension(self) -> tuple[int, int]:
        """Number of slots, dimension of the embeddings."""
        return self.hparams.num_slots, self.hparams.dimension

    def num_frames(self, num_samples: int) -> int:
        """Number of frames of `num_samples` samples."""
        return self.backbone.num_frames(num_samples)

    def receptive_field_size(self, num_frames: int = 1) -> int:
        """Receptive field of `num_frames` frames in samples."""
        return self.backbone.receptive_field_size + (num_frames - 1) * self.backbone.frame_step

    def receptive_field_center(self, frame: int = 0) -> int:
        """Center of a frame in samples."""
        return frame * self.backbone.frame_step + (self.backbone.receptive_field_size - 1) // 2

    @cached_property
    def frames(self) -> SlidingWindow:
        """Frames of the weightings, in seconds."""
        return self.receptive_field

    @cached_property
    def steps(self) -> SlidingWindow:
        """Steps of the encoder, in seconds: weightings are constant in each of them."""
        frames, step = self.frames, self.encoder.step
        return SlidingWindow(
            frames.duration + (step - 1) * frames.step, step * frames.step, frames.start
        )

    def forward(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh waveforms.

        Parameters
        ----------
        waveforms : (B, 1, S) tensor

        Returns
        -------
        weightings : (B, T, N) tensor
        embeddings : (B, N, D) tensor
        """
        weighted = self.weigh(self.backbone(waveforms))
        return weighted.weightings, weighted.embeddings

    def embed(self, frames: Tensor, weightings: Tensor) -> Tensor:
        """Pool frames into one embedding a slot.

        Parameters
        ----------
        frames : (B, T, C) tensor
        weightings : (B, T, N) tensor

        Returns
        -------
        embeddings : (B, N, D) tensor
        """
        return self.project(self.backbone.embed(frames, weightings.transpose(1, 2)))

    def weigh(
        self,
        frames: Tensor,
        count: Tensor | None = None,
        mask: Tensor | None = None,
        start: Tensor | None = None,
        last: int | None = None,
    ) -> Weighted:
        """Weigh frames that were computed before.

        Parameters
        ----------
        frames : (B, T, C) tensor
            Output of `self.backbone`.
        count : (B, T) tensor, optional
            Number of speakers in each frame, for example from a segmentation model.
            Estimated from the frames when it is not given.
        mask : (B, T) bool tensor, optional
            False on padding.
        start : (B, T, K) tensor or callable, optional
            Weightings to improve, or what makes them (see `Encoder`), where the encoder can
            (`encoder.restarts`); there are then K slots in place of N.
        last : int, optional
            Only so many of the last rounds of the encoder, for a start that is good already.

        Returns
        -------
        weighted : Weighted

        Raises
        ------
        ValueError
            If shapes do not agree, there is no frame, `start` is given to an encoder that cannot
            use it, or `last` is below 1.
        """
        if start is not None and not self.encoder.restarts:
            raise ValueError(f"{type(self.encoder).__name__} cannot start from weightings")
        if last is not None and last < 1:
            raise ValueError(f"last is {last}: at least one round gives weightings")
        if frames.ndim != 3 or frames.shape[1] < 1:
            raise ValueError(
                f"frames are {tuple(frames.shape)}: give (batch, time, channel), at least a frame"
            )
        for name, given, ndim in (("count", count, 2), ("mask", mask, 2), ("start", start, 3)):
            if given is None or callable(given):
                continue
            if given.ndim != ndim or given.shape[:2] != frames.shape[:2]:
                raise ValueError(
                    f"{name} is {tuple(given.shape)}, frames are {tuple(frames.shape)}: "
                    f"batch and time must agree, {name} has {ndim} dimensions"
                )
        step = self.encoder.step
        summary = summarize(frames, step, mask)
        pooling = Pooling(
            embed=lambda x: self.backbone.embed_summary(summary, x),
            embed_windows=self.backbone.embed_windows,
        )
        encoded = self.encoder(
            frames, summary, pooling, count=count, mask=mask, start=start, last=last
        )
        weightings = encoded.weightings[-1].repeat_interleave(step, dim=1)[:, : frames.shape[1]]
        if mask is not None:  # the last step of a file may reach into its padding
            weightings = weightings * mask.unsqueeze(-1)
        head = None
        if encoded.heads is not None:
            head = encoded.heads[-1].repeat_interleave(step, dim=1)[:, : frames.shape[1]]
        return Weighted(
            weightings=weightings,
            embeddings=self.project(encoded.embeddings[-1]),
            confidence=self.claim(weightings, head, mask),
            effective_frames=effective_frames(weightings),
            encoded=encoded,
        )

    def claim(
        self, weightings: Tensor, head: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """Confidence of slots, as `confidence` says.

        Parameters
        ----------
        weightings : (B, T, N) tensor
            At any frame rate.
        head : (B, T, N) tensor, optional
            Of the encoder, if it has a second head.
        inside : (B, T) bool tensor, optional
            False on padding.

        Returns
        -------
        confidence : (B, N) tensor
        """
        mode = CONFIDENCES[self.hparams.confidence]
        if mode == "mean" and inside is not None:
            kept = inside.unsqueeze(-1).to(head.dtype)  # (B, T, 1)
            return (head * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1.0)
        return confidence_of(weightings, head, mode)

    def prepare_data(self) -> None:
        """Let the task compute frames with this model, where it will be trained."""
        if self._trainer is not None:
            self.to(self._trainer.strategy.root_device)
        self.task.model = self
        self.task.prepare_data()

    def leaves_backbone_out(self) -> bool:
        """Whether checkpoints come without the weights of the backbone."""
        return self.backbone.frozen and self.backbone.reloadable

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave the frozen backbone out of the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        if self.leaves_backbone_out() and "state_dict" in checkpoint:
            checkpoint["state_dict"] = {
                name: value
                for name, value in checkpoint["state_dict"].items()
                if not name.startswith(BACKBONE)
            }
        elif self.backbone.config is not None:  # its file may be moved
            key = self.CHECKPOINT_HYPER_PARAMS_KEY
            checkpoint[key] = {**checkpoint[key], "backbone": self.backbone.config}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Put the weights of the backbone back, drop what only training needs."""
        super().on_load_checkpoint(checkpoint)
        if self.task is None:
            checkpoint["state_dict"] = {
                name: value
                for name, value in checkpoint["state_dict"].items()
                if not name.startswith(TRAINING_ONLY)
            }
        if any(name.startswith(BACKBONE) for name in checkpoint["state_dict"]):
            self.backbone.reloadable = False  # these are not what its name brings back
        # checkpoints used to leave out what came from a file
        elif self.leaves_backbone_out() or self.backbone.config is not None:
            for name, value in self.backbone.state_dict().items():
                checkpoint["state_dict"].setdefault(BACKBONE + name, value)

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        """Move what the network sees; what it is compared with is needed on the CPU first."""
        if not (isinstance(batch, dict) and "frames" in batch):  # no batch of `SpeakerLikes`
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trainable, unless the task has its own way."""
        if hasattr(self.task, "configure_optimizers"):
            return self.task.configure_optimizers()
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
