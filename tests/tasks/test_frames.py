"""FrameCache: what goes in comes out, whatever is killed, damaged or done at once."""

import json
import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyannote_weighter.tasks.frames import FrameCache


def _frames(num_frames=50, channels=8, seed=0):
    return np.random.default_rng(seed).normal(size=(num_frames, channels)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return FrameCache(tmp_path, "campplus")


def _arrays(cache):
    return sorted(path.name for path in cache.folder.glob("*.npy"))


def test_round_trip(cache):
    frames, count = _frames(), np.arange(50) % 4
    assert "ep1" not in cache and len(cache) == 0
    cache.put("ep1", frames, count, metadata={"frame_step": 320})
    assert "ep1" in cache and len(cache) == 1 and list(cache) == ["ep1"]
    got, got_count = cache.get("ep1")
    assert isinstance(got, np.memmap) and not got.flags.writeable
    assert got.dtype == np.float16 and got_count.dtype == np.uint8
    np.testing.assert_array_equal(got, frames.astype(np.float16))
    np.testing.assert_array_equal(got_count, count)
    assert cache.metadata("ep1") == {"frame_step": 320}


def test_tensors_without_count(cache):
    cache.put("ep1", torch.ones(3, 2))
    frames, count = cache.get("ep1")
    assert frames.tolist() == [[1, 1]] * 3 and count is None


def test_no_frames(cache):
    cache.put("silence", np.zeros((0, 5)), np.zeros(0))
    frames, count = cache.get("silence")
    assert frames.shape == (0, 5) and frames.dtype == np.float16 and count.shape == (0,)


def test_persists_and_pickles(cache, tmp_path):
    cache.put("ep1", _frames())
    for again in (FrameCache(str(tmp_path), "campplus"), pickle.loads(pickle.dumps(cache))):
        np.testing.assert_array_equal(again.get("ep1")[0], cache.get("ep1")[0])


def test_extractors_are_apart(cache, tmp_path):
    other = FrameCache(tmp_path, "Campplus")
    cache.put("ep1", _frames())
    assert "ep1" not in other and len(other) == 0
    with pytest.raises(KeyError, match="ep1"):
        other.get("ep1")


def test_files_that_are_read_and_cannot_be_removed(cache, monkeypatch):
    """On Windows."""
    cache.put("ep1", _frames(seed=0))
    litter = cache.folder / f"ep0.{'0' * 32}.frames.npy"
    litter.touch()
    os.utime(litter, (0, 0))

    def refuse(path, missing_ok=False):
        raise PermissionError(f"{path} is in use")

    monkeypatch.setattr(Path, "unlink", refuse)
    again = FrameCache(cache.folder.parent, "campplus")  # looks for litter
    again.put("ep1", _frames(20, seed=1))
    assert again.get("ep1")[0].shape == (20, 8) and litter.exists()


def test_replacing_leaves_no_litter_and_keeps_open_maps(cache):
    cache.put("ep1", _frames(seed=0), np.ones(50))
    before, _ = cache.get("ep1")
    cache.put("ep1", _frames(20, seed=1))
    after, count = cache.get("ep1")
    assert after.shape == (20, 8) and count is None and len(_arrays(cache)) == 1
    np.testing.assert_array_equal(before, _frames(seed=0).astype(np.float16))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.text(alphabet=st.characters()) | st.sampled_from([".", "..", "CON", "a/../b"]))
def test_any_key(tmp_path, key):
    cache = FrameCache(tmp_path, "any")
    cache.put(key, np.zeros((1, 1)))
    assert key in cache and cache.get(key)[0].shape == (1, 1)
    assert os.listdir(tmp_path) == [cache.folder.name]


def test_long_and_similar_keys(cache):
    keys = ["x" * 300, "x" * 301, "山" * 300, "a/b", "a_b", "a-b", "A/B", "../../etc/passwd", ""]
    for index, key in enumerate(keys):
        cache.put(key, np.full((1, 1), index))
    assert sorted(cache) == sorted(keys)
    assert [cache.get(key)[0].item() for key in keys] == list(range(len(keys)))
    assert max(len(name) for name in os.listdir(cache.folder)) < 144  # encrypted home folders


def test_names_are_stable(tmp_path):
    cache = FrameCache(tmp_path, "campplus")
    cache.put("radio/ep 1", np.zeros((1, 1)))
    assert cache.folder.name == "campplus-48418ac3904ec1e83c1b98ffd3c087bd"
    assert [p.name for p in cache.folder.glob("*.json")] == [
        "radio-ep-1-7a412ed874797045dd78292b5dc83f63.json"
    ]


@pytest.mark.parametrize(
    "frames, count, reason",
    [
        (np.zeros(3), None, r"expected \(T, C\)"),
        (np.zeros((1, 2, 3)), None, r"expected \(T, C\)"),
        (np.full((2, 2), np.nan), None, "NaN"),
        (np.full((2, 2), 1e6), None, "65504"),
        (np.zeros((3, 2)), np.zeros(2), r"expected \(3,\)"),
        (np.zeros((1, 2)), [256], "0 to 255"),
        (np.zeros((1, 2)), [-1], "0 to 255"),
        (np.zeros((1, 2)), [0.5], "0 to 255"),
        (np.zeros((1, 2)), [np.nan], "0 to 255"),
    ],
)
def test_bad_values(cache, frames, count, reason):
    with pytest.raises(ValueError, match=reason) as error:
        cache.put("ep1", frames, count)
    assert "'ep1'" in str(error.value)
    assert "ep1" not in cache


def test_metadata_that_json_cannot_hold_leaves_nothing(cache):
    with pytest.raises(TypeError):
        cache.put("ep1", _frames(), metadata={"path": object()})
    assert os.listdir(cache.folder) == []


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def _edit(path, change):
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))


DAMAGES = {
    "truncated frames": lambda entry, frames: _truncate(frames),
    "empty frames": lambda entry, frames: frames.write_bytes(b""),
    "missing frames": lambda entry, frames: frames.unlink(),
    "truncated entry": lambda entry, frames: _truncate(entry),
    "empty entry": lambda entry, frames: entry.write_bytes(b""),
    "foreign entry": lambda entry, frames: entry.write_text("[1, 2]"),
    "binary entry": lambda entry, frames: entry.write_bytes(b"\xff\xfe\x00"),
    "no arrays": lambda entry, frames: _edit(entry, lambda e: e.pop("arrays")),
    "arrays of another kind": lambda entry, frames: _edit(entry, lambda e: e.update(arrays=[3])),
    "another key": lambda entry, frames: _edit(entry, lambda e: e.update(key="ep2")),
    "earlier version": lambda entry, frames: _edit(entry, lambda e: e.update(version=1)),
    "a file elsewhere": lambda entry, frames: _edit(
        entry, lambda e: e["arrays"]["frames"].update(file="../secret.npy")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entries_are_absent_and_said_so(cache, damage):
    (cache.folder.parent / "secret.npy").touch()
    cache.put("ep1", _frames(), np.ones(50))
    damage(next(cache.folder.glob("*.json")), next(cache.folder.glob("*.frames.npy")))
    assert "ep1" not in cache and len(cache) == 0
    with pytest.raises(ValueError, match="damaged or foreign entry for 'ep1'.*put the frames"):
        cache.get("ep1")
    cache.put("ep1", _frames(7))
    assert cache.get("ep1")[0].shape == (7, 8) and len(cache) == 1
    assert (cache.folder.parent / "secret.npy").exists()


def test_frames_of_another_kind(cache):
    cache.put("ep1", _frames(4, 2))
    path = next(cache.folder.glob("*.frames.npy"))
    size = path.stat().st_size
    np.save(path, np.zeros((2, 2), np.float32))
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="holds float32"):
        cache.get("ep1")


def test_foreign_files_are_ignored(cache):
    cache.put("ep1", _frames())
    for name in ("notes.txt", "other.json", "other.npy", ".DS_Store", "list.json"):
        (cache.folder / name).write_text('{"key": 3}')
    (cache.folder / "list.json").write_text("[]")
    assert list(cache) == ["ep1"] and len(cache) == 1


def test_what_killed_processes_left_is_swept_after_a_day(cache, tmp_path):
    cache.put("ep1", _frames())
    token = "0" * 32
    (cache.folder / "notes.npy").touch()
    for name in (f"ep9.{token}.frames.npy", f"ep9.{token}.tmp", f"ep8.{token}.count.npy"):
        (cache.folder / name).touch()
    day_ago = time.time() - 25 * 3600
    for path in cache.folder.iterdir():
        if not path.name.startswith("ep8"):  # may be in the making
            os.utime(path, (day_ago, day_ago))
    again = FrameCache(tmp_path, "campplus")
    assert list(again) == ["ep1"]
    again.put("ep2", _frames())
    assert sorted(again) == ["ep1", "ep2"]
    assert again.get("ep1")[0].shape == (50, 8)
    others = {p.name for p in cache.folder.iterdir() if not p.name.startswith(("ep1", "ep2"))}
    assert others == {"notes.npy", f"ep8.{token}.count.npy"}


def test_a_file_is_claimed_once(tmp_path):
    cache, other = FrameCache(tmp_path, "campplus"), FrameCache(tmp_path, "campplus")
    with cache.claim("ep1") as free:
        with other.claim("ep1") as taken, other.claim("ep2") as another:
            assert free and not taken and another
        with other.claim("ep1") as still:  # who was refused does not end the claim
            assert not still
        cache.put("ep1", _frames())
    with pytest.raises(RuntimeError), cache.claim("ep1"):
        raise RuntimeError
    with other.claim("ep1") as free:
        assert free
    assert list(cache) == ["ep1"] and not list(cache.folder.glob("*.lock"))


def _write(directory, worker, barrier):
    cache = FrameCache(directory, "campplus")
    barrier.wait(timeout=300)
    for step in range(15):
        cache.put(f"own-{worker}-{step}", np.full((5, 2), worker))
        num_frames = 10 * (worker + 1)
        cache.put("shared", np.full((num_frames, 2), worker), np.full(num_frames, worker))


def _assert_of_one_writer(entry):
    frames, count = entry
    writer = int(frames[0, 0])
    assert frames.shape == (10 * (writer + 1), 2) and (frames == writer).all()
    assert count.shape == (len(frames),) and (count == writer).all()


def test_several_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write, args=(tmp_path, w, barrier)) for w in range(2)]
    for writer in writers:
        writer.start()
    cache = FrameCache(tmp_path, "campplus")
    barrier.wait(timeout=300)
    while any(writer.is_alive() for writer in writers):
        if "shared" in cache:
            _assert_of_one_writer(cache.get("shared"))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(cache) == 31
    assert not list(cache.folder.glob("*.tmp"))


def test_several_threads(tmp_path):
    barrier = threading.Barrier(5)
    writers = [threading.Thread(target=_write, args=(tmp_path, w, barrier)) for w in range(4)]
    for writer in writers:
        writer.start()
    cache = FrameCache(tmp_path, "campplus")
    barrier.wait(timeout=300)
    while any(writer.is_alive() for writer in writers):
        if "shared" in cache:
            _assert_of_one_writer(cache.get("shared"))
    assert len(cache) == 61


def test_a_reader_who_always_comes_late_gets_the_frames_in_the_end(cache, monkeypatch):
    cache.put("ep1", _frames(seed=0))
    opened, late = cache._open, []

    def replace_before_opening(entry, kind):
        if len(late) < 40 and kind == "frames":
            late.append(entry)
            cache.put("ep1", _frames(seed=len(late)))
        return opened(entry, kind)

    monkeypatch.setattr(cache, "_open", replace_before_opening)
    frames, _ = cache.get("ep1")
    np.testing.assert_array_equal(frames, _frames(seed=40).astype(np.float16))


def _write_until_killed(directory):
    cache = FrameCache(directory, "campplus")
    for step in range(10**6):
        cache.put("ep1", np.full((200_000, 4), step % 100), np.full(200_000, step % 100))


@pytest.mark.parametrize("delay", [0.01, 0.06])
def test_killed_at_any_point(tmp_path, delay):
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_write_until_killed, args=(tmp_path,), daemon=True)
    writer.start()
    cache = FrameCache(tmp_path, "campplus")
    deadline = time.time() + 300
    while "ep1" not in cache:
        assert writer.is_alive() and time.time() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    writer.kill()
    writer.join()
    frames, count = cache.get("ep1")
    assert (frames == frames[0, 0]).all() and (count == int(frames[0, 0])).all()
    cache.put("ep1", np.zeros((1, 4)))  # and goes on
    assert len(cache) == 1
