"""Errors and cost against the step of the segmentation, or the precision of frames."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import warnings
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import track

from pyannote_weighter.audio import in_memory
from pyannote_weighter.output import annotation_of
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.scoring import Score, bootstrap, pool, score
from pyannote_weighter.timing import StepTimer

STEPS = (0.1, 0.2, 0.25, 0.5, 1.0)
PRECISIONS = {"full precision": {"half": False}, "half precision": {"half": True}}


def main() -> None:
    """Read the command line, run every step on every file, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", help="such as Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="its database.yml")
    parser.add_argument("--subset", default="development")
    parser.add_argument("--steps", type=float, nargs="+", default=STEPS, help="shares of a window")
    parser.add_argument("--precision", action="store_true", help="compare precisions, not steps")
    parser.add_argument("--pipeline", type=Path, default=DEFAULT_PIPELINE)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    variants = {f"{100 * step:g} %": {"segmentation_step": step} for step in arguments.steps}
    if arguments.precision:
        variants = PRECISIONS
    pipelines = {
        name: with_options(arguments.pipeline, options) for name, options in variants.items()
    }
    scores: dict[str, list[Score]] = {name: [] for name in pipelines}
    seconds = dict.fromkeys(pipelines, 0.0)
    audible = 0.0
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))
    for file in track(files, arguments.subset, console=Console(stderr=True)):
        audio = in_memory(file)
        audio = {key: audio[key] for key in ("uri", "waveform", "sample_rate")}
        audible += audio["waveform"].shape[1] / audio["sample_rate"]
        for name, pipeline in pipelines.items():
            timer = StepTimer()
            output = annotation_of(pipeline(dict(audio), hook=timer))
            seconds[name] += timer.seconds["segmentation"]
            scores[name].append(score(file["annotation"], output, file.get("annotated")))
    report(scores, seconds, audible / 3600)


@lru_cache
def _models(folder: Path) -> tuple:
    """Segmentation and Weighter for all variants; frames of the last file are kept."""
    pipeline = load_pipeline(folder, "cpu")
    weighter = pipeline._weighter
    compute, known = weighter.backbone.compute_frames, {}

    def compute_once(waveforms: torch.Tensor, *voices: torch.Tensor) -> torch.Tensor:
        key = hash(b"".join(told.numpy().tobytes() for told in (waveforms, *voices)))
        if key not in known:
            if len(known) == 64:  # windows: more than a file of the protocols here
                known.clear()
            known[key] = compute(waveforms, *voices)
        return known[key]

    weighter.backbone.compute_frames = compute_once
    return pipeline._segmentation.model, weighter


def with_options(folder: Path, options: dict) -> WeighterDiarization:
    """Load a pipeline, with other options."""
    segmentation, weighter = _models(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    own = config["pipeline"]["params"] | {"segmentation": segmentation, "weighter": weighter}
    pipeline = WeighterDiarization(**own | {"embedding_duration": 0.0} | options)
    return pipeline.instantiate(config["params"])


def report(scores: dict[str, list[Score]], seconds: dict[str, float], hours: float) -> None:
    """Print errors, their difference to the first step (paired interval), and cost."""
    first = next(iter(scores))
    print(f"{len(scores[first])} files, {hours:.2f} h, one thread\n")
    print(
        f"| | DER | missed | false alarm | confusion | right count | DER - {first} "
        "| segmentation, CPU s per hour |\n|---|---|---|---|---|---|---|---|"
    )
    base = pool(scores[first])
    for name, found in scores.items():
        rates = pool(found)
        parts = ("error", "missed", "false_alarm", "confusion")
        cells = [f"{100 * rates[part]:.2f}" for part in parts]
        cells.append(f"{100 * rates['right_count']:.0f}")
        low, high = bootstrap(found, "error", against=scores[first])
        difference = rates["error"] - base["error"]
        cells.append(
            ""
            if name == first
            else f"{100 * difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        )
        cells.append(f"{seconds[name] / hours:.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
