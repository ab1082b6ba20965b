"""Kaldi's log mel filter bank, batched."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from pyannote.audio.utils.receptive_field import conv1d_num_frames
from torchaudio.compliance.kaldi import get_mel_banks

from pyannote_weighter.weighting import full_precision

FRAME_LENGTH = 0.025  # seconds
FRAME_SHIFT = 0.010  # seconds
PREEMPHASIS = 0.97


class KaldiFbank(nn.Module):
    """Log mel energies of a batch of waveforms.

    Same values as `torchaudio.compliance.kaldi.fbank(waveform, num_mel_bins=...)`, whose other
    defaults it keeps (25 ms Povey windows every 10 ms, whole windows only, DC removed,
    pre-emphasis 0.97, no dither). That function takes one waveform and makes the filters anew
    at every call.

    Parameters
    ----------
    sample_rate : int, optional
        In Hz. Defaults to 16000.
    num_mel_bins : int, optional
        Defaults to 80.
    """

    def __init__(self, sample_rate: int = 16000, num_mel_bins: int = 80):
        super().__init__()
        self.window_size = int(sample_rate * FRAME_LENGTH)
        self.window_shift = int(sample_rate * FRAME_SHIFT)
        self.fft_size = 1 << (self.window_size - 1).bit_length()

        window = torch.hann_window(self.window_size, periodic=False).pow(0.85)
        filters, _ = get_mel_banks(
            num_mel_bins, self.fft_size, float(sample_rate), 20.0, 0.0, 100.0, -500.0, 1.0
        )
        filters = F.pad(filters, (0, 1)).T  # (fft_size / 2 + 1, num_mel_bins)

        # not persistent: a pretrained state dict has none of this
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples; 0 or less if shorter than one window."""
        return conv1d_num_frames(num_samples, self.window_size, self.window_shift)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Compute log mel energies.

        Parameters
        ----------
        waveforms : (batch, samples) torch.Tensor
            At least one window (25 ms) long.

        Returns
        -------
        fbank : (batch, frames, num_mel_bins) torch.Tensor
            Computed in float32 under autocast too: half precision holds no energies.

        Raises
        ------
        ValueError
            If waveforms are shorter than one window.
        """
        if waveforms.shape[-1] < self.window_size:
            raise ValueError(
                f"waveform of {waveforms.shape[-1]} samples is shorter than one window of "
                f"{self.window_size} samples: pad it or leave it out"
            )

        with torch.autocast(waveforms.device.type, enabled=False):
            windows = full_precision(waveforms).unfold(-1, self.window_size, self.window_shift)
            # (batch, frames, window_size)
            windows = windows - windows.mean(dim=-1, keepdim=True)
            emphasized = windows.clone()  # in place from here on: new pages of memory take longer
            emphasized[..., 1:].sub_(windows[..., :-1], alpha=PREEMPHASIS)
            emphasized[..., 0].mul_(1.0 - PREEMPHASIS)

            spectrum = torch.fft.rfft(emphasized.mul_(self.window), n=self.fft_size)
            power = spectrum.real.square() + spectrum.imag.square()
            # (batch, frames, fft_size / 2 + 1)
            energies = power @ self.filters
            # (batch, frames, num_mel_bins)
            return energies.clamp_min(torch.finfo(energies.dtype).eps).log()
