"""Recordings of any length, read where samples are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, gcd
from pathlib import Path
from typing import Protocol

import soundfile
import torch
import torchaudio.functional
from pyannote.audio.core.io import AudioFile
from torch import Tensor

from pyannote_weighter.audio import MAX_PHASES, load_waveform

FILTER_PERIODS = 6  # zero crossings of torchaudio's resampling filter, to either side
ROLLOFF = 0.99  # of the same
ENDLESS = 2**40  # samples: a header that claims as many does not know


class Recording(Protocol):
    """What can be read piece by piece.

    Attributes
    ----------
    num_samples : int
    """

    num_samples: int

    def read(self, start: int, stop: int) -> Tensor:
        """(1, samples) float32 from `start` to `stop`, or to the end where that comes first."""


class InMemory:
    """A waveform, as it is.

    Parameters
    ----------
    waveform : (1, samples) torch.Tensor
    """

    def __init__(self, waveform: Tensor):
        self.waveform = waveform
        self.num_samples = waveform.shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        """See `Recording`."""
        return self.waveform[:, start:stop]


class OnDisk:
    """An audio file; only what is asked for is decoded, mixed down and resampled.

    Samples are those of `pyannote_weighter.audio.load_waveform`. Resampling is a filter of finite
    length: pieces are resampled with as much on either side as it reaches.

    Parameters
    ----------
    file : soundfile.SoundFile
    sample_rate : int
        In Hz, the one to resample to.
    channel : int, optional
        Channel to read. Defaults to the mean of all.
    """

    def __init__(self, file: soundfile.SoundFile, sample_rate: int, channel: int | None = None):
        self.file = file
        self.channel = channel
        self.rates = file.samplerate, sample_rate
        divisor = gcd(*self.rates)
        self.down, self.up = file.samplerate // divisor, sample_rate // divisor
        self.num_samples = ceil(self.up * file.frames / self.down)
        # periods of `down` samples that the filter reaches, in both directions
        reach = FILTER_PERIODS * self.down / (min(self.up, self.down) * ROLLOFF)
        self.margin = ceil(reach / self.down) + 1
        self.kept = 0, torch.empty(1, 0)  # first sample of what was read last, and the samples

    def read(self, start: int, stop: int) -> Tensor:
        """See `Recording`."""
        stop = min(stop, self.num_samples)
        if self.up == self.down:
            return self._decode(start, stop)
        first = max(0, start // self.up - self.margin)  # periods
        last = ceil(stop / self.up) + self.margin
        samples = self._decode(first * self.down, min(last * self.down, self.file.frames))
        resampled = torchaudio.functional.resample(
            samples, *self.rates, lowpass_filter_width=FILTER_PERIODS, rolloff=ROLLOFF
        )
        return resampled[:, start - first * self.up : stop - first * self.up]

    def _decode(self, start: int, stop: int) -> Tensor:
        """(1, samples) at the rate of the file; what was read last is not decoded again."""
        first, kept = self.kept
        kept = kept[:, start - first :] if first <= start <= first + kept.shape[1] else kept[:, :0]
        new = start + kept.shape[1]
        if new < stop:
            try:
                if self.file.tell() != new:
                    self.file.seek(new)
                samples = self.file.read(stop - new, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise self._damaged(new, error.error_string) from error
            if len(samples) < stop - new:
                raise self._damaged(new + len(samples), "it ends there, but for its header")
            kept = torch.cat([kept, self._mix(torch.from_numpy(samples.T))], dim=1)
            self.kept = start, kept
        return kept[:, : stop - start]

    def _damaged(self, position: int, reason: str) -> ValueError:
        second = position / self.file.samplerate
        return ValueError(
            f"{self.file.name}: cannot be read beyond {second:.1f} s: {reason}: repair or convert "
            "the file"
        )

    def _mix(self, samples: Tensor) -> Tensor:
        """(channels, samples) to (1, samples)."""
        if not torch.isfinite(samples).all():
            raise ValueError(
                f"{self.file.name}: some samples are NaN or infinite: repair or convert the file"
            )
        if self.channel is not None:
            return samples[self.channel : self.channel + 1]
        return samples.mean(dim=0, keepdim=True)


@contextmanager
def open_recording(file: AudioFile, sample_rate: int) -> Iterator[Recording]:
    """Open a file, without reading all of it where that can be helped.

    Waveforms in memory stay there. Files that `soundfile` cannot read, or whose sample rate has
    hardly a common divisor with the wanted one, are read into memory as a whole.

    Parameters
    ----------
    file : str, Path or Mapping
        See `pyannote_weighter.audio.in_memory`, whose errors are raised here too.
    sample_rate : int
        In Hz.

    Yields
    ------
    recording : Recording
    """
    source = file.get("audio") if isinstance(file, Mapping) else file
    in_memory = isinstance(file, Mapping) and "waveform" in file
    sound = None
    if not in_memory and isinstance(source, str | Path) and Path(source).is_file():
        sound = _open(source, sample_rate)
    if sound is None:
        yield InMemory(load_waveform(file, sample_rate))
        return
    with sound:
        channel = file.get("channel") if isinstance(file, Mapping) else None
        if channel is not None and not 0 <= channel < sound.channels:
            raise ValueError(
                f"{source}: no channel {channel}: it has {sound.channels}, counted from 0"
            )
        yield OnDisk(sound, sample_rate, channel)


def _open(path: str | Path, sample_rate: int) -> soundfile.SoundFile | None:
    """The file, or None if pieces of it cannot be had."""
    try:
        sound = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    divisor = gcd(sound.samplerate, sample_rate)
    phases = max(sound.samplerate, sample_rate) // divisor
    if sound.seekable() and 0 < sound.frames < ENDLESS and phases <= MAX_PHASES:
        return sound
    sound.close()
    return None
