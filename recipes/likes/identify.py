"""Which known speakers are in a recording? Classifiers trained from likes, on new files."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from pyannote.audio import Model
from torch import Tensor

from pyannote_weighter.database import read_likes
from pyannote_weighter.losses import any_slot
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.scoring import equal_error_rate
from pyannote_weighter.segmentation import get_segmentation, segmentation_inference
from pyannote_weighter.tasks.extraction import Extractor, extract

TEMPERATURE = 0.05  # of the classifier in training


def main() -> None:
    """Read the command line, judge every run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that study.py has made")
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="of other files")
    parser.add_argument("--subset", default="train")
    parser.add_argument("--frames", type=Path, required=True, help="folder of cached frames")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))

    print("| | speakers | pairs | equal error rate | by cosine | all of a file right |")
    print("|---|---|---|---|---|---|")
    for run in arguments.runs:
        speakers = sorted({n for names in read_likes(run / "train.likes").values() for n in names})
        model, prototypes = load(run)
        claims, cosines, present = [], [], []
        task = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")).get("task", {})
        voices = task.get("voices", True)
        for file, (frames, count) in features(model, files, arguments.frames, voices):
            claim, cosine = compare(model, prototypes, frames, count)
            claims.append(claim)
            cosines.append(cosine)
            present.append([name in file["likes"] for name in speakers])
        claims, cosines, present = map(np.array, (claims, cosines, present))
        # the n speakers that are claimed most, of n known ones
        right = [
            set(np.argsort(-claim)[: there.sum()]) == set(np.flatnonzero(there))
            for claim, there in zip(cosines, present, strict=True)
        ]
        name = run.name.rsplit("-", 2)[0]
        print(
            f"| {name} | {len(speakers)} | {present.sum()} of {present.size} "
            f"| {100 * equal_error_rate(claims, present):.1f} "
            f"| {100 * equal_error_rate(cosines, present):.1f} | {100 * np.mean(right):.0f} |"
        )


def load(run: Path) -> tuple[Model, Tensor]:
    """Model of a run, and the (K, D) prototypes of its speakers."""
    path = run / "checkpoints" / "last.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    return Model.from_pretrained(path), state["loss_func.W"].T


def features(model: Model, files: list, folder: Path, voices: bool):
    """Files with frames and speaker counts, which are computed once."""
    segmentation = segmentation_inference(get_segmentation("segmentation-3.0"), step=0.25)
    cache, keys = extract(files, Extractor(model, segmentation, voices), folder)
    for file, key in zip(files, keys, strict=True):
        frames, count = cache.get(key)
        yield file, (torch.from_numpy(np.array(frames)), torch.from_numpy(np.array(count)))


@torch.inference_mode()
def compare(model: Model, prototypes: Tensor, frames: Tensor, count: Tensor) -> tuple:
    """(K,) claims that speakers are there, and (K,) greatest cosines of a slot."""
    weighed = model.weigh(frames[None].float(), count=count[None])
    slots = F.normalize(weighed.embeddings, dim=-1)  # (1, N, D)
    cosine = slots @ F.normalize(prototypes, dim=-1).T  # (1, N, K)
    claim = any_slot(weighed.confidence, (cosine / TEMPERATURE).log_softmax(dim=-1))
    heard = weighed.weightings.sum(dim=1) * model.frames.step > 0.5  # (1, N)
    cosine = cosine.masked_fill(~heard[..., None], -1.0)
    return claim[0].numpy(), cosine[0].amax(dim=0).numpy()


if __name__ == "__main__":
    main()
