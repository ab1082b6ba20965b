"""Likes made worse on purpose, to measure what training withstands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

Likes = Mapping[str, Iterable[str] | None]


def drop_likes(likes: Likes, kept: float, seed: int = 0) -> dict[str, tuple[str, ...] | None]:
    """Keep a share of all likes, drawn at random: who is present is then not always tagged.

    Parameters
    ----------
    likes : mapping
        Names of the likes for each uri; None where they are unknown, which they stay.
    kept : float
        Share of all likes, in [0, 1]. For one seed, less is a part of more.
    seed : int

    Returns
    -------
    likes : dict
        In the same order. Files that lose all their likes are known to have none.
    """
    pairs, unknown = _pairs(likes, "kept", kept)
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = set(order[: round(kept * len(pairs))].tolist())
    return _files(likes, [p for i, p in enumerate(pairs) if i in chosen], unknown)


def corrupt_likes(
    likes: Likes, wrong: float, seed: int = 0, present: Likes | None = None
) -> dict[str, tuple[str, ...] | None]:
    """Replace a share of all likes by names of people who are not there.

    Parameters
    ----------
    likes : mapping
        As in `drop_likes`.
    wrong : float
        Share of all likes, in [0, 1].
    seed : int
    present : mapping, optional
        Who is in each file, tagged or not: they do not become wrong likes. Defaults to `likes`.

    Returns
    -------
    likes : dict
        In the same order, as many in each file. Wrong names are drawn as often as they are liked.

    Raises
    ------
    ValueError
        If everybody who is liked anywhere is present in a file that should have a wrong like.
    """
    pairs, unknown = _pairs(likes, "wrong", wrong)
    rng = np.random.default_rng(seed)
    there = {uri: set(names or ()) for uri, names in (present or likes).items()}
    for uri, name in pairs:
        there.setdefault(uri, set()).add(name)
    names = [name for _, name in pairs]
    for index in rng.permutation(len(pairs))[: round(wrong * len(pairs))]:
        uri, _ = pairs[index]
        absent = [name for name in names if name not in there[uri]]
        if not absent:
            raise ValueError(f"{uri}: everybody who is liked anywhere is in it: nobody is wrong")
        name = absent[rng.integers(len(absent))]
        pairs[index] = uri, name
        there[uri].add(name)
    return _files(likes, pairs, unknown)


def _pairs(likes: Likes, option: str, share: float) -> tuple[list[tuple[str, str]], set[str]]:
    if not 0 <= share <= 1:
        raise ValueError(f"{option} is {share}: choose a share from 0 to 1")
    unknown = {uri for uri, names in likes.items() if names is None}
    pairs = [(u, name) for u in likes if u not in unknown for name in dict.fromkeys(likes[u])]
    return pairs, unknown


def _files(
    likes: Likes, pairs: list[tuple[str, str]], unknown: set[str]
) -> dict[str, tuple[str, ...] | None]:
    names: dict[str, list[str]] = {uri: [] for uri in likes}
    for uri, name in pairs:
        names[uri].append(name)
    return {uri: None if uri in unknown else tuple(names[uri]) for uri in likes}
