"""The command line, with a record of what each process does, for tests of several processes."""

import os
import sys
from pathlib import Path

from pyannote_weighter.cli import main
from pyannote_weighter.tasks.crops import TrainingFiles
from pyannote_weighter.tasks.extraction import Extractor


def record(kind: str, what: str) -> None:
    """Append a line to the file of this kind of event and this process."""
    path = Path(os.environ["RECORD"]) / f"{kind}-{os.environ.get('LOCAL_RANK', '0')}.txt"
    with path.open("a") as stream:
        stream.write(f"{what}\n")


def recording(kind: str, describe, function):
    """Note the function's arguments before it is called."""

    def call(*args):
        record(kind, describe(*args))
        return function(*args)

    return call


if __name__ == "__main__":
    Extractor.compute = recording("extracted", lambda _, file: file["uri"], Extractor.compute)
    TrainingFiles.sample = recording(
        "trained",
        lambda files, first, second, seed: "\n".join(
            f"{seed[1]} {files.entries[files.pieces[piece][0]]['uri']}"
            for piece in (first, second)
            if piece >= 0
        ),
        TrainingFiles.sample,
    )
    sys.exit(main())
