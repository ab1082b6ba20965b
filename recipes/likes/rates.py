"""How far off are tagging rates that trainings with `lambda_: auto` estimated? A table."""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

from pathlib import Path

import numpy as np
import pandas as pd
from pyannote.database.util import load_rttm

from pyannote_weighter.database import read_likes


def main() -> None:
    """Read the command line, print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that study.py has made")
    arguments = parser.parse_args()
    print(
        "| | tagged, of those present | with likes that were found | estimate | speakers too many "
        "| confidence | confidence too high by |\n" + "|---" * 7 + "|"
    )
    for run in arguments.runs:
        tagged, completed = true_rates(run)
        estimate = last_estimate(run)
        cells = [
            run.name.rsplit("-", 2)[0].replace("-", " "),
            f"{tagged:.2f}",
            f"{completed:.2f}",
            f"{estimate:.2f}",
            *(what_it_did(path) for path in sorted(run.glob("*-*-*.json"))[:1]),
        ]
        print(f"| {' | '.join(cells)} |")


def true_rates(run: Path) -> tuple[float, float]:
    """Share of the people in the training files who are tagged there, before and after completion.

    Names that are tagged in a file without speaking there do not count.
    """
    present = {uri: set(file.labels()) for uri, file in load_rttm(run / "train.rttm").items()}
    likes = read_likes(run / "train.likes")
    missing = run / "missing.likes"
    found = read_likes(missing) if missing.exists() else {}
    total = sum(map(len, present.values()))
    tagged = completed = 0
    for uri, people in present.items():
        given = people & set(likes.get(uri, ()))
        tagged += len(given)
        completed += len(given | people & set(found.get(uri, ())))
    return tagged / total, completed / total


def last_estimate(run: Path) -> float:
    """Price of confidence in the last epoch, which is the rate that the epochs before tell."""
    tables = list(run.glob("metrics/version_*/metrics.csv"))
    if not tables:
        raise SystemExit(f"{run}: no metrics/version_*/metrics.csv: give folders of trainings")
    last = max(tables, key=lambda table: int(table.parent.name.removeprefix("version_")))
    prices = pd.read_csv(last).get("train/lambda")
    if prices is None:
        raise SystemExit(f"{run} estimated no rate: give trainings with `lambda_: auto`")
    return prices.dropna().iloc[-1]


def what_it_did(path: Path) -> str:
    """Mean error of the number of speakers, confidence and how much it is too high by."""
    result = json.loads(path.read_text(encoding="utf-8"))
    off = np.mean([s["speakers"] - s["reference_speakers"] for s in result["scores"]])
    confidence, share, seconds = np.array(result["calibration"]).reshape(-1, 3).T
    mean, truth = (np.average(v, weights=seconds) for v in (confidence, share))
    return f"{off:+.1f} | {mean:.2f} | {100 * (mean - truth):+.1f}"


if __name__ == "__main__":
    main()
