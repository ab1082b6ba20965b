"""Disjoint subsets of voices and of turn timings, fixed by a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pyannote_weighter.simulation.turns import TurnTaking


def split_voices(
    voices: Mapping[str, Sequence[Path]], shares: Mapping[str, float], seed: int
) -> dict[str, dict[str, list[Path]]]:
    """Divide the speakers, never the recordings of one speaker.

    Parameters
    ----------
    voices : {speaker: recordings}
    shares : {subset: share}
        For example ``{"train": 0.7, "development": 0.15, "test": 0.15}``; must sum to one.
    seed : int

    Returns
    -------
    subsets : {subset: {speaker: recordings}}
    """
    names = _split(list(voices), shares, seed)
    return {subset: {name: list(voices[name]) for name in names[subset]} for subset in shares}


def split_turns(
    turns: Sequence[TurnTaking], shares: Mapping[str, float], seed: int
) -> dict[str, list[TurnTaking]]:
    """Divide turn timings by recording, so that no two subsets share a timing.

    Parameters
    ----------
    turns : sequence of TurnTaking
    shares : {subset: share}
        Must sum to one.
    seed : int
    """
    by_uri = {turn_taking.uri: turn_taking for turn_taking in turns}
    if len(by_uri) < len(turns):
        raise ValueError("several turn timings have the same uri: drop the repeated ones")
    uris = _split(list(by_uri), shares, seed)
    return {subset: [by_uri[uri] for uri in uris[subset]] for subset in shares}


def _split(names: list[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    if abs(sum(shares.values()) - 1.0) > 1e-6 or min(shares.values()) < 0.0:
        raise ValueError(f"shares must be positive and sum to one, not {dict(shares)}")
    shuffled = np.random.default_rng(seed).permutation(sorted(names))
    ends = np.rint(np.cumsum(list(shares.values())) * len(names)).astype(int)
    starts = [0, *ends[:-1]]
    return {
        subset: sorted(str(name) for name in shuffled[start:end])
        for subset, start, end in zip(shares, starts, ends, strict=True)
    }
