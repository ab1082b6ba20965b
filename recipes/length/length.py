"""Time and memory against the length of a recording, a process for each length."""

import argparse
import os
import resource
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import tempfile
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch
from pyannote.core import SlidingWindowFeature

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.likeness import LocalSpeakers
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pipelines.spill import Rows
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.simulation.voices import SUFFIXES as KNOWN
from pyannote_weighter.timing import StepTimer

SAMPLE_RATE = 16000
SUFFIXES = KNOWN | {".m4a"}  # which FFmpeg reads


def main() -> None:
    """Read the command line, measure each length, print a table and the exponents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="recordings, joined in the order of their names")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20, 60, 240])
    parser.add_argument("--pipeline", default=DEFAULT_PIPELINE)
    parser.add_argument("--segmentation-step", type=float, help="instead of the pipeline's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--assignment-only",
        type=float,
        metavar="MINUTES",
        help="compute frames and segmentation of so many minutes, repeat these, time the rest",
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for minutes in arguments.minutes:
            print(f"{minutes:g} minutes", file=sys.stderr)
            recording = Path(temporary) / "joined.wav"
            join(arguments.folder, arguments.assignment_only or minutes, recording)
            measure = whole if arguments.assignment_only is None else assignment
            # a process each: the peak of memory is that of a process
            with get_context("spawn").Pool(1) as pool:
                rows.append(
                    {"minutes": minutes} | pool.apply(measure, (recording, minutes, arguments))
                )
    print(table(rows))
    if len(rows) > 1:
        x = np.log(arguments.minutes)
        for column in ("CPU s", "wall s"):
            exponent = np.polyfit(x, np.log([row[column] for row in rows]), 1)[0]
            print(f"\nexponent of {column} against length: {exponent:.3f}")


def join(folder: Path, minutes: float, into: Path) -> None:
    """Write recordings, one after the other, until they are long enough.

    Raises
    ------
    ValueError
        If they are shorter together: a repeated recording would not be one of that length.
    """
    missing = round(minutes * 60 * SAMPLE_RATE)
    with soundfile.SoundFile(into, "w", SAMPLE_RATE, channels=1, format="RF64") as joined:
        for path in sorted(folder.iterdir()):
            if missing and path.suffix.lower() in SUFFIXES:
                samples = load_waveform(path, SAMPLE_RATE)[0, :missing]
                joined.write(samples.numpy())
                missing -= len(samples)
    if missing:
        raise ValueError(
            f"{folder}: {missing / SAMPLE_RATE / 60:.1f} minutes are missing to {minutes:g}: "
            "add recordings"
        )


def load(arguments: argparse.Namespace):
    """Load the pipeline."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    pipeline = load_pipeline(arguments.pipeline, "cpu")
    if arguments.segmentation_step is not None:
        inference = pipeline._segmentation
        inference.step = arguments.segmentation_step * inference.duration
    return pipeline


def peak() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says of a new process begins with that of its parent
        (line,) = (t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def whole(recording: Path, minutes: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure the pipeline, from a path to turns."""
    pipeline = load(arguments)
    return measured(lambda timer: pipeline(recording, hook=timer))


def assignment(recording: Path, minutes: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure everything that comes after frames and segmentation."""
    pipeline = load(arguments)
    times = minutes / arguments.assignment_only
    count, frames, local = computed(pipeline, recording, times)
    return measured(lambda timer: pipeline.assign(frames, count, local, hook=timer))


def computed(
    pipeline: WeighterDiarization, recording: Path, times: float
) -> tuple[SlidingWindowFeature, Rows, LocalSpeakers]:
    """Count, frames and segmentation of a recording, so many times over.

    Raises
    ------
    ValueError
        If its end is not where a window of the segmentation begins: copies would drift apart.
    """
    waveform, windows = load_waveform(recording, SAMPLE_RATE), pipeline._segmentation
    num_samples = waveform.shape[1]
    seconds = num_samples / SAMPLE_RATE
    if not np.isclose(seconds / windows.step, round(seconds / windows.step), atol=1e-6, rtol=0):
        raise ValueError(
            f"{seconds:g} s cannot be repeated: --assignment-only must be a multiple of the step "
            f"of the segmentation, {windows.step:g} s"
        )
    # windows that begin before the end hear how it begins again
    more = round((windows.duration - windows.step) * SAMPLE_RATE)
    waveform = waveform[:, torch.arange(num_samples + more) % num_samples]
    file = {"waveform": waveform, "sample_rate": SAMPLE_RATE}
    count, once, local = pipeline.compute(file, lambda *args, **options: None)
    number = round(seconds / pipeline._weighter.frames.step)
    frames = Rows(once.shape[1], pipeline.half)
    while len(frames) < round(times * number):
        frames.append(once[: min(number, round(times * number) - len(frames))])
    counted = repeat(count.data, times, seconds / count.sliding_window.step)
    local = local._replace(active=repeat(local.active, times, round(seconds / windows.step)))
    return SlidingWindowFeature(counted, count.sliding_window), frames, local


def repeat(rows: np.ndarray, times: float, number: float | None = None) -> np.ndarray:
    """Rows, or the first ones, so many times over; copies need not begin on a row."""
    number = len(rows) if number is None else number
    return rows[np.rint(np.arange(round(times * number)) % number).astype(int)]


def measured(run) -> dict[str, float]:
    """CPU seconds of each step and in all, wall time, memory."""
    before = peak()
    timer, start = StepTimer(), time.perf_counter()
    output = run(timer)
    timer.finish("annotation")
    return {
        **timer.seconds,
        "CPU s": sum(timer.seconds.values()),
        "wall s": time.perf_counter() - start,
        "MB before": before,
        "peak MB": peak(),
        "output MB": output.weightings.data.nbytes / 1e6,
        "speakers": len(output.confidence),
    }


def table(rows: list[dict[str, float]]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        values = (row.get(column, 0.0) for column in columns)
        cells = (f"{v:.2f}" if 0 < v < 10 and v % 1 else f"{v:.0f}" for v in values)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
