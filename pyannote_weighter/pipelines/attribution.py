"""Who gets which frame: slots of windows, merged, weighed again and linked into speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from pyannote.core import SlidingWindowFeature

from pyannote_weighter.likeness import Likeness, LocalSpeakers, local_evidence
from pyannote_weighter.linking import PARAMETERS, Groups, Slots
from pyannote_weighter.memory import give_back
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.reconstruction import nobody, reconstruct
from pyannote_weighter.pipelines.spill import Rows
from pyannote_weighter.pipelines.weighing import (
    cut_windows,
    improve_and_embed,
    improve_groups,
    settle_groups,
    weigh_file,
)
from pyannote_weighter.pipelines.windows import Speakers, Windows
from pyannote_weighter.presence import Presence
from pyannote_weighter.segmentation import sample_nearest

SURE = 0.88  # probability from which slots are one person beyond doubt
SHORTEST = 0.5  # seconds, of a speaker as long as it is not clear who is who
VAGUE = 0.1  # confidence of slots that are merged at first, in windows with much speech
MUCH = 75.0  # seconds


@dataclass(frozen=True)
class Attribution:
    """Frames to speakers, by a Weighter.

    Attributes
    ----------
    weighter : Weighter
    parameters : mapping, optional
        What `Slots.assign` takes: `threshold`, `merge` and `min_duration`. Defaults to
        `pyannote_weighter.linking.PARAMETERS`.
    likeness : Likeness, optional
        Tells whether two slots are one person.
    presence : Presence, optional
        Tells whether slots that are one person are a speaker at all.
    window : float, optional
        Longest stretch that the Weighter sees at once, in seconds. Defaults to 600.
    half : bool, optional
        Keep what is known of windows in half precision (default).
    min_duration_off : float, optional
        Pauses that are shorter are filled, in seconds. Defaults to none.
    """

    weighter: Weighter
    parameters: Mapping[str, float] = field(default_factory=PARAMETERS.copy)
    likeness: Likeness = field(default_factory=Likeness)
    presence: Presence = field(default_factory=Presence)
    window: float = 600.0
    half: bool = True
    min_duration_off: float = 0.0

    def __call__(
        self,
        frames: torch.Tensor | Rows,
        count: SlidingWindowFeature,
        local: LocalSpeakers | None = None,
        min_speakers: int = 1,
        max_speakers: float = np.inf,
        uri: str | None = None,
        hook: Callable | None = None,
        listen: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> WeighterOutput:
        """Give the frames of a file to speakers.

        Parameters
        ----------
        frames : (T, C) tensor or Rows
            Frames of the backbone.
        count : (T', 1) SlidingWindowFeature
            Number of speakers at the same time.
        local : LocalSpeakers, optional
            Who speaks in the windows of the segmentation.
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers. Fewer than `min_speakers` come out where no more can
            be told apart.
        uri : str, optional
        hook : callable, optional
            See `WeighterDiarization.apply`.
        listen : callable, optional
            `embed_alone` of `pyannote_weighter.pipelines.voices`, of a Weighter and a file. By
            default embeddings of speakers are pooled from the frames.

        Returns
        -------
        output : WeighterOutput
        """
        speech = sample_nearest(count, self.weighter.frames, len(frames))[:, 0]  # (T,)
        if not speech.any():
            return nobody(self.weighter, uri)
        windows = Windows(half=self.half)
        give_back()
        slots = self.weigh(frames, speech, windows, local)
        give_back()
        if hook is not None:
            hook("slots", SlidingWindowFeature(slots.joined(), self.weighter.steps))
        return reconstruct(
            self.weighter,
            self._candidates(slots, windows, speech, local, min_speakers, max_speakers),
            count,
            local,
            windows,
            min_speakers,
            max_speakers,
            self.min_duration_off,
            uri,
            hook,
            listen,
        )

    def _candidates(
        self,
        slots: Slots,
        windows: Windows,
        speech: np.ndarray,
        local: LocalSpeakers | None,
        least: int,
        most: float,
    ) -> Iterator[tuple[np.ndarray, Speakers | None]]:
        """Weightings (S, K) of speakers, the best first; the later ones lose fewer of them."""
        settled = self.settle(slots, windows, speech, local, least)
        give_back()
        speaker_of = self._assign(settled, least, most)
        groups = settled.join(speaker_of)
        bounds = self._windows(len(speech))
        improved, speakers = improve_and_embed(self.weighter, bounds, groups, windows, speech)
        give_back()
        yield improved.spread(), speakers
        if improved is not groups:
            yield groups.spread(), None
        yield slots.merge(self._assign(slots, least, most), add=False), None

    @torch.inference_mode()
    def weigh(
        self,
        frames: torch.Tensor | Rows,
        speech: np.ndarray,
        windows: Windows | None = None,
        local: LocalSpeakers | None = None,
    ) -> Slots:
        """Weigh the frames of a file, in windows that are not longer than `window`.

        Parameters
        ----------
        frames : (T, C) tensor or Rows
        speech : (T,) array
            Number of speakers in each frame.
        windows : Windows, optional
            Where to keep what `improve` and `reconstruct` need of the frames.
        local : LocalSpeakers, optional
            Who speaks in the windows of the segmentation: slots start there, see `Seeds`.

        Returns
        -------
        slots : Slots
        """
        return weigh_file(
            self.weighter, self._windows(len(frames)), frames, speech, windows, local
        )

    def _windows(self, num_frames: int) -> list[tuple[int, int]]:
        """First frame and end of windows of equal length, none longer than `window`."""
        return cut_windows(self.weighter, num_frames, self.window)

    def improve(
        self, weightings: np.ndarray, frames: torch.Tensor | Windows, speech: np.ndarray
    ) -> np.ndarray:
        """Weigh once more, from the speakers that slots were linked into.

        Slots that were one speaker have shared windows that no other slot explained better; now
        that there is one slot a speaker, they can be placed again. A speaker is never lost by it.

        Parameters
        ----------
        weightings : (S, K) array
            Of steps of the Weighter.
        frames : (T, C) tensor or Windows
            Frames, or what `weigh` kept of them.
        speech : (T,) array

        Returns
        -------
        weightings : (S, K) array
        """
        bounds, step = self._windows(len(speech)), self.weighter.encoder.step
        starts = [start // step for start, _ in bounds]
        groups = Groups.gather(np.split(weightings, starts[1:]))
        improved = improve_groups(self.weighter, bounds, groups, frames, speech)
        return weightings if improved is groups else improved.spread()

    @torch.inference_mode()
    def settle(
        self,
        slots: Slots,
        windows: Windows,
        speech: np.ndarray,
        local: LocalSpeakers | None = None,
        min_speakers: int = 1,
    ) -> Slots:
        """Merge slots that are surely one person, and weigh once more.

        What comes out is purer than what went in, so that the rest is easier to decide.

        Parameters
        ----------
        slots : Slots
            Its `evidence` is set.
        windows : Windows
            What `weigh` kept of the frames.
        speech : (T,) array
        local : LocalSpeakers, optional
        min_speakers : int, optional

        Returns
        -------
        slots : Slots
            Those that are one person have one column in each window where they are; `slots`
            itself where the encoder cannot start from weightings.
        """
        if local is not None:
            slots.evidence = local_evidence(local, slots.weightings, self.weighter.steps)
        if not self.weighter.encoder.restarts:
            return slots
        bounds = self._windows(len(speech))
        sure = self.sure(slots.seconds.sum() / len(bounds))
        speaker_of = self._assign(slots, min_speakers, np.inf, **sure)
        groups = slots.join(speaker_of)
        return settle_groups(self.weighter, bounds, groups, windows, speech, local, self.presence)

    def sure(self, seconds: float = 0.0) -> dict[str, float]:
        """Parameters that `settle` works with.

        Parameters
        ----------
        seconds : float, optional
            Speech in a window of the Weighter, on average. The more there is, the more slots share
            a speaker, and the less confidence each of them has. Defaults to none, as in a short
            recording.
        """
        threshold = self.parameters["threshold"]
        vague = max(VAGUE, threshold * min(1.0, MUCH / max(seconds, 1e-6)))
        return {
            **self.parameters,
            "threshold": min(threshold, vague),
            "merge": max(SURE, self.parameters["merge"]),
            "min_duration": min(SHORTEST, self.parameters["min_duration"]),
        }

    def link(
        self, slots: Slots, min_speakers: int = 1, max_speakers: float = np.inf
    ) -> np.ndarray:
        """Turn slots into speakers.

        Parameters
        ----------
        slots : Slots
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers; they go before the parameters.

        Returns
        -------
        weightings : (S, K) array
            One column a speaker.
        """
        return slots.merge(self._assign(slots, min_speakers, max_speakers))

    def _assign(
        self, slots: Slots, min_speakers: int, max_speakers: float, **changes
    ) -> np.ndarray:
        return slots.assign(
            **dict(self.parameters) | changes,
            likeness=self.likeness,
            min_speakers=min_speakers,
            max_speakers=max_speakers,
            least_seconds=self.weighter.frames.step,
        )
