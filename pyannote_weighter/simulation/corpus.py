"""A subset of simulated conversations on disk, as pyannote.database reads it."""

import hashlib
import json
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from pyannote_weighter.database import write_likes
from pyannote_weighter.simulation.acoustics import Acoustics
from pyannote_weighter.simulation.conversations import simulate_conversation
from pyannote_weighter.simulation.turns import TurnTaking
from pyannote_weighter.simulation.voices import SAMPLE_RATE, load_voice

Voices = Mapping[str, Sequence[Path]]

SUBSETS = ("train", "development", "test")


@dataclass(frozen=True)
class _Plan:
    """What one process needs to know to make one conversation."""

    uri: str
    voices: dict[str, list[Path]]
    seed: tuple[int, int]


def write_corpus(
    into: str | Path,
    voices: Voices | Mapping[str, Voices],
    turns: Sequence[TurnTaking],
    num_files: int,
    seed: int,
    subset: str = "train",
    *,
    duration: tuple[float, float] = (60.0, 120.0),
    speakers: tuple[int, int] = (2, 6),
    likes_kept: float = 1.0,
    acoustics: Acoustics | None = None,
    in_turn: bool = False,
    min_voice: float = 5.0,
    processes: int = 1,
    name: str = "Simulated",
) -> None:
    """Write conversations with their references and likes.

    In the folder `into` there will be ``<subset>/<uri>.flac`` (16 bit, 16 kHz) and
    ``<subset>/<uri>.rttm``; ``<subset>.lst``, ``.rttm``, ``.uem``, ``.likes`` and ``.json`` (the
    settings); and ``database.yml`` with the protocol ``<name>.SpeakerDiarization.Conversations``
    over the subsets that are there. Conversations that are there already are kept, so a run
    that was stopped can be started again. The bytes depend on the arguments, not on `processes`.

    Parameters
    ----------
    into : path
    voices : {speaker: recordings} or {corpus: {speaker: recordings}}
        With the second form each conversation takes its voices from one corpus, whose name is in
        the uri. All voices speak in about as many conversations.
    turns : sequence of TurnTaking
    num_files : int
        Can be raised later: the first conversations stay the same.
    seed : int
    subset : {"train", "development", "test"}
    duration : (float, float)
        Shortest and longest conversation, in seconds.
    speakers : (int, int)
        Fewest and most speakers of a conversation; any number between is as likely.
    likes_kept : float
        Share of the speakers of each conversation that its likes name. Another share changes
        the likes alone: the conversations stay, and what a smaller share keeps, a larger one
        keeps too.
    acoustics : Acoustics, optional
    in_turn : bool
        Take the corpora in turn (as many conversations each) instead of according to their
        number of voices.
    min_voice : float
        Voices with less speech (seconds) are left out with a warning.
    processes : int
    name : str
        Of the database.

    Raises
    ------
    ValueError
        When the folder holds conversations made with other settings, or the name of a voice has
        spaces, which RTTM has not.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset must be one of {', '.join(SUBSETS)}, not {subset!r}")
    if not 0.0 <= likes_kept <= 1.0:
        raise ValueError(f"likes_kept must be between 0 and 1, not {likes_kept}")
    into, acoustics = Path(into), acoustics or Acoustics()
    nested = all(isinstance(value, Mapping) for value in voices.values())
    corpora = {c: _heard(v, min_voice) for c, v in (voices if nested else {"": voices}).items()}
    plans = list(_plan(corpora, num_files, seed, subset, speakers, in_turn))
    _check_settings(
        into / f"{subset}.json",
        {
            "seed": seed,
            "duration": list(duration),
            "speakers": list(speakers),
            "acoustics": _plain(acoustics),
            "in_turn": in_turn,
            "corpora": list(corpora),  # whose turn it is depends on their order
            "voices": {corpus: _digest(v) for corpus, v in corpora.items()},
            "turns": _digest({t.uri: [t.starts, t.ends, t.speakers] for t in turns}),
        },
    )
    folder = into / subset
    folder.mkdir(parents=True, exist_ok=True)
    todo = [plan for plan in plans if not (folder / f"{plan.uri}.flac").exists()]
    make = partial(_make, folder, list(turns), duration, acoustics)
    progress = partial(track, total=len(todo), description=subset, disable=not todo)
    if processes > 1 and todo:
        # spawned: the progress display runs a thread, and threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for _ in progress(pool.map(make, todo)):
                pass
    else:
        for _ in progress(map(make, todo)):
            pass
    _write_lists(into, subset, plans, likes_kept, seed)
    _write_database(into, name)


def _heard(voices: Voices, min_voice: float) -> dict[str, list[Path]]:
    """Leave out voices with too little speech."""
    for speaker, paths in sorted(voices.items()):
        if any(map(str.isspace, speaker)):
            raise ValueError(
                f"{Path(paths[0]).parent if paths else speaker}: the voice {speaker!r} has a "
                "space in its name, and RTTM takes none: rename its folder"
            )
    seconds = {speaker: load_voice(paths).duration for speaker, paths in sorted(voices.items())}
    short = [f"{s} ({seconds[s]:.1f} s)" for s in seconds if seconds[s] < min_voice]
    if short:
        warnings.warn(
            f"{len(short)} voices have less than {min_voice:g} s of speech and are left out: "
            + ", ".join(short),
            stacklevel=3,
        )
    return {s: [Path(p) for p in voices[s]] for s in seconds if seconds[s] >= min_voice}


def _digest(content: Mapping) -> str:
    """Tell settings apart without their size: names of recordings count, not their folder."""
    digest = hashlib.sha256()
    for key in sorted(content):
        digest.update(key.encode())
        for item in content[key]:
            digest.update(item.name.encode() if isinstance(item, Path) else item.tobytes())
    return digest.hexdigest()[:16]


def _plain(acoustics: Acoustics) -> dict:
    return json.loads(json.dumps(asdict(acoustics)))


def _check_settings(path: Path, settings: dict) -> None:
    if path.exists() and any(path.with_suffix("").glob("*.flac")):
        before = json.loads(path.read_text(encoding="utf-8"))
        # what did not exist yet had its default
        before["acoustics"] = {**_plain(Acoustics()), **before.get("acoustics", {})}
        before.setdefault("corpora", list(before.get("voices", {})))
        changed = sorted(key for key in settings if before.get(key) != settings[key])
        if changed:
            raise ValueError(
                f"{path}: the conversations there were made with another {', '.join(changed)}: "
                "write into another folder, or delete them"
            )
    _write_text(path, json.dumps(settings, indent=2) + "\n")


def _plan(
    corpora: Mapping[str, Voices],
    num_files: int,
    seed: int,
    subset: str,
    speakers: tuple[int, int],
    in_turn: bool,
) -> Iterator[_Plan]:
    """Decide who speaks in each conversation; the first ones do not depend on how many."""
    for corpus, voices in corpora.items():
        if len(voices) < speakers[1]:
            raise ValueError(
                f"{len(voices)} usable voices {f'in {corpus} ' if corpus else ''}are too few for "
                f"conversations of up to {speakers[1]} speakers"
            )
    rng = np.random.default_rng([seed, SUBSETS.index(subset), 0])
    waiting: dict[str, list[str]] = {corpus: [] for corpus in corpora}
    used = dict.fromkeys(corpora, 0.0)
    for index in range(num_files):
        corpus = min(used, key=used.__getitem__)
        num_speakers = int(rng.integers(speakers[0], speakers[1] + 1))
        used[corpus] += 1.0 if in_turn else num_speakers / len(corpora[corpus])
        chosen = _deal(waiting[corpus], sorted(corpora[corpus]), num_speakers, rng)
        uri = "-".join(filter(None, [subset, corpus, f"{index:04d}"]))
        yield _Plan(
            uri, {s: list(corpora[corpus][s]) for s in chosen}, (seed, SUBSETS.index(subset))
        )


def _deal(
    waiting: list[str], everyone: list[str], num_speakers: int, rng: np.random.Generator
) -> list[str]:
    """Take different speakers from the shuffled pack `waiting`, which is refilled when empty."""
    chosen: list[str] = []
    while len(chosen) < num_speakers:
        speaker = next((s for s in waiting if s not in chosen), None)
        if speaker is None:
            waiting += [everyone[i] for i in rng.permutation(len(everyone))]
            continue
        waiting.remove(speaker)
        chosen.append(speaker)
    return chosen


def _make(
    folder: Path,
    turns: list[TurnTaking],
    duration: tuple[float, float],
    acoustics: Acoustics,
    plan: _Plan,
) -> None:
    """Simulate and write one conversation; its flac file comes last and says that it is whole."""
    index = int(plan.uri.rsplit("-", 1)[1])
    rng = np.random.default_rng([*plan.seed, 1, index])
    waveform, annotation = simulate_conversation(
        plan.voices, turns, rng, duration, acoustics, plan.uri
    )
    _write_text(folder / f"{plan.uri}.rttm", annotation.to_rttm())
    partial_path = folder / f".{plan.uri}.{os.getpid()}.part"
    soundfile.write(partial_path, waveform[0], SAMPLE_RATE, "PCM_16", format="FLAC")
    os.replace(partial_path, folder / f"{plan.uri}.flac")


def _write_lists(
    into: Path, subset: str, plans: list[_Plan], likes_kept: float, seed: int
) -> None:
    folder = into / subset
    rng = np.random.default_rng([seed, SUBSETS.index(subset), 2])
    likes, uem, rttm = {}, "", ""
    for plan in plans:
        kept = rng.random(len(plan.voices)) < likes_kept
        likes[plan.uri] = tuple(
            s for s, keep in zip(sorted(plan.voices), kept, strict=True) if keep
        )
        seconds = soundfile.info(folder / f"{plan.uri}.flac").duration
        uem += f"{plan.uri} 1 0.000 {seconds:.3f}\n"
        rttm += (folder / f"{plan.uri}.rttm").read_text(encoding="utf-8")
    write_likes(into / f"{subset}.likes", likes)
    _write_text(into / f"{subset}.uem", uem)
    _write_text(into / f"{subset}.rttm", rttm)
    _write_text(into / f"{subset}.lst", "".join(f"{plan.uri}\n" for plan in plans))


def _write_database(into: Path, name: str) -> None:
    """Describe the subsets that are there; paths are relative to the file."""
    subsets = [subset for subset in SUBSETS if (into / f"{subset}.lst").exists()]
    lines = ["Databases:", f"  {name}:"]
    lines += [f"    - {subset}/{{uri}}.flac" for subset in subsets]
    lines += ["Protocols:", f"  {name}:", "    SpeakerDiarization:", "      Conversations:"]
    lines += ["        scope: global"]
    for subset in subsets:
        lines += [
            f"        {subset}:",
            f"          uri: {subset}.lst",
            f"          likes: {subset}.likes",
            f"          annotation: {subset}.rttm",
            f"          annotated: {subset}.uem",
        ]
    _write_text(into / "database.yml", "\n".join(lines) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial_path.write_text(text, encoding="utf-8")
    os.replace(partial_path, path)
