"""Fixtures shared by all tests."""

import os

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")  # before any import of pyannote.audio

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

SPEECH_DATA = Path(
    os.environ.get("PYANNOTE_WEIGHTER_DATA")
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """Folder of real single-speaker recordings; tests that use it skip where it is absent."""
    if not SPEECH_DATA.is_dir():
        pytest.skip(f"no speech data at {SPEECH_DATA}: set PYANNOTE_WEIGHTER_DATA to its folder")
    return SPEECH_DATA


@pytest.fixture(scope="session")
def sample_audio() -> Path:
    """The 30 s conversation that comes inside pyannote.audio (with sample.rttm beside it)."""
    import pyannote.audio

    return Path(pyannote.audio.__file__).parent / "sample" / "sample.wav"
