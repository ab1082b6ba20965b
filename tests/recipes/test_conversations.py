"""The script that joins conversations."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyannote_weighter.protocols import protocol_files

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "conversations" / "join.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Registry of two conversations of a second each; nothing is in the development subset."""
    folder = tmp_path / "corpus"
    (folder / "train").mkdir(parents=True)
    for uri, value in (("a", 0.25), ("b", 0.5)):
        soundfile.write(folder / "train" / f"{uri}.flac", np.full(16000, value), 16000)
    (folder / "train.lst").write_text("a\nb\n")
    (folder / "train.likes").write_text("a ann\nb bob\n")
    line = "SPEAKER {} 1 0.000 1.000 <NA> <NA> {} <NA> <NA>\n"
    (folder / "train.rttm").write_text(line.format("a", "ann") + line.format("b", "bob"))
    (folder / "train.uem").write_text("a 1 0.000 1.000\nb 1 0.000 1.000\n")
    (folder / "development.lst").write_text("")
    (folder / "database.yml").write_text(
        "Databases: {Simulated: 'train/{uri}.flac'}\n"
        "Protocols:\n  Simulated:\n    SpeakerDiarization:\n      Conversations:\n"
        "        scope: global\n"
        "        train: {uri: train.lst, likes: train.likes, annotation: train.rttm,"
        " annotated: train.uem}\n"
        "        development: {uri: development.lst}\n"
    )
    return folder / "database.yml"


@pytest.fixture
def join(corpus, monkeypatch):
    """A function that runs the script on the corpus."""

    def run(into: Path, *options: str, registry: Path = corpus) -> None:
        arguments = [str(registry), "--by", "2", "--into", str(into), *options]
        monkeypatch.setattr(sys, "argv", ["join.py", *arguments])
        runpy.run_path(str(RECIPE), run_name="__main__")

    return run


def test_sources_with_another_sound_are_joined_again(corpus, join, tmp_path):
    joined = tmp_path / "joined" / "train" / "a-by2.flac"
    join(tmp_path / "joined")
    assert soundfile.read(joined)[0][[0, -1]].tolist() == [0.25, 0.5]
    soundfile.write(corpus.parent / "train" / "a.flac", np.full(16000, 0.125), 16000)
    join(tmp_path / "joined")
    assert soundfile.read(joined)[0][[0, -1]].tolist() == [0.125, 0.5]


def test_what_is_joined_is_joined_again(corpus, join, tmp_path):
    join(tmp_path / "one", "--by", "1")
    join(tmp_path / "two", registry=tmp_path / "one" / "database.yml")
    name = "Simulated.SpeakerDiarization.Conversations"
    (file,) = protocol_files(name, tmp_path / "two" / "database.yml", "train")
    assert file["uri"] == "a-by1-by2" and file["likes"] == ("ann", "bob")
    assert Path(file["audio"]).is_file()


@pytest.mark.parametrize("above", [False, True])
def test_sources_are_not_overwritten(corpus, join, tmp_path, monkeypatch, capsys, above):
    """Neither where the registry is, nor where the audio is."""
    if above:
        text = corpus.read_text().replace("'train/", "'../corpus/train/")
        text = text.replace(": train.", ": ../corpus/train.")
        corpus.write_text(text.replace(": development.", ": ../corpus/development."))
        (tmp_path / "registry").mkdir()
        moved = corpus.rename(tmp_path / "registry" / "database.yml")
        corpus.symlink_to(moved)
    before = (corpus.parent / "train.rttm").read_bytes(), corpus.read_bytes()
    with pytest.raises(SystemExit):
        join(corpus.parent)
    message = " ".join(capsys.readouterr().err.split())
    assert "holds what is to be joined, which would be overwritten: choose another" in message
    assert before == ((corpus.parent / "train.rttm").read_bytes(), corpus.read_bytes())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--by", "0"], "choose 1 or more"),
        (["--files", "0"], "choose 1 or more"),
        (["--files", "-1"], "choose 1 or more"),
        (["--subset", "development"], "development has no files: choose another --subset"),
    ],
)
def test_what_makes_nothing_is_refused(join, tmp_path, capsys, options, expected):
    with pytest.raises(SystemExit):
        join(tmp_path / "joined", *options)
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "joined").exists()
