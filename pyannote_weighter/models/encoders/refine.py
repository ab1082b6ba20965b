"""Unrolled assignment: score, smooth, pool, repeat.

The encoder alternates, as unrolled expectation-maximisation and slot attention do, between giving
every window of time to the slots and computing the slots from their windows. What is learned is
the procedure (a projection, a temporal smoother, how strongly slots compete) and no voice.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyannote_weighter.weighting import full_precision

EPS = 1e-6


def _first_of_best(scores: Tensor) -> Tensor:
    """(B,) first of the (B, T) scores that are best but for rounding.

    In files as short as the smoothing many are alike, and padding or another batch would decide.
    """
    return (scores * 2**12).round().argmax(dim=1)


def convolve(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """Apply a convolution to series whose channels come last: (B, T, C) to (B, T, C').

    Same as the layer, several times faster where channels are few: no values are rearranged, and
    groups, too small for vector instructions, are computed as one, with zeros between them.
    """
    g = layer.groups
    weight = layer.weight.unflatten(0, (g, -1)).unsqueeze(2)  # (g, C' / g, 1, C / g, taps)
    between = torch.eye(g, device=x.device, dtype=weight.dtype)[:, None, :, None, None]
    weight = (weight * between).flatten(2, 3).flatten(0, 1)  # (C', C, taps)
    convolved = F.conv2d(
        x.transpose(1, 2).unsqueeze(2),
        weight.unsqueeze(2),
        layer.bias,
        padding=(0, layer.padding[0]),
        dilation=(1, layer.dilation[0]),
    )  # (B, C', 1, T), channels last in memory
    return convolved.squeeze(2).transpose(1, 2)


class TemporalSmoother(nn.Module):
    """Small dilated convolutions over time, the same for every slot.

    Parameters
    ----------
    in_features : int
        Evidence per slot and window.
    hidden : int
        Channels, a multiple of 4.
    kernel_size : int
    dilations : tuple of int
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 16,
        kernel_size: int = 5,
        dilations: tuple[int, ...] = (1, 3, 9),
    ):
        super().__init__()
        if hidden < 4 or hidden % 4:
            raise ValueError(f"hidden is {hidden}: choose a multiple of 4")
        self.inlet = nn.Conv1d(in_features, hidden, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(
                hidden, hidden, kernel_size, dilation=d, padding=d * (kernel_size // 2), groups=g
            )
            for d, g in zip(dilations, [1] + [hidden // 4] * (len(dilations) - 1), strict=True)
        )
        self.outlet = nn.Conv1d(hidden, 1, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, evidence: Tensor, inside: Tensor | None = None) -> Tensor:
        """Smooth evidence over time.

        Parameters
        ----------
        evidence : (B, T, N, F) tensor
        inside : (B, T) tensor, optional
            0 on padding, which is then like what lies beyond the recording.

        Returns
        -------
        scores : (B, T, N) tensor
        """
        B, T, N, _ = evidence.shape
        x = evidence.transpose(1, 2).flatten(0, 1)  # (B * N, T, F)
        weight = self.inlet.weight.squeeze(-1).T.expand(B * N, -1, -1)  # (B * N, F, H)
        x = torch.baddbmm(self.inlet.bias, x, weight)  # (B * N, T, H)
        kept = None
        if inside is not None:
            kept = inside.repeat_interleave(N, dim=0)[..., None]  # (B * N, T, 1)
        for layer in self.layers:
            if kept is not None:
                x = x * kept
            x = F.gelu(convolve(x, layer)).add_(x)
        x = F.linear(x, self.outlet.weight.squeeze(-1), self.outlet.bias)  # (B * N, T, 1)
        return x.reshape(B, N, T).transpose(1, 2)  # (B, T, N)


class SlotCompetition(nn.Module):
    """Bias of each slot from all others: how two slots on one speaker become one.

    A slot that is close to a larger slot, compared with how close windows are to their own slot,
    is probably the same speaker. Its bias goes down, its windows leave for the larger slot.

    Parameters
    ----------
    hidden : int
        Units of the pairwise network.
    """

    def __init__(self, hidden: int = 16):
        super().__init__()
        self.pair = nn.Sequential(
            nn.Linear(6, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.outlet = nn.Linear(hidden, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(
        self, means: Tensor, embeddings: Tensor, share: Tensor, cohesion: Tensor, seconds: Tensor
    ) -> Tensor:
        """Score every slot against its competitors.

        Parameters
        ----------
        means, embeddings : (B, N, D) tensors
            Unit vectors of each slot, in the space of the windows and of the whole slot.
        share : (B, N) tensor
            Share of the speech that the slot holds.
        cohesion : (B, N) tensor
            Mean cosine of the windows of a slot to its mean.
        seconds : (B, N) tensor
            Speech of each slot.

        Returns
        -------
        bias : (B, N) tensor
        """
        N = share.shape[1]
        near = means @ means.transpose(1, 2)  # (B, N, N)
        alike = embeddings @ embeddings.transpose(1, 2)  # (B, N, N)
        log_seconds = (seconds + 0.1).log()
        features = torch.stack(
            [
                4 * near,
                4 * alike,
                4 * cohesion[:, :, None].expand(-1, -1, N),
                4 * cohesion[:, None, :].expand(-1, N, -1),
                log_seconds[:, :, None].expand(-1, -1, N),
                log_seconds[:, None, :].expand(-1, N, -1),
            ],
            dim=-1,
        )  # (B, N, N, 6)
        pull = self.outlet(self.pair(features)).squeeze(-1)  # (B, N, N)
        # empty slots are no competitors, a slot does not compete with itself
        rivals = share[:, None, :] / (share[:, None, :] + 0.01)
        others = 1 - torch.eye(N, device=share.device, dtype=share.dtype)
        return (pull * rivals * others).sum(dim=-1)  # (B, N)


class SlotRefiner(nn.Module):
    """Window embeddings to weightings by a few rounds of score, smooth, pool.

    Parameters
    ----------
    in_dimension : int
        Dimension of the window embeddings.
    num_slots : int
        N.
    dimension : int, optional
        Dimension of the space in which windows are compared with slots, after a learned
        projection. By default there is none: what is learned then holds for any voice.
    num_rounds : int, optional
    hidden : int, optional
        Channels of the temporal smoother.
    window_step : float, optional
        Seconds between windows.
    second_head : bool, optional
        Whether to give Y as well: another smoother of the same evidence, and a sigmoid.

    References
    ----------
    Locatello et al., "Object-centric learning with slot attention", NeurIPS 2020.
    Greff et al., "Neural expectation maximization", NeurIPS 2017.
    """

    def __init__(
        self,
        in_dimension: int,
        num_slots: int,
        dimension: int | None = None,
        num_rounds: int = 5,
        hidden: int = 16,
        window_step: float = 0.1,
        second_head: bool = False,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.num_rounds = num_rounds
        self.window_step = window_step
        self.norm = nn.LayerNorm(in_dimension, elementwise_affine=False)
        self.project = nn.Identity()
        if dimension is not None:
            self.project = nn.Linear(in_dimension, dimension, bias=False)
            nn.init.orthogonal_(self.project.weight)
        self.log_temperature = nn.Parameter(torch.full((num_rounds + 1,), 3.0))
        self.share_weight = nn.Parameter(torch.full((num_rounds,), 0.5))
        # about 0.7 s to start with, learned from there
        taps = torch.full((round(1.5 / window_step) // 2 * 2 + 1,), -3.0)
        middle, reach = len(taps) // 2, round(0.3 / window_step)
        taps[middle - reach : middle + reach + 1] = 0.0
        self.log_kernel = nn.Parameter(taps)
        self.smoother = TemporalSmoother(in_features=7, hidden=hidden)
        self.competition = SlotCompetition(hidden)
        self.second = TemporalSmoother(in_features=7, hidden=hidden) if second_head else None

    def start(self, vectors: Tensor, usable: Tensor) -> Tensor:
        """Choose windows that are far apart as first slots (no gradient).

        Parameters
        ----------
        vectors : (B, T, D) tensor
            Unit vectors.
        usable : (B, T) tensor
            1 where exactly one speaker talks, between 0 and 1 elsewhere.

        Returns
        -------
        means : (B, N, D) tensor
        """
        with torch.no_grad():
            B, T, _ = vectors.shape
            wanted = max(1, round(0.75 / self.window_step))  # half-width of the smoothing
            smooth = F.avg_pool1d(
                (vectors * usable[..., None]).transpose(1, 2),
                2 * wanted + 1,
                stride=1,
                padding=wanted,
            ).transpose(1, 2)  # (B, T, D)
            # the length of the mean tells whether neighbours agree: low at changes and in noise
            agreement = smooth.norm(dim=-1) * usable  # (B, T)
            smooth = F.normalize(smooth, dim=-1)
            batch = torch.arange(B, device=vectors.device)
            chosen = _first_of_best(agreement)  # (B,)
            means = [smooth[batch, chosen]]
            closest = torch.einsum("btd,bd->bt", smooth, means[0])
            for _ in range(self.num_slots - 1):
                chosen = _first_of_best((1 - closest) * agreement**2)
                means.append(smooth[batch, chosen])
                closest = torch.maximum(closest, torch.einsum("btd,bd->bt", smooth, means[-1]))
            return torch.stack(means, dim=1)  # (B, N, D)

    def average(self, cosine: Tensor, usable: Tensor, inside: Tensor | None = None) -> Tensor:
        """Average (B, T, N) cosines over neighbours where one speaker talks alone.

        Others hardly count, and padding (where `inside` is 0) does not.
        """
        kernel = self.log_kernel.exp()[None, None]  # (1, 1, taps)
        weight = usable + 0.05  # (B, T)
        if inside is not None:
            weight = weight * inside
        weight = weight[:, None]  # (B, 1, T)
        B, T, N = cosine.shape
        series = (cosine.transpose(1, 2) * weight).reshape(B * N, 1, T)
        padding = kernel.shape[-1] // 2
        total = F.conv1d(series, kernel, padding=padding).reshape(B, N, T)
        weight = F.conv1d(weight, kernel, padding=padding).clamp_min(EPS)
        return (total / weight).transpose(1, 2)

    def forward(
        self,
        windows: Tensor,
        speech: Tensor,
        single: Tensor,
        embed: Callable[[Tensor], Tensor],
        inside: Tensor | None = None,
        start: Tensor | None = None,
        last: int | None = None,
        finish: bool = True,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """Assign windows to slots.

        Parameters
        ----------
        windows : (B, T, in_dimension) tensor
            Embeddings of short windows.
        speech : (B, T) tensor
            Probability of speech, 0 on padding.
        single : (B, T) tensor
            Probability that exactly one speaker talks, at most `speech`.
        embed : callable
            (B, T, N) weightings to (B, N, D) embeddings of the slots.
        inside : (B, T) tensor, optional
            0 on padding.
        start : (B, T, K) tensor, optional
            Weightings to start from. Defaults to N slots around windows that are far apart.
        last : int, optional
            Only so many of the last rounds, for weightings that are good already. Defaults to all.
        finish : bool, optional
            Whether embeddings of the last round are wanted (default).

        Returns
        -------
        weightings : list of (B, T, N) tensors
            After each round; the last one is the answer.
        embeddings : list of (B, N, D) tensors
            Of these weightings.
        heads : list of (B, T, N) tensors or None
            Y after each round, values in [0, 1], if there is a second head.
        """
        windows, speech, single = map(full_precision, (windows, speech, single))
        start, inside = (None if x is None else full_precision(x) for x in (start, inside))
        # cosines are multiplied by about 20: half precision would choose and weigh otherwise
        with torch.autocast(windows.device.type, enabled=False):
            # (B, N, T) inside: sums over time, and convolutions, are of values side by side
            vectors = F.normalize(self.project(self.norm(windows)), dim=-1)  # (B, T, D)
            temperature = self.log_temperature.exp()
            if start is None:
                cosine = self.start(vectors, single) @ vectors.transpose(1, 2)  # (B, N, T)
                posterior = (temperature[0] * cosine).softmax(dim=1)
            else:
                posterior = start.transpose(1, 2) / start.sum(dim=-1).clamp_min(EPS)[:, None]
            identity = torch.eye(posterior.shape[1], device=vectors.device, dtype=vectors.dtype)
            total = single.sum(dim=1, keepdim=True).clamp_min(EPS)  # (B, 1)

            embedding = embed((posterior * speech[:, None]).transpose(1, 2))  # (B, N, D)
            weightings, embeddings, heads = [], [], []
            skipped = 0 if last is None else max(0, self.num_rounds - last)
            for r in range(skipped, self.num_rounds):
                held = posterior * single[:, None]  # (B, N, T)
                mass = held.sum(dim=2)  # (B, N)
                share = mass / total
                sums = held @ vectors  # (B, N, D)
                means = F.normalize(sums, dim=-1, eps=EPS)
                cohesion = (sums * means).sum(dim=-1) / mass.clamp_min(EPS)  # (B, N)
                cosine = means @ vectors.transpose(1, 2)  # (B, N, T)
                nearest = means @ means.transpose(1, 2) - 2 * identity  # (B, N, N)
                bias = self.competition(
                    means,
                    F.normalize(embedding, dim=-1, eps=EPS),
                    share,
                    cohesion,
                    mass * self.window_step,
                )  # (B, N)
                prior = self.share_weight[r] * (share + 1e-3).log() + bias  # (B, N)
                near = self.average(cosine.transpose(1, 2), single, inside).transpose(1, 2)
                scores = temperature[r + 1] * near + prior[..., None]  # (B, N, T)
                evidence = torch.stack(
                    [
                        (scores - scores.amax(dim=1, keepdim=True)).clamp_min(-10) / 5,
                        posterior,
                        near - cosine,
                        ((share + 1e-3).log() / 5)[..., None].expand_as(cosine),
                        nearest.amax(dim=-1)[..., None].expand_as(cosine),
                        cohesion[..., None].expand_as(cosine),
                        single[:, None].expand_as(cosine),
                    ],
                    dim=2,
                ).permute(0, 3, 1, 2)  # (B, T, N, 7)
                scores = scores + self.smoother(evidence, inside).transpose(1, 2)
                posterior = scores.softmax(dim=1)
                weightings.append((posterior * speech[:, None]).transpose(1, 2))
                if self.second is not None:
                    heads.append(torch.sigmoid(self.second(evidence, inside)))
                if finish or r + 1 < self.num_rounds:
                    embedding = embed(weightings[-1])
                    embeddings.append(embedding)
            return weightings, embeddings, heads or None
