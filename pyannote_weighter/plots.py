"""Pictures of a diarization, and of weightings before they become one."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from pyannote.core import Annotation, Segment, SlidingWindowFeature
from pyannote.metrics.diarization import DiarizationErrorRate

from pyannote_weighter.matching import assign
from pyannote_weighter.output import atomic
from pyannote_weighter.recording import InMemory, Recording
from pyannote_weighter.weighting import confidence as slot_confidence

MAX_POINTS = 4000  # across the picture: more would only be drawn over each other
PIECE = 2**20  # samples that are read at a time
MAX_NAME = 24  # letters of a name beside its row: long ones would leave no room for the rows
MAX_SPEAKERS = 60  # of an annotation: hundreds take minutes, and more pixels than can be drawn


class Envelope(NamedTuple):
    """What a picture shows of a waveform, see `envelope`."""

    low: np.ndarray
    high: np.ndarray
    num_samples: int


def envelope(recording: Recording) -> Envelope:
    """Smallest and largest sample of each of some thousand blocks, read piece by piece."""
    size = max(1, recording.num_samples // MAX_POINTS)
    end = recording.num_samples // size * size
    step = size * max(1, PIECE // size)  # whole blocks
    low, high = np.empty((2, end // size))
    for start in range(0, end, step):
        blocks = recording.read(start, min(start + step, end)).reshape(-1, size)  # (points, size)
        there = slice(start // size, start // size + len(blocks))
        low[there], high[there] = blocks.amin(dim=1), blocks.amax(dim=1)
    return Envelope(low, high, recording.num_samples)


def plot_diarization(
    path: str | Path,
    waveform: np.ndarray | Envelope,
    sample_rate: int,
    hypothesis: Annotation,
    reference: Annotation | None = None,
    weightings: SlidingWindowFeature | None = None,
    confidence: Mapping[str, float] | None = None,
    slots: SlidingWindowFeature | None = None,
    title: str | None = None,
) -> None:
    """Draw a diarization into a PNG file.

    Of more than `MAX_SPEAKERS` speakers those who talk most are drawn, and the title tells.

    Parameters
    ----------
    path : path
        Where to write to. The file is there when it is whole, or not at all.
    waveform : (samples,) or (channels, samples) array, or Envelope
        Of several channels, the mean is drawn. For long recordings see `envelope`.
    sample_rate : int
    hypothesis : Annotation
    reference : Annotation, optional
        Matched speakers have the same colour in both.
    weightings : (T, K) SlidingWindowFeature, optional
        One column a speaker, in the order of `hypothesis.labels()`.
    confidence : {label: number}, optional
        Drawn as a bar beside the weighting of its speaker.
    slots : (T, N) SlidingWindowFeature, optional
        The N weightings of the Weighter, before slots are linked into speakers.
    title : str, optional
    """
    if not isinstance(waveform, Envelope):
        waveform = np.asarray(waveform)
        if waveform.ndim == 2:
            waveform = waveform.mean(axis=0)
        waveform = envelope(InMemory(torch.as_tensor(np.ascontiguousarray(waveform))[None]))
    duration = waveform.num_samples / sample_rate
    labels = hypothesis.labels()
    if weightings is not None and weightings.data.shape[1] != len(labels):
        raise ValueError(
            f"{weightings.data.shape[1]} weightings for {len(labels)} speakers: expected one each"
        )
    hypothesis, title = _talkative(hypothesis, "hypothesis", title)
    if len(drawn := hypothesis.labels()) < len(labels):
        if weightings is not None:
            columns = weightings.data[:, [labels.index(label) for label in drawn]]
            weightings = SlidingWindowFeature(columns, weightings.sliding_window)
        labels = drawn
    if reference is not None:
        reference, title = _talkative(reference, "reference", title)

    annotations = [("hypothesis", hypothesis)]
    if reference is not None:
        annotations.insert(0, ("reference", reference))
    colors = match_colors(hypothesis, reference)

    # rows: waveform, annotations, one per weighting; a narrow second column holds confidences
    num_weightings = 0 if weightings is None else len(labels)
    heights = [1.5] + [0.4 + 0.25 * len(a.labels()) for _, a in annotations] + [1] * num_weightings
    if slots is not None:
        heights.append(0.4 + 0.16 * slots.data.shape[1])
    figure = Figure(figsize=(12, 0.6 + 0.85 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(
        len(heights), 2, height_ratios=heights, width_ratios=(30, 1 if confidence else 1e-6)
    )
    axes = [figure.add_subplot(grid[row, 0]) for row in range(len(heights))]

    _draw_waveform(axes[0], waveform, duration)
    for axis, (name, annotation) in zip(axes[1:], annotations, strict=False):
        _draw_turns(axis, annotation, colors[name], name)
    for index in range(num_weightings):
        row, label = 1 + len(annotations) + index, labels[index]
        color = colors["hypothesis"][label]
        _draw_weighting(axes[row], weightings, index, color, short(label))
        if confidence:
            _draw_confidence(figure.add_subplot(grid[row, 1]), confidence.get(label), color)

    if slots is not None:
        _draw_slots(axes[-1], slots)

    for axis in axes:
        axis.set_xlim(0, duration or 1)
        axis.label_outer()
    axes[-1].set_xlabel("time (seconds)")
    if title:
        figure.suptitle(title, parse_math=False)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def plot_weightings(
    path: str | Path,
    slots: SlidingWindowFeature,
    reference: Annotation | None = None,
    names: Mapping[int, str] | None = None,
    title: str | None = None,
) -> None:
    """Draw weightings, below the reference where there is one, into a PNG file.

    Parameters
    ----------
    path : path
        Where to write to. The file is there when it is whole, or not at all.
    slots : (T, N) SlidingWindowFeature
        Weightings in [0, 1]. Those with a name come first, then others by the time they hold.
    reference : Annotation, optional
        Its speakers name, and colour, the slots with which they share most time. Turns are drawn
        of the `MAX_SPEAKERS` who talk most.
    names : {slot: name}, optional
        Of slots that no speaker of the reference names.
    title : str, optional
    """
    window, values = slots.sliding_window, slots.data  # (T, N)
    names, colors, heights = dict(names or {}), {}, [0.4 + 0.16 * values.shape[1]]
    if reference is not None:
        palette = match_colors(Annotation(), reference)["reference"]
        matched = _match_slots(slots, reference)  # labels, which need not be text
        names = {n: name for n, name in names.items() if name not in palette} | matched
        colors = {n: palette[label] for n, label in matched.items()}
        reference, title = _talkative(reference, "reference", title)
        heights.insert(0, 0.4 + 0.25 * len(reference.labels()))
    order = sorted(range(values.shape[1]), key=lambda n: (n not in names, -values[:, n].sum()))

    figure = Figure(figsize=(12, 0.6 + 0.85 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    if reference is not None:
        _draw_turns(axes[0], reference, palette, "reference")
    _draw_slots(
        axes[-1],
        SlidingWindowFeature(values[:, order], window),
        labels=[short(names.get(n, "")) for n in order],
        colors=[colors.get(n, (0.0, 0.0, 0.0)) for n in order],
    )
    axes[-1].set_title("weightings, and their confidence", loc="left", fontsize=9)
    for axis in axes:
        axis.set_xlim(0, window.start + window.duration + window.step * max(0, len(values) - 1))
        axis.label_outer()
    axes[-1].set_xlabel("time (seconds)")
    if title:
        figure.suptitle(title, parse_math=False)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def _talkative(
    annotation: Annotation, name: str, title: str | None
) -> tuple[Annotation, str | None]:
    """Turns of the speakers who talk most, and the title with a note if there are others."""
    chart = annotation.chart()
    if len(chart) <= MAX_SPEAKERS:
        return annotation, title
    note = f"{name}: the {MAX_SPEAKERS} of {len(chart)} speakers who talk most"
    drawn = annotation.subset([label for label, _ in chart[:MAX_SPEAKERS]])
    return drawn, f"{title}\n{note}" if title else note


def short(name) -> str:
    """One line of at most `MAX_NAME` letters."""
    name = " ".join(str(name).split())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _match_slots(slots: SlidingWindowFeature, reference: Annotation) -> dict[int, Hashable]:
    """Slots and the speakers with whom they share most time, one to one."""
    if not slots.data.size:
        return {}
    labels, window, (num_frames, _) = reference.labels(), slots.sliding_window, slots.data.shape
    active = reference.discretize(
        Segment(0, window.start + window.duration + window.step * num_frames),
        resolution=window,
        labels=labels,
    ).data[:num_frames]  # (T, K)
    shared = slots.data[: len(active)].T @ active  # (N, K)
    rows, columns = assign(torch.as_tensor(-shared))
    return {n: labels[k] for n, k in zip(rows.tolist(), columns.tolist(), strict=True)}


def match_colors(
    hypothesis: Annotation, reference: Annotation | None
) -> dict[str, dict[str, tuple]]:
    """Colour of every speaker; those that belong together have the same.

    Returns
    -------
    colors : dict
        ``hypothesis`` and ``reference`` to {label: colour}.
    """
    palette = matplotlib.colormaps["tab10"].colors + matplotlib.colormaps["Set2"].colors
    ours = {label: palette[i % len(palette)] for i, label in enumerate(hypothesis.labels())}
    theirs = {}
    if reference is not None:
        mapping = DiarizationErrorRate().optimal_mapping(hypothesis, reference)
        spare = iter(range(len(ours), 10_000))
        for label in reference.labels():
            matched = mapping.get(label)
            theirs[label] = (
                ours[matched] if matched in ours else palette[next(spare) % len(palette)]
            )
    return {"hypothesis": ours, "reference": theirs}


def _draw_waveform(axis, waveform: Envelope, duration: float) -> None:
    times = np.linspace(0, duration, len(waveform.low))
    axis.fill_between(times, waveform.low, waveform.high, color="0.4", linewidth=0)
    axis.set_yticks([])
    axis.set_ylabel("waveform", rotation=0, ha="right", va="center")


def _draw_turns(axis, annotation: Annotation, colors: dict, name: str) -> None:
    labels = annotation.labels()
    for row, label in enumerate(labels):
        turns = [(turn.start, turn.duration) for turn in annotation.label_timeline(label)]
        axis.broken_barh(turns, (row + 0.1, 0.8), facecolors=colors[label])
    axis.set_ylim(max(1, len(labels)), 0)
    names = [short(label) for label in labels]
    axis.set_yticks([row + 0.5 for row in range(len(labels))], names, parse_math=False)
    axis.tick_params(axis="y", labelsize=7, length=0)
    axis.set_title(name, loc="left", fontsize=9, pad=3)


def _draw_weighting(axis, weightings: SlidingWindowFeature, index: int, color, label) -> None:
    window, values = weightings.sliding_window, weightings.data[:, index]
    skip = max(1, len(values) // MAX_POINTS)
    times = window.start + 0.5 * window.duration + window.step * np.arange(len(values))
    axis.fill_between(times[::skip], values[::skip], color=color, linewidth=0, alpha=0.85)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 1])
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    if index == 0:
        axis.set_title("weightings", loc="left", fontsize=9, pad=3)


def _draw_slots(axis, slots: SlidingWindowFeature, labels=None, colors=None) -> None:
    window, (num_frames, num_slots) = slots.sliding_window, slots.data.shape
    axis.set_title("slots before they are linked, and their confidence", loc="left", fontsize=9)
    if not slots.data.size:
        axis.set_yticks([])
        return
    labels = [""] * num_slots if labels is None else labels
    colors = np.zeros((num_slots, 3)) if colors is None else np.array(colors)
    skip = max(1, num_frames // MAX_POINTS)
    start = window.start + 0.5 * (window.duration - window.step)
    values = slots.data[::skip].T[..., None]  # (N, points, 1)
    axis.imshow(
        1 - np.clip(values, 0, 1) * (1 - colors[:, None]),  # (N, points, 3)
        aspect="auto",
        interpolation="nearest",
        extent=(start, start + num_frames * window.step, num_slots, 0),
    )
    c = slot_confidence(torch.as_tensor(slots.data)).tolist()
    axis.set_yticks(
        [n + 0.5 for n in range(num_slots)],
        [f"{label} {value:.2f}" for label, value in zip(labels, c, strict=True)],
        parse_math=False,
    )
    axis.tick_params(axis="y", labelsize=6, length=0)


def _draw_confidence(axis, value: float | None, color) -> None:
    value = 0.0 if value is None else float(value)
    axis.bar([0], [value], color=color)
    axis.set_ylim(0, 1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"c {value:.2f}", fontsize=8, pad=2)
