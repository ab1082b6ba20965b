"""Layers of CAM++: residual head, dense time-delay blocks with context-aware masking.

Module names are those of 3D-Speaker's published state dict, which therefore loads strictly.

Reference
---------
Hui Wang, Siqi Zheng, Yafeng Chen, Luyao Cheng, Qian Chen. "CAM++: A Fast and Efficient Network
for Speaker Verification Using Context-Aware Masking". Interspeech 2023.
https://arxiv.org/abs/2303.00332
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

SEGMENT = 100  # frames that share one local context (2 s)
OWN = 0.5  # share of a mask that comes from the voice of the frame, where voices are known
REACH = 10  # frames that the head sees on either side: ten layers of three
LONG = 400  # frames (8 s) from which a setup of oneDNN for their number pays
PIECE = 1500  # frames that go through the head at once: more take new pages of memory each time


def _batchnorm_relu(num_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(batchnorm=nn.BatchNorm1d(num_channels), relu=nn.ReLU(inplace=True))
    )


def _fuses(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether oneDNN may do convolutions of `x`, normalisation folded in: CPU, inference only.

    Layers within `module` are then not called themselves (nor are their hooks).
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not module.training
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
    )


def _conv_norm(x: torch.Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Convolution, then batch normalisation: one operation for a tensor in oneDNN's layout."""
    if not x.is_mkldnn:
        return norm(conv(x))
    weight, bias = _fold(conv, norm)
    return torch.mkldnn_convolution(
        x, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution without bias and the batch normalisation behind it."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    return weight, norm.bias - norm.running_mean * scale


def _mixes(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether oneDNN may do a kernel of 1: where `x` is long, as each length has its setup."""
    return x.shape[-1] >= LONG and _fuses(module, x)


def _pointwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolution with a kernel of 1 by oneDNN.

    On one thread torch takes its own for fewer than 16 recordings, which needs twice the time
    where there is AVX-512, and as much where there is AVX2.
    """
    return torch.mkldnn_convolution(
        x[:, :, None], weight[:, :, None], bias, (0, 0), (1, 1), (1, 1), 1
    ).squeeze(2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; `stride` takes frequency down."""

    def __init__(self, num_channels: int, stride: int):
        super().__init__()
        convolution = {"kernel_size": 3, "padding": 1, "bias": False}
        self.conv1 = nn.Conv2d(num_channels, num_channels, stride=(stride, 1), **convolution)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels, **convolution)
        self.bn2 = nn.BatchNorm2d(num_channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(
                nn.Conv2d(num_channels, num_channels, 1, stride=(stride, 1), bias=False)
            )
            self.shortcut.append(nn.BatchNorm2d(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frequency, frames) to the same, frequency divided by stride."""
        y = F.relu_(_conv_norm(x, self.conv1, self.bn1))
        y = _conv_norm(y, self.conv2, self.bn2)
        y += _conv_norm(x, *self.shortcut) if len(self.shortcut) else x
        return F.relu_(y)


class Head(nn.Module):
    """Front-end convolution module: 2-D residual network that takes frequency down by 8."""

    def __init__(self, num_features: int = 80, num_channels: int = 32):
        super().__init__()
        convolution = {"kernel_size": 3, "padding": 1, "bias": False}
        self.conv1 = nn.Conv2d(1, num_channels, **convolution)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.layer1 = nn.Sequential(ResidualBlock(num_channels, 2), ResidualBlock(num_channels, 1))
        self.layer2 = nn.Sequential(ResidualBlock(num_channels, 2), ResidualBlock(num_channels, 1))
        self.conv2 = nn.Conv2d(num_channels, num_channels, stride=(2, 1), **convolution)
        self.bn2 = nn.BatchNorm2d(num_channels)
        self.out_channels = num_channels * (num_features // 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, features, frames) to (batch, out_channels, frames)."""
        x = x.unsqueeze(1)
        if not _fuses(self, x):
            return self.convolve(x).flatten(1, 2)
        # in about half of the time
        pieces = []
        for start in range(0, x.shape[-1], PIECE):
            first = max(0, start - REACH)
            piece = self.convolve(x[..., first : start + PIECE + REACH].to_mkldnn()).to_dense()
            pieces.append(piece[..., start - first :][..., :PIECE])
        return torch.cat(pieces, dim=-1).flatten(1, 2)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, features, frames) to (batch, channels, features / 8, frames)."""
        x = F.relu_(_conv_norm(x, self.conv1, self.bn1))
        x = self.layer2(self.layer1(x))
        return F.relu_(_conv_norm(x, self.conv2, self.bn2))


class TDNN(nn.Module):
    """Time-delay layer: kernel 5, stride 2, which halves the frame rate."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _batchnorm_relu(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, out_channels, frames / 2)."""
        return self.nonlinear(self.linear(x))


class Voices(NamedTuple):
    """Which frames are one voice, in the form in which `ContextAwareMasking` needs it.

    A part is what one voice has of one segment of 2 s. All segments have the same number of parts,
    of which some are empty.

    Attributes
    ----------
    part_mean : (batch, segments, parts, frames of a segment) tensor
        This times the frames of a segment is the mean of each part.
    context : (batch, segments x parts, segments x parts) tensor
        Means of parts times this are, for each part, its own mean and that of its voice, added.
    part : (batch, 1, frames) tensor of int
        Of each frame.
    """

    part_mean: torch.Tensor
    context: torch.Tensor
    part: torch.Tensor

    @classmethod
    def number(cls, labels: torch.Tensor, dtype: torch.dtype = torch.float32) -> Voices:
        """From (batch, frames) labels: frames of one recording with the same one are one voice."""
        num_frames = labels.shape[1]
        missing = -num_frames % SEGMENT
        labels = torch.cat([labels, labels[:, -1:].expand(-1, missing)], dim=1)
        labels = labels.unflatten(1, (-1, SEGMENT))  # (batch, segments, frames)
        # voices of a segment have numbers of their own
        ordered, order = labels.sort(dim=-1)
        rank = F.pad(ordered.diff(dim=-1) != 0, (1, 0)).cumsum(dim=-1)
        in_segment = torch.empty_like(rank).scatter_(-1, order, rank)
        num_parts = int(in_segment.max()) + 1
        voice = labels[..., :1].repeat(1, 1, num_parts).scatter_(-1, in_segment, labels)
        members = F.one_hot(in_segment, num_parts).to(dtype)
        members.flatten(1, 2)[:, num_frames:] = 0.0
        members = members.mT.contiguous()  # (batch, segments, parts, frames)
        size = members.sum(dim=-1, keepdim=True)
        part_mean = members / size.clamp(min=1.0)

        voice, size = voice.flatten(1), size.flatten(1)  # (batch, segments x parts)
        held = (voice[:, :, None] == voice[:, None]) * size[..., None]
        context = held / held.sum(dim=1, keepdim=True)
        context = context + torch.eye(size.shape[1], dtype=dtype, device=labels.device)
        first = num_parts * torch.arange(labels.shape[1], device=labels.device)[:, None]
        part = (first + in_segment).flatten(1)[:, None, :num_frames]
        return cls(part_mean, context, part)


class ContextAwareMasking(nn.Module):
    """Convolution masked by what the recording and the 2 s around the frame contain.

    Where several people talk, these contain other people than the one of the frame: the masks of a
    short turn are then those of somebody else's voice. With `voices`, half of each mask comes
    from the frame's own voice, in the recording and in the 2 s.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int):
        super().__init__()
        self.linear_local = nn.Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2 * dilation,
            dilation=dilation,
            bias=False,
        )
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x: torch.Tensor, voices: Voices | None = None) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, out_channels, frames)."""
        segments = F.avg_pool1d(x, SEGMENT, stride=SEGMENT, ceil_mode=True)
        # (batch, in_channels, segments); the last one averages what is left
        contexts = x.mean(dim=-1, keepdim=True) + segments
        # kernels of 1, so expanding masks afterwards is the same
        if voices is None:
            mask = self.mask(contexts).repeat_interleave(SEGMENT, dim=-1)[..., : x.shape[-1]]
        else:
            num_segments = segments.shape[-1]
            cut = F.pad(x, (0, num_segments * SEGMENT - x.shape[-1]))
            cut = cut.unflatten(-1, (num_segments, SEGMENT)).permute(0, 2, 3, 1)
            means = (voices.part_mean @ cut).flatten(1, 2).mT
            # (batch, in_channels, segments x parts)
            masks = self.mask(torch.cat([contexts, means @ voices.context], dim=-1))
            mask, own = masks.split([num_segments, voices.context.shape[-1]], dim=-1)
            mask = torch.lerp(mask[..., None], own.unflatten(-1, (num_segments, -1)), OWN)
            mask = mask.flatten(2)
            mask = mask.gather(-1, voices.part.expand(len(mask), mask.shape[1], -1))
        return self.linear_local(x) * mask

    def mask(self, context: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, contexts) to (batch, out_channels, contexts)."""
        return torch.sigmoid(self.linear2(F.relu(self.linear1(context))))


class DenseLayer(nn.Module):
    """One layer of a densely connected block: bottleneck, then context-aware masking."""

    def __init__(self, in_channels: int, growth: int, bottleneck: int, dilation: int):
        super().__init__()
        self.nonlinear1 = _batchnorm_relu(in_channels)
        self.linear1 = nn.Conv1d(in_channels, bottleneck, 1, bias=False)
        self.nonlinear2 = _batchnorm_relu(bottleneck)
        self.cam_layer = ContextAwareMasking(bottleneck, growth, 3, dilation)

    def forward(self, x: torch.Tensor, voices: Voices | None = None) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, growth, frames)."""
        x = self.nonlinear1(x)
        if _mixes(self, x):
            x = F.relu_(_pointwise(x, *_fold(self.linear1, self.nonlinear2.batchnorm)))
        else:
            x = self.nonlinear2(self.linear1(x))
        return self.cam_layer(x, voices)


class DenseBlock(nn.Module):
    """Layers that each read the outputs of all before them."""

    def __init__(
        self, num_layers: int, in_channels: int, growth: int, bottleneck: int, dilation: int
    ):
        super().__init__()
        for i in range(num_layers):
            layer = DenseLayer(in_channels + i * growth, growth, bottleneck, dilation)
            self.add_module(f"tdnnd{i + 1}", layer)
        self.in_channels, self.growth = in_channels, growth
        self.out_channels = in_channels + num_layers * growth

    def forward(self, x: torch.Tensor, voices: Voices | None = None) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, out_channels, frames)."""
        if torch.is_grad_enabled() or len(x) != 1:
            for layer in self.children():
                x = torch.cat([x, layer(x, voices)], dim=1)
            return x
        # without gradients nothing has to be kept: each layer writes behind what it reads, which
        # lies in one piece
        whole = x.new_empty(1, self.out_channels, x.shape[-1])
        whole[:, : self.in_channels] = x
        for number, layer in enumerate(self.children()):
            known = self.in_channels + number * self.growth
            whole[:, known : known + self.growth] = layer(whole[:, :known], voices)
        return whole


class Transit(nn.Module):
    """Halves the number of channels between two dense blocks."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.nonlinear = _batchnorm_relu(in_channels)
        self.linear = nn.Conv1d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, in_channels / 2, frames)."""
        x = self.nonlinear(x)
        return _pointwise(x, self.linear.weight) if _mixes(self, x) else self.linear(x)


class Dense(nn.Module):
    """Statistics to embedding: a linear layer and a normalisation without parameters."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = nn.Sequential(
            OrderedDict(batchnorm=nn.BatchNorm1d(out_channels, affine=False))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, items, in_channels) to (batch, items, out_channels)."""
        return self.nonlinear(self.linear(x.transpose(1, 2))).transpose(1, 2)


class XVector(nn.Module):
    """Everything after the head: frames on one side of the pooling, embedding on the other."""

    def __init__(
        self,
        in_channels: int,
        dimension: int = 192,
        init_channels: int = 128,
        growth: int = 32,
        bottleneck: int = 4 * 32,
        num_layers: tuple[int, ...] = (12, 24, 16),
        dilations: tuple[int, ...] = (1, 2, 2),
    ):
        super().__init__()
        self.tdnn = TDNN(in_channels, init_channels)
        self.num_blocks = len(num_layers)
        channels = init_channels
        for i, (depth, dilation) in enumerate(zip(num_layers, dilations, strict=True), start=1):
            block = DenseBlock(depth, channels, growth, bottleneck, dilation)
            self.add_module(f"block{i}", block)
            self.add_module(f"transit{i}", Transit(block.out_channels))
            channels = block.out_channels // 2
        self.out_nonlinear = _batchnorm_relu(channels)
        self.dense = Dense(2 * channels, dimension)
        self.out_channels = channels

    def frames(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, in_channels, fbank_frames) to (batch, out_channels, fbank_frames / 2).

        `labels` are those of `Voices.number`, one for each of the latter frames.
        """
        x = self.tdnn(x)
        voices = None if labels is None else Voices.number(labels, x.dtype)
        for i in range(1, self.num_blocks + 1):
            x = getattr(self, f"transit{i}")(getattr(self, f"block{i}")(x, voices))
        return self.out_nonlinear(x)
