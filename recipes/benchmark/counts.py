"""Right counts of speakers in a benchmark.json, by how long everybody speaks alone."""

import argparse
import json
from pathlib import Path

import numpy as np
from pyannote.core import Annotation

from pyannote_weighter.protocols import protocol_files

ALONE = 1.0  # seconds


def seconds_alone(reference: Annotation) -> dict[str, float]:
    """Seconds in which each speaker talks and nobody else does."""
    seconds = dict.fromkeys(reference.labels(), 0.0)
    turns = list(reference.itertracks(yield_label=True))
    bounds = np.unique([time for turn, _, _ in turns for time in turn])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        talking = {who for turn, _, who in turns if turn.start <= start and end <= turn.end}
        if len(talking) == 1:
            seconds[talking.pop()] += end - start
    return seconds


def table(results: dict, alone: dict[str, float], least: float = ALONE) -> str:
    """Right counts of each system.

    Parameters
    ----------
    results : dict
        Content of benchmark.json: of its last run, files that every system has done.
    alone : dict
        Of each of these files, the seconds that whoever talks alone least talks alone; files in
        which nobody speaks are left out.
    least : float, optional
        Seconds that divide the files.
    """
    lines = [
        f"| right count, % | all | everybody alone for {least:g} s | 2 to 4 speakers | 5 and more "
        "| somebody is not |",
        "|---|---|---|---|---|---|",
    ]
    for system in results["systems"]:
        rows = []
        for uri in results["summary"]["files"]:
            score = results["files"][uri]["results"][system]["score"]
            if uri in alone:
                right = score["speakers"] == score["reference_speakers"]
                rows.append((right, score["reference_speakers"] <= 4, alone[uri] >= least))
        right, few, heard = np.array(rows, dtype=bool).reshape(-1, 3).T
        parts = [heard | True, heard, heard & few, heard & ~few, ~heard]
        cells = [f"{100 * right[p].mean():.0f} (of {p.sum()})" if p.any() else "" for p in parts]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="benchmark.json")
    parser.add_argument("--registry", type=Path, required=True, help="database.yml")
    parser.add_argument("--least", type=float, default=ALONE, help="seconds alone")
    arguments = parser.parse_args()
    stored = json.loads(arguments.results.read_text(encoding="utf-8"))
    if "summary" not in stored:
        parser.error(f"{arguments.results}: no file was done by all systems")
    done, alone = set(stored["summary"]["files"]), {}
    for file in protocol_files(stored["protocol"], arguments.registry, stored["subset"]):
        if file["uri"] in done:
            reference, scored = file["annotation"], file.get("annotated")
            seconds = seconds_alone(reference if scored is None else reference.crop(scored))
            if seconds:
                alone[file["uri"]] = min(seconds.values())
    print(table(stored, alone, arguments.least))


if __name__ == "__main__":
    main()
