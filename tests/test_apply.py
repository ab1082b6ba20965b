"""Tests of diarizing files into a folder."""

import io
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyannote.database.util import load_rttm
from rich.console import Console

from pyannote_weighter import apply
from pyannote_weighter.apply import FORMATS, apply_to_files
from pyannote_weighter.audio import in_memory
from tests.dummy_pipeline import HalfAndHalf


@pytest.fixture
def audio(tmp_path: Path):
    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(8000), 8000)
        return path

    return write


def run(files, into, **options):
    screen = io.StringIO()
    console = Console(file=screen, width=300)
    failures = apply_to_files(
        HalfAndHalf().instantiate({}), files, into, console=console, **options
    )
    return failures, screen.getvalue()


def test_all_formats(tmp_path, audio):
    failures, _ = run([audio("a.wav"), audio("b c.flac")], tmp_path / "out", formats=FORMATS)
    assert not failures
    names = {path.name for path in (tmp_path / "out").iterdir()}
    endings = ("rttm", "json", "csv", "txt", "vtt", "png")
    assert names == {f"{name}.{ending}" for name in ("a", "b c") for ending in endings}
    assert load_rttm(tmp_path / "out" / "b c.rttm")["b_c"].labels() == ["SPEAKER_00", "SPEAKER_01"]
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert content["speakers"][0]["confidence"] == 0.9
    assert (tmp_path / "out" / "a.csv").read_text().startswith("start,end,duration,speaker,")
    assert (tmp_path / "out" / "a.txt").read_text().startswith("0.000\t0.500\tSPEAKER_00\n")
    assert (tmp_path / "out" / "a.vtt").read_text().startswith("WEBVTT\n")


def test_one_that_fails_does_not_keep_the_others_from_it(tmp_path, audio):
    broken = tmp_path / "broken.wav"
    broken.write_text("this is no audio")
    files = [tmp_path / "missing.wav", broken, audio("good.wav")]
    failures, screen = run(files, tmp_path / "out")
    assert list(failures) == files[:2]
    assert "missing.wav: no such audio file" in screen
    assert "broken.wav" in screen
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.json", "good.rttm"]


def test_next_file_is_read_meanwhile_and_no_other(tmp_path, audio, monkeypatch):
    files = [audio(f"{name}.wav") for name in "abcd"]
    begun = {file.stem: threading.Event() for file in files}
    seen = []

    def read(file):
        begun[file.stem].set()
        return in_memory(file)

    class Waiting(HalfAndHalf):
        def apply(self, file, **options):
            ahead = chr(ord(file["uri"]) + 1)
            if ahead in begun:
                assert begun[ahead].wait(timeout=120)
            seen.append({name for name, event in begun.items() if event.is_set()})
            return super().apply(file, **options)

    monkeypatch.setattr(apply, "in_memory", read)
    assert not apply_to_files(Waiting().instantiate({}), files, tmp_path / "out")
    assert seen == [set("ab"), set("abc"), set("abcd"), set("abcd")]


def test_long_files_are_left_to_pipelines_that_read_by_pieces(tmp_path, audio, monkeypatch):
    short, long = audio("short.wav"), audio("long.wav")
    soundfile.write(long, np.zeros((8000, 2)), 8000)
    monkeypatch.setattr(apply, "LARGEST", 8000 * apply.SAMPLE_SIZE)
    given = {}

    class ByPieces(HalfAndHalf):
        def apply(self, file, **options):
            given[file["uri"]] = set(file)
            return super().apply(in_memory(file), **options)

    pipeline = ByPieces().instantiate({})
    assert not apply_to_files(pipeline, [short, long], tmp_path / "one", formats=["png"])
    assert given == dict.fromkeys(("short", "long"), {"audio", "uri", "waveform", "sample_rate"})
    monkeypatch.setattr(apply, "WeighterDiarization", ByPieces)
    assert not apply_to_files(pipeline, [short, long], tmp_path / "two", formats=["png"])
    assert given["long"] == {"audio", "uri"} and "waveform" in given["short"]
    for name in ("short", "long"):
        assert (tmp_path / "two" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_number_of_speakers_reaches_the_pipeline(tmp_path, audio):
    failures, _ = run([audio("a.wav")], tmp_path / "out", options={"num_speakers": 7})
    assert "seven speakers" in next(iter(failures.values()))


def test_likes_are_least_numbers_of_speakers(tmp_path, audio):
    files = [audio(f"{name}.wav") for name in ("a", "b", "c", "d")]
    likes = {"a": ("ann", "bob", "bob", "cy"), "b": ("ann",), "c": None, "other": ("ann", "bob")}
    given = {}

    class Asking(HalfAndHalf):
        def apply(self, file, hook=None, **options):
            given[file["uri"]] = options
            return super().apply(file, hook=hook)

    def asked(**options):
        pipeline = Asking().instantiate({})
        assert not apply_to_files(pipeline, files, tmp_path / "out", options=options, likes=likes)
        return given

    assert asked() == {"a": {"min_speakers": 3}, "b": {}, "c": {}, "d": {}}
    two, four = {"min_speakers": 2}, {"min_speakers": 4}
    assert asked(**two) == {"a": {"min_speakers": 3}, **dict.fromkeys("bcd", two)}
    assert asked(**four) == dict.fromkeys("abcd", four)
    most = {"max_speakers": 2}
    assert asked(**most) == {"a": most | {"min_speakers": 2}, **dict.fromkeys("bcd", most)}
    assert asked(num_speakers=2) == dict.fromkeys("abcd", {"num_speakers": 2})
    assert asked(num_speakers=None, max_speakers=None)["a"] == {"min_speakers": 3}
    wrong = four | most  # as it is told, for the pipeline to refuse
    assert asked(**wrong) == dict.fromkeys("abcd", wrong)


def test_likes_of_other_recordings_alone_are_refused(tmp_path, audio):
    files, likes = [audio("a.wav")], dict.fromkeys(("a.wav", "b", "c", "d"), ("ann",))
    with pytest.raises(
        ValueError, match=r"in the likes .there: a.wav, b, c, \.\.\..: .*talk for talk.wav"
    ):
        run(files, tmp_path / "out", likes=likes)
    with pytest.raises(ValueError, match="is listed in the likes .there: nothing."):
        run(files, tmp_path / "out", likes={})
    with pytest.raises(ValueError, match="likes of a are one text, 'ann': give a list of names"):
        run(files, tmp_path / "out", likes={"a": "ann"})
    assert not (tmp_path / "out").exists()
    failures, screen = run(files, tmp_path / "out", likes=likes | {"a": ["ann"]})
    assert not failures and "4 recordings with likes are not among the files" in screen


def test_results_that_would_overwrite_each_other_are_refused(tmp_path, audio):
    files = [audio("x/talk.wav"), audio("y/Talk.flac")]
    with pytest.raises(ValueError, match="same name"):
        run(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    failures, _ = run([files[0], files[0]], tmp_path / "out")  # the same file twice is one file
    assert not failures


def test_unknown_formats_are_refused(tmp_path, audio):
    known = "rttm, json, csv, audacity, webvtt, png"
    for formats, unknown in ((("rttm", "srt", "vtt"), "srt, vtt"), ((), "(none)")):
        expected = re.escape(f"unknown format {unknown}: choose from {known}")
        with pytest.raises(ValueError, match=expected):
            run([audio("a.wav")], tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


def test_resume_leaves_alone_what_is_done(tmp_path, audio):
    done, half, old, new = (audio(f"{name}.wav") for name in ("done", "half", "old", "new"))
    out = tmp_path / "out"
    run([done, half, old], out)
    (out / "half.rttm").unlink()
    later = old.stat().st_mtime + 100
    os.utime(old, (later, later))
    before = (out / "done.json").stat().st_mtime_ns
    (out / "old.json").write_text("of another recording")
    failures, screen = run([done, half, old, new], out, resume=True)
    assert not failures and "1 of 4 files are done" in screen
    assert (out / "done.json").stat().st_mtime_ns == before
    assert all((out / f"{name}.rttm").exists() for name in ("half", "new"))
    assert json.loads((out / "old.json").read_text())["uri"] == "old"
    assert run([done, half, new], out, resume=True) == ({}, "3 of 3 files are done\n")
    missing = tmp_path / "missing.wav"
    (out / "missing.rttm").write_text("")
    (out / "missing.json").write_text("{}")
    assert list(run([missing], out, resume=True)[0]) == [missing]
