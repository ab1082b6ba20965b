"""Who speaks when in a real conversation, beside pure random switching and the random walk."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import pyannote.audio
import torch
from matplotlib.figure import Figure

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.output import atomic
from pyannote_weighter.simulation.turns import TurnTaking, read_turns
from pyannote_weighter.simulation.vectors import random_walk

SAMPLE = Path(pyannote.audio.__file__).parent / "sample"
SAMPLE_RATE = 16000
COLORS = ("#0072B2", "#E69F00")  # Okabe and Ito: told apart by the colour-blind
FEWEST_TURNS = 10  # of sequences whose statistics are taken
COLUMNS = ("turns", "median, s", "mean, s", "median / mean", "burstiness")
NOTES = """
Median over sequences, quartiles in brackets; only those of {fewest} turns or more. A speaker has
the floor from speaking alone until the other one does, looked at every {step:g} s. Pure random:
as many switches at uniform times. Random walk: scale sqrt(2/pi) / (observed switches a
step). Burstiness is (sd - mean) / (sd + mean) of the lengths of turns: -1 for a clock, 0 for
switches at a constant rate (median / mean is then 0.69), towards 1 for bursts.
"""


def floor(turns: TurnTaking, step: float) -> np.ndarray:
    """Who of two speakers has the floor, every `step` seconds from the first word on.

    It is the one who speaks alone; in silence and overlap, the one who spoke alone last.
    """
    times = step * (np.arange(int(turns.duration / step)) + 0.5)
    speaking = np.zeros((len(times), 2), dtype=bool)
    for start, end, speaker in zip(turns.starts, turns.ends, turns.speakers, strict=True):
        speaking[(times >= start) & (times < end), speaker] = True
    alone = speaking.sum(1) == 1
    since = np.maximum.accumulate(np.where(alone, np.arange(len(times)), -1))
    return speaking.argmax(1)[since[since >= 0]]


def against_all(turns: TurnTaking) -> TurnTaking:
    """Whoever speaks most is speaker 0, and all others are one: nothing changes for two."""
    seconds = np.bincount(turns.speakers, weights=turns.ends - turns.starts)
    return replace(turns, speakers=(turns.speakers != seconds.argmax()).astype(int))


def lengths(who: np.ndarray) -> np.ndarray:
    """Lengths of the turns of (time,) `who`, in steps."""
    edges = np.flatnonzero(np.diff(who)) + 1
    return np.diff(np.r_[0, edges, len(who)])


def pure_random(like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same number of switches, at times that are drawn uniformly."""
    switches = rng.choice(len(like) - 1, size=len(lengths(like)) - 1, replace=False) + 1
    return np.isin(np.arange(len(like)), switches).cumsum() % 2


def walks(like: np.ndarray, draws: int, generator: torch.Generator) -> np.ndarray:
    """(draws, time) random walks, above 1/2 or not, whose scale fits the rate of switches."""
    rate = (len(lengths(like)) - 1) / (len(like) - 1)
    scale = np.sqrt(2 / np.pi) / rate
    return (random_walk(draws, len(like), scale, generator) > 0.5).long().numpy()


def statistics(who: np.ndarray, step: float) -> tuple[float, ...]:
    """Values of `COLUMNS` for who has the floor; burstiness after Goh and Barabasi (2008)."""
    turns = step * lengths(who)
    median, mean, deviation = np.median(turns), turns.mean(), turns.std()
    return len(turns), median, mean, median / mean, (deviation - mean) / (deviation + mean)


def compare(
    files: list[TurnTaking], step: float, draws: int = 20, seed: int = 0
) -> dict[str, np.ndarray]:
    """Statistics of real turns, and of `draws` simulated sequences of either kind for each file.

    Returns
    -------
    rows : dict
        Kind to (sequences, columns) array.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    sequences: dict[str, list[np.ndarray]] = {"real": [], "pure random": [], "random walk": []}
    for file in files:
        real = floor(file, step)
        if len(lengths(real)) >= FEWEST_TURNS:
            sequences["real"].append(real)
            sequences["pure random"] += [pure_random(real, rng) for _ in range(draws)]
            sequences["random walk"] += list(walks(real, draws, generator))
    if not sequences["real"]:
        raise ValueError(
            f"none of {len(files)} files has {FEWEST_TURNS} turns of at least two speakers: name "
            "longer ones"
        )
    return {
        kind: np.array([statistics(w, step) for w in whos if len(lengths(w)) >= FEWEST_TURNS])
        for kind, whos in sequences.items()
    }


def table(rows: dict[str, np.ndarray]) -> list[str]:
    """Lines of a Markdown table of `compare`."""
    lines = [
        "| | sequences | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * (1 + len(COLUMNS)),
    ]
    for kind, values in rows.items():
        cells = [kind, str(len(values))]
        for low, middle, high in np.quantile(values, (0.25, 0.5, 0.75), axis=0).T:
            cells.append(f"{middle:.3g} [{low:.3g}, {high:.3g}]")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(path: Path, waveform: np.ndarray, real: np.ndarray, step: float, seed: int) -> list[str]:
    """Draw the envelope of a recording, coloured by who has the floor, over two simulations.

    The random walk is the first draw with as many turns as the recording has, so that the eye
    compares when switches come and not how many there are.

    Returns
    -------
    lines : list of str
        Table of the three sequences.
    """
    size = round(step * SAMPLE_RATE)
    waveform = waveform[-len(real) * size :][: len(real) * size]
    envelope = np.abs(waveform).reshape(len(real), size).max(1)
    count = len(lengths(real))
    candidates = walks(real, 1000, torch.Generator().manual_seed(seed))
    walk = next((w for w in candidates if len(lengths(w)) == count), candidates[0])
    rows = {
        "recording": real,
        "pure random": pure_random(real, np.random.default_rng(seed)),
        "random walk": walk,
    }
    edges = step * np.arange(len(real) + 1)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    for axis, (name, who) in zip(axes, rows.items(), strict=True):
        height = envelope if name == "recording" else np.ones(len(who))
        for speaker, color in enumerate(COLORS):
            axis.stairs(np.where(who == speaker, height, 0), edges, fill=True, color=color)
        axis.set_ylim(0, height.max())
        axis.set_yticks([])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.spines[:].set_visible(False)
    axes[-1].set_xlim(0, edges[-1])
    axes[-1].set_xlabel("time (seconds)")
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, who in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.3g}" for v in statistics(who, step)) + " |")
    return lines


def main() -> None:
    """Read the command line, draw the picture, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--turns", type=Path, nargs="*", default=[], help="folders of RTTM files")
    parser.add_argument("--step", type=float, default=0.1, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    (sample,) = read_turns(SAMPLE / "sample.rttm")
    real = floor(sample, arguments.step)
    waveform = load_waveform(SAMPLE / "sample.wav")[0].numpy()
    waveform = waveform[
        : int(sample.duration / arguments.step) * round(arguments.step * SAMPLE_RATE)
    ]
    lines = ["# Real turns, pure random switching, random walk", ""]
    lines += [
        "The 30 s conversation that comes inside pyannote.audio, from its first word on:",
        "",
    ]
    lines += draw(arguments.into / "walk.png", waveform, real, arguments.step, arguments.seed)
    for folder in arguments.turns:
        files = read_turns(folder)
        for title, chosen in (
            ("files of two speakers", [f for f in files if f.num_speakers == 2]),
            (
                "files of more: who speaks most, against all others",
                [against_all(f) for f in files if f.num_speakers > 2],
            ),
        ):
            if chosen:
                lines += ["", f"{folder.name}, {title}:", ""]
                lines += table(compare(chosen, arguments.step, seed=arguments.seed))
    if arguments.turns:
        lines += NOTES.format(fewest=FEWEST_TURNS, step=arguments.step).splitlines()
    with atomic(arguments.into / "walk.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
