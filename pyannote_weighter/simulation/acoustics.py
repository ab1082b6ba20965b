"""What lies between a voice and the microphone: level, room and noise."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from pyannote_weighter.simulation.voices import SAMPLE_RATE


@dataclass(frozen=True)
class Acoustics:
    """Ranges from which the acoustics of a conversation are drawn (uniformly).

    Attributes
    ----------
    level : (float, float)
        Level of the speech of a conversation, dB relative to full scale.
    gain : float
        Each speaker is louder or softer than that by a normal deviate of so many dB, at most
        twice as many.
    snr : (float, float) or None
        Speech to pink noise, dB; None for no noise.
    room_share : float
        Share of conversations that take place in a room.
    rt60 : (float, float)
        Seconds in which the reverberation of a room falls by 60 dB.
    direct_ratio : (float, float)
        Direct sound to reverberation, dB; drawn for each speaker (near and far seats).
    stay : (float, float) or None
        Seconds for which a speaker stays in one place: with the next turn after that, gain, direct
        sound and reverberation are drawn anew. None: for ever.
    """

    level: tuple[float, float] = (-30.0, -22.0)
    gain: float = 3.0
    snr: tuple[float, float] | None = (15.0, 30.0)
    room_share: float = 0.6
    rt60: tuple[float, float] = (0.15, 0.6)
    direct_ratio: tuple[float, float] = (0.0, 10.0)
    stay: tuple[float, float] | None = None

    def draw_gain(self, rng: np.random.Generator) -> float:
        """Factor for the samples of one speaker."""
        decibels = np.clip(rng.normal(0.0, self.gain), -2 * self.gain, 2 * self.gain)
        return float(10.0 ** (decibels / 20.0))


def pink_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB an octave above 20 Hz.

    Returns
    -------
    noise : (num_samples,) float32
        Root mean square 1.
    """
    size = fft.next_fast_len(num_samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequencies = fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
    spectrum = spectrum / np.sqrt(np.maximum(frequencies, 20.0)).astype(np.float32)
    spectrum[0] = 0.0
    noise = fft.irfft(spectrum, size)[:num_samples]
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def room_response(rt60: float, direct_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a synthetic room: direct sound, then exponentially decaying noise.

    The direct sound comes first and without delay, so that turn timings stay true; the
    reverberation starts 2 to 10 ms later.

    Parameters
    ----------
    rt60 : float
        Seconds in which the reverberation falls by 60 dB.
    direct_ratio : float
        Energy of the direct sound to that of the reverberation, dB.

    Returns
    -------
    response : (num_samples,) float32
        `rt60` seconds long, energy 1.
    """
    num_samples = max(int(rt60 * SAMPLE_RATE), 2)
    time = np.arange(num_samples) / SAMPLE_RATE  # seconds
    tail = rng.standard_normal(num_samples) * 10.0 ** (-3.0 * time / rt60)
    tail[: int(rng.uniform(0.002, 0.010) * SAMPLE_RATE)] = 0.0
    energy = np.sum(tail**2)
    if energy > 0.0:
        tail *= np.sqrt(10.0 ** (-direct_ratio / 10.0) / energy)
    tail[0] = 1.0
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
