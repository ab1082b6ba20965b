"""The published encoder, and what it relies on in torchaudio's private functions."""

import inspect

import pytest
import torch
from torchaudio.models.wav2vec2 import components

from pyannote_weighter.models.encoders.wavlm import WavLMEncoder

SMALL = {"dimension": 32, "num_layers": 2, "num_heads": 4, "position_kernel": 16}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return WavLMEncoder(in_channels=48, num_slots=3, **SMALL).eval()


@pytest.mark.parametrize("num_frames", [1, 2, 14, 15, 16, 29, 100, 151])
def test_shape_and_range(encoder, num_frames):
    weightings = encoder(torch.randn(2, num_frames, 48))
    assert weightings.shape == (2, num_frames, 3)
    assert ((weightings >= 0) & (weightings <= 1)).all()
    # each value repeated 15 times
    assert torch.equal(weightings[:, : min(15, num_frames)].amax(1), weightings[:, 0])


def test_published_reduction():
    encoder = WavLMEncoder(in_channels=768, num_slots=2, **SMALL).eval()
    steps, _ = encoder._reduce(torch.randn(1, 300, 768), None)
    assert steps.shape == (1, 20, 64)


def test_batch_with_padding_equals_single_files(encoder):
    torch.manual_seed(1)
    lengths = [151, 90, 16, 7, 1]
    files = [torch.randn(1, length, 48) for length in lengths]
    batch = torch.full((len(lengths), max(lengths), 48), 100.0)  # padding that would be noticed
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    for i, file in enumerate(files):
        batch[i, : lengths[i]] = file
        mask[i, : lengths[i]] = True

    weightings = encoder(batch, mask)
    for i, file in enumerate(files):
        torch.testing.assert_close(
            weightings[i : i + 1, : lengths[i]], encoder(file), rtol=1e-5, atol=1e-6
        )
        assert (weightings[i, lengths[i] :] == 0).all()


def test_all_true_mask_and_all_padding(encoder):
    frames = torch.randn(2, 40, 48)
    everything = torch.ones(2, 40, dtype=torch.bool)
    torch.testing.assert_close(encoder(frames, everything), encoder(frames))
    everything[1] = False
    assert torch.equal(encoder(frames, everything)[1], torch.zeros(40, 3))


def test_walk_equals_torchaudio(encoder):
    x = torch.randn(2, 30, 32)
    torch.testing.assert_close(encoder._transform(x, None), encoder.encoder.transformer(x))


def test_learns_with_padding_and_layer_drop():
    encoder = WavLMEncoder(48, 3, layer_drop=1.0, **SMALL)  # every layer skipped
    mask = torch.arange(40).expand(2, 40) < 20
    encoder(torch.randn(2, 40, 48), mask).sum().backward()
    for parameter in encoder.reduce.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_contract_with_torchaudio():
    """Signatures and attributes of private functions that the encoder builds on."""
    wanted = {
        "in_features", "embed_dim", "dropout_input", "pos_conv_kernel", "pos_conv_groups",
        "num_layers", "num_heads", "num_buckets", "max_distance", "attention_dropout",
        "ff_interm_features", "ff_interm_dropout", "dropout", "layer_norm_first", "layer_drop",
    }  # fmt: skip
    assert set(inspect.signature(components._get_wavlm_encoder).parameters) == wanted

    encoder = WavLMEncoder(48, 3, **SMALL).encoder
    assert isinstance(encoder.feature_projection, components.FeatureProjection)
    assert {"layers", "layer_drop", "layer_norm_first", "_preprocess"} <= set(
        dir(encoder.transformer)
    )
    layer = encoder.transformer.layers[0]
    assert {"position_bias", "key_padding_mask"} <= set(
        inspect.signature(layer.forward).parameters
    )
    assert layer.attention.compute_bias(5, 5).shape == (4, 5, 5)
