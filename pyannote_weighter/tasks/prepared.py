"""What `prepare_data` finds out in one process, stored for the others."""

from __future__ import annotations

import json
import os
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
