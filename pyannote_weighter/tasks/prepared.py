"""What `prepare_data` finds out in one process, stored for the others, and for who resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

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


def training_data(entries: Sequence[dict]) -> list[dict]:
    """What numbers of files and of speakers mean, which checkpoints hold in place of names.

    Parameters
    ----------
    entries : list of dict
        See `pyannote_weighter.tasks.supervision.training_entry`.

    Returns
    -------
    data : list of dict
        "uri", "likes" and "reference", whether there is one.
    """
    return [
        {"uri": e["uri"], "likes": e["likes"], "reference": e["turns"] is not None}
        for e in entries
    ]


def first_difference(was: Sequence[dict], now: Sequence[dict]) -> str | None:
    """Say where `training_data` first differ from what they were, if they do."""
    for number, (old, new) in enumerate(zip_longest(was, now), start=1):
        before, uri = ("none" if file is None else repr(file["uri"]) for file in (old, new))
        if old is None or new is None or before != uri:
            return f"training file {number} was {before} and is {uri} now"
        if old["likes"] != new["likes"]:
            likes = (_listed(entry["likes"]) for entry in (old, new))
            return f"likes of {uri} were {' and are '.join(likes)} now"
        if old["reference"] != new["reference"]:
            return f"{uri} {'has no' if old['reference'] else 'has a'} reference now"
    return None


def _listed(likes: Sequence[str] | None) -> str:
    return "unknown" if likes is None else ", ".join(likes) or "none"
