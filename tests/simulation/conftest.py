"""Voices that can be told apart by their pitch, and turn timings."""

import numpy as np
import pytest
import soundfile

from pyannote_weighter.simulation import SAMPLE_RATE, TurnTaking

PITCHES = {"ann": 500.0, "bob": 900.0, "cy": 1500.0, "dee": 2300.0, "ed": 3100.0, "flo": 4100.0}


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """Six voices of 6 s each: a steady tone with silence around it, in two recordings."""
    folder = tmp_path_factory.mktemp("tones")
    silence = np.zeros(SAMPLE_RATE // 2)
    time = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    for speaker, pitch in PITCHES.items():
        (folder / speaker).mkdir()
        for number in range(2):
            tone = 0.1 * (1 + 0.3 * number) * np.sin(2 * np.pi * pitch * time)
            recording = np.concatenate([silence, tone, silence])
            soundfile.write(folder / speaker / f"{number}.wav", recording, SAMPLE_RATE)
    return {s: sorted((folder / s).glob("*.wav")) for s in PITCHES}


@pytest.fixture(scope="session")
def turns():
    """Two recordings of 300 s with six speakers, with pauses and overlap."""
    rng = np.random.default_rng(5)
    sources = []
    for uri in ("one", "two"):
        starts = np.arange(100) * 3.0
        ends = starts + rng.uniform(1.5, 3.8, size=100)
        sources.append(TurnTaking(uri, starts, ends, np.arange(100) % 6))
    return sources
