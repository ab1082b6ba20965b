"""The published encoder, and what it relies on in torchaudio's private functions."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torchaudio.models.wav2vec2 import components

from pyannote_weighter.models.encoders import Encoded, Pooling, WavLMEncoder
from pyannote_weighter.weighting import pool_summary, summarize

SMALL = {"dimension": 32, "num_layers": 2, "num_heads": 4, "position_kernel": 16}


def make(channels: int = 48, **options) -> WavLMEncoder:
    torch.manual_seed(0)
    backbone = SimpleNamespace(frame_dimension=channels)
    return WavLMEncoder(backbone, num_slots=3, **SMALL, **options).eval()


def encode(encoder: WavLMEncoder, frames: torch.Tensor, mask=None) -> Encoded:
    summary = summarize(frames, encoder.step, mask)
    pooling = Pooling(embed=lambda x: pool_summary(summary, x), embed_windows=None)
    return encoder(frames, summary, pooling, mask=mask)


@pytest.fixture(scope="module")
def encoder() -> WavLMEncoder:
    return make()


@pytest.mark.parametrize("num_frames", [1, 2, 14, 15, 16, 29, 100, 151])
def test_shape_and_range(encoder, num_frames):
    encoded = encode(encoder, torch.randn(2, num_frames, 48))
    assert encoder.step == 15 and encoded.activity is None
    (weightings,), (embeddings,) = encoded.weightings, encoded.embeddings
    assert weightings.shape == (2, -(-num_frames // 15), 3)
    assert embeddings.shape == (2, 3, 96)
    assert ((weightings >= 0) & (weightings <= 1)).all()


def test_published_reduction():
    steps, _ = make(768)._reduce(torch.randn(1, 300, 768), None)
    assert steps.shape == (1, 20, 64)


def test_batch_with_padding_equals_single_files(encoder):
    torch.manual_seed(1)
    lengths = [151, 90, 16, 7, 1]
    files = [torch.randn(1, length, 48) for length in lengths]
    batch = torch.full((len(lengths), max(lengths), 48), 100.0)  # padding that would be noticed
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    for i, file in enumerate(files):
        batch[i, : lengths[i]] = file

    weightings = encode(encoder, batch, mask).weightings[-1]
    for i, file in enumerate(files):
        alone = encode(encoder, file).weightings[-1]
        num_steps = alone.shape[1]
        together = weightings[i : i + 1]
        torch.testing.assert_close(together[:, :num_steps], alone, rtol=1e-5, atol=1e-6)
        assert (together[:, num_steps:] == 0).all()


def test_all_true_mask_and_all_padding(encoder):
    frames = torch.randn(2, 40, 48)
    mask = torch.ones(2, 40, dtype=torch.bool)
    plain = encode(encoder, frames).weightings[-1]
    torch.testing.assert_close(encode(encoder, frames, mask).weightings[-1], plain)
    mask[1] = False
    encoded = encode(encoder, frames, mask)
    assert torch.equal(encoded.weightings[-1][1], torch.zeros(3, 3))
    assert torch.equal(encoded.embeddings[-1][1], torch.zeros(3, 96))


def test_walk_equals_torchaudio(encoder):
    x = torch.randn(2, 30, 32)
    torch.testing.assert_close(encoder._transform(x, None), encoder.encoder.transformer(x))


def test_learns_with_padding_and_layer_drop():
    encoder = make(layer_drop=1.0).train()  # every layer skipped
    mask = torch.arange(40).expand(2, 40) < 20
    encode(encoder, torch.randn(2, 40, 48), mask).weightings[-1].sum().backward()
    for parameter in encoder.reduce.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_contract_with_torchaudio(encoder):
    """Signatures and attributes of private functions that the encoder builds on."""
    wanted = {
        "in_features", "embed_dim", "dropout_input", "pos_conv_kernel", "pos_conv_groups",
        "num_layers", "num_heads", "num_buckets", "max_distance", "attention_dropout",
        "ff_interm_features", "ff_interm_dropout", "dropout", "layer_norm_first", "layer_drop",
    }  # fmt: skip
    assert set(inspect.signature(components._get_wavlm_encoder).parameters) == wanted

    built = encoder.encoder
    assert isinstance(built.feature_projection, components.FeatureProjection)
    assert {"layers", "layer_drop", "layer_norm_first", "_preprocess"} <= set(
        dir(built.transformer)
    )
    layer = built.transformer.layers[0]
    assert {"position_bias", "key_padding_mask"} <= set(
        inspect.signature(layer.forward).parameters
    )
    assert layer.attention.compute_bias(5, 5).shape == (4, 5, 5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_layers": 0}, "num_layers is 0: choose a whole number of at least 1"),
        ({"dropout": 2}, "dropout is 2: choose a share"),
        ({"num_buckets": 0}, "num_buckets is 0: choose"),
        ({"num_heads": 5}, "num_heads is 5: choose one that divides the dimension, 32"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        WavLMEncoder(SimpleNamespace(frame_dimension=48), num_slots=3, **SMALL | options)
