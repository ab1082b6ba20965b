"""Weights, confidence, effective frames and pooling, against plain Python and StatsPool."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyannote_weighter.weighting import (
    confidence,
    confidence_of,
    effective_frames,
    normalize,
    pool_mean,
    pool_mean_std,
    pool_summary,
    summarize,
)

values = st.one_of(
    st.sampled_from([0.0, 1.0]),
    st.floats(2.0**-10, 1.0, width=32),
)
slots = st.lists(values, min_size=1, max_size=40)

FUNCTIONS = {
    "normalize": normalize,
    "confidence": confidence,
    "effective_frames": effective_frames,
    "mean": lambda x: confidence_of(x, head=x, mode="mean"),
    "weighted": lambda x: confidence_of(x, head=x, mode="weighted"),
}
EDGES = {
    "zero": torch.zeros(7),
    "one-hot": torch.eye(7)[2],
    "ones": torch.ones(7),
    "constant": torch.full((7,), 0.3),
    "tiny": torch.full((7,), 1e-11),
    "denormal": torch.full((7,), 1e-42),
    "dominant": torch.tensor([1.0, 1e-7, 0, 0, 0, 0, 0]),
    "spread": torch.logspace(-30, 0, 7),
}


def column(x: list[float], dtype=torch.float32) -> torch.Tensor:
    return torch.tensor(x, dtype=dtype).view(1, -1, 1)


@settings(max_examples=60, deadline=None)
@given(slots)
def test_against_plain_python(x):
    total, power = math.fsum(x), math.fsum(v * v for v in x)
    weights = normalize(column(x)).flatten().tolist()
    assert weights == pytest.approx([v / total if total else 0.0 for v in x], rel=1e-5)
    assert confidence(column(x)).item() == pytest.approx(power / total if total else 0.0, rel=1e-5)
    n = effective_frames(column(x)).item()
    assert n == pytest.approx(total**2 / power if total else 0.0, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(slots, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_bounds(x, dtype):
    x = column(x, dtype)
    weights, c, n = normalize(x), confidence(x), effective_frames(x)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert weights.dtype == c.dtype == n.dtype == expected
    silent = x.max() == 0
    assert weights.sum().item() == pytest.approx(0.0 if silent else 1.0, abs=1e-5)
    assert (weights >= 0).all()
    assert 0 <= c.item() <= 1
    assert 0 <= n.item() <= x.shape[1] * (1 + 1e-5)
    assert silent or n.item() >= 1 - 1e-5


@settings(max_examples=60, deadline=None)
@given(slots, st.floats(1e-6, 1.0))
def test_scale_goes_to_confidence_and_not_to_weights(x, scale):
    x = column(x)
    torch.testing.assert_close(normalize(scale * x), normalize(x), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(confidence(scale * x), scale * confidence(x), rtol=1e-4, atol=0)
    torch.testing.assert_close(effective_frames(scale * x), effective_frames(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_is_no_silence(name):
    x = torch.tensor([[0.5, torch.nan, 0.2], [0.5, 0.1, 0.0]]).T[None]
    found = FUNCTIONS[name](x)
    assert found[..., 0].isnan().any() and found[..., 1].isfinite().all()


def test_padding_and_order_of_slots_and_time_change_nothing():
    x = torch.rand(2, 20, 5)
    frames = torch.randn(2, 20, 3)
    padded = torch.cat([x, torch.zeros(2, 6, 5)], 1)
    more = torch.cat([frames, torch.zeros(2, 6, 3)], 1)
    slot, time = torch.randperm(5), torch.randperm(20)
    for function in (confidence, effective_frames):
        torch.testing.assert_close(function(padded), function(x))
        torch.testing.assert_close(function(x[:, :, slot]), function(x)[:, slot])
        torch.testing.assert_close(function(x[:, time]), function(x))
    for pool in (pool_mean, pool_mean_std):
        expected = pool(frames, x)
        torch.testing.assert_close(pool(more, padded), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pool(frames, x[:, :, slot]), expected[:, slot])
        shuffled = pool(frames[:, time], x[:, time])
        torch.testing.assert_close(shuffled, expected, rtol=1e-4, atol=1e-5)


def test_other_dimension_of_time_and_no_batch():
    x, frames = torch.rand(2, 9, 3), torch.randn(2, 9, 4)
    turned = x.transpose(1, 2)
    torch.testing.assert_close(normalize(turned, dim=-1), normalize(x).transpose(1, 2))
    torch.testing.assert_close(confidence(turned, dim=-1), confidence(x))
    torch.testing.assert_close(effective_frames(turned, dim=2), effective_frames(x))
    torch.testing.assert_close(confidence(x[0]), confidence(x)[0])
    torch.testing.assert_close(pool_mean(frames[1], x[1]), pool_mean(frames, x)[1])
    torch.testing.assert_close(pool_mean_std(frames[1], x[1]), pool_mean_std(frames, x)[1])


def test_three_forms_of_confidence():
    x, y = torch.rand(2, 9, 3), torch.rand(2, 9, 3)
    torch.testing.assert_close(confidence_of(x), confidence(x))
    torch.testing.assert_close(confidence_of(x, y, "mean"), y.mean(1))
    weighted = (x * y).sum(1) / x.sum(1)
    torch.testing.assert_close(confidence_of(x, y, "weighted"), weighted)
    torch.testing.assert_close(confidence_of(x, x, "weighted"), confidence(x))


def test_errors_name_the_cure():
    x, frames = torch.rand(1, 5, 2), torch.rand(1, 6, 4)
    with pytest.raises(ValueError, match="choose 'mean'"):
        confidence_of(x, mode="median")
    with pytest.raises(ValueError, match="pass it as `head`"):
        confidence_of(x, mode="mean")
    with pytest.raises(ValueError, match="no second head"):
        confidence_of(x, head=x)
    with pytest.raises(ValueError, match="head is"):
        confidence_of(x, head=x[:, :, :1], mode="weighted")
    with pytest.raises(ValueError, match="resample"):
        pool_mean(frames, x)
    with pytest.raises(ValueError, match="resample"):
        pool_mean_std(frames, x)
    with pytest.raises(ValueError, match="no frames"):
        normalize(x[:, :0])


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_are_finite(name, edge, dtype):
    x = EDGES[edge].view(1, -1, 1).to(dtype).requires_grad_()
    output = FUNCTIONS[name](x)
    assert output.isfinite().all()
    (output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_gradients_are_right(name, scale):
    x = (scale * torch.rand(2, 5, 3, dtype=torch.float64)).requires_grad_()
    inputs = {"eps": 1e-6 * scale, "atol": 1e-5 / scale}
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x,), **inputs)


def test_pooling_gradients_are_right():
    x = torch.rand(2, 6, 3, dtype=torch.float64, requires_grad=True)
    frames = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool_mean, (frames, x))

    # moves frames, and with them their center, which pooling holds constant: it must not matter
    assert torch.autograd.gradcheck(pool_mean_std, (frames, x))


def plain_mean_std(frames: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One slot, one channel at a time, in double precision."""
    output = []
    for b in range(frames.shape[0]):
        for n in range(x.shape[2]):
            w = x[b, :, n].double().tolist()
            total = math.fsum(w)
            w = [v / total if total else 0.0 for v in w]
            mean, std = [], []
            for c in range(frames.shape[2]):
                f = frames[b, :, c].double().tolist()
                mu = math.fsum(a * v for a, v in zip(w, f, strict=True))
                var = math.fsum(a * (v - mu) ** 2 for a, v in zip(w, f, strict=True))
                unbias = 1 - math.fsum(a * a for a in w)
                # as `pool_mean_std` says: a millionth of the squared distance to the file's mean
                center = math.fsum(f) / len(f)
                power = math.fsum(a * (v - center) ** 2 for a, v in zip(w, f, strict=True))
                resolved = total and unbias > 1e-9 and var > 1e-6 * power
                mean.append(mu)
                std.append(math.sqrt(var / unbias) if resolved else 0.0)
            output.append(mean + std)
    return torch.tensor(output).view(frames.shape[0], x.shape[2], -1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.sampled_from([0.0, 5.0, -100.0]),
)
@example([[0.0, 1.0, 0.0], [0.0, 0.015625, 0.0], [0.0, 0.0, 0.0]], 372, 0.0)
def test_pooling_against_plain_python(x, seed, offset):
    torch.manual_seed(seed)
    x = torch.tensor(x).unsqueeze(0)
    frames = offset + torch.randn(1, x.shape[1], 2)
    frames[:, :, 1] = offset  # a constant channel
    expected = plain_mean_std(frames, x)
    tolerance = {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(pool_mean(frames, x), expected[:, :, :2], **tolerance)
    torch.testing.assert_close(pool_mean_std(frames, x), expected, **tolerance)


@pytest.mark.parametrize("num_frames", [2, 30, 1000])
@pytest.mark.parametrize("kind", ["soft", "binary", "one-hot", "zero", "ones"])
def test_parity_with_stats_pool(num_frames, kind):
    pooling = pytest.importorskip("pyannote.audio.models.blocks.pooling")
    torch.manual_seed(0)
    frames = 3 * torch.randn(2, num_frames, 6) + 5 * torch.randn(6)
    frames[:, :, 0] = 2.5  # a constant channel
    x = torch.rand(2, num_frames, 4)
    if kind == "binary":
        x = (x > 0.5).float()
    elif kind == "one-hot":
        x = torch.eye(num_frames)[torch.randint(num_frames, (2, 4))].transpose(1, 2)
    elif kind in ("zero", "ones"):
        x = torch.full_like(x, float(kind == "ones"))
    theirs = pooling.StatsPool()(frames.transpose(1, 2), x.transpose(1, 2))
    ours = pool_mean_std(frames, x)
    finite = theirs.isfinite()
    assert finite.any()
    torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(pool_mean(frames, x), theirs[:, :, :6], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", ["random", "constant", "zero", "large"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_pooling_gradients_are_finite(edge, kind, dtype):
    torch.manual_seed(0)
    x = EDGES[edge].view(1, -1, 1).to(dtype).requires_grad_()
    frames = {
        "random": torch.randn(1, 7, 4),
        "constant": torch.full((1, 7, 4), 3.7),
        "zero": torch.zeros(1, 7, 4),
        "large": 1e4 * torch.randn(1, 7, 4).clamp(-3, 3),
    }[kind]
    frames = frames.to(dtype).requires_grad_()
    output = torch.cat([pool_mean_std(frames, x), pool_mean(frames, x)], -1)
    assert output.dtype == torch.float32 and output.isfinite().all()
    output.sum().backward()
    if dtype == torch.float32 or (kind != "large" and edge not in ("dominant", "spread")):
        # else gradients of the size of frame / weighting are beyond float16
        assert x.grad.isfinite().all() and frames.grad.isfinite().all()


def test_one_hot_constant_and_silent_have_zero_deviation():
    torch.manual_seed(0)
    frames = torch.randn(1, 50, 3) + torch.tensor([0.0, 40.0, -7.0])
    x = torch.zeros(1, 50, 2)
    x[0, 11, 1] = 0.4
    pooled = pool_mean_std(frames, x)
    assert (pooled[0, 0] == 0).all()
    torch.testing.assert_close(pooled[0, 1, :3], frames[0, 11])
    assert (pooled[0, 1, 3:] == 0).all()
    constant = pool_mean_std(torch.full((1, 999, 1), 123.456), torch.rand(1, 999, 2))
    assert (constant[..., 1] == 0).all()


def test_autocast_keeps_full_precision():
    torch.manual_seed(0)
    frames, x = torch.randn(1, 400, 3) + 100, torch.rand(1, 400, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pool_mean_std(frames, x)
    torch.testing.assert_close(pooled, pool_mean_std(frames, x))


def test_a_dead_slot_learns_through_its_logits():
    logits = torch.full((1, 9, 1), -20.0, requires_grad=True)
    torch.log(confidence(logits.sigmoid())).sum().backward()
    # ln c of a constant weighting grows by one when all logits grow by one
    assert logits.grad.sum().item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("strength", [2.0, 6.0, 10.0, 14.0, 18.0])
def test_gradients_of_near_one_hot_slots_stay_small_through_a_sigmoid(strength):
    torch.manual_seed(0)
    logits = (strength * (2 * torch.eye(30)[:1] - 1)).view(1, 30, 1) + torch.randn(1, 30, 1)
    logits.requires_grad_()
    frames = torch.randn(1, 30, 8)
    pool_mean_std(frames, logits.sigmoid()).sum().backward()
    assert logits.grad.abs().max() < 30


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 35), st.sampled_from([0.0, -100.0]), st.integers(0, 99))
def test_summary_pools_like_the_frames(num_frames, step, offset, seed):
    torch.manual_seed(seed)
    frames = offset + torch.randn(2, num_frames, 3)
    num_steps = math.ceil(num_frames / step)
    x = torch.rand(2, num_steps, 4)
    x[:, :, 1] = 0.0
    x[:, :, 2] = torch.eye(num_steps)[-1]  # the last step alone, which may be short
    repeated = x.repeat_interleave(step, dim=1)[:, :num_frames]

    summary = summarize(frames, step)
    assert summary.mean.shape == summary.power.shape == (2, num_steps, 3)
    assert summary.size.flatten().tolist()[:-1] == [step] * (num_steps - 1)
    assert summary.size.sum() == num_frames
    expected, tolerance = pool_mean_std(frames, repeated), {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(pool_summary(summary, x), expected, **tolerance)
    torch.testing.assert_close(expected, plain_mean_std(frames, repeated), **tolerance)
    mean = pool_summary(summary, x, deviation=False)
    torch.testing.assert_close(mean, pool_mean(frames, repeated), rtol=1e-4, atol=1e-4)
    alone = pool_summary(summarize(frames[1], step), x[1])
    torch.testing.assert_close(alone, pool_summary(summary, x)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", [1, 4, 40])
def test_summary_leaves_padding_out(step):
    torch.manual_seed(0)
    lengths = [23, 9, 1, 0]
    frames = torch.randn(4, 23, 3)
    mask = torch.arange(23) < torch.tensor(lengths)[:, None]
    x = torch.rand(4, math.ceil(23 / step), 2, requires_grad=True)
    summary = summarize(frames.masked_fill(~mask.unsqueeze(-1), torch.nan), step, mask)
    pooled = pool_summary(summary, x)
    for i, length in enumerate(lengths[:-1]):
        alone = summarize(frames[i, :length], step)
        num_steps = len(alone.size)
        expected = pool_summary(alone, x[i, :num_steps])
        torch.testing.assert_close(pooled[i], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(summary.size[i, :num_steps], alone.size)
        assert (summary.size[i, num_steps:] == 0).all()
    assert (pooled[-1] == 0).all()
    pooled.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("step", [2, 5])
def test_summary_gradients_are_right(step):
    x = torch.rand(2, math.ceil(7 / step), 3, dtype=torch.float64, requires_grad=True)
    frames = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, x: pool_summary(summarize(f, step), x), (frames, x))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", ["random", "constant", "zero"])
def test_summary_gradients_are_finite(edge, kind):
    torch.manual_seed(0)
    x = EDGES[edge].view(1, -1, 1).clone().requires_grad_()
    frames = {
        "random": torch.randn(1, 19, 4),
        "constant": torch.full((1, 19, 4), 3.7),
        "zero": torch.zeros(1, 19, 4),
    }[kind].requires_grad_()
    pooled = pool_summary(summarize(frames, 3), x)
    assert pooled.isfinite().all()
    pooled.sum().backward()
    assert x.grad.isfinite().all() and frames.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    frames, x = torch.randn(2, 300, 16), torch.rand(2, 300, 5)
    expected = pool_mean_std(frames, x)
    with torch.autocast("cuda"):
        pooled = pool_mean_std(frames.cuda(), x.cuda())
    torch.testing.assert_close(pooled.cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(confidence(x.cuda()).cpu(), confidence(x))
