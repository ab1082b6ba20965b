"""Tables and figures of what `evaluate.py` has measured."""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyannote_weighter.output import atomic
from pyannote_weighter.simulation.scoring import bootstrap, interval, sigma_at

LEVEL, GAIN, EFFICIENCY = 0.9, 4.0, 0.9
CLUSTERING, CEILING, UNKNOWN = "k-means", "known means, walk", "unknown means, walk"
RIVALS = ("smoothed k-means", "sticky HMM", "VBx, loop")  # that a Weighter has to beat
CORES = ("", "messages-")  # how names of Weighters begin: variational rounds, message passing
LIKES = {"likes": 0.95, "likes-half": 0.85}  # share of the sigma90 of frame labels to reach
SETS = {"balanced": "nobody speaks more than 80 %", "all": "no selection"}
REFERENCES = ("K2-d64-scale30-T1000", "K2-d64-scale30-T300")  # of the figure: the first there is

NOTES = """{count} sequences a cell and set. sigma90: noise at which the mean accuracy of frames
falls to 90 %; in brackets 95 % intervals by bootstrap over sequences, paired in ratios. A dash:
90 % is never reached, or a bound lies outside the noise that was tried. Smoothed k-means has the
window that is best on other data of the very noise. Limits know the recipe, but not that balanced
sequences are selected, and the best naming of labels is chosen afterwards: where a limit is low,
something may lie above it."""

# colours of Okabe and Ito, and of Tol for Weighters: told apart by the colour-blind
STYLES = {
    "k-means": dict(color="#E69F00", marker="o"),
    "agglomerative": dict(color="#999999", marker="v"),
    "spectral": dict(color="#CC79A7", marker="^"),
    "smoothed k-means": dict(color="#D55E00", marker="s"),
    "sticky HMM": dict(color="#009E73", marker="D"),
    "VBx": dict(color="#56B4E9", marker="<"),
    "VBx, loop": dict(color="#0072B2", marker=">"),
    "known means": dict(color="0.6", linestyle=":"),
    "known means, HMM": dict(color="0.4", linestyle="-."),
    CEILING: dict(color="black", linestyle="-"),
    UNKNOWN: dict(color="#882255", linestyle="--"),
}
WEIGHTERS = ("#AA4499", "#44AA99", "#332288", "#117733", "#DDCC77")


@dataclass(frozen=True)
class Result:
    """What one method did on one set of sequences of a cell, or the mean of several (seeds)."""

    sigma: float
    """sigma90: NaN where 90 % is never reached, infinite where it is everywhere."""
    draws: np.ndarray
    """(resamples,) the same of sequences drawn with replacement, the same for all methods."""
    most: float = np.nan
    """Greatest noise that was tried."""

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return interval(self.draws)

    def __truediv__(self, other: "Result") -> "Result":
        with np.errstate(invalid="ignore", divide="ignore"):
            sigma, draws = np.divide(self.sigma, other.sigma), self.draws / other.draws
        # of what is beyond the noise that was tried no share is known
        sigma, draws = (
            np.where(np.isinf(rest), np.nan, part)
            for part, rest in ((sigma, other.sigma), (draws, other.draws))
        )
        return Result(float(sigma), draws)

    def __str__(self) -> str:
        if not np.isfinite(self.sigma):
            return f"> {self.most:.3g}" if self.sigma == np.inf and self.most > 0 else "–"
        low, high = (f"{v:.3g}" if 0 < v < np.inf else "–" for v in self.interval)
        return f"{self.sigma:.3g} [{low}, {high}]"


Cells = dict[str, dict[str, Result]]  # cell to method to result


def read(folder: Path) -> list[dict]:
    """Read all files of `evaluate.py`, in the order of cells."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/*.json")]
    if not files:
        raise FileNotFoundError(f"{folder}: no results: run evaluate.py --into {folder} first")
    for file in files:
        file["name"] = "K{num_speakers}-d{dimension}-scale{scale:g}-T{num_frames}".format(
            **file["cell"]
        )
    if len({(f["name"], f["seed"], f["count"]) for f in files}) > len({f["name"] for f in files}):
        raise ValueError(
            f"{folder}: methods have other sequences of the same cell: not comparable"
        )
    return sorted(files, key=lambda file: tuple(file["cell"].values()))


def curve(file: dict, chosen: str) -> tuple[np.ndarray, np.ndarray]:
    """(points,) sigmas and (points, sequences) accuracies of a file on one of `SETS`."""
    points = sorted(file["points"].values(), key=lambda point: point["sigma"])
    indices = file["balanced"] if chosen == "balanced" else range(file["count"])
    accuracies = np.array([point["accuracy"] for point in points])[:, list(indices)]
    return np.array([point["sigma"] for point in points]), accuracies


def results(files: list[dict], chosen: str) -> Cells:
    """Results on one of `SETS`."""
    cells: Cells = {}
    for file in files:
        points = curve(file, chosen)
        cells.setdefault(file["name"], {})[file["method"]] = Result(
            sigma_at(*points, LEVEL), bootstrap(*points, LEVEL), points[0].max()
        )
    return cells


def order(files: list[dict], kind: str = "") -> list[str]:
    """Names of methods (of a kind) in the order of tables: rivals, Weighters, limits."""
    kinds = {file["method"]: file["kind"] for file in files}
    places, known = ("rival", "weighter", "limit"), list(STYLES)
    places = {n: (places.index(k), known.index(n) if n in known else 0) for n, k in kinds.items()}
    return sorted((n for n in kinds if kind in ("", kinds[n])), key=lambda n: (*places[n], n))


def divide(cells: Cells, by: str) -> Cells:
    """Ratios to one method, in cells that have it."""
    return {
        cell: {name: result / row[by] for name, result in row.items() if name != by}
        for cell, row in cells.items()
        if by in row
    }


def rows_of(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def table(title: str, cells: Cells, names: list[str], notes: dict[str, str] | None = None) -> list:
    """Lines of a table: a row a cell, a column a method."""
    names = [name for name in names if any(name in row for row in cells.values())]
    heads, rows = (
        ["", *names],
        [[c, *(str(r.get(n, "")) for n in names)] for c, r in cells.items()],
    )
    if notes is not None:
        heads, rows = [*heads, "limits below 4"], [[*row, notes[row[0]]] for row in rows]
    return ["", f"{title}:", "", *rows_of(heads, rows)] if names else []


def too_low(gains: Cells) -> dict[str, str]:
    """Which limits have a gain below 4 in each cell, so that nobody can have it there."""
    limits = {CEILING: "known means", UNKNOWN: "unknown means"}
    return {
        cell: ", ".join(
            text for name, text in limits.items() if name in row and row[name].sigma < GAIN
        )
        for cell, row in gains.items()
    }


def listed(title: str, cells: list[str]) -> str:
    """One line of a list of cells."""
    return f"- {title}: " + (f"{len(cells)}: " + ", ".join(cells) if cells else "none")


def missed(cells: Cells, name: str, reached: Callable[[Result], bool]) -> list[str]:
    """Cells where the result of a method is not as it should be."""
    return [cell for cell, row in cells.items() if name in row and not reached(row[name])]


def failures(cells: Cells, weighters: list[str]) -> list[str]:
    """Lists of cells where Weighters miss what they aim at, and of methods above the limit."""
    gains, shares = divide(cells, CLUSTERING), divide(cells, CEILING)
    hopeless = too_low(gains)
    possible = {
        cell: row
        for cell, row in gains.items()
        if not hopeless[cell] and np.isfinite(cells[cell][CLUSTERING].sigma)
    }
    lines = []
    for name in weighters:
        checks = [
            (f"not above {rival}, outside the paired interval", divide(cells, rival), above)
            for rival in RIVALS
        ]
        checks.append((f"below G = {GAIN:g}, though the limits are above", possible, gained))
        checks.append((f"below eta = {EFFICIENCY:g}", shares, efficient))
        lines += ["", f"Cells where {name} is", ""]
        for title, those, reached in checks:
            if number := sum(name in row for row in those.values()):  # else nobody has looked
                title = f"{title} (of {number} that have both)"
                lines.append(listed(title, missed(those, name, reached)))
    if not any(shares.values()):
        return lines
    beyond = [f"{n} in {c}" for c, row in shares.items() for n in row if above(row[n])]
    return [*lines, "", listed("Above the ceiling, outside the paired interval", beyond)[2:]]


def above(ratio: Result) -> bool:
    """More than one, outside the interval."""
    return ratio.interval[0] > 1


def gained(gain: Result) -> bool:
    """As much as the first claim says."""
    return gain.sigma >= GAIN


def efficient(share: Result) -> bool:
    """As much of the limit as is wanted."""
    return share.sigma >= EFFICIENCY


def seeds(names: list[str]) -> dict[str, list[str]]:
    """Group names such as ``likes-seed1`` by what stands before the seed."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"-seed\d+$", "", name), []).append(name)
    return groups


def mean(of: list[Result]) -> Result:
    """Mean over the seeds that were evaluated, of sigma90 and of each draw."""
    return Result(np.mean([r.sigma for r in of]), np.mean([r.draws for r in of], axis=0))


def supervision(cells: Cells, groups: dict[str, list[str]]) -> list[str]:
    """Tables of the spread over seeds, and of likes against frame labels."""
    several = {group: names for group, names in groups.items() if len(names) > 1}
    lines: list[str] = []
    if several:

        def spread(values: list[float]) -> str:
            return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}" if values[1:] else ""

        heads = ["", *(f"{group} ({len(names)} seeds)" for group, names in several.items())]
        rows = [
            [cell, *(spread([row[n].sigma for n in ns if n in row]) for ns in several.values())]
            for cell, row in cells.items()
        ]
        lines += ["", "sigma90 over seeds, mean ± standard deviation:", "", *rows_of(heads, rows)]
    ratios: Cells = {}
    aims = {core + name: share for core in CORES for name, share in LIKES.items()}
    for cell, row in cells.items():
        there = {g: [row[n] for n in names if n in row] for g, names in groups.items()}
        pooled = {g: mean(seeds_there) for g, seeds_there in there.items() if seeds_there}
        for core in CORES:
            if f"{core}frames" in pooled:
                ratios.setdefault(cell, {}).update(
                    {
                        core + name: pooled[core + name] / pooled[f"{core}frames"]
                        for name in LIKES
                        if core + name in pooled
                    }
                )
    lines += table("sigma90 / sigma90 of the one trained on frame labels", ratios, list(aims))
    for name, share in aims.items():
        if any(name in row for row in ratios.values()):
            cells_missed = missed(ratios, name, lambda r, share=share: r.sigma >= share)
            lines += ["", listed(f"Cells where {name} is below {share:g}", cells_missed)[2:]]
    return lines


def speed(files: list[dict], names: list[str]) -> list[str]:
    """Table of CPU time, the median over cells and points."""
    times: dict[tuple[str, int], list[float]] = {}
    for file in files:
        points = [point for point in file["points"].values() if point["device"] == "cpu"]
        seconds = [point["seconds"] / file["cell"]["num_frames"] for point in points]
        if seconds:
            times.setdefault((file["method"], file["cell"]["dimension"]), []).extend(seconds)
    dimensions = sorted({dimension for _, dimension in times})
    medians = {key: f"{1e6 * np.median(values):.3g}" for key, values in times.items()}
    rows = [[name, *(medians.get((name, d), "") for d in dimensions)] for name in names]
    heads = ["", *(f"d = {dimension}" for dimension in dimensions)]
    title = "CPU milliseconds for 1000 frames, median over cells and noise:"
    return ["", title, "", *rows_of(heads, rows)]


def style(name: str, weighters: list[str]) -> dict:
    """How a method is drawn, the same in all figures."""
    if name in STYLES:
        return {"linestyle": "-", "linewidth": 1.3, "markersize": 4, **STYLES[name]}
    color = WEIGHTERS[weighters.index(name) % len(WEIGHTERS)]
    return {"color": color, "marker": "*", "linewidth": 2.2, "markersize": 8}


def draw_curves(path: Path, files: list[dict], names: list[str], weighters: list[str]) -> None:
    """Draw accuracy over noise in the reference cell, if there is one."""
    there = {file["name"] for file in files}
    reference = next((cell for cell in REFERENCES if cell in there), None)
    if reference is None:
        print(f"no {path.name}: none of the cells is {' or '.join(REFERENCES)}")
        return
    files = [file for file in files if file["name"] == reference]
    chosen = {file["method"]: curve(file, "balanced") for file in files}
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    falls = {name: sigma_at(*points, LEVEL) for name, points in chosen.items()}
    for name in sorted((n for n in names if n in chosen), key=lambda n: -np.nan_to_num(falls[n])):
        sigmas, accuracies = chosen[name]
        axis.plot(sigmas, 100 * accuracies.mean(1), label=name, **style(name, weighters))
    axis.axhline(100 * LEVEL, color="0.85", linewidth=0.8, zorder=0)
    axis.set_ylim(45, 100.5)
    axis.set_xlabel("noise sigma (vectors have 1 in each dimension)")
    axis.set_ylabel("accuracy of frames, %")
    axis.set_title(f"{reference}, balanced", loc="left", fontsize=10)
    finish(figure, axis, path)


def draw_cells(path: Path, cells: Cells, names: list[str], weighters: list[str]) -> None:
    """Draw sigma90 of every method in every cell."""
    figure = Figure(figsize=(9, 1.5 + 0.24 * len(cells)), layout="constrained")
    axis = figure.subplots()
    for name in names:
        looks = {"marker": "|", "markersize": 9, **style(name, weighters), "linestyle": ""}
        sigmas = [row[name].sigma if name in row else np.nan for row in cells.values()]
        axis.plot(sigmas, range(len(cells)), label=name, **looks)
    axis.set_yticks(range(len(cells)), list(cells), fontsize=7)
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("sigma90, balanced")
    finish(figure, axis, path)


def finish(figure: Figure, axis: Axes, path: Path) -> None:
    """Noise on a logarithmic axis, a legend beside, written as PNG."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    with atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)


def markdown(files: list[dict]) -> str:
    """Make the page `results.md`."""
    names, weighters = order(files), order(files, "weighter")
    others = [name for name in names if name not in order(files, "limit")]
    count = " or ".join(map(str, sorted({file["count"] for file in files})))
    lines = ["# Vectors along a random walk: how much noise methods withstand", ""]
    lines += NOTES.format(count=count).splitlines()
    for chosen, meaning in SETS.items():
        cells = results(files, chosen)
        for speakers in sorted({file["cell"]["num_speakers"] for file in files}):
            here = {c: row for c, row in cells.items() if c.startswith(f"K{speakers}-")}
            lines += ["", f"## K = {speakers}, {chosen} sequences ({meaning})"]
            lines += table("sigma90", here, names)
            gains = divide(here, CLUSTERING)
            title, notes = f"Gain G = sigma90 / sigma90 of {CLUSTERING}", too_low(gains)
            lines += table(title, gains, names, notes)
            for symbol, limit in (("eta", CEILING), ("eta'", UNKNOWN)):
                title = f"Efficiency {symbol} = sigma90 / sigma90 of the limit ({limit})"
                lines += table(title, divide(here, limit), others)
            for rival in (*RIVALS, *(name for name in weighters if name.endswith("untrained"))):
                title = f"sigma90 / sigma90 of {rival}"
                lines += table(title, divide(here, rival), weighters)
            lines += failures(here, weighters)
            lines += supervision(here, seeds(weighters))
    lines += ["", "## Time", *speed(files, names), ""]
    lines += [", ".join(f"{package} {number}" for package, number in files[0]["versions"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, write `results.md`, `figure.png` and `cells.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where evaluate.py wrote to")
    parser.add_argument("--into", type=Path, help="defaults to the same folder")
    arguments = parser.parse_args()
    into = arguments.into or arguments.folder
    files = read(arguments.folder)
    names, weighters = order(files), order(files, "weighter")
    with atomic(into / "results.md") as unfinished:
        unfinished.write_text(markdown(files), encoding="utf-8")
    draw_cells(into / "cells.png", results(files, "balanced"), names, weighters)
    draw_curves(into / "figure.png", files, names, weighters)
    print(into / "results.md")


if __name__ == "__main__":
    main()
