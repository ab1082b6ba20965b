"""Conversations in worse rooms, of the voices that train or develop the default Weighter."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversations"))

from make import read_subset

from pyannote_weighter.simulation import Acoustics, write_corpus

FAR = Acoustics(room_share=1.0, rt60=(0.4, 0.9), direct_ratio=(-6.0, 2.0), snr=(5.0, 15.0))


def main() -> None:
    """Read the command line and write the subset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voices", type=Path, required=True, help="folder of voices and turns")
    parser.add_argument("--into", type=Path, required=True, help="folder to write to")
    parser.add_argument("--subset", choices=("train", "development"), default="development")
    parser.add_argument("--number", type=int, default=48, help="of conversations")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    write_corpus(
        arguments.into,
        *read_subset(arguments.voices, arguments.subset),
        num_files=arguments.number,
        seed=arguments.seed,
        subset=arguments.subset,
        speakers=(2, 8),
        acoustics=FAR,
        in_turn=True,
        name="Far",
    )


if __name__ == "__main__":
    main()
