"""Tests of the picture."""

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature

from pyannote_weighter.plots import (
    MAX_NAME,
    MAX_POINTS,
    PIECE,
    _match_slots,
    envelope,
    match_colors,
    plot_diarization,
    plot_weightings,
    short,
)
from pyannote_weighter.recording import InMemory

PNG = b"\x89PNG"


@pytest.fixture
def hypothesis() -> Annotation:
    annotation = Annotation(uri="file")
    annotation[Segment(0, 2), 0] = "SPEAKER_00"
    annotation[Segment(1, 4), 1] = "SPEAKER_01"
    return annotation


def test_everything_in_one_picture(tmp_path, hypothesis):
    reference = hypothesis.rename_labels({"SPEAKER_00": "Bob", "SPEAKER_01": "Alice"})
    reference[Segment(3, 4), 2] = "Carol"
    weightings = SlidingWindowFeature(np.random.rand(40, 2), SlidingWindow(0.1, 0.1))
    plot_diarization(
        tmp_path / "new" / "a.png",
        np.random.randn(2, 4 * 8000),
        8000,
        hypothesis,
        reference=reference,
        weightings=weightings,
        confidence={"SPEAKER_00": 0.9, "SPEAKER_01": 0.4},
        title="all",
    )
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("samples", [10, 8000])
def test_little_to_draw(tmp_path, samples):
    plot_diarization(tmp_path / "a.png", np.zeros(samples), 8000, Annotation())
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_crowds(tmp_path, monkeypatch):
    """Those who talk most are drawn, with their own weightings, and the title tells."""
    monkeypatch.setattr("pyannote_weighter.plots.MAX_SPEAKERS", 5)
    crowd = Annotation()
    for k in range(9):
        crowd[Segment(k, k + 0.5 + 0.001 * k)] = f"{k:04d}"
    window = SlidingWindow(0.1, 0.1)
    weightings = np.tile(np.arange(len(crowd.labels())), (20, 1))
    rows, titles = [], []
    monkeypatch.setattr(
        "pyannote_weighter.plots._draw_weighting",
        lambda _, weightings, index, color, label: rows.append((label, weightings.data[0, index])),
    )
    title = Figure.suptitle
    monkeypatch.setattr(Figure, "suptitle", lambda *a, **o: titles.append(a[1]) or title(*a, **o))
    plot_diarization(
        tmp_path / "a.png",
        np.zeros(8000),
        800,
        crowd,
        reference=crowd,
        weightings=SlidingWindowFeature(weightings, window),
        title="all",
    )
    plot_weightings(tmp_path / "b.png", SlidingWindowFeature(np.ones((20, 2)), window), crowd)
    assert rows == [(f"{k:04d}", k) for k in range(4, 9)]
    note = "the 5 of 9 speakers who talk most"
    assert titles == [f"all\nhypothesis: {note}\nreference: {note}", f"reference: {note}"]


def test_weightings_must_match_speakers(tmp_path, hypothesis):
    weightings = SlidingWindowFeature(np.zeros((40, 3)), SlidingWindow(0.1, 0.1))
    with pytest.raises(ValueError, match="3 weightings for 2 speakers"):
        plot_diarization(
            tmp_path / "a.png", np.zeros(8000), 8000, hypothesis, weightings=weightings
        )
    assert not list(tmp_path.iterdir())


def test_matched_speakers_share_a_colour(hypothesis):
    reference = hypothesis.rename_labels({"SPEAKER_00": "Bob", "SPEAKER_01": "Alice"})
    reference[Segment(3, 4), 2] = "Carol"
    colors = match_colors(hypothesis, reference)
    assert colors["reference"]["Bob"] == colors["hypothesis"]["SPEAKER_00"]
    assert colors["reference"]["Alice"] == colors["hypothesis"]["SPEAKER_01"]
    assert colors["reference"]["Carol"] not in colors["hypothesis"].values()


def test_slots_are_drawn_below(tmp_path, hypothesis):
    """The picture grows by the slots; it is whole for one frame and one slot too."""
    window = SlidingWindow(start=0.0, duration=0.02, step=0.02)
    heights = []
    for name, slots in {
        "none": None,
        "many": SlidingWindowFeature(np.random.default_rng(0).random((200, 16)), window),
        "one": SlidingWindowFeature(np.ones((1, 1)), window),
    }.items():
        plot_diarization(tmp_path / f"{name}.png", np.zeros(64000), 16000, hypothesis, slots=slots)
        heights.append(matplotlib.image.imread(tmp_path / f"{name}.png").shape[0])
    assert heights[1] > heights[2] > heights[0]


def test_weightings_below_the_reference(tmp_path, hypothesis):
    slots = SlidingWindowFeature(
        np.random.default_rng(0).random((200, 16)),
        SlidingWindow(start=0.0, duration=0.02, step=0.02),
    )
    heights = []
    for name, options in {
        "likes": {"names": {3: "ann"}},
        "reference": {"reference": hypothesis},
        "silent": {"reference": Annotation()},
    }.items():
        plot_weightings(tmp_path / "new" / f"{name}.png", slots, title=name, **options)
        heights.append(matplotlib.image.imread(tmp_path / "new" / f"{name}.png").shape[0])
    assert heights[1] > heights[2] > heights[0]


def test_labels_that_are_no_text(tmp_path):
    reference = Annotation()
    reference[Segment(0, 1)], reference[Segment(1, 2)] = 1, 2
    slots = SlidingWindowFeature(np.random.rand(20, 3), SlidingWindow(0.1, 0.1))
    plot_weightings(tmp_path / "a.png", slots, reference, names={0: "ann"})
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("num_frames, num_slots", [(0, 3), (20, 0), (0, 0)])
def test_nothing_to_draw(tmp_path, hypothesis, num_frames, num_slots):
    empty = np.zeros((num_frames, num_slots))
    slots = SlidingWindowFeature(empty, SlidingWindow(0.1, 0.1))
    plot_weightings(tmp_path / "a.png", slots, hypothesis)
    plot_weightings(tmp_path / "b.png", slots)
    plot_diarization(tmp_path / "c.png", np.zeros(0), 8000, hypothesis, slots=slots)
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())


def test_long_names_leave_room():
    assert short("ann\nlee") == "ann lee" and short(5) == "5"
    assert short("x" * 300) == "x" * (MAX_NAME - 1) + "…"


def test_slots_are_matched_with_speakers(hypothesis):
    window = SlidingWindow(start=0.0, duration=0.1, step=0.1)
    weightings = np.zeros((40, 4))
    weightings[:20, 2] = 1.0  # SPEAKER_00 talks from 0 to 2, SPEAKER_01 from 1 to 4
    weightings[12:40, 0] = 0.5
    weightings[:, 1] = 0.1
    slots = SlidingWindowFeature(weightings, window)
    assert _match_slots(slots, hypothesis) == {2: "SPEAKER_00", 0: "SPEAKER_01"}
    shorter = SlidingWindowFeature(weightings[:15], window)  # than the reference
    assert _match_slots(shorter, hypothesis)[2] == "SPEAKER_00"


@pytest.mark.parametrize("num_samples", [1, 10, 7999, 8000, 100_003])
def test_envelope_is_of_whole_blocks(num_samples, monkeypatch):
    monkeypatch.setattr("pyannote_weighter.plots.PIECE", 500)
    samples = np.random.default_rng(0).standard_normal(num_samples)
    found = envelope(InMemory(torch.from_numpy(samples)[None]))
    size = max(1, num_samples // MAX_POINTS)
    blocks = samples[: num_samples // size * size].reshape(-1, size)
    assert np.array_equal(found.low, blocks.min(axis=1))
    assert np.array_equal(found.high, blocks.max(axis=1))
    assert found.num_samples == num_samples


def test_long_recordings_are_read_piece_by_piece(tmp_path, hypothesis):
    pieces = []

    class Long:
        num_samples = 40 * PIECE

        def read(self, start, stop):
            pieces.append((start, stop))
            return torch.zeros(1, stop - start)

    found = envelope(Long())
    assert len(pieces) >= 40 and all(stop - start <= PIECE for start, stop in pieces)
    assert all(a[1] == b[0] for a, b in zip(pieces, pieces[1:], strict=False))
    assert len(found.low) == len(found.high) == MAX_POINTS
    plot_diarization(tmp_path / "a.png", found, 16000, hypothesis)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_dollars_are_no_formulas(tmp_path):
    """Names and titles are shown as they are, not as mathematics."""
    name, slots = "$5_$6^", SlidingWindow(start=0.0, duration=0.1, step=0.1)
    one = Annotation()
    one[Segment(0, 2)] = name
    weightings = SlidingWindowFeature(np.ones((40, 1)), slots)
    plot_diarization(
        tmp_path / "a.png",
        np.zeros(32000),
        8000,
        one,
        reference=one,
        weightings=weightings,
        slots=weightings,
        title=name,
    )
    plot_weightings(tmp_path / "b.png", weightings, one, title=name)
    plot_weightings(tmp_path / "c.png", weightings, names={0: name})
    assert len(list(tmp_path.iterdir())) == 3
