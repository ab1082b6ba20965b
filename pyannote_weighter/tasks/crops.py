"""Training files, read in crops that have the likes of who speaks there."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from pyannote.core import SlidingWindow
from torch import Tensor

from pyannote_weighter.prototypes import Prototypes
from pyannote_weighter.tasks.batching import plan_epoch
from pyannote_weighter.tasks.frames import FrameCache
from pyannote_weighter.tasks.overview import (
    Overview,
    frames_per_tick,
    heard_in,
    speech_of_likes,
)
from pyannote_weighter.tasks.samples import crop_reference, splice
from pyannote_weighter.tasks.supervision import knows


def cut_pieces(lengths: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """Pieces of files in an epoch: about as many as it takes to see all of each file once.

    Parameters
    ----------
    lengths : list of int
        Frames of each file.
    most : int
        Frames of the longest piece.

    Returns
    -------
    pieces : list of (file, number, how many of the file)
    """
    return [
        (file, number, many)
        for file, length in enumerate(lengths)
        for many in [max(1, round(length / most))]
        for number in range(many)
    ]


class TrainingFiles:
    """Training files, and how files are read whose frames are on disk.

    Parameters
    ----------
    entries : list of dict
        See `pyannote_weighter.tasks.supervision.training_entry`; with "frames", their key in the
        cache. Likes that were found to be missing are added to them as "missing".
    index : dict
        Number of each liked speaker, by name.
    cache : FrameCache
    frames : SlidingWindow
        Of the Weighter.
    duration : float
        Of the longest crop, in seconds.

    Attributes
    ----------
    longest : int
        Frames of the longest crop.
    tick : int
        Frames in which it is told who speaks, see `frames_per_tick`.
    lengths : list of int
        Frames of each file.
    pieces : list of (file, number, how many of the file)
        See `cut_pieces`.
    """

    def __init__(
        self,
        entries: list[dict],
        index: dict[str, int],
        cache: FrameCache,
        frames: SlidingWindow,
        duration: float,
    ):
        self.entries, self.index, self.cache, self.frames = entries, index, cache, frames
        for number, entry in enumerate(entries):
            entry["file"] = [number]
        self.longest = self.frames_in(duration)
        self.tick = frames_per_tick(frames.step, self.longest)
        self.lengths = [self.num_frames(entry) for entry in entries]
        self.pieces = cut_pieces(self.lengths, self.longest)

    def frames_in(self, seconds: float) -> int:
        """Frames in so many seconds, at least one."""
        return max(1, round(seconds / self.frames.step))

    def num_frames(self, entry: dict) -> int:
        """Frames of a file."""
        return len(self.cache.get(entry["frames"])[0])

    def likes(self, entry: dict) -> Tensor | None:
        """Numbers of the speakers who are liked in a file, or were found to be missing there."""
        if entry["likes"] is None:
            return None
        names = [*entry["likes"], *entry.get("missing", ())]
        return torch.tensor([self.index[name] for name in names]).long()

    def read(self, entry: dict, start: int, num_frames: int) -> dict:
        """Read frames of a file, of training or not.

        Parameters
        ----------
        entry : dict
        start, num_frames : int
            First frame and how many there are, or fewer where the file ends.

        Returns
        -------
        sample : dict
            "frames" (T, C), "count" (T,) or None, "likes" of the whole file.
        """
        frames, count = self.cache.get(entry["frames"])
        stop = start + num_frames
        return {
            "frames": torch.from_numpy(np.array(frames[start:stop])),
            "count": None if count is None else torch.from_numpy(np.array(count[start:stop])),
            "likes": self.likes(entry),
        }

    def place_likes(
        self, entries: list[dict], found: list[Overview], prototypes: Prototypes
    ) -> None:
        """Find out when those who are liked speak in files that are longer than crops.

        Parameters
        ----------
        entries : list of dict
            Those with likes.
        found : list of Overview
            Of each of them.
        prototypes : Prototypes
        """
        each = zip(entries, found, prototypes.slots, prototypes.confirmed, strict=True)
        for entry, seen, slots, confirmed in each:
            if self.num_frames(entry) > self.longest:
                until = speech_of_likes(seen, self.likes(entry), slots, prototypes)
                entry["heard"] = until, confirmed

    def plan(
        self, share: float, batch_size: int, num_processes: int, seed: tuple[int, int]
    ) -> list[np.ndarray]:
        """Plan an epoch of all pieces, see `plan_epoch`; `share` of them get another appended."""
        # a whole of which half is known would count as unknown
        kinds = [2 * likes + reference for likes, reference in map(knows, self.entries)]
        return plan_epoch(
            [min(self.lengths[file], self.longest) for file, *_ in self.pieces],
            share,
            batch_size,
            num_processes,
            seed=seed,
            kinds=[kinds[file] for file, *_ in self.pieces],
            files=[file for file, *_ in self.pieces],
        )

    def sample(self, first: int, second: int, seed: tuple[int, int]) -> dict:
        """Crop a piece, and append another one unless that is -1.

        The same whichever process or worker it is. Who is confirmed in one part of a whole is
        believed to be in it.

        Parameters
        ----------
        first, second : int
            Pieces.
        seed : (int, int)
            Seed and epoch.
        """
        rng = Random(f"{seed[0]} {seed[1]} {first}")
        if second < 0:
            return self.crop(first, rng)
        return splice(self.crop(first, rng, sure=True), self.crop(second, rng, sure=True))

    def crop(self, piece: int, rng: Random, sure: bool = False) -> dict:
        """Crop at random somewhere in a piece of a file.

        Likes of a long file are those of who speaks in the crop and, unless only those are wanted
        that are sure, those that are not confirmed, which may be anywhere.
        """
        file, number, many = self.pieces[piece]
        entry = self.entries[file]
        latest = max(0, self.lengths[file] - self.longest)
        start = rng.randint(number * latest // many, (number + 1) * latest // many)
        sample = self.read(entry, start, self.longest)
        num_frames = len(sample["frames"])
        sample |= {"num_speakers": entry["num_speakers"], "file": entry["file"]}
        if "heard" in entry:
            until, confirmed = entry["heard"]
            heard = heard_in(until, self.frames.step, self.tick, start, num_frames)
            sample["likes"] = sample["likes"][heard & confirmed if sure else heard | ~confirmed]
        return sample | crop_reference(entry, self.frames, start, num_frames)
