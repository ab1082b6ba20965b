"""How well local speakers of a segmentation are told apart: from frames, and heard alone."""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from pyannote_weighter.audio import in_memory
from pyannote_weighter.likeness import local_voices, solo_steps
from pyannote_weighter.models.backbones import window_frames
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.pipelines.voices import embed_alone
from pyannote_weighter.pretrained import DEFAULT_PIPELINE
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.scoring import equal_error_rate
from pyannote_weighter.segmentation import count_speakers
from pyannote_weighter.tasks.samples import discretize

LEAST = 0.6  # seconds of a local speaker
BOUNDS = (LEAST, 1.5, 3.0, np.inf)  # seconds of the shorter one of a pair
HEARD = ("usual frames", "frames that know voices", "alone")


@torch.inference_mode()
def describe(pipeline, file: dict) -> dict[str, np.ndarray]:
    """Local speakers of a file.

    Returns
    -------
    described : dict
        `window`, `seconds` and `speaker`, who has most of it, (M,); embeddings, `HEARD` (M, D);
        `apart`, the number of windows from one to the next that does not overlap.
    """
    weighter, audio = pipeline._weighter, in_memory(file)
    backbone, waveform = weighter.backbone, audio["waveform"]
    _, _, local = count_speakers(pipeline._segmentation, audio)
    num_frames = backbone.num_frames(waveform.shape[1])
    voices = local_voices(local, weighter.frames, num_frames)
    frames = [window_frames(backbone, waveform, voices=known) for known in (None, voices)]
    turns = [
        (t.start, t.end, who) for t, _, who in file["annotation"].itertracks(yield_label=True)
    ]
    reference = discretize(turns, weighter.frames, num_frames).numpy()  # (T, R)

    first, solo = solo_steps(local, weighter.frames, num_frames)  # (W,), (W, S, L)
    found = {name: [] for name in ("window", "seconds", "speaker", *HEARD)}
    for window, (start, talks) in enumerate(zip(first, solo, strict=True)):
        for column in talks.T:
            (index,) = np.nonzero(column)
            index = index + start
            said = reference[index].sum(axis=0)
            if len(index) * weighter.frames.step < LEAST or not said.any():
                continue
            speaker = np.full(num_frames, -1)
            speaker[index] = 0
            alone, heard = embed_alone(
                weighter, audio, speaker, weighter.frames, 1, seconds=local.windows.duration
            )
            if not heard[0]:
                continue
            found["window"].append(window)
            found["seconds"].append(len(index) * weighter.frames.step)
            found["speaker"].append(said.argmax())
            pooled = [weighter.project(backbone.embed(some[None, index]))[0, 0] for some in frames]
            for name, vector in zip(HEARD, [*pooled, torch.from_numpy(alone[0])], strict=True):
                found[name].append(F.normalize(vector, dim=0).numpy())
    apart = local.windows.duration / local.windows.step
    found = {name: np.array(values) for name, values in found.items()}
    return found | {"apart": apart}


def pairs(described: dict) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Pairs of local speakers of windows without overlap.

    Returns
    -------
    seconds, same : (P,) arrays
        Of the shorter one; whether they are one person.
    cosines : dict of (P,) arrays
    """
    window = described["window"]
    one, other = np.triu_indices(len(window), k=1)
    distinct = np.abs(window[one] - window[other]) >= described["apart"]
    one, other = one[distinct], other[distinct]
    seconds = np.minimum(described["seconds"][one], described["seconds"][other])
    same = described["speaker"][one] == described["speaker"][other]
    cosines = {n: (described[n][one] * described[n][other]).sum(axis=-1) for n in HEARD}
    return seconds, same, cosines


def table(files: list[dict]) -> str:
    """Equal error rates of the pairs of all files, by seconds of the shorter one."""
    found = [pairs(described) for described in files if len(described["window"]) > 1]
    seconds, same = (np.concatenate([pair[n] for pair in found]) for n in (0, 1))
    lines = ["| shorter one | pairs | of one person | " + " | ".join(HEARD) + " |"]
    lines.append("|" + "---|" * (3 + len(HEARD)))
    for low, high in zip(BOUNDS[:-1], BOUNDS[1:], strict=True):
        kept = (seconds >= low) & (seconds < high)
        name = f"{low:g} to {high:g} s" if high < np.inf else f"{low:g} s and more"
        row = [name, str(kept.sum()), str((kept & same).sum())]
        for heard in HEARD:
            cosine = np.concatenate([pair[2][heard] for pair in found])
            row.append(f"{100 * equal_error_rate(cosine[kept], same[kept]):.1f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="its database.yml")
    parser.add_argument("--subset", default="development")
    parser.add_argument("--weights", type=Path, help="of CAM++, as adapt.py writes them")
    parser.add_argument("--every", type=int, default=10, help="file of the subset, and the first")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pipeline = load_pipeline(DEFAULT_PIPELINE, "cpu")
    if arguments.weights is not None:
        weights = torch.load(arguments.weights, map_location="cpu", weights_only=True)
        pipeline._weighter.backbone.model.load_state_dict(weights)
    files = list(protocol_files(arguments.protocol, arguments.registry, arguments.subset))
    some = track(files[:: arguments.every], "local speakers", transient=True)
    print(table([describe(pipeline, file) for file in some]))


if __name__ == "__main__":
    main()
