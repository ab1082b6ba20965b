"""Losses element by element, of a claim y_hat in [0, 1] and a label y in [0, 1].

Each is a function `loss(y_hat, y, *, options..., log_y_hat=None, lambda_=1.0)` that returns a
tensor of the common shape, and a module of the same options with a reduction, by name in `LOSSES`.
All but wBCE and nnPU are two curves,

    loss = y L+(y_hat) + lambda (1 - y) L-(y_hat)

and a formula below that says less gives L+ and L-. What all have in common:

log_y_hat : torch.Tensor, optional
    ln y_hat where the caller knows it better than the logarithm of y_hat + 1e-8 does: for the
    product of a confidence and a small posterior, that keeps the gradient which draws a slot to
    a like.
lambda_ : float
    Weight of what y = 0 costs.

All are computed in float32 at least. Logarithms are of a value + 1e-8, powers likewise: finite at
0 and 1, with finite gradients in float32 and bfloat16. They are up to 1e8 there, more than float16
holds: that of a float16 tensor may be infinite. y_hat beyond 1 by a rounding error does no harm.

y = 0 says "not tagged", which is not "absent": the losses differ in what they make of that. The
ones below are for logits in their papers; they take probabilities here, to which a margin m on
logits does p_m = p / (p + (1 - p) e^m).
"""

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pyannote_weighter.matching import EPSILON
from pyannote_weighter.options import AT_LEAST_ZERO, SHARE, Rule, check_options
from pyannote_weighter.weighting import full_precision


def wbce(
    y_hat: Tensor, y: Tensor, *, log_y_hat: Tensor | None = None, lambda_: float = 1.0
) -> Tensor:
    """wBCE, -y ln(y_hat) + lambda y_hat, least at y_hat = y / lambda.

    The negative log-likelihood of a Poisson count, `torch.nn.PoissonNLLLoss(log_input=False)`.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    return lambda_ * y_hat - y * log_y_hat


def bce(
    y_hat: Tensor, y: Tensor, *, log_y_hat: Tensor | None = None, lambda_: float = 1.0
) -> Tensor:
    """Binary cross-entropy, L+ = -ln(y_hat), L- = -ln(1 - y_hat), least at y_hat = y.

    With missing likes this is "assume negative": Cole et al., "Multi-label learning from single
    positive labels" (2021).
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    return _mix(y, -log_y_hat, -_log_complement(y_hat), lambda_)


def smoothed_bce(
    y_hat: Tensor,
    y: Tensor,
    *,
    negatives: float | None = None,
    positives: float = 0.1,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """BCE with smoothed labels.

    L+ = -(1 - positives) ln(y_hat) - positives ln(1 - y_hat), least at 1 - positives;
    L- = -(1 - negatives) ln(1 - y_hat) - negatives ln(y_hat), least at negatives.

    Cole et al. (2021), "assume negative with label smoothing", who smooth both alike; 0.1 is
    the coefficient of their code. Zero on both sides is BCE.

    Parameters
    ----------
    y_hat, y : (..., speaker) torch.Tensor
    negatives : float, optional
        Defaults to 0.1 / K with K the size of the last dimension, what is taken from a label being
        shared by all: with 0.1 for each of hundreds of speakers, a slot should be all of them.
    positives : float
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    if negatives is None:
        negatives = 0.1 / _num_speakers(y_hat, y)
    yes, no = -log_y_hat, -_log_complement(y_hat)
    return _mix(
        y,
        (1 - positives) * yes + positives * no,
        (1 - negatives) * no + negatives * yes,
        lambda_,
    )


def weak_negatives(
    y_hat: Tensor,
    y: Tensor,
    *,
    weight: float | None = None,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """BCE with negatives divided by K - 1, L+ = -ln(y_hat), L- = -weight ln(1 - y_hat).

    Cole et al. (2021), "weak assume negative": a positive weighs as much as the negatives of all
    the other speakers.

    Parameters
    ----------
    y_hat, y : (..., speaker) torch.Tensor
    weight : float, optional
        Defaults to 1 / (K - 1) with K the size of the last dimension. 1 is BCE.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    if weight is None:
        weight = 1 / max(_num_speakers(y_hat, y) - 1, 1)
    return _mix(y, -log_y_hat, -weight * _log_complement(y_hat), lambda_)


def focal(
    y_hat: Tensor,
    y: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Focal loss, L+ = -alpha (1 - y_hat)^gamma ln(y_hat), L- the mirror image of it.

    L- = -(1 - alpha) y_hat^gamma ln(1 - y_hat). Lin et al., "Focal loss for dense object
    detection" (2017), equations 4 and 5.

    Parameters
    ----------
    y_hat, y : torch.Tensor
    gamma : float
        Focus on what is far from its label, at least 0. 0 is BCE.
    alpha : float, optional
        Balance (0.25 in the paper, with gamma 2). None: both factors are 1.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    positive = -_power(_complement(y_hat), gamma) * log_y_hat
    negative = -_power(y_hat, gamma) * _log_complement(y_hat)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _mix(y, positive, negative, lambda_)


def asymmetric(
    y_hat: Tensor,
    y: Tensor,
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    shift: float = 0.05,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Asymmetric loss (ASL): two exponents, and negatives below `shift` cost nothing.

    L+ = -(1 - y_hat)^gamma_positive ln(y_hat), L- = -q^gamma_negative ln(1 - q) with the shifted
    probability q = max(y_hat - shift, 0). Ridnik et al., "Asymmetric loss for multi-label
    classification" (2021), sections "Asymmetric focusing", "Asymmetric probability shifting" and
    "ASL definition"; defaults of the authors' code. Gradients run through the exponents' factors
    (an option there). All options 0 is BCE; equal exponents without shift are the focal loss.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    shifted = (y_hat - shift).clamp(min=0) if shift else y_hat
    positive = -_power(_complement(y_hat), gamma_positive) * log_y_hat
    negative = -_power(shifted, gamma_negative) * _log_complement(shifted)
    return _mix(y, positive, negative, lambda_)


def hill(
    y_hat: Tensor,
    y: Tensor,
    *,
    offset: float = 1.5,
    margin: float = 1.0,
    gamma: float = 2.0,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Hill loss: negatives that the model is sure to be positives are left alone.

    L+ = -(1 - p_m)^gamma ln(p_m), L- = (offset - y_hat) y_hat^2, with p_m the probability whose
    logit is that of y_hat less `margin`. Zhang et al., "Simple and robust loss design for
    multi-label learning with missing labels" (2021); `offset` is their lambda. At 1.5 the slope
    of L-, 3 y_hat (1 - y_hat), vanishes at both ends. L- has no BCE for a limit; L+ without
    margin and gamma is that of BCE. Defaults of the authors' code.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    negative = (offset - y_hat) * y_hat.square()
    return _mix(y, _focal_margin(y_hat, log_y_hat, margin, gamma), negative, lambda_)


def splc(
    y_hat: Tensor,
    y: Tensor,
    *,
    threshold: float = 0.6,
    margin: float = 1.0,
    gamma: float = 2.0,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Self-paced loss correction (SPLC): where y_hat is above `threshold`, 0 is taken for 1.

    L+ = -(1 - p_m)^gamma ln(p_m) with p_m as in `hill`; L- = -y_hat^gamma ln(1 - y_hat) up to the
    threshold, and -(1 - y_hat)^gamma ln(y_hat) above it. Zhang et al. (2021), as in `hill`. That a
    corrected label has no margin follows the authors' code; their formula just says L+ there. The
    first epoch should run without correction, see `SPLC`. With threshold 1, margin 0 and gamma 0
    this is BCE.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    negative = torch.where(
        y_hat > threshold,
        -_power(_complement(y_hat), gamma) * log_y_hat,
        -_power(y_hat, gamma) * _log_complement(y_hat),
    )
    return _mix(y, _focal_margin(y_hat, log_y_hat, margin, gamma), negative, lambda_)


def entropy_maximization(
    y_hat: Tensor,
    y: Tensor,
    *,
    alpha: float = 0.1,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Entropy maximisation (EM): what is not tagged is unknown, and should stay so.

    L+ = -ln(y_hat), L- = alpha (y_hat ln(y_hat) + (1 - y_hat) ln(1 - y_hat)), least at 1/2. Zhou
    et al., "Acknowledging the unknown for multi-label learning with single positive labels"
    (2022). Their alpha is 0.01 to 0.2 by data set. alpha = 0 leaves out what is not tagged. With
    pseudo-labels: `pyannote_weighter.losses.PseudoLabels`.
    """
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    return _mix(y, -log_y_hat, -alpha * entropy(y_hat), lambda_)


def nnpu(
    y_hat: Tensor,
    y: Tensor,
    *,
    prior: float,
    surrogate: Literal["sigmoid", "logistic"] = "sigmoid",
    beta: float = 0.0,
    gamma: float = 1.0,
    log_y_hat: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """Non-negative risk of learning from positive and unlabelled elements (nnPU).

    With P the elements of y = 1, U those of y = 0 and E the mean over them,

        risk = prior E_P[l+] + max(lambda E_U[l-] - prior E_P[l-], -beta)

    Kiryo et al., "Positive-unlabeled learning with non-negative risk estimator" (2017), section 3
    and algorithm 1: where the maximum is -beta, the gradient is that of -gamma times its
    other argument. This is a loss of a batch, all speakers pooled: what is returned for single
    elements adds up, and its **mean** is the risk; so its sum over all is the risk times the
    number of elements, the scale of the other losses here. lambda other than 1 takes the
    estimator its unbiasedness. A y in between counts in P with weight y and in U with 1 - y.

    Parameters
    ----------
    y_hat, y : torch.Tensor
    prior : float
        Share of positives among the elements of y = 0, in [0, 1). Of slots and speakers about
        the number of people in a file / (slots * training speakers), which is small.
    surrogate : {"sigmoid", "logistic"}
        l+ = 1 - y_hat, l- = y_hat: the sigmoid loss of the logits, as in the paper, which hardly
        moves a positive from near 0. Or l+ = -ln(y_hat), l- = -ln(1 - y_hat).
    beta, gamma : float
        As in algorithm 1.

    Raises
    ------
    ValueError
        Where the prior is not in [0, 1) or the surrogate is unknown.
    """
    if not 0 <= prior < 1:
        raise ValueError(f"prior is {prior}: give the share of positives among the unlabelled")
    y_hat, y, log_y_hat = _prepare(y_hat, y, log_y_hat)
    if surrogate == "sigmoid":
        positive, negative = 1 - y_hat, y_hat
    elif surrogate == "logistic":
        positive, negative = -log_y_hat, -_log_complement(y_hat)
    else:
        raise ValueError(f"unknown surrogate {surrogate!r}: choose 'sigmoid' or 'logistic'")
    labelled = prior * y / y.mean().clamp(min=EPSILON)
    unlabelled = (1 - y) / (1 - y).mean().clamp(min=EPSILON)
    gain = labelled * positive
    rest = lambda_ * unlabelled * negative - labelled * negative
    clipped = rest.mean() < -beta
    descent = torch.where(clipped, -gamma * rest, gain + rest)
    value = torch.where(clipped, gain - beta, gain + rest)
    return descent + (value - descent).detach()


def entropy(y_hat: Tensor) -> Tensor:
    """Entropy of a yes or no of probability y_hat, in nats."""
    complement = _complement(y_hat)
    return -y_hat * torch.log(y_hat + EPSILON) - complement * torch.log(complement + EPSILON)


def _prepare(y_hat: Tensor, y: Tensor, log_y_hat: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    y_hat = full_precision(y_hat)
    if log_y_hat is None:
        log_y_hat = torch.log(y_hat + EPSILON)
    return y_hat, full_precision(y), full_precision(log_y_hat)


def _num_speakers(y_hat: Tensor, y: Tensor) -> int:
    return max((1, *torch.broadcast_shapes(y_hat.shape, y.shape)[-1:]))


def _mix(y: Tensor, positive: Tensor, negative: Tensor, lambda_: float) -> Tensor:
    return y * positive + lambda_ * (1 - y) * negative


def _complement(y_hat: Tensor) -> Tensor:
    return (1 - y_hat).clamp(min=0)


def _log_complement(y_hat: Tensor) -> Tensor:
    return torch.log(_complement(y_hat) + EPSILON)


def _power(base: Tensor, exponent: float) -> Tensor:
    return (base + EPSILON) ** exponent


def _focal_margin(y_hat: Tensor, log_y_hat: Tensor, margin: float, gamma: float) -> Tensor:
    odds_against = _complement(y_hat) * math.exp(margin)
    total = y_hat + odds_against
    return -_power(odds_against / total, gamma) * (log_y_hat - torch.log(total))


def _or_none(rule: Rule) -> Rule:
    words, test = rule
    return f"None, or {words}", lambda value: value is None or test(value)


class ElementwiseLoss(nn.Module):
    """A loss element by element, then reduced.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    **options
        Those of the function.

    Raises
    ------
    ValueError
        Where an option is unknown or missing, or has no such value.
    """

    function: ClassVar[Callable[..., Tensor]]
    allowed: ClassVar[dict[str, Rule]] = {}

    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean", **options):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"unknown reduction {reduction!r}: choose 'mean', 'sum' or 'none'")
        parameters = inspect.signature(type(self).function).parameters.values()
        known = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
            and parameter.name not in ("log_y_hat", "lambda_")
        }
        name = type(self).__name__
        for option in options.keys() - known.keys():
            choice = ", ".join(known) or "none"
            raise ValueError(f"unknown option {option!r} of {name}: it has {choice}")
        for option, default in known.items():
            if default is inspect.Parameter.empty and option not in options:
                raise ValueError(
                    f"{name} needs {option!r}: make it as {name}({option}=...), in a training "
                    f"config {{name: {name.lower()}, {option}: ...}}"
                )
        try:
            check_options(self.allowed, **{k: v for k, v in options.items() if k in self.allowed})
            value = type(self).function(torch.full((1, 2), 0.5), torch.eye(2)[:1], **options)
        except (TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name} with {options}: {error}") from error
        if not value.isfinite().all():
            raise ValueError(f"{name} with {options}: no finite loss")
        self.reduction = reduction
        self.options = options

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss where training is; most do not ask."""

    def extra_repr(self) -> str:
        """Show the options when the module is printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

    def elements(
        self, y_hat: Tensor, y: Tensor, log_y_hat: Tensor | None = None, lambda_: float = 1.0
    ) -> Tensor:
        """Loss of each element, whatever the reduction."""
        return type(self).function(y_hat, y, log_y_hat=log_y_hat, lambda_=lambda_, **self.options)

    def forward(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Loss of tensors of one shape, reduced."""
        loss = self.elements(y_hat, y)
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()


class WBCE(ElementwiseLoss):
    """`wbce` as a module."""

    function = staticmethod(wbce)


class BCE(ElementwiseLoss):
    """`bce` as a module."""

    function = staticmethod(bce)


class SmoothedBCE(ElementwiseLoss):
    """`smoothed_bce` as a module."""

    function = staticmethod(smoothed_bce)
    allowed: ClassVar = {"negatives": _or_none(SHARE), "positives": SHARE}


class WeakNegatives(ElementwiseLoss):
    """`weak_negatives` as a module."""

    function = staticmethod(weak_negatives)
    allowed: ClassVar = {"weight": _or_none(AT_LEAST_ZERO)}


class Focal(ElementwiseLoss):
    """`focal` as a module."""

    function = staticmethod(focal)
    allowed: ClassVar = {"gamma": AT_LEAST_ZERO, "alpha": _or_none(SHARE)}


class Asymmetric(ElementwiseLoss):
    """`asymmetric` as a module."""

    function = staticmethod(asymmetric)
    allowed: ClassVar = {
        "gamma_positive": AT_LEAST_ZERO,
        "gamma_negative": AT_LEAST_ZERO,
        "shift": SHARE,
    }


class Hill(ElementwiseLoss):
    """`hill` as a module."""

    function = staticmethod(hill)
    allowed: ClassVar = {"gamma": AT_LEAST_ZERO, "margin": AT_LEAST_ZERO, "offset": AT_LEAST_ZERO}


class SPLC(ElementwiseLoss):
    """`splc` as a module that corrects from an epoch on.

    Call `set_epoch` at the start of every epoch: nothing is corrected otherwise.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    start : int
        First epoch with correction; 1, the second one, in the authors' code. Any other unit does
        as well, such as steps.
    **options
        Those of `splc`.
    """

    function = staticmethod(splc)
    allowed: ClassVar = {"gamma": AT_LEAST_ZERO, "margin": AT_LEAST_ZERO, "threshold": SHARE}

    def __init__(
        self,
        reduction: Literal["mean", "sum", "none"] = "mean",
        *,
        start: int = 1,
        **options,
    ):
        super().__init__(reduction, **options)
        if not isinstance(start, Real) or math.isnan(start):
            raise ValueError(f"start is {start!r}: give the first epoch with correction")
        self.start = start
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, 0 for the first."""
        self.epoch = epoch

    def elements(
        self, y_hat: Tensor, y: Tensor, log_y_hat: Tensor | None = None, lambda_: float = 1.0
    ) -> Tensor:
        """Loss of each element, whatever the reduction."""
        options = dict(self.options)
        if self.epoch < self.start:
            options["threshold"] = math.inf
        return splc(y_hat, y, log_y_hat=log_y_hat, lambda_=lambda_, **options)


class EntropyMaximization(ElementwiseLoss):
    """`entropy_maximization` as a module."""

    function = staticmethod(entropy_maximization)
    allowed: ClassVar = {"alpha": AT_LEAST_ZERO}


class NNPU(ElementwiseLoss):
    """`nnpu` as a module; reduce it by "mean"."""

    function = staticmethod(nnpu)
    allowed: ClassVar = {"beta": AT_LEAST_ZERO, "gamma": SHARE}


LOSSES: dict[str, type[ElementwiseLoss]] = {
    "wbce": WBCE,
    "bce": BCE,
    "smoothed_bce": SmoothedBCE,
    "weak_negatives": WeakNegatives,
    "focal": Focal,
    "asymmetric": Asymmetric,
    "hill": Hill,
    "splc": SPLC,
    "entropy_maximization": EntropyMaximization,
    "nnpu": NNPU,
}
"""Losses element by element, by name."""
