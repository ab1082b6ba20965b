"""Tests of pipelines in folders."""

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


def test_a_name_that_the_hub_cannot_give_is_named(monkeypatch):
    def unreachable(name):
        raise OSError("no network")

    monkeypatch.setattr(
        "pyannote_weighter.pipelines.folders.Pipeline.from_pretrained", unreachable
    )
    with pytest.raises(FileNotFoundError, match="owner/name: no such folder here.*no network"):
        load_pipeline("owner/name", "cpu")
