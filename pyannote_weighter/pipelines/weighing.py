"""Slots of a whole file: weighed window by window, weighed again, and what they are then."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pyannote.core import SlidingWindow

from pyannote_weighter.likeness import LocalSpeakers, local_evidence
from pyannote_weighter.linking import Groups, Slots
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.seeds import NUM_SEEDS
from pyannote_weighter.pipelines.spill import Rows
from pyannote_weighter.pipelines.windows import (
    Speakers,
    SpeakerSums,
    Windows,
    alone,
    embed_groups,
    solo_weights,
    weigh_again,
    weigh_frames,
)
from pyannote_weighter.presence import Presence


def cut_windows(weighter: Weighter, num_frames: int, longest: float) -> list[tuple[int, int]]:
    """First frame and end of windows of equal length, none longer than so many seconds or a step.

    Parameters
    ----------
    weighter : Weighter
        Windows start with one of its steps.
    num_frames : int
    longest : float
        In seconds; infinity never cuts.
    """
    step = weighter.encoder.step
    num_steps = -(-num_frames // step)
    most = max(1, int(min(longest / weighter.steps.step, num_steps) + 1e-6))  # steps
    num_windows = max(1, -(-num_steps // most))
    bounds = np.linspace(0, num_steps, num_windows + 1).round().astype(int) * step
    bounds[-1] = num_frames
    return list(itertools.pairwise(bounds.tolist()))


def seconds_of(weighter: Weighter, weightings: np.ndarray, num_frames: int) -> np.ndarray:
    """(N,) speech behind (S, N) weightings of steps, in seconds; the last step may be shorter."""
    step = weighter.encoder.step
    missing = -num_frames % step
    frames = step * weightings.sum(axis=0, dtype=float) - missing * weightings[-1]
    return frames * weighter.frames.step


def weigh_file(
    weighter: Weighter,
    bounds: Sequence[tuple[int, int]],
    frames: torch.Tensor | Rows,
    speech: np.ndarray,
    windows: Windows | None = None,
    local: LocalSpeakers | None = None,
) -> Slots:
    """Weigh the frames of a file.

    Parameters
    ----------
    weighter : Weighter
    bounds : list of (int, int)
        See `cut_windows`.
    frames : (T, C) tensor or Rows
    speech : (T,) array
        Number of speakers in each frame.
    windows : Windows, optional
        Where to keep what weighing again needs of the frames.
    local : LocalSpeakers, optional
        Who speaks in the windows of the segmentation: slots start there, see `Seeds`.

    Returns
    -------
    slots : Slots
    """
    N, _ = weighter.dimension
    if local is not None and weighter.encoder.restarts:
        N = NUM_SEEDS
    grid = weighter.frames
    parts, embeddings, confidence, seconds = [], [], [], []
    for start, stop in bounds:
        weighed, window = weigh_frames(
            weighter,
            frames[start:stop],
            speech[start:stop],
            local=local,
            grid=SlidingWindow(grid.duration, grid.step, grid[start].start),
        )
        # some windows have fewer slots, and the others are empty; crowded ones have more
        empty = max(0, N - len(weighed.confidence))
        parts.append(np.pad(weighed.weightings, ((0, 0), (0, empty))))
        embeddings.append(np.pad(weighed.embeddings, ((0, empty), (0, 0))))
        confidence.append(np.pad(weighed.confidence, (0, empty)))
        seconds.append(seconds_of(weighter, parts[-1], stop - start))
        if windows is not None:
            windows.append(window)
    return Slots(parts, *(np.concatenate(each) for each in (embeddings, confidence, seconds)))


@torch.inference_mode()
def improve_groups(
    weighter: Weighter,
    bounds: Sequence[tuple[int, int]],
    groups: Groups,
    frames: torch.Tensor | Windows,
    speech: np.ndarray,
    sums: SpeakerSums | None = None,
    weights: Sequence[np.ndarray] | None = None,
) -> Groups:
    """Weigh once more, from the weightings of groups of slots. Nobody is lost by it.

    Parameters
    ----------
    weighter : Weighter
    bounds : list of (int, int)
        See `cut_windows`.
    groups : Groups
        See `Slots.join`.
    frames : (T, C) tensor or Windows
        Frames, or what `weigh_file` kept of them.
    speech : (T,) array
    sums : SpeakerSums, optional
        What comes out is added to them; `frames` must be `Windows`. Worth nothing if the groups
        that were given are returned.
    weights : list of (s,) arrays, optional
        See `SpeakerSums.add`.

    Returns
    -------
    groups : Groups
        Those that were given where nothing can be improved.
    """
    if groups.number == 1 or not weighter.encoder.restarts:
        return groups
    step = weighter.encoder.step
    # in one place: what stays between things that come and go keeps their memory from being reused
    improved = [np.empty_like(part) for part in groups.weightings]
    heard = np.zeros(groups.number, dtype=bool)
    for index, (start, stop) in enumerate(bounds):
        part, who, count = groups.weightings[index], groups.present[index], speech[start:stop]
        seen = isinstance(frames, Windows) and len(who) > (sums is None)
        window = frames[index] if seen else None
        if len(who) > 1:
            if window is not None:
                part = weigh_again(weighter, window, count, part)
            else:
                part = weigh_frames(weighter, frames[start:stop], count, part)[0].weightings
        improved[index][:] = part
        if len(who):
            spoken = np.maximum.reduceat(count, np.arange(0, len(count), step)) > 0  # (s,)
            heard[who[part.argmax(axis=1)[spoken]]] = True
            if sums is not None:
                sums.add(window, part, who, None if weights is None else weights[index])
    return replace(groups, weightings=improved) if heard.all() else groups


@torch.inference_mode()
def improve_and_embed(
    weighter: Weighter,
    bounds: Sequence[tuple[int, int]],
    groups: Groups,
    windows: Windows,
    speech: np.ndarray,
    weights: Sequence[np.ndarray] | None = None,
) -> tuple[Groups, Speakers]:
    """Same as `improve_groups`, with the embeddings of what it returns: windows are read once.

    Parameters
    ----------
    weighter, bounds, groups, speech, weights
        See `improve_groups`.
    windows : Windows
        What `weigh_file` kept of the frames.

    Returns
    -------
    groups : Groups
    speakers : Speakers
    """
    sums = SpeakerSums(weighter, groups.number)
    improved = improve_groups(weighter, bounds, groups, windows, speech, sums, weights)
    if improved is groups:
        return groups, embed_groups(weighter, windows, groups, weights)
    return improved, sums.speakers()


@torch.inference_mode()
def settle_groups(
    weighter: Weighter,
    bounds: Sequence[tuple[int, int]],
    groups: Groups,
    windows: Windows,
    speech: np.ndarray,
    local: LocalSpeakers | None,
    presence: Presence,
) -> Slots:
    """Weigh groups of slots once more, and make them into slots.

    Parameters
    ----------
    weighter, bounds, groups, windows, speech
        See `improve_and_embed`.
    local : LocalSpeakers or None
    presence : Presence
        Tells who is a speaker, where local speakers are known.

    Returns
    -------
    slots : Slots
        They have one column in each window where they are.
    """
    frames, step = weighter.frames, weighter.encoder.step
    solo = [solo_weights(speech[start:stop], step) for start, stop in bounds]
    groups, speakers = improve_and_embed(weighter, bounds, groups, windows, speech, solo)
    parts, present = groups.weightings, groups.present
    seconds = np.zeros(groups.number)
    for part, who, (start, stop) in zip(parts, present, bounds, strict=True):
        seconds[who] += seconds_of(weighter, part, stop - start)
    slots = Slots(parts, *speakers, seconds, columns=present)
    if local is None:
        return slots
    single = [alone(speech[start:stop], step) for start, stop in bounds]
    grids = [
        SlidingWindow(step * frames.step, step * frames.step, frames[start].start)
        for start, _ in bounds
    ]

    def is_speaker(groups, seconds, embeddings):
        probability = presence(groups, single, seconds, embeddings, local, grids)
        return probability, presence.threshold(seconds)

    slots.evidence = local_evidence(local, parts, weighter.steps, present)
    slots.is_speaker = is_speaker
    return slots
