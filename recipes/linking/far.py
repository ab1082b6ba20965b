"""Conversations in worse rooms, of the voices that train or develop the default Weighter."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversations"))

from make import CORPORA, SHARES, SPLIT_SEED, TURNS

from pyannote_weighter.simulation import (
    Acoustics,
    read_turns,
    read_voices,
    split_turns,
    split_voices,
    write_corpus,
)

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
    voices = {
        corpus: split_voices(
            read_voices(arguments.voices / corpus, prefix=f"{corpus}-"), SHARES, SPLIT_SEED
        )[arguments.subset]
        for corpus in CORPORA
    }
    turns = [
        turn_taking
        for source in TURNS
        for turn_taking in split_turns(
            read_turns(arguments.voices / "turns" / source), SHARES, SPLIT_SEED
        )[arguments.subset]
    ]
    write_corpus(
        arguments.into,
        voices,
        turns,
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
