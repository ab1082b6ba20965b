"""Make the train, development and test conversations; see README.md beside this file."""

import argparse
from pathlib import Path

from pyannote_weighter.simulation import (
    read_turns,
    read_voices,
    split_turns,
    split_voices,
    write_corpus,
)

CORPORA = ("an4", "librispeech", "speechocean")
TURNS = ("voxconverse-dev", "ami-train")
SHARES = {"train": 0.70, "development": 0.15, "test": 0.15}
SPLIT_SEED = 0  # fixed for good: another one would mix test voices into training
DURATION = {"train": (60.0, 120.0), "development": (60.0, 120.0), "test": (60.0, 100.0)}


def read_subset(folder: Path, subset: str) -> tuple[dict, list]:
    """Voices of each corpus, and turn timings, that a subset has to itself."""
    voices = {
        corpus: split_voices(read_voices(folder / corpus, prefix=f"{corpus}-"), SHARES, SPLIT_SEED)
        for corpus in CORPORA
    }
    turns = [
        split_turns(read_turns(folder / "turns" / source), SHARES, SPLIT_SEED) for source in TURNS
    ]
    return (
        {corpus: voices[corpus][subset] for corpus in CORPORA},
        [turn_taking for source in turns for turn_taking in source[subset]],
    )


def main() -> None:
    """Read the command line and write the three subsets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voices", type=Path, required=True, help="folder of voices and turns")
    parser.add_argument("--into", type=Path, required=True, help="folder to write to")
    parser.add_argument("--likes-kept", type=float, default=1.0, help="share of likes in train")
    parser.add_argument("--train", type=int, default=400, help="number of conversations")
    parser.add_argument("--development", type=int, default=48)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument(
        "--speakers", type=int, nargs=2, default=(2, 8), help="fewest and most of a conversation"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the conversations, not the split")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    fewest, most = arguments.speakers
    if not 1 <= fewest <= most:
        parser.error(f"--speakers {fewest} {most}: give the fewest, then the most")
    if min(arguments.train, arguments.development, arguments.test) < 0:
        parser.error("numbers of conversations are 0 or more")

    for subset in SHARES:
        num_files = getattr(arguments, subset)
        if num_files == 0:
            continue
        write_corpus(
            arguments.into,
            *read_subset(arguments.voices, subset),
            num_files,
            arguments.seed,
            subset,
            duration=DURATION[subset],
            speakers=tuple(arguments.speakers),
            likes_kept=arguments.likes_kept if subset == "train" else 1.0,
            in_turn=subset != "train",
            processes=arguments.processes,
        )


if __name__ == "__main__":
    main()
