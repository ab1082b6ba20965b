"""What the pipeline answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.core import Segment, SlidingWindowFeature

from pyannote_weighter.output import turns


def speaker_names(count: int) -> list[str]:
    """SPEAKER_00 and so on, as upstream, with more digits where there are more than 100.

    Labels are sorted as text: all have the same length, so that this is the order of speakers.
    """
    digits = max(2, len(str(count - 1)))
    return [f"SPEAKER_{number:0{digits}d}" for number in range(count)]


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
        (steps, speakers), in the order of `speaker_diarization.labels()`. Steps are those of the
        encoder, 0.1 s of the default Weighter.
    embedding_id : str or None
        Names what `speaker_embeddings` were made by: those of another name do not compare.
    """

    confidence: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    weightings: SlidingWindowFeature | None = None
    embedding_id: str | None = None

    def turn_confidence(self, turn: Segment, speaker: str) -> float | None:
        """Confidence of one turn: c = sum X^2 / sum X of its speaker over the steps of the turn.

        It says how sure the weighting is of the steps that it gives to the speaker there; those
        that it does not give to the speaker hardly count. Steps of a turn are those nearest to
        its start, to its end, and to all times between.

        Parameters
        ----------
        turn : Segment
            From `speaker_diarization` or `exclusive_speaker_diarization`, or any other.
        speaker : str
            Label in `speaker_diarization`.

        Returns
        -------
        confidence : float or None
            In [0, 1]; None without weightings.

        Raises
        ------
        ValueError
            For an unknown speaker.
        """
        if self.weightings is None:
            return None
        labels = self.speaker_diarization.labels()
        if speaker not in labels:
            raise ValueError(f"no speaker {speaker!r}: choose from {', '.join(map(str, labels))}")
        nearest = [self.weightings.sliding_window.closest_frame(time) for time in turn]
        first, last = np.clip(nearest, 0, len(self.weightings) - 1)
        x = self.weightings.data[first : last + 1, labels.index(speaker)].astype(float)
        total = x.sum()
        return float(x @ x / total) if total > 0 else 0.0

    def serialize(self) -> dict:
        """Upstream's serialization, with the confidence of each turn and each speaker."""
        speakers = {
            label: {"confidence": round(c, 4), "seconds": round(self.seconds[label], 2)}
            for label, c in self.confidence.items()
        }
        return super().serialize() | {
            "diarization": turns(self),
            "exclusive_diarization": turns(self, exclusive=True),
            "speakers": speakers,
        }
