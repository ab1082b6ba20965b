"""WeSpeaker's ResNet34, through pyannote's own class, as a frame encoder."""

import inspect
from pathlib import Path

import torch
from pyannote.audio import Model
from pyannote.audio.models.embedding.wespeaker import (
    BaseWeSpeakerResNet,
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
)
from torch import Tensor

from pyannote_weighter.models.backbones.base import Backbone
from pyannote_weighter.weighting import full_precision

HUB_NAME = "pyannote/wespeaker-voxceleb-resnet34-LM"
ARCHITECTURES: dict[str, type[BaseWeSpeakerResNet]] = {
    "resnet34": WeSpeakerResNet34,
    "resnet152": WeSpeakerResNet152,
    "resnet221": WeSpeakerResNet221,
    "resnet293": WeSpeakerResNet293,
}


class WeSpeakerBackbone(Backbone):
    """WeSpeaker frames: 2560 channels, 12.5 per second; embeddings of 256 dimensions.

    Parameters
    ----------
    checkpoint : str or Path, optional
        Path or Hub name of a pyannote checkpoint of a WeSpeaker ResNet. Defaults to the one that
        pyannote uses, which is downloaded. None: random weights, nothing is downloaded.
    architecture : {"resnet34", "resnet152", "resnet221", "resnet293"}, optional
        Where the checkpoint is None, which says it itself otherwise.
    model : dict, optional
        Options of pyannote's class that differ from its own, such as `num_mel_bins`, where the
        checkpoint is None.

    Raises
    ------
    OSError
        If the checkpoint cannot be had.
    ValueError
        If the checkpoint is not a WeSpeaker ResNet, or there is no such architecture.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = HUB_NAME,
        architecture: str = "resnet34",
        model: dict | None = None,
    ):
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"unknown architecture {architecture!r}: choose from {', '.join(ARCHITECTURES)}"
            )
        if checkpoint is None:
            self.model = ARCHITECTURES[architecture](**(model or {})).eval()
        else:
            self.model = _load(checkpoint)
        self.reloadable = checkpoint == HUB_NAME  # a file may be moved or replaced
        self.config = None if checkpoint is None else _config(self.model)
        self.sample_rate = self.model.hparams.sample_rate
        self.dimension = self.model.dimension
        self.frame_dimension = self.model.resnet.seg_1.in_features // 2
        fbank_shift = int(self.sample_rate * self.model.hparams.frame_shift * 0.001)
        fbank_window = int(self.sample_rate * self.model.hparams.frame_length * 0.001)
        self.frame_step = 8 * fbank_shift
        # samples behind the 1 + 7 filter bank frames of one step, so that windows tile
        self.receptive_field_size = fbank_window
        self.freeze()

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples."""
        return max(0, self.model.num_frames(num_samples))

    def compute_frames(self, waveforms: Tensor) -> Tensor:
        """(batch, 1, samples) to (batch, frames, 2560)."""
        frames = self.model.forward_frames(waveforms)
        # (batch, 256, 10, frames)
        return frames.flatten(1, 2).transpose(1, 2)

    def embed_statistics(self, statistics: Tensor) -> Tensor:
        """(batch, items, 5120) to (batch, items, 256)."""
        resnet = self.model.resnet
        with torch.autocast(statistics.device.type, enabled=False):
            embeddings = resnet.seg_1(full_precision(statistics))
            if not resnet.two_emb_layer:
                return embeddings
            normalised = resnet.seg_bn_1(embeddings.relu().transpose(1, 2)).transpose(1, 2)
            return resnet.seg_2(normalised)


def _load(checkpoint: str | Path) -> BaseWeSpeakerResNet:
    cure = "check the path, or the network and the Hub token; `checkpoint: null` needs none"
    try:
        model = Model.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:  # the Hub's own error for a bad name is a ValueError
        raise OSError(f"cannot load WeSpeaker from {checkpoint}: {error}; {cure}") from error
    if model is None:
        raise OSError(f"cannot load WeSpeaker from {checkpoint}: {cure}")
    if not isinstance(model, BaseWeSpeakerResNet):
        raise ValueError(
            f"{checkpoint} is a {type(model).__name__}, not a WeSpeaker ResNet: "
            "choose another checkpoint"
        )
    return model.eval()


def _config(model: BaseWeSpeakerResNet) -> dict | None:
    for architecture, made in ARCHITECTURES.items():
        if type(model) is made:
            named = set(inspect.signature(made).parameters)
            options = {key: value for key, value in model.hparams.items() if key in named}
            config = {"architecture": architecture, "model": options}
            return {"name": "wespeaker", "checkpoint": None, **config}
    return None
