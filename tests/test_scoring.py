"""Tests of pooled errors and their intervals."""

import random

import numpy as np
import pytest
from pyannote.core import Annotation, Segment, Timeline

from pyannote_weighter.scoring import Score, bootstrap, equal_error_rate, pool, score


def annotate(*turns) -> Annotation:
    annotation = Annotation(uri="file")
    for track, (start, end, speaker) in enumerate(turns):
        annotation[Segment(start, end), track] = speaker
    return annotation


def random_scores(seed: int, count: int = 12) -> list[Score]:
    rng = random.Random(seed)
    return [
        Score(
            total=rng.uniform(20, 100),
            missed=rng.uniform(0, 5),
            false_alarm=rng.uniform(0, 5),
            confusion=rng.uniform(0, 10),
            reference_speakers=3,
            speakers=rng.choice([2, 3, 4]),
        )
        for _ in range(count)
    ]


def test_three_parts():
    reference = annotate((0, 10, "A"), (8, 20, "B"))  # 22 s of speech, 2 s of it overlapping
    hypothesis = annotate((0, 12, 0), (12, 21, 1))
    found = score(reference, hypothesis, Timeline([Segment(0, 30)]))
    assert found.total == pytest.approx(22)
    assert found.missed == pytest.approx(2)  # 8 to 10: two speak, one is found
    assert found.false_alarm == pytest.approx(1)  # 20 to 21
    assert found.confusion == pytest.approx(2)  # 10 to 12
    assert found.error == pytest.approx(5)
    assert (found.reference_speakers, found.speakers) == (2, 2)


def test_only_what_is_annotated_is_scored():
    reference = annotate((0, 10, "A"), (10, 20, "B"))
    hypothesis = annotate((0, 10, 0))
    found = score(reference, hypothesis, Timeline([Segment(0, 10)]))
    assert found.error == 0
    assert (found.reference_speakers, found.speakers) == (1, 1)
    assert score(reference, hypothesis).missed == pytest.approx(10)


def test_pool_weighs_files_by_speech():
    scores = [Score(90, 9, 0, 0, 2, 2), Score(10, 0, 0, 10, 2, 1)]
    pooled = pool(scores)
    assert pooled["error"] == pytest.approx(0.19)
    assert pooled["missed"] == pytest.approx(0.09)
    assert pooled["right_count"] == 0.5
    with pytest.raises(ValueError, match="nothing to score"):
        pool([Score(0, 0, 1, 0, 0, 1)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_to_draw_from_is_said(count):
    with pytest.raises(ValueError, match="nothing to score"):
        bootstrap([Score(0, 0, 1, 0, 0, 1)] * count, "error")


def test_bootstrap_agrees_with_plain_python():
    scores = random_scores(0)
    rng = random.Random(1)
    rates = sorted(pool(rng.choices(scores, k=len(scores)))["confusion"] for _ in range(4000))
    low, high = bootstrap(scores, "confusion")
    assert low == pytest.approx(rates[100], abs=0.004)
    assert high == pytest.approx(rates[-100], abs=0.004)
    assert low < pool(scores)["confusion"] < high
    assert bootstrap(scores, "confusion") == (low, high)


def test_paired_difference():
    scores = random_scores(2)
    assert bootstrap(scores, "error", against=scores) == (0, 0)
    worse = [
        Score(s.total, s.missed, s.false_alarm, s.confusion + 0.02 * s.total, 3, 3) for s in scores
    ]
    # the same difference in every file: nothing left to chance
    assert bootstrap(worse, "error", against=scores) == pytest.approx((0.02, 0.02))
    with pytest.raises(ValueError, match="differ in files"):
        bootstrap(scores, "error", against=scores[1:])


def slow_equal_error_rates(scores, target) -> list[float]:
    """Every threshold, one by one: those that are nearest to equality."""
    rates = []
    for threshold in [*sorted(scores), np.inf]:
        accepted = [score >= threshold for score in scores]
        missed = np.mean([not a for a, t in zip(accepted, target, strict=True) if t])
        others = np.mean([a for a, t in zip(accepted, target, strict=True) if not t])
        rates.append((abs(missed - others), (missed + others) / 2))
    least = min(rates)[0]
    return [rate for apart, rate in rates if apart < least + 1e-12]


@pytest.mark.parametrize("seed", range(20))
def test_equal_error_rate(seed):
    rng = np.random.default_rng(seed)
    target = rng.random(60) < 0.3
    target[:2] = True, False
    scores = rng.normal(size=60) + 1.5 * target
    if seed % 2:
        scores = scores.round(1)  # ties
    rate = equal_error_rate(scores, target)
    assert any(abs(rate - slow) < 1e-12 for slow in slow_equal_error_rates(scores, target))
    assert equal_error_rate(scores.reshape(6, 10), target.reshape(6, 10)) == equal_error_rate(
        np.exp(scores), target
    )


def test_equal_error_rate_at_its_ends():
    assert equal_error_rate(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])) == 0.0
    assert equal_error_rate(np.array([0.1, 0.2, 0.8, 0.9]), np.array([1, 1, 0, 0])) == 1.0
    assert equal_error_rate(np.zeros(4), np.array([1, 1, 0, 0])) == 0.5


@pytest.mark.parametrize("target", [[True, True], [False, False], []])
def test_equal_error_rate_of_one_kind_alone(target):
    assert np.isnan(equal_error_rate(np.zeros(len(target)), np.array(target)))
