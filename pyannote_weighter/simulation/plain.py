"""The published encoder without its reduction of time, for simulated vectors: a reference."""

import torch
from torch import Tensor, nn
from torchaudio.models.wav2vec2.components import _get_wavlm_encoder

from pyannote_weighter.models.encoders.markov import Refined
from pyannote_weighter.weighting import pool_mean


class PlainEncoder(nn.Module):
    """WavLM's transformer on frames, a linear layer and a sigmoid.

    Unlike `MarkovRefiner` it is made for one dimension and one number of slots, and its memory is
    quadratic in time.

    Parameters
    ----------
    dimension : int
        D.
    num_slots : int
        N.
    width : int, optional
        Dimension of the transformer.
    num_layers, num_heads : int, optional

    References
    ----------
    Chen et al., "WavLM: Large-scale self-supervised pre-training for full stack speech
    processing", 2022.
    """

    def __init__(
        self,
        dimension: int,
        num_slots: int,
        width: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.encoder = _get_wavlm_encoder(
            in_features=dimension,
            embed_dim=width,
            dropout_input=0.0,
            pos_conv_kernel=32,
            pos_conv_groups=16,
            num_layers=num_layers,
            num_heads=num_heads,
            num_buckets=320,
            max_distance=800,
            attention_dropout=0.0,
            ff_interm_features=4 * width,
            ff_interm_dropout=0.0,
            dropout=0.0,
            layer_norm_first=True,
            layer_drop=0.0,
        )
        self.classify = nn.Linear(width, num_slots)

    def forward(self, frames: Tensor, num_slots: int) -> Refined:
        """Weigh (B, T, D) frames.

        Raises
        ------
        ValueError
            Where `num_slots` is not that of the model.
        """
        if num_slots != self.num_slots:
            raise ValueError(f"this encoder has {self.num_slots} slots, not {num_slots}")
        weightings = torch.sigmoid(self.classify(self.encoder(frames)))  # (B, T, N)
        return Refined(
            [weightings],
            [pool_mean(frames, weightings)],
            weightings.logit(),
            frames.new_zeros(len(frames)),
        )
