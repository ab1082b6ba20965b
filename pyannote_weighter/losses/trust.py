"""Likes that name someone who is not there: left out by their cost once voices are learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyannote_weighter.matching import EPSILON
from pyannote_weighter.options import COUNT, check_options


class TrustedLikes(nn.Module):
    """Which likes to believe: all but the share whose cost is farthest above their speaker's.

    The cost of a like is -ln(claim), the claim of its file that the liked speaker is in it.
    Networks learn what examples agree on before they learn wrong labels by heart, so that after a
    short warm-up the examples of highest loss are the wrong ones: small-loss selection, Han et
    al., "Co-teaching: robust training of deep neural networks with extremely noisy labels" (2018),
    with their schedule, here of one network. Costs are averaged over epochs (of a file that is
    longer than a crop, over its crops with the like), the last one weighs half, and compared with
    the median of all likes of the same speaker (the lower one of two): rare and difficult voices
    cost more without being wrong.

    A like that is left out is as if the file were not tagged with it. Its cost is still observed,
    and it comes back when others cost more. Likes that are not confirmed from the beginning stay
    out, and count neither in the share nor in the median.

    Parameters
    ----------
    likes : list of (like,) tensors, or None
        Of all training files, in the order of their indices.
    num_speakers : int
    wrong : float
        Share of the confirmed likes that are wrong, or thought to be, in [0, 0.5).
    warm_up : int
        Epochs in which all are believed.
    ramp : int
        Epochs in which the share that is left out grows to `wrong`.
    confirmed : list of (like,) bool tensors, or None, optional
        In the order of `likes`. Defaults to all.

    Raises
    ------
    ValueError
        Where `wrong` is not in [0, 0.5), or `ramp` is less than 1.
    """

    keys: Tensor
    cost: Tensor
    trusted: Tensor
    confirmed: Tensor

    def __init__(
        self,
        likes: Sequence[Tensor | None],
        num_speakers: int,
        wrong: float,
        warm_up: int = 1,
        ramp: int = 2,
        confirmed: Sequence[Tensor | None] | None = None,
    ):
        super().__init__()
        if not 0 <= wrong < 0.5:
            raise ValueError(f"the share of wrong likes is {wrong}: choose from 0 to under 0.5")
        check_options({"ramp": COUNT}, ramp=ramp)
        self.num_speakers, self.wrong, self.warm_up, self.ramp = num_speakers, wrong, warm_up, ramp
        keys = [
            number * num_speakers + torch.unique(speakers.long())
            for number, speakers in enumerate(likes)
            if speakers is not None
        ]  # file and speaker as one number, ascending
        keys = torch.cat(keys) if keys else torch.zeros(0).long()
        self.register_buffer("keys", keys)
        self.register_buffer("cost", torch.full((len(keys),), torch.nan))
        self.register_buffer("trusted", torch.ones(len(keys), dtype=torch.bool))
        self.register_buffer("confirmed", torch.ones(len(keys), dtype=torch.bool))
        self.register_buffer("epoch", torch.tensor(0))
        if confirmed is not None:
            for number, (speakers, sure) in enumerate(zip(likes, confirmed, strict=True)):
                if speakers is not None and len(speakers):
                    places, _ = self._find([number], speakers)
                    self.confirmed[places[0]] = sure

    def _find(self, files: Sequence[int], speakers: Tensor) -> tuple[Tensor, Tensor]:
        """Places of likes (file, like), and which exist: not every file has every speaker."""
        wanted = torch.tensor(files)[:, None] * self.num_speakers + speakers.long().cpu()
        wanted = wanted.to(self.keys.device)
        places = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        return places, self.keys[places] == wanted

    def keep(
        self, likes: Sequence[Tensor | None], files: Sequence[Sequence[int]]
    ) -> list[Tensor | None]:
        """Likes that are believed.

        Parameters
        ----------
        likes : list of (like,) tensors, or None
        files : list of list of int
            Indices of the files that each sample is spliced of; to be believed in one is enough.
        """
        kept = []
        for speakers, numbers in zip(likes, files, strict=True):
            if speakers is not None and len(speakers):
                places, found = self._find(numbers, speakers)
                sure = self.trusted[places] & self.confirmed[places] & found
                speakers = speakers[sure.any(dim=0).to(speakers.device)]
            kept.append(speakers)
        return kept

    @torch.no_grad()
    def observe(
        self, claims: Tensor, likes: Sequence[Tensor | None], files: Sequence[Sequence[int]]
    ) -> None:
        """Note what likes cost.

        Parameters
        ----------
        claims : (batch, speaker) tensor
            In [0, 1], see `any_slot`.
        likes : list of (like,) tensors, or None
            All of them, whether they are believed or not.
        files : list of list of int
        """
        for claim, speakers, numbers in zip(claims, likes, files, strict=True):
            if speakers is None or not len(speakers):
                continue
            places, found = self._find(numbers, speakers)
            cost = -torch.log(claim[speakers.to(claim.device)].to(self.cost) + EPSILON)
            places, cost = places[found], cost.expand(places.shape)[found]
            before = self.cost[places]
            self.cost[places] = torch.where(before.isnan(), cost, (before + cost) / 2)

    @torch.no_grad()
    def set_epoch(self, epoch: int) -> None:
        """Choose whom to believe in this epoch, 0 for the first."""
        if epoch <= self.epoch:
            return
        self.epoch.fill_(epoch)
        share = self.wrong * min(1.0, max(0.0, (epoch - self.warm_up + 1) / self.ramp))
        excess = self.excess().nan_to_num(nan=-torch.inf)
        most = int(share * int(self.confirmed.sum()))
        self.trusted.fill_(True)
        if most:
            worst = excess.topk(most)
            self.trusted[worst.indices[worst.values > 0]] = False

    def excess(self) -> Tensor:
        """(all likes,) cost above the median of the confirmed likes of the same speaker.

        NaN of likes that are not confirmed, and of those that were not seen.
        """
        speakers = self.keys % max(1, self.num_speakers)
        cost = self.cost.masked_fill(~self.confirmed, torch.nan)
        seen = ~cost.isnan()
        order = torch.argsort(cost.nan_to_num(nan=torch.inf))
        order = order[torch.argsort(speakers[order], stable=True)]  # by speaker, then by cost
        number = torch.bincount(speakers[seen], minlength=self.num_speakers)
        first = torch.bincount(speakers, minlength=self.num_speakers).cumsum(0)
        first = first - torch.bincount(speakers, minlength=self.num_speakers)
        middle = first + (number - 1).clamp_min(0) // 2
        median = cost[order[middle.clamp_max(max(0, len(order) - 1))]]
        return cost - median[speakers]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Refuse the state of other likes: what is kept of each one is known by its place."""
        keys = state_dict.get(f"{prefix}keys")
        if keys is not None and not torch.equal(keys.cpu(), self.keys.cpu()):
            raise ValueError(
                f"the checkpoint knows {len(keys)} likes and this training {len(self.keys)}, not "
                "all of them the same. Where the files and their likes are those of the run, "
                "others were found missing before the training: another device, number of "
                "threads or version decides otherwise where it is close. Go on with what the run "
                "was started with, or train into another folder"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
