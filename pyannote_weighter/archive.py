"""An archive of results: who is in which recording, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pyannote.core import Segment

from pyannote_weighter.database.likes import composed, listed
from pyannote_weighter.messages import some_of
from pyannote_weighter.naming import Match, Voices, learn_voices
from pyannote_weighter.output import (
    TURNS,
    one_field,
    one_line,
    write_json,
    write_rttm,
)
from pyannote_weighter.results import (
    Result,
    audio_of,
    is_same_audio,
    is_same_place,
    read_content,
    renamed,
    to_annotation,
)

VOICES = "voices.safetensors"
FORMATS = ("rttm", "json", *TURNS)
"""Formats that results with names can be written in."""


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
            f"its names ({some_of(sorted(known))}): {advice}"
        )
    return known


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
    content = renamed(result.content, names)
    for entry, label in zip(content["speakers"], labels, strict=True):
        if label in matches:
            entry |= {"was": label, "cosine": round(matches[label].cosine, 4)}
    return content


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
        sought = composed(name.casefold())
        alike = [known for known in voices.names if composed(known.casefold()) == sought]
        said = f"; there is {' and '.join(alike)}" if alike else ""
        if any(composed(known) == composed(name) for known in alike):
            said += " (whose accents are encoded otherwise)"
        some = some_of(voices.names, most=20)
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
