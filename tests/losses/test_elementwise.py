"""Losses element by element, against the formulas of their papers in plain Python."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyannote_weighter.losses import (
    BCE,
    LOSSES,
    NNPU,
    SPLC,
    WBCE,
    Asymmetric,
    EntropyMaximization,
    Focal,
    Hill,
    SmoothedBCE,
    WeakNegatives,
    asymmetric,
    bce,
    entropy_maximization,
    focal,
    hill,
    nnpu,
    smoothed_bce,
    splc,
    wbce,
    weak_negatives,
)

probabilities = st.floats(1e-4, 1.0)
inner = st.floats(0.01, 0.99)
labels = st.sampled_from([0.0, 1.0])
weak = partial(weak_negatives, weight=0.2)
smoothed = partial(smoothed_bce, negatives=0.1)
CURVES = [wbce, bce, smoothed, weak, focal, asymmetric, hill, splc, entropy_maximization]


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def value(loss, y_hat: float, y: float, **options) -> float:
    return loss(double(y_hat), double(y), **options).item()


def slope(loss, y_hat: float, y: float, **options) -> float:
    at = double(y_hat)
    loss(at, double(y), **options).backward()
    return at.grad.item()


@settings(max_examples=50, deadline=None)
@given(probabilities, st.one_of(st.just(0.0), st.just(1.0), probabilities))
def test_wbce_and_bce(y_hat, y):
    expected = -y * math.log(y_hat) + y_hat
    assert value(wbce, y_hat, y) == pytest.approx(expected, rel=1e-3, abs=1e-7)
    if y_hat < 0.999:
        expected = -y * math.log(y_hat) - (1 - y) * math.log(1 - y_hat)
        assert value(bce, y_hat, y) == pytest.approx(expected, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("loss", [wbce, bce])
@settings(max_examples=40, deadline=None)
@given(y=inner, other=st.floats(0.001, 0.999))
def test_minimum_is_at_the_target(loss, y, other):
    assert abs(slope(loss, y, y)) < 1e-5
    assert value(loss, other, y) >= value(loss, y, y) - 1e-12


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_gradient_of_wbce_is_at_most_one(y_hat, y):
    assert slope(wbce, y_hat, 0.0) == 1.0
    assert -math.inf < slope(wbce, y_hat, y) <= 1.0
    if y_hat > 0.5:  # where binary cross-entropy punishes a missing tag without bound
        assert slope(bce, y_hat, 0.0) >= 1.99


@settings(max_examples=40, deadline=None)
@given(x=st.floats(-6, 6), y=labels, gamma=st.floats(0, 4), margin=st.floats(0, 2))
def test_formulas_of_the_papers(x, y, gamma, margin):
    """From logits, as most papers have them."""

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def check(loss, expected, **options):
        assert value(loss, sigmoid(x), y, **options) == pytest.approx(expected, rel=1e-4, abs=1e-6)

    p, shifted = sigmoid(x), sigmoid(x - margin)
    p_t = p if y == 1 else 1 - p
    smoothing = 0.05 if y == 1 else 0.2
    expected = -(1 - smoothing) * math.log(p_t) - smoothing * math.log(1 - p_t)
    check(smoothed_bce, expected, negatives=0.2, positives=0.05)
    check(weak_negatives, -math.log(p_t) * (1 if y == 1 else 0.125), weight=0.125)
    check(focal, -((1 - p_t) ** gamma) * math.log(p_t), gamma=gamma)
    alpha_t = 0.25 if y == 1 else 0.75
    check(focal, -alpha_t * (1 - p_t) ** 2 * math.log(p_t), alpha=0.25)

    clipped = max(p - 0.05, 0)
    expected = (
        -((1 - p) ** gamma) * math.log(p) if y == 1 else -(clipped**3) * math.log(1 - clipped)
    )
    check(asymmetric, expected, gamma_positive=gamma, gamma_negative=3)

    positive = -((1 - shifted) ** gamma) * math.log(shifted)
    expected = positive if y == 1 else (1.5 - p) * p**2
    check(hill, expected, margin=margin, gamma=gamma)

    corrected = -((1 - p) ** gamma) * math.log(p)
    negative = corrected if p > 0.7 else -(p**gamma) * math.log(1 - p)
    check(splc, positive if y == 1 else negative, threshold=0.7, margin=margin, gamma=gamma)

    disorder = -p * math.log(p) - (1 - p) * math.log(1 - p)
    check(entropy_maximization, -math.log(p) if y == 1 else -0.3 * disorder, alpha=0.3)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (smoothed_bce, {"negatives": 0.0, "positives": 0.0}),
        (weak_negatives, {"weight": 1.0}),
        (weak_negatives, {}),  # two speakers
        (focal, {"gamma": 0.0}),
        (asymmetric, {"gamma_positive": 0.0, "gamma_negative": 0.0, "shift": 0.0}),
        (splc, {"threshold": 1.0, "margin": 0.0, "gamma": 0.0}),
    ],
)
@settings(max_examples=20, deadline=None)
@given(y_hat=st.floats(0, 1), y=st.floats(0, 1))
def test_neutral_options_give_bce(loss, options, y_hat, y):
    y_hat, y = torch.full((2,), y_hat), torch.full((2,), y)
    torch.testing.assert_close(loss(y_hat, y, **options), bce(y_hat, y))


@settings(max_examples=30, deadline=None)
@given(inner)
def test_positives_without_focus_and_margin_are_those_of_bce(y_hat):
    expected = pytest.approx(value(bce, y_hat, 1.0))
    assert value(hill, y_hat, 1.0, margin=0.0, gamma=0.0) == expected
    assert value(entropy_maximization, y_hat, 1.0) == expected
    assert value(weak_negatives, y_hat, 1.0, weight=0.1) == expected
    # equal exponents, no shift: one loss under two names
    options = {"gamma_positive": 1.5, "gamma_negative": 1.5, "shift": 0.0}
    for y in (0.0, 1.0):
        focused = value(focal, y_hat, y, gamma=1.5)
        assert value(asymmetric, y_hat, y, **options) == pytest.approx(focused)


@settings(max_examples=30, deadline=None)
@given(inner, labels)
def test_symmetry(y_hat, y):
    for loss, options in (
        (bce, {}),
        (smoothed, {}),
        (focal, {}),
        (splc, {"threshold": 1.0, "margin": 0.0}),
    ):
        mirrored = value(loss, 1 - y_hat, 1 - y, **options)
        assert value(loss, y_hat, y, **options) == pytest.approx(mirrored, rel=1e-6, abs=1e-9)
    mirrored = value(entropy_maximization, 1 - y_hat, 0.0)
    assert value(entropy_maximization, y_hat, 0.0) == pytest.approx(mirrored)


@pytest.mark.parametrize("loss", CURVES)
@settings(max_examples=30, deadline=None)
@given(y_hat=st.floats(0, 1))
def test_minima_of_tagged_and_untagged(loss, y_hat):
    least_tagged = 0.9 if loss is smoothed else 1.0
    least_untagged = {smoothed: 0.1, entropy_maximization: 0.5}.get(loss, 0.0)
    assert value(loss, y_hat, 1.0) >= value(loss, least_tagged, 1.0) - 1e-7
    assert value(loss, y_hat, 0.0) >= value(loss, least_untagged, 0.0) - 1e-7 or (
        # above its threshold, SPLC draws upwards
        loss is splc and y_hat > 0.6
    )


@settings(max_examples=30, deadline=None)
@given(st.floats(0.7, 0.999))
def test_what_a_missing_like_costs(y_hat):
    """The point of each: what pushes down a speaker who is there, sure, and not tagged."""
    push = slope(bce, y_hat, 0.0)
    assert slope(weak_negatives, y_hat, 0.0, weight=0.1) == pytest.approx(push / 10)
    assert slope(hill, y_hat, 0.0) == pytest.approx(3 * y_hat * (1 - y_hat))
    assert slope(splc, y_hat, 0.0) < 0 and slope(splc, y_hat, 0.0, threshold=1.0) > 0
    assert 0 < slope(entropy_maximization, y_hat, 0.0) < push
    assert slope(asymmetric, 1 - y_hat, 0.0, shift=0.4) == 0
    assert slope(wbce, y_hat, 0.0, lambda_=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize("loss", CURVES)
@settings(max_examples=20, deadline=None)
@given(y_hat=inner, y=st.floats(0, 1))
def test_lambda_and_soft_labels(loss, y_hat, y):
    tagged, untagged = value(loss, y_hat, 1.0), value(loss, y_hat, 0.0)
    assert value(loss, y_hat, y) == pytest.approx(y * tagged + (1 - y) * untagged, abs=1e-9)
    assert value(loss, y_hat, 0.0, lambda_=0.3) == pytest.approx(0.3 * untagged)
    least = y_hat if loss is wbce else 0.0  # wBCE prices what is claimed, tagged or not
    expected = tagged - 0.7 * least
    assert value(loss, y_hat, 1.0, lambda_=0.3) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", CURVES)
def test_a_known_logarithm_replaces_that_of_the_claim(loss):
    y_hat, log_y_hat = torch.tensor([1e-20]), torch.tensor([-46.0], requires_grad=True)
    value = loss(y_hat, torch.ones(1), log_y_hat=log_y_hat)
    value.backward()
    assert value > 30 and log_y_hat.grad < -0.5


def plain_nnpu(y_hat, y, prior, surrogate):
    """Kiryo et al. (2017), equation by equation."""
    loss = {"sigmoid": lambda p: 1 - p, "logistic": lambda p: -math.log(p)}[surrogate]
    tagged = [p for p, label in zip(y_hat, y, strict=True) if label == 1]
    rest = [p for p, label in zip(y_hat, y, strict=True) if label == 0]

    def mean(values):
        return sum(values) / len(values) if values else 0.0

    positive = prior * mean([loss(p) for p in tagged])
    negative = mean([loss(1 - p) for p in rest]) - prior * mean([loss(1 - p) for p in tagged])
    return positive + max(negative, 0.0), negative < 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(inner, labels), min_size=1, max_size=8),
    st.floats(0, 0.9),
    st.sampled_from(["sigmoid", "logistic"]),
)
def test_nnpu(pairs, prior, surrogate):
    y_hat, y = (list(column) for column in zip(*pairs, strict=True))
    claims = torch.tensor(y_hat, dtype=torch.float64, requires_grad=True)
    loss = NNPU(prior=prior, surrogate=surrogate)
    risk = loss(claims, torch.tensor(y))
    expected, clipped = plain_nnpu(y_hat, y, prior, surrogate)
    assert risk.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    risk.backward()
    if clipped:  # back up: unlabelled ones rise, tagged ones fall
        tagged = torch.tensor(y) == 1
        assert (claims.grad[tagged] >= 0).all() and (claims.grad[~tagged] <= 0).all()


def test_nnpu_is_the_supervised_risk_without_labels_of_negatives():
    # unlabelled: 3 positives of the same kind among 10, whom the prior takes out again
    positives, negatives = torch.tensor([0.9, 0.6, 0.7]), torch.rand(7)
    y_hat = torch.cat([positives, positives, negatives])
    y = torch.tensor([1.0] * 3 + [0.0] * 10)
    for surrogate in ("sigmoid", "logistic"):
        risk = nnpu(y_hat, y, prior=0.3, surrogate=surrogate).mean()
        wrong = {"sigmoid": lambda p: 1 - p, "logistic": lambda p: -p.log()}[surrogate]
        expected = 0.3 * wrong(positives).mean() + 0.7 * wrong(1 - negatives).mean()
        torch.testing.assert_close(risk, expected)
    for prior in (1.0, -0.1):
        with pytest.raises(ValueError, match="share of positives"):
            nnpu(y_hat, y, prior=prior)
    with pytest.raises(ValueError, match="unknown surrogate"):
        nnpu(y_hat, y, prior=0.1, surrogate="hinge")


def test_nnpu_clips_and_climbs():
    y_hat = torch.tensor([0.9, 0.1], requires_grad=True)
    risk = nnpu(y_hat, torch.tensor([1.0, 0.0]), prior=0.5, gamma=2.0).mean()
    risk.backward()
    # 0.5 * 0.1 + max(0.1 - 0.5 * 0.9, 0); gradient of -2 (p_u - 0.5 p_p)
    assert risk.item() == pytest.approx(0.05)
    assert y_hat.grad.tolist() == pytest.approx([1.0, -2.0])
    bounded = nnpu(y_hat.detach(), torch.tensor([1.0, 0.0]), prior=0.5, beta=0.1).mean()
    assert bounded.item() == pytest.approx(0.05 - 0.1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_modules_and_parity_with_torch(reduction):
    torch.manual_seed(0)
    y_hat, y = torch.rand(5, 6), torch.rand(5, 6)
    poisson = torch.nn.PoissonNLLLoss(log_input=False, full=False, reduction=reduction)
    torch.testing.assert_close(WBCE(reduction)(y_hat, y), poisson(y_hat, y))
    cross_entropy = torch.nn.BCELoss(reduction=reduction)
    torch.testing.assert_close(BCE(reduction)(y_hat, y), cross_entropy(y_hat, y))
    expected = focal(y_hat, y, gamma=1.0)
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    assert torch.equal(Focal(reduction, gamma=1.0)(y_hat, y), expected)


def test_registry_and_options():
    for name, module in LOSSES.items():
        options = {"prior": 0.1} if name == "nnpu" else {}
        assert module(**options)(torch.rand(3, 4), torch.ones(3, 4)).isfinite()
    assert LOSSES["wbce"] is WBCE and LOSSES["bce"] is BCE
    assert "gamma=1.0" in repr(Focal(gamma=1.0))
    with pytest.raises(ValueError, match="unknown reduction"):
        WBCE("median")
    with pytest.raises(ValueError, match="unknown option 'delta' of Focal: it has gamma, alpha"):
        Focal(delta=1)
    with pytest.raises(ValueError, match="NNPU needs 'prior'"):
        NNPU()


def test_splc_corrects_above_the_threshold():
    assert slope(splc, 0.61, 0.0) < 0 < slope(splc, 0.59, 0.0)
    assert slope(splc, 0.39, 0.0, threshold=0.4) > 0 > slope(splc, 0.41, 0.0, threshold=0.4)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (NNPU, {"prior": 2}, "prior is 2: give the share"),
        (NNPU, {"prior": "0.1"}, "NNPU with {'prior': '0.1'}: "),
        (NNPU, {"prior": 0.1, "surrogate": "x"}, "unknown surrogate 'x'"),
        (Focal, {"gamma": "2"}, "Focal with {'gamma': '2'}: "),
        (Focal, {"gamma": math.nan}, "Focal with {'gamma': nan}: gamma is nan: choose a number"),
        (Focal, {"gamma": -1}, "gamma is -1: choose a number of at least 0"),
        (Focal, {"alpha": 5}, "alpha is 5: choose None, or a number from 0 to 1"),
        (WeakNegatives, {"weight": -1}, "weight is -1: choose None, or a number of at least 0"),
        (SmoothedBCE, {"negatives": 2}, "negatives is 2: choose None, or a number from 0 to 1"),
        (EntropyMaximization, {"alpha": -1}, "alpha is -1: choose a number of at least 0"),
        (Asymmetric, {"shift": 1.5}, "shift is 1.5: choose a number from 0 to 1"),
        (Hill, {"gamma": -1}, "gamma is -1: choose a number of at least 0"),
        (SPLC, {"threshold": -1}, "threshold is -1: choose a number from 0 to 1"),
        (SPLC, {"start": math.nan}, "start is nan: give the first epoch with correction"),
        (NNPU, {"prior": 0.1, "beta": -1}, "beta is -1: choose a number of at least 0"),
        (SPLC, {"threshold": None}, "SPLC with {'threshold': None}: "),
        (SPLC, {"start": "1"}, "start is '1': give the first epoch with correction"),
    ],
)
def test_options_that_no_loss_can_be_computed_with(make, options, message):
    """Are told before any work is done."""
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_splc_starts_late():
    y_hat, y = torch.tensor([0.9]), torch.zeros(1)
    loss = SPLC(start=2, threshold=0.6)
    values = []
    for epoch in range(4):
        loss.set_epoch(epoch)
        values.append(loss(y_hat, y).item())
    late, early = splc(y_hat, y).item(), splc(y_hat, y, threshold=1.0).item()
    assert values == pytest.approx([early, early, late, late])


def test_smoothed_negatives_share_what_is_taken_from_a_label():
    y_hat, y = torch.rand(3, 5), torch.zeros(3, 5)
    torch.testing.assert_close(smoothed_bce(y_hat, y), smoothed_bce(y_hat, y, negatives=0.02))


@pytest.mark.parametrize("loss", [smoothed_bce, weak_negatives])
def test_speakers_are_counted_in_any_shape(loss):
    assert loss(torch.tensor(0.5), torch.tensor(0.0)).isfinite()
    assert loss(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)
    one, many = torch.full((1, 1), 0.3), torch.zeros(1, 5)
    torch.testing.assert_close(loss(one, many), loss(one.expand(1, 5), many))


def test_weak_negatives_count_the_speakers():
    y_hat, y = torch.full((2, 5), 0.3), torch.zeros(2, 5)
    torch.testing.assert_close(weak_negatives(y_hat, y), bce(y_hat, y) / 4)
    torch.testing.assert_close(weak_negatives(y_hat[:, :1], y[:, :1]), bce(y_hat, y)[:, :1])


@pytest.mark.parametrize("name", LOSSES)
def test_ends_half_precision_and_rounding_errors(name):
    # every option at a value where a power or a clamp could break
    choices = {
        "nnpu": [{"prior": 0.1}, {"prior": 0.1, "surrogate": "logistic"}],
        "focal": [{"gamma": gamma} for gamma in (0.0, 0.5, 2.0)],
        "asymmetric": [{"gamma_negative": 0.5}, {"gamma_positive": 0.0, "shift": 0.0}],
        "hill": [{"gamma": 0.5}, {"margin": 20.0}],
        "splc": [{"gamma": 0.5}, {"start": 0}, {"margin": 20.0}],
    }.get(name, [{}])
    ends = [0.0, 1.0, 1e-30, 1 + 1e-6]
    claims, tags = zip(*itertools.product(ends, (0.0, 1.0, 0.5)), strict=True)
    for options, dtype in itertools.product(
        choices, (torch.float16, torch.bfloat16, torch.float32)
    ):
        y_hat = torch.tensor(claims, dtype=dtype, requires_grad=True)
        value = LOSSES[name]("none", **options)(y_hat, torch.tensor(tags))
        assert value.dtype == torch.float32 and value.isfinite().all()
        if dtype != torch.float16:  # 1e8, the largest gradient, is beyond it
            value.sum().backward()
            assert y_hat.grad.isfinite().all()
