"""Which slots likes are taken for before training, against references that nothing else sees."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from pyannote_weighter.database import corrupt_likes, drop_likes
from pyannote_weighter.models import Weighter
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.prototypes import missing_likes, shared_prototypes
from pyannote_weighter.segmentation import get_segmentation, segmentation_inference
from pyannote_weighter.tasks.extraction import Extractor, extract
from pyannote_weighter.tasks.samples import discretize

CONDITIONS = (
    (1.0, 0.0), (0.75, 0.0), (0.5, 0.0), (0.25, 0.0), (1.0, 0.1), (1.0, 0.2), (0.5, 0.1)
)  # fmt: skip
"""Share of the likes that is kept, share of these that is wrong."""


def main() -> None:
    """Read the command line, find the likes again under several conditions, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="its database.yml")
    parser.add_argument("--frames", type=Path, required=True, help="folder of cached frames")
    parser.add_argument("--files", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)

    files = list(protocol_files(arguments.protocol, arguments.registry, "train"))
    if max(arguments.files) > len(files):
        parser.error(
            f"{arguments.registry} has {len(files)} training files, not {max(arguments.files)}: "
            "choose --files that there are"
        )
    every = weigh(files[: max(arguments.files)], arguments.frames)
    print(
        "| files | kept | wrong | likes | confirmed | right of these | right of the others "
        "| gone | found again | found beside |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for num_files in arguments.files:
        for kept, wrong in CONDITIONS:
            some = every[:num_files]
            present = {file["uri"]: file["likes"] for file in some}
            likes = drop_likes(present, kept, arguments.seed)
            likes = corrupt_likes(likes, wrong, arguments.seed, present)
            confirmed, right, missing = find(some, likes)
            pairs = {(uri, name) for uri, names in missing.items() for name in names}
            there = {(uri, name) for uri, names in present.items() for name in names}
            gone = there - {(uri, name) for uri, names in likes.items() for name in names}
            shares = map(percent, (confirmed, right[confirmed], right[~confirmed]))
            print(
                f"| {num_files} | {kept:.0%} | {wrong:.0%} | {len(right)} "
                f"| {' | '.join(shares)} "
                f"| {len(gone)} | {len(pairs & gone)} | {len(pairs - there)} |"
            )


def percent(found: np.ndarray) -> str:
    """How many of them, where there are any."""
    return f"{100 * found.mean():.0f}" if len(found) else ""


@torch.inference_mode()
def weigh(files: list, folder: Path) -> list[dict]:
    """Slots of each file as the untrained Weighter makes them, and whose voice each of them is."""
    model = Weighter().eval()
    segmentation = segmentation_inference(get_segmentation("segmentation-3.0"), step=0.25)
    cache, keys = extract(files, Extractor(model, segmentation), folder)
    pairs = list(zip(files, keys, strict=True))
    results = []
    for file, key in track(pairs, "slots", console=Console(stderr=True), transient=True):
        frames, count = (torch.from_numpy(np.array(x))[None] for x in cache.get(key))
        weighed = model.weigh(frames.float(), count=count)
        x = weighed.weightings[0]  # (T, N)
        reference = file["annotation"]
        turns = [(s.start, s.end, who) for s, _, who in reference.itertracks(yield_label=True)]
        names = sorted({who for _, _, who in turns})
        shared = x.T @ discretize(turns, model.frames, len(x)).float()  # (N, speakers)
        results.append(
            {
                "uri": file["uri"],
                "likes": file["likes"],
                "slots": weighed.embeddings[0],
                "share": x.sum(dim=0) / x.sum(),
                "owner": [names[k] for k in shared.argmax(dim=1)],
            }
        )
    return results


def find(files: list[dict], likes: dict) -> tuple[np.ndarray, np.ndarray, dict]:
    """(likes,) whether other files confirm the like, and whether its slot is of that speaker.

    Then the names that files seem to lack.
    """
    speakers = sorted({name for names in likes.values() for name in names})
    index = {name: number for number, name in enumerate(speakers)}
    numbers = [torch.tensor([index[n] for n in likes[file["uri"]]]).long() for file in files]
    slots, shares = [file["slots"] for file in files], [file["share"] for file in files]
    prototypes = shared_prototypes(slots, shares, numbers, len(speakers))
    confirmed, right = [], []
    found = zip(files, numbers, prototypes.slots, prototypes.confirmed, strict=True)
    for file, known, given, sure in found:
        for like, slot, is_sure in zip(known.tolist(), given.tolist(), sure.tolist(), strict=True):
            if slot >= 0:
                confirmed.append(is_sure)
                right.append(file["owner"][slot] == speakers[like])
    missing = {
        file["uri"]: [speakers[k] for k in found]
        for file, found in zip(
            files, missing_likes(slots, shares, numbers, prototypes), strict=True
        )
    }
    return np.array(confirmed, dtype=bool), np.array(right, dtype=bool), missing


if __name__ == "__main__":
    main()
