"""CPU seconds of each step, the default pipeline beside stock and senko, on one file."""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models.fbank import KaldiFbank
from pyannote_weighter.pipelines.baselines import load_stock
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.timing import StepTimer

SAMPLE_RATE = 16000
# what puts names on speech that the segmentation has found
SPEAKER_STEPS = ("embeddings", "slots", "weightings", "speaker_embeddings", "clustering")
ALL = "in all"


def main() -> None:
    """Read the command line, time each system, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="recordings, joined into one")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--pipeline", type=Path, default=DEFAULT_PIPELINE)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--runs", type=int, default=3, help="of each; the median is printed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)

    waveform = join(arguments.files, arguments.minutes)
    systems = {name: SYSTEMS[name](arguments) for name in arguments.systems}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for number in range(arguments.runs):
        for name, run in systems.items():  # in turn: machines are slower at times
            print(f"{name}: run {number + 1} of {arguments.runs}", file=sys.stderr)
            runs[name].append(run(waveform))
    costs = {
        name: {step: median(seconds[step] for seconds in every) for step in every[0]}
        for name, every in runs.items()
    }
    print(
        f"CPU seconds for {arguments.minutes:g} minutes, threads: {arguments.threads}, "
        f"median of {arguments.runs} runs\n"
    )
    print(table(costs))


def join(files: list[Path], minutes: float) -> torch.Tensor:
    """(1, samples) of recordings, one after the other.

    Raises
    ------
    ValueError
        If they are shorter together: a repeated recording would not be one of that length.
    """
    wanted = round(minutes * 60 * SAMPLE_RATE)
    parts: list[torch.Tensor] = []
    for file in files:
        if sum(part.shape[1] for part in parts) < wanted:
            parts.append(load_waveform(file, SAMPLE_RATE))
    joined = torch.cat(parts, dim=1)
    if joined.shape[1] < wanted:
        raise ValueError(
            f"the recordings hold {joined.shape[1] / SAMPLE_RATE / 60:.1f} minutes, "
            f"not {minutes:g}: give more of them"
        )
    return joined[:, :wanted]


def of_pyannote(pipeline) -> Callable:
    """Time a pyannote pipeline step by step."""

    def run(waveform: torch.Tensor) -> dict[str, float]:
        timer = StepTimer()
        pipeline({"waveform": waveform, "sample_rate": SAMPLE_RATE, "uri": "joined"}, hook=timer)
        timer.finish("annotation")
        return {
            "segmentation": timer.seconds["segmentation"],
            "embedding and assignment": sum(timer.seconds.get(s, 0.0) for s in SPEAKER_STEPS),
            ALL: sum(timer.seconds.values()),
        }

    return run


def of_senko(arguments: argparse.Namespace) -> Callable:
    """Time senko as it comes: silero, CAM++ on short windows, its own clustering."""
    import senko

    # its clustering of files of 20 minutes and more is compiled when first used: not its cost
    diarizer = senko.Diarizer(device="cpu", quiet=True, warmup=arguments.minutes >= 20)
    diarizer.logical_cores = arguments.threads  # else it takes all that there are
    torch.set_num_threads(arguments.threads)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and "avx512" not in cpuinfo.read_text():
        # its compiled filter bank would end the process; the place for another one is its own
        print(
            "senko: no AVX-512 here, so the filter bank is that of this package", file=sys.stderr
        )
        fbank = KaldiFbank(SAMPLE_RATE)
        diarizer.kaldifeat_fbank = lambda segments: [fbank(one[None])[0] for one in segments]
        diarizer.use_gpu_fbank = True

    def run(waveform: torch.Tensor) -> dict[str, float]:
        start = time.process_time()
        diarizer.diarize_samples(waveform[0].numpy())
        return {ALL: time.process_time() - start}

    return run


SYSTEMS: dict[str, Callable] = {
    "Weighter": lambda arguments: of_pyannote(load_pipeline(arguments.pipeline, "cpu")),
    "stock": lambda arguments: of_pyannote(load_stock()),
    "senko": of_senko,
}


def table(costs: dict[str, dict[str, float]]) -> str:
    """Seconds of each system and step, and how many times the first system's they are."""
    steps = ["segmentation", "embedding and assignment", ALL]
    first = next(iter(costs))
    lines = [f"| | {' | '.join(steps)} |", "|---" * (len(steps) + 1) + "|"]
    for name, seconds in costs.items():
        cells = []
        for step in steps:
            cell = f"{seconds[step]:.1f}" if step in seconds else ""
            if name != first and step in seconds and costs[first].get(step):
                cell += f" ({seconds[step] / costs[first][step]:.1f} x)"
            cells.append(cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
