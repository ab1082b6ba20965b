"""From weightings and counts to the answer, in time and memory that are linear in the length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature
from pyannote.core.utils.generators import string_generator

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.linking import Groups
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.answer import WeighterOutput, speaker_names
from pyannote_weighter.pipelines.joint import LocalOpinion
from pyannote_weighter.pipelines.weighing import seconds_of
from pyannote_weighter.pipelines.windows import Speakers, Windows, embed_groups
from pyannote_weighter.segmentation import nearest_frames

BLOCK = 2**15  # frames
LOCAL_SHARE = 0.4
"""Say of the segmentation's local speakers: from 0.2 to 0.5 it makes no difference."""


def active_speakers(
    weightings: SlidingWindowFeature,
    count: np.ndarray,
    frames: SlidingWindow,
    local: LocalSpeakers | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Give each frame to its most probable speakers, as many as are counted there.

    Parameters
    ----------
    weightings : (T, K) SlidingWindowFeature
    count : (T',) array of int
        Number of speakers at the same time.
    frames : SlidingWindow
        Frames of the count.
    local : LocalSpeakers, optional
        Who speaks in the windows of the segmentation, which then has a say.

    Returns
    -------
    active : (K, T') bool array
        See `top_speakers`.
    first : (T',) array of int
        The most probable speaker, -1 where nobody speaks.
    """
    x = weightings.data
    index = nearest_frames(weightings.sliding_window, len(x), frames, len(count))
    active = np.zeros((x.shape[1], len(count)), dtype=bool)
    first = np.empty(len(count), dtype=np.int32)
    says = LocalOpinion(local, x, index) if local is not None else None
    for start in range(0, len(count), BLOCK):
        counted = count[start : start + BLOCK]  # (t,)
        opinion = x[index[start : start + BLOCK]]  # (t, K)
        if says is not None:
            theirs = says(start, start + len(counted))
            opinion = (1 - LOCAL_SHARE) * opinion + LOCAL_SHARE * theirs
        winner = np.where(counted > 0, opinion.argmax(axis=1), -1)
        first[start : start + BLOCK] = winner
        (speech,) = np.nonzero(counted)
        active[winner[speech], start + speech] = True
        (several,) = np.nonzero(counted > 1)
        active[:, start + several] = top_speakers(opinion[several], counted[several]).T
    return active, first


def to_annotation(
    active: np.ndarray,
    frames: SlidingWindow,
    min_duration_off: float = 0.0,
    names: Mapping[int, str] | None = None,
    uri: str | None = None,
) -> Annotation:
    """Turns of speakers: upstream's, without its loop over all frames.

    Parameters
    ----------
    active : (K, T) bool array, or iterable of its rows
    frames : SlidingWindow
    min_duration_off : float, optional
        Pauses of a speaker that are shorter are filled, in seconds.
    names : mapping, optional
        Labels; speakers without one are left out. Defaults to their numbers.
    uri : str, optional

    Returns
    -------
    annotation : Annotation
        As of `SpeakerDiarizationMixin.to_annotation`.
    """

    def middle(frame: int) -> float:
        start = frames.start + frame * frames.step
        return float(0.5 * (start + (start + frames.duration)))

    def turns() -> Iterator[tuple[Segment, str, int | str]]:
        for speaker, (row, track) in enumerate(zip(active, string_generator(), strict=False)):
            if names is not None and speaker not in names:
                continue
            (changes,) = np.nonzero(row[1:] != row[:-1])
            changes = changes + 1
            if len(row) and row[0]:
                changes = np.concatenate([[0], changes])
            if len(changes) % 2:  # to the end
                changes = np.append(changes, len(row) - 1)
            for first, last in changes.reshape(-1, 2):
                if first < last:  # the last frame alone is no turn
                    turn = Segment(middle(first), middle(last))
                    yield turn, track, speaker if names is None else names[speaker]

    annotation = Annotation.from_records(turns(), uri=uri)
    return annotation.support(collar=min_duration_off) if min_duration_off > 0 else annotation


def have_turns(active: np.ndarray) -> list[int]:
    """Speakers of (K, T) who have a turn, in order: the last frame alone is none."""
    return np.flatnonzero(active[:, :-1].any(axis=1)).tolist()


def keep_columns(weightings: np.ndarray, kept: list[int]) -> np.ndarray:
    """Some columns of (T, K) weightings, ascending, without a second array: it is written over."""
    if len(kept) < weightings.shape[1]:
        for start in range(0, len(weightings), BLOCK):
            block = weightings[start : start + BLOCK]
            block[:, : len(kept)] = block[:, kept]
    return weightings[:, : len(kept)]


def nobody(weighter: Weighter, uri: str | None) -> WeighterOutput:
    """Answer where nobody speaks."""
    return WeighterOutput(
        speaker_diarization=Annotation(uri=uri),
        exclusive_speaker_diarization=Annotation(uri=uri),
        speaker_embeddings=np.zeros((0, weighter.hparams.dimension)),
    )


def reconstruct(
    weighter: Weighter,
    candidates: Iterable[tuple[np.ndarray, Speakers | None]],
    count: SlidingWindowFeature,
    local: LocalSpeakers | None,
    windows: Windows,
    min_speakers: int,
    max_speakers: float,
    min_duration_off: float,
    uri: str | None,
    hook: Callable,
    listen: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None,
) -> WeighterOutput:
    """Give frames to speakers and name them.

    Parameters
    ----------
    weighter : Weighter
    candidates : iterable of (S, K) array, Speakers or None
        Weightings of steps, and what they pool where that is known; the first that give time to
        `min_speakers` are taken, or else those that give it to most.
    count : (T', 1) SlidingWindowFeature
        Number of speakers at the same time.
    local : LocalSpeakers or None
        See `active_speakers`.
    windows : Windows
        Of the whole file.
    min_speakers, max_speakers : int
    min_duration_off : float
        See `to_annotation`.
    uri : str or None
    hook : callable
        See `WeighterDiarization.apply`.
    listen : callable, optional
        See `Attribution.__call__`.

    Returns
    -------
    output : WeighterOutput
    """
    counted = count.data[:, 0].astype(int)  # (T',); uint8 takes no bound over 255
    counted = np.minimum(counted, max_speakers).astype(int)
    frames = count.sliding_window
    best = None
    # the segmentation must not be what loses a speaker who was asked for
    says = (local,) if local is None or min_speakers <= 1 else (local, None)
    for (weightings, speakers), who in (
        (candidate, who) for candidate in candidates for who in says
    ):
        columns = SlidingWindowFeature(weightings, weighter.steps)
        active, first = active_speakers(columns, counted, frames, who)
        # speakers who are given no time at all get no name
        spoken = have_turns(active)
        if best is None or len(spoken) > len(best[0]):
            best = spoken, weightings, speakers, active, first
        if len(spoken) >= min_speakers:
            break
    spoken, weightings, speakers, active, first = best
    weightings = keep_columns(weightings, spoken)
    hook("weightings", SlidingWindowFeature(weightings, weighter.steps))
    hook("discrete_diarization", SlidingWindowFeature(active.T.view(np.uint8), frames))
    if not spoken:
        return nobody(weighter, uri)
    names = dict(zip(spoken, speaker_names(len(spoken)), strict=True))
    diarization = to_annotation(active, frames, min_duration_off, names, uri)
    num_speakers = len(active)
    del best, active  # one of the largest things there are
    alone = (first == speaker for speaker in range(num_speakers))
    exclusive = to_annotation(alone, frames, min_duration_off, names, uri)

    if speakers is None:
        groups = Groups.gather(windows.cut(weightings))
        with torch.inference_mode():
            speakers = embed_groups(weighter, windows, groups)
    else:
        speakers = Speakers(*(values[spoken] for values in speakers))
    embeddings = speakers.embeddings
    if listen is not None:
        number = np.full(num_speakers + 1, -1)  # the last one: nobody
        number[spoken] = np.arange(len(spoken))
        solo = np.where(count.data[:, 0] == 1, number[first], -1)
        voices, heard = listen(
            solo,
            frames,
            len(spoken),
            progress=lambda done, all_: hook(
                "speaker_embeddings", None, completed=done, total=all_
            ),
        )
        embeddings = np.where(heard[:, None], voices, embeddings)
    hook("speaker_embeddings", embeddings)
    seconds = seconds_of(weighter, weightings, windows.num_frames)
    return WeighterOutput(
        speaker_diarization=diarization,
        exclusive_speaker_diarization=exclusive,
        speaker_embeddings=embeddings,
        confidence=dict(zip(names.values(), speakers.confidence.tolist(), strict=True)),
        seconds=dict(zip(names.values(), seconds.tolist(), strict=True)),
        weightings=SlidingWindowFeature(weightings, weighter.steps),
    )
