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
from pyannote_weighter.simulation.core import load_core
from pyannote_weighter.simulation.scoring import LADDER, accuracy, next_step
from pyannote_weighter.simulation.vectors import (
    RandomWalkVectors,
    Sequences,
    dominance,
    label_by_number,
)

LEVEL = 0.9
BALANCED = 0.8  # greatest dominance of balanced sequences: 20 to 80 % with two speakers
TOLD = "how many speak in each sequence"  # before, how many the recipe has: often more
ROUNDS = 200  # of as many sequences as are wanted, before balanced ones are given up
COMMON = tuple(range(0, 21, 2))  # steps that every method takes in reference cells: 1 to 32
PILOT = 16  # sequences that find out where a method is worth evaluating
WINDOWS = (5, 9, 15, 25, 41, 61, 101)  # of the moving average, to choose from
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

Run = Callable[[Sequences, RandomWalkVectors], Tensor]  # to labels; only limits see the truth


class Method(NamedTuple):
    """How to label frames, and what it takes."""

    run: Run
    kind: str  # limit, rival or weighter
    cost: float  # rough milliseconds for 1000 frames, for the order and the estimate
    reach: float  # guess of sigma90 in the default cell: where the search begins
    main: bool = True  # one of `--methods main`
    prepare: Callable[[RandomWalkVectors], object] = lambda recipe: None  # before time is taken


def weighter(path: Path) -> Run:
    """Method of a trained Weighter core: the slot with the greatest weighting."""
    core = cache(lambda: load_core(path))  # read where and when it is needed

    def label(frames: Tensor, number: int) -> Tensor:
        model = core().to(frames.device)
        blocks = frames.split(max(1, NUMBERS // 2 // frames[0].numel()))
        answers = (model(block, number).weightings[-1] for block in blocks)
        return torch.cat([weightings.argmax(-1) for weightings in answers])

    return told(label)


def told(label: Callable[[Tensor, int], Tensor]) -> Run:
    """Method that is told frames and how many speak in each sequence."""
    return lambda s, recipe: label_by_number(s.frames, s.present, label)


def rival(function: Callable) -> Run:
    """Method of a rival."""
    return told(lambda frames, number: function(frames, number, seed=0))


@cache
def window(recipe: RandomWalkVectors) -> int:
    """Window that is best on other sequences of this recipe, noise included."""
    size = min(24, max(10, 50_000 // recipe.num_frames))
    return rivals.choose_window(recipe, WINDOWS, num_sequences=size)


def smoothed_k_means(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
    """Method of smoothed k-means, which is told the best window for this very noise."""
    best = window(recipe)
    label = told(lambda frames, number: rivals.smoothed_k_means(frames, number, best, seed=0))
    return label(sequences, recipe)


def limit(posterior: Callable, *knows: str) -> Run:
    """Method of a limit that knows the vectors and some of the recipe."""
    return lambda s, recipe: posterior(
        s.frames, s.vectors, *(getattr(recipe, name) for name in knows)
    ).argmax(-1)


def unknown_means(sequences: Sequences, recipe: RandomWalkVectors) -> Tensor:
    """Method of the limit that does not know the vectors."""
    what = (sequences.frames, sequences.speaker, recipe.num_speakers, recipe.sigma, recipe.scale)
    generator = torch.Generator().manual_seed(0)
    # 4 bins a scale give the same as 8 to 0.0002; 10 to 80 steps move it by 0.003 at most
    options = {"bins": 4.0, "steps": 30, "discard": 6, "generator": generator}
    return limits.unknown_means_walk(*what, **options).argmax(-1)


def methods(weighters: dict[str, Path] | None = None) -> dict[str, Method]:
    """All methods by name."""
    hmm = limit(limits.known_means_hmm, "sigma", "scale")
    walk = limit(limits.known_means_walk, "sigma", "scale")
    return {
        "k-means": Method(rival(rivals.k_means), "rival", 25, 3.5),
        "agglomerative": Method(rival(rivals.agglomerative), "rival", 60, 2.5, main=False),
        "spectral": Method(rival(rivals.spectral), "rival", 150, 3.5, main=False),
        "smoothed k-means": Method(smoothed_k_means, "rival", 60, 8, prepare=window),
        "sticky HMM": Method(rival(rivals.sticky_hmm), "rival", 150, 8),
        "VBx": Method(rival(rivals.vbx), "rival", 70, 3.5, main=False),
        "VBx, loop": Method(rival(rivals.vbx_loop), "rival", 400, 9),
        **{n: Method(weighter(path), "weighter", 30, 14) for n, path in (weighters or {}).items()},
        "known means": Method(limit(limits.known_means, "sigma"), "limit", 1, 4.4),
        "known means, HMM": Method(hmm, "limit", 5, 18),
        "known means, walk": Method(walk, "limit", 30, 21),
        "unknown means, walk": Method(unknown_means, "limit", 300, 16),
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
    kept = []
    for number in range(ROUNDS):
        active = recipe.draw_active(count, generator)
        kept.append(active if number == 0 else active[dominance(active) <= BALANCED])
        active = torch.cat(kept)
        balanced = (dominance(active) <= BALANCED).nonzero().flatten()[:count].tolist()
        if len(balanced) == count:
            return active[: max(count, balanced[-1] + 1)], balanced
    what = f"{len(balanced)} of {ROUNDS * count} sequences are balanced"
    raise ValueError(f"{cell.name}: {what}: choose longer ones or a smaller scale")


def draw(recipe: RandomWalkVectors, active: Tensor, cell: Cell, purpose: str) -> Iterator:
    """Draw vectors and noise, the same for every sigma, in blocks of Sequences."""
    size = max(1, NUMBERS // (cell.num_frames * cell.dimension))
    for number, block in enumerate(active.split(size)):
        yield recipe.draw_frames(block, cell.generator(f"frames {number} {purpose}"))


@torch.inference_mode()
def measure(
    method: Method, cell: Cell, active: Tensor, step: int, purpose: str, device: str
) -> tuple[np.ndarray, float]:
    """Accuracy of each sequence at a step of the ladder, and CPU seconds a sequence."""
    recipe, seconds, accuracies = cell.recipe(LADDER**step), 0.0, []
    method.prepare(recipe)
    for sequences in draw(recipe, active, cell, purpose):
        given = Sequences(*(tensor.to(device) for tensor in sequences))
        began = time.process_time()
        labels = method.run(given, recipe).cpu()
        seconds += time.process_time() - began
        accuracies.append(accuracy(labels, sequences.speaker))
    return torch.cat(accuracies).numpy(), seconds / len(active)


def first_step(method: Method, cell: Cell, seed: int, device: str) -> int:
    """Step where a few other sequences cross the level."""
    active, balanced = draw_speakers(cell, PILOT, f"pilot {seed}")
    points = {}
    step = round(4 * np.log2(method.reach * (cell.dimension / 64) ** 0.5))
    while step is not None:
        points[step], _ = measure(method, cell, active[balanced], step, f"pilot {seed}", device)
        step = next_step(points, errors=0.0)
    return min(points, key=lambda s: abs(points[s].mean() - LEVEL))


def evaluate(
    cell: Cell,
    name: str,
    weighters: dict[str, Path],
    into: Path,
    count: int = 200,
    seed: int = 0,
    device: str = "cpu",
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
        "told": TOLD,
        "weights": zlib.crc32(weighters[name].read_bytes()) if name in weighters else None,
        "versions": {package: version(package) for package in PACKAGES},
        "points": {},
    }
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if any(known.get(key) != results[key] for key in results.keys() - {"versions", "points"}):
            raise ValueError(
                f"{path}: is of other sequences, weights or rules: choose another folder, or what "
                f"it was made with (--sequences {known['count']} --seed {known['seed']})"
            )
        results["points"] = known["points"]

    common = COMMON if cell in REFERENCES else ()
    while True:
        points = {int(s): np.array(p["accuracy"])[balanced] for s, p in results["points"].items()}
        step = next((s for s in common if s not in points), None)
        if step is None:
            step = next_step(points) if points else first_step(method, cell, seed, device)
        if step is None:
            return path
        accuracies, seconds = measure(method, cell, active, step, str(seed), device)
        results["points"][str(step)] = {
            "sigma": LADDER**step,
            "accuracy": accuracies.round(5).tolist(),
            "seconds": seconds,
            "device": device,
        }
        with atomic(path) as unfinished:
            unfinished.write_text(json.dumps(results, allow_nan=False), encoding="utf-8")


def run(
    cells: list[Cell], names: list[str], weighters: dict[str, Path], jobs: int = 1, **options
) -> int:
    """Evaluate methods in cells, cheap methods first; how many failed. See `evaluate`."""
    every, failed = methods(weighters), 0
    tasks = sorted(product(cells, names), key=lambda task: every[task[1]].cost)
    pool = ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else ThreadPoolExecutor(1)
    columns = (TextColumn("{task.description:>40}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=sum(every[n].cost * c.num_frames for c, n in tasks))
        futures = {pool.submit(evaluate, *task, weighters, **options): task for task in tasks}
        try:
            for future in as_completed(futures):
                cell, name = futures[future]
                text = f"{cell.name}, {name}"
                if error := future.exception():
                    failed += 1
                    progress.console.print(f"[red]{text}:[/red] {error!r}")
                progress.update(bar, advance=every[name].cost * cell.num_frames, description=text)
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def read_cell(text: str) -> Cell:
    """Read a cell from text such as ``K=2,d=64,scale=30,T=1000``; what is left out is so."""
    kinds = {"K": int, "d": int, "scale": float, "T": int}
    names = dict(zip(kinds, Cell.__dataclass_fields__, strict=True))
    try:
        pairs = dict(part.split("=") for part in text.split(","))
        return Cell(**{names[key]: kinds[key](value) for key, value in pairs.items()})
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"no cell {text!r}: write it like K=2,d=64,scale=30,T=10000"
        ) from None


def read_weighter(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``."""
    name, _, path = text.partition("=")
    if not (name and Path(path).is_file()):
        raise argparse.ArgumentTypeError(f"no Weighter {text!r}: write NAME=PATH of a checkpoint")
    return name, Path(path)


def main() -> None:
    """Read the command line and evaluate; exit code 1 where a method failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--grid", choices=GRIDS, default="quick")
    parser.add_argument("--cell", type=read_cell, action="append", default=[], help="one more")
    parser.add_argument("--methods", nargs="+", help="main, all, or names; quick: cheap ones")
    parser.add_argument("--weighter", type=read_weighter, action="append", default=[])
    parser.add_argument("--sequences", type=int, help="a set; default 200, quick: 40")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="of limits and Weighters, such as cuda")
    arguments = parser.parse_args()

    quick, weighters = arguments.grid == "quick", dict(arguments.weighter)
    every = methods(weighters)
    main = [name for name, method in every.items() if method.main]
    cheap = [name for name in main if every[name].cost < 100]
    groups = {"all": list(every), "main": main, "cheap": cheap}
    wanted = arguments.methods or ["cheap" if quick else "main"]
    names = list(dict.fromkeys(name for n in wanted for name in groups.get(n, [n])))
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no method {', '.join(unknown)}: there are {', '.join(every)}")
    cells = list(dict.fromkeys(GRIDS[arguments.grid] + arguments.cell))
    count = arguments.sequences or (40 if quick else 200)
    options = {"into": arguments.into, "seed": arguments.seed, "device": arguments.device}
    failed = run(cells, names, weighters, arguments.jobs, count=count, **options)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
