"""Voices: the speech of one speaker as one long stream without long pauses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.ndimage import uniform_filter1d
from scipy.signal import resample_poly

from pyannote_weighter.audio import open_sound

SAMPLE_RATE = 16000
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}

STEP = SAMPLE_RATE // 100  # energy is measured every 10 ms
LONGEST_PAUSE = 30  # steps; longer pauses inside a recording are cut out of the audio
SHORTEST_SOUND = 8  # steps; shorter sounds that stand alone are clicks
MARGIN = 4  # steps kept on both sides of speech
FADE = SAMPLE_RATE // 100


@dataclass(frozen=True)
class Voice:
    """Speech of one speaker.

    Attributes
    ----------
    samples : (num_samples,) float32
        All recordings one after another at 16 kHz, without silence at their ends and without
        pauses of more than 0.3 s; the level of the speech is 1 (root mean square).
    audible : (num_steps,) bool
        Whether each 10 ms holds speech (and no pause).
    """

    samples: np.ndarray
    audible: np.ndarray

    @property
    def duration(self) -> float:
        """Seconds of speech."""
        return len(self.samples) / SAMPLE_RATE

    def next_onset(self, position: int) -> int:
        """First sample at or after `position` (cyclic) that is not in a pause."""
        step = -(-(position % len(self.samples)) // STEP) % len(self.audible)
        ahead = np.roll(self.audible, -step)
        return (step + int(np.argmax(ahead))) % len(self.audible) * STEP

    def take(self, position: int, num_samples: int) -> np.ndarray:
        """Consecutive speech from `position` on, from the start again after the end."""
        return np.take(
            self.samples, np.arange(position, position + num_samples), mode="wrap"
        )  # (num_samples,)


def read_voices(folder: str | Path, prefix: str = "") -> dict[str, list[Path]]:
    """Find recordings that lie as ``<folder>/<speaker>/*.<wav, flac, ogg, opus or mp3>``.

    Parameters
    ----------
    folder : path
    prefix : str, optional
        Put before each speaker's name: tells the speakers of several folders apart.

    Returns
    -------
    voices : {speaker: recordings}
        Sorted by name.

    Raises
    ------
    FileNotFoundError
        Where the folder is absent or holds no such recordings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of voices")
    voices = {}
    for speaker in sorted(path for path in folder.iterdir() if path.is_dir()):
        recordings = sorted(path for path in speaker.iterdir() if path.suffix.lower() in SUFFIXES)
        if recordings:
            voices[prefix + speaker.name] = recordings
    if not voices:
        raise FileNotFoundError(f"{folder}: expected one folder a speaker with recordings in it")
    return voices


@lru_cache(maxsize=64)
def _load(recordings: tuple[Path, ...]) -> Voice:
    pieces = [piece for path in recordings for piece in speech_of(_read(path))]
    if not pieces:
        return Voice(np.zeros(0, np.float32), np.zeros(0, bool))
    ramp = np.linspace(0.0, 1.0, FADE, dtype=np.float32)
    joined = [pieces[0]]
    for piece in pieces[1:]:
        crossing = joined[-1][-FADE:] * (1 - ramp) + piece[:FADE] * ramp
        joined[-1] = joined[-1][:-FADE]
        joined += [crossing, piece[FADE:]]
    samples = np.concatenate(joined)
    samples = samples[: len(samples) // STEP * STEP]
    audible = _audible(samples)
    power = np.mean(samples.reshape(-1, STEP)[audible] ** 2)
    samples = samples / np.sqrt(power)
    samples.setflags(write=False)  # cached
    return Voice(samples, audible)


def load_voice(recordings: Sequence[str | Path]) -> Voice:
    """Read the recordings of one speaker into one stream of speech.

    Silence at both ends of a recording goes, and so do pauses of more than 0.3 s inside it: the
    audio is cut, not the reference, so that turn timings stay as they were. Pieces are joined
    with cross-fades of 10 ms. A recording without speech is left out, and a voice without any
    is empty.

    Parameters
    ----------
    recordings : sequence of paths
        Any sample rate; several channels are averaged.
    """
    return _load(tuple(Path(path) for path in recordings))


def speech_of(samples: np.ndarray) -> list[np.ndarray]:
    """Cut a recording into its stretches of speech, without the pauses of more than 0.3 s.

    Parameters
    ----------
    samples : (num_samples,) float32, 16 kHz

    Returns
    -------
    pieces : list of (num_samples_of_piece,) arrays
    """
    num_steps = len(samples) // STEP
    if num_steps == 0:
        return []
    pieces = []
    for start, end in _stretches(_audible(samples), LONGEST_PAUSE, SHORTEST_SOUND):
        start, end = max(0, start - MARGIN), min(num_steps, end + MARGIN)
        pieces.append(samples[start * STEP : end * STEP])
    return pieces


def _audible(samples: np.ndarray) -> np.ndarray:
    """Steps within 25 dB of the loud ones (95 %) and 10 dB above the quiet ones (5 %)."""
    num_steps = len(samples) // STEP
    steps = samples[: num_steps * STEP].reshape(num_steps, STEP)
    power = uniform_filter1d(np.mean(steps.astype(np.float64) ** 2, axis=1), size=3)
    level = 10 * np.log10(power + 1e-9)  # (num_steps,)
    quiet, loud = np.percentile(level, [5, 95])
    # a recording that is speech from end to end has no quiet steps: never ask for its loud ones
    threshold = max(loud - 25.0, min(quiet + 10.0, loud - 20.0))
    return (level > threshold) & (level > -75.0)


def _stretches(audible: np.ndarray, longest_pause: int, shortest: int) -> list[tuple[int, int]]:
    """Runs of True as (start, end), over short pauses, without runs that are too short."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], audible, [False]]).astype(np.int8)))
    runs = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    merged: list[tuple[int, int]] = []
    for start, end in runs:
        if merged and start - merged[-1][1] <= longest_pause:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return [(start, end) for start, end in merged if end - start >= shortest]


def _read(path: Path) -> np.ndarray:
    """Samples at 16 kHz, channels averaged, without offset."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recording")
    try:
        with open_sound(path) as sound:
            samples = sound.read(sound.frames, dtype="float32", always_2d=True)
            sample_rate = sound.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot be read ({error}): remove or convert it") from error
    samples = samples.mean(axis=1)  # (num_samples,)
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: holds samples that are not finite: remove or convert it")
    if sample_rate != SAMPLE_RATE:
        divisor = gcd(SAMPLE_RATE, sample_rate)
        samples = resample_poly(samples, SAMPLE_RATE // divisor, sample_rate // divisor)
    return (samples - samples.mean() if len(samples) else samples).astype(np.float32)
