"""Fit the coefficients of `Likeness` and `Presence` on conversations with references."""

import argparse
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
from pyannote.audio import Pipeline
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pyannote_weighter.audio import in_memory
from pyannote_weighter.likeness import Likeness, local_evidence
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.windows import Windows
from pyannote_weighter.presence import Presence
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.segmentation import sample_nearest
from pyannote_weighter.tasks.samples import discretize

NAMES = ("cosine", "local", "shorter", "longer")
KINDS = {"cosine": [0], "likeness, apart": [0, 2, 3], "likeness": [0, 1, 2, 3]}  # columns
DRAWS = 6  # ways to divide the slots of a speaker into groups
LEAST = 0.5  # seconds of speech of a group
MERGES = (0.2, 0.3, 0.4)  # groups are those that linking makes at these


class Recorder:
    """A presence to which everybody is a speaker; it keeps what it was asked about last."""

    def __init__(self):
        self.asked: tuple = ()

    def __call__(self, groups, *described):
        """Probability one for each group."""
        self.asked = groups, Presence().features(groups, *described)
        return np.ones(groups.number)

    def threshold(self, seconds):
        """One that everybody reaches."""
        return 0.5


def groups_of(
    pipeline: WeighterDiarization, slots, windows, speech, local, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features of groups of slots, and whether each is the one that holds most of a speaker."""
    settled = pipeline.attribution.settle(slots, windows, speech, local)
    features, real = [], []
    merge = pipeline.weighter.merge
    for threshold in MERGES:
        pipeline.weighter.merge = threshold
        pipeline.attribution.link(settled)
        groups, found = pipeline.presence.asked
        held, start = np.zeros((len(found), reference.shape[1])), 0
        for part, who in zip(groups.weightings, groups.present, strict=True):
            held[who] += part.T @ reference[start : start + len(part)]
            start += len(part)
        held *= pipeline._weighter.steps.step
        speaker = np.zeros(len(found), dtype=bool)
        for group, who in zip(*linear_sum_assignment(-held), strict=True):
            mine = held[group, who]
            enough = mine >= min(1.0, 0.25 * held[:, who].sum())
            speaker[group] = enough and mine >= 0.3 * held[group].sum()
        long = np.exp(found[:, 0]) >= LEAST
        features.append(found[long])
        real.append(speaker[long])
    pipeline.weighter.merge = merge
    return np.concatenate(features), np.concatenate(real)


def slots_of(pipeline: WeighterDiarization, file: dict) -> dict:
    """Slots of a file that hold speech, what is known of them, and who speaks in each of them.

    The presence of the pipeline must be a `Recorder`.
    """
    audio = {key: value for key, value in in_memory(file).items() if key != "annotation"}
    count, frames, local = pipeline.compute(audio, lambda *args, **options: None)
    steps = pipeline._weighter.steps
    speech = sample_nearest(count, pipeline._weighter.frames, len(frames))[:, 0]
    windows = Windows()
    slots = pipeline.attribution.weigh(frames, speech, windows, local)
    same, different = local_evidence(local, slots.weightings, steps)
    weightings = slots.joined()
    turns = [(s.start, s.end, who) for s, _, who in file["annotation"].itertracks(True)]
    reference = discretize(turns, steps, len(weightings)).numpy().astype(np.float32)
    owner = (weightings.T @ reference).argmax(axis=1)
    (kept,) = np.nonzero((slots.confidence >= 0.3) & (slots.seconds >= 0.3))
    return {
        "embeddings": slots.embeddings[kept],
        "seconds": slots.seconds[kept],
        "same": same[np.ix_(kept, kept)],
        "different": different[np.ix_(kept, kept)],
        "owner": owner[kept],
        "groups": groups_of(pipeline, slots, windows, speech, local, reference),
    }


def pairs(file: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of pairs of groups of slots, and whether both are one person.

    Linking meets single slots at first and groups of them later: all slots of a speaker are
    divided into one to three groups, at random. Seconds count as in a short recording: what
    linking makes of them in long ones (`Likeness.of_recording`) is not fitted.
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
    return Likeness().features(cosine, *heard, *seconds), who[first] == who[second]


def gather(files: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of all files."""
    rng = np.random.default_rng(0)
    features, same = zip(*(pairs(f, rng) for f in files for _ in range(DRAWS)), strict=True)
    return np.concatenate(features), np.concatenate(same)


def regression(features: np.ndarray, truth: np.ndarray) -> LogisticRegression:
    """Fit one of the regressions."""
    return LogisticRegression(C=10, max_iter=5000).fit(features, truth)


def named(model: LogisticRegression, names: tuple[str, ...]) -> dict[str, float]:
    """Coefficients of a regression, by name; the bias is the last one."""
    values = map(float, [*model.coef_[0], model.intercept_[0]])
    return dict(zip((*names, "bias"), values, strict=True))


def fit_likeness(features: np.ndarray, same: np.ndarray) -> Likeness:
    """Both sets of coefficients, of slots that were heard together and apart."""
    apart = named(regression(features[:, [0, 2, 3]], same), ("cosine", "shorter", "longer"))
    apart = {f"{name}_apart": value for name, value in apart.items()}
    return Likeness(**named(regression(features, same), NAMES), **apart)


def fit_presence(features: np.ndarray, real: np.ndarray) -> Presence:
    """Coefficients of presence."""
    return Presence(**named(regression(features, real), ("seconds", "cosine", "owned", "turn")))


def gather_groups(files: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Groups of all files."""
    features, real = zip(*(file["groups"] for file in files), strict=True)
    return np.concatenate(features), np.concatenate(real)


def check(what: str, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuse features and truth from which nothing can be learned (ValueError)."""
    truth = np.concatenate([truth for _, truth in parts])
    if truth.all() or not truth.any():
        raise ValueError(
            f"{what}: {truth.sum()} of {len(truth)} are one person, where some have to be and "
            "some must not: give more files, with several speakers each"
        )


def main() -> None:
    """Read the command line, fit, print coefficients and how good they are on other files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", nargs="+", help="DATABASE.YML:PROTOCOL:SUBSET")
    parser.add_argument("--pipeline", type=Path, default=DEFAULT_PIPELINE)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(arguments.pipeline)
    pipeline.presence = Recorder()

    sets, groups = {}, {}
    for name in arguments.protocol:
        registry, protocol, subset = name.rsplit(":", 2)
        files = list(protocol_files(protocol, registry, subset))
        described = [slots_of(pipeline, file) for file in track(files, description=name)]
        sets[name], groups[name] = gather(described), gather_groups(described)
        check(f"{name}, pairs of slots", [sets[name]])
    check(f"{', '.join(groups)}, groups of slots", groups.values())

    def fit(names, columns):
        x, y = (np.concatenate(part) for part in zip(*(sets[n] for n in names), strict=True))
        return regression(x[:, columns], y)

    print("| tested on | trained on | judged by | AUC | errors |")
    print("|---|---|---|---|---|")
    for name, (x, y) in sets.items():
        others = [n for n in sets if n != name] or [name]
        for kind, columns in KINDS.items():
            model = fit(others, columns)
            cells = [
                Path(name.split(":")[0]).parent.name,
                ", ".join(Path(other.split(":")[0]).parent.name for other in others),
                kind,
                f"{roc_auc_score(y, model.decision_function(x[:, columns])):.4f}",
                f"{100 * (model.predict(x[:, columns]) != y).mean():.1f} %",
            ]
            print("| " + " | ".join(cells) + " |")
    for every, fit_to in ((sets, fit_likeness), (groups, fit_presence)):
        parts = (np.concatenate(part) for part in zip(*every.values(), strict=True))
        print(f"\n{fit_to(*parts)}")


if __name__ == "__main__":
    main()
