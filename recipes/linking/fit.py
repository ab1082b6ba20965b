"""Fit the coefficients of `Likeness` and `Presence`, to references or to likes."""

import argparse
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
from pyannote.audio import Pipeline
from rich.progress import track
from scipy.optimize import linear_sum_assignment, minimize
from sklearn.metrics import roc_auc_score

from pyannote_weighter.audio import in_memory
from pyannote_weighter.likeness import Likeness, local_evidence
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.windows import Windows, alone
from pyannote_weighter.presence import Presence
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.prototypes import complete_likes, explained_speech
from pyannote_weighter.segmentation import sample_nearest
from pyannote_weighter.tasks.alignment import align_likes
from pyannote_weighter.tasks.samples import discretize

NAMES = ("cosine", "local", "shorter", "longer")
KINDS = {"cosine": [0], "likeness, apart": [0, 2, 3], "likeness": [0, 1, 2, 3]}  # columns
DRAWS = 6  # ways to divide the slots of a speaker into groups
LEAST = 0.5  # seconds of speech of a group
MERGES = (0.2, 0.3, 0.4)  # groups are those that linking makes at these
EXPLAINED = 0.95  # share of the speech of a recording that is of its likes, to be told by them
RIDGE = 0.05  # of squared coefficients


class Recorder:
    """A presence to which everybody is a speaker; it keeps what it was asked about last."""

    def __init__(self, offset: float = 0.0):
        self.asked: tuple = ()
        self.presence = Presence(offset=offset)

    def __call__(self, groups, *described):
        """Probability one for each group."""
        self.asked = groups, self.presence.features(groups, *described)
        return np.ones(groups.number)

    def threshold(self, seconds):
        """One that everybody reaches."""
        return 0.5


def groups_of(
    pipeline: WeighterDiarization, slots, windows, speech, local
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features (K, 4) of groups of slots and their weightings (S, K), for several thresholds."""
    settled = pipeline.attribution.settle(slots, windows, speech, local)
    found = []
    merge = pipeline.weighter.merge
    for threshold in MERGES:
        pipeline.weighter.merge = threshold
        pipeline.attribution.link(settled)
        groups, features = pipeline.presence.asked
        found.append((features, groups.spread()))
    pipeline.weighter.merge = merge
    return found


@torch.inference_mode()
def describe(pipeline: WeighterDiarization, file: dict) -> dict:
    """Slots of a file, groups of them, and what is known of both, but for whose they are.

    The presence of the pipeline must be a `Recorder`.
    """
    audio = {key: value for key, value in in_memory(file).items() if key != "annotation"}
    count, frames, local = pipeline.compute(audio, lambda *args, **options: None)
    weighter = pipeline._weighter
    speech = sample_nearest(count, weighter.frames, len(frames))[:, 0]
    windows = Windows()
    slots = pipeline.attribution.weigh(frames, speech, windows, local)
    same, different = local_evidence(local, slots.weightings, weighter.steps)
    step = weighter.encoder.step
    return {
        "embeddings": slots.embeddings,
        "seconds": slots.seconds,
        "confidence": slots.confidence,
        "weightings": slots.joined(),
        "same": same,
        "different": different,
        "offset": pipeline.likeness.offset,
        "groups": groups_of(pipeline, slots, windows, speech, local),
        "steps": weighter.steps,
        "windows": [
            weighter.project(w.embeddings[0]) for w in windows if w.embeddings is not None
        ],
        "single": alone(speech, step),
        "speech": alone(np.minimum(speech, 1), step),
    }


def by_reference(described: dict, file: dict) -> np.ndarray:
    """(S, K) who speaks in each step, by the reference of a file."""
    turns = [(s.start, s.end, who) for s, _, who in file["annotation"].itertracks(True)]
    num_steps = len(described["weightings"])
    return discretize(turns, described["steps"], num_steps).numpy().astype(np.float32)


def by_likes(described: Sequence[dict], likes: Sequence[Iterable[str]]) -> list[np.ndarray | None]:
    """(S, L) who speaks in each step of each file, by likes and by what files have in common.

    None for files with speech of others, as far as voices tell: of these likes say too little.
    """
    if not all(file["windows"] for file in described):
        raise ValueError("the encoder of this pipeline embeds no windows: `refine` does")
    index = {name: n for n, name in enumerate(sorted({name for some in likes for name in some}))}
    given = [torch.tensor([index[name] for name in dict.fromkeys(some)]).long() for some in likes]
    slots = [torch.from_numpy(file["embeddings"]).float() for file in described]
    held = [torch.from_numpy(file["seconds"]).float() for file in described]
    shares = [seconds / seconds.sum().clamp_min(1e-6) for seconds in held]
    most = [max(0, len(s) - len(g)) for s, g in zip(slots, given, strict=True)]
    prototypes, _, every = complete_likes(slots, shares, given, len(index), most)
    found: list[np.ndarray | None] = []
    for number, (file, speakers) in enumerate(zip(described, every, strict=True)):
        confirmed = prototypes.confirmed[number]
        own = prototypes._replace(confirmed=[confirmed])
        explained = explained_speech([slots[number]], [shares[number]], [speakers], own)
        if not confirmed.any() or explained < EXPLAINED:
            found.append(None)
            continue
        single = torch.from_numpy(file["single"])
        voices = prototypes.vectors[speakers[confirmed]]
        aligned = align_likes(torch.cat(file["windows"]), voices, single)[:, :-1].numpy()
        found.append(aligned * file["speech"][:, None])
    return found


def label(described: dict, who: np.ndarray) -> dict:
    """What is fitted: slots that hold speech and whose they are, groups and which are a speaker.

    A group is one that holds most of a speaker.
    """
    features, real = [], []
    for found, weightings in described["groups"]:
        held = weightings.T @ who * described["steps"].step
        speaker = np.zeros(len(found), dtype=bool)
        for group, person in zip(*linear_sum_assignment(-held), strict=True):
            mine = held[group, person]
            enough = mine >= min(1.0, 0.25 * held[:, person].sum())
            speaker[group] = enough and mine >= 0.3 * held[group].sum()
        long = np.exp(found[:, 0]) >= LEAST
        features.append(found[long])
        real.append(speaker[long])
    owner = (described["weightings"].T @ who).argmax(axis=1)
    (kept,) = np.nonzero((described["confidence"] >= 0.3) & (described["seconds"] >= 0.3))
    return {
        "embeddings": described["embeddings"][kept],
        "seconds": described["seconds"][kept],
        "same": described["same"][np.ix_(kept, kept)],
        "different": described["different"][np.ix_(kept, kept)],
        "owner": owner[kept],
        "offset": described["offset"],
        "groups": (np.concatenate(features), np.concatenate(real)),
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
    likeness = Likeness(offset=file["offset"])
    return likeness.features(cosine, *heard, *seconds), who[first] == who[second]


def gather(files: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of all files."""
    rng = np.random.default_rng(0)
    features, same = zip(*(pairs(f, rng) for f in files for _ in range(DRAWS)), strict=True)
    return np.concatenate(features), np.concatenate(same)


def regression(
    features: np.ndarray, truth: np.ndarray, held: dict[int, float] | None = None
) -> np.ndarray:
    """(F + 1,) coefficients of a logistic regression, the bias last; some may be held."""
    held = held or {}
    free = [column for column in range(features.shape[1]) if column not in held]
    fixed = sum((value * features[:, column] for column, value in held.items()), 0.0)
    x, sign = np.column_stack([features[:, free], np.ones(len(truth))]), np.where(truth, 1, -1)
    penalty = np.append(np.full(len(free), RIDGE), 0.0)

    def loss(w):
        margin = sign * (x @ w + fixed)
        slope = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
        return np.logaddexp(0, -margin).sum() + penalty @ w**2, slope @ x + 2 * penalty * w

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    coefficients = np.empty(features.shape[1] + 1)
    coefficients[[*free, -1]] = found
    for column, value in held.items():
        coefficients[column] = value
    return coefficients


def named(coefficients: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Coefficients of a regression, by name."""
    return dict(zip((*names, "bias"), map(float, coefficients), strict=True))


def fit_likeness(features: np.ndarray, same: np.ndarray, longer: float | None = None) -> Likeness:
    """Both sets of coefficients, of slots that were heard together and apart."""
    fixed, held = ({}, {}) if longer is None else ({2: longer}, {3: longer})
    apart = regression(features[:, [0, 2, 3]], same, fixed)
    apart = named(apart, ("cosine", "shorter", "longer"))
    apart = {f"{name}_apart": value for name, value in apart.items()}
    return Likeness(**named(regression(features, same, held), NAMES), **apart)


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
    parser.add_argument("--likes", action="store_true", help="in place of references")
    parser.add_argument("--longer", type=float, help="this coefficient is not fitted")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(arguments.pipeline)
    pipeline.presence = Recorder(pipeline.presence.offset)

    recordings = []
    for name in arguments.protocol:
        if name.count(":") < 2:
            parser.error(f"{name}: expected DATABASE.YML:PROTOCOL:SUBSET")
        registry, protocol, subset = name.rsplit(":", 2)
        files = list(protocol_files(protocol, registry, subset))
        if arguments.likes:
            files = [file for file in files if file["likes"] is not None]
        for file in track(files, description=name):
            recordings.append((name, file, describe(pipeline, file)))
    if arguments.likes:  # the same people may speak in all sets
        likes = [file["likes"] for _, file, _ in recordings]
        speaking = by_likes([slots for *_, slots in recordings], likes)
    else:
        speaking = [by_reference(slots, file) for _, file, slots in recordings]
    told: dict[str, list] = {name: [] for name in arguments.protocol}
    for (name, _, slots), who in zip(recordings, speaking, strict=True):
        if who is not None and who.shape[1]:
            told[name].append(label(slots, who))
    compared, groups = {}, {}
    for name, some in told.items():
        number = sum(name == other for other, *_ in recordings)
        if number and not some and arguments.likes:
            raise ValueError(
                f"{name}: likes account for the speech of none of {number} files: everybody in a "
                "file needs a like there and in another one"
            )
        if number and not some:
            raise ValueError(f"{name}: nobody speaks in the references of its {number} files")
        if arguments.likes:
            print(f"{name}: {len(some)} of {number} files, of which likes tell all speech")
        compared[name], groups[name] = gather(some), gather_groups(some)
        check(f"{name}, pairs of slots", [compared[name]])
    check(f"{', '.join(groups)}, groups of slots", groups.values())

    print("| tested on | trained on | judged by | AUC | errors |")
    print("|---|---|---|---|---|")
    for name, (x, y) in compared.items():
        others = [n for n in compared if n != name] or [name]
        known, truth = (
            np.concatenate(p) for p in zip(*(compared[n] for n in others), strict=True)
        )
        for kind, columns in KINDS.items():
            coefficients = regression(known[:, columns], truth)
            log_odds = x[:, columns] @ coefficients[:-1] + coefficients[-1]
            cells = [
                Path(name.split(":")[0]).parent.name,
                ", ".join(Path(other.split(":")[0]).parent.name for other in others),
                kind,
                f"{roc_auc_score(y, log_odds):.4f}",
                f"{100 * ((log_odds > 0) != y).mean():.1f} %",
            ]
            print("| " + " | ".join(cells) + " |")
    print("\nOptions of the pipeline (`params` of its `pipeline` in config.yaml):")
    likeness = fit_likeness(
        *map(np.concatenate, zip(*compared.values(), strict=True)), arguments.longer
    )
    presence = fit_presence(*map(np.concatenate, zip(*groups.values(), strict=True)))
    for option, fitted in (("likeness", likeness), ("presence", presence)):
        fitted = {key: value for key, value in asdict(fitted).items() if key != "offset"}
        values = ", ".join(f"{key}: {value:.4g}" for key, value in fitted.items())
        print(f"{option}: {{{values}}}")


if __name__ == "__main__":
    main()
