"""Turn timings of real conversations, and excerpts of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyannote.core import Annotation, Segment

SHORTEST_TURN = 0.1  # seconds; what cropping leaves of a turn may be shorter and is dropped


@dataclass(frozen=True)
class TurnTaking:
    """Who speaks when in one recording, without the recording.

    Attributes
    ----------
    uri : str
    starts, ends : (num_turns,) float, seconds
    speakers : (num_turns,) int
        Index of the speaker of each turn.
    """

    uri: str
    starts: np.ndarray
    ends: np.ndarray
    speakers: np.ndarray

    @property
    def duration(self) -> float:
        """End of the last turn, in seconds."""
        return float(self.ends.max())

    @property
    def num_speakers(self) -> int:
        """Number of speakers."""
        return len(np.unique(self.speakers))


def read_turns(paths: str | Path | Iterable[str | Path]) -> list[TurnTaking]:
    """Read RTTM files.

    Parameters
    ----------
    paths : path or iterable of paths
        RTTM files, or folders: all ``*.rttm`` in them.

    Returns
    -------
    turns : list of TurnTaking
        One for each uri, sorted by uri; turns of one speaker that touch are one turn.

    Raises
    ------
    FileNotFoundError, ValueError
        With file and line.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    annotations: dict[str, Annotation] = {}
    for path in _rttm_files(paths):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            fields = line.split()
            if not fields or fields[0] != "SPEAKER":
                continue
            try:
                uri, start, duration, speaker = fields[1], *map(float, fields[3:5]), fields[7]
            except (IndexError, ValueError):
                raise ValueError(
                    f"{path}:{number}: expected "
                    f"'SPEAKER uri 1 start duration <NA> <NA> speaker <NA> <NA>', found {line!r}"
                ) from None
            annotation = annotations.setdefault(uri, Annotation(uri=uri))
            segment = Segment(start, start + duration)
            if segment:
                annotation[segment, annotation.new_track(segment)] = speaker
    if not any(annotations.values()):
        raise ValueError("no turns in the RTTM files: name files or folders that hold some")
    return [_turn_taking(annotations[uri]) for uri in sorted(annotations) if annotations[uri]]


def _rttm_files(paths: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder of turn timings")
        files += sorted(path.glob("*.rttm")) if path.is_dir() else [path]
    return files


def _turn_taking(annotation: Annotation) -> TurnTaking:
    turns = [
        (turn.start, turn.end, index)
        for index, label in enumerate(annotation.labels())
        for turn in annotation.label_timeline(label).support()
    ]
    starts, ends, speakers = map(np.array, zip(*sorted(turns), strict=True))
    return TurnTaking(annotation.uri, starts, ends, speakers)


def choose_excerpt(
    turns: Sequence[TurnTaking],
    rng: np.random.Generator,
    duration: tuple[float, float] = (60.0, 120.0),
    num_speakers: int = 2,
    min_speech: float = 2.0,
    attempts: int = 5000,
) -> tuple[float, list[tuple[float, float, int]]]:
    """Choose where to cut a conversation with the wanted number of speakers.

    Every start in every recording is equally likely, among those that have exactly the wanted
    number of speakers. Who speaks for less than `min_speech` seconds in the excerpt is left
    out of it.

    Parameters
    ----------
    turns : sequence of TurnTaking
    rng : numpy Generator
    duration : (float, float)
        Shortest and longest excerpt, in seconds.
    num_speakers : int
    min_speech : float
        Seconds.
    attempts : int
        How often to draw before giving up.

    Returns
    -------
    duration : float
        Seconds.
    excerpt : list of (start, end, speaker)
        Seconds from the start of the excerpt; speakers are numbered from 0 by first turn.

    Raises
    ------
    ValueError
        When no such excerpt was found.
    """
    candidates = [t for t in turns if t.num_speakers >= num_speakers and t.duration >= duration[0]]
    longest = np.array([t.duration for t in candidates])
    for _ in range(attempts if candidates else 0):
        length = float(rng.uniform(*duration))
        room = np.maximum(longest - length, 0.0)
        if not room.any():
            room = (longest >= length).astype(float)  # those that are exactly as long
        if not room.any():
            continue
        source = candidates[int(rng.choice(len(candidates), p=room / room.sum()))]
        excerpt = _crop(source, float(rng.uniform(0.0, source.duration - length)), length)
        spoken: dict[int, float] = {}
        for start, end, speaker in excerpt:
            spoken[speaker] = spoken.get(speaker, 0.0) + end - start
        kept = [speaker for speaker, seconds in spoken.items() if seconds >= min_speech]
        if len(kept) == num_speakers:
            number = {speaker: i for i, speaker in enumerate(kept)}
            return length, [(s, e, number[who]) for s, e, who in excerpt if who in number]
    raise ValueError(
        f"no excerpt of {duration[0]:g} to {duration[1]:g} s with {num_speakers} speakers of at "
        f"least {min_speech:g} s each in {len(turns)} turn timings: give more timings, longer "
        "durations or fewer speakers"
    )


def _crop(source: TurnTaking, start: float, duration: float) -> list[tuple[float, float, int]]:
    starts = np.maximum(source.starts - start, 0.0)
    ends = np.minimum(source.ends - start, duration)
    kept = np.flatnonzero(ends - starts >= SHORTEST_TURN)
    return [(float(starts[i]), float(ends[i]), int(source.speakers[i])) for i in kept]
