"""Which audio a file holds, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from io import IOBase
from pathlib import Path

from pyannote_weighter.audio import as_tensor, check_path
from pyannote_weighter.output import atomic
from pyannote_weighter.tasks.frames import safe_name

SETTLED = 2.0  # seconds: times of a file may be too coarse to tell changes that are closer


def audio_id(file: Mapping, known: Path) -> str:
    """Digest of the audio of a file: all of its bytes, or all of its samples in memory.

    A file on disk is read once. Its digest is noted with its size and times, and is believed as
    long as these stay; a file that was moved or touched is read again.

    Parameters
    ----------
    file : Mapping
        See `pyannote_weighter.audio.in_memory`.
    known : Path
        Folder for notes, which other processes may use too.

    Returns
    -------
    digest : str
        32 hexadecimal digits.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or no audio.
    """
    if "waveform" in file:
        audio = _of_waveform(file["waveform"], file.get("sample_rate"))
    elif "audio" not in file:
        raise ValueError(
            f'{file.get("uri")}: no audio: add "audio", a path, or "waveform" and "sample_rate"'
        )
    elif isinstance(file["audio"], IOBase):
        audio = _of_stream(file["audio"])
    else:
        audio = _of_path(Path(file["audio"]), known)
    return hashlib.sha256(f"{audio} {file.get('channel')}".encode()).hexdigest()[:32]


def _of_waveform(waveform, sample_rate: int | None) -> str:
    samples = as_tensor(waveform).detach().cpu().float().contiguous()
    digest = hashlib.sha256(f"{sample_rate} {tuple(samples.shape)}".encode())
    digest.update(samples.numpy().reshape(-1))
    return digest.hexdigest()


def _of_stream(stream: IOBase) -> str:
    stream.seek(0)
    try:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    finally:
        stream.seek(0)


def _of_path(path: Path, known: Path) -> str:
    check_path(path)
    state, began = _state(path), time.time()
    note = known / f"{safe_name(str(path.absolute()))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: not known
        noted = json.loads(note.read_bytes())
        if noted["state"] == state:
            return noted["digest"]
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # a file that is being written may change once more without its times telling so
    if state == _state(path) and began - max(state[1:]) / 1e9 > SETTLED:
        with suppress(OSError), atomic(note) as unfinished:  # the folder may be read-only
            unfinished.write_text(json.dumps({"state": state, "digest": digest}))
    return digest


def _state(path: Path) -> list[int]:
    """Size and times of a file."""
    status = path.stat()  # copying may keep the time of the last change, but not that of status
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
