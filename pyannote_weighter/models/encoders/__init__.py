"""Encoders: from frames to weightings."""

from collections.abc import Mapping

from pyannote_weighter.models.encoders.base import Encoded, Encoder, Pooling
from pyannote_weighter.models.encoders.refine import SlotRefiner
from pyannote_weighter.models.encoders.wavlm import WavLMEncoder
from pyannote_weighter.models.encoders.windowed import RefineEncoder

__all__ = [
    "ENCODERS",
    "Encoded",
    "Encoder",
    "Pooling",
    "RefineEncoder",
    "SlotRefiner",
    "WavLMEncoder",
    "get_encoder",
]

ENCODERS: dict[str, type[Encoder]] = {"refine": RefineEncoder, "wavlm": WavLMEncoder}


def get_encoder(
    encoder: str | dict, backbone, num_slots: int, second_head: bool = False
) -> Encoder:
    """Make an encoder by name.

    Parameters
    ----------
    encoder : str or dict
        Name, or `{"name": ..., **options}`.
    backbone : Backbone
        Backbone whose frames it will read.
    num_slots : int
    second_head : bool, optional
        Whether to give a second head as well, for the confidence.

    Returns
    -------
    encoder : Encoder

    Raises
    ------
    ValueError
        If there is no such encoder, or an option is none of its own.
    """
    options = dict(encoder) if isinstance(encoder, Mapping) else {"name": encoder}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: choose from {', '.join(ENCODERS)}")
    try:
        return ENCODERS[name](
            backbone=backbone, num_slots=num_slots, second_head=second_head, **options
        )
    except TypeError as error:
        raise ValueError(f"encoder {name!r} with options {options}: {error}") from error
