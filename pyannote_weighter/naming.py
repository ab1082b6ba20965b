"""Names for the speakers of an archive, from its likes alone.

Diarization calls the speakers of each file SPEAKER_00 and so on, anew in every file. A like names
somebody who is in a file and does not say which of its speakers that is; the other files with the
same like do: one voice recurs there (`pyannote_weighter.prototypes`). What it is like is
then known, and found in files that nobody has tagged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.sparse.csgraph import connected_components

from pyannote_weighter.output import atomic, encodable
from pyannote_weighter.prototypes import (
    MARGIN,
    STRANGERS,
    Prototypes,
    complete_likes,
    mutually_nearest,
)

ONE_VOICE = 0.3
"""Above `Voices.by_chance`, cosine from which two voices are one: of names that were confused on
development conversations all had 0.42 or more, of others none had more than 0.2."""

COINCIDENCE = 0.3
"""Expected number of other voices that are in all files of a name by chance, at most."""


class Speakers(NamedTuple):
    """Speakers that were found in one file."""

    labels: list[str]
    """What they are called there."""
    embeddings: np.ndarray
    """(K, D) of the same Weighter in all files."""
    seconds: np.ndarray
    """(K,) how long each of them speaks."""


class Match(NamedTuple):
    """Who a speaker is."""

    name: str
    cosine: float
    """Of the speaker to what is known of the voice."""
    liked: bool
    """Whether the file has a like with this name."""


@dataclass(frozen=True)
class Voices:
    """Voices that are known by name.

    Parameters
    ----------
    names : tuple of str
    vectors : (V, D) array
        Unit vectors.
    by_chance : float
        Cosine that few voices reach in a file where they are not.
    num_files : tuple of int
        Number of files that each voice was learned from.
    embedding_id : str, optional
        Of the results that they were learned from, see `WeighterOutput`.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    by_chance: float
    num_files: tuple[int, ...]
    embedding_id: str | None = None

    def cosines(self, speakers: Speakers) -> np.ndarray:
        """(K, V) cosines of the speakers of a file to the voices.

        Raises
        ------
        ValueError
            Where embeddings have another dimension: they are of another Weighter.
        """
        embeddings = torch.from_numpy(np.asarray(speakers.embeddings, dtype=np.float32))
        if embeddings.shape[-1] != self.vectors.shape[-1]:
            raise ValueError(
                f"speakers have embeddings of {embeddings.shape[-1]} dimensions, voices of "
                f"{self.vectors.shape[-1]}: diarize with the pipeline that the voices are from"
            )
        vectors = torch.from_numpy(np.asarray(self.vectors, dtype=np.float32))
        return (F.normalize(embeddings, dim=-1) @ vectors.T).numpy()

    def recognize(self, speakers: Speakers) -> dict[str, Match]:
        """Find known voices in a file without likes.

        A speaker is somebody if nearer to that voice than chance and than to every other voice,
        each by a margin, and if no other speaker of the file is nearer to it.

        Returns
        -------
        matches : dict
            By label; speakers whom nobody knows are left out.
        """
        if not len(speakers.labels) or not self.names:
            return {}
        cosine = torch.from_numpy(self.cosines(speakers))
        free = torch.ones(len(cosine), dtype=torch.bool)
        least = torch.full((len(cosine),), self.by_chance)
        found, nearest = mutually_nearest(cosine, free, least)
        return {
            speakers.labels[k]: Match(self.names[v], float(cosine[k, v]), False)
            for k, v in zip(found.tolist(), nearest.tolist(), strict=True)
        }

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        about = {
            "names": self.names,
            "num_files": self.num_files,
            "by_chance": self.by_chance,
            "embedding_id": self.embedding_id,
        }
        with atomic(path) as unfinished:
            vectors = torch.from_numpy(np.ascontiguousarray(self.vectors))
            save_file({"vectors": vectors}, unfinished, metadata={"voices": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Voices:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no file of voices.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file of voices; `name` writes one")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["voices"])
                vectors = file.get_tensor("vectors")
            _check_voices(about, vectors)
            return cls(
                tuple(about["names"]),
                vectors.to(torch.float32, copy=True).numpy(),  # else a map of the file
                about["by_chance"],
                tuple(about["num_files"]),
                about.get("embedding_id"),
            )
        except (
            SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError
        ) as error:  # fmt: skip
            raise ValueError(
                f"{path}: no file of voices, as `name` writes them: {error}"
            ) from None


def _check_voices(about: dict, vectors: torch.Tensor) -> None:
    """Refuse voices that `Voices.save` cannot have written."""
    names, files = about["names"], about["num_files"]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("names are no list of texts")
    if len(set(names)) < len(names):
        raise ValueError("two voices have one name")
    if any(encodable(name) != name for name in names):
        raise ValueError("a name holds what UTF-8 cannot (lone surrogates)")
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise ValueError("vectors are not floating-point numbers in two dimensions")
    if not isinstance(files, list) or not len(names) == len(vectors) == len(files):
        raise ValueError("there are not as many names as vectors and numbers of files")
    lengths = vectors.float().norm(dim=-1)
    if not ((lengths - 1).abs() < 1e-3).all():  # nor where they are NaN
        raise ValueError("vectors are not of unit length")
    if not math.isfinite(about["by_chance"]):
        raise ValueError("by_chance is not finite")
    if not isinstance(about.get("embedding_id"), str | None):
        raise ValueError("embedding_id is no text")


class Named(NamedTuple):
    """What `learn_voices` returns."""

    voices: Voices
    matches: list[dict[str, Match]]
    """Of each file, by label."""
    unclear: list[tuple[str, ...]]
    """Names that nothing tells apart: liked in the same files, or given one and the same voice."""
    doubtful: list[str]
    """Names that are liked in two files or more, and have no voice for other reasons: none recurs
    in their files, or one that may do so by chance."""


def learn_voices(files: Sequence[Speakers], likes: Sequence[Sequence[str] | None]) -> Named:
    """Learn who is who from likes, and find them in all files.

    In files with likes, a like names the speaker who recurs in the other files with it, and voices
    that are known from other files are found without a like as well. A name that is liked in one
    file only is given to nobody, nor is one whose voice does not recur, nor are names that
    nothing tells apart: they are liked in the same files, or the same voice recurs in those of
    either, since likes of one of them are missing there.

    Parameters
    ----------
    files : list of Speakers
    likes : list of sequences of str, or of None
        Names of each file. None: nobody has listened.

    Returns
    -------
    named : Named

    Raises
    ------
    ValueError
        If no name is liked in two files in which somebody speaks; if embeddings are not all of
        one dimension, that is, of one Weighter.
    """
    told = [
        number
        for number, (speakers, some) in enumerate(zip(files, likes, strict=True))
        if some is not None and len(speakers.labels)
    ]
    where: dict[str, list[int]] = {}
    for number in told:
        for name in dict.fromkeys(likes[number]):
            where.setdefault(name, []).append(number)
    names = sorted(where)
    if not any(len(numbers) > 1 for numbers in where.values()):
        raise ValueError(
            "no name is liked in two of the files with speech: a voice has to recur to be known"
        )
    if len({np.shape(files[number].embeddings)[-1] for number in told}) > 1:
        raise ValueError("embeddings of files differ in dimension: use one pipeline for all")
    index = {name: number for number, name in enumerate(names)}
    given = [torch.tensor([index[n] for n in dict.fromkeys(likes[f])]).long() for f in told]
    embeddings = [torch.from_numpy(np.asarray(files[f].embeddings)).float() for f in told]
    seconds = [torch.from_numpy(np.asarray(files[f].seconds)).float() for f in told]
    shares = [s / s.sum().clamp_min(1e-6) for s in seconds]
    most = [max(0, len(e) - len(g)) for e, g in zip(embeddings, given, strict=True)]
    known = embeddings, shares, given, len(names)
    prototypes, _, every = complete_likes(*known, most, STRANGERS)
    groups = _confused(prototypes, every, [where[name] for name in names])
    left_out = _coincidences(prototypes, embeddings, given)
    left_out[[who for group in groups for who in group]] = True
    sure = [
        confirmed & ~left_out[numbers]
        for numbers, confirmed in zip(every, prototypes.confirmed, strict=True)
    ]
    voices = _voices(prototypes, every, sure, names)
    matches: list[dict[str, Match]] = [
        voices.recognize(speakers) if some is None else {}
        for speakers, some in zip(files, likes, strict=True)
    ]
    for row, number in enumerate(told):
        cosine = F.normalize(embeddings[row], dim=-1) @ prototypes.vectors.T
        for position in sure[row].nonzero()[:, 0].tolist():
            who, slot = int(every[row][position]), int(prototypes.slots[row][position])
            liked = position < len(given[row])
            match = Match(names[who], float(cosine[slot, who]), liked)
            matches[number][files[number].labels[slot]] = match
    unclear = [tuple(names[k] for k in group) for group in groups]
    settled = {*voices.names, *(name for group in unclear for name in group)}
    doubtful = [name for name in names if len(where[name]) > 1 and name not in settled]
    return Named(voices, matches, unclear, doubtful)


def _confused(
    prototypes: Prototypes, likes: list[torch.Tensor], where: list[list[int]]
) -> list[list[int]]:
    """Groups of names that nothing tells apart."""
    cosine = prototypes.vectors @ prototypes.vectors.T
    one = cosine > prototypes.by_chance + ONE_VOICE
    confirmed = [n[c] for n, c in zip(likes, prototypes.confirmed, strict=True)]
    known = torch.zeros(len(where), dtype=torch.bool)
    known[torch.cat(confirmed)] = True
    one &= known & known[:, None]
    same: dict[tuple[int, ...], int] = {}
    for who, files in enumerate(where):
        if len(files) > 1:
            one[who, same.setdefault(tuple(files), who)] = True
    number, group = connected_components(one.numpy(), directed=False)
    groups = [np.flatnonzero(group == g).tolist() for g in range(number)]
    return [some for some in groups if len(some) > 1]


def _coincidences(
    prototypes: Prototypes, embeddings: list[torch.Tensor], likes: list[torch.Tensor]
) -> torch.Tensor:
    """(K,) whether the voice of a name may be in its files by chance.

    A voice that is in a share q of the files without the like is in all of m files with it with
    probability q^m. One of the files is where it was looked for, among all others of that file.
    """
    speakers = len(prototypes.vectors)
    rows = torch.zeros(speakers, 3)  # files with the like and the voice, others, those with it
    beside = torch.zeros(speakers)
    confirmed_files = zip(embeddings, likes, prototypes.confirmed, strict=True)
    for slots, numbers, confirmed in confirmed_files:
        cosine = F.normalize(slots, dim=-1) @ prototypes.vectors.T
        heard = (cosine > prototypes.by_chance + MARGIN).any(dim=0).float()
        liked = torch.zeros(speakers)
        liked[numbers] = 1.0
        there = numbers[confirmed[: len(numbers)]]
        rows[there, 0] += 1
        beside[there] += len(slots) - 1
        rows[:, 1] += 1 - liked
        rows[:, 2] += (1 - liked) * heard
    found, others, heard = rows.T
    share = (heard + 0.5) / (others + 1)
    return beside / found.clamp_min(1) * share ** (found - 1) > COINCIDENCE


def _voices(
    prototypes: Prototypes,
    likes: list[torch.Tensor],
    sure: list[torch.Tensor],
    names: list[str],
) -> Voices:
    """Voices of those of whom a like is sure."""
    number = torch.cat([n[s] for n, s in zip(likes, sure, strict=True)])
    number = number.bincount(minlength=len(names))
    known = number.nonzero()[:, 0].tolist()
    return Voices(
        names=tuple(names[k] for k in known),
        vectors=prototypes.vectors[known].numpy(),
        by_chance=prototypes.by_chance,
        num_files=tuple(number[known].tolist()),
    )
