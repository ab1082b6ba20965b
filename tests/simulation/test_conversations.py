import numpy as np
import pytest
import soundfile
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from pyannote_weighter.simulation import (
    SAMPLE_RATE,
    Acoustics,
    read_turns,
    read_voices,
    simulate_conversation,
)
from tests.simulation.conftest import PITCHES

DRY = Acoustics(snr=None, room_share=0.0)


def labelled(timeline, num_samples):
    mask = np.zeros(num_samples, bool)
    for segment in timeline:
        mask[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)] = True
    return mask


def test_each_speaker_is_heard_in_his_turns_only(tones, turns):
    waveform, annotation = simulate_conversation(
        tones, turns, np.random.default_rng(0), (30.0, 40.0), DRY, uri="x"
    )
    assert annotation.uri == "x" and set(annotation.labels()) == set(PITCHES)
    assert waveform.dtype == np.float32 and waveform.shape[0] == 1
    assert 30.0 <= waveform.shape[1] / SAMPLE_RATE <= 40.0
    assert annotation.get_timeline().extent().end <= waveform.shape[1] / SAMPLE_RATE
    assert annotation.get_overlap().duration() > 0.0
    for speaker, pitch in PITCHES.items():
        band = butter(4, [pitch - 100, pitch + 100], "bandpass", fs=SAMPLE_RATE, output="sos")
        heard = uniform_filter1d(sosfiltfilt(band, waveform[0]) ** 2, 800)
        heard = heard > 0.25 * np.percentile(heard, 99)
        truth = labelled(annotation.label_timeline(speaker), len(heard))
        assert np.mean(heard != truth) < 0.01, speaker


def test_same_state_same_samples(tones, turns):
    make = [
        simulate_conversation(tones, turns, np.random.default_rng(seed), (30.0, 40.0))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(make[0][0], make[1][0])
    assert make[0][1] == make[1][1]
    assert make[0][0].shape != make[2][0].shape


@pytest.mark.parametrize("snr", [15.0, 30.0])
def test_noise_has_the_wanted_level(tones, turns, snr):
    dry = Acoustics(level=(-26.0, -26.0), snr=None, room_share=0.0)
    noisy = Acoustics(level=(-26.0, -26.0), snr=(snr, snr), room_share=0.0)
    two = {speaker: tones[speaker] for speaker in ("ann", "bob")}
    waves = []
    for acoustics in (dry, noisy):
        wave, annotation = simulate_conversation(
            two, turns, np.random.default_rng(3), (5.0, 8.0), acoustics
        )
        waves.append(wave[0])
    speech = waves[0][labelled(annotation.get_timeline(), len(waves[0]))]
    assert 10 * np.log10(np.mean(speech**2)) == pytest.approx(-26.0, abs=0.1)
    ratio = np.mean(speech**2) / np.mean((waves[1] - waves[0]) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.3)


def test_peaks_stay_within_full_scale(tones, turns):
    loud = Acoustics(level=(0.0, 0.0))
    wave, _ = simulate_conversation(tones, turns, np.random.default_rng(0), (30.0, 40.0), loud)
    assert np.abs(wave).max() == pytest.approx(0.98, abs=1e-4)


def test_rooms_add_a_tail(tones, turns):
    one = {"ann": tones["ann"]}
    waves = []
    for share in (0.0, 1.0):
        acoustics = Acoustics(
            snr=None, room_share=share, rt60=(0.6, 0.6), direct_ratio=(0.0, 0.0), gain=0.0
        )
        wave, annotation = simulate_conversation(
            one, turns, np.random.default_rng(8), (8.0, 8.0), acoustics
        )
        outside = ~labelled(annotation.get_timeline(), wave.shape[1])
        waves.append(np.mean(wave[0][outside] ** 2) / np.mean(wave[0] ** 2))
    assert waves[0] < 1e-9 < 1e-3 < waves[1]


def test_who_stays_sounds_the_same_and_who_moves_does_not(tones, turns):
    spread = {}
    for stay in (None, (1000.0, 1000.0), (0.0, 0.0)):
        wave, annotation = simulate_conversation(
            tones,
            turns,
            np.random.default_rng(3),
            (30.0, 40.0),
            Acoustics(snr=None, room_share=0.0, stay=stay),
        )
        ranges = []
        for speaker, pitch in PITCHES.items():
            band = butter(4, [pitch - 100, pitch + 100], "bandpass", fs=SAMPLE_RATE, output="sos")
            heard = np.abs(sosfiltfilt(band, wave[0]))
            peaks = [
                heard[round(turn.start * SAMPLE_RATE) : round(turn.end * SAMPLE_RATE)].max()
                for turn in annotation.label_timeline(speaker)
                if turn.duration > 0.5
            ]
            ranges.append(np.ptp(20.0 * np.log10(peaks)))
        spread[stay] = max(ranges)
    assert max(spread[None], spread[1000.0, 1000.0]) < 3.0  # decibels
    assert spread[0.0, 0.0] > 6.0, spread  # another gain with each turn, of a deviation of 3


def test_a_silent_voice_is_named(tmp_path, tones, turns):
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    voices = {"ann": tones["ann"], "mute": [tmp_path / "a.wav"]}
    with pytest.raises(ValueError, match="'mute' has no speech"):
        simulate_conversation(voices, turns, np.random.default_rng(0), (5.0, 8.0))


@pytest.mark.parametrize("corpus", ["an4", "librispeech", "speechocean"])
def test_reference_of_real_voices_is_true_and_tight(speech_data, corpus):
    turns = read_turns(speech_data / "turns" / "ami-train")
    voices = dict(list(read_voices(speech_data / corpus).items())[5:8])
    waveform, annotation = simulate_conversation(
        voices, turns, np.random.default_rng(0), (60.0, 60.0), DRY
    )
    truth = labelled(annotation.get_timeline(), waveform.shape[1])
    inside, outside = waveform[0][truth], waveform[0][~truth]
    assert 10 * np.log10(np.mean(inside**2) / (np.mean(outside**2) + 1e-12)) > 40.0
    # hardly any stretch of 0.5 s inside the turns is silent
    smooth = uniform_filter1d(waveform[0].astype(np.float64) ** 2, 8000)
    whole = uniform_filter1d(truth.astype(np.float64), 8000) > 1 - 1e-6
    level = 10 * np.log10(smooth[whole] / np.mean(inside**2))
    assert np.mean(level < -25.0) < 0.02


def test_who_moves_in_a_room_is_heard_to_the_end(tones, turns):
    """Reverberation goes on after a move, and nothing is lost at the end."""
    make = [
        simulate_conversation(
            tones,
            turns,
            np.random.default_rng(3),
            (30.0, 40.0),
            Acoustics(snr=None, room_share=1.0, stay=stay),
        )
        for stay in (None, (0.5, 2.0))
    ]
    (still, same), (moved, annotation) = make
    assert still.shape == moved.shape and same == annotation
    assert np.isfinite(moved).all()
    speech = labelled(annotation.get_timeline().support(), moved.shape[1])
    assert np.abs(moved[0, speech]).mean() > 10 * np.abs(moved[0, ~speech]).mean()
