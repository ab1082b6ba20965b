"""Samples of files with likes: checked, spliced, padded into batches."""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from pyannote.core import Segment, SlidingWindow
from torch import Tensor


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
    files_of = Counter(speaker for file in training for speaker in set(file["likes"]))
    if not any(times > 1 for times in files_of.values()):
        raise ValueError(
            f"no speaker of {name} is liked in two files: a speaker who is liked in one file "
            "only teaches nothing; tag the same speakers in more files"
        )
    once = sorted(speaker for speaker, times in files_of.items() if times == 1)
    if once:
        shown = ", ".join(once[:5]) + (", ..." if len(once) > 5 else "")
        warnings.warn(
            f"{len(once)} of {len(files_of)} liked speakers of {name} are liked in one file only, "
            f"which teaches nothing about their voices: {shown}; tag them in more files (or "
            "look for two spellings of one name)",
            stacklevel=2,
        )


def reference_entry(file) -> dict:
    """What validation needs of a development file, in a form that JSON can hold."""
    annotation, likes = file.get("annotation"), file.get("likes")
    turns = None
    if annotation is not None:
        turns = [
            [turn.start, turn.end, str(speaker)]
            for turn, _, speaker in annotation.itertracks(yield_label=True)
        ]
    likes = None if likes is None else sorted(set(likes))
    return {"uri": file["uri"], "likes": likes, "turns": turns}


def discretize(turns: list, frames: SlidingWindow, num_frames: int) -> Tensor:
    """Turns on frames.

    Parameters
    ----------
    turns : list of [start, end, speaker]
        In seconds.
    frames : SlidingWindow
    num_frames : int
        T.

    Returns
    -------
    reference : (T, K) bool tensor
        One column a speaker, in the order of their names.
    """
    speakers = sorted({speaker for _, _, speaker in turns})
    reference = torch.zeros(num_frames, len(speakers), dtype=torch.bool)
    for start, end, speaker in turns:
        first, last = frames.crop(Segment(start, end), mode="center", return_ranges=True)[0]
        reference[max(0, first) : last, speakers.index(speaker)] = True
    return reference


def collate(batch: list[dict]) -> dict:
    """Pad samples to the same number of frames.

    Parameters
    ----------
    batch : list of dict
        "frames" (T, C), "count" (T,) or None, "likes"; in validation "names" and "reference" too.

    Returns
    -------
    batch : dict
        "frames" (B, T, C), "count" (B, T) or None, "mask" (B, T) bool, which is False on padding,
        and lists of "likes", "names" and "reference".
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
    if "names" in batch[0]:
        collated["names"] = [sample["names"] for sample in batch]
        collated["reference"] = [sample["reference"] for sample in batch]
    return collated


def splice(first: dict, second: dict) -> dict:
    """Append one training sample to another; the likes are those of both."""
    counts = first["count"], second["count"]
    return {
        "frames": torch.cat([first["frames"], second["frames"]]),
        "count": None if any(c is None for c in counts) else torch.cat(counts),
        "likes": torch.unique(torch.cat([first["likes"], second["likes"]])),
    }
