"""Windows and steps of the default encoder."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.models.backbones.pooling import pool_windows
from pyannote_weighter.models.encoders import ENCODERS, RefineEncoder, get_encoder
from pyannote_weighter.models.encoders.base import Pooling
from pyannote_weighter.models.encoders.windowed import ActivityHead
from pyannote_weighter.weighting import pool_summary, summarize

BACKBONE = SimpleNamespace(sample_rate=16000, frame_step=320, frame_dimension=12, dimension=8)


@pytest.mark.parametrize(
    "seconds, frames",
    [((0.5, 0.1), (25, 5)), ((0.1, 0.1), (5, 5)), ((0.4, 0.1), (25, 5)), ((1.5, 0.02), (75, 1))],
)
def test_window_is_an_odd_number_of_steps(seconds, frames):
    encoder = RefineEncoder(BACKBONE, num_slots=2, window=seconds[0], step=seconds[1], dimension=8)
    assert (encoder.window, encoder.step) == frames
    assert (encoder.window - encoder.step) % 2 == 0
    assert encoder.refiner.window_step == pytest.approx(seconds[1])


@pytest.mark.parametrize("num_frames", [1, 4, 5, 6, 23])
def test_steps_against_a_plain_loop(num_frames):
    encoder = RefineEncoder(BACKBONE, num_slots=2, dimension=8)
    x = torch.randn(2, num_frames, 3)
    mask = torch.arange(num_frames) < torch.tensor([[num_frames], [num_frames // 2 + 1]])
    steps, masked = encoder.to_steps(x), encoder.to_steps(x, mask)
    assert steps.shape == masked.shape == (2, -(-num_frames // 5), 3)
    for b in range(2):
        for s in range(steps.shape[1]):
            step = slice(5 * s, 5 * s + 5)
            torch.testing.assert_close(steps[b, s], x[b, step].mean(0))
            inside = x[b, step][mask[b, step]]
            expected = inside.mean(0) if len(inside) else torch.zeros(3)
            torch.testing.assert_close(masked[b, s], expected)


def test_activity_does_not_see_padding():
    torch.manual_seed(0)
    head = ActivityHead(12)
    frames = torch.randn(2, 30, 12)
    inside = (torch.arange(30) < 17).float().expand(2, 30)
    torch.testing.assert_close(head(frames, inside)[:, :17], head(frames[:, :17]))
    assert head(frames).shape == (2, 30, 3)


def test_activity_is_left_out_where_it_is_not_asked_for():
    torch.manual_seed(0)
    encoder = RefineEncoder(BACKBONE, num_slots=3)
    frames, count = torch.randn(1, 60, 12), torch.randint(0, 3, (1, 60))
    summary = summarize(frames, encoder.step)
    pooling = Pooling(
        embed=lambda x: pool_summary(summary, x)[..., :8],
        embed_windows=lambda frames, weights, window, step: frames[:, ::step, :8],
    )
    expected = encoder(frames, summary, pooling, count=count)
    found = encoder(frames, summary, pooling, count=count, estimate=False)
    assert expected.activity.shape == (1, 12, 3) and found.activity is None
    assert torch.equal(found.weightings[-1], expected.weightings[-1])
    # without a count, it is what the weightings are made of
    assert encoder(frames, summary, pooling, estimate=False).activity is not None


def test_registry():
    assert set(ENCODERS) == {"refine", "wavlm"}
    encoder = get_encoder({"name": "refine", "dimension": 8, "num_rounds": 2}, BACKBONE, 3)
    assert isinstance(encoder, RefineEncoder) and encoder.refiner.num_rounds == 2
    assert not any(value is BACKBONE for value in vars(encoder).values())


@pytest.mark.parametrize("content", [1e3, torch.nan])
@pytest.mark.parametrize("with_start", [False, True])
def test_contents_of_padding_change_nothing(content, with_start):
    torch.manual_seed(0)
    encoder = RefineEncoder(BACKBONE, num_slots=3)
    frames, mask = torch.randn(2, 58, 12), torch.arange(58) < torch.tensor([[58], [33]])
    start = torch.rand(2, 58, 2)

    def weigh(frames, start):
        summary = summarize(frames, encoder.step, mask)
        pooling = Pooling(
            embed=lambda x: pool_summary(summary, x)[..., :8],
            embed_windows=lambda *given: pool_windows(*given)[..., :8],
        )
        start = start if with_start else None
        return encoder(frames, summary, pooling, mask=mask, start=start).weightings[-1]

    outside = ~mask[..., None]
    expected = weigh(frames.masked_fill(outside, 0), start.masked_fill(outside, 0))
    found = weigh(frames.masked_fill(outside, content), start.masked_fill(outside, content))
    assert torch.equal(found, expected)


def test_start_of_a_step_is_that_of_its_frames():
    """A step that reaches into padding starts with its frames alone."""
    torch.manual_seed(0)
    encoder = RefineEncoder(BACKBONE, num_slots=2)
    frames, start = torch.randn(1, 23, 12), torch.rand(1, 23, 2)
    starts = []
    encoder.refiner.register_forward_pre_hook(
        lambda _, args, options: starts.append(options["start"]), with_kwargs=True
    )
    for length in (23, 30):
        padded = F.pad(frames, (0, 0, 0, length - 23))
        mask = torch.arange(length)[None] < 23
        summary = summarize(padded, encoder.step, mask)
        pooling = Pooling(
            embed=lambda x, summary=summary: pool_summary(summary, x)[..., :8],
            embed_windows=lambda *given: pool_windows(*given)[..., :8],
        )
        given = F.pad(start, (0, 0, 0, length - 23))
        encoder(padded, summary, pooling, mask=mask, start=given)
    torch.testing.assert_close(starts[1][:, :5], starts[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"step": 0}, "step is 0: choose a number above 0"),
        ({"window": -1}, "window is -1: choose a number above 0"),
        ({"num_rounds": 0}, "num_rounds is 0: choose a whole number of at least 1"),
        ({"dimension": 0}, "dimension is 0: choose None, or"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        RefineEncoder(BACKBONE, num_slots=2, **options)


def test_rounding_is_as_documented():
    """A step of 1 frame in place of 0.75: the window is a third longer than it was asked for."""
    encoder = RefineEncoder(BACKBONE, num_slots=2, window=0.135, step=0.015)
    assert (encoder.window, encoder.step) == (9, 1)
