"""Results of `pyannote-weighter apply` in JSON: reading them, and telling whose they are."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyannote.core import Annotation, Segment

from pyannote_weighter.database.likes import composed
from pyannote_weighter.naming import Speakers
from pyannote_weighter.output import encodable


class Result(NamedTuple):
    """What `pyannote-weighter apply` wrote of one recording."""

    path: Path
    content: dict
    """See `pyannote_weighter.output.to_json`; speakers as they were before they were named."""
    names: dict[str, str]
    """What its speakers are called in the file."""
    speakers: Speakers

    @property
    def uri(self) -> str:
        """Name of the recording."""
        return self.content["uri"]

    @property
    def embedding_id(self) -> str | None:
        """What made the embeddings, see `WeighterOutput`; None where that is not known."""
        return self.content.get("embedding_id")


def read_content(path: Path) -> dict[str, Any]:
    """Read a JSON result of any version, with embeddings or without.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no result, see `pyannote_weighter.output.to_json`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError:  # which would tell all that is there
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("too many lists or objects inside each other") from None
    if not isinstance(content, dict):
        raise ValueError("no object with uri, speakers and diarization")
    if not isinstance(content.get("uri", 0), str | None):  # null where nobody knew it
        raise ValueError("uri is no text")
    for part in ("speakers", "diarization"):
        if not isinstance(content.get(part), list):
            raise ValueError(f"{part} is no list")
    return content


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no finite number")
    return value


def audio_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Path, place, bytes and digest of the audio that a result is of.

    None where it does not tell; `place` is None where it tells a relative path alone.
    """
    try:
        audio = content["audio"]
        path, known = str(audio["path"]), {key: audio[key] for key in ("bytes", "digest")}
    except (KeyError, TypeError):  # of before this was written
        return None
    place = audio.get("place") or (place_of(path) if os.path.isabs(path) else None)
    return {"path": path, "place": place, **known}


def place_of(path: str | Path) -> str:
    """Digest of an absolute path: tells whether two are one, and not where that is."""
    absolute = encodable(os.path.normcase(os.path.abspath(path)))
    return hashlib.sha256(absolute.encode()).hexdigest()[:16]


def is_same_audio(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether files have the same content, wherever they are; see `audio_of`."""
    return all(one[key] == other[key] for key in ("bytes", "digest"))


def is_same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether files are known to lie in one place, whatever their content; see `audio_of`."""
    return one["place"] is not None and one["place"] == other["place"]


def read_results(paths: Sequence[str | Path]) -> list[Result]:
    """Read JSON results; names that were given before are taken back.

    A path that is given twice is read once.

    Raises
    ------
    FileNotFoundError
        If one does not exist.
    ValueError
        If one is no result with embeddings, or two are of the same recording.
    """
    results: dict[str, Result] = {}
    for path in dict.fromkeys(map(Path, paths)):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; results are JSON that `apply` wrote")
        try:
            result = _read(path)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{path}: no result with embeddings, as `pyannote-weighter apply --format json` "
                f"writes them ({error!r})"
            ) from None
        uri = composed(result.uri)
        if uri in results:
            raise ValueError(
                f"{results[uri].path} and {path} are both of {result.uri}: give one of them"
            )
        results[uri] = result
    return list(results.values())


def _read(path: Path) -> Result:
    """Read a result; see `read_results` for the errors where it is none."""
    content = read_content(path)
    if content["uri"] is None:
        raise ValueError("uri is null")
    if not isinstance(content.get("embedding_id"), str | None):
        raise ValueError("embedding_id is no text")
    text = json.dumps(content, ensure_ascii=False)
    if encodable(text) != text:
        raise ValueError("it holds what UTF-8 cannot (lone surrogates)")
    for entry in content["speakers"]:
        if not isinstance(entry["speaker"], str) or not isinstance(entry.get("was", ""), str):
            raise ValueError("what a speaker is or was called is no text")
    was = {e["speaker"]: e.pop("was", e["speaker"]) for e in content["speakers"]}
    if len(set(was.values())) < len(content["speakers"]):
        raise ValueError("two speakers have one label")
    for entry in content["speakers"]:
        entry.pop("cosine", None)
    content = renamed(content, was)
    entries = content["speakers"]
    embeddings = np.array([_numbers(entry["embedding"]) for entry in entries], dtype=np.float32)
    seconds = np.array(_numbers([entry["duration"] for entry in entries]), dtype=np.float32)
    if entries and not (embeddings.ndim == 2 and np.isfinite(embeddings).all()):
        raise ValueError("embeddings are not finite numbers, as many for each speaker")
    if entries and not embeddings.size:
        raise ValueError("embeddings are empty")
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError("durations are not finite, or less than 0")
    for turn in content["diarization"]:
        finite = math.isfinite(turn["start"]) and math.isfinite(turn["end"])
        if not finite or turn["start"] > turn["end"]:
            raise ValueError(f"a turn from {turn['start']} to {turn['end']} s")
    speakers = Speakers([entry["speaker"] for entry in entries], embeddings, seconds)
    return Result(path, content, {label: name for name, label in was.items()}, speakers)


def _numbers(values: Sequence[Any]) -> Sequence[float]:
    """Values that are numbers in JSON: NumPy would take digits in quotes and true as well."""
    if not all(type(value) in (int, float) for value in values):
        raise ValueError("embeddings and durations are not all numbers")
    return values


def renamed(content: dict, names: Mapping[str, str]) -> dict:
    """Content with other names of speakers."""
    parts = {"speakers", "diarization", "exclusive_diarization"} & content.keys()
    renamed = {
        part: [entry | {"speaker": names[entry["speaker"]]} for entry in content[part]]
        for part in parts
    }
    return content | renamed


def to_annotation(content: dict) -> Annotation:
    """Turns of a result, see `pyannote_weighter.output.to_json`.

    An annotation holds no turns without length: they are given a millisecond.
    """
    annotation = Annotation(uri=content["uri"])
    for track, turn in enumerate(content["diarization"]):
        start = turn["start"]
        annotation[Segment(start, max(turn["end"], start + 0.001)), track] = turn["speaker"]
    return annotation
