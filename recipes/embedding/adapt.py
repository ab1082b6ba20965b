"""Adapt CAM++ to people who talk in turns: short stretches, in rooms, frames that know voices."""

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import numpy as np
import soundfile
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyannote.audio import Model
from pyannote.audio.utils.powerset import Powerset
from pytorch_metric_learning.losses import ArcFaceLoss
from scipy.signal import resample_poly
from torch.utils.data import DataLoader, Dataset

from pyannote_weighter.models import CAMPPlus
from pyannote_weighter.output import atomic, check_folder
from pyannote_weighter.pretrained import segmentation_path
from pyannote_weighter.protocols import protocol_files

SAMPLE_RATE = 16000
DURATION = 30  # seconds of an example, as the pipeline gives them to the backbone
WINDOW = 10  # seconds in which the segmentation tells who is who
LEAST = 0.6  # seconds of a stretch
TOLD = 0.75  # share of examples whose frames know voices
ITEMS = 12  # stretches of an example, at most
SPEEDS = ((1, 1), (9, 10), (11, 10))  # who is slower or faster is somebody else
MARGIN, SCALE = 11.5, 30.0  # degrees; 0.2 in radians


class Stretches(Dataset):
    """Examples of 30 s with stretches in which one person talks alone.

    Each is (waveform, voices, masks, speakers, told): (samples,) float32; (frames,) int, the same
    for one voice in one window; (`ITEMS`, frames) bool; (`ITEMS`,) int, -1 for none; whether its
    frames know voices. Recordings must be mono, at 16 kHz.
    """

    def __init__(self, files: list[dict], model: CAMPPlus, size: int, seed: int):
        self.turns = []
        names = sorted({name for file in files for name in file["annotation"].labels()})
        number = {name: i for i, name in enumerate(names)}
        for file in files:
            turns = [
                (turn.start, turn.end, number[name])
                for turn, _, name in file["annotation"].itertracks(yield_label=True)
            ]
            info = soundfile.info(str(file["audio"]))
            if (info.samplerate, info.channels) != (SAMPLE_RATE, 1):
                raise ValueError(
                    f"{file['audio']}: {info.samplerate} Hz, {info.channels} channels: convert it "
                    f"to {SAMPLE_RATE} Hz, mono"
                )
            turns = np.array(turns, dtype=float).reshape(-1, 3)
            self.turns.append((str(file["audio"]), info.frames, turns))
        self.num_speakers, self.size, self.seed = len(names), size, seed
        self.time = frame_times(model)

    @property
    def num_classes(self) -> int:
        """Number of speakers, at each speed."""
        return self.num_speakers * len(SPEEDS)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng([self.seed, index])
        path, length, turns = self.turns[rng.integers(len(self.turns))]
        speed = int(rng.choice(len(SPEEDS), p=(0.5, 0.25, 0.25)))
        fast, slow = SPEEDS[speed]
        needed = DURATION * SAMPLE_RATE * fast // slow
        start = int(rng.integers(max(1, length - needed)))
        samples, _ = soundfile.read(path, needed, start, dtype="float32", fill_value=0.0)
        if fast != slow:
            samples = resample_poly(samples, slow, fast).astype(np.float32)

        time = start / SAMPLE_RATE + self.time * fast / slow
        who = turns[:, 2].astype(int)
        present = np.unique(who[(turns[:, 1] > time[0]) & (turns[:, 0] < time[-1])])
        active = np.zeros((len(present), len(time)), bool)
        for row, speaker in enumerate(present):
            for first, last, _ in turns[who == speaker]:
                active[row] |= (time >= first) & (time < last)
        alone = active & (active.sum(axis=0) == 1)

        step = self.time[1] - self.time[0]
        found = []
        for row, speaker in enumerate(present):
            for number in range(DURATION // WINDOW):
                (here,) = np.nonzero(alone[row] & (self.time // WINDOW == number))
                if len(here) * step >= LEAST:
                    found.append((here, speaker + self.num_speakers * speed))
        masks, speakers = np.zeros((ITEMS, len(time)), bool), np.full(ITEMS, -1)
        for item, chosen in enumerate(rng.permutation(len(found))[:ITEMS]):
            here, speakers[item] = found[chosen]
            seconds = np.exp(rng.uniform(np.log(LEAST), np.log(len(here) * step)))
            kept = min(len(here), round(seconds / step))
            first = int(rng.integers(len(here) - kept + 1))
            masks[item, here[first : first + kept]] = True
        bits = (active * (1 << np.arange(len(present)))[:, None]).sum(axis=0)
        voices = (self.time // WINDOW).astype(np.int64) * (1 << len(present)) + bits
        told = rng.random() < TOLD
        return tuple(map(torch.as_tensor, (samples, voices, masks, speakers, told)))


def frame_times(model: CAMPPlus) -> np.ndarray:
    """Middle of each frame of an example, in seconds."""
    num_frames = model.num_frames(DURATION * SAMPLE_RATE)
    return np.array([model.receptive_field_center(i) for i in range(num_frames)]) / SAMPLE_RATE


class Segmentation(nn.Module):
    """Voices of frames, as the pipeline has them (`pyannote_weighter.likeness.local_voices`)."""

    def __init__(self, model: CAMPPlus):
        super().__init__()
        self.model = Model.from_pretrained(segmentation_path()).eval()
        field, specifications = self.model.receptive_field, self.model.specifications
        self.powerset = Powerset(len(specifications.classes), specifications.powerset_max_classes)
        time = frame_times(model)
        owner = (time // WINDOW).astype(np.int64)
        inside = time - WINDOW * owner - field.start - 0.5 * field.duration
        last = self.model.num_frames(WINDOW * SAMPLE_RATE) - 1
        index = np.rint(inside / field.step).astype(np.int64).clip(0, last)
        self.register_buffer("owner", torch.from_numpy(owner))
        self.register_buffer("index", torch.from_numpy(index))

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, frames) of int."""
        windows = waveforms.reshape(-1, 1, WINDOW * SAMPLE_RATE)
        active = self.powerset.to_multilabel(self.model(windows))
        bits = (active * 2.0 ** torch.arange(active.shape[-1], device=active.device)).sum(dim=-1)
        bits = bits.long().unflatten(0, (len(waveforms), -1))  # (batch, windows, frames of it)
        return 256 * self.owner + bits[:, self.owner, self.index]


def embed(model: CAMPPlus, waveforms, voices, masks) -> torch.Tensor:
    """(batch, items, 192), not normalised."""
    with torch.no_grad():
        fbank = model.fbank(waveforms)
        fbank = (fbank - fbank.mean(dim=1, keepdim=True)).transpose(1, 2)
    half = waveforms.device.type == "cuda"
    with torch.autocast(waveforms.device.type, torch.bfloat16, enabled=half):
        frames = model.xvector.frames(model.head(fbank), voices)
    return model.forward_embedding(frames.float(), masks.float())


def save(model: CAMPPlus, into: Path) -> None:
    """Write what `CAMPPlus.from_pretrained_weights` reads, in half precision."""
    state = model.state_dict()
    state = {n: (v.half() if v.is_floating_point() else v).cpu() for n, v in state.items()}
    with atomic(into) as unfinished:
        torch.save(state, unfinished)


def adapt(
    model: CAMPPlus,
    data: Stretches,
    into: Path,
    segmentation: Segmentation | None = None,
    *,
    steps: int,
    seconds: float = float("inf"),
    start: int = 100,
    rate: float = 1e-4,
    batch_size: int = 16,
    workers: int = 0,
) -> None:
    """Train until `steps` or `seconds` are over, and write the weights every 50 steps.

    Parameters
    ----------
    model : CAMPPlus
        In evaluation mode: statistics of its normalisations stay.
    data : Stretches
    into : Path
    segmentation : Segmentation, optional
        Tells voices; by default the references do.
    steps, seconds : number
        The rate falls to zero, as a cosine, over whichever ends first.
    start : int
        Batches whose embeddings, averaged, are where the classes of the classifier start.
    rate : float
        Of the model; classes learn ten times as fast.
    batch_size, workers : int
    """
    device = next(model.parameters()).device
    loader = DataLoader(data, batch_size, num_workers=workers)
    criterion = ArcFaceLoss(data.num_classes, model.dimension, margin=MARGIN, scale=SCALE)
    criterion.to(device)
    classes = torch.zeros_like(criterion.W.data)
    rates = {rate: list(model.parameters()), 10 * rate: list(criterion.parameters())}
    groups = [{"params": parameters, "lr": lr} for lr, parameters in rates.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    losses, right, begun = [], [], time.monotonic()
    for number, batch in enumerate(loader):
        waveforms, voices, masks, speakers, told = (some.to(device) for some in batch)
        if segmentation is not None:
            voices = segmentation(waveforms)
        voices = voices * told[:, None]  # frames of which nothing is told are of one voice
        known = speakers >= 0
        if number < start:
            with torch.no_grad():
                found = F.normalize(embed(model, waveforms, voices, masks)[known], dim=-1)
            classes.index_add_(1, speakers[known], found.T)
            continue
        if number == start:
            missing = (classes == 0).all(dim=0)
            print(f"{int(missing.sum())} of {data.num_classes} classes start at random")
            criterion.W.data = torch.where(missing, criterion.W.data, classes)
            criterion.W.data = F.normalize(criterion.W.data, dim=0)
            begun = time.monotonic()
        elapsed = time.monotonic() - begun
        done = max((number - start) / steps, elapsed / seconds)
        if done >= 1.0:
            break
        factor = min(1.0, done / 0.05) * 0.5 * (1.0 + np.cos(np.pi * done))
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * factor
        found = embed(model, waveforms, voices, masks)[known]
        loss = criterion(found, speakers[known])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            nearest = F.normalize(found, dim=-1) @ F.normalize(criterion.W, dim=0)
            right.append((nearest.argmax(dim=-1) == speakers[known]).float().mean())
            losses.append(loss.detach())
        if len(losses) % 50 == 0:
            mean, share = (torch.stack(some[-50:]).mean() for some in (losses, right))
            print(f"{len(losses)} steps, {elapsed:.0f} s: loss {mean:.3f}, right {share:.1%}")
            save(model, into)
    save(model, into)


def main() -> None:
    """Read the command line, train, and write what `CAMPPlus.from_pretrained_weights` reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("on", nargs="+", help="DATABASE.YML:PROTOCOL:SUBSET, with references")
    parser.add_argument("--into", type=Path, required=True, help="state dict to write")
    parser.add_argument("--weights", type=Path, help="to begin with (default: as published)")
    parser.add_argument("--voices", choices=("reference", "segmentation"), default="reference")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop there")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--start", type=int, default=100, help="batches that give the classes")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    check_folder(arguments.into.parent)
    torch.manual_seed(arguments.seed)
    files = []
    for name in arguments.on:
        if name.count(":") < 2:
            parser.error(f"{name}: expected DATABASE.YML:PROTOCOL:SUBSET")
        registry, protocol, subset = name.rsplit(":", 2)
        files += protocol_files(protocol, registry, subset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CAMPPlus.from_pretrained_weights(arguments.weights)
    size = (arguments.start + arguments.steps) * arguments.batch
    data = Stretches(files, model, size, arguments.seed)
    segmentation = None
    if arguments.voices == "segmentation":
        segmentation = Segmentation(model).to(device)
    adapt(
        model.to(device),
        data,
        arguments.into,
        segmentation,
        steps=arguments.steps,
        seconds=arguments.seconds,
        start=arguments.start,
        rate=arguments.rate,
        batch_size=arguments.batch,
        workers=arguments.workers,
    )


if __name__ == "__main__":
    main()
