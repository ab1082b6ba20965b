"""WavLM, wav2vec 2.0, HuBERT and their kin from torchaudio as frame encoders."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchaudio
from pyannote.audio.utils.receptive_field import (
    multi_conv_num_frames,
    multi_conv_receptive_field_size,
)
from torch import Tensor, nn
from torchaudio.pipelines import Wav2Vec2Bundle

from pyannote_weighter.models.backbones.base import Backbone
from pyannote_weighter.options import is_whole

BUNDLES = {
    name.lower(): bundle
    for name, bundle in vars(torchaudio.pipelines).items()
    if type(bundle) is Wav2Vec2Bundle  # not its subclasses, which end in a speech recogniser
}
"""Pretrained models by name: `wavlm_base`, `wavlm_base_plus`, `wavlm_large`, `hubert_base`, ..."""

_BASE = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": None,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 768,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16,
    "encoder_num_layers": 12,
    "encoder_num_heads": 12,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 3072,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.1,
    "aux_num_out": None,
}
ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], dict]] = {
    "wavlm": (
        torchaudio.models.wavlm_model,
        _BASE | {"encoder_num_buckets": 320, "encoder_max_distance": 800},
    ),
    "wav2vec2": (torchaudio.models.wav2vec2_model, _BASE),
}
"""Architectures by name, with the options of the published "base" size."""


class TorchaudioBackbone(Backbone):
    """Frames of one transformer layer, 50 per second; embeddings are their weighted means.

    Parameters
    ----------
    model : torchaudio.models.Wav2Vec2Model
    layer : int, optional
        Layer whose output the frames are, counted from 1. Negative ones count from the last.
        Defaults to the last (-1). Layers above it are not computed.
    normalize_waveform : bool, optional
        Bring every waveform to zero mean and unit variance first, as some models expect.
    sample_rate : int, optional
        In Hz.
    reloadable : bool, optional
        See `Backbone`.

    Raises
    ------
    ValueError
        If the model has no such layer.
    """

    deviation = False

    def __init__(
        self,
        model: nn.Module,
        layer: int = -1,
        normalize_waveform: bool = False,
        sample_rate: int = 16000,
        reloadable: bool = True,
    ):
        super().__init__()
        num_layers = len(model.encoder.transformer.layers)
        self.layer = layer
        if is_whole(layer) and layer <= 0:
            self.layer = num_layers + 1 + layer
        if not is_whole(layer) or not 1 <= self.layer <= num_layers:
            raise ValueError(
                f"no layer {layer}: choose from 1 to {num_layers}, or from -{num_layers} to -1"
            )
        self.model = model.eval()
        self.normalize_waveform = normalize_waveform
        self.sample_rate = int(sample_rate)
        self.reloadable = reloadable

        layers = self.model.feature_extractor.conv_layers
        self._convolutions = {
            "kernel_size": [layer.kernel_size for layer in layers],
            "stride": [layer.stride for layer in layers],
            "padding": [0] * len(layers),
            "dilation": [1] * len(layers),
        }
        self.receptive_field_size = multi_conv_receptive_field_size(1, **self._convolutions)
        two_frames = multi_conv_receptive_field_size(2, **self._convolutions)
        self.frame_step = two_frames - self.receptive_field_size
        self.frame_dimension = self.model.encoder.feature_projection.projection.out_features
        self.dimension = self.frame_dimension
        self.freeze()

    @classmethod
    def from_bundle(cls, name: str, layer: int = -1) -> "TorchaudioBackbone":
        """Load a pretrained model, downloading it if torch's cache has it not yet.

        Parameters
        ----------
        name : str
            One of `BUNDLES`.
        layer : int, optional
            See the class.

        Raises
        ------
        OSError
            If the weights are neither in the cache nor to be had from the network.
        """
        bundle = BUNDLES[name]
        try:
            model = bundle.get_model()
        except OSError as error:  # URLError and HTTPError are such
            raise OSError(
                f"cannot download the weights of {name}: {error}. Connect to the network once, "
                f"or copy them into {torch.hub.get_dir()}/checkpoints from a machine that has "
                'them. A config such as {"name": "wavlm", "model": {...}} needs no download'
            ) from error
        # torchaudio's own wrapper normalises over the whole batch: normalise each file here
        normalize_waveform = hasattr(model, "normalize_waveform")
        if normalize_waveform:
            model = model.model
        return cls(model, layer, normalize_waveform, bundle.sample_rate)

    @classmethod
    def from_config(
        cls,
        architecture: str,
        model: dict | None = None,
        layer: int = -1,
        normalize_waveform: bool = False,
    ) -> "TorchaudioBackbone":
        """Make a model with random weights; nothing is downloaded.

        Parameters
        ----------
        architecture : str
            One of `ARCHITECTURES`.
        model : dict, optional
            Options of `torchaudio.models.wavlm_model` or `wav2vec2_model` that differ from those
            of the published "base" size.
        layer, normalize_waveform
            See the class.
        """
        make, options = ARCHITECTURES[architecture]
        unknown = set(model or {}) - set(options)
        if unknown:
            raise ValueError(
                f"unknown options of {architecture}: {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(options)}"
            )
        network = make(**(options | (model or {})))
        return cls(network, layer, normalize_waveform, reloadable=False)

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples."""
        return max(0, multi_conv_num_frames(num_samples, **self._convolutions))

    def compute_frames(self, waveforms: Tensor) -> Tensor:
        """(batch, 1, samples) to (batch, frames, frame_dimension)."""
        waveforms = waveforms.squeeze(1)
        if self.normalize_waveform:
            waveforms = F.layer_norm(waveforms, waveforms.shape[-1:])
        layers, _ = self.model.extract_features(waveforms, num_layers=self.layer)
        return layers[-1]
