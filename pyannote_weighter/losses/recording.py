"""Losses of whole recordings: who is in this file, without slots of their own for likes.

`any_slot` turns slots into one claim per speaker, y_hat (file, speaker), and `like_matrix` likes
into labels y: every loss of `LOSSES` can be had of these two, and so can `ROLE` and
`PseudoLabels`, which keep a table of labels per file and therefore ask which files these are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyannote_weighter.losses.elementwise import bce, entropy_maximization
from pyannote_weighter.matching import EPSILON, distinct_likes
from pyannote_weighter.options import AT_LEAST_ZERO, COUNT_OR_ZERO, SHARE, check_options
from pyannote_weighter.weighting import full_precision

RARE = 1e-4  # below, probabilities add up
START = 0.2  # of the share of speakers who are expected
_INSIDE = "a number from 1e-6 to 1 - 1e-6", lambda value: 1e-6 <= value <= 1 - 1e-6


def any_slot(confidence: Tensor, log_posteriors: Tensor) -> Tensor:
    """Probability that at least one slot holds a speaker, 1 - prod_slots (1 - c p) (noisy or).

    Parameters
    ----------
    confidence : (batch, slot) torch.Tensor
    log_posteriors : (batch, slot, speaker) torch.Tensor

    Returns
    -------
    y_hat : (batch, speaker) torch.Tensor
    """
    y_hat = full_precision(confidence).unsqueeze(-1) * full_precision(log_posteriors).exp()
    # a hair below 1 has a logarithm
    return -torch.expm1(torch.log1p(-(1 - 1e-7) * y_hat.clamp(max=1)).sum(1))


def log_any_slot(confidence: Tensor, log_posteriors: Tensor) -> Tensor:
    """Logarithm of `any_slot`, with a gradient however small the posteriors are.

    It draws slots to a like; the logarithm of what `any_slot` returns, plus 1e-8, has none there.
    Of confidence 0 it is not minus infinity, as confidence + 1e-8 is taken in its place.

    Parameters
    ----------
    confidence : (batch, slot) torch.Tensor
    log_posteriors : (batch, slot, speaker) torch.Tensor
        Finite, as log-softmax gives them; taken as -1e4 at least.

    Returns
    -------
    log_y_hat : (batch, speaker) torch.Tensor
    """
    known = any_slot(confidence, log_posteriors)
    confidence = full_precision(confidence).unsqueeze(-1)
    log_p = full_precision(log_posteriors).clamp(min=-1e4)
    total = (torch.log(confidence + EPSILON) + log_p).logsumexp(1)
    # of small probabilities, any of them has the probability of their sum
    return torch.where(known < RARE, total, known.clamp(min=RARE).log())


def like_matrix(likes: Sequence[Tensor], num_speakers: int) -> Tensor:
    """Labels of files, (batch, speaker) of 0 and 1 on the CPU; -1 in likes is padding."""
    y = torch.zeros(len(likes), num_speakers)
    for row, speakers in zip(y, likes, strict=True):
        row[speakers[speakers >= 0].long().cpu()] = 1
    return y


def with_unknown(confidence: Tensor, log_posteriors: Tensor) -> Tensor:
    """Log posteriors with one more class, "unknown": ln(c p), and ln(1 - c) at the end.

    Parameters
    ----------
    confidence : (batch, slot) torch.Tensor
    log_posteriors : (batch, slot, speaker) torch.Tensor

    Returns
    -------
    log_posteriors : (batch, slot, speaker + 1) torch.Tensor
        Sums to one but for the 1e-8 inside the logarithms.
    """
    confidence = full_precision(confidence).unsqueeze(-1)
    log_p = torch.log(confidence + EPSILON) + full_precision(log_posteriors)
    unknown = torch.log((1 - confidence).clamp(min=0) + EPSILON)
    return torch.cat([log_p, unknown], -1)


def recording_kl(
    log_posteriors: Tensor, likes: Sequence[Tensor | None], untagged: float | Tensor = 0.0
) -> Tensor:
    """Divergence of the mean posterior of a recording from what its likes lead to expect.

    With n likes, m untagged speakers and S segments (here: slots),

        loss(file) = sum_k q_k ln(q_k / p_k),   p_k = 1/S sum_s p_sk
        q_like = 1 / (n + m),   q_unknown = m / (n + m)

    Karu and Alumäe, "Weakly supervised training of speaker identification models" (2018); label
    regularisation of Mann and McCallum (2007). Written after the authors' code, where a segment
    is what diarization holds for one speaker, all of them weigh alike, and m is 1 where the
    recording names somebody who is no class, else 0; later code of theirs has for n + m the number
    of speakers that diarization found.

    Parameters
    ----------
    log_posteriors : (batch, segment, speaker + 1) torch.Tensor
        The last class is "unknown", see `with_unknown`.
    likes : list of (like,) torch.Tensor or None
        As in `SetCriterion`.
    untagged : float or (batch,) torch.Tensor
        m, at least 0. A file with neither likes nor untagged speakers is all unknown.

    Returns
    -------
    loss : (batch,) torch.Tensor
        0 where likes are unknown.

    Raises
    ------
    ValueError
        Where shapes disagree, a like is no speaker index, or `untagged` is negative.
    """
    log_p = full_precision(log_posteriors)
    distinct = distinct_likes(log_p[..., 0], log_p[..., :-1], likes)
    mean = torch.logsumexp(log_p, 1) - math.log(log_p.shape[1])  # (batch, speaker + 1)
    untagged = torch.as_tensor(untagged, dtype=mean.dtype, device=mean.device).expand(len(mean))
    if (untagged < 0).any():
        raise ValueError("untagged is negative: give the number of speakers without a like, or 0")
    expected = torch.zeros_like(mean)
    expected[:, :-1] = like_matrix(distinct, mean.shape[1] - 1).to(expected)
    number = expected.sum(1)
    expected[:, -1] = torch.where(number + untagged > 0, untagged, 1.0)
    expected = expected / expected.sum(1, keepdim=True)
    loss = (torch.xlogy(expected, expected) - expected * mean).sum(1)
    known = torch.tensor([speakers is not None for speakers in likes], device=loss.device)
    return torch.where(known, loss, 0.0)


class ROLE(nn.Module):
    """Regularised online label estimation: labels of all files are learned beside the model.

    With f = y_hat the model, g = sigmoid(table) the labels, z the likes, L speakers, B files,

        loss = [J(f | g) + J(g | f)] / 2
        J(f | g) = 1/(B L) sum [BCE(f, stop_gradient(g)) - z ln(f)] + weight R(f)
        R(f) = ((1/B sum f - expected) / L)^2

    Cole et al., "Multi-label learning from single positive labels" (2021), and their code, from
    which the initial labels are taken: 0.995 for likes, else random, see `start`. There the
    table learns ten times as fast as the model. Give `parameters()` to the optimiser: the table is
    dense, files times speakers.

    Parameters
    ----------
    likes : list of (like,) torch.Tensor
        Of all training files, in the order of their indices.
    num_speakers : int
    expected : float
        Mean number of speakers of a file, tagged or not (the k of the paper).
    weight : float
        Of the regulariser R.
    start : float, optional
        Labels to begin with, of who is not liked: 0.5 is that of the code, 0.4 to 0.6. Each file
        changes its labels once in an epoch, too slowly for hundreds of speakers who all begin as
        probable. Defaults to 0.2 `expected` / `num_speakers`, but at least 1e-4, at most 0.5;
        0.2 was chosen on development conversations (recipes/likes).
    generator : torch.Generator, optional
        For the initial table.

    Raises
    ------
    ValueError
        Where `expected` or `weight` is negative, or `start` is not inside of 0 and 1.
    """

    def __init__(
        self,
        likes: Sequence[Tensor],
        num_speakers: int,
        expected: float,
        weight: float = 1.0,
        start: float | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_options(
            {"expected": AT_LEAST_ZERO, "weight": AT_LEAST_ZERO}, expected=expected, weight=weight
        )
        if start is None:
            start = min(0.5, max(1e-4, START * expected / max(1, num_speakers)))
        check_options({"start": _INSIDE}, start=start)
        self.expected = expected
        self.weight = weight
        noise = 2 * torch.rand(len(likes), num_speakers, generator=generator) - 1
        table = _logit(start) + _logit(0.6) * noise
        liked = like_matrix(likes, num_speakers) == 1
        self.table = nn.Parameter(torch.where(liked, _logit(0.995), table))

    def labels(self, files: Tensor) -> Tensor:
        """(batch, speaker) estimated labels of files, in [0, 1]."""
        return torch.sigmoid(self.table[files])

    def forward(
        self, y_hat: Tensor, y: Tensor, files: Tensor, log_y_hat: Tensor | None = None
    ) -> Tensor:
        """Scalar loss.

        Parameters
        ----------
        y_hat, y : (batch, speaker) torch.Tensor
            Claims and likes, see `any_slot` and `like_matrix`.
        files : (batch,) torch.Tensor
            int64, indices of the files.
        log_y_hat : (batch, speaker) torch.Tensor, optional
            See `log_any_slot`.
        """
        model, labels = full_precision(y_hat), self.labels(files)
        log_labels = nn.functional.logsigmoid(self.table[files])
        given_labels = self._one_way(model, log_y_hat, labels.detach(), y)
        given_model = self._one_way(labels, log_labels, model.detach(), y)
        return (given_labels + given_model) / 2

    def _one_way(self, f: Tensor, log_f: Tensor | None, g: Tensor, z: Tensor) -> Tensor:
        tagged = z * bce(f, torch.ones_like(f), log_y_hat=log_f)
        excess = (f.sum(1).mean() - self.expected) / f.shape[1]
        return (bce(f, g, log_y_hat=log_f) + tagged).mean() + self.weight * excess.square()


class PseudoLabels(nn.Module):
    """Entropy maximisation with asymmetric pseudo-labels (EM + APL).

    `entropy_maximization`, but for what has a pseudo-label g: beta BCE(y_hat, g). After a warm-up
    and at the end of every epoch, `update` takes, of each speaker, the files without like
    or pseudo-label that claim least, and makes their claim their label: in the last epoch `share`
    of all untagged files have one, in steps that are equal but for remainders. (The authors' code
    rounds each step down: with few files, none is ever labelled.) Asymmetric: negatives are
    taken by the many, positives never. Zhou et al. (2022), as in `entropy_maximization`, and the
    authors' code.

    The labels are a buffer, dense, files times speakers; NaN is none.

    Parameters
    ----------
    num_files, num_speakers, num_epochs : int
    warm_up : int
        Epochs before the first update; 3 to 5 of 10 in the authors' code.
    share : float
        0.9 there.
    alpha, beta : float
        Weights of entropy and of pseudo-labels; by data set 0.01 to 0.2 and 0.02 to 0.9 there.

    Raises
    ------
    ValueError
        Where the warm-up is as long as the training, `share` is not in [0, 1], or a weight is
        negative.
    """

    labels: Tensor

    def __init__(
        self,
        num_files: int,
        num_speakers: int,
        num_epochs: int,
        warm_up: int,
        share: float = 0.9,
        alpha: float = 0.1,
        beta: float = 0.2,
    ):
        super().__init__()
        check_options(
            dict(alpha=AT_LEAST_ZERO, beta=AT_LEAST_ZERO, share=SHARE, warm_up=COUNT_OR_ZERO),
            alpha=alpha, beta=beta, share=share, warm_up=warm_up,
        )  # fmt: skip
        if warm_up >= num_epochs:
            raise ValueError(f"warm_up is {warm_up}: choose fewer than the {num_epochs} epochs")
        self.num_epochs, self.warm_up = num_epochs, warm_up
        self.share, self.alpha, self.beta = share, alpha, beta
        self.register_buffer("labels", torch.full((num_files, num_speakers), torch.nan))

    def forward(
        self, y_hat: Tensor, y: Tensor, files: Tensor, log_y_hat: Tensor | None = None
    ) -> Tensor:
        """Scalar loss, the mean over elements.

        Parameters
        ----------
        y_hat, y : (batch, speaker) torch.Tensor
            Claims and likes, see `any_slot` and `like_matrix`.
        files : (batch,) torch.Tensor
            int64, indices of the files.
        log_y_hat : (batch, speaker) torch.Tensor, optional
            See `log_any_slot`.
        """
        labels = self.labels[files]
        labelled = labels.isfinite() & (y == 0)
        pseudo = self.beta * bce(y_hat, labels.nan_to_num(), log_y_hat=log_y_hat)
        unknown = entropy_maximization(y_hat, y, alpha=self.alpha, log_y_hat=log_y_hat)
        return torch.where(labelled, pseudo, unknown).mean()

    @torch.no_grad()
    def update(self, y_hat: Tensor, y: Tensor, epoch: int) -> None:
        """Label more files, at the end of an epoch; nothing happens during the warm-up.

        Parameters
        ----------
        y_hat, y : (file, speaker) torch.Tensor
            Claims and likes of all files, in the order of their indices.
        epoch : int
            The one that ends, 1 for the first.
        """
        if epoch < self.warm_up:
            return
        y_hat, untagged = y_hat.to(self.labels), y.to(self.labels.device) == 0
        # there are no claims before the first epoch, and those of the last one teach nothing
        first = max(1, self.warm_up)
        progress = min(1.0, (epoch - first + 1) / max(1, self.num_epochs - first))
        labelled = untagged & self.labels.isfinite()
        number = (self.share * progress * untagged.sum(0) + 1e-3).floor() - labelled.sum(0)
        free = untagged & ~labelled
        rank = y_hat.masked_fill(~free, torch.inf).argsort(0).argsort(0)
        chosen = free & (rank < number)
        self.labels.copy_(torch.where(chosen, y_hat, self.labels))


def _logit(probability: float) -> Tensor:
    return torch.tensor(probability, dtype=torch.float64).logit().float()
