"""An archive of results: who is in which recording, by name."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pyannote.core import Annotation, Segment

from pyannote_weighter.database.likes import by_recording, composed
from pyannote_weighter.naming import Match, Speakers, Voices, learn_voices
from pyannote_weighter.output import (
    TURNS,
    encodable,
    one_field,
    one_line,
    write_json,
    write_rttm,
)

Names = TypeVar("Names", bound=Sequence[str] | None)

VOICES = "voices.safetensors"
FORMATS = ("rttm", "json", *TURNS)
"""Formats that results with names can be written in."""


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


def listed(likes: Mapping[str, Names]) -> dict[str, Names]:
    """Likes by `composed` name of the recording; names that are one text are refused."""
    for name, names in likes.items():
        if isinstance(names, str):
            raise ValueError(f"likes of {name} are one text, {names!r}: give a list of names")
    return by_recording(likes)


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
    content = _renamed(content, was)
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


def _renamed(content: dict, names: Mapping[str, str]) -> dict:
    """Content with other names of speakers."""
    parts = {"speakers", "diarization", "exclusive_diarization"} & content.keys()
    renamed = {
        part: [entry | {"speaker": names[entry["speaker"]]} for entry in content[part]]
        for part in parts
    }
    return content | renamed


def _embedding_id(results: Sequence[Result], voices: Voices | None = None) -> str | None:
    """What made all embeddings; ValueError where some of them do not compare."""
    made: dict[str, str] = {}
    sizes: dict[str, str] = {}
    if voices is not None:
        if voices.embedding_id is not None:
            made[voices.embedding_id] = "the voices"
        sizes[f"{voices.vectors.shape[-1]} dimensions"] = "the voices"
    for result in results:
        if result.embedding_id is not None:
            made.setdefault(result.embedding_id, str(result.path))
        if result.speakers.labels:
            size = result.speakers.embeddings.shape[-1]
            sizes.setdefault(f"{size} dimensions", str(result.path))
    for kinds in (made, sizes):
        if len(kinds) > 1:
            (one, first), (other, second) = list(kinds.items())[:2]
            raise ValueError(
                f"embeddings of {first} ({one}) and {second} ({other}) do not compare: they are "
                "of different pipelines, or of different `embedding_duration`; diarize the "
                "recordings of one of them again, without --resume"
            )
    return next(iter(made), None)


def _check_place(result: Result, path: Path) -> None:
    """Refuse to replace what is not of the same recording."""
    if not path.is_file():
        return
    advice = (
        "choose another --into, rename one of them, or, if it is the same and was edited, remove "
        "the old file"
    )
    try:
        there = read_content(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{result.path} with names would replace {path}, which is no result of this program "
            f"({error}): {advice}"
        ) from None
    audio, known = audio_of(result.content), audio_of(there)
    other_audio = None not in (audio, known) and not (
        is_same_audio(audio, known) or is_same_place(audio, known)
    )
    other_uri = there["uri"] is not None and composed(there["uri"]) != composed(result.uri)
    if other_audio or other_uri:
        raise ValueError(
            f"{result.path} with names would replace {path}, which is of another recording "
            f"({known['path'] if other_audio else there['uri']}): {advice}"
        )


def _known_names(path: Path, likes: Mapping[str, Sequence[str] | None]) -> set[str]:
    """Names of the voices that are replaced; refuse those of another archive."""
    if not path.is_file():
        return set()
    advice = "choose another --into, or move or remove that file"
    try:
        known = set(Voices.load(path).names)
    except ValueError as error:
        raise ValueError(f"voices would replace {error}: {advice}") from None
    if known and known.isdisjoint(name for names in likes.values() for name in names or ()):
        raise ValueError(
            f"voices would replace {path}, which is of another archive: the likes have none of "
            f"its names ({_some(sorted(known))}): {advice}"
        )
    return known


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


class Summary(NamedTuple):
    """What `name_results` did."""

    voices: Voices
    matches: dict[str, dict[str, Match]]
    """By recording and label."""
    unclear: list[tuple[str, ...]]
    doubtful: list[str]
    """See `pyannote_weighter.naming.Named`."""
    unused: list[str]
    """Recordings with likes of which no result was given."""
    gone: list[str]
    """Names whose voices were in the file that was replaced, and have none any more."""
    stale: dict[Path, str]
    """Files in other formats (those of `FORMATS`) that lie beside and keep labels from before."""


def name_results(
    results: Sequence[Result],
    into: str | Path,
    likes: Mapping[str, Sequence[str]] | None = None,
    voices: Voices | None = None,
    formats: Sequence[str] = ("rttm", "json"),
) -> Summary:
    """Name the speakers of results by likes, or by voices that were learned before.

    Writes ``<into>/<name of the result>.json``, the same in other formats, and with likes
    ``<into>/voices.safetensors``. In JSON a speaker who has a name has also "was", the label
    before, and "cosine", how alike the voice is.

    Parameters
    ----------
    results : list of Result
    into : path
        Folder, made if missing.
    likes : dict, optional
        Names by recording, see `pyannote_weighter.database.read_likes`.
    voices : Voices, optional
        In place of likes.
    formats : sequence of str, optional
        Of `FORMATS`. JSON is written in any case: it tells whose results the others are.

    Returns
    -------
    summary : Summary

    Raises
    ------
    ValueError
        If likes teach nothing, embeddings are of another Weighter, a name is the label of
        somebody else, two results would be one file, or there is JSON in their place that is of
        another recording or no result, or a file of voices with none of the names of the likes;
        nothing has been written then.
    OSError
        If a file cannot be written. Those before it are, each of them whole, voices first: the
        same call writes all of them again.
    """
    into, unclear, doubtful, unused, known = Path(into), [], [], [], set()
    by_stem: dict[str, Path] = {}
    for result in results:
        other = by_stem.setdefault(result.path.stem.casefold(), result.path)
        if other != result.path:
            raise ValueError(f"{other} and {result.path} would be named in one file: rename one")
        _check_place(result, into / f"{result.path.stem}.json")
    files = [result.speakers for result in results]
    embedding_id = _embedding_id(results, voices)
    if voices is None:
        likes = listed(likes or {})
        known = _known_names(into / VOICES, likes)
        uris = {composed(result.uri) for result in results}
        unused = sorted(set(likes) - uris)
        if unused and len(unused) == len(likes) and uris:
            raise ValueError(
                f"likes are of other recordings ({unused[0]!r}) than results ({min(uris)!r}): "
                "they need the same names"
            )
        learned = learn_voices(files, [likes.get(composed(result.uri)) for result in results])
        voices, matches, unclear, doubtful = learned
        voices = replace(voices, embedding_id=embedding_id)
    else:
        matches = [voices.recognize(speakers) for speakers in files]
    named = [
        _named(result, found, formats) for result, found in zip(results, matches, strict=True)
    ]
    written, path = 0, into / VOICES
    try:
        if likes is not None:
            voices.save(path)
        for result, content in zip(results, named, strict=True):
            path = into / f"{result.path.stem}.json"
            _write(content, into, result.path.stem, formats)
            written += 1
    except OSError as error:
        raise OSError(
            error.errno,
            f"stopped at {path} or the same in another format: {error.strerror}. {written} of "
            f"{len(results)} results are written with names. Make room, or close the file where "
            "it is open, and run the command again: it writes all of them",
        ) from error
    by_uri = {result.uri: found for result, found in zip(results, matches, strict=True)}
    gone = sorted(known.difference(voices.names))
    stale: dict[Path, str] = {}
    for result, content in zip(results, named, strict=True):
        stale |= _stale(result, content, into, formats)
    return Summary(voices, by_uri, unclear, doubtful, unused, gone, stale)


def _write(content: dict, into: Path, name: str, formats: Sequence[str]) -> None:
    output = _Turns(content)
    write_json(content, into / f"{name}.json")
    if "rttm" in formats:
        write_rttm(output.speaker_diarization, into / f"{name}.rttm")
    for form, (ending, write) in TURNS.items():
        if form in formats:
            write(output, into / f"{name}.{ending}")


def _stale(result: Result, content: dict, into: Path, formats: Sequence[str]) -> dict[Path, str]:
    """Files that are not written, and hold a label that a speaker has no more, to their format."""
    names = [entry["speaker"] for entry in content["speakers"]]
    before = set(result.names) - set(names)
    before |= {old for old, new in zip(result.names.values(), names, strict=True) if old != new}
    endings = {"rttm": "rttm", **{form: ending for form, (ending, _) in TURNS.items()}}
    found = {}
    for form in endings.keys() - set(formats):
        path = into / f"{result.path.stem}.{endings[form]}"
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # mostly there is none
            continue
        if any(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text) for label in before):
            found[path] = form
    return found


class _Turns:
    """Turns of a result as a pipeline gives them, with their confidence where it is known."""

    def __init__(self, content: dict):
        self.speaker_diarization = to_annotation(content)
        self.known = {
            (turn["start"], turn["speaker"]): turn.get("confidence")
            for turn in content["diarization"]
        }

    def turn_confidence(self, turn: Segment, speaker: str) -> float | None:
        """Confidence of one of the turns."""
        return self.known[turn.start, speaker]


def _named(result: Result, matches: Mapping[str, Match], formats: Sequence[str]) -> dict:
    """Content with the names of those who are known."""
    labels = [entry["speaker"] for entry in result.content["speakers"]]
    if taken := {match.name for match in matches.values()} & (set(labels) - set(matches)):
        raise ValueError(
            f"{result.path}: {', '.join(sorted(taken))} is what another speaker is called there: "
            "choose another name in the likes"
        )
    names = {label: matches[label].name if label in matches else label for label in labels}
    for form, written in {"rttm": one_field, "audacity": one_line, "webvtt": one_line}.items():
        if form in formats and len({written(name) for name in names.values()}) < len(names):
            raise ValueError(
                f"{result.path}: names that differ only in spaces cannot be told apart in {form}: "
                f"{sorted(names.values())}"
            )
    content = _renamed(result.content, names)
    for entry, label in zip(content["speakers"], labels, strict=True):
        if label in matches:
            entry |= {"was": label, "cosine": round(matches[label].cosine, 4)}
    return content


def to_annotation(content: dict) -> Annotation:
    """Turns of a result, see `pyannote_weighter.output.to_json`.

    An annotation holds no turns without length: they are given a millisecond.
    """
    annotation = Annotation(uri=content["uri"])
    for track, turn in enumerate(content["diarization"]):
        start = turn["start"]
        annotation[Segment(start, max(turn["end"], start + 0.001)), track] = turn["speaker"]
    return annotation


class Hit(NamedTuple):
    """A recording, and the speaker there whose voice is nearest to one that is known."""

    uri: str
    speaker: str
    """As the result calls them."""
    cosine: float
    seconds: float
    """How long that speaker speaks."""
    start: float
    """Seconds from the beginning to the first turn."""
    recognized: bool
    """See `Voices.recognize`."""


def find_voice(name: str, results: Sequence[Result], voices: Voices) -> list[Hit]:
    """Find somebody in an archive: recordings by how alike their most alike speaker is.

    Raises
    ------
    ValueError
        If there is no voice of that name, or embeddings are of another Weighter.
    """
    if name not in voices.names:
        alike = [known for known in voices.names if known.casefold() == name.casefold()]
        said = f"; there is {' and '.join(alike)}" if alike else ""
        some = ", ".join(voices.names[:20]) + (", ..." if len(voices.names) > 20 else "")
        known = f"{len(voices.names)} are known ({some})" if some else "`name` learned no voice"
        raise ValueError(
            f"no voice of {name!r}{said}. {known}: a name needs likes in two recordings in which "
            "its voice recurs"
        )
    _embedding_id(results, voices)
    column, hits = voices.names.index(name), []
    for result in results:
        speakers = result.speakers
        if not speakers.labels:
            continue
        cosine = voices.cosines(speakers)[:, column]
        best = int(cosine.argmax())
        label = speakers.labels[best]
        match = voices.recognize(speakers).get(label)
        starts = [t["start"] for t in result.content["diarization"] if t["speaker"] == label]
        hits.append(
            Hit(
                result.uri,
                result.names[label],
                float(cosine[best]),
                float(speakers.seconds[best]),
                min(starts, default=0.0),
                match is not None and match.name == name,
            )
        )
    return sorted(hits, key=lambda hit: (-hit.recognized, -hit.cosine))
