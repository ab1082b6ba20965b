"""Diarization in which learned weighting takes the place of clustering."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pyannote.audio import Model, Pipeline
from pyannote.audio.core.io import AudioFile
from pyannote.audio.pipelines.utils import get_model
from pyannote.audio.pipelines.utils.diarization import SpeakerDiarizationMixin
from pyannote.core import Annotation, SlidingWindowFeature
from pyannote.metrics.diarization import GreedyDiarizationErrorRate
from pyannote.pipeline.parameter import ParamDict, Uniform

from pyannote_weighter.assignment import top_speakers
from pyannote_weighter.audio import load_waveform
from pyannote_weighter.linking import PARAMETERS, Slots
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.models.weighter import Weighted
from pyannote_weighter.pipelines.answer import WeighterOutput, speaker_names
from pyannote_weighter.segmentation import (
    count_speakers,
    get_segmentation,
    sample_nearest,
    segmentation_inference,
)
from pyannote_weighter.weighting import confidence

CACHE = "training_cache/weighter"


class WeighterDiarization(SpeakerDiarizationMixin, Pipeline):
    """Speaker diarization by learned weighting.

    The segmentation says where speech is and how many speak; frames of the backbone are computed
    once; the Weighter gives them to slots; slots become speakers; each frame goes to its most
    probable speakers, as many as the segmentation counts there.

    Parameters
    ----------
    segmentation : Model, str or dict, optional
        "segmentation-3.0" is the one that the extra `pretrained` installs.
        Else see `pyannote.audio.pipelines.utils.get_model`.
    weighter : Weighter, str or dict
        Trained Weighter. See `pyannote.audio.pipelines.utils.get_model`.
    segmentation_step : float, optional
        Step between windows of the segmentation, as a share of their duration.
    window : float, optional
        Longest stretch that the Weighter sees at once, in seconds. Longer files are cut, and the
        slots of their windows are linked by embedding.
    segmentation_batch_size, embedding_batch_size : int, optional
    legacy : bool, optional
        Return the annotation alone.
    der_variant : dict, optional
        Options of the metric that is optimized. Defaults to no collar, overlap scored.
    token, cache_dir : optional
        See `pyannote.audio.Pipeline.from_pretrained`.

    Hyper-parameters
    ----------------
    segmentation.min_duration_off : float
        Pauses that are shorter are filled, in seconds.
    segmentation.threshold : float
        Onset, multilabel segmentations only.
    weighter.threshold : float
        Slots with less confidence are no speakers.
    weighter.merge : float
        Slots whose embeddings have at least this cosine are one speaker.
    weighter.min_duration : float
        Speakers with less speech (seconds) are given to the others.

    Usage
    -----
    >>> from pyannote.audio import Pipeline
    >>> pipeline = Pipeline.from_pretrained(folder)  # doctest: +SKIP
    >>> output = pipeline("conversation.wav", max_speakers=4)  # doctest: +SKIP
    >>> output.confidence["SPEAKER_00"]  # doctest: +SKIP
    """

    def __init__(
        self,
        segmentation: Model | str | dict = "segmentation-3.0",
        weighter: Weighter | str | dict | Path = "",
        segmentation_step: float = 0.1,
        window: float = 600.0,
        segmentation_batch_size: int = 32,
        embedding_batch_size: int = 1,
        legacy: bool = False,
        der_variant: dict | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        super().__init__()
        if not weighter:
            raise ValueError("weighter is missing: give a trained Weighter, or a path to one")
        self.legacy = legacy
        self.window = window
        self.embedding_batch_size = embedding_batch_size
        self.der_variant = der_variant or {"collar": 0.0, "skip_overlap": False}

        weighter = str(weighter) if isinstance(weighter, Path) else weighter
        model = get_model(weighter, token=token, cache_dir=cache_dir)
        if not isinstance(model, Weighter):
            raise ValueError(f"{weighter} is a {type(model).__name__}, not a Weighter")
        self._weighter = model
        self._segmentation = segmentation_inference(
            get_segmentation(segmentation, token=token, cache_dir=cache_dir),
            step=segmentation_step,
            batch_size=segmentation_batch_size,
        )
        onset = (
            {}
            if self._segmentation.model.specifications.powerset
            else {"threshold": Uniform(0.1, 0.9)}
        )
        self.segmentation = ParamDict(min_duration_off=Uniform(0.0, 1.0), **onset)
        self.weighter = ParamDict(
            threshold=Uniform(0.0, 1.0),
            merge=Uniform(0.0, 1.0),
            min_duration=Uniform(0.0, 10.0),
        )

    def default_parameters(self) -> dict:
        """Parameters near those that recipes/default chose on its development conversations."""
        onset = {} if self._segmentation.model.specifications.powerset else {"threshold": 0.5}
        return {
            "segmentation": {"min_duration_off": 0.0} | onset,
            "weighter": dict(PARAMETERS),
        }

    def apply(
        self,
        file: AudioFile,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        hook: Callable | None = None,
        **kwargs,
    ) -> WeighterOutput | Annotation:
        """Diarize a file.

        Parameters
        ----------
        file : AudioFile
        num_speakers : int, optional
            Number of speakers, when known. It is held exactly where that many slots have speech;
            else a warning says how many there are.
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers.
        hook : callable, optional
            Called as upstream does after the steps "segmentation", "speaker_counting",
            "embeddings" (frames of the backbone), "slots" (N weightings), "weightings" (of the
            speakers), "discrete_diarization" and "speaker_embeddings".

        Returns
        -------
        output : WeighterOutput, or Annotation when `legacy` or in training

        Raises
        ------
        FileNotFoundError, ValueError
            From reading the file; from bounds that contradict each other.
        """
        if kwargs:
            warnings.warn(f"Ignoring unexpected options: {', '.join(kwargs)}", stacklevel=2)
        hook = self.setup_hook(file, hook=hook)
        bounds = {"num": num_speakers, "min": min_speakers, "max": max_speakers}
        for name, bound in bounds.items():
            if bound is not None and bound < 1:
                raise ValueError(f"{name}_speakers must be at least 1, got {bound}")
        _, min_speakers, max_speakers = self.set_num_speakers(
            num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers
        )
        count, frames = self.compute(file, hook)
        uri = file.get("uri") if isinstance(file, Mapping) else None

        speech = sample_nearest(count, self._weighter.frames, len(frames))[:, 0]  # (T,)
        if not speech.any():
            return self._answer(self._nobody(uri))
        slots = self.weigh(frames, speech)
        window = self._weighter.frames
        hook("slots", SlidingWindowFeature(np.concatenate(slots.weightings), window))
        weightings = self.link(slots, min_speakers, max_speakers)  # (T, K)
        weightings = self.improve(weightings, frames, speech)
        hook("weightings", SlidingWindowFeature(weightings, window))
        output = self.reconstruct(weightings, count, frames, max_speakers, uri, hook)
        found = len(output.speaker_diarization.labels())
        if found < min_speakers:
            warnings.warn(
                f"{uri}: {min_speakers} speakers were asked for, but the Weighter tells only "
                f"{found} apart in this file",
                stacklevel=2,
            )
        return self._answer(output)

    def _answer(self, output: WeighterOutput) -> WeighterOutput | Annotation:
        return output.speaker_diarization if self.legacy or self.training else output

    def _nobody(self, uri: str | None) -> WeighterOutput:
        return WeighterOutput(
            speaker_diarization=Annotation(uri=uri),
            exclusive_speaker_diarization=Annotation(uri=uri),
            speaker_embeddings=np.zeros((0, self._weighter.hparams.dimension)),
        )

    def compute(
        self, file: AudioFile, hook: Callable
    ) -> tuple[SlidingWindowFeature, torch.Tensor]:
        """Everything that does not depend on hyper-parameters of the weightings.

        Returns
        -------
        count : (frames of the segmentation, 1) SlidingWindowFeature
        frames : (T, C) tensor
            Frames of the backbone, on the CPU.
        """
        powerset = self._segmentation.model.specifications.powerset
        threshold = None if powerset else self.segmentation.threshold
        if self.training and file.get(CACHE, {}).get("threshold", -1) == threshold:
            return file[CACHE]["count"], file[CACHE]["frames"]

        sample_rate = self._weighter.hparams.sample_rate
        waveform = load_waveform(file, sample_rate=sample_rate)  # (1, samples)
        mono = {"waveform": waveform, "sample_rate": sample_rate, "uri": file.get("uri")}
        segmentations, count = count_speakers(
            self._segmentation, mono, threshold=threshold, hook=partial(hook, "segmentation", None)
        )
        hook("segmentation", segmentations)
        hook("speaker_counting", count)

        frames = window_frames(
            self._weighter.backbone,
            waveform,
            batch_size=self.embedding_batch_size,
            progress=lambda done, total: hook("embeddings", None, completed=done, total=total),
        )
        hook("embeddings", frames)
        if self.training:
            file[CACHE] = {"threshold": threshold, "count": count, "frames": frames}
        return count, frames

    @torch.inference_mode()
    def weigh(self, frames: torch.Tensor, speech: np.ndarray) -> Slots:
        """Weigh the frames of a file, in windows that are not longer than `window`.

        Parameters
        ----------
        frames : (T, C) tensor
        speech : (T,) array
            Number of speakers in each frame.

        Returns
        -------
        slots : Slots
        """
        frame_step = self._weighter.frames.step
        weighted = [
            self._weigh_part(frames[start:stop], speech[start:stop])
            for start, stop in self._windows(len(frames))
        ]
        weightings = [w.weightings[0].cpu().numpy() for w in weighted]  # (t, N) each
        return Slots(
            weightings=weightings,
            embeddings=torch.cat([w.embeddings[0] for w in weighted]).cpu().numpy(),
            confidence=torch.cat([w.confidence[0] for w in weighted]).cpu().numpy(),
            seconds=np.concatenate([w.sum(axis=0) for w in weightings]) * frame_step,
        )

    def _windows(self, num_frames: int) -> list[tuple[int, int]]:
        """First frame and end of windows of equal length, none longer than `window`."""
        seconds = num_frames * self._weighter.frames.step
        num_windows = max(1, int(np.ceil(seconds / self.window)))
        bounds = np.linspace(0, num_frames, num_windows + 1).round().astype(int)
        return list(itertools.pairwise(bounds.tolist()))

    def _weigh_part(
        self, frames: torch.Tensor, speech: np.ndarray, start: np.ndarray | None = None
    ) -> Weighted:
        device = self._weighter.device
        return self._weighter.weigh(
            frames[None].to(device),
            count=torch.from_numpy(speech[None]).to(device),
            start=None if start is None else torch.from_numpy(start[None]).to(device),
        )

    @torch.inference_mode()
    def improve(
        self, weightings: np.ndarray, frames: torch.Tensor, speech: np.ndarray
    ) -> np.ndarray:
        """Weigh once more, from the speakers that slots were linked into.

        Slots that were one speaker have shared windows that no other slot explained better; now
        that there is one slot a speaker, they can be placed again. A speaker is never lost by it.

        Parameters
        ----------
        weightings : (T, K) array
        frames : (T, C) tensor
        speech : (T,) array

        Returns
        -------
        weightings : (T, K) array
        """
        num_speakers = weightings.shape[1]
        if num_speakers == 1 or not self._weighter.encoder.restarts:
            return weightings
        improved = np.concatenate(
            [
                self._weigh_part(frames[start:stop], speech[start:stop], weightings[start:stop])
                .weightings[0]
                .cpu()
                .numpy()
                for start, stop in self._windows(len(frames))
            ]
        )
        heard = np.unique(improved[speech > 0].argmax(axis=1))
        return improved if len(heard) == num_speakers else weightings

    def link(
        self, slots: Slots, min_speakers: int = 1, max_speakers: float = np.inf
    ) -> np.ndarray:
        """Turn slots into speakers.

        Parameters
        ----------
        slots : Slots
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers; they go before the hyper-parameters.

        Returns
        -------
        weightings : (T, K) array
            One column a speaker.
        """
        return slots.speakers(
            **dict(self.weighter),
            min_speakers=min_speakers,
            max_speakers=max_speakers,
            least_seconds=self._weighter.frames.step,
        )

    def reconstruct(
        self,
        weightings: np.ndarray,
        count: SlidingWindowFeature,
        frames: torch.Tensor,
        max_speakers: float,
        uri: str | None,
        hook: Callable,
    ) -> WeighterOutput:
        """Give frames to speakers and name them.

        Parameters
        ----------
        weightings : (T, K) array
        count : (T', 1) SlidingWindowFeature
        frames : (T, C) tensor
        max_speakers : int
        uri : str or None
        hook : callable

        Returns
        -------
        output : WeighterOutput
        """
        counted = np.minimum(count.data[:, 0], max_speakers).astype(int)  # (T',)
        columns = SlidingWindowFeature(weightings, self._weighter.frames)
        opinion = sample_nearest(columns, count.sliding_window, len(counted))  # (T', K)

        active = top_speakers(opinion, counted)
        discrete = SlidingWindowFeature(active.astype(np.float32), count.sliding_window)
        hook("discrete_diarization", discrete)
        exclusive = SlidingWindowFeature(
            top_speakers(opinion, np.minimum(counted, 1)).astype(np.float32), count.sliding_window
        )
        diarization = self._annotation(discrete, uri)
        # speakers who are given no time at all get no name
        spoken = sorted(diarization.labels())
        if not spoken:
            return self._nobody(uri)
        names = dict(zip(spoken, speaker_names(len(spoken)), strict=True))

        weightings = weightings[:, spoken]
        x = torch.from_numpy(weightings)[None].to(self._weighter.device)
        with torch.inference_mode():
            embeddings = self._weighter.embed(frames[None].to(x.device), x)[0].cpu().numpy()
            c = confidence(x)[0].cpu().numpy()
        hook("speaker_embeddings", embeddings)
        seconds = weightings.sum(axis=0) * self._weighter.frames.step
        return WeighterOutput(
            speaker_diarization=diarization.rename_labels(mapping=names),
            exclusive_speaker_diarization=self._annotation(exclusive, uri).rename_labels(
                mapping=names
            ),
            speaker_embeddings=embeddings,
            confidence=dict(zip(names.values(), c.tolist(), strict=True)),
            seconds=dict(zip(names.values(), seconds.tolist(), strict=True)),
            weightings=SlidingWindowFeature(weightings, self._weighter.frames),
        )

    def _annotation(self, discrete: SlidingWindowFeature, uri: str | None) -> Annotation:
        """Turns, labelled by column."""
        annotation = self.to_annotation(
            discrete, min_duration_off=self.segmentation.min_duration_off
        )
        annotation.uri = uri
        return annotation

    def get_metric(self) -> GreedyDiarizationErrorRate:
        """Diarization error rate that the optimizer minimizes."""
        return GreedyDiarizationErrorRate(**self.der_variant)
