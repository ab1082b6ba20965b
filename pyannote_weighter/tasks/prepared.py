"""What `prepare_data` finds out in one process, stored for the others, and for who resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np


def store(prepared: dict, path: Path) -> None:
    """Write a dictionary of what JSON can hold, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as stream:
        np.savez(stream, **{key: np.array(json.dumps(v)) for key, v in prepared.items()})
    os.replace(temporary, path)


def load(path: Path, protocol: str) -> dict:
    """Read it again.

    Raises
    ------
    ValueError
        If it is of another protocol.
    """
    with np.load(path) as stored:
        prepared = {key: json.loads(str(stored[key])) for key in stored}
    if prepared["protocol"] != protocol:
        raise ValueError(
            f"{path} was written for {prepared['protocol']}, not for {protocol}: remove it or "
            "choose another one"
        )
    return prepared


def digest(value: Any) -> str:
    """Short text that differs where what JSON can hold differs."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def reference_id(entry: dict) -> str | None:
    """Digest of the turns of an entry and of where they are known, None without a reference."""
    if entry["turns"] is None:
        return None
    return digest([sorted(entry["turns"]), entry["annotated"]])


def development_id(entries: Sequence[dict], metric: str | None) -> str:
    """Digest of development files: values of metrics are of those with the same one.

    Parameters
    ----------
    entries : list of dict
        In any order, see `pyannote_weighter.tasks.samples.reference_entry`.
    metric : str or None
        What is compared, see `pyannote_weighter.tasks.metrics.choose_metric`.
    """
    by_reference = metric == "DiarizationErrorRate"
    judged = [[e["uri"], reference_id(e) if by_reference else e["likes"]] for e in entries]
    return digest(sorted(judged, key=lambda entry: entry[0]))


def training_data(entries: Sequence[dict]) -> list[dict]:
    """What training depends on: who resumes must find the same.

    Checkpoints hold numbers in place of names of files and speakers. How many speakers a file has
    also decides which likes are thought to be missing before training.

    Parameters
    ----------
    entries : list of dict
        See `pyannote_weighter.tasks.supervision.training_entry`.

    Returns
    -------
    data : list of dict
        "uri", "likes", "reference", a digest of it or None, and "num_speakers".
    """
    return [
        {
            "uri": entry["uri"],
            "likes": entry["likes"],
            "reference": reference_id(entry),
            "num_speakers": entry["num_speakers"],
        }
        for entry in entries
    ]


def first_difference(was: Sequence[dict], now: Sequence[dict]) -> str | None:
    """Say where `training_data` first differ from what they were, if they do.

    Earlier versions noted no number of speakers, and of a reference only whether there is one.
    """
    for number, (old, new) in enumerate(zip_longest(was, now), start=1):
        before, uri = ("none" if file is None else repr(file["uri"]) for file in (old, new))
        if old is None or new is None or before != uri:
            return f"training file {number} was {before} and is {uri} now"
        if old["likes"] != new["likes"]:
            likes = (_listed(entry["likes"]) for entry in (old, new))
            return f"likes of {uri} were {' and are '.join(likes)} now"
        if bool(old["reference"]) != bool(new["reference"]):
            return f"{uri} {'has no' if old['reference'] else 'has a'} reference now"
        if not isinstance(old["reference"], bool) and old["reference"] != new["reference"]:
            return f"{uri} has another reference now"
        if old.get("num_speakers", new["num_speakers"]) != new["num_speakers"]:
            numbers = old["num_speakers"], new["num_speakers"]
            numbers = ("unknown" if number is None else str(number) for number in numbers)
            return f"num_speakers of {uri} was {' and is '.join(numbers)} now"
    return None


def _listed(likes: Sequence[str] | None) -> str:
    return "unknown" if likes is None else ", ".join(likes) or "none"
