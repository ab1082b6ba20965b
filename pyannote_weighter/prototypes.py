"""First prototypes of the liked speakers: what files that share a like have in common.

A like names somebody, and which of the voices of its file that is shows in the other files with
the same like: one voice recurs there. Whether it does also tells which likes can be believed,
since nothing recurs where a like is wrong, or where the speaker says too little.
"""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.matching import assign

LEAST_SHARE = 0.01  # of the speech of a file, for a slot to be somebody
MOST_FILES = 64  # of a speaker, to look for what recurs
DEVIATIONS = 3.0  # above what unrelated pairs of a file and a speaker have
PAIRS = 500_000  # of them, at most
STRANGERS = 0.4
"""Least `Prototypes.by_chance` where files or names are too few to tell who is there by chance.
Development conversations had 0.36 to 0.40 with the first default Weighter."""
MARGIN = 0.1  # cosine by which a slot without a like is nearer to a speaker than chance and others


class Prototypes(NamedTuple):
    """What `shared_prototypes` returns."""

    vectors: Tensor
    """(K, D) unit vectors. Who is liked nowhere, or in silence alone, has a random one."""
    slots: list[Tensor]
    """(L,) long tensor for each file: the slot of each like, -1 where there are too few."""
    confirmed: list[Tensor]
    """(L,) bool for each file: other files with the like have the same voice."""
    by_chance: float
    """Cosine that few speakers reach in a file where they are not."""


def shared_prototypes(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    num_speakers: int,
    num_rounds: int = 3,
    least: float = -1.0,
) -> Prototypes:
    """Find the slots of each like, and what they have in common.

    For each speaker it starts from the slot that all files with the like come nearest to: the
    voice that recurs. The clearest ones come first, and their slots are nobody else's from then
    on: who is always liked beside somebody would be taken for them. Then likes are assigned to
    slots within each file (two likes are two people), and the assigned slots of a speaker are
    averaged, a few times over.

    A like is confirmed when its slot resembles the average of the *other* files with this like
    more than by chance: by three deviations more than the nearest slot of a file resembles
    somebody who is not liked there. The deviation is that of the lower end of these, as those who
    are there without a like are at the upper one. A like alone is confirmed by nothing.

    Parameters
    ----------
    embeddings : list of (N, D) tensors
        Slots of each file.
    weights : list of (N,) tensors
        Share of the speech that each slot holds.
    likes : list of (L,) long tensors
        Speaker indices of each file.
    num_speakers : int
        K.
    num_rounds : int
    least : float, optional
        Of `Prototypes.by_chance`, which few files and few likes do not tell.

    Returns
    -------
    prototypes : Prototypes
    """
    slots = [F.normalize(e.float(), dim=-1) for e in embeddings]
    dimension = slots[0].shape[-1]
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(num_speakers, dimension, generator=generator), dim=-1)
    files: list[list[int]] = [[] for _ in range(num_speakers)]
    for number, speakers in enumerate(likes):
        for speaker in speakers.tolist():
            files[speaker].append(number)
    some_of = []
    for where in files:
        some = torch.randperm(len(where), generator=generator)[:MOST_FILES].tolist()
        some_of.append([where[index] for index in sorted(some)])
    free = [(w >= LEAST_SHARE) | (w == w.max()) if len(w) else w > 0 for w in weights]

    def recurring(speaker: int) -> tuple[float, Tensor]:
        left = [f if f.any() else torch.ones_like(f) for f in (free[n] for n in some_of[speaker])]
        own = [(slots[n], weights[n]) for n in some_of[speaker]]
        return _recurring(*zip(*own, strict=True), left)

    # the clearest first, whose slots are then not taken for somebody who is liked beside them
    queue = [(-recurring(k)[0], k) for k, where in enumerate(files) if where]
    heapq.heapify(queue)
    while queue:
        _, speaker = heapq.heappop(queue)
        clarity, vector = recurring(speaker)
        if vector.norm() > 0.5:  # else there is nothing to hear: it is zero, not a unit vector
            vectors[speaker] = vector
        if queue and clarity < -queue[0][0]:  # less clear by now: others have taken slots
            heapq.heappush(queue, (-clarity, speaker))
            continue
        for f in files[speaker]:
            similarity = slots[f] @ vectors[speaker]
            free[f][similarity.masked_fill(~free[f], -2.0).argmax()] = False

    for number in range(num_rounds + 1):
        chosen, total = [], torch.zeros(num_speakers, dimension)
        for file_slots, weight, speakers in zip(slots, weights, likes, strict=True):
            similarity = file_slots @ vectors[speakers].T  # (N, L)
            # one to one, rather to slots that hold more speech
            some, columns = assign(-similarity - 0.05 * (weight[:, None] + 1e-3).log())
            chosen.append((some, columns))
            total[speakers[columns]] += file_slots[some]
        if number < num_rounds:
            found = total.norm(dim=-1) > 1e-6
            vectors = F.normalize(torch.where(found[:, None], total, vectors), dim=-1)

    number_of = torch.tensor([len(where) for where in files])
    threshold = _by_chance(slots, weights, likes, vectors, number_of > 1, generator)
    threshold = max(threshold, least)
    # a file with fewer slots than likes has none for some of these
    placed = [speakers[columns] for speakers, (_, columns) in zip(likes, chosen, strict=True)]
    times = torch.bincount(torch.cat(placed), minlength=num_speakers)
    given, confirmed = [], []
    for file_slots, speakers, (some, columns) in zip(slots, likes, chosen, strict=True):
        given.append(torch.full((len(speakers),), -1))
        given[-1][columns] = some
        believed = torch.zeros(len(speakers), dtype=torch.bool)
        own, who = file_slots[some], speakers[columns]
        resemblance = F.cosine_similarity(total[who] - own, own, dim=-1)
        believed[columns] = (times[who] > 1) & (resemblance > threshold)
        confirmed.append(believed)
    return Prototypes(vectors, given, confirmed, threshold)


def missing_likes(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    prototypes: Prototypes,
    most: Sequence[float] | None = None,
) -> list[Tensor]:
    """Find speakers who are in a file without a like, by the prototype that other files gave them.

    A slot that no like of its file is given to is that of a speaker if it is nearer than chance,
    nearer than to any like of the file (which may hold two slots) and nearer than to anybody else,
    each by `MARGIN`, and if no other slot is nearer to this speaker. Speakers of whom no like is
    confirmed are not looked for.

    Parameters
    ----------
    embeddings, weights, likes
        See `shared_prototypes`.
    prototypes : Prototypes
        Of these likes.
    most : list of float, optional
        Largest number of them in each file. Defaults to no limit.

    Returns
    -------
    missing : list of (M,) long tensors
        Speaker indices of each file, the nearest first; none that has a like there.
    """
    most = [math.inf] * len(likes) if most is None else most
    known = torch.zeros(len(prototypes.vectors), dtype=torch.bool)
    for speakers, confirmed in zip(likes, prototypes.confirmed, strict=True):
        known[speakers[confirmed]] = True
    missing = []
    files = zip(embeddings, weights, likes, prototypes.slots, most, strict=True)
    for slots, weight, speakers, given, limit in files:
        cosine = F.normalize(slots.float(), dim=-1) @ prototypes.vectors.T  # (N, K)
        liked = cosine[:, speakers]  # (N, L)
        free = weight >= LEAST_SHARE
        free[given[given >= 0]] = False
        cosine[:, ~known] = -1.0
        cosine[:, speakers] = -1.0
        least = liked.amax(dim=1) if len(speakers) else cosine.new_full((len(cosine),), -1.0)
        found, who = mutually_nearest(cosine, free, least.clamp_min(prototypes.by_chance))
        nearest_first = cosine[found, who].argsort(descending=True, stable=True)
        missing.append(who[nearest_first[: int(min(limit, len(found)))]])
    return missing


def mutually_nearest(cosine: Tensor, free: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of a slot and the voice that it is of, by a margin.

    Parameters
    ----------
    cosine : (N, K) tensor
        Of slots to voices.
    free : (N,) bool tensor
        Slots that may be somebody.
    least : (N,) tensor
        Cosine that a slot has to be above by `MARGIN`, as it has to be above that to any other
        voice. No other free slot may be nearer to the voice.

    Returns
    -------
    slots, voices : (M,) long tensors
    """
    best, nearest = cosine.max(dim=1)  # (N,)
    rest = cosine.scatter(1, nearest[:, None], -1.0).amax(dim=1)
    of_voice = cosine.masked_fill(~free[:, None], -2.0).argmax(dim=0)  # (K,)
    first = of_voice[nearest] == torch.arange(len(cosine), device=cosine.device)
    found = free & first & (best > torch.maximum(least, rest) + MARGIN)
    return found.nonzero()[:, 0], nearest[found]


def complete_likes(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    num_speakers: int,
    most: Sequence[float] | None = None,
    least: float = -1.0,
) -> tuple[Prototypes, list[Tensor], list[Tensor]]:
    """Find prototypes, likes that are missing, and prototypes of these and of those given.

    Parameters
    ----------
    embeddings, weights, likes, num_speakers
        See `shared_prototypes`.
    most : list of float, optional
        See `missing_likes`.
    least : float, optional
        See `shared_prototypes`.

    Returns
    -------
    prototypes : Prototypes
        Of `every`: likes that were found are confirmed as any other.
    missing : list of (M,) long tensors
        See `missing_likes`.
    every : list of (L + M,) long tensors
        Likes of each file, then those that are missing.
    """
    given = shared_prototypes(embeddings, weights, likes, num_speakers, least=least)
    missing = missing_likes(embeddings, weights, likes, given, most)
    every = [torch.cat(pair) for pair in zip(likes, missing, strict=True)]
    prototypes = shared_prototypes(embeddings, weights, every, num_speakers, least=least)
    return prototypes, missing, every


def explained_speech(
    embeddings: Sequence[Tensor],
    weights: Sequence[Tensor],
    likes: Sequence[Tensor],
    prototypes: Prototypes,
) -> float:
    """Share of the speech that is of somebody whose confirmed like its file has.

    As far as voices tell: a slot counts if it is nearer than by chance to one of these prototypes.
    Who is liked in one file only is confirmed nowhere and counts as untagged.

    Parameters
    ----------
    embeddings, weights, likes
        See `shared_prototypes`.
    prototypes : Prototypes
        Of these likes.

    Returns
    -------
    share : float
        Mean over the files that have speech; 1 where there is none.
    """
    shares = []
    least = max(prototypes.by_chance, STRANGERS)  # nobody tells where all are liked everywhere
    for slots, weight, speakers, confirmed in zip(
        embeddings, weights, likes, prototypes.confirmed, strict=True
    ):
        total = float(weight.sum())
        if total > 0:
            known = prototypes.vectors[speakers[confirmed]]  # (L, D)
            cosine = F.normalize(slots.float(), dim=-1) @ known.T  # (N, L)
            explained = (cosine > least).any(dim=1)
            shares.append(float(weight[explained].sum()) / total)
    return sum(shares) / len(shares) if shares else 1.0


def _recurring(slots: Sequence, weights: Sequence, free: Sequence) -> tuple[float, Tensor]:
    """How clear it is, and the (D,) unit vector of the free slot that recurs in files, or zero.

    It is the one that all files come nearest to, averaged with these. Clear is what is alike in
    other files, and in many.
    """
    if len(slots) == 1:
        return 0.0, F.normalize((weights[0] * free[0]) @ slots[0], dim=-1)
    slots = [e[keep] for e, keep in zip(slots, free, strict=True)]
    every = torch.cat(slots)
    # of each slot to the nearest of each file
    near = [(every @ e.T).max(dim=1) for e in slots]
    support = torch.stack([n.values for n in near]).sum(dim=0)
    seed = support.argmax()
    picked = [e[n.indices[seed]] for e, n in zip(slots, near, strict=True)]
    clarity = (support[seed] - 1).item() / len(slots)  # less the slot itself
    return clarity, F.normalize(torch.stack(picked).sum(dim=0), dim=-1)


def _by_chance(slots, weights, likes, vectors: Tensor, known: Tensor, generator) -> float:
    """Cosine that few speakers reach in a file where they are not."""
    numbers = torch.arange(len(vectors))
    per_file = max(1, PAIRS // max(1, len(slots)))
    best = []
    for file_slots, weight, speakers in zip(slots, weights, likes, strict=True):
        others = numbers[known & ~torch.isin(numbers, speakers)]
        others = others[torch.randperm(len(others), generator=generator)[:per_file]]
        present = file_slots[weight >= LEAST_SHARE]
        if len(others) and len(present):
            best.append((present @ vectors[others].T).amax(dim=0))
    if not best:
        return -1.0  # everybody is liked everywhere: nothing to compare with
    low, high = torch.cat(best).double().quantile(torch.tensor([0.05, 0.25]).double()).tolist()
    deviation = (high - low) / (1.645 - 0.674)
    return high + (0.674 + DEVIATIONS) * deviation
