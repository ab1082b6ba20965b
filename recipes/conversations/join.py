"""Join conversations of a subset into longer ones, whose likes are those of all."""

import argparse
import os
from pathlib import Path

import numpy as np
import soundfile
import yaml
from pyannote.core import Annotation, Segment
from rich.progress import track

from pyannote_weighter.database import write_likes
from pyannote_weighter.output import atomic
from pyannote_weighter.protocols import protocol_files

DATABASE, TASK, NAME = "Simulated.SpeakerDiarization.Conversations".split(".")
SUBSETS = ("train", "development", "test")


def join(files: list, uri: str, path: Path) -> tuple[Annotation, tuple[str, ...], float]:
    """Write the audio of files, one after the other; their reference, likes and seconds."""
    annotation, likes, offset, waveforms = Annotation(uri=uri), {}, 0.0, []
    for number, file in enumerate(files):
        samples, rate = soundfile.read(file["audio"], dtype="int16")
        for turn, track_, speaker in file["annotation"].itertracks(yield_label=True):
            shifted = Segment(turn.start + offset, turn.end + offset)
            annotation[shifted, f"{number} {track_}"] = speaker
        likes |= dict.fromkeys(file["likes"])
        waveforms.append(samples)
        offset += len(samples) / rate
    with atomic(path) as unfinished:  # always: an older one may be of other sound
        soundfile.write(unfinished, np.concatenate(waveforms), rate, "PCM_16", format="FLAC")
    return annotation, tuple(likes), offset


def main() -> None:
    """Read the command line, join, write a database.yml with other subsets as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("registry", type=Path, help="database.yml that make.py wrote")
    parser.add_argument("--by", type=int, default=4, help="conversations in each")
    parser.add_argument("--files", type=int, help="of the first so many; default: all")
    parser.add_argument("--subset", choices=SUBSETS, default="train")
    parser.add_argument("--into", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.by < 1 or (arguments.files is not None and arguments.files < 1):
        parser.error("--by and --files count conversations: choose 1 or more")
    subset = arguments.subset
    files = list(protocol_files(f"{DATABASE}.{TASK}.{NAME}", arguments.registry, subset))
    files = files[: arguments.files]
    if not files:
        parser.error(f"{arguments.registry}: {subset} has no files: choose another --subset")
    folder = arguments.into / subset
    read = {arguments.registry.parent.resolve()}
    read |= {Path(file["audio"]).resolve().parent for file in files}
    if read & {arguments.into.resolve(), folder.resolve()}:
        parser.error(
            f"--into {arguments.into} holds what is to be joined, which would be overwritten: "
            "choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    likes, rttm, uem = {}, "", ""
    for first in track(range(0, len(files), arguments.by), description="joining"):
        some = files[first : first + arguments.by]
        uri = f"{some[0]['uri']}-by{arguments.by}"  # like none of those, which stay to be found
        annotation, likes[uri], seconds = join(some, uri, folder / f"{uri}.flac")
        rttm += annotation.to_rttm()
        uem += f"{uri} 1 0.000 {seconds:.3f}\n"
    write_likes(arguments.into / f"{subset}.likes", likes)
    lists = {"rttm": rttm, "uem": uem, "lst": "".join(f"{uri}\n" for uri in likes)}
    for ending, text in lists.items():
        (arguments.into / f"{subset}.{ending}").write_text(text, encoding="utf-8")

    known = yaml.safe_load(arguments.registry.read_text(encoding="utf-8"))
    back = os.path.relpath(arguments.registry.parent, arguments.into)
    sources = known["Databases"][DATABASE]
    sources = [sources] if isinstance(sources, str) else sources
    protocol = known["Protocols"][DATABASE][TASK][NAME]
    others = {
        name: {key: os.path.join(back, path) for key, path in entries.items()}
        for name, entries in protocol.items()
        if name in SUBSETS and name != subset
    }
    joined = {
        key: f"{subset}.{ending}"
        for key, ending in (
            ("uri", "lst"), ("likes", "likes"), ("annotation", "rttm"), ("annotated", "uem"),
        )
    }  # fmt: skip
    definition = {
        "Databases": {
            DATABASE: [f"{subset}/{{uri}}.flac", *(os.path.join(back, s) for s in sources)]
        },
        "Protocols": {DATABASE: {TASK: {NAME: {"scope": "global", subset: joined, **others}}}},
    }
    path = arguments.into / "database.yml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    print(f"{len(likes)} conversations: {path}")


if __name__ == "__main__":
    main()
