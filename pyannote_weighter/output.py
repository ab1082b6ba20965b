"""Writing what a pipeline found: files that are whole or not there at all."""

import csv
import html
import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pyannote.core import Annotation

TRIED = 2**16  # bytes that are written to see whether a folder takes any


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Path to write to, which becomes `path` when the block ends well, and vanishes when not.

    Missing parent folders are created. The file to write to is in the same folder, with a short
    name: one with the name of `path` in it may be too long where that of `path` is not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex[:12]}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_folder(into: Path) -> None:
    """Make a folder, and write there once: results that find no room are found in vain."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=into, prefix=".", suffix=".unfinished") as file:
            file.write(bytes(TRIED))
            file.flush()
    except OSError as error:
        taken = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "there is a file in its place" if taken else error.strerror
        raise OSError(
            error.errno, f"{into}: results cannot be written to this folder: {reason}"
        ) from error


def write_json(content: Any, path: str | Path) -> None:
    """Write JSON, with two spaces of indentation. NaN and infinity are refused (ValueError)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def write_rttm(diarization: Annotation, path: str | Path) -> None:
    """Write RTTM. Fields of RTTM hold no spaces: each becomes an underscore in uri and names.

    A double quote at their start becomes a single one: readers would look for its end.

    Turns start and end as in the other formats, rounded to milliseconds; those of less than one
    are given one, since readers leave out turns without length.
    """
    names = _names(diarization, one_field, "RTTM")
    uri = one_field(encodable(str(diarization.uri or "unknown")))
    with atomic(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for turn in turns(diarization):
            start, name = turn["start"], names[turn["speaker"]]
            times = f"{start:.3f} {max(turn['end'] - start, 0.001):.3f}"
            file.write(f"SPEAKER {uri} 1 {times} <NA> <NA> {name} <NA> <NA>\n")


def write_csv(output, path: str | Path) -> None:
    """Write CSV (RFC 4180, UTF-8): a header, and one row for each turn in order of time.

    Columns are start, end, duration (seconds), speaker, and confidence, which is left empty where
    the pipeline does not tell it.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
    path : path
    """
    with atomic(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("start", "end", "duration", "speaker", "confidence"))
        for turn in turns(output):
            times = (turn["start"], turn["end"], turn["end"] - turn["start"])
            rows.writerow(
                [*(f"{time:.3f}" for time in times), turn["speaker"], turn.get("confidence")]
            )


def write_audacity(output, path: str | Path) -> None:
    """Write a label track of Audacity: start, end (seconds) and speaker, separated by tabs.

    A label is one line and has no escapes: tabs and line breaks in names become spaces.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
    path : path

    Raises
    ------
    ValueError
        When two names would become one.
    """
    names = _names(annotation_of(output), one_line, "Audacity labels")
    with atomic(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for turn in turns(output):
            file.write(f"{turn['start']:.3f}\t{turn['end']:.3f}\t{names[turn['speaker']]}\n")


def write_webvtt(output, path: str | Path) -> None:
    """Write WebVTT (W3C, https://www.w3.org/TR/webvtt1/, section 4): one cue for each turn.

    A cue has the speaker as its voice, and as its text, since players do not show voices. Turns
    of less than a millisecond are given one: a cue has to end after it starts.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
    path : path

    Raises
    ------
    ValueError
        When two names would become one: parsers take every run of white space for one space.
    """
    names = _names(annotation_of(output), one_line, "WebVTT")
    blocks = ["WEBVTT\n"]
    for turn in turns(output):
        start, end = (max(0, round(1000 * turn[bound])) for bound in ("start", "end"))
        name = html.escape(names[turn["speaker"]], quote=False)
        times = f"{_timestamp(start)} --> {_timestamp(max(end, start + 1))}"
        blocks.append(f"{times}\n<v {name}>{name}\n")
    with atomic(path) as unfinished:
        unfinished.write_text("\n".join(blocks), encoding="utf-8")


TURNS = {
    "csv": ("csv", write_csv),
    "audacity": ("txt", write_audacity),
    "webvtt": ("vtt", write_webvtt),
}
"""Formats of turns with what else is known of them: how the names of files end, what writes them.

All take the output of a pipeline or an annotation, and a path.
"""


def check_formats(formats: Sequence[str], known: Collection[str]) -> None:
    """Refuse formats that cannot be written."""
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise ValueError(
            f"unknown format {', '.join(unknown) or '(none)'}: choose from {', '.join(known)}"
        )


def _timestamp(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}"


def _names(diarization: Annotation, written: Callable[[Any], str], form: str) -> dict[Any, str]:
    """How each label is written in a format that does not hold all of them as they are."""
    names = {label: written(label) for label in diarization.labels()}
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"names that differ only in spaces or quotes cannot be told apart in {form}: "
            f"{sorted(map(str, names))}"
        )
    return names


def one_field(text: Any) -> str:
    """Text as a field of RTTM: without spaces, or a quote at its start that opens a text."""
    return re.sub(r'^"', "'", re.sub(r"\s", "_", str(text))) or "_"


def encodable(name: str) -> str:
    r"""Name of a file as UTF-8 can hold it: bytes that are none become escapes (``\udce9``)."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: Any) -> str:
    """Text as a line without tabs, in which every run of white space is one space."""
    return " ".join(str(text).split()) or "_"


def annotation_of(output) -> Annotation:
    """Diarization in the output of a pipeline, which may be the diarization itself (legacy)."""
    return output if isinstance(output, Annotation) else output.speaker_diarization


def confidences(output) -> dict[str, float]:
    """Confidence of every speaker, empty for pipelines that have none to tell."""
    confidence = getattr(output, "confidence", None)
    if confidence is None or len(confidence) == 0:
        return {}
    labels = annotation_of(output).labels()
    if not hasattr(confidence, "keys"):
        confidence = dict(zip(labels, confidence, strict=True))
    return {label: float(confidence[label]) for label in labels}


def to_json(
    output, uri: str | None = None, audio: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a pipeline found, in lists and dictionaries that JSON can hold.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
        Output of a diarization pipeline.
    uri : str, optional
        Defaults to the uri of the diarization.
    audio : mapping, optional
        What is known of the audio file.

    Returns
    -------
    content : dict
        ``uri``; ``audio`` where it is given; ``embedding_id`` where the pipeline tells it, see
        `WeighterOutput`; ``speakers``: label, seconds of speech, and where the pipeline tells
        them, confidence and embedding; ``diarization`` and ``exclusive_diarization`` (no
        overlap): see `turns`.
    """
    diarization = annotation_of(output)
    uri = uri or diarization.uri
    known = confidences(output)
    embeddings = getattr(output, "speaker_embeddings", None)
    speakers = []
    for index, label in enumerate(diarization.labels()):
        speaker = {"speaker": label, "duration": round(diarization.label_duration(label), 3)}
        if label in known:
            speaker["confidence"] = round(known[label], 4)
        if embeddings is not None:
            speaker["embedding"] = [round(float(value), 6) for value in embeddings[index]]
        speakers.append(speaker)

    content = {
        "uri": None if uri is None else encodable(str(uri)),
        **({} if audio is None else {"audio": dict(audio)}),
        "speakers": speakers,
        "diarization": turns(output),
    }
    if (name := getattr(output, "embedding_id", None)) is not None:
        content["embedding_id"] = name
    if getattr(output, "exclusive_speaker_diarization", None) is not None:
        content["exclusive_diarization"] = turns(output, exclusive=True)
    return content


def turns(output, exclusive: bool = False) -> list[dict[str, Any]]:
    """Turns in order of time.

    Parameters
    ----------
    output : DiarizeOutput or Annotation
    exclusive : bool, optional
        Those without overlap.

    Returns
    -------
    turns : list of dict
        ``start`` and ``end`` in seconds, ``speaker`` and, where the pipeline tells it,
        ``confidence``.
    """
    diarization = output.exclusive_speaker_diarization if exclusive else annotation_of(output)
    turn_confidence = getattr(output, "turn_confidence", lambda turn, speaker: None)
    found = []
    for turn, _, label in diarization.itertracks(yield_label=True):
        entry = {"start": round(turn.start, 3), "end": round(turn.end, 3), "speaker": label}
        confidence = turn_confidence(turn, label)
        if confidence is not None:
            entry["confidence"] = round(confidence, 4)
        found.append(entry)
    return found
