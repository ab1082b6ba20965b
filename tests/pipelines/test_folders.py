"""Tests of pipelines in folders."""

import shutil

import pytest

from pyannote_weighter.pipelines.folders import fingerprint, load_pipeline, name_pipelines
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from tests.dummy_pipeline import HalfAndHalf, write_pipeline


def test_load_pipeline(tmp_path):
    assert isinstance(load_pipeline(write_pipeline(tmp_path / "a"), "cpu"), HalfAndHalf)
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="config.yaml"):
            load_pipeline(missing, "cpu")


def test_names_of_pipelines(tmp_path):
    first, second = tmp_path / "a" / "pipeline", tmp_path / "b" / "pipeline"
    assert list(name_pipelines([DEFAULT_PIPELINE, first, second])) == [
        "Weighter (default)",
        "Weighter (a)",
        "Weighter (b)",
    ]
    other = tmp_path / "other" / "a"
    assert list(name_pipelines([first, other])) == ["Weighter (a)", "Weighter (other/a)"]
    with pytest.raises(ValueError, match="same name"):
        name_pipelines([first, first, first])


def test_fingerprint_sees_every_file(tmp_path):
    folder = write_pipeline(tmp_path / "a")
    before = fingerprint(folder)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(b"1")
    with pytest.raises(FileNotFoundError, match="no such pipeline"):
        fingerprint(tmp_path / "nowhere")
    assert before != fingerprint(folder) == fingerprint(folder)


def test_fingerprint_leaves_out_what_systems_leave_there(tmp_path):
    folder = write_pipeline(tmp_path / "a")
    before = fingerprint(folder)
    (folder / ".DS_Store").write_bytes(b"1")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    assert fingerprint(folder) == before


WEIGHTS, CONFIG = "weighter/pytorch_model.bin", "config.yaml"


@pytest.mark.parametrize(
    "file, change, words",
    [
        (WEIGHTS, lambda data: b"", r"weighter: no model that can be loaded: EOFError"),
        (WEIGHTS, lambda data: data[:1000], r"weighter: no model that can be loaded"),
        (WEIGHTS, lambda data: b"hello", r"weighter: no model that can be loaded"),
        (CONFIG, lambda data: b"", "TypeError"),
        (CONFIG, lambda data: b"a: [1", "ParserError"),
        (CONFIG, lambda data: b"# \xf6\n" + data, "UnicodeDecodeError"),
        (CONFIG, lambda data: data.replace(b"Diarization", b"Diarisation"), "AttributeError"),
        (CONFIG, lambda data: data.replace(b"cosine_offset", b"cosine_ofset"), "cosine_ofset"),
        (CONFIG, lambda data: data.replace(b"merge: 0.3", b"merge: .nan"), "merge is nan"),
        (CONFIG, lambda data: data.replace(b"weighter: 0.1", b"weighter: 9.1"), "Pipeline requir"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, file, change, words):
    folder = shutil.copytree(DEFAULT_PIPELINE, tmp_path / "pipeline")
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=f"pipeline: cannot be loaded: .*{words}") as caught:
        load_pipeline(folder, "cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("no module x")])
def test_what_is_clear_or_asked_for_stays(tmp_path, monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr("pyannote_weighter.pipelines.folders.Pipeline.from_pretrained", fail)
    with pytest.raises(type(error)) as caught:
        load_pipeline(write_pipeline(tmp_path / "a"), "cpu")
    assert caught.value is error


def test_a_name_that_the_hub_cannot_give_is_named(monkeypatch):
    def unreachable(name):
        raise OSError("no network")

    monkeypatch.setattr(
        "pyannote_weighter.pipelines.folders.Pipeline.from_pretrained", unreachable
    )
    with pytest.raises(FileNotFoundError, match="owner/name: no such folder here.*no network"):
        load_pipeline("owner/name", "cpu")
