"""Tests of diarizing files into a folder."""

import errno
import io
import json
import os
import re
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyannote.database.util import load_rttm
from rich.console import Console

from pyannote_weighter import apply, output, plots
from pyannote_weighter.apply import FORMATS, apply_to_files, check_bounds, distinct
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


def test_one_path_is_one_file(tmp_path, audio):
    for file in (audio("talk.wav"), str(audio("talk.wav"))):
        assert run(file, tmp_path / "out")[0] == {}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["talk.json", "talk.rttm"]


def test_two_paths_of_one_file(tmp_path, audio, monkeypatch):
    path = audio("talk.wav")
    monkeypatch.chdir(path.parent)
    files = [Path("talk.wav"), path, path.parent / ".." / path.parent.name / "talk.wav"]
    assert distinct(files) == files[:1] and distinct(files[::-1]) == files[2:]
    assert distinct(["b.wav", "a.wav"]) == [Path("b.wav"), Path("a.wav")]
    assert run(files, tmp_path / "out")[0] == {}


def test_reading_that_does_not_end_keeps_nobody(monkeypatch):
    """Who stops meanwhile need not wait, and neither does Python at its end."""
    forever = threading.Event()
    monkeypatch.setattr(apply, "_read", lambda file, by_pieces: forever.wait())
    files = apply._read_ahead([Path("a"), Path("b"), Path("c")], by_pieces=True)
    before = set(threading.enumerate())
    file, reading = next(files)
    files.close()
    assert file == Path("a") and not reading.done()
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2 and all(thread.daemon for thread in threads)
    forever.set()
    assert reading.result(timeout=60)


def test_what_is_told_of_files_is_one_line_each(tmp_path, audio):
    screen, good = io.StringIO(), audio("good.wav")
    files = [tmp_path / "a name with spaces in it" / ("b " * 50 + ".wav"), good]
    likes = {"good": ()} | {f"another recording of a long name {k}": () for k in range(3)}
    pipeline, console = HalfAndHalf().instantiate({}), Console(file=screen, width=80)
    options = {"likes": likes, "console": console, "resume": True}
    (failure,) = apply_to_files(pipeline, files, tmp_path / "out", **options).values()
    lines = screen.getvalue().splitlines()
    assert f"failed {files[0]}: {failure}" in lines
    assert any(line.startswith("3 recordings") and line.endswith("name 2)") for line in lines)


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
    soundfile.write(long, np.random.default_rng(0).uniform(-1, 1, (8000, 2)), 8000)
    monkeypatch.setattr(plots, "PIECE", 1000)
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
        picture = (tmp_path / "two" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert picture == (tmp_path / "one" / f"{name}.png").read_bytes()


def test_pictures_of_long_files_are_made_without_reading_all_of_them(tmp_path, audio, monkeypatch):
    long, given = audio("long.wav"), in_memory

    class ByPieces(HalfAndHalf):
        def apply(self, file, **options):
            return super().apply(given(file), **options)

    monkeypatch.setattr(apply, "LARGEST", 1)
    monkeypatch.setattr(apply, "WeighterDiarization", ByPieces)
    monkeypatch.setattr(apply, "in_memory", None)
    assert not apply_to_files(ByPieces().instantiate({}), [long], tmp_path / "out", ["png"])
    assert (tmp_path / "out" / "long.png").is_file()


def test_number_of_speakers_reaches_the_pipeline(tmp_path, audio):
    failures, _ = run([audio("a.wav")], tmp_path / "out", options={"num_speakers": 7})
    assert "seven speakers" in next(iter(failures.values()))


def test_numbers_of_speakers_that_contradict_each_other():
    names = ("num_speakers", "min_speakers", "max_speakers")
    for numbers in ((None, 5, 2), (3, None, 2), (3, 4, None)):
        with pytest.raises(ValueError, match=r"^--m.*-speakers \d is more than --|^--num.* 2: "):
            check_bounds(dict(zip(names, numbers, strict=True)))
    for numbers in ((None, 2, 2), (3, 2, 4), (None, None, None), (3, 3, 3)):
        check_bounds(dict(zip(names, numbers, strict=True)))


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
    assert not failures
    assert "4 recordings with likes are not among the files (a.wav, b, c, ...)" in screen
    failures, screen = run(files, tmp_path / "out", likes={"a": [], "[b]": []})
    assert "1 recordings with likes are not among the files ([b])" in screen


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_likes_are_found_in_another_unicode_form(tmp_path, audio, forms):
    file, uri = (unicodedata.normalize(form, "Café") for form in forms)
    given = []

    class Asking(HalfAndHalf):
        def apply(self, file, min_speakers=None, **options):
            given.append(min_speakers)
            return super().apply(file, **options)

    pipeline, likes = Asking().instantiate({}), {uri: ("ann", "bob")}
    screen = io.StringIO()
    console = Console(file=screen)
    files = [audio(f"{file}.wav")]
    assert not apply_to_files(pipeline, files, tmp_path / "out", likes=likes, console=console)
    assert given == [2] and "not among" not in screen.getvalue()
    with pytest.raises(ValueError, match="twice, in two Unicode forms"):
        run(files, tmp_path / "out", likes={file: (), uri: ()})
    with pytest.raises(ValueError, match="would have the same name"):
        run([*files, audio(f"x/{uri}.wav")], tmp_path / "out")


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
    content = {"uri": "of another recording", "speakers": [], "diarization": []}
    (out / "old.json").write_text(json.dumps(content))
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


def test_another_recording_of_the_same_name_is_not_done(tmp_path, audio):
    first, out = audio("a/01.wav"), tmp_path / "out"
    assert not run([first], out)[0]
    known = json.loads((out / "01.json").read_text())["audio"]
    assert known["path"] == str(first) and known["bytes"] == first.stat().st_size
    moved = first.rename(tmp_path / "01.wav")
    assert run([moved], out, resume=True) == ({}, "1 of 1 files are done\n")

    samples = np.random.default_rng(0).uniform(-1, 1, 8000)
    before = (out / "01.json").read_bytes()
    for length in (4000, 8000):  # recorders make many files of one length
        other = audio("b/01.wav")
        soundfile.write(other, samples[:length], 8000)
        os.utime(other, (0, 0))
        for resume in (True, False):
            with pytest.raises(ValueError, match="01.wav would replace those of another .*a/01.w"):
                run([other], out, resume=resume)
    assert (out / "01.json").read_bytes() == before
    soundfile.write(audio("a/01.wav"), samples, 8000)  # the same file, edited
    os.utime(first, (0, 0))
    assert "0 of 1 files are done" in run([first], out, resume=True)[1]
    assert (out / "01.json").read_bytes() != before


def test_a_relative_path_is_of_the_folder_where_it_was_given(tmp_path, audio, monkeypatch):
    files, out = [audio(f"{show}/audio/01.wav") for show in ("one", "two")], tmp_path / "out"
    soundfile.write(files[1], np.ones(8000), 8000)
    monkeypatch.chdir(tmp_path / "one")
    assert not run(["audio/01.wav"], out)[0]
    before = (out / "01.json").read_bytes()
    assert json.loads(before)["audio"]["path"] == "audio/01.wav"
    assert str(tmp_path) not in before.decode()
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(ValueError, match="01.wav would replace those .* edited, remove the old"):
        run(["audio/01.wav"], out)
    assert (out / "01.json").read_bytes() == before
    for number, file in enumerate((files[0], "../one/audio/01.wav"), start=1):  # edited since
        soundfile.write(files[0], np.full(8000, number / 4), 8000)
        assert not run([file], out)[0]
    content = json.loads((out / "01.json").read_text())
    del content["audio"]["place"]  # as results were before it was written
    (out / "01.json").write_text(json.dumps(content))
    soundfile.write(files[0], np.zeros(4000), 8000)
    with pytest.raises(ValueError, match="those of another recording, ../one/audio/01.wav"):
        run(["../one/audio/01.wav"], out)


@pytest.mark.parametrize("told", [{}, {"audio": 3}, {"audio": {"path": "x"}}, {"audio": []}])
def test_results_that_do_not_say_of_what_they_are_count_as_done(tmp_path, audio, told):
    file, out = audio("a.wav"), tmp_path / "out"
    assert not run([file], out)[0]
    content = {"uri": "a", "speakers": [], "diarization": []} | told
    (out / "a.json").write_text(json.dumps(content))
    assert "1 of 1 files are done" in run([file], out, resume=True)[1]
    assert not run([file], out)[0]  # nor is it in the way
    assert json.loads((out / "a.json").read_text())["speakers"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "\udce9", "[" * 100_000, '{"audio": 3}', '{"text": "Hello.", "segments": []}',
     '{"uri": 3, "speakers": [], "diarization": []}',
     '{"uri": "talk", "speakers": {}, "diarization": []}',
     '{"uri": "talk", "speakers": [], "diarization": "none"}'],
)  # fmt: skip
def test_json_that_is_no_result_is_not_replaced(tmp_path, audio, text):
    files, out = [audio("first.wav"), audio("talk.wav")], tmp_path / "out"
    there = out / "talk.json"
    out.mkdir()
    there.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = there.read_bytes()
    HalfAndHalf.calls.clear()
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"talk.wav would replace .*talk.json, .* no result"):
            run(files, out, resume=resume)
    assert not HalfAndHalf.calls and list(out.iterdir()) == [there]
    assert not run(files, out, formats=["rttm"])[0]  # which leaves it alone
    assert there.read_bytes() == before


def test_a_folder_that_takes_no_results_is_refused_before_anything_is_computed(
    tmp_path, audio, monkeypatch
):
    files = [audio("a.wav")]
    HalfAndHalf.calls.clear()
    for into in (files[0], files[0] / "below"):
        with pytest.raises(OSError, match="to this folder: there is a file in its place"):
            run(files, into)

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "NamedTemporaryFile", lambda **_: Full())
    with pytest.raises(OSError, match="out: results cannot be written .*: No space left") as error:
        run(files, tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
    assert not HalfAndHalf.calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_ends_it(tmp_path, audio, monkeypatch, number):
    files = [audio(f"{name}.wav") for name in "abc"]
    write = apply.write_json

    def fail(content, path):
        if path.stem == "b":
            monkeypatch.setattr(apply, "check_folder", refuse)
            raise OSError(number, os.strerror(number))
        write(content, path)

    def refuse(into):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(apply, "write_json", fail)
    HalfAndHalf.calls.clear()
    with pytest.raises(OSError, match=r"stopped at .*b.wav, since .*; --resume") as error:
        run(files, tmp_path / "out")
    assert error.value.errno == number
    assert HalfAndHalf.calls == ["a", "b"] and (tmp_path / "out" / "a.json").exists()


def test_a_result_that_is_open_elsewhere_does_not_end_it(tmp_path, audio, monkeypatch):
    """On Windows it cannot be replaced: the error is that of a folder without permission."""
    files, replace = [audio(f"{name}.wav") for name in "abc"], os.replace

    def refuse(unfinished, path):
        if path.stem == "b":
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        replace(unfinished, path)

    monkeypatch.setattr(os, "replace", refuse)
    failures, screen = run(files, tmp_path / "out")
    assert list(failures) == files[1:2] and "Access is denied" in screen
    assert (tmp_path / "out" / "c.json").exists()


def test_a_file_that_cannot_be_read_or_replaced_does_not_end_it(tmp_path, audio, monkeypatch):
    files = [audio(f"{name}.wav") for name in "abc"]

    def read(file):
        if file.stem == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return in_memory(file)

    monkeypatch.setattr(apply, "in_memory", read)
    (tmp_path / "out" / "b.json").mkdir(parents=True)
    failures, _ = run(files, tmp_path / "out")
    assert list(failures) == files[:2]
    assert (tmp_path / "out" / "c.json").exists()


def test_names_that_are_too_long_for_the_results_are_refused(tmp_path, audio):
    fits = audio("ж" * 125 + ".wav")  # 250 bytes, and 5 of .json
    assert not run([fits], tmp_path / "out", formats=FORMATS)[0]
    assert len(list((tmp_path / "out").iterdir())) == len(FORMATS)
    with pytest.raises(ValueError, match="of 251 bytes is too long .* have 250 and an ending"):
        run([audio("a" * 251 + ".wav")], tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_dollars_are_no_formulas(tmp_path, audio):
    failures, _ = run([audio("cost$5_$6^.wav")], tmp_path / "out", formats=["png"])
    assert not failures


@pytest.mark.skipif(os.name != "posix", reason="names are UTF-16 elsewhere")
def test_names_that_are_not_utf8(tmp_path, audio, monkeypatch):
    try:
        file = audio("talk.wav").rename(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    except OSError:
        pytest.skip("the file system has names in UTF-8 alone")
    monkeypatch.setattr(apply, "WeighterDiarization", HalfAndHalf)
    failures, _ = run([file], tmp_path / "out", formats=FORMATS)
    assert not failures
    content = json.loads((tmp_path / "out" / f"{file.stem}.json").read_text("utf-8"))
    assert content["uri"] == r"caf\udce9" and content["audio"]["path"].endswith(r"caf\udce9.wav")
