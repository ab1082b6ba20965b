"""Diarization in which learned weighting takes the place of clustering."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property, partial
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from pyannote.audio import Model, Pipeline
from pyannote.audio.core.io import AudioFile
from pyannote.audio.pipelines.utils.diarization import SpeakerDiarizationMixin
from pyannote.core import Annotation, SlidingWindowFeature
from pyannote.metrics.diarization import GreedyDiarizationErrorRate
from pyannote.pipeline.parameter import ParamDict, Uniform

from pyannote_weighter.likeness import Likeness, LocalSpeakers, local_voices
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import stream_frames
from pyannote_weighter.models.checkpoint import fingerprint
from pyannote_weighter.options import FINITE, SWITCH, Rule, check_options, is_whole
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.attribution import Attribution
from pyannote_weighter.pipelines.hyperparameters import BOUNDS, USUAL, check_parameters
from pyannote_weighter.pipelines.spill import Rows
from pyannote_weighter.pipelines.voices import LEAST, SECONDS, embed_alone
from pyannote_weighter.presence import Presence
from pyannote_weighter.recording import open_recording
from pyannote_weighter.segmentation import (
    count_speakers,
    get_segmentation,
    load_model,
    model_name,
    segmentation_inference,
    silence_after,
)

CACHE = "training_cache/weighter"
BATCH_SIZES = {"cpu": (8, 1), "gpu": (64, 8)}
"""Windows of the segmentation, and blocks of frames, that are computed at once: on a CPU what
stays in its caches, on a GPU (about 1 GB) what keeps it busy; twice as many are hardly faster."""
_SIZE = (
    "a whole number of at least 1, or None for that of the device",
    lambda value: value is None or (is_whole(value) and value >= 1),
)
ALLOWED: dict[str, Rule] = {
    "segmentation_step": ("a share above 0, at most 1", lambda value: 0 < value <= 1),
    "window": ("seconds, at least 1, or infinity", lambda value: value >= 1),
    "segmentation_batch_size": _SIZE,
    "embedding_batch_size": _SIZE,
    "embedding_duration": (
        f"seconds, or 0; an embedding takes at least {LEAST:g}",
        lambda value: value is None or value == 0 or LEAST <= value < np.inf,
    ),
    "cosine_offset": FINITE,
    "half": SWITCH,
    "legacy": SWITCH,
}
"""What numbers and switches among the options of the pipeline may be."""
SPEAKERS: Rule = "a whole number", lambda v: isinstance(v, Real) and v is not True and v == v // 1
"""What numbers of speakers may be, and be at least 1; the largest may be infinite."""
MOST = 2**31 - 1  # speakers; more are as many


def _with_coefficients(
    kind: type[Likeness | Presence], name: str, offset: float, coefficients: dict | None
) -> Likeness | Presence:
    """Likeness or presence; the option of that name has the coefficients that are not usual."""
    known = [field.name for field in fields(kind)]
    for key in coefficients or {}:
        if key not in known:
            raise ValueError(f"{name} has no coefficient {key!r}: choose from {', '.join(known)}")
    return kind(**{"offset": offset} | (coefficients or {}))


class WeighterDiarization(SpeakerDiarizationMixin, Pipeline):
    """Speaker diarization by learned weighting.

    The segmentation says where speech is and how many speak; frames of the backbone are computed
    once; the Weighter gives them to slots; slots that are one person, by their embeddings and by
    the local speakers of the segmentation, become speakers; each frame goes to its most
    probable speakers, as many as the segmentation counts there.

    Parameters
    ----------
    segmentation : Model, str, dict or Path, optional
        "segmentation-3.0" is the one that the extra `pretrained` installs.
        Else see `pyannote.audio.pipelines.utils.get_model`.
    weighter : Weighter, str, dict or Path
        Trained Weighter. See `pyannote.audio.pipelines.utils.get_model`.
    segmentation_step : float, optional
        Step between windows of the segmentation, as a share of their duration.
    window : float, optional
        Longest stretch that the Weighter sees at once, in seconds: at least one. Longer files are
        cut, and the slots of their windows are linked. Infinity (`.inf` in YAML) never cuts.
    segmentation_batch_size, embedding_batch_size : int, optional
        They change speed and memory. On a CPU the first one does not change the result, and the
        second one rounds embeddings and weightings otherwise. Defaults to `BATCH_SIZES` of the
        device.
    half : bool, optional
        Keep frames in half precision between the steps (default).
    embedding_duration : float, optional
        Seconds of each speaker, talking alone, that the backbone is given once more for the
        embedding of the speaker: 0.3 at least. With 0, and of who talks alone for less than 0.3 s,
        it is pooled from the frames of the recording. Defaults to 0 with a backbone that hears
        voices apart (CAM++), and to 10 with others, whose frames hold the people around as well.
        The diarization does not depend on it.
    legacy : bool, optional
        Return the annotation alone.
    likeness, presence : dict, optional
        Coefficients that are not those of `pyannote_weighter.likeness.Likeness`, whether two slots
        are one person, and of `pyannote_weighter.presence.Presence`, whether they are one at all.
    cosine_offset : float, optional
        How much higher cosines of this Weighter are than those that the coefficients were fitted
        to, see `pyannote_weighter.impostors.cosine_offset`. Training writes it; coefficients that
        were fitted to this very Weighter go with 0, the default.
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
        Slots with less confidence are no speakers; less is asked for at first, where slots of
        windows with much speech are merged.
    weighter.merge : float
        Slots that are one person with at least this probability are one speaker.
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
        segmentation: Model | str | dict | Path = "segmentation-3.0",
        weighter: Weighter | str | dict | Path = "",
        segmentation_step: float = 0.25,
        window: float = 600.0,
        segmentation_batch_size: int | None = None,
        embedding_batch_size: int | None = None,
        half: bool = True,
        embedding_duration: float | None = None,
        legacy: bool = False,
        likeness: dict | None = None,
        presence: dict | None = None,
        cosine_offset: float = 0.0,
        der_variant: dict | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        super().__init__()
        if not weighter:
            raise ValueError("weighter is missing: give a trained Weighter, or a path to one")
        check_options(
            ALLOWED,
            segmentation_step=segmentation_step,
            window=window,
            segmentation_batch_size=segmentation_batch_size,
            embedding_batch_size=embedding_batch_size,
            embedding_duration=embedding_duration,
            cosine_offset=cosine_offset,
            half=half,
            legacy=legacy,
        )
        self._token = object()  # no other pipeline has it, copies neither: see `compute`
        self.legacy = legacy
        self.window = window
        self._batch_sizes = segmentation_batch_size, embedding_batch_size
        self.half = half
        self.likeness = _with_coefficients(Likeness, "likeness", cosine_offset, likeness)
        self.presence = _with_coefficients(Presence, "presence", cosine_offset, presence)
        self.der_variant = der_variant or {"collar": 0.0, "skip_overlap": False}

        model = load_model(weighter, token=token, cache_dir=cache_dir)
        if not isinstance(model, Weighter):
            name = "weighter" if isinstance(weighter, Model) else model_name(weighter)
            raise ValueError(f"{name} is a {type(model).__name__}, not a Weighter")
        self._weighter = model
        if embedding_duration is None:
            embedding_duration = 0.0 if model.backbone.hears_voices else SECONDS
        self.embedding_duration = embedding_duration
        self._segmentation = segmentation_inference(
            get_segmentation(segmentation, token=token, cache_dir=cache_dir),
            step=segmentation_step,
        )
        self._choose_batch_sizes()
        for part, usual in self.default_parameters().items():
            setattr(self, part, ParamDict(**{k: Uniform(*BOUNDS[part][k]) for k in usual}))

    def to(self, device: torch.device) -> WeighterDiarization:
        """Move all models to a device, and choose batch sizes that suit it.

        Those that were set since they were chosen last stay.
        """
        chosen = self._chosen == (self._segmentation.batch_size, self.embedding_batch_size)
        before = self._weighter.device
        try:
            super().to(device)
        except Exception:  # models note the device before their weights move, or do not
            super().to(before)
            raise
        if chosen:
            self._choose_batch_sizes()
        return self

    def _choose_batch_sizes(self) -> None:
        """Those that were asked for, else those of the device."""
        usual = BATCH_SIZES["cpu" if self._weighter.device.type == "cpu" else "gpu"]
        asked = self._batch_sizes
        self._chosen = tuple(u if a is None else a for u, a in zip(usual, asked, strict=True))
        self._segmentation.batch_size, self.embedding_batch_size = self._chosen

    def default_parameters(self) -> dict:
        """Parameters that recipes/linking chose on development conversations."""
        usual = {part: dict(values) for part, values in USUAL.items()}
        if not self._segmentation.model.specifications.powerset:
            usual["segmentation"]["threshold"] = 0.5
        return usual

    def instantiate(self, params: dict) -> WeighterDiarization:
        """Set hyper-parameters; those that have no value yet get that of `default_parameters`.

        Raises
        ------
        ValueError
            See `check_parameters`.
        """
        check_parameters(params, self.default_parameters())
        super().instantiate(params)
        usual = self._flatten(self.default_parameters()) | self._flattened_parameters(frozen=True)
        known = self._flattened_parameters(instantiated=True)
        missing = {name: value for name, value in usual.items() if name not in known}
        return super().instantiate(self._unflatten(missing))

    def freeze(self, params: dict) -> WeighterDiarization:
        """Fix hyper-parameters, within the same bounds."""
        check_parameters(params, self.default_parameters())
        return super().freeze(params)

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
            else a warning says how many there are. It goes before the bounds.
        min_speakers, max_speakers : int, optional
            Bounds on the number of speakers. Where the answer without them is within them, they
            change nothing.
        hook : callable, optional
            Called as upstream does after the steps "segmentation", "speaker_counting",
            "embeddings" (frames of the backbone), "slots" (N weightings), "weightings" (of the
            speakers; both are of steps of the Weighter), "discrete_diarization" and
            "speaker_embeddings".

        Returns
        -------
        output : WeighterOutput, or Annotation when `legacy` or in training

        Raises
        ------
        FileNotFoundError, ValueError
            From reading the file; from bounds that are no whole numbers of at least 1, or
            contradict each other.
        """
        if kwargs:
            warnings.warn(f"Ignoring unexpected options: {', '.join(kwargs)}", stacklevel=2)
        listener, hook = hook, self.setup_hook(file, hook=hook)
        bounds = {"num": num_speakers, "min": min_speakers, "max": max_speakers}
        bounds = {f"{name}_speakers": bound for name, bound in bounds.items() if bound is not None}
        if bounds.get("max_speakers") == np.inf:
            del bounds["max_speakers"]
        check_options(dict.fromkeys(bounds, SPEAKERS), **bounds)
        for name, bound in bounds.items():
            if bound < 1:
                raise ValueError(f"{name} must be at least 1, got {bound}")
        asked = num_speakers is not None or min_speakers is not None
        _, min_speakers, max_speakers = self.set_num_speakers(
            **{name: min(int(bound), MOST) for name, bound in bounds.items()}
        )
        min_speakers = min_speakers if asked else None
        count, frames, local = self.compute(file, hook)
        uri = file.get("uri") if isinstance(file, Mapping) else None
        annotation_only = self.legacy or self.training  # nobody will see the embeddings
        listen = None
        if self.embedding_duration > 0 and not annotation_only:
            listen = partial(embed_alone, self._weighter, file, seconds=self.embedding_duration)
        told = None if listener is None else hook  # artifacts that nobody sees are not made
        output = self.assign(frames, count, local, min_speakers, max_speakers, uri, told, listen)
        if annotation_only:
            return output.speaker_diarization
        pooled = "voices" if self._weighter.backbone.hears_voices else "pooled"
        output.embedding_id = f"{self._fingerprint}-{pooled if listen is None else 'alone'}"
        return output

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._weighter)

    @property
    def attribution(self) -> Attribution:
        """What gives frames to speakers, with the present hyper-parameters."""
        return Attribution(
            weighter=self._weighter,
            parameters=dict(self.weighter),
            likeness=self.likeness,
            presence=self.presence,
            window=self.window,
            half=self.half,
            min_duration_off=self.segmentation.min_duration_off,
        )

    def assign(
        self,
        frames: torch.Tensor | Rows,
        count: SlidingWindowFeature,
        local: LocalSpeakers | None = None,
        min_speakers: int | None = None,
        max_speakers: float = np.inf,
        uri: str | None = None,
        hook: Callable | None = None,
        listen: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> WeighterOutput:
        """Give frames to speakers: everything that comes after `compute`.

        Parameters
        ----------
        frames, count, local, min_speakers, max_speakers, uri, hook, listen
            See `Attribution.__call__`. Without `min_speakers` there may be nobody; with it, a
            warning says if there are fewer.

        Returns
        -------
        output : WeighterOutput
        """
        output = self.attribution(
            frames, count, local, min_speakers or 1, max_speakers, uri, hook, listen
        )
        found = len(output.confidence)
        if min_speakers is not None and found < min_speakers:
            asked = "1 speaker was" if min_speakers == 1 else f"{min_speakers} speakers were"
            told = f"the Weighter tells only {found} apart" if found else "nobody is heard"
            warnings.warn(f"{uri}: {asked} asked for, but {told} in this file", stacklevel=3)
        return output

    def compute(
        self, file: AudioFile, hook: Callable
    ) -> tuple[SlidingWindowFeature, Rows, LocalSpeakers]:
        """Everything that does not depend on hyper-parameters of the weightings.

        In training it is kept in the file, where it is a mapping, for this pipeline alone.

        Returns
        -------
        count : (frames of the segmentation, 1) SlidingWindowFeature
        frames : (T, C) Rows
            Frames of the backbone.
        local : LocalSpeakers
        """
        powerset = self._segmentation.model.specifications.powerset
        threshold = None if powerset else self.segmentation.threshold
        keeps = self.training and isinstance(file, Mapping)
        if keeps:
            settings = (
                *(threshold, self._segmentation.step, self.half),
                *(file.get("sample_rate"), file.get("channel")),
            )
            sources = self._token, file.get("audio"), file.get("waveform")
            known = file.get(CACHE)
            if (
                known is not None
                and known["settings"] == settings
                and all(map(operator.is_, known["sources"], sources))
            ):
                return known["computed"]

        mean, count, local = count_speakers(
            self._segmentation, file, threshold=threshold, hook=partial(hook, "segmentation", None)
        )
        hook("segmentation", mean)
        hook("speaker_counting", count)

        backbone = self._weighter.backbone
        frames = Rows(backbone.frame_dimension, self.half)
        with open_recording(file, self._weighter.hparams.sample_rate) as recording:
            silence_after(count, recording.num_samples / self._weighter.hparams.sample_rate)
            num_frames = backbone.num_frames(recording.num_samples)
            for some in stream_frames(
                backbone,
                recording.read,
                recording.num_samples,
                batch_size=self.embedding_batch_size,
                progress=lambda done, total: hook("embeddings", None, completed=done, total=total),
                voices=local_voices(local, self._weighter.frames, num_frames),
            ):
                frames.append(some)
        hook("embeddings", frames)
        computed = count, frames, local
        if keeps:
            file[CACHE] = {"settings": settings, "sources": sources, "computed": computed}
        return computed

    def get_metric(self) -> GreedyDiarizationErrorRate:
        """Diarization error rate that the optimizer minimizes."""
        return GreedyDiarizationErrorRate(**self.der_variant)
