"""Accuracy of every method over the noise, cell by cell: what `report.py` makes tables of.

One JSON file a cell and method. A run that was stopped goes on with the points that are missing.
"""

import argparse
import json
import os
import re
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pyannote_weighter.output import atomic
from pyannote_weighter.simulation import limits, rivals
from pyannote_weighter.simulation.scoring import LADDER, accuracy, next_step
from pyannote_weighter.simulation.vectors import RandomWalkVectors, Sequences, dominance

LEVEL = 0.9
BALANCED = 0.8  # greatest dominance of balanced sequences: 20 to 80 % with two speakers
ROUNDS = 200  # of as many sequences as are wanted, before balanced ones are given up
COMMON = tuple(range(0, 21, 2))  # steps that every method takes in reference cells: 1 to 32
PILOT = 16  # sequences that find out where a method is worth evaluating
NUMBERS = 2**24  # in a block of frames: 64 MB
PACKAGES = ("torch", "numpy", "scikit-learn", "hmmlearn", "pyannote.audio", "pyannote-weighter")


@dataclass(frozen=True)
class Cell:
    """Sequences of one kind, but for their noise."""

    num_speakers: int = 2
    dimension: int = 64
    scale: float = 30.0
    num_frames: int = 1000

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"K{self.num_speakers}-d{self.dimension}-scale{self.scale:g}-T{self.num_frames}"

    def recipe(self, sigma: float) -> RandomWalkVectors:
        """Recipe of its sequences."""
        return RandomWalkVectors(
            self.num_speakers, self.scale, self.num_frames, self.dimension, sigma
        )

    def generator(self, purpose: str) -> torch.Generator:
        """Generator that depends on the cell and the purpose alone."""
        seed = zlib.crc32(f"{self.name} {purpose}".encode())
        return torch.Generator().manual_seed(seed)


QUICK = Cell(num_frames=300)
REFERENCES = (QUICK, Cell())
ALL = [Cell(*c) for c in product((2, 3, 5), (16, 64, 256), (20.0, 30.0, 100.0), (300, 1000))]
GRIDS = {"quick": [QUICK], "k2": [c for c in ALL if c.num_speakers == 2], "full": ALL, "none": []}


class Method(NamedTuple):
    """How to label frames, and what it takes."""

    run: Callable[[Sequences, RandomWalkVectors], Tensor]
    """Sequences, of which only limits look at more than frames, to (batch, time) labels."""
    kind: str
    """limit, rival or weighter."""
    cost: float
    """Rough milliseconds for 1000 frames of 64 dimensions, for the order and the estimate."""
    reach: float
    """Guess of sigma90 with two speakers, 64 dimensions, scale 30: where the search begins."""
    main: bool = True
    """Whether it is one of `--methods main`."""


def weighter(path: Path) -> Callable[[Sequences, RandomWalkVectors], Tensor]:
    """Method of a trained Weighter core: the slot with the greatest weighting."""

    @cache
    def core():
        from pyannote_weighter.simulation.core import load_core

        return load_core(path).eval()

    @torch.inference_mode()
    def run(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
        blocks = sequences.frames.split(max(1, NUMBERS // 16 // sequences.frames[0].numel()))
        answers = [core()(block, recipe.num_speakers).weightings for block in blocks]
        return torch.cat([answer.argmax(-1) for answer in answers])

    return run


@cache
def window(recipe: RandomWalkVectors) -> int:
    """Window that is best for smoothed k-means on other sequences of a recipe."""
    return rivals.choose_window(recipe, generator=torch.Generator().manual_seed(1))


def limit(posterior: Callable) -> Callable[[Sequences, RandomWalkVectors], Tensor]:
    """Method of a limit that knows the vectors: the likeliest speaker of each frame."""
    timeless = posterior is limits.known_means

    def run(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
        knows = (recipe.sigma,) if timeless else (recipe.sigma, recipe.scale)
        return posterior(sequences.frames, sequences.vectors, *knows).argmax(-1)

    return run


def unknown_means(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
    """Method of the limit that does not know the vectors."""
    posterior = limits.unknown_means_walk(
        sequences.frames,
        sequences.speaker,
        recipe.num_speakers,
        recipe.sigma,
        recipe.scale,
        bins=4.0,
        generator=torch.Generator().manual_seed(1),
    )
    return posterior.argmax(-1)


def rival(function: Callable, **options) -> Callable[[Sequences, RandomWalkVectors], Tensor]:
    """Method of a rival, which is told frames and the number of speakers."""
    return lambda s, recipe: function(s.frames, recipe.num_speakers, seed=0, **options)


def smoothed_kmeans(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
    """Method of smoothed k-means, with the best window for this very noise."""
    return rivals.smoothed_kmeans(
        sequences.frames, recipe.num_speakers, window=window(recipe), seed=0
    )


def methods(weighters: dict[str, Path] | None = None) -> dict[str, Method]:
    """All methods by name, in the order of tables."""
    return {
        "k-means": Method(rival(rivals.kmeans), "rival", 20, 3.5),
        "agglomerative": Method(rival(rivals.agglomerative), "rival", 40, 3, main=False),
        "spectral": Method(rival(rivals.spectral), "rival", 200, 3.5, main=False),
        "smoothed k-means": Method(smoothed_kmeans, "rival", 30, 12),
        "sticky HMM": Method(rival(rivals.sticky_hmm), "rival", 500, 8),
        "VBx": Method(rival(rivals.vbx), "rival", 50, 4, main=False),
        "VBx, loop": Method(rival(rivals.vbx_loop), "rival", 100, 8),
        **{
            name: Method(weighter(path), "weighter", 30, 14)
            for name, path in (weighters or {}).items()
        },
        "known means": Method(limit(limits.known_means), "limit", 1, 4.4),
        "known means, HMM": Method(limit(limits.known_means_hmm), "limit", 2, 18),
        "known means, walk": Method(limit(limits.known_means_walk), "limit", 20, 21),
        "unknown means, walk": Method(unknown_means, "limit", 800, 16),
    }


def draw_speakers(cell: Cell, count: int, purpose: str) -> tuple[Tensor, list[int]]:
    """Draw who speaks in `count` sequences without selection and in `count` balanced ones.

    Returns
    -------
    active : (sequences, time, speaker) bool tensor
        The first `count` are those without selection. What is needed beyond them is balanced.
    balanced : list of int
        Indices of the balanced ones.
    """
    generator, recipe = cell.generator(f"speakers {purpose}"), cell.recipe(1.0)
    kept, found = [], 0
    for number in range(ROUNDS):
        active = recipe.draw_active(count, generator)
        even = dominance(active) <= BALANCED
        kept.append(active if number == 0 else active[even])
        found += int(even.sum())
        if found >= count:
            active = torch.cat(kept)
            balanced = (dominance(active) <= BALANCED).nonzero().flatten()[:count].tolist()
            return active[: max(count, balanced[-1] + 1)], balanced
    raise ValueError(
        f"{cell.name}: {found} of {ROUNDS * count} sequences are balanced: choose longer ones or "
        "a smaller scale"
    )


def draw(cell: Cell, active: Tensor, sigma: float, purpose: str) -> Iterator[Sequences]:
    """Draw vectors and noise, the same for every sigma, block by block."""
    size = max(1, NUMBERS // (cell.num_frames * cell.dimension))
    for number, block in enumerate(active.split(size)):
        generator = cell.generator(f"frames {number} {purpose}")
        yield cell.recipe(sigma).draw_frames(block, generator)


def measure(
    method: Method, cell: Cell, active: Tensor, step: int, purpose: str
) -> tuple[np.ndarray, float]:
    """Accuracy of each sequence at a step of the ladder, and CPU seconds a sequence."""
    sigma, seconds, accuracies = LADDER**step, 0.0, []
    for sequences in draw(cell, active, sigma, purpose):
        began = time.process_time()
        labels = method.run(sequences, cell.recipe(sigma))
        seconds += time.process_time() - began
        accuracies.append(accuracy(labels, sequences.speaker))
    return torch.cat(accuracies).numpy(), seconds / len(active)


def first_step(method: Method, cell: Cell, seed: int) -> int:
    """Step where a few other sequences cross the level."""
    active, balanced = draw_speakers(cell, PILOT, f"pilot {seed}")
    active = active[balanced]
    points: dict[int, np.ndarray] = {}
    step = round(4 * np.log2(method.reach * (cell.dimension / 64) ** 0.5))
    while step is not None:
        points[step], _ = measure(method, cell, active, step, f"pilot {seed}")
        step = next_step(points, errors=0.0)
    return min(points, key=lambda s: abs(points[s].mean() - LEVEL))


def evaluate(
    cell: Cell, name: str, weighters: dict[str, Path], into: Path, count: int, seed: int
) -> Path:
    """Evaluate a method in a cell where that is missing; its file is written after every point."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    method = methods(weighters)[name]
    path = into / cell.name / (re.sub(r"[^\w.]+", "-", name) + ".json")
    active, balanced = draw_speakers(cell, count, str(seed))
    results = {
        "method": name,
        "kind": method.kind,
        "cell": vars(cell),
        "seed": seed,
        "count": count,
        "balanced": balanced,
        "versions": {package: version(package) for package in PACKAGES},
        "points": {},
    }
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if any(known[key] != results[key] for key in ("method", "seed", "count", "balanced")):
            raise ValueError(
                f"{path}: has other sequences or another method: choose another folder, or the "
                f"--sequences {known['count']} and --seed {known['seed']} that it was made with"
            )
        results["points"] = known["points"]

    common = list(COMMON) if cell in REFERENCES else []
    while True:
        points = {int(s): np.array(p["accuracy"])[balanced] for s, p in results["points"].items()}
        step = next((s for s in common if s not in points), None)
        if step is None:
            step = next_step(points) if points else first_step(method, cell, seed)
        if step is None:
            return path
        accuracies, seconds = measure(method, cell, active, step, str(seed))
        results["points"][str(step)] = {
            "sigma": LADDER**step,
            "accuracy": accuracies.round(5).tolist(),
            "seconds": seconds,
        }
        with atomic(path) as unfinished:
            unfinished.write_text(json.dumps(results, allow_nan=False), encoding="utf-8")


def run(
    cells: list[Cell],
    names: list[str],
    weighters: dict[str, Path],
    into: Path,
    count: int = 200,
    seed: int = 0,
    jobs: int = 1,
) -> int:
    """Evaluate methods in cells, cheap methods first, and return how many of them failed."""
    every, failed = methods(weighters), 0
    tasks = sorted(product(cells, names), key=lambda task: every[task[1]].cost)
    pool = ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else ThreadPoolExecutor(1)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        futures = {
            pool.submit(evaluate, cell, name, weighters, into, count, seed): (cell, name)
            for cell, name in tasks
        }
        bar = progress.add_task("", total=sum(every[n].cost * c.num_frames for c, n in tasks))
        try:
            for future in as_completed(futures):
                cell, name = futures[future]
                if error := future.exception():
                    failed += 1
                    progress.console.print(f"[red]{cell.name}, {name}:[/red] {error!r}")
                text = f"{cell.name}, {name}"
                progress.update(
                    bar, advance=every[name].cost * cell.num_frames, description=f"{text:>40}"
                )
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def read_cell(text: str) -> Cell:
    """Read a cell from text such as ``K=2,d=64,scale=30,T=1000``; what is left out is so."""
    fields = {
        "K": ("num_speakers", int),
        "d": ("dimension", int),
        "scale": ("scale", float),
        "T": ("num_frames", int),
    }
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return Cell(**{fields[key][0]: fields[key][1](value) for key, value in pairs})
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"no cell {text!r}: write it like K=2,d=64,scale=30,T=10000"
        ) from None


def read_weighter(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``."""
    name, found, path = text.partition("=")
    if not (found and name and Path(path).exists()):
        raise argparse.ArgumentTypeError(f"no Weighter {text!r}: write NAME=PATH of a checkpoint")
    return name, Path(path)


def main() -> None:
    """Read the command line and evaluate; exit code 1 where a method failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--grid", choices=GRIDS, default="quick")
    parser.add_argument("--cell", type=read_cell, action="append", default=[], help="one more")
    parser.add_argument(
        "--methods", nargs="+", default=None, help="main, all, or names; quick: cheap ones"
    )
    parser.add_argument(
        "--weighter", type=read_weighter, action="append", default=[], metavar="NAME=PATH"
    )
    parser.add_argument("--sequences", type=int, help="a set; default 200, quick: 40")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    quick, weighters = arguments.grid == "quick", dict(arguments.weighter)
    every = methods(weighters)
    groups = {
        "all": list(every),
        "main": [name for name, method in every.items() if method.main],
        "cheap": [name for name, method in every.items() if method.main and method.cost < 50],
    }
    wanted = arguments.methods or ["cheap" if quick else "main"]
    names = list(dict.fromkeys(name for n in wanted for name in groups.get(n, [n])))
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no method {', '.join(unknown)}: there are {', '.join(every)}")
    failed = run(
        list(dict.fromkeys(GRIDS[arguments.grid] + arguments.cell)),
        names,
        weighters,
        arguments.into,
        arguments.sequences or (40 if quick else 200),
        arguments.seed,
        arguments.jobs,
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
