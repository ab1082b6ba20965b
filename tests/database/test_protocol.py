"""Protocols with likes, from YAML through the registry of pyannote.database."""

import importlib.metadata
import subprocess
import sys

import pyannote.database.protocol
import pytest
from pyannote.database import custom, registry
from pyannote.database.protocol import SpeakerDiarizationProtocol

from pyannote_weighter.database import LikesLoader, SpeakerLikesProtocol, register

DATABASE_YML = """
Databases:
  Radio: audio/{uri}.wav
Protocols:
  Radio:
    SpeakerDiarization:
      Likes:
        scope: global
        train: {uri: train.lst, likes: train.likes, annotated: train.uem}
        development: {uri: dev.lst, likes: "dev/{uri}.likes", annotation: dev.rttm}
    SpeakerLikes:
      Likes:
        scope: database
        train: {uri: train.lst, likes: train.likes}
      Local:
        scope: file
        train: {uri: train.lst, likes: train.likes}
  X:
    SpeakerLikes:
      Both:
        train:
          Radio.SpeakerLikes.Likes: [train]
    SpeakerDiarization:
      Both:
        train:
          Radio.SpeakerDiarization.Likes: [train]
"""


@pytest.fixture
def database_yml(tmp_path, monkeypatch):
    """Write a small database; its loader is the installed one, or stands in where it is not."""
    if ".likes" not in custom.LOADERS:
        value = f"{LikesLoader.__module__}:LikesLoader"
        entry = importlib.metadata.EntryPoint(".likes", value, "pyannote.database.loader")
        monkeypatch.setitem(custom.LOADERS, ".likes", entry)
    (tmp_path / "dev").mkdir()
    for name, text in {
        "database.yml": DATABASE_YML,
        "train.lst": "ep1\nep2\nep3\n",
        "train.likes": 'ep1 Alice "Anna Lee"\nep2\n',
        "train.uem": "ep1 NA 0 10\nep2 NA 0 10\nep3 NA 0 10\n",
        "dev.lst": "ep4\n",
        "dev/ep4.likes": "ep4 Alice\n",
        "dev.rttm": "SPEAKER ep4 1 0.0 2.0 <NA> <NA> Alice <NA> <NA>\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for content in ("configs", "sources", "databases"):  # the registry is one for the process
        monkeypatch.setattr(registry, content, {})
    return tmp_path / "database.yml"


@pytest.fixture
def registered(monkeypatch):
    """Registration that ends with the test."""
    monkeypatch.delattr(pyannote.database.protocol, "SpeakerLikesProtocol", raising=False)
    monkeypatch.setattr(
        pyannote.database.protocol, "SpeakerLikesProtocol", SpeakerLikesProtocol, raising=False
    )
    register()


def test_canonical_protocol(database_yml):
    registry.load_database(database_yml)
    protocol = registry.get_protocol("Radio.SpeakerDiarization.Likes")
    files = list(protocol.train())
    assert [file["likes"] for file in files] == [("Alice", "Anna Lee"), (), None]
    assert {file["scope"] for file in files} == {"global"}
    assert {file["annotation"] for file in files} == {None}
    assert files[0]["annotated"].duration() == 10.0

    (file,) = protocol.development()
    assert file["likes"] == ("Alice",)
    assert file["annotation"].labels() == ["Alice"]


def test_likes_protocol(database_yml, registered):
    registry.load_database(database_yml)
    protocol = registry.get_protocol("Radio.SpeakerLikes.Likes")
    assert isinstance(protocol, SpeakerDiarizationProtocol)
    files = list(protocol.train())
    assert [file["likes"] for file in files] == [("Alice", "Anna Lee"), (), None]
    assert {file["scope"] for file in files} == {"database"}
    assert {file.get("annotation") for file in files} == {None}
    assert protocol.stats("train") == {
        "n_files": 3,
        "n_known": 2,
        "likes": {"Alice": 1, "Anna Lee": 1},
    }
    with pytest.raises(NotImplementedError):
        list(protocol.test())


@pytest.mark.parametrize("task", ["SpeakerLikes", "SpeakerDiarization"])
def test_meta_protocol(database_yml, registered, task):
    registry.load_database(database_yml)
    protocol = registry.get_protocol(f"X.{task}.Both")
    assert [file["likes"] for file in protocol.train()] == [("Alice", "Anna Lee"), (), None]
    assert {file["database"] for file in protocol.train()} == {"Radio"}


def test_scope_of_one_file_is_refused(database_yml, registered):
    registry.load_database(database_yml)
    protocol = registry.get_protocol("Radio.SpeakerLikes.Local")
    with pytest.raises(ValueError, match="Radio.SpeakerLikes.Local: .*scope: global"):
        next(iter(protocol.train()))


def test_bad_line_surfaces_through_the_protocol(database_yml):
    (database_yml.parent / "train.likes").write_text("ep1 Alice\nep1 Bob\n")
    registry.load_database(database_yml)
    protocol = registry.get_protocol("Radio.SpeakerDiarization.Likes")
    with pytest.raises(ValueError, match=r"train.likes:2: 'ep1' is already listed in line 1"):
        next(iter(protocol.train()))["likes"]


def test_register_twice_is_harmless_and_never_replaces_another(monkeypatch, registered):
    register()
    assert pyannote.database.protocol.SpeakerLikesProtocol is SpeakerLikesProtocol
    other = type("SpeakerLikesProtocol", (), {})
    monkeypatch.setattr(pyannote.database.protocol, "SpeakerLikesProtocol", other)
    with pytest.raises(RuntimeError, match="already has"):
        register()


def test_importing_registers_nothing():
    code = (
        "import pyannote_weighter.database, pyannote.database.protocol as p;"
        "raise SystemExit(hasattr(p, 'SpeakerLikesProtocol'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
