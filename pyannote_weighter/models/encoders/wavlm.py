"""The published encoder: convolutions, a WavLM transformer, a sigmoid, values repeated."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torchaudio.models.wav2vec2.components import _get_wavlm_encoder

from pyannote_weighter.models.backbones.base import Backbone
from pyannote_weighter.models.encoders.base import Encoded, Encoder, Pooling
from pyannote_weighter.options import COUNT, COUNT_OR_NONE, Rule, check_options, is_whole
from pyannote_weighter.weighting import Summary, full_precision

CHANNEL_FACTOR = 12
TIME_FACTOR = 15
_SHARE: Rule = "a share from 0 to 1", lambda value: 0 <= value <= 1
ALLOWED: dict[str, Rule] = {
    "num_slots": COUNT,
    "dimension": COUNT,
    "num_layers": COUNT,
    "num_heads": COUNT,
    "position_kernel": COUNT,
    "position_groups": COUNT,
    "feed_forward": COUNT_OR_NONE,
    "num_buckets": ("a whole number of at least 4", lambda value: is_whole(value) and value >= 4),
    "max_distance": COUNT,
    "dropout": _SHARE,
    "layer_drop": _SHARE,
}
"""What options of the encoder may be."""


class WavLMEncoder(Encoder):
    """Frames to weightings, as published.

    Two convolutions take channels down by 12 and time down by 15 (768 channels at 50 frames per
    second become 64 at 3.3); torchaudio's `FeatureProjection` and WavLM transformer; a linear
    layer to the slots and a sigmoid; each value repeated 15 times.

    Memory is quadratic in time: one minute is 200 steps of the transformer.

    Parameters
    ----------
    backbone : Backbone
        Tells C, the channels of a frame; it is not kept.
    num_slots : int
        N.
    dimension : int, optional
        Of the transformer. Defaults to 128.
    num_layers, num_heads : int, optional
        Of the transformer. Default to 4 and 4; `num_heads` divides `dimension`.
    feed_forward : int, optional
        Inner dimension of the transformer's feed-forward layers. Defaults to 4 * dimension.
    num_buckets, max_distance : int, optional
        Of the relative position bias, in steps. Default to 320 and 800, as in WavLM.
    position_kernel, position_groups : int, optional
        Of the convolutional position embedding. Default to 128 and 16, as in WavLM; the latter
        divides `dimension`.
    dropout, layer_drop : float, optional
        Default to 0.1 and 0.
    second_head : bool, optional
        See `Encoder`. A second linear layer and sigmoid. Defaults to False.

    Raises
    ------
    ValueError
        If an option is none that it may be.

    Reference
    ---------
    Chen et al. "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech
    Processing". 2022. https://arxiv.org/abs/2110.13900
    """

    step = TIME_FACTOR

    def __init__(
        self,
        backbone: Backbone,
        num_slots: int,
        dimension: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        feed_forward: int | None = None,
        num_buckets: int = 320,
        max_distance: int = 800,
        position_kernel: int = 128,
        position_groups: int = 16,
        dropout: float = 0.1,
        layer_drop: float = 0.0,
        second_head: bool = False,
    ):
        super().__init__()
        check_options(
            ALLOWED,
            num_slots=num_slots,
            dimension=dimension,
            num_layers=num_layers,
            num_heads=num_heads,
            position_kernel=position_kernel,
            position_groups=position_groups,
            feed_forward=feed_forward,
            num_buckets=num_buckets,
            max_distance=max_distance,
            dropout=dropout,
            layer_drop=layer_drop,
        )
        for name, divisor in {"num_heads": num_heads, "position_groups": position_groups}.items():
            if dimension % divisor:
                raise ValueError(
                    f"{name} is {divisor}: choose one that divides the dimension, {dimension}"
                )
        in_channels = backbone.frame_dimension
        reduced = max(1, round(in_channels / CHANNEL_FACTOR))
        middle = max(1, round((in_channels * reduced) ** 0.5))
        # strides 3 and 5: kernels overlap by about two, and padding centres them on their step
        self.reduce = nn.ModuleList(
            [
                nn.Conv1d(in_channels, middle, kernel_size=7, stride=3, padding=2),
                nn.Conv1d(middle, reduced, kernel_size=9, stride=5, padding=2),
            ]
        )
        self.encoder = _get_wavlm_encoder(
            in_features=reduced,
            embed_dim=dimension,
            dropout_input=dropout,
            pos_conv_kernel=position_kernel,
            pos_conv_groups=position_groups,
            num_layers=num_layers,
            num_heads=num_heads,
            num_buckets=num_buckets,
            max_distance=max_distance,
            attention_dropout=dropout,
            ff_interm_features=feed_forward or 4 * dimension,
            ff_interm_dropout=dropout,
            dropout=dropout,
            layer_norm_first=False,
            layer_drop=layer_drop,
        )
        self.classify = nn.Linear(dimension, num_slots)
        self.second = nn.Linear(dimension, num_slots) if second_head else None

    def forward(
        self,
        frames: Tensor,
        summary: Summary,
        pooling: Pooling,
        count=None,
        mask=None,
        start=None,
        estimate=True,
        last=None,
    ) -> Encoded:
        """Weigh frames; see `Encoder`. What is on padding changes nothing, `count` is not used."""
        steps, inside = self._reduce(full_precision(frames), mask)
        # (batch, steps, reduced), (batch, steps) or None
        steps = self._transform(self.encoder.feature_projection(steps), inside)
        # (batch, steps, dimension)
        weightings = torch.sigmoid(self.classify(steps))
        # (batch, steps, num_slots)
        if inside is not None:
            weightings = weightings * inside.unsqueeze(-1)
        heads = None if self.second is None else [torch.sigmoid(self.second(steps))]
        return Encoded([weightings], [pooling.embed(weightings)], heads=heads)

    def _reduce(self, frames: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, frames, C) to (batch, ceil(frames / 15), C / 12), and which steps are inside."""
        x = frames.transpose(1, 2)
        inside = None if mask is None else mask.unsqueeze(1)
        # (batch, 1, frames)
        for convolution in self.reduce:
            stride = convolution.stride[0]
            missing = -x.shape[-1] % stride
            if inside is not None:
                x = x.masked_fill(~inside, 0.0)  # padding is as if nothing were there
                inside = F.pad(inside, (0, missing))[..., ::stride]
            x = F.gelu(convolution(F.pad(x, (0, missing))))
        return x.transpose(1, 2), None if inside is None else inside.squeeze(1)

    def _transform(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """(batch, steps, dimension) through the transformer, padding neither seen nor used.

        Same as `encoder.transformer(x)` where there is none. That module cannot be called with
        padding: it hands lengths down as an attention mask, which WavLM's attention refuses.
        """
        transformer = self.encoder.transformer
        batch_size, num_steps, _ = x.shape
        outside = None
        if inside is not None:
            x = x.masked_fill(~inside.unsqueeze(-1), 0.0)
            # attention over nothing is NaN: a sequence that is all padding sees itself
            outside = ~inside & inside.any(dim=1, keepdim=True)
            outside = torch.zeros_like(outside, dtype=x.dtype).masked_fill(outside, -torch.inf)
        x = transformer._preprocess(x)
        # made here, not by the first layer, which layer drop may skip: without a position bias
        # WavLM's attention ignores the padding
        position_bias = transformer.layers[0].attention.compute_bias(num_steps, num_steps)
        position_bias = position_bias.unsqueeze(0).repeat(batch_size, 1, 1, 1)
        # (batch, heads, steps, steps)
        for layer in transformer.layers:
            if self.training and torch.rand(1).item() <= transformer.layer_drop:
                continue
            x, _ = layer(x, position_bias=position_bias, key_padding_mask=outside)
        return x if transformer.layer_norm_first else transformer.layer_norm(x)
