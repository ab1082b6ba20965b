"""Diarization error rate in its three parts, pooled over files, with bootstrap intervals.

Collar 0, overlapping speech scored, optimal one-to-one mapping of speakers. And the equal error
rate of scores.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from pyannote.core import Annotation, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from sklearn.metrics import roc_curve


@dataclass(frozen=True)
class Score:
    """Error of one diarization.

    Attributes
    ----------
    total : float
        Reference speech, in seconds (overlapping speech counts once a speaker; as in
        pyannote.metrics, turns of one speaker that overlap count twice).
    missed, false_alarm, confusion : float
        Its three errors, in seconds.
    reference_speakers, speakers : int
        How many there are, and how many were found.
    """

    total: float
    missed: float
    false_alarm: float
    confusion: float
    reference_speakers: int
    speakers: int

    @property
    def error(self) -> float:
        """Sum of the three errors, in seconds."""
        return self.missed + self.false_alarm + self.confusion

    def to_dict(self) -> dict[str, float]:
        """Fields that JSON can hold."""
        return asdict(self)


def score(
    reference: Annotation, hypothesis: Annotation, annotated: Timeline | None = None
) -> Score:
    """Compare a diarization with its reference.

    Parameters
    ----------
    reference, hypothesis : Annotation
        Names need not agree.
    annotated : Timeline, optional
        What is scored. Defaults to the extent of both.

    Returns
    -------
    score : Score
    """
    if annotated is None:
        annotated = Timeline(
            [(reference.get_timeline() | hypothesis.get_timeline()).extent()], uri=reference.uri
        )
    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    parts = metric(reference, hypothesis, uem=annotated, detailed=True)
    return Score(
        total=float(parts["total"]),
        missed=float(parts["missed detection"]),
        false_alarm=float(parts["false alarm"]),
        confusion=float(parts["confusion"]),
        reference_speakers=len(reference.crop(annotated).labels()),
        speakers=len(hypothesis.crop(annotated).labels()),
    )


RATES = ("error", "missed", "false_alarm", "confusion")


def pool(scores: Sequence[Score]) -> dict[str, float]:
    """Pool scores over files.

    Returns
    -------
    pooled : dict
        `error` (DER), `missed`, `false_alarm`, `confusion` as shares of the reference speech of
        all files together, and `right_count`, the share of files with the right number of
        speakers.
    """
    total = _speech(scores)
    rates = {part: sum(getattr(s, part) for s in scores) / total for part in RATES}
    right = sum(s.speakers == s.reference_speakers for s in scores)
    return {**rates, "right_count": right / len(scores)}


def _speech(scores: Sequence[Score]) -> float:
    """Reference speech of all files; ValueError where there is none."""
    total = sum(s.total for s in scores)
    if not total > 0:
        raise ValueError("no reference speech in any of the files: there is nothing to score")
    return total


def bootstrap(
    scores: Sequence[Score],
    part: str,
    against: Sequence[Score] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a pooled rate, by drawing files with replacement.

    Parameters
    ----------
    scores : sequence of Score
        One a file.
    part : {"error", "missed", "false_alarm", "confusion"}
    against : sequence of Score, optional
        Another system on the same files, in the same order: the interval is then that of the
        difference `scores - against`, over the same draws for both (paired).
    resamples : int
    level : float

    Returns
    -------
    low, high : float
        The percentile interval. The same every time: the draws are seeded.

    Raises
    ------
    ValueError
        If there is no reference speech, or systems differ in their number of files.
    """
    _speech(scores)
    total = np.array([s.total for s in scores])  # (files,)
    errors = np.array([getattr(s, part) for s in scores])
    if against is not None:
        if len(against) != len(scores):
            raise ValueError(f"paired systems differ in files: {len(scores)} and {len(against)}")
        errors = errors - np.array([getattr(s, part) for s in against])

    num_files = len(total)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(num_files, np.full(num_files, 1 / num_files), size=resamples)
    drawn_total = draws @ total  # (resamples,)
    # a draw of nothing but files without speech has no rate
    rates = (draws @ errors)[drawn_total > 0] / drawn_total[drawn_total > 0]
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def equal_error_rate(scores: np.ndarray, target: np.ndarray) -> float:
    """Rate at which targets are missed as often as others are accepted.

    Of all thresholds that tell scores apart, the mean of both rates where they are nearest to each
    other. (`pyannote.metrics.binary_classification.det_curve` leaves thresholds out that lie on
    straight parts of the curve, and has 25 % for scores that are told apart without an error.)

    Parameters
    ----------
    scores : array
        The higher, the more likely a target; of any shape.
    target : array of bool
        Of the same shape.

    Returns
    -------
    rate : float
        NaN where there are no targets, or nothing but targets.
    """
    target = np.asarray(target, dtype=bool).ravel()
    if target.all() or not target.any():
        return np.nan
    accepted_others, accepted, _ = roc_curve(target, np.ravel(scores), drop_intermediate=False)
    missed = 1.0 - accepted
    nearest = np.argmin(np.abs(accepted_others - missed))
    return float((accepted_others[nearest] + missed[nearest]) / 2)
