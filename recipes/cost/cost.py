"""CPU seconds of each step, the default pipeline beside stock, on one file and one thread."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import warnings
from pathlib import Path
from statistics import median

import torch

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.pipelines.baselines import load_stock
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.timing import StepTimer

# what puts names on speech that the segmentation has found
SPEAKER_STEPS = ("embeddings", "slots", "weightings", "speaker_embeddings", "clustering")


def main() -> None:
    """Read the command line, time both pipelines, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="recordings, joined into one")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--pipeline", type=Path, default=DEFAULT_PIPELINE)
    parser.add_argument("--runs", type=int, default=3, help="the median of which is printed")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    waveform = torch.cat([load_waveform(file) for file in arguments.files], dim=1)
    waveform = waveform[:, : round(arguments.minutes * 60 * 16000)]
    minutes = waveform.shape[1] / 16000 / 60
    pipelines = {"Weighter": load_pipeline(arguments.pipeline, "cpu"), "stock": load_stock()}
    file = {"waveform": waveform, "sample_rate": 16000, "uri": "joined"}

    print(f"CPU seconds for {minutes:.1f} minutes, one thread, median of {arguments.runs} runs\n")
    print(
        "| | segmentation | embedding and assignment | the rest | in all |\n|---|---|---|---|---|"
    )
    speakers = {}
    for name, pipeline in pipelines.items():
        runs = []
        for _ in range(arguments.runs):
            timer = StepTimer()
            pipeline(dict(file), hook=timer)
            timer.finish("annotation")
            runs.append(timer.seconds)
        in_all = [sum(run.values()) for run in runs]
        segmentation = [run["segmentation"] for run in runs]
        speakers[name] = [sum(run.get(step, 0.0) for step in SPEAKER_STEPS) for run in runs]
        rest = [a - b - c for a, b, c in zip(in_all, segmentation, speakers[name], strict=True)]
        cells = [median(values) for values in (segmentation, speakers[name], rest, in_all)]
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)
    ratio = median(speakers["stock"]) / median(speakers["Weighter"])
    print(f"\nembedding and assignment: stock takes {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
