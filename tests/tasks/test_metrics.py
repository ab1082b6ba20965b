"""Validation metrics, against pyannote.metrics and plain Python."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from pyannote_weighter.tasks.metrics import (
    FrameDiarizationErrorRate,
    LikesMeanAveragePrecision,
    choose_metric,
)


def annotation(active: torch.Tensor, prefix: str) -> Annotation:
    """One segment per frame and speaker."""
    turns = Annotation(uri="file")
    for t, k in active.nonzero().tolist():
        turns[Segment(t, t + 1), k] = f"{prefix}{k}"
    return turns


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 15), st.integers(1, 4), st.integers(1, 4)), min_size=1,
             max_size=3),
    st.integers(0, 1000),
)  # fmt: skip
def test_error_rate_equals_pyannote(files, seed):
    torch.manual_seed(seed)
    ours, theirs = FrameDiarizationErrorRate(), DiarizationErrorRate()
    for num_frames, num_slots, num_speakers in files:
        active = torch.rand(num_frames, num_slots) < 0.4
        reference = torch.rand(num_frames, num_speakers) < 0.5
        reference[0, 0] = True
        ours.update(active, reference)
        theirs(
            annotation(reference, "reference"),
            annotation(active, "slot"),
            uem=Timeline([Segment(0, num_frames)]),
        )
    assert ours.compute().item() == pytest.approx(abs(theirs), abs=1e-5)
    for name, part in (
        ("false_alarm", "false alarm"),
        ("missed", "missed detection"),
        ("confusion", "confusion"),
        ("total", "total"),
    ):
        assert getattr(ours, name).item() == pytest.approx(theirs[part], abs=1e-4)


def test_error_rate_after_inference():
    """As where `trainer.fit` follows `trainer.validate`."""
    metric = FrameDiarizationErrorRate()
    reference = torch.tensor([[1, 0], [0, 1]]).bool()
    with torch.inference_mode():
        metric.update(reference, reference)
    metric.update(reference[:, :1], reference)
    assert metric.compute() == pytest.approx(0.25)
    with torch.inference_mode():
        metric.reset()
    metric.update(reference[:, :1], reference)
    assert metric.compute() == pytest.approx(0.5)


def test_error_rate_of_edge_cases():
    metric = FrameDiarizationErrorRate()
    reference = torch.tensor([[1, 0], [0, 1], [1, 1]]).bool()
    metric.update(reference[:, [1, 0]], reference)  # names of slots do not matter
    assert metric.compute() == 0
    metric.reset()
    metric.update(torch.zeros(3, 2, dtype=torch.bool), reference)
    assert metric.compute() == 1 and metric.missed == 4
    metric.reset()
    metric.update(torch.zeros(3, 0, dtype=torch.bool), reference)  # no slot
    metric.update(torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 0).bool())  # no speaker
    assert metric.missed == 4 and metric.false_alarm == 6 and metric.confusion == 0
    metric.reset()
    metric.update(torch.zeros(3, 2).bool(), torch.zeros(3, 0).bool())
    assert metric.compute() == 0


def slow_mean_average_precision(embeddings, confidence, likes) -> float:
    """For every query a ranked list, for every relevant file in it a precision."""
    known = [i for i, names in enumerate(likes) if names is not None]
    precisions = []
    for query in known:
        ranked = []
        for other in known:
            if other == query:
                continue
            best = max(
                float(c * d * F.cosine_similarity(e, f, dim=0))
                for e, c in zip(embeddings[query], confidence[query], strict=True)
                for f, d in zip(embeddings[other], confidence[other], strict=True)
            )
            ranked.append((best, bool(set(likes[query]) & set(likes[other]))))
        ranked.sort(key=lambda item: -item[0])
        hits = [rank for rank, (_, relevant) in enumerate(ranked, start=1) if relevant]
        if hits:
            precisions.append(np.mean([n / rank for n, rank in enumerate(hits, start=1)]))
    return float(np.mean(precisions)) if precisions else 0.0


@pytest.mark.parametrize("num_slots", [1, 3])  # one slot: many cosines are negative
@pytest.mark.parametrize("seed", range(3))
def test_precision_against_plain_python(seed, num_slots):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    embeddings, confidence = torch.randn(9, num_slots, 5), torch.rand(9, num_slots)
    likes = [list("abcd"[i] for i in rng.integers(0, 4, rng.integers(0, 3))) for _ in range(8)]
    likes.insert(2, None)
    metric = LikesMeanAveragePrecision()
    for first in range(0, 9, 2):  # in batches
        batch = slice(first, first + 2)
        metric.update(embeddings[batch], confidence[batch], likes[batch])
    expected = slow_mean_average_precision(embeddings, confidence, likes)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-5)


def test_precision_over_processes():
    """Halves that are synchronised have the value of the whole; each keeps its own half after."""
    torch.manual_seed(0)
    embeddings, confidence = torch.randn(7, 2, 5), torch.rand(7, 2)
    likes = [["a"], ["b", "c"], None, ["a", "c"], [], ["c"], ["b"]]
    whole = LikesMeanAveragePrecision()
    whole.update(embeddings, confidence, likes)
    halves = [LikesMeanAveragePrecision(), LikesMeanAveragePrecision()]
    for index in range(7):
        one = slice(index, index + 1)
        halves[index % 2].update(embeddings[one], confidence[one], likes[one])

    # as torchmetrics gathers: lists of tensors joined, state after state
    states = [[torch.cat(getattr(m, state)) for state in m._reductions] for m in halves]
    for metric in halves:
        gathered = zip(*states, strict=True)
        metric.distributed_available_fn = lambda: True
        metric.dist_sync_fn = lambda _, group, gathered=gathered: list(next(gathered))
        assert metric.compute() == pytest.approx(whole.compute().item(), abs=1e-6)
    assert [len(metric.num_likes) for metric in halves] == [4, 3]


def test_perfect_and_random_embeddings():
    torch.manual_seed(0)
    num_speakers, num_files = 5, 60
    speakers = torch.linalg.qr(torch.randn(16, 16))[0][:num_speakers]
    liked = torch.arange(num_files) % num_speakers
    names = [[str(k)] for k in liked.tolist()]
    perfect, chance = LikesMeanAveragePrecision(), LikesMeanAveragePrecision()
    slots = torch.randn(num_files, 4, 16)
    confidence = torch.full((num_files, 4), 0.1)
    chance.update(slots, confidence, names)
    slots[:, 2], confidence[:, 2] = 7 * speakers[liked], 1.0
    perfect.update(slots, confidence, names)
    assert perfect.compute() == 1.0
    assert 0.1 < chance.compute() < 0.35  # one file in five is relevant


def test_confidence_counts():
    same = torch.tensor([1.0, 0.0])
    embeddings = torch.stack([same, same, same])[:, None]
    metric = LikesMeanAveragePrecision()
    # of two files that look alike, the one that is sure comes first
    metric.update(embeddings, torch.tensor([[1.0], [0.2], [0.9]]), [["a"], ["b"], ["a"]])
    assert metric.compute() == 1.0


def test_precision_without_anything_to_compare():
    metric = LikesMeanAveragePrecision()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == 0
    metric.update(torch.randn(2, 3, 4), torch.ones(2, 3), [None, ["a"]])
    assert metric.compute() == 0
    metric.update(torch.randn(2, 3, 4), torch.ones(2, 3), [[], ["b"]])
    assert metric.compute() == 0
    metric.update(torch.zeros(1, 3, 4), torch.zeros(1, 3), [["b"]])  # silent: finite
    assert metric.compute() >= 1 / 3
    metric.reset()
    assert not metric.slots


@pytest.mark.parametrize(
    "likes, turns, metric",
    [
        ([], [], None),
        (["a", "a", "b"], [None, None, None], "LikesMeanAveragePrecision"),
        (["a", "a", ""], [None, None, None], "LikesMeanAveragePrecision"),
        (["a", "a", "a"], [None, None, None], None),  # every order is right
        (["a", "a"], [None, None], None),
        (["a", "b", "c"], [None, None, None], None),  # nothing to find
        (["a", "a", None], [None, None, None], None),
        (["a", "a", "b"], [None, None, [[0.0, 1.0, "a"]]], "DiarizationErrorRate"),
        ([None], [[]], None),  # a reference without speech
    ],
)
def test_metric_to_judge_epochs_by(likes, turns, metric):
    entries = [
        {"uri": str(i), "likes": None if names is None else names.split(), "turns": t}
        for i, (names, t) in enumerate(zip(likes, turns, strict=True))
    ]
    mode = "max" if metric == "LikesMeanAveragePrecision" else "min"
    assert choose_metric(entries) == (metric, mode)


@pytest.mark.parametrize("seed", range(20))
def test_likes_that_cannot_judge_are_told(seed):
    """Where precision is the same for all embeddings, and only there, nothing is chosen."""
    rng = np.random.default_rng(seed)
    likes = [list("abc"[i] for i in rng.integers(0, 3, rng.integers(0, 3))) for _ in range(4)]
    torch.manual_seed(seed)
    values = set()
    for _ in range(20):
        metric = LikesMeanAveragePrecision()
        metric.update(torch.randn(4, 1, 5), torch.ones(4, 1), likes)
        values.add(round(metric.compute().item(), 4))
    chosen, _ = choose_metric([{"likes": names, "turns": None} for names in likes])
    assert (chosen is not None) == (len(values) > 1)


def test_frames_are_counted_in_mixed_precision():
    active = torch.zeros(6013, 2, dtype=torch.bool)
    active[:3004, 0] = active[3004:, 1] = True
    reference = active[:, [1, 0]].clone()
    metric = FrameDiarizationErrorRate()
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(active, reference)
        assert metric.compute() == 0
        both = torch.ones(6013, 1, dtype=torch.bool)
        metric.reset()
        metric.update(both, active)
    assert metric.confusion == 3004  # the other one speaks for longer
