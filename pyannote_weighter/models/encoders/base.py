"""What the Weighter asks of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from pyannote_weighter.weighting import Summary


class Pooling(NamedTuple):
    """What an encoder may ask of the Weighter that it is in.

    Attributes
    ----------
    embed : callable
        (B, S, N) weightings to (B, N, D') embeddings of the slots, as the backbone makes them.
    embed_windows : callable
        Frames (B, T, C), weights (B, T), window and step in frames, to (B, S, D') embeddings of
        windows. See `Backbone.embed_windows`.
    """

    embed: Callable[[Tensor], Tensor]
    embed_windows: Callable[[Tensor, Tensor, int, int], Tensor]


class Encoded(NamedTuple):
    """What an encoder gives back.

    Attributes
    ----------
    weightings : list of (B, S, N) tensors
        Weightings of each step, one item per round of the encoder; the last one is the answer.
    embeddings : list of (B, N, D') tensors
        What they pool, as the backbone makes it, the last one left out without `estimate`. The
        procedure that an encoder learns holds for voices never heard; a projection that is trained
        on some voices would not.
    activity : (B, S, 3) tensor or None
        Logits of silence, one speaker and several speakers, where the encoder estimates them.
    windows : (B, S, D') tensor or None
        Embeddings of short windows around each step, where the encoder uses them.
    single : (B, S) tensor or None
        Probability that exactly one speaker talks, 0 on padding, where the encoder uses it.
    heads : list of (B, S, N) tensors or None
        Y, values in [0, 1] of a second head after each round, where the encoder was asked for one.
    """

    weightings: list[Tensor]
    embeddings: list[Tensor]
    activity: Tensor | None = None
    windows: Tensor | None = None
    single: Tensor | None = None
    heads: list[Tensor] | None = None


class Encoder(nn.Module):
    """Frames to weightings.

    All take `second_head`, whether to give a second head as well, see `Weighter` (confidence).

    Attributes
    ----------
    step : int
        Frames over which weightings are constant. T frames have S = ceil(T / step) steps.
    restarts : bool
        Whether weightings that are given can be improved (`start`).
    """

    step: int
    restarts: bool = False

    def forward(
        self,
        frames: Tensor,
        summary: Summary,
        pooling: Pooling,
        count: Tensor | None = None,
        mask: Tensor | None = None,
        start: Tensor | Callable[[Tensor, Tensor], Tensor] | None = None,
        estimate: bool = True,
        last: int | None = None,
    ) -> Encoded:
        """Weigh frames.

        Parameters
        ----------
        frames : (B, T, C) tensor
        summary : Summary
            Frames averaged over steps.
        pooling : Pooling
        count : (B, T) tensor, optional
            Number of speakers in each frame.
        mask : (B, T) bool tensor, optional
            False on padding, which follows the frames.
        start : (B, T, K) tensor, optional
            Weightings to start from, of any number of slots, where the encoder `restarts`. Or a
            callable that makes them, (B, S, K) of steps, of the windows and `single` of `Encoded`.
        estimate : bool, optional
            Whether to estimate activity (default) although `count` is known, and to pool what the
            last round gives, which training needs.
        last : int, optional
            Only so many of the last rounds, at least 1, for a `start` that is good already, where
            the encoder has rounds. Defaults to all.
        """
        raise NotImplementedError
