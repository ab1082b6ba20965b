"""What the pipeline answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import SlidingWindowFeature


@dataclass
class WeighterOutput(DiarizeOutput):
    """Upstream's output, and what the weightings tell beyond it.

    Attributes
    ----------
    confidence : dict
        Confidence of each speaker: c = sum X^2 / sum X of their weighting.
    seconds : dict
        Seconds of speech behind that confidence: the sum of the weighting.
    weightings : SlidingWindowFeature or None
        (frames, speakers), in the order of `speaker_diarization.labels()`.
    """

    confidence: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    weightings: SlidingWindowFeature | None = None

    def serialize(self) -> dict:
        """Upstream's serialization, with the confidence of each speaker."""
        speakers = {
            label: {"confidence": round(c, 4), "seconds": round(self.seconds[label], 2)}
            for label, c in self.confidence.items()
        }
        return super().serialize() | {"speakers": speakers}
