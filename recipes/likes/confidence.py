"""What confidence says of slots, and what training for it makes of them: a picture and a table."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import warnings
from pathlib import Path

import numpy as np
import torch
from identify import features
from matplotlib.figure import Figure
from pyannote.audio import Model
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr
from torch import Tensor

from pyannote_weighter.output import atomic
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.tasks.samples import discretize

PURE = 0.9
"""Share of a slot that one person has at least, where it is said to hold one person."""


def main() -> None:
    """Read the command line, weigh files with every run, draw, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that study.py has made")
    parser.add_argument("--names", nargs="+", help="of the runs, in the picture")
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--subset", default="development", help="with references")
    parser.add_argument("--files", type=int, default=40, help="of it")
    parser.add_argument("--frames", type=Path, required=True, help="folder of cached frames")
    parser.add_argument("--into", type=Path, required=True, help="a PNG file")
    arguments = parser.parse_args()
    names = arguments.names or [run.name for run in arguments.runs]
    if len(names) != len(arguments.runs) or len(set(names)) < len(names):
        parser.error(f"{len(arguments.runs)} runs need as many --names, each its own")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))
    slots = {}
    for name, run in zip(names, arguments.runs, strict=True):
        model = Model.from_pretrained(run / "pipeline" / "weighter")
        every = features(model, files[: arguments.files], arguments.frames, voices=True)
        every = track(every, name, len(files[: arguments.files]), console=Console(stderr=True))
        slots[name] = np.concatenate(
            [hold(model, *heard, reference(file, model)) for file, heard in every]
        )
    print(
        "| | slots | confidence | share of the slot that one person has | seconds in slots of one "
        "person | share of that person that the slot has | rank correlation of confidence with "
        "it |\n" + "|---" * 7 + "|"
    )
    for name, held in slots.items():
        print(row(name, *held.T))
    draw(slots, arguments.into)


def reference(file, model: Model) -> Tensor:
    """(T, R) who speaks in which frame of a file."""
    turns = [
        (turn.start, turn.end, name)
        for turn, _, name in file["annotation"].itertracks(yield_label=True)
    ]
    end = file["annotated"].extent().end
    return discretize(turns, model.frames, model.frames.closest_frame(end) + 1).float()


@torch.inference_mode()
def hold(model: Model, frames: Tensor, count: Tensor, active: Tensor) -> np.ndarray:
    """Slots that half a second of speech goes to.

    Parameters
    ----------
    model : Weighter
    frames : (T, C) tensor
    count : (T,) tensor
    active : (T', R) tensor

    Returns
    -------
    held : (slot, 4) array
        Confidence, as the model says it; share of the slot that one person has; share of the
        speech of that person that the slot has; seconds.
    """
    weighed = model.weigh(frames[None].float(), count=count[None])
    x = weighed.weightings[0]  # (T, N)
    frames_of_both = min(len(x), len(active))
    common = x[:frames_of_both].T @ active[:frames_of_both]  # (N, R)
    most, person = common.max(dim=1)
    total = x.sum(dim=0)  # (N,)
    share = most / total.clamp_min(1e-9)
    reached = most / active.sum(dim=0)[person].clamp_min(1e-9)
    seconds = total * model.frames.step
    held = torch.stack([weighed.confidence[0], share, reached, seconds], dim=1)
    return held[seconds >= 0.5].numpy()


def row(
    name: str, confidence: np.ndarray, share: np.ndarray, reached: np.ndarray, seconds: np.ndarray
) -> str:
    """Line of the table."""
    means = (f"{np.average(v, weights=seconds):.2f}" for v in (confidence, share, reached))
    said, of_slot, of_person = means
    pure = f"{100 * seconds[share >= PURE].sum() / seconds.sum():.0f} %"
    correlation = f"{spearmanr(confidence, reached).statistic:+.2f}"
    return (
        f"| {' | '.join([name, str(len(share)), said, of_slot, pure, of_person, correlation])} |"
    )


def draw(slots: dict[str, np.ndarray], path: Path) -> None:
    """Confidence against what a slot has of its person, a panel a run; shares of all runs."""
    figure = Figure(figsize=(2.6 * (len(slots) + 1), 3.1), layout="constrained")
    *panels, last = figure.subplots(1, len(slots) + 1)
    for number, (axis, (name, held)) in enumerate(zip(panels, slots.items(), strict=True)):
        confidence, share, reached, seconds = held.T
        color = f"C{number}"
        axis.scatter(confidence, reached, s=2 * seconds, color=color, alpha=0.3, linewidths=0)
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", title=name)
        order = np.argsort(share)
        below = 100 * seconds[order].cumsum() / seconds.sum()
        last.plot(share[order], below, color=color, label=name)
    panels[0].set_ylabel("share of its person that the slot has")
    last.set(xlim=(0.5, 1), xlabel="share that one person has")
    last.set(ylabel="% of speech in slots below")
    last.legend(fontsize=8)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


if __name__ == "__main__":
    main()
