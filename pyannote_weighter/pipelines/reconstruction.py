"""From weightings and counts to the answer, in time and memory that are linear in the length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature
from pyannote.core.utils.generators import string_generator

from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.linking import Groups
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.answer import WeighterOutput, speaker_names
from pyannote_weighter.pipelines.joint import LocalOpinion
from pyannote_weighter.pipelines.weighing import seconds_of
from pyannote_weighter.pipelines.windows import Speakers, Windows, embed_groups
from pyannote_weighter.segmentation import nearest_frames

BLOCK = 2**21  # numbers at a time
LOCAL_SHARE = 0.4
"""Say of the segmentation's local speakers: from 0.2 to 0.5 it makes no difference."""


def rank_speakers(
    weightings: SlidingWindowFeature,
    count: np.ndarray,
    frames: SlidingWindow,
    local: LocalSpeakers | None = None,
) -> np.ndarray:
    """Give each frame to its most probable speakers, as many as are counted there.

    Parameters
    ----------
    weightings : (S, K) SlidingWindowFeature
    count : (T,) array of int
        Number of speakers at the same time.
    frames : SlidingWindow
        Frames of the count.
    local : LocalSpeakers, optional
        Who speaks in the windows of the segmentation, which then has a say.

    Returns
    -------
    speakers : (T, M) array of int
        The most probable one of each frame first, -1 where there is none. M is the largest count,
        at least 1 and at most K.
    """
    x = weightings.data
    num_speakers = x.shape[1]
    index = nearest_frames(weightings.sliding_window, len(x), frames, len(count))
    most = min(num_speakers, int(count.max(initial=1)))
    speakers = np.full((len(count), most), -1, dtype=np.int32)
    says = LocalOpinion(local, x, index) if local is not None else None
    block = max(1, BLOCK // num_speakers)
    for start in range(0, len(count), block):
        some = slice(start, min(start + block, len(count)))
        opinion = x[index[some]]  # (t, K)
        if says is not None:
            opinion = (1 - LOCAL_SHARE) * opinion + LOCAL_SHARE * says(some.start, some.stop)
        speakers[some, 0] = np.where(count[some] > 0, opinion.argmax(axis=1), -1)
        (several,) = np.nonzero(count[some] > 1)
        order = np.argsort(-opinion[several], axis=1, kind="stable")[:, :most]
        counted = np.arange(most) < count[some][several, None]
        speakers[start + several] = np.where(counted, order, -1)
    return speakers


def to_annotation(
    speakers: np.ndarray,
    frames: SlidingWindow,
    min_duration_off: float = 0.0,
    names: Mapping[int, str] | None = None,
    uri: str | None = None,
) -> Annotation:
    """Turns of speakers: upstream's, without its loop over all frames.

    Parameters
    ----------
    speakers : (T, M) array of int
        Who speaks in each frame, in any order, -1 for nobody.
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
    frame, column = np.nonzero(speakers >= 0)
    who = speakers[frame, column]
    order = np.argsort(who, kind="stable")  # by speaker, then in time
    who, frame = who[order], frame[order]
    goes_on = (np.diff(who, prepend=-1) == 0) & (np.diff(frame, prepend=-1) == 1)
    (first,) = np.nonzero(~goes_on)
    start = frame[first]
    stop = frame[np.append(first[1:], len(frame))[: len(first)] - 1] + 1
    stop = np.minimum(stop, len(speakers) - 1)  # to the end
    tracks = list(itertools.islice(string_generator(), int(who.max(initial=-1)) + 1))

    def middle(index: np.ndarray) -> list[float]:
        begin = frames.start + index * frames.step
        return (0.5 * (begin + (begin + frames.duration))).tolist()

    bounds = zip(who[first].tolist(), middle(start), middle(stop), strict=True)
    turns = (
        (Segment(begin, end), tracks[speaker], speaker if names is None else names[speaker])
        for speaker, begin, end in bounds
        if begin < end and (names is None or speaker in names)  # the last frame alone is no turn
    )
    annotation = Annotation.from_records(turns, uri=uri)
    return annotation.support(collar=min_duration_off) if min_duration_off > 0 else annotation


def fill_pauses(speakers: np.ndarray, shorter_than: float) -> np.ndarray:
    """Give pauses to whoever speaks before and after, where nobody else does.

    Parameters
    ----------
    speakers : (T,) array of int
        Who speaks in each frame, -1 for nobody.
    shorter_than : float
        Pauses of at least so many frames stay.

    Returns
    -------
    speakers : (T,) array of int
    """
    (spoken,) = np.nonzero(speakers >= 0)
    pause = np.diff(spoken) - 1
    same = speakers[spoken[1:]] == speakers[spoken[:-1]]
    (filled,) = np.nonzero((pause > 0) & (pause < shorter_than) & same)
    speakers = speakers.copy()
    within = np.arange(pause[filled].sum()) - np.repeat(
        np.cumsum(pause[filled]) - pause[filled], pause[filled]
    )
    before = np.repeat(spoken[filled], pause[filled])
    speakers[before + 1 + within] = speakers[before]
    return speakers


def have_turns(speakers: np.ndarray) -> list[int]:
    """Who of (T, M) has a turn, in order: the last frame alone is none."""
    found = np.unique(speakers[:-1])
    return found[found >= 0].tolist()


def one_hot(speakers: np.ndarray, num_speakers: int) -> np.ndarray:
    """(T, M) numbers of speakers to (T, K) of 0 and 1."""
    active = np.zeros((len(speakers), num_speakers), dtype=np.uint8)
    frame, column = np.nonzero(speakers >= 0)
    active[frame, speakers[frame, column]] = 1
    return active


def keep_columns(weightings: np.ndarray, kept: list[int]) -> np.ndarray:
    """Some columns of (S, K) weightings, ascending, without a second array: it is written over."""
    if len(kept) < weightings.shape[1]:
        rows = BLOCK // weightings.shape[1] + 1
        for start in range(0, len(weightings), rows):
            block = weightings[start : start + rows]
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
    hook: Callable | None = None,
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
        See `rank_speakers`.
    windows : Windows
        Of the whole file.
    min_speakers, max_speakers : int
    min_duration_off : float
        See `to_annotation`.
    uri : str or None
    hook : callable, optional
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
        ranked = rank_speakers(columns, counted, frames, who)
        # speakers who are given no time at all get no name
        spoken = have_turns(ranked)
        if best is None or len(spoken) > len(best[0]):
            best = spoken, weightings, speakers, ranked
        if len(spoken) >= min_speakers:
            break
    spoken, weightings, speakers, ranked = best
    num_speakers = weightings.shape[1]
    weightings = keep_columns(weightings, spoken)
    if hook is not None:
        hook("weightings", SlidingWindowFeature(weightings, weighter.steps))
        hook("discrete_diarization", SlidingWindowFeature(one_hot(ranked, num_speakers), frames))
    if not spoken:
        return nobody(weighter, uri)
    names = dict(zip(spoken, speaker_names(len(spoken)), strict=True))
    diarization = to_annotation(ranked, frames, min_duration_off, names, uri)
    # a pause that is filled must not run into somebody else's turn
    first = fill_pauses(ranked[:, 0], min_duration_off / frames.step)
    exclusive = to_annotation(first[:, None], frames, names=names, uri=uri)

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
        solo = np.where(count.data[:, 0] == 1, number[ranked[:, 0]], -1)
        voices, heard = listen(
            solo,
            frames,
            len(spoken),
            progress=lambda done, all_: (
                hook and hook("speaker_embeddings", None, completed=done, total=all_)
            ),
        )
        embeddings = np.where(heard[:, None], voices, embeddings)
    if hook is not None:
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
