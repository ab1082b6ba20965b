"""Fit the coefficients of `Likeness` on conversations with references; see README.md."""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
from pyannote.audio import Pipeline
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pyannote_weighter.audio import in_memory
from pyannote_weighter.likeness import COEFFICIENTS as NAMES
from pyannote_weighter.likeness import Likeness, local_evidence
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.segmentation import sample_nearest
from pyannote_weighter.tasks.samples import discretize

DRAWS = 6  # ways to divide the slots of a speaker into groups
LEAST = 0.5  # seconds of speech of a group


def slots_of(pipeline: WeighterDiarization, file: dict) -> dict:
    """Slots of a file that hold speech, what is known of them, and who speaks in each of them."""
    audio = {key: value for key, value in in_memory(file).items() if key != "annotation"}
    count, frames, local = pipeline.compute(audio, lambda *args, **options: None)
    grid = pipeline._weighter.frames
    speech = sample_nearest(count, grid, len(frames))[:, 0]
    slots = pipeline.weigh(frames, speech)
    same, different = local_evidence(local, slots.weightings, grid)
    turns = [(s.start, s.end, who) for s, _, who in file["annotation"].itertracks(True)]
    reference = discretize(turns, grid, len(frames)).numpy()
    owner = (slots.joined().T @ reference.astype(np.float32)).argmax(axis=1)
    (kept,) = np.nonzero((slots.confidence >= 0.3) & (slots.seconds >= 0.3))
    return {
        "embeddings": slots.embeddings[kept],
        "seconds": slots.seconds[kept],
        "same": same[np.ix_(kept, kept)],
        "different": different[np.ix_(kept, kept)],
        "owner": owner[kept],
    }


def pairs(file: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of pairs of groups of slots, and whether both are one person.

    Linking meets single slots at first and groups of them later: all slots of a speaker are
    divided into one to three groups, at random.
    """
    owner, seconds = file["owner"], file["seconds"]
    unit = file["embeddings"] / np.linalg.norm(file["embeddings"], axis=1, keepdims=True)
    groups = []
    for who in np.unique(owner):
        members = rng.permutation(np.flatnonzero(owner == who))
        number = rng.integers(1, min(3, len(members)) + 1)
        groups += [(who, part) for part in np.array_split(members, number)]
    member = np.zeros((len(groups), len(owner)))
    for row, (_, part) in enumerate(groups):
        member[row, part] = 1.0
    sums = member @ (unit * seconds[:, None])
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    held = member @ seconds
    first, second = np.triu_indices(len(groups), k=1)
    long = np.minimum(held[first], held[second]) >= LEAST
    first, second = first[long], second[long]
    who = np.array([who for who, _ in groups])
    cosine, seconds = (sums @ sums.T)[first, second], (held[first], held[second])
    heard = [(member @ file[key] @ member.T)[first, second] for key in ("same", "different")]
    # once as they are, once as if they had been heard far apart
    features = [
        Likeness().features(cosine, *evidence, *seconds)
        for evidence in (heard, np.zeros((2, len(cosine))))
    ]
    return np.concatenate(features), np.tile(who[first] == who[second], 2)


def gather(files: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of all files."""
    rng = np.random.default_rng(0)
    features, same = zip(*(pairs(f, rng) for f in files for _ in range(DRAWS)), strict=True)
    return np.concatenate(features), np.concatenate(same)


def main() -> None:
    """Read the command line, fit, print coefficients and how good they are on other files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", nargs="+", help="DATABASE.YML:PROTOCOL:SUBSET")
    parser.add_argument("--pipeline", type=Path, default=DEFAULT_PIPELINE)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(arguments.pipeline)

    sets = {}
    for name in arguments.protocol:
        registry, protocol, subset = name.rsplit(":", 2)
        files = list(protocol_files(protocol, registry, subset))
        sets[name] = gather([slots_of(pipeline, file) for file in track(files, description=name)])

    def fit(names):
        x, y = (np.concatenate(part) for part in zip(*(sets[n] for n in names), strict=True))
        cosine = LogisticRegression(C=10, max_iter=1000).fit(cosine_of(x), y)
        return LogisticRegression(C=10, max_iter=1000, fit_intercept=False).fit(x, y), cosine

    print(
        "| tested on | trained on | heard | AUC, cosine | likeness | errors, cosine | likeness |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (every, same) in sets.items():
        others = [n for n in sets if n != name] or [name]
        model, cosine = fit(others)
        apart = ~every[:, : len(NAMES) // 2].any(axis=1)
        for heard, some in (("in the same windows", ~apart), ("apart", apart)):
            x, y = every[some], same[some]
            wrong = [(cosine.predict(cosine_of(x)) != y).mean(), (model.predict(x) != y).mean()]
            areas = (roc_auc_score(y, s) for s in (cosine_of(x)[:, 0], model.decision_function(x)))
            cells = [
                Path(name.split(":")[0]).parent.name,
                ", ".join(Path(other.split(":")[0]).parent.name for other in others),
                heard,
                *(f"{area:.4f}" for area in areas),
                *(f"{100 * share:.1f} %" for share in wrong),
            ]
            print("| " + " | ".join(cells) + " |")
    model, _ = fit(sets)
    print()
    print(", ".join(f"{n}: {value:.2f}" for n, value in zip(NAMES, model.coef_[0], strict=True)))


def cosine_of(features: np.ndarray) -> np.ndarray:
    """(pairs, 1) cosines, which are shared between the pairs heard together and the others."""
    first, second = NAMES.index("cosine"), NAMES.index("cosine_apart")
    return features[:, [first]] + features[:, [second]]


if __name__ == "__main__":
    main()
