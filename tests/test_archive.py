"""Naming and searching the results of `apply`."""

import csv
import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pyannote.database.util import load_rttm
from typer.testing import CliRunner

from pyannote_weighter import archive as archive_module
from pyannote_weighter.archive import VOICES, find_voice, name_results
from pyannote_weighter.cli import app
from pyannote_weighter.database import write_likes
from pyannote_weighter.naming import Voices
from pyannote_weighter.results import place_of, read_results
from tests.test_naming import PEOPLE, archive, voice


def run_cli(*arguments: str):
    return CliRunner().invoke(app, arguments)


def write_results(folder, num_files=40):
    """JSON results with two turns a speaker, and who is in each."""
    files, present = archive(num_files)
    folder.mkdir(exist_ok=True)
    paths = []
    for number, speakers in enumerate(files):
        turns = [
            {"start": 10.0 * k + at, "end": 10.0 * k + at + 1.5, "speaker": label}
            for at in (0.5, 100.5)
            for k, label in enumerate(speakers.labels)
        ]
        content = {
            "uri": f"file {number:02d}",
            "speakers": [
                {"speaker": label, "duration": float(s), "embedding": list(map(float, e))}
                for label, e, s in zip(*speakers, strict=True)
            ],
            "diarization": turns,
            "exclusive_diarization": turns[:1],
        }
        paths.append(folder / f"result{number:02d}.json")
        paths[-1].write_text(json.dumps(content))
    return paths, {f"file {number:02d}": people for number, people in enumerate(present)}


def named_of(path) -> dict[str, str]:
    content = json.loads(path.read_text())
    return {e["was"]: e["speaker"] for e in content["speakers"] if "was" in e}


def test_names_are_written_wherever_a_speaker_is_named(tmp_path):
    paths, present = write_results(tmp_path / "results")
    before = [path.read_bytes() for path in paths]
    likes = {uri: people for uri, people in list(present.items())[:30]}
    summary = name_results(read_results(paths), tmp_path / "named", likes | {"gone": ["x"]})
    assert summary.unused == ["gone"] and not summary.unclear
    assert [path.read_bytes() for path in paths] == before
    for path, (uri, people) in zip(paths, present.items(), strict=True):
        labels = {f"SPEAKER_{k:02d}": who for k, who in enumerate(people)}
        written = tmp_path / "named" / path.name
        assert named_of(written) == labels
        content = json.loads(written.read_text())
        assert content["exclusive_diarization"][0]["speaker"] == people[0]
        (annotation,) = load_rttm(written.with_suffix(".rttm")).values()
        assert annotation.labels() == sorted(who.replace(" ", "_") for who in people)
        assert annotation.label_duration(people[1].replace(" ", "_")) == pytest.approx(3.0)
        assert content["uri"] == uri
    assert Voices.load(tmp_path / "named" / VOICES).names == tuple(sorted(PEOPLE))


def test_names_in_other_formats(tmp_path):
    paths, present = write_results(tmp_path / "results")
    content = json.loads(paths[0].read_text())
    content["diarization"][0]["confidence"] = 0.75
    paths[0].write_text(json.dumps(content))
    write_likes(tmp_path / "all.likes", present)
    run = run_cli(
        "name", *map(str, paths), "--likes", str(tmp_path / "all.likes"),
        "--into", str(tmp_path / "named"), "--format", "csv,webvtt, audacity",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    stem = tmp_path / "named" / paths[0].stem
    endings = {path.suffix for path in (tmp_path / "named").iterdir() if path.stem == stem.name}
    assert endings == {".json", ".csv", ".vtt", ".txt"}
    who = present["file 00"]
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [[f"{10 * k + at:.3f}", f"{10 * k + at + 1.5:.3f}"]
             for at in (0.5, 100.5) for k in range(len(who))]  # fmt: skip
    assert [[row["start"], row["end"]] for row in rows] == times
    assert [row["speaker"] for row in rows] == 2 * list(who)
    assert [row["confidence"] for row in rows] == ["0.75"] + [""] * (len(rows) - 1)
    first = stem.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"0.500\t2.000\t{who[0]}"
    assert f"<v {who[0]}>{who[0]}" in stem.with_suffix(".vtt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("formats", "said"), [("png", "png"), ("", "(none)"), ("rttm,x", "x")])
def test_formats_that_names_are_not_written_in(tmp_path, formats, said):
    paths, _ = write_results(tmp_path / "results", 2)
    run = run_cli("name", str(paths[0]), "--voices", "v", "--into", str(tmp_path / "named"),
                  "--format", formats)  # fmt: skip
    assert run.exit_code == 1 and isinstance(run.exception, ValueError)
    assert f"unknown format {said}: choose from rttm, json, csv" in str(run.exception)
    assert not (tmp_path / "named").exists()


def test_named_results_can_be_named_again(tmp_path):
    paths, present = write_results(tmp_path / "results")
    name_results(read_results(paths), tmp_path / "named", present)
    voices = Voices.load(tmp_path / "named" / VOICES)
    again = [tmp_path / "named" / path.name for path in paths]
    (tmp_path / "named" / VOICES).unlink()
    name_results(read_results(again), tmp_path / "named", voices=voices)
    assert [named_of(p) for p in again] == [
        {f"SPEAKER_{k:02d}": who for k, who in enumerate(people)} for people in present.values()
    ]
    assert not (tmp_path / "named" / VOICES).exists()  # it was given
    assert all(set(r.speakers.labels) == {f"SPEAKER_0{k}" for k in range(4)}
               for r in read_results(again))  # fmt: skip


def test_a_name_that_is_a_label_is_refused_before_anything_is_written(tmp_path):
    paths, present = write_results(tmp_path / "results")
    results = read_results(paths)
    voices = name_results(results, tmp_path / "first", present).voices
    one = voices.names.index(PEOPLE[0])
    clash = Voices(("SPEAKER_01",), voices.vectors[[one]], voices.by_chance, (2,))
    assert any(PEOPLE[0] in people[2:] for people in present.values())
    with pytest.raises(ValueError, match="SPEAKER_01 is what another speaker is called"):
        name_results(results, tmp_path / "named", voices=clash)
    assert not (tmp_path / "named").exists()


def test_results_that_would_be_one_file_are_refused(tmp_path):
    paths, present = write_results(tmp_path / "results", 30)
    other = tmp_path / "other" / paths[0].name.upper().replace("JSON", "json")
    other.parent.mkdir()
    other.write_text(paths[0].read_text().replace("file 00", "file 99"))
    with pytest.raises(ValueError, match="in one file"):
        name_results(read_results([*paths, other]), tmp_path / "named", present)
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize(
    ("form", "other"), [("rttm", "Anna_Lee"), ("audacity", "Anna  Lee"), ("webvtt", "Anna  Lee")]
)
def test_names_that_become_one_are_refused_before_anything_is_written(tmp_path, form, other):
    paths, present = write_results(tmp_path / "results")
    change = {PEOPLE[0]: "Anna Lee", PEOPLE[1]: other}
    assert any({PEOPLE[0], PEOPLE[1]} <= set(people) for people in present.values())
    likes = {uri: [change.get(n, n) for n in people] for uri, people in present.items()}
    with pytest.raises(ValueError, match=f"differ only in spaces cannot be told apart in {form}"):
        name_results(read_results(paths), tmp_path / "named", likes, formats=[form])
    assert not (tmp_path / "named").exists()


def test_likes_of_other_recordings_are_told(tmp_path):
    paths, present = write_results(tmp_path / "results")
    likes = {f"{uri}.wav": people for uri, people in present.items()}
    with pytest.raises(ValueError, match=r"other recordings \('file 00.wav'\).*'file 00'"):
        name_results(read_results(paths), tmp_path / "named", likes)


def test_likes_are_found_in_another_unicode_form(tmp_path):
    paths, present = write_results(tmp_path / "results")
    for path in paths:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"uri": f"Cafe\u0301 {content['uri']}"}))
    likes = {f"Caf\u00e9 {uri}": people for uri, people in present.items()}
    summary = name_results(read_results(paths), tmp_path / "named", likes)
    assert not summary.unused and set(summary.voices.names) == set(PEOPLE)
    assert all(uri.startswith("Cafe\u0301") for uri in summary.matches)
    other = tmp_path / "other.json"
    other.write_text(paths[0].read_text().replace("e\\u0301", "\\u00e9"))
    with pytest.raises(ValueError, match="are both of"):
        read_results([*paths, other])


def test_missing_and_double_results(tmp_path):
    paths, _ = write_results(tmp_path / "results", 2)
    with pytest.raises(FileNotFoundError, match="none.json: no such file"):
        read_results([tmp_path / "none.json"])
    copy = tmp_path / "copy.json"
    copy.write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match=r"result00.json and .*copy.json are both of file 00"):
        read_results([*paths, copy])
    twice = read_results([*paths, str(paths[0]), paths[1]])
    assert [result.path for result in twice] == paths


def test_a_turn_without_length_is_in_rttm(tmp_path):
    results, voices = write_talk(tmp_path / "one")
    for turn in results[0].content["diarization"]:
        turn["end"] = turn["start"]
    name_results(results, tmp_path / "named", voices=voices)
    (annotation,) = load_rttm(tmp_path / "named" / "talk.rttm").values()
    starts = sorted(turn["start"] for turn in results[0].content["diarization"])
    assert [turn.start for turn in annotation.itersegments()] == starts


def write_talk(folder, **options):
    """One result that is called talk.json, and voices to name it by."""
    (path,), _ = write_results(folder, 1)
    talk = path.rename(folder / "talk.json")
    talk.write_text(json.dumps(json.loads(talk.read_text()) | {"uri": "talk"} | options))
    unit = voice(0) / np.linalg.norm(voice(0))
    return read_results([talk]), Voices((PEOPLE[0],), np.float32([unit]), 0.5, (2,))


@pytest.fixture
def named(tmp_path):
    """Results with names, their likes, and the folder."""
    paths, present = write_results(tmp_path / "results")
    results = read_results(paths)
    summary = name_results(results, tmp_path / "named", present)
    assert not summary.gone
    return results, present, tmp_path / "named"


def test_voices_of_another_archive_are_not_replaced(named):
    results, present, folder = named
    others = [r._replace(path=r.path.with_name(f"other {r.path.name}")) for r in results]
    likes = {uri: [f"other {who}" for who in people] for uri, people in present.items()}
    before = {path: path.read_bytes() for path in folder.iterdir()}
    told = r"voices.safetensors, which is of another archive: .* \(person 0, .*\): choose another"
    with pytest.raises(ValueError, match=told):
        name_results(others, folder, likes)
    (folder / VOICES).write_text("something else")
    with pytest.raises(
        ValueError, match="would replace .*: no file of voices, .*: choose another"
    ):
        name_results(others, folder, likes)
    (folder / VOICES).write_bytes(before[folder / VOICES])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    voices = Voices.load(folder / VOICES)
    replace(voices, names=(), vectors=voices.vectors[:0], num_files=()).save(folder / VOICES)
    assert not name_results(others, folder, likes).gone


def test_names_that_have_no_voice_any_more_are_told(named, tmp_path):
    results, present, folder = named
    corrected = {
        uri: [who.replace(PEOPLE[7], "Anna") for who in people] for uri, people in present.items()
    }
    summary = name_results(results, folder, corrected)
    assert summary.gone == [PEOPLE[7]]
    assert set(Voices.load(folder / VOICES).names) == {"Anna", *PEOPLE} - {PEOPLE[7]}
    write_likes(tmp_path / "a.likes", present)
    files = [str(result.path) for result in results]
    told = run_cli("name", *files, "--likes", str(tmp_path / "a.likes"), "--into", str(folder))
    assert told.exit_code == 0
    assert f"{VOICES}: Anna had a voice there before, and has none any more" in told.output


def test_likes_that_are_one_text_are_refused(named, tmp_path):
    results, present, _ = named
    likes = {uri: people[0] for uri, people in present.items()}
    with pytest.raises(
        ValueError, match="likes of file 00 are one text, 'person .*': give a list"
    ):
        name_results(results, tmp_path / "again", likes)
    assert not (tmp_path / "again").exists()


AUDIO = {"path": "talk.wav", "bytes": 80, "digest": "a"}


@pytest.mark.parametrize(
    "first, second",
    [
        ({"audio": AUDIO}, {"audio": AUDIO | {"digest": "b"}}),
        ({"audio": AUDIO}, {"audio": AUDIO | {"bytes": 81}}),
        ({"audio": AUDIO | {"place": "x"}}, {"audio": AUDIO | {"place": "y", "digest": "b"}}),
        ({"audio": AUDIO}, {"uri": "other"}),
        ({}, {"uri": "other"}),
    ],
)
def test_names_of_another_recording_are_not_replaced(tmp_path, first, second):
    results, voices = write_talk(tmp_path / "one", **first)
    others, _ = write_talk(tmp_path / "two", **second)
    more = read_results(write_results(tmp_path / "three", 1)[0])
    named = tmp_path / "named"
    name_results(results, named, voices=voices)
    before = {path: path.read_bytes() for path in named.iterdir()}
    with pytest.raises(
        ValueError, match=r"two.talk.json with names would replace .*named.talk.json, .* another"
    ):
        name_results([*more, *others], named, voices=voices)
    assert {path: path.read_bytes() for path in named.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"text": "Hello.", "segments": []}'])
def test_names_do_not_replace_what_is_no_result(tmp_path, text):
    results, voices = write_talk(tmp_path / "one")
    there = tmp_path / "named" / "talk.json"
    there.parent.mkdir()
    there.write_text(text)
    with pytest.raises(ValueError, match=r"one.talk.json .*named.talk.json, .* no result"):
        name_results(results, there.parent, voices=voices)
    assert there.read_text() == text and list(there.parent.iterdir()) == [there]


def test_names_of_the_same_recording_are_replaced(tmp_path):
    named = tmp_path / "named"
    for options in ({}, {"audio": AUDIO}, {"audio": AUDIO | {"path": "moved.wav"}}, {}):
        results, voices = write_talk(tmp_path / "one", **options)
        name_results(results, named, voices=voices)
        assert json.loads((named / "talk.json").read_text()).get("audio") == options.get("audio")
    name_results(results, tmp_path / "one", voices=voices)  # in their own place
    absolute = AUDIO | {"path": str(tmp_path / "talk.wav")}
    for edited in (absolute, AUDIO | {"place": place_of(tmp_path / "talk.wav")}):
        for digest in "ab":
            results, voices = write_talk(tmp_path / "one", audio=edited | {"digest": digest})
            name_results(results, named, voices=voices)
    nameless = json.loads((named / "talk.json").read_text()) | {"uri": None}
    (named / "talk.json").write_text(json.dumps(nameless))
    name_results(results, named, voices=voices)


def test_a_full_disk_says_how_far_names_came(tmp_path, monkeypatch):
    paths, present = write_results(tmp_path / "results", 30)
    write, into = archive_module.write_json, tmp_path / "named"

    def fail(content, path):
        if path.stem == "result05":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(content, path)

    monkeypatch.setattr(archive_module, "write_json", fail)
    told = r"stopped at .*named.result05\.json .*: No space .* 5 of 30 results .* again"
    with pytest.raises(OSError, match=told) as error:
        name_results(read_results(paths), into, present)
    assert error.value.errno == errno.ENOSPC
    voices = Voices.load(into / VOICES)  # which are written first
    assert len(list(into.glob("*.json"))) == 5
    monkeypatch.setattr(archive_module, "write_json", write)
    assert name_results(read_results(paths), into, present).voices.names == voices.names
    assert all(named_of(into / path.name) for path in paths)

    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Voices, "save", full)
    with pytest.raises(OSError, match=rf"stopped at .*again.{VOICES} .* 0 of 30 results"):
        name_results(read_results(paths), tmp_path / "again", present)
    assert not (tmp_path / "again").exists()


def test_files_that_keep_the_labels_from_before_are_told(tmp_path):
    paths, present = write_results(tmp_path / "results")
    folder = paths[0].parent
    likes = ["--likes", str(tmp_path / "a.likes"), "--into", str(folder)]

    def told(*options):
        run = run_cli("name", *map(str, paths), *likes, *options)
        assert run.exit_code == 0, run.output
        return [line for line in run.output.splitlines() if "keep the labels" in line]

    write_likes(tmp_path / "a.likes", present)
    assert told() == []
    for ending in ("csv", "vtt"):
        paths[0].with_suffix(f".{ending}").write_text("0.500,2.000,1.500,SPEAKER_00,\n")
    paths[1].with_suffix(".txt").write_text("What they said in SPEAKER_001.\n")  # of somebody else
    names = f"{paths[0].stem}.csv, {paths[0].stem}.vtt"
    line = f"2 files in other formats keep the labels from before ({names}): --format csv,webvtt"
    assert told() == told() == [f"{line} writes them with names"]
    assert told("--format", "csv,webvtt") == []
    assert told() == []
    change = {PEOPLE[0]: PEOPLE[1], PEOPLE[1]: PEOPLE[0]}
    corrected = {uri: [change.get(who, who) for who in some] for uri, some in present.items()}
    write_likes(tmp_path / "a.likes", corrected)
    (line,) = told()
    assert line.endswith("--format csv,webvtt writes them with names")
    for path in paths:
        path.with_suffix(".csv").unlink()
        path.with_suffix(".vtt").unlink()
    assert told("--format", "json") == []  # RTTM is of the run before


def test_no_voice_at_all_is_said(tmp_path):
    results, _ = write_talk(tmp_path / "one")
    nobody = Voices((), np.zeros((0, 64), np.float32), 0.5, ())
    with pytest.raises(ValueError, match="no voice of 'Anna'. `name` learned no voice: a name"):
        find_voice("Anna", results, nobody)


def test_a_voice_is_found_where_it_is(tmp_path):
    paths, present = write_results(tmp_path / "results")
    results = read_results(paths)
    voices = name_results(results, tmp_path / "named", present).voices
    hits = find_voice(PEOPLE[7], results, voices)
    there = {uri for uri, people in present.items() if PEOPLE[7] in people}
    assert {hit.uri for hit in hits if hit.recognized} == there
    assert {hit.uri for hit in hits[: len(there)]} == there and len(hits) == len(results)
    place = present[hits[0].uri].index(PEOPLE[7])
    assert hits[0].speaker == f"SPEAKER_{place:02d}" and hits[0].start == 10.0 * place + 0.5
    message = r"no voice of 'Person 7'; there is person 7. \d+ are known \(.*person 7.*\): a name"
    with pytest.raises(ValueError, match=message):
        find_voice("Person 7", results, voices)


def test_a_voice_whose_accents_are_encoded_otherwise():
    voices = Voices(["J\u00f6rg"], np.ones((1, 2)), 0.5, (2,))
    with pytest.raises(ValueError, match="J\u00f6rg .whose accents are encoded other"):
        find_voice("Jo\u0308rg", [], voices)


def test_the_command_line_names_and_finds(tmp_path):
    paths, present = write_results(tmp_path / "results")
    likes = tmp_path / "a.likes"
    lines = [" ".join(f'"{item}"' for item in (uri, *people)) for uri, people in present.items()]
    likes.write_text("\n".join([*lines, "other somebody"]) + "\n")
    files = list(map(str, paths))
    told = run_cli("name", *files, "--likes", str(likes), "--into", str(tmp_path / "named"))
    assert told.exit_code == 0
    assert "12 voices; 160 speakers named in 40 of 40 recordings" in told.output
    assert "no result of 1 recordings (other)" in told.output
    voices = str(tmp_path / "named" / VOICES)
    named = [str(tmp_path / "named" / path.name) for path in paths]
    found = run_cli("find", "person 7", *named, "--voices", voices, "--top", "3")
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("yes\t") and line.endswith("\tperson 7") for line in lines)
    both = run_cli("name", *files, "--into", str(tmp_path / "x"))
    assert both.exit_code != 0


def test_a_folder_for_names_is_tried_before_they_are_looked_for(tmp_path, monkeypatch):
    paths, present = write_results(tmp_path / "results", 2)
    write_likes(tmp_path / "a.likes", present)
    monkeypatch.setattr(archive_module, "name_results", None)
    for place in (tmp_path / "a.likes", tmp_path / "a.likes" / "below"):
        options = ["--likes", str(tmp_path / "a.likes"), "--into", str(place)]
        result = run_cli("name", *map(str, paths), *options)
        assert f"{place}: results cannot be written to this folder" in str(result.exception)


def test_what_is_found_is_in_columns(tmp_path):
    results, voices = write_talk(tmp_path / "one", uri="a\tb\n  c")
    voices.save(tmp_path / VOICES)
    options = ["--voices", str(tmp_path / VOICES)]
    found = run_cli("find", PEOPLE[0], str(results[0].path), *options)
    assert re.fullmatch(r"\w+(\t[-\d.]+){3}\ta b   c\tSPEAKER_0\d\n", found.output)


def test_what_is_found_is_told_where_there_are_no_letters_for_it(tmp_path):
    results, voices = write_talk(tmp_path / "one", uri="Жанна é")
    voices.save(tmp_path / VOICES)
    command = [sys.executable, "-m", "pyannote_weighter.cli", "find", PEOPLE[0]]
    found = subprocess.run(
        [*command, results[0].path, "--voices", tmp_path / VOICES],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    assert r"\u0416\u0430\u043d\u043d\u0430 é" in found.stdout.decode("cp1252").split("\t")


def with_id(paths, name):
    for path in paths:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"embedding_id": name}))


def test_embeddings_that_do_not_compare_are_refused(tmp_path):
    paths, present = write_results(tmp_path / "results")
    with_id(paths[:30], "a-alone")
    some, rest = read_results(paths[:30]), paths[30:]
    voices = name_results(some, tmp_path / "named", present).voices
    assert voices.embedding_id == "a-alone"
    known = Voices.load(tmp_path / "named" / VOICES)
    assert known.embedding_id == "a-alone"
    find_voice(PEOPLE[0], read_results(rest), known)  # of whom it is not known
    with_id(rest, "b-alone")
    with pytest.raises(ValueError, match="result00.json .a-alone. and .*result30.json .b-alone."):
        name_results(read_results(paths), tmp_path / "again", present)
    others = read_results(rest)
    with pytest.raises(ValueError, match="of the voices .a-alone. and .*result30.json .b-alone."):
        name_results(others, tmp_path / "again", voices=known)
    with pytest.raises(ValueError, match="diarize the recordings of one of them again"):
        find_voice(PEOPLE[0], others, known)
    assert not (tmp_path / "again").exists()


def test_embeddings_of_another_dimension_are_named(tmp_path):
    paths, present = write_results(tmp_path / "results")
    name_results(read_results(paths[:39]), tmp_path / "named", present)
    known = Voices.load(tmp_path / "named" / VOICES)
    content = json.loads(paths[39].read_text())
    for entry in content["speakers"]:
        entry["embedding"] = entry["embedding"][:8]
    paths[39].write_text(json.dumps(content))
    results, told = read_results(paths), r"result39.json .8 dimensions. do not compare"
    for likes in (present, dict(list(present.items())[:30])):  # also where nobody has listened
        with pytest.raises(ValueError, match=f"result00.json .64 dimensions. and .*{told}"):
            name_results(results, tmp_path / "again", likes)
    for some in (results, results[39:]):
        with pytest.raises(ValueError, match=f"of the voices .64 dimensions. and .*{told}"):
            name_results(some, tmp_path / "again", voices=known)
        with pytest.raises(ValueError, match=f"of the voices .64 dimensions. and .*{told}"):
            find_voice(PEOPLE[0], some, known)
    assert not (tmp_path / "again").exists()
    nobody = {"uri": "silence", "speakers": [], "diarization": []}
    (tmp_path / "silence.json").write_text(json.dumps(nobody))  # which has no dimension
    silent = read_results([tmp_path / "silence.json", *paths[:39]])
    name_results(silent, tmp_path / "again", voices=known)
