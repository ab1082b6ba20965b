"""Silence, one speaker, several: the loss of the counts."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyannote_weighter.tasks.activity import activity_loss

STEP = 4


def data(batch=2, num_frames=22) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of steps; counts of frames; the second file is shorter."""
    generator = torch.Generator().manual_seed(0)
    count = torch.randint(0, 5, (batch, num_frames), dtype=torch.uint8, generator=generator)
    mask = torch.ones(batch, num_frames, dtype=torch.bool)
    mask[1, 14:] = False
    logits = torch.randn(batch, -(-num_frames // STEP), 3, generator=generator)
    return logits, count, mask


def test_equals_plain_python():
    logits, count, mask = data()
    losses = []
    for file, length in enumerate((22, 14)):
        for step in range(-(-length // STEP)):
            frame = min(STEP * step + STEP // 2, length - 1)
            wanted = min(int(count[file, frame]), 2)
            row = logits[file, step].tolist()
            losses.append(math.log(sum(map(math.exp, row))) - row[wanted])
    assert activity_loss(logits, count, mask, STEP).item() == pytest.approx(
        sum(losses) / len(losses), rel=1e-5
    )


@pytest.mark.skipif(
    not torch.cuda.is_available() and torch.__version__.startswith("2.8."),
    reason="fake tensors of a GPU need a driver in torch 2.8",
)
@pytest.mark.parametrize("moved", [True, False])
def test_runs_on_a_gpu(moved):
    """Whether counts are there already or not; fake tensors refuse what a GPU would refuse."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits, count, mask = map(mode.from_tensor, data())
        device = torch.device("cuda")
        logits = torch.empty_like(logits, device=device)
        if moved:
            count, mask = (torch.empty_like(part, device=device) for part in (count, mask))
        assert activity_loss(logits, count, mask, STEP).device.type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradient_is_deterministic():
    """Of a loss of three dimensions there is none on a GPU that is."""
    logits, count, mask = (part.cuda() for part in data())
    torch.use_deterministic_algorithms(True)
    try:
        activity_loss(logits.requires_grad_(), count, mask, STEP).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert logits.grad.isfinite().all()
