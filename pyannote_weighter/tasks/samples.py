"""Samples of files with likes: checked, spliced, padded into batches."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from pyannote.core import Annotation, SlidingWindow
from torch import Tensor

from pyannote_weighter.messages import some_of

JUDGED = 600.0  # seconds of a development file that are judged, at least
LISTED = ("names", "reference", "annotated", "num_speakers", "file")
"""What batches hold as lists, one item a file."""


def several_databases(files: Iterable) -> bool:
    """Whether they come from more than one database."""
    return len({file.get("database") for file in files}) > 1


def who(file, speaker: str, several: bool) -> str:
    """Name of a speaker that means nobody else in files of `several_databases`."""
    if file.get("scope") == "file":
        return f"{speaker} of {file['uri']}"
    if several and file.get("scope") == "database":
        return f"{speaker} of {file['database']}"
    return speaker


def as_liked(names: Mapping[str, list[str]], files: Iterable) -> dict[str, list[str]]:
    """Names by uri as likes of these files have them: without the database of the file, see `who`.

    Those of other databases stay with theirs.
    """
    files = list(files)
    several = several_databases(files)
    return {
        file["uri"]: [name.removesuffix(who(file, "", several)) for name in names[file["uri"]]]
        for file in files
        if file["uri"] in names
    }


def check_likes(name: str, training: list) -> None:
    """Refuse training files that could teach nothing, and warn where many names teach nothing.

    Parameters
    ----------
    name : str
        Name of the protocol, for messages.
    training : list of ProtocolFile
        Files whose likes are known.

    Raises
    ------
    ValueError
        If there is no file, names mean different speakers in different files, a file is listed
        twice, or no speaker is liked in two files.
    """
    if not training:
        raise ValueError(
            f"no training file of {name} has likes: list its files in the .likes file that "
            "the protocol names under `likes:`"
        )
    if any(file.get("scope") == "file" for file in training):
        raise ValueError(
            f"{name} has `scope: file`: likes teach only when a name means the same speaker "
            "in every file; set `scope: database` or `scope: global`"
        )
    repeated = Counter(uri for uri in (file["uri"] for file in training))
    twice = [uri for uri, times in repeated.items() if times > 1]
    if twice:
        raise ValueError(f"{name} lists {twice[0]!r} more than once in its training files")
    several = several_databases(training)
    files_of = Counter(
        who(file, speaker, several) for file in training for speaker in set(file["likes"])
    )
    if not any(times > 1 for times in files_of.values()):
        raise ValueError(
            f"no speaker of {name} is liked in two files: a speaker who is liked in one file "
            "only teaches nothing; tag the same speakers in more files (or look for two "
            "spellings of one name)"
        )
    once = sorted(speaker for speaker, times in files_of.items() if times == 1)
    if once:
        warnings.warn(
            f"{len(once)} of {len(files_of)} liked speakers of {name} are liked in one file only, "
            f"which teaches nothing about their voices: {some_of(once, most=5)}; tag them in "
            "more files (or look for two spellings of one name)",
            stacklevel=2,
        )


def reference_entry(file, several: bool = False) -> dict:
    """What validation needs of a development file, in a form that JSON can hold.

    Parameters
    ----------
    file : ProtocolFile
        May have "likes" and "annotation" (with "annotated").
    several : bool, optional
        Whether training files come from several databases, see `who`.

    Returns
    -------
    entry : dict
        "uri", "likes", "turns" and "annotated", see
        `pyannote_weighter.tasks.supervision.training_entry`.
    """
    likes, annotation, annotated = map(file.get, ("likes", "annotation", "annotated"))
    entry = {"uri": file["uri"], "likes": None, "turns": None, "annotated": None}
    if likes is not None:
        entry["likes"] = sorted(set(likes))
        if file.get("scope") == "database":
            entry["likes"] = [who(file, speaker, several) for speaker in entry["likes"]]
    if annotation is not None and annotated is not None:
        annotation = annotation.crop(annotated)
    # RTTM cannot tell a file without speech from one that it does not list
    if annotation and annotation.get_timeline()[0].start < JUDGED:
        entry["turns"] = turns_of(annotation)
        if annotated is not None:
            entry["annotated"] = [[segment.start, segment.end] for segment in annotated]
    return entry


def check_references(name: str, development: list, entries: list[dict]) -> None:
    """Warn where some development files are judged by a reference, and those of others are empty.

    Parameters
    ----------
    name : str
        Name of the protocol.
    development : list of ProtocolFile
    entries : list of dict
        See `reference_entry`.
    """
    without = [
        entry["uri"]
        for file, entry in zip(development, entries, strict=True)
        if entry["turns"] is None and file.get("annotation") is not None
    ]
    if without and any(entry["turns"] is not None for entry in entries):
        warnings.warn(
            f"{len(without)} of {len(entries)} development files of {name} are not judged, as "
            f"their references are empty, or not in the RTTM: {some_of(without)}",
            stacklevel=2,
        )


def turns_of(annotation: Annotation) -> list:
    """Start, end and speaker of each turn, as JSON can hold them."""
    turns = annotation.itertracks(yield_label=True)
    return [[turn.start, turn.end, str(speaker)] for turn, _, speaker in turns]


def discretize(turns: list, frames: SlidingWindow, num_frames: int, start: int = 0) -> Tensor:
    """Turns on frames: a frame is in a turn if its middle is, the end of the turn left out.

    Turns one after another share no frame, then.

    Parameters
    ----------
    turns : list of [start, end, speaker]
        In seconds.
    frames : SlidingWindow
    num_frames : int
        T.
    start : int, optional
        First of these frames.

    Returns
    -------
    reference : (T, K) bool tensor
        One column a speaker, in the order of their names.
    """
    speakers = sorted({speaker for _, _, speaker in turns})
    reference = torch.zeros(num_frames, len(speakers), dtype=torch.bool)
    middle = frames.start + frames.duration / 2  # of the first frame
    for begin, end, speaker in turns:
        first, last = (
            max(0, math.ceil((time - middle) / frames.step - 1e-6) - start)  # 1e-6: of rounding
            for time in (begin, end)
        )
        reference[first:last, speakers.index(speaker)] = True
    return reference


def crop_reference(entry: dict, frames: SlidingWindow, start: int, num_frames: int) -> dict:
    """Reference of a crop, frame by frame.

    Parameters
    ----------
    entry : dict
        See `pyannote_weighter.tasks.supervision.training_entry`.
    frames : SlidingWindow
        Of the whole file.
    start, num_frames : int
        First frame of the crop, and how many there are.

    Returns
    -------
    reference : dict
        "reference", (T, K) bool tensor with a column for each speaker who is heard in the crop, or
        None; "speakers", their names; "annotated", (T,) bool tensor, False where the reference
        says nothing, or None where there is no reference.
    """
    if entry["turns"] is None:
        return {"reference": None, "speakers": [], "annotated": None}
    names = sorted({speaker for _, _, speaker in entry["turns"]})
    reference = discretize(entry["turns"], frames, num_frames, start)  # (T, K)
    annotated = torch.ones(num_frames, dtype=torch.bool)
    if entry["annotated"] is not None:
        inside = [[start_, end, "annotated"] for start_, end in entry["annotated"]]
        annotated = discretize(inside, frames, num_frames, start).any(dim=1)
    reference = reference & annotated[:, None]
    heard = reference.any(dim=0)
    return {
        "reference": reference[:, heard],
        "speakers": [name for name, kept in zip(names, heard.tolist(), strict=True) if kept],
        "annotated": annotated,
    }


def collate(batch: list[dict]) -> dict:
    """Pad samples to the same number of frames.

    Parameters
    ----------
    batch : list of dict
        "frames" (T, C), "count" (T,) or None, "likes", and what `LISTED` names.

    Returns
    -------
    batch : dict
        "frames" (B, T, C), "count" (B, T) or None, "mask" (B, T) bool, which is False on padding,
        and lists of "likes" and of the rest, which is not padded.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(sample["frames"]) for sample in batch])
    counts = [sample["count"] for sample in batch]
    collated = {
        "frames": pad([sample["frames"] for sample in batch], batch_first=True),
        "count": None if any(c is None for c in counts) else pad(counts, batch_first=True),
        "mask": torch.arange(int(lengths.max()))[None] < lengths[:, None],
        "likes": [sample["likes"] for sample in batch],
    }
    for key in LISTED:
        if key in batch[0]:
            collated[key] = [sample[key] for sample in batch]
    return collated


def splice_references(first: dict, second: dict) -> dict:
    """Reference of two samples, one after the other; a speaker of both has one column.

    Parameters
    ----------
    first, second : dict
        With what `crop_reference` gives.

    Returns
    -------
    reference : dict
        Of the same form; without a reference where one of them has none.
    """
    if first.get("reference") is None or second.get("reference") is None:
        return {"reference": None, "speakers": [], "annotated": None}
    speakers = list(dict.fromkeys([*first["speakers"], *second["speakers"]]))
    parts = []
    for sample in (first, second):
        part = torch.zeros(len(sample["reference"]), len(speakers), dtype=torch.bool)
        part[:, [speakers.index(name) for name in sample["speakers"]]] = sample["reference"]
        parts.append(part)
    return {
        "reference": torch.cat(parts),
        "speakers": speakers,
        "annotated": torch.cat([first["annotated"], second["annotated"]]),
    }


def splice(first: dict, second: dict) -> dict:
    """Append one training sample to another.

    Likes, references and speakers are those of both; what is not known of one is not known of the
    whole. The number of speakers becomes a bound, as somebody may be in both.
    """
    counts = first["count"], second["count"]
    likes = first["likes"], second["likes"]
    numbers = first.get("num_speakers"), second.get("num_speakers")
    spliced = {
        "frames": torch.cat([first["frames"], second["frames"]]),
        "count": None if any(c is None for c in counts) else torch.cat(counts),
        "likes": None if any(x is None for x in likes) else torch.unique(torch.cat(likes)),
        "num_speakers": None if None in numbers else sum(numbers),
        "file": first.get("file", []) + second.get("file", []),
    }
    return spliced | splice_references(first, second)
