"""Speaker diarization that learns from likes."""

__version__ = "0.1.0"
