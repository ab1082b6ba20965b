"""One conversation: voices on turn timings, in a room, with noise."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pyannote.core import Annotation, Segment
from scipy.signal import oaconvolve

from pyannote_weighter.simulation.acoustics import Acoustics, pink_noise, room_response
from pyannote_weighter.simulation.turns import TurnTaking, choose_excerpt
from pyannote_weighter.simulation.voices import FADE, SAMPLE_RATE, Voice, load_voice


def simulate_conversation(
    voices: Mapping[str, Sequence[str | Path]],
    turns: Sequence[TurnTaking],
    rng: np.random.Generator,
    duration: tuple[float, float] = (60.0, 120.0),
    acoustics: Acoustics | None = None,
    uri: str = "conversation",
) -> tuple[np.ndarray, Annotation]:
    """Let voices speak along an excerpt of real turn timings.

    Each turn is filled with consecutive speech of its voice; the next turn of the voice goes on
    where the last one stopped (at the next sound, so that no turn starts with a pause), from a
    random start and cyclically.

    Parameters
    ----------
    voices : {speaker: recordings}
        All of them speak.
    turns : sequence of TurnTaking
        Timings to choose from.
    rng : numpy Generator
        The only source of randomness: same state, same samples.
    duration : (float, float)
        Shortest and longest conversation, in seconds.
    acoustics : Acoustics, optional
    uri : str, optional

    Returns
    -------
    waveform : (1, num_samples) float32
        16 kHz, within -1 and 1.
    annotation : pyannote.core.Annotation
        The turns, labelled by speaker.
    """
    acoustics = acoustics or Acoustics()
    names = list(voices)
    seconds, excerpt = choose_excerpt(turns, rng, duration, num_speakers=len(names))
    names = [names[i] for i in rng.permutation(len(names))]
    num_samples = int(seconds * 100) * (SAMPLE_RATE // 100)  # whole in text with 3 decimals
    annotation = Annotation(uri=uri)
    mixture = np.zeros(num_samples, np.float32)
    active = np.zeros(num_samples, bool)
    rt60 = rng.uniform(*acoustics.rt60) if rng.random() < acoustics.room_share else None

    for index, name in enumerate(names):
        spans = [
            (round(start * SAMPLE_RATE), min(round(end * SAMPLE_RATE), num_samples))
            for start, end, speaker in excerpt
            if speaker == index
        ]
        track = _speak(_load(name, voices[name]), spans, num_samples, rng)
        places = _places(spans, acoustics, rng)
        for start, end in itertools.pairwise([*places, num_samples]):
            part = track[start:end] * acoustics.draw_gain(rng)
            if rt60 is not None:
                response = room_response(rt60, rng.uniform(*acoustics.direct_ratio), rng)
                part = oaconvolve(part, response)[: num_samples - start]
            mixture[start : start + len(part)] += part
        for start, end in spans:
            active[start:end] = True
            segment = Segment(start / SAMPLE_RATE, end / SAMPLE_RATE)
            annotation[segment, annotation.new_track(segment)] = name

    return _record(mixture, active, acoustics, rng)[None], annotation


def _load(name: str, recordings: Sequence[str | Path]) -> Voice:
    voice = load_voice(recordings)
    if not len(voice.samples):
        raise ValueError(f"voice {name!r} has no speech in its recordings: leave it out")
    return voice


def _speak(
    voice: Voice, spans: list[tuple[int, int]], num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Fill spans of samples with consecutive speech; silence elsewhere."""
    track = np.zeros(num_samples, np.float32)
    position = int(rng.integers(len(voice.samples)))
    ramp = np.linspace(0.0, 1.0, FADE, dtype=np.float32)
    for start, end in spans:
        position = voice.next_onset(position)
        speech = voice.take(position, end - start)
        speech[:FADE] *= ramp
        speech[-FADE:] *= ramp[::-1]
        track[start:end] += speech
        position += end - start
    return track


def _places(
    spans: list[tuple[int, int]], acoustics: Acoustics, rng: np.random.Generator
) -> list[int]:
    """First sample in each of the places from which a voice comes."""
    places = [0]
    if acoustics.stay is not None:
        until = rng.uniform(*acoustics.stay) * SAMPLE_RATE
        for start, _ in spans:
            if start >= until:
                places.append(start)
                until = start + rng.uniform(*acoustics.stay) * SAMPLE_RATE
    return places


def _record(
    mixture: np.ndarray, active: np.ndarray, acoustics: Acoustics, rng: np.random.Generator
) -> np.ndarray:
    """Set the level of the speech, add noise, keep the peaks within full scale."""
    power = np.mean(mixture[active] ** 2)
    if acoustics.snr is not None:
        noise_power = power * 10.0 ** (-rng.uniform(*acoustics.snr) / 10.0)
        mixture = mixture + pink_noise(len(mixture), rng) * np.sqrt(noise_power)
    mixture = mixture * (10.0 ** (rng.uniform(*acoustics.level) / 20.0) / np.sqrt(power))
    peak = np.abs(mixture).max()
    return (mixture * min(1.0, 0.98 / peak)).astype(np.float32)
