"""Equal error rate of CAM++ on single utterances, and cosines of halves of utterances."""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
from rich.progress import track

from pyannote_weighter.audio import load_waveform
from pyannote_weighter.models import CAMPPlus
from pyannote_weighter.scoring import equal_error_rate


def main() -> None:
    """Read the command line, embed, print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voices", type=Path, required=True, help="folder of an4/, librispeech/")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    paths, others = (find(arguments.voices / corpus, parser) for corpus in ("an4", "librispeech"))
    model = CAMPPlus.from_pretrained_weights().eval()

    @torch.inference_mode()
    def embed(waveform: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.normalize(model(waveform[None]), dim=-1)[0].numpy()

    waveforms = [load_waveform(path) for path in paths]
    embeddings = np.stack([embed(w) for w in track(waveforms, "AN4", transient=True)])
    speakers = np.array([path.parent.name for path in paths])
    seconds = np.array([w.shape[1] / 16000 for w in waveforms])
    print("| AN4 utterances | number | EER, % | less the mean of the corpus |\n|---|---|---|---|")
    for least in (0.0, 1.0, 2.0):
        kept = seconds >= least
        pairs = np.triu_indices(kept.sum(), k=1)
        same = (speakers[kept][:, None] == speakers[kept][None])[pairs]
        cells = []
        for center in (0.0, embeddings[kept].mean(axis=0)):
            unit = embeddings[kept] - center
            unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
            cosine = (unit @ unit.T)[pairs]
            cells.append(f"{100 * equal_error_rate(cosine, same):.2f}")
        print(f"| at least {least:g} s | {kept.sum()} | " + " | ".join(cells) + " |", flush=True)

    paths = others[::3]
    halves = []
    for path in track(paths, "LibriSpeech", transient=True):
        waveform = load_waveform(path)
        middle = waveform.shape[1] // 2
        halves.append((embed(waveform[:, :middle]), embed(waveform[:, middle:])))
    first, second = (np.stack(side) for side in zip(*halves, strict=True))
    cosine = first @ second.T
    own = np.eye(len(cosine), dtype=bool)
    same, different = cosine[own], cosine[~own]
    rate = equal_error_rate(cosine, own)
    print(
        f"\nhalves of {len(paths)} LibriSpeech utterances: mean cosine {same.mean():.2f} "
        f"(same speaker), {different.mean():.2f} (different); EER {100 * rate:.2f} %"
    )


def find(folder: Path, parser: argparse.ArgumentParser) -> list[Path]:
    """Recordings of a corpus, in order."""
    paths = sorted(folder.glob("*/*.flac"))
    if not paths:
        parser.error(f"{folder} has no SPEAKER/*.flac: give the folder above it as --voices")
    return paths


if __name__ == "__main__":
    main()
