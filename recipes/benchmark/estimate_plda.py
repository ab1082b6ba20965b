"""Estimate the PLDA of the VBx baseline on recordings with references.

Local speakers of the segmentation are embedded and get the name of whom the reference has there,
so that PLDA learns from what VBx will be given, but that windows overlap by half (in the baseline
by nine tenths).
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
from pyannote.core import SlidingWindowFeature
from rich.progress import track

from pyannote_weighter.audio import in_memory
from pyannote_weighter.pipelines.baselines import BATCH_SIZE, VBxDiarization, pretrained_models
from pyannote_weighter.plda import DIMENSION, check_dimension, estimate_plda, save_plda
from pyannote_weighter.protocols import protocol_files

STEP = 0.5  # of windows, share of their length
LEAST = 0.5  # share of the speech of a local speaker that must be of whom they are named after


def names_of(segmentations: SlidingWindowFeature, annotation) -> np.ndarray:
    """Name the local speakers: (chunks, speakers), empty where nobody has half of the speech."""
    labels = np.array([*annotation.labels(), ""])
    chunks, frames, _ = segmentations.data.shape
    window = segmentations.sliding_window
    step = window.duration / frames
    middles = (np.arange(frames) + 0.5) * step
    times = window.start + window.step * np.arange(chunks)[:, None] + middles  # (chunks, frames)
    spoken = np.zeros((chunks, frames, len(labels)))
    for index, label in enumerate(labels[:-1]):
        for turn in annotation.label_timeline(label):
            spoken[..., index] += (turn.start <= times) & (times < turn.end)
    active = np.nan_to_num(segmentations.data)
    shares = active.transpose(0, 2, 1) @ spoken.clip(max=1)  # (chunks, speakers, labels)
    shares /= active.sum(axis=1)[..., None].clip(min=1)
    named = labels[shares.argmax(axis=2)]
    return np.where(shares.max(axis=2) >= LEAST, named, "")


def local_speakers(stock: VBxDiarization, file) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, D) of the local speakers that are clustered, and their names (n,)."""
    audio = in_memory(file)
    segmentations = stock.get_segmentations(audio)
    if not np.nanmax(segmentations.data, initial=0):
        return np.empty((0, stock._embedding.dimension)), np.empty(0, dtype=str)
    embeddings = stock.get_embeddings(
        audio, segmentations, exclude_overlap=stock.embedding_exclude_overlap
    )
    kept, *where = stock.clustering.filter_embeddings(embeddings, segmentations=segmentations)
    names = names_of(segmentations, file["annotation"])[tuple(where)]
    return kept[names != ""], names[names != ""]


def main() -> None:
    """Read the command line, embed, estimate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", help="its speakers must have the same names everywhere")
    parser.add_argument("--registry", type=Path, required=True, help="database.yml")
    parser.add_argument("--subset", default="train")
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    parser.add_argument("--into", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    check_dimension(arguments.dimension)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    models = pretrained_models()
    models["embedding"].shares_frames = True
    stock = VBxDiarization(**models, segmentation_step=STEP, embedding_batch_size=BATCH_SIZE)
    embeddings, speakers = [], []
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))
    for file in track(files, description="embeddings", transient=True):
        found, names = local_speakers(stock, file)
        embeddings.append(found)
        speakers.append(names)
    embeddings, speakers = np.concatenate(embeddings), np.concatenate(speakers)
    save_plda(estimate_plda(embeddings, speakers, arguments.dimension), arguments.into)
    print(
        f"{arguments.into}: {arguments.dimension} directions from {len(embeddings)} local "
        f"speakers of {len(np.unique(speakers))} people in {len(files)} files"
    )


if __name__ == "__main__":
    main()
