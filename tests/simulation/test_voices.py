import numpy as np
import pytest
import soundfile

from pyannote_weighter.simulation import SAMPLE_RATE, Voice, load_voice, read_voices, split_voices
from pyannote_weighter.simulation.voices import speech_of


def tone(seconds, sample_rate=SAMPLE_RATE, level=0.3):
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def quiet(seconds, seed=0):
    noise = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))
    return (1e-4 * noise).astype(np.float32)


def test_silence_at_the_ends_is_cut():
    pieces = speech_of(np.concatenate([quiet(1.0), tone(2.0), quiet(1.5)]))
    assert len(pieces) == 1
    assert 2.0 <= len(pieces[0]) / SAMPLE_RATE <= 2.15


@pytest.mark.parametrize(("pause", "expected"), [(0.2, 1), (0.6, 2)])
def test_only_long_pauses_are_cut(pause, expected):
    pieces = speech_of(np.concatenate([tone(1.0), quiet(pause), tone(1.0), quiet(0.5)]))
    assert len(pieces) == expected


def test_clicks_are_not_speech():
    pieces = speech_of(np.concatenate([tone(0.01), quiet(1.0), tone(1.0), quiet(1.0)]))
    assert len(pieces) == 1 and len(pieces[0]) < 1.2 * SAMPLE_RATE


def test_speech_from_end_to_end_is_kept():
    assert sum(map(len, speech_of(tone(2.0)))) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(10), np.zeros(SAMPLE_RATE)])
def test_nothing_to_hear(samples):
    assert speech_of(samples.astype(np.float32)) == []


def test_load_joins_resamples_and_levels(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.concatenate([quiet(1), tone(1), quiet(1)]), SAMPLE_RATE)
    stereo = np.stack([tone(1.5, 22050)] * 2, axis=1)
    soundfile.write(tmp_path / "b.wav", stereo, 22050)
    soundfile.write(tmp_path / "c.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    voice = load_voice([tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.wav"])
    assert voice.duration == pytest.approx(2.5, abs=0.2)
    assert len(voice.samples) == len(voice.audible) * 160
    assert voice.samples.dtype == np.float32
    assert np.sqrt(np.mean(voice.samples**2)) == pytest.approx(1.0, abs=0.05)
    pitch = np.argmax(np.abs(np.fft.rfft(voice.samples[-SAMPLE_RATE:])))  # of the second one
    assert pitch == pytest.approx(440, abs=1)  # has survived the resampling


def test_a_voice_without_speech_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    assert load_voice([tmp_path / "a.wav"]).duration == 0.0


def test_take_and_next_onset_like_a_slow_loop():
    rng = np.random.default_rng(0)
    voice = Voice(np.arange(1600, dtype=np.float32), rng.random(10) < 0.4)
    doubled = np.concatenate([voice.samples] * 4)
    audible = np.repeat(voice.audible, 160)
    for position in [0, 1, 159, 160, 700, 1599]:
        np.testing.assert_array_equal(voice.take(position, 2500), doubled[position:][:2500])
        slow = -(-position // 160) * 160
        while not audible[slow % 1600]:
            slow += 160
        assert voice.next_onset(position) == slow % 1600
        assert voice.next_onset(position + 3200) == slow % 1600


def test_read_voices(tones):
    folder = tones["ann"][0].parents[1]
    voices = read_voices(folder, prefix="tone-")
    assert voices == {f"tone-{speaker}": paths for speaker, paths in sorted(tones.items())}


def test_read_voices_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_voices(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="one folder a speaker"):
        read_voices(tmp_path)


def test_unreadable_recordings_are_named(tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(ValueError, match="bad.wav"):
        load_voice([tmp_path / "bad.wav"])
    with pytest.raises(FileNotFoundError, match="absent.wav"):
        load_voice([tmp_path / "absent.wav"])


def test_split_by_speaker():
    voices = {f"s{i}": [f"{i}.wav"] for i in range(20)}
    shares = {"train": 0.7, "development": 0.15, "test": 0.15}
    subsets = split_voices(voices, shares, seed=3)
    assert [len(subsets[name]) for name in shares] == [14, 3, 3]
    assert {s: p for subset in subsets.values() for s, p in subset.items()} == voices
    assert subsets == split_voices(dict(reversed(voices.items())), shares, seed=3)
    assert subsets != split_voices(voices, shares, seed=4)
    with pytest.raises(ValueError, match="sum to one"):
        split_voices(voices, {"train": 0.7}, seed=3)


def test_real_voices(speech_data):
    for corpus in ("an4", "librispeech", "speechocean"):
        voices = read_voices(speech_data / corpus)
        recordings = list(voices.values())[2]
        voice = load_voice(recordings)
        seconds = sum(soundfile.info(path).duration for path in recordings)
        assert 0.5 * seconds < voice.duration <= seconds
        assert voice.audible.mean() > 0.7
