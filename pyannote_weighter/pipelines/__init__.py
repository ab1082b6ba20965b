"""Diarization pipelines."""

from pyannote_weighter.pipelines.diarization import WeighterDiarization

__all__ = ["WeighterDiarization"]
