"""Training tasks."""

from pyannote_weighter.tasks.speaker_likes import SpeakerLikes

__all__ = ["SpeakerLikes"]
