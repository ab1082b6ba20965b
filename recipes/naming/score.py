"""How often speakers get their right name from likes, by references that nothing else sees."""

import argparse
import os

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyannote.core import Annotation

from pyannote_weighter.benchmark_report import right_counts
from pyannote_weighter.database import corrupt_likes, drop_likes
from pyannote_weighter.naming import Match, Named, learn_voices
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.results import Result, read_results, to_annotation
from pyannote_weighter.scoring import bootstrap, equal_error_rate, pool, score

CONDITIONS = (
    (1.0, 1.0, 0.0), (1.0, 0.75, 0.0), (1.0, 0.5, 0.0), (1.0, 0.25, 0.0), (1.0, 1.0, 0.1),
    (0.5, 1.0, 0.0), (0.25, 1.0, 0.0), (0.1, 1.0, 0.0),
)  # fmt: skip
"""Share of the tagged files that is used, of their likes that is kept, of these that is wrong."""


class Count(NamedTuple):
    """Speakers of some files, and seconds."""

    right: int
    wrong: int
    known: int
    """Pairs of a file and somebody who is there and whose voice is known."""
    seconds_right: float
    seconds_wrong: float
    seconds: float
    """All speech, of people whose voices are known or not."""

    def __str__(self) -> str:
        named = max(1, self.right + self.wrong)
        return (
            f"{self.right} | {self.wrong} | {100 * self.right / max(1, self.known):.0f} "
            f"| {100 * self.right / named:.1f} | {100 * self.seconds_right / self.seconds:.0f} "
            f"| {100 * self.seconds_wrong / self.seconds:.1f}"
        )


def main() -> None:
    """Read the command line, learn names under several conditions, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="JSON that `apply` wrote")
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="its database.yml")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    files = {
        file["uri"]: file
        for file in protocol_files(arguments.protocol, arguments.registry, arguments.subset)
    }
    references = {uri: (file["annotation"], file["likes"]) for uri, file in files.items()}
    results = [r for r in read_results(arguments.results) if r.uri in references]
    if not results:
        parser.error(f"no result is of {arguments.subset} of {arguments.protocol}: --subset")
    print(
        "| tagged files | likes kept | wrong | voices | in tagged files: right | wrong "
        "| % of the known | precision | % of speech right | wrong | in others: right | wrong "
        "| % of the known | precision | % of speech right | wrong |" + "\n" + "|---" * 16 + "|"
    )
    for share, kept, wrong in CONDITIONS:
        cells = f"{kept:.0%} | {wrong:.0%}"
        rows = [judge(results, references, share, kept, wrong, seed) for seed in arguments.seeds]
        if None in rows:
            print(f"| {shuffled(results, share, 0)[1]} | {cells} |" + " - |" * 13)
            continue
        tagged, voices = (sum(row[i] for row in rows) / len(rows) for i in (0, 1))
        parts = [Count(*map(sum, zip(*(row[i] for row in rows), strict=True))) for i in (2, 3)]
        print(f"| {tagged:.0f} | {cells} | {voices:.0f} | {parts[0]} | {parts[1]} |")
    print(
        "\nWho is in the other files, complete tags:\n\n"
        "| voices | equal error rate, by cosine | missed | found too many "
        "| all of a file right |\n|---|---|---|---|---|"
    )
    for seed in arguments.seeds:
        print(identify(results, references, seed))
    print("\nThe diarization:\n\n" + diarization(results, files))


def diarization(results: list[Result], files: dict) -> str:
    """Errors in % of speech, and how often the number of speakers is right: a table."""
    scores = [
        score(
            files[result.uri]["annotation"],
            to_annotation(result.content),
            files[result.uri].get("annotated"),
        )
        for result in results
    ]
    pooled, (low, high) = pool(scores), bootstrap(scores, "confusion")
    counts = right_counts(scores)
    cells = [
        f"{100 * pooled['error']:.1f}",
        f"{100 * pooled['confusion']:.2f} [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * pooled['right_count']:.0f}",
        *(f"{100 * count['right']:.0f}" for count in counts.values()),
    ]
    head = ["DER", "confusion", "right count", *(f"{label} speakers" for label in counts)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), cells))


def identify(results: list[Result], references: dict, seed: int) -> str:
    """Pairs of a file that nobody has tagged and a known voice: line of a table."""
    results, num_tagged = shuffled(results, 1.0, seed)
    likes = [references[r.uri][1] for r in results[:num_tagged]]
    likes += [None] * (len(results) - num_tagged)
    named = learn(results, likes)
    if named is None:
        return "|" + " - |" * 5
    voices = named.voices
    cosine, present, found = [], [], []
    for result in results[num_tagged:]:
        nobody = not result.speakers.labels
        nearest = -1.0 if nobody else voices.cosines(result.speakers).max(axis=0)
        cosine.append(np.broadcast_to(nearest, len(voices.names)))
        present.append([name in references[result.uri][1] for name in voices.names])
        names = {match.name for match in voices.recognize(result.speakers).values()}
        found.append([name in names for name in voices.names])
    cosine, present, found = map(np.array, (cosine, present, found))  # (files, voices)
    rate = equal_error_rate(cosine, present)
    missed = (present & ~found).sum() / present.sum()
    many = (found & ~present).sum() / (~present).sum()
    right = (found == present).all(axis=1).mean()
    values = (f"{100 * v:.2f}" for v in (rate, missed, many, right))
    return f"| {len(voices.names)} | {' | '.join(values)} |"


def learn(results: list[Result], likes: Sequence[Sequence[str] | None]) -> Named | None:
    """Learn voices, where a name is liked in two files with speech."""
    liked = Counter(
        name
        for result, names in zip(results, likes, strict=True)
        if names is not None and result.speakers.labels
        for name in set(names)
    )
    if max(liked.values(), default=0) < 2:
        return None
    return learn_voices([r.speakers for r in results], likes)


def shuffled(results: list[Result], share: float, seed: int) -> tuple[list[Result], int]:
    """A part of the first half of the results in random order, then the other half."""
    results = sorted(results, key=lambda result: result.uri)
    random.Random(seed).shuffle(results)
    half = len(results) // 2
    num_tagged = round(share * half)
    return results[:num_tagged] + results[half:], num_tagged


def judge(
    results: list[Result], references: dict, share: float, kept: float, wrong: float, seed: int
) -> tuple[int, int, Count, Count] | None:
    """Tag a part of the first half of the results, in random order, and name all of them.

    Nothing can be learned from too few tags: None.
    """
    results, num_tagged = shuffled(results, share, seed)
    present = {r.uri: references[r.uri][1] for r in results[:num_tagged]}
    likes = corrupt_likes(drop_likes(present, kept, seed), wrong, seed, present)
    named = learn(results, [likes.get(r.uri) for r in results])
    if named is None:
        return None
    tagged = count(results[:num_tagged], named.matches[:num_tagged], named, references)
    others = count(results[num_tagged:], named.matches[num_tagged:], named, references)
    return num_tagged, len(named.voices.names), tagged, others


def count(
    results: list[Result], matches: list[dict[str, Match]], named: Named, references: dict
) -> Count:
    """A name is right if it is that of the person who makes most of the speaker."""
    right = wrong = known = 0
    good = bad = total = 0.0
    for result, found in zip(results, matches, strict=True):
        reference: Annotation = references[result.uri][0]
        people = {who: reference.label_timeline(who).support() for who in reference.labels()}
        known += len(people.keys() & set(named.voices.names))
        total += sum(timeline.duration() for timeline in people.values())
        diarization = to_annotation(result.content)
        for label, match in found.items():
            speech = diarization.label_timeline(label).support()
            shared = {who: t.crop(speech).duration() for who, t in people.items()}
            is_right = max(shared, key=shared.get, default=None) == match.name
            right, wrong = right + is_right, wrong + (not is_right)
            good += shared.get(match.name, 0.0)
            bad += speech.duration() - shared.get(match.name, 0.0)
    return Count(right, wrong, known, good, bad, total)


if __name__ == "__main__":
    main()
