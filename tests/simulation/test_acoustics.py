import numpy as np
import pytest

from pyannote_weighter.simulation import SAMPLE_RATE, Acoustics, pink_noise, room_response


def test_pink_noise_falls_by_3_db_an_octave():
    noise = pink_noise(60 * SAMPLE_RATE + 7, np.random.default_rng(0))
    assert noise.shape == (60 * SAMPLE_RATE + 7,) and noise.dtype == np.float32
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1.0, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    octaves = [
        power[(frequencies >= low) & (frequencies < 2 * low)].mean() for low in (100, 400, 1600)
    ]
    np.testing.assert_allclose(10 * np.log10(np.divide(octaves[:-1], octaves[1:])), 6.0, atol=0.3)


@pytest.mark.parametrize("rt60", [0.15, 0.4, 0.6])
@pytest.mark.parametrize("direct_ratio", [0.0, 10.0])
def test_room_decays_as_asked(rt60, direct_ratio):
    response = room_response(rt60, direct_ratio, np.random.default_rng(1)).astype(np.float64)
    assert np.sum(response**2) == pytest.approx(1.0, abs=1e-5)
    assert np.argmax(np.abs(response)) == 0  # nothing comes before the direct sound
    ratio = response[0] ** 2 / np.sum(response[1:] ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(direct_ratio, abs=0.01)
    tail = response[int(0.010 * SAMPLE_RATE) :]
    time = np.arange(len(tail)) / SAMPLE_RATE
    slope = np.polyfit(time, 20 * np.log10(np.abs(tail) + 1e-12), 1)[0]
    assert -60.0 / slope == pytest.approx(rt60, rel=0.1)


def test_gain_is_bounded():
    rng = np.random.default_rng(0)
    decibels = [20 * np.log10(Acoustics(gain=3.0).draw_gain(rng)) for _ in range(2000)]
    assert np.std(decibels) == pytest.approx(2.8, abs=0.2)
    assert np.abs(decibels).max() <= 6.0 + 1e-9
