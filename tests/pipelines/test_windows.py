"""Windows against the Weighter itself, on all frames at once."""

import numpy as np
import pytest
import torch

from pyannote_weighter.linking import Groups
from pyannote_weighter.pipelines.windows import (
    OVERLAP,
    ROUNDS,
    Windows,
    embed_groups,
    weigh_again,
    weigh_frames,
)
from pyannote_weighter.weighting import confidence
from tests.models.test_weighter import small_weighter

CAMPPLUS = {"name": "campplus", "pretrained": False}


@pytest.fixture(scope="module", params=["mean", "mean and deviation", "wavlm", "second head"])
def weighter(request):
    with torch.random.fork_rng():
        return {
            "mean": lambda: small_weighter(),
            "mean and deviation": lambda: small_weighter(backbone=CAMPPLUS),
            "wavlm": lambda: small_weighter("wavlm"),
            "second head": lambda: small_weighter(confidence="weighted_head"),
        }[request.param]()


def frames_and_count(weighter, num_frames: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(num_frames, weighter.backbone.frame_dimension, generator=generator) + 2
    return frames, np.random.default_rng(seed).integers(0, 3, num_frames).astype(np.uint8)


@torch.inference_mode()
def test_window_is_weighed_as_by_the_weighter(weighter):
    frames, count = frames_and_count(weighter, 203)
    weighed, window = weigh_frames(weighter, frames, count)
    expected = weighter.weigh(frames[None], count=torch.from_numpy(count)[None])
    step = weighter.encoder.step
    shares = [(count[first : first + step] == 1).mean() for first in range(0, len(count), step)]
    solo = torch.tensor(shares).float().add(OVERLAP).repeat_interleave(step)[: len(count)]
    # of frames where one speaker talks alone
    embeddings = weighter.embed(frames[None], expected.weightings * solo[None, :, None])
    for name, values in (
        ("weightings", expected.weightings[:, ::step]),
        ("embeddings", embeddings),
        ("confidence", expected.confidence),
    ):
        np.testing.assert_allclose(getattr(weighed, name), values[0].numpy(), atol=2e-4, rtol=1e-3)
    assert window.num_frames == 203
    assert (window.embeddings is None) == (expected.encoded.windows is None)


@pytest.mark.parametrize("half", [False, True])
@torch.inference_mode()
def test_window_is_weighed_again_without_its_frames(weighter, half):
    if not weighter.encoder.restarts:
        pytest.skip("this encoder weighs once")
    windows, parts = Windows(half), []
    for seed, num_frames in enumerate((100, 64, 31)):
        parts.append(frames_and_count(weighter, num_frames, seed))
        windows.append(weigh_frames(weighter, *parts[-1])[1])
    assert len(windows) == 3
    for index in (1, 2, 0):  # in any order
        frames, count = parts[index]
        step = weighter.encoder.step
        start = np.random.default_rng(9).dirichlet(np.ones(3), -(-len(count) // step))
        start = start.astype(np.float32)
        again = weigh_again(weighter, windows[index], count, start)
        expected = weighter.weigh(
            frames[None],
            torch.from_numpy(count)[None],
            start=torch.from_numpy(start.repeat(step, axis=0)[: len(count)])[None],
            last=ROUNDS,
        )
        atol = 2e-2 if half else 2e-4
        assert again.shape == start.shape
        np.testing.assert_allclose(again, expected.weightings[0, ::step].numpy(), atol=atol)


@pytest.mark.parametrize("half", [False, True])
@torch.inference_mode()
def test_speakers_are_embedded_from_sums(weighter, half):
    """Windows whose frames lie far from each other: sums must not cancel."""
    step, rng = weighter.encoder.step, np.random.default_rng(0)
    windows, all_frames, rows, x = Windows(half), [], [], []
    for seed, num_frames in enumerate((100, 62, 31)):
        frames, count = frames_and_count(weighter, num_frames, seed)
        frames = frames + 5 * seed
        windows.append(weigh_frames(weighter, frames, count)[1])
        all_frames.append(frames)
        steps = rng.uniform(0, 1, (-(-num_frames // step), 4)).astype(np.float32)
        steps[:, 3] *= seed == 1  # in one window only
        steps[:, 2] = 0  # nowhere
        rows.append(steps)
        x.append(steps.repeat(step, axis=0)[:num_frames])
    frames, x = torch.cat(all_frames), np.concatenate(x)
    parts, everyone = windows.cut(np.concatenate(rows)), [np.arange(4)] * 3
    found = embed_groups(weighter, windows, Groups(parts, everyone, 4))
    expected = weighter.embed(frames[None], torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(found.embeddings, expected, atol=2e-2 if half else 1e-3, rtol=1e-2)
    weights = [rng.uniform(0.1, 1, len(part)).astype(np.float32) for part in parts]
    weighted = embed_groups(weighter, windows, Groups(parts, everyone, 4), weights)
    each = np.concatenate(
        [w.repeat(step)[:n] for w, n in zip(weights, (100, 62, 31), strict=True)]
    )
    expected = weighter.embed(frames[None], torch.from_numpy(x * each[:, None])[None])[0].numpy()
    np.testing.assert_allclose(
        weighted.embeddings, expected, atol=2e-2 if half else 1e-3, rtol=1e-2
    )
    np.testing.assert_array_equal(weighted.confidence, found.confidence)
    np.testing.assert_allclose(
        found.confidence, confidence(torch.from_numpy(x)).numpy(), rtol=1e-5
    )
    assert np.isfinite(found.embeddings).all()
    # those who are not in a window, in any order
    some = [np.array([1, 0]), np.array([3, 1, 0]), np.array([0, 1])]
    parts = [part[:, who] for part, who in zip(parts, some, strict=True)]
    again = embed_groups(weighter, windows, Groups(parts, some, 4))
    np.testing.assert_allclose(again.embeddings, found.embeddings, atol=1e-4)
