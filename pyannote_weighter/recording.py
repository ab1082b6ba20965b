"""Recordings of any length, read where samples are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, gcd
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch
import torchaudio.functional
from pyannote.audio.core.io import AudioFile
from torch import Tensor

from pyannote_weighter.audio import (
    MAX_PHASES,
    check_finite,
    checked_channel,
    damaged,
    knows_its_length,
    load_waveform,
    open_sound,
)
from pyannote_weighter.mp3 import TOLERANCE

FILTER_PERIODS = 6  # zero crossings of torchaudio's resampling filter, to either side
ROLLOFF = 0.99  # of the same
# Frames of an mp3 file may need bytes of up to 85 frames before them, which libsndfile does not
# all look for after a jump, nor after a mere read, which ends with a jump in soundfile.
LEAD = 2**16  # samples to read before those that are wanted, and to leave out
VORBIS_LEAD = 2**14  # the same: after a jump, libsndfile gets the first of its blocks wrong


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
    name : str
        Of the file, for errors.
    channel : int, optional
        Channel to read. Defaults to the mean of all.
    """

    def __init__(
        self, file: soundfile.SoundFile, sample_rate: int, name: str, channel: int | None = None
    ):
        self.file = file
        self.name = name
        self.channel = channel
        self.rates = file.samplerate, sample_rate
        divisor = gcd(*self.rates)
        self.down, self.up = file.samplerate // divisor, sample_rate // divisor
        self.num_samples = ceil(self.up * file.frames / self.down)
        # periods of `down` samples that the filter reaches, in both directions
        reach = FILTER_PERIODS * self.down / (min(self.up, self.down) * ROLLOFF)
        self.margin = ceil(reach / self.down) + 1
        self.lead = LEAD if file.format == "MP3" else 0
        if file.subtype == "VORBIS":
            self.lead = VORBIS_LEAD
        self.kept = 0, torch.empty(1, 0)  # first sample of what was read last, and the samples

    def read(self, start: int, stop: int) -> Tensor:
        """See `Recording`."""
        stop = min(stop, self.num_samples)
        if start >= stop:
            return torch.empty(1, 0)
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
            lead = min(self.lead, new)
            try:
                if self.file.tell() != new - lead:
                    self.file.seek(new - lead)
                samples = self.file.read(stop - new + lead, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise damaged(self.name, new / self.rates[0], error.error_string) from error
            samples = self._complete(samples, new - lead, stop)[lead:]
            kept = torch.cat([kept, self._mix(torch.from_numpy(samples.T))], dim=1)
            self.kept = start, kept
        return kept[:, : stop - start]

    def _complete(self, samples: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(samples, channels) with zeros for the little that the end of the file may lack."""
        missing = stop - start - len(samples)
        if missing == 0:
            return samples
        end = start + len(samples)
        if len(samples) == 0 or self.file.frames - end > TOLERANCE * self.rates[0]:
            raise damaged(self.name, end / self.rates[0])
        return np.pad(samples, ((0, missing), (0, 0)))

    def _mix(self, samples: Tensor) -> Tensor:
        """(channels, samples) to (1, samples)."""
        if self.channel is not None:
            samples = samples[self.channel : self.channel + 1]
        mixed = samples.mean(dim=0, keepdim=True)
        check_finite(mixed, self.name)
        return mixed


@contextmanager
def open_recording(file: AudioFile, sample_rate: int) -> Iterator[Recording]:
    """Open a file, without reading all of it where that can be helped.

    Waveforms in memory stay there. Files that `soundfile` cannot read, or whose sample rate has
    hardly a common divisor with the wanted one, are read into memory as a whole.

    Parameters
    ----------
    file : path-like or Mapping
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
    if not in_memory and isinstance(source, str | os.PathLike) and Path(source).is_file():
        sound = _open(Path(source), sample_rate)
    if sound is None:
        yield InMemory(load_waveform(file, sample_rate))
        return
    with sound:
        channel = file.get("channel") if isinstance(file, Mapping) else None
        if channel is not None:
            channel = checked_channel(channel, sound.channels, str(source))
        yield OnDisk(sound, sample_rate, str(source), channel)


def _open(path: Path, sample_rate: int) -> soundfile.SoundFile | None:
    """The file, or None if pieces of it cannot be had."""
    try:
        sound = open_sound(path)
    except soundfile.LibsndfileError:
        return None
    divisor = gcd(sound.samplerate, sample_rate)
    phases = max(sound.samplerate, sample_rate) // divisor
    by_pieces = sound.seekable() and sound.frames > 0 and phases <= MAX_PHASES
    if by_pieces and knows_its_length(sound, path):
        return sound
    sound.close()
    return None
