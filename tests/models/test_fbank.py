import pytest
import torch
from torchaudio.compliance import kaldi

from pyannote_weighter.models.fbank import KaldiFbank


@pytest.mark.parametrize("num_samples", [400, 559, 560, 16000])
def test_parity_with_torchaudio(num_samples):
    torch.manual_seed(0)
    waveforms = 0.1 * torch.randn(3, num_samples)
    before = waveforms.clone()
    fbank = KaldiFbank()(waveforms)
    assert torch.equal(waveforms, before)
    assert fbank.shape[1] == KaldiFbank().num_frames(num_samples)
    for one, waveform in zip(fbank, waveforms, strict=True):
        expected = kaldi.fbank(waveform[None], num_mel_bins=80, sample_frequency=16000)
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)


def test_parity_at_another_rate():
    waveform = 0.1 * torch.randn(1, 8000)
    expected = kaldi.fbank(waveform, num_mel_bins=40, sample_frequency=8000)
    torch.testing.assert_close(KaldiFbank(8000, 40)(waveform)[0], expected, rtol=1e-5, atol=1e-5)


def test_silence_is_finite_and_too_short_is_an_error():
    assert torch.isfinite(KaldiFbank()(torch.zeros(1, 4000))).all()
    with pytest.raises(ValueError, match="399 samples is shorter than one window of 400"):
        KaldiFbank()(torch.zeros(1, 399))


def test_gradients():
    fbank = KaldiFbank(400, num_mel_bins=4).double()  # windows of 10 samples
    waveforms = torch.randn(2, 18, dtype=torch.float64, requires_grad=True)
    assert fbank(waveforms).shape == (2, 3, 4) and torch.autograd.gradcheck(fbank, waveforms)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_changes_nothing(half):
    torch.manual_seed(0)
    waveforms = 1e-3 * torch.randn(2, 4000)
    for given in (waveforms, waveforms.to(half)):
        expected = KaldiFbank()(given.float())
        with torch.autocast("cpu", dtype=half):
            assert torch.equal(KaldiFbank()(given), expected)


def test_no_state():
    assert not KaldiFbank().state_dict()
