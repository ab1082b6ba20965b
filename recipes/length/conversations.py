"""Long conversations, of several windows of the Weighter, of voices that train nothing."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversations"))

from make import read_subset

from pyannote_weighter.simulation import Acoustics, write_corpus

DURATION = (700.0, 1500.0)  # seconds; windows are of 600
# people in the turn timings that are this long, which are meetings
SPEAKERS = {"train": (3, 4), "development": (4, 4), "test": (3, 4)}


def main() -> None:
    """Read the command line and write the subset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voices", type=Path, required=True, help="folder of voices and turns")
    parser.add_argument("--into", type=Path, required=True, help="folder to write to")
    parser.add_argument("--subset", choices=("development", "test"), default="test")
    parser.add_argument(
        "--turns", choices=tuple(SPEAKERS), help="turn timings (and how many speak) of a subset"
    )
    parser.add_argument(
        "--stay",
        type=float,
        nargs=2,
        metavar="SECONDS",
        help="everybody is in a room, and moves after so many seconds, at least and at most",
    )
    parser.add_argument("--number", type=int, default=12, help="of conversations")
    parser.add_argument("--seed", type=int, default=31)
    arguments = parser.parse_args()
    voices, turns = read_subset(arguments.voices, arguments.subset)
    if arguments.turns is not None:
        _, turns = read_subset(arguments.voices, arguments.turns)
    acoustics = Acoustics()
    if arguments.stay is not None:
        acoustics = Acoustics(
            stay=tuple(arguments.stay), room_share=1.0, direct_ratio=(-6.0, 10.0)
        )
    write_corpus(
        arguments.into,
        voices,
        turns,
        num_files=arguments.number,
        seed=arguments.seed,
        subset=arguments.subset,
        duration=DURATION,
        speakers=SPEAKERS[arguments.turns or arguments.subset],
        acoustics=acoustics,
        in_turn=True,
        name="Long",
    )


if __name__ == "__main__":
    main()
