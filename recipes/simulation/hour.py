"""Cost of assigning long sequences: a Weighter core beside k-means, on one thread."""

import argparse
import os
import time
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import torch

from pyannote_weighter.simulation import rivals
from pyannote_weighter.simulation.core import load_core
from pyannote_weighter.simulation.scoring import accuracy
from pyannote_weighter.simulation.vectors import RandomWalkVectors

FRAMES_A_MINUTE = 3000  # 50 a second
RECIPE = {"num_speakers": 8, "scale": 100.0, "dimension": 256, "sigma": 8.0}


@torch.inference_mode()
def measure(method: str, minutes: float, weighter: Path) -> tuple[float, float, float]:
    """CPU seconds, GB at the peak beyond the frames, and accuracy."""
    torch.set_num_threads(1)
    recipe = RandomWalkVectors(num_frames=round(minutes * FRAMES_A_MINUTE), **RECIPE)
    sequences = recipe.draw(1, torch.Generator().manual_seed(0))
    core = load_core(weighter)
    core(sequences.frames[:, :100], 8)  # what is loaded lazily
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here: drawing has one too
    began = time.process_time()
    if method == "k-means":
        labels = rivals.k_means(sequences.frames, 8)
    else:
        labels = core(sequences.frames, 8).weightings[-1].argmax(-1)
    seconds = time.process_time() - began
    peak = resident("VmHWM") - before
    return seconds, peak / 1e9, accuracy(labels, sequences.speaker).item()


def resident(what: str) -> int:
    """Bytes of this process in memory (Linux): VmRSS of now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main() -> None:
    """Read the command line, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weighter", type=Path, help="what train.py wrote")
    parser.add_argument("--minutes", type=float, nargs="+", default=[15.0, 30.0, 60.0])
    arguments = parser.parse_args()
    print("| frames | minutes | method | CPU seconds | GB beyond the frames | accuracy |")
    print("|---|---|---|---|---|---|")
    for minutes in arguments.minutes:
        for method in ("Weighter", "k-means"):
            # a process each: the peak of memory is that of a process
            with get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (method, minutes, arguments.weighter))
            seconds, gigabytes, share = row
            frames = round(minutes * FRAMES_A_MINUTE)
            print(
                f"| {frames:,} | {minutes:g} | {method} | {seconds:.1f} | {gigabytes:.2f} | ",
                end="",
            )
            print(f"{100 * share:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
