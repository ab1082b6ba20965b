"""Where the confidence of a slot comes from: the three steps of its history."""

import pytest
import torch
from pyannote.audio import Model

from pyannote_weighter.models.checkpoint import save_checkpoint
from tests.models.test_weighter import ENCODERS, assert_padding_changes_nothing, small_weighter

HEADS = ["mean_head", "weighted_head"]


def slow_confidence(mode: str, x: list[float], y: list[float]) -> float:
    """Of one slot."""
    if mode == "mean_head":
        return sum(y) / len(y)
    values = x if mode == "self" else y
    return sum(a * b for a, b in zip(x, values, strict=True)) / sum(x)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("mode", ["self", *HEADS])
def test_against_plain_python(encoder, mode):
    model = small_weighter(encoder, confidence=mode)
    frames = torch.randn(2, 52, 48)
    with torch.inference_mode():
        weighted = model.weigh(frames)
    heads, step = weighted.encoded.heads, model.encoder.step
    assert (heads is None) == (mode == "self")
    x = weighted.weightings
    y = x if heads is None else heads[-1].repeat_interleave(step, dim=1)[:, :52]
    assert x.shape == y.shape and ((y >= 0) & (y <= 1)).all()
    if heads is not None:
        assert len(heads) == len(weighted.encoded.weightings)
        assert y.std() > 0.01 and not torch.allclose(x, y)
    for file in range(2):
        for slot in range(4):
            slow = slow_confidence(mode, x[file, :, slot].tolist(), y[file, :, slot].tolist())
            assert weighted.confidence[file, slot].item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("mode", HEADS)
def test_padding_changes_nothing(encoder, mode):
    assert_padding_changes_nothing(small_weighter(encoder, confidence=mode), with_count=True)


@pytest.mark.parametrize("mode", HEADS)
def test_the_second_head_leaves_all_else_alone(mode):
    """Same weightings as without it, whatever their confidence."""
    plain, second = small_weighter(), small_weighter(confidence=mode)
    own = {n: v for n, v in second.state_dict().items() if n not in plain.state_dict()}
    assert own and all(".second." in name for name in own)
    second.load_state_dict(plain.state_dict() | own)
    frames = torch.randn(1, 80, 48)
    with torch.inference_mode():
        torch.testing.assert_close(second.weigh(frames)[:2], plain.weigh(frames)[:2])


@pytest.mark.parametrize("mode", ["self", *HEADS])
def test_checkpoints(mode, tmp_path):
    model = small_weighter(confidence=mode)
    loaded = Model.from_pretrained(save_checkpoint(model, tmp_path / "pytorch_model.bin"))
    assert loaded.hparams.confidence == mode
    frames = torch.randn(1, 60, 48)
    with torch.inference_mode():
        assert torch.equal(loaded.eval().weigh(frames).confidence, model.weigh(frames).confidence)


def test_checkpoints_from_before_the_option(tmp_path):
    path = save_checkpoint(small_weighter(), tmp_path / "pytorch_model.bin")
    stored = torch.load(path, weights_only=False)
    del stored["hyper_parameters"]["confidence"]
    torch.save(stored, path)
    assert Model.from_pretrained(path).hparams.confidence == "self"


def test_unknown_confidence_is_refused():
    with pytest.raises(
        ValueError, match="confidence is 'best': choose self, mean_head, weighted_head"
    ):
        small_weighter(confidence="best")
