"""Estimate the PLDA of the VBx baseline on recordings with references.

Local speakers of the segmentation are embedded as stock does it and get the name of whom the
reference has there, so that PLDA learns from what VBx will be given.
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
from pyannote_weighter.pipelines.baselines import (
    BATCH_SIZE,
    OracleDiarization,
    StockDiarization,
    pretrained_models,
)
from pyannote_weighter.pipelines.plda import DIMENSION, estimate_plda, save_plda
from pyannote_weighter.protocols import protocol_files


def local_speakers(stock: StockDiarization, oracle: OracleDiarization, file) -> tuple:
    """Embeddings (n, D) of the local speakers that stock clusters, and their names (n,)."""
    audio = in_memory(file)
    segmentations: SlidingWindowFeature = stock.get_segmentations(audio)
    if not np.nanmax(segmentations.data, initial=0):
        return np.empty((0, stock._embedding.dimension)), np.empty(0, dtype=object)
    embeddings = stock.get_embeddings(audio, segmentations)
    labels, *_ = oracle.clustering(
        segmentations=segmentations,
        file={**audio, "annotation": file["annotation"]},
        frames=stock._segmentation.model.receptive_field,
    )
    names = np.array(file["annotation"].labels(), dtype=object)
    kept, *where = stock.clustering.filter_embeddings(embeddings, segmentations=segmentations)
    labels = labels[tuple(where)]
    return kept[labels >= 0], names[labels[labels >= 0]]


def main() -> None:
    """Read the command line, embed, estimate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", help="its speakers must have the same names everywhere")
    parser.add_argument("--registry", type=Path, required=True, help="database.yml")
    parser.add_argument("--subset", default="train")
    parser.add_argument(
        "--step", type=float, default=0.5, help="of windows, share of their length"
    )
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    parser.add_argument("--into", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    models = pretrained_models()
    models["embedding"].shares_frames = True
    options = {"segmentation_step": arguments.step, "embedding_batch_size": BATCH_SIZE}
    stock = StockDiarization(**models, **options)
    oracle = OracleDiarization(**models, **options)
    embeddings, speakers = [], []
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))
    for file in track(files, description="embeddings", transient=True):
        found, names = local_speakers(stock, oracle, file)
        embeddings.append(found)
        speakers.append(names)
    embeddings, speakers = np.concatenate(embeddings), np.concatenate(speakers).astype(str)
    save_plda(estimate_plda(embeddings, speakers, arguments.dimension), arguments.into)
    print(
        f"{arguments.into}: {arguments.dimension} directions from {len(embeddings)} local "
        f"speakers of {len(np.unique(speakers))} people in {len(files)} files"
    )


if __name__ == "__main__":
    main()
