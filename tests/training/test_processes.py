"""Training in two processes: the same as in one, each doing its share."""

import csv
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from pyannote.audio import Pipeline

from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.training import train
from tests.models.test_weighter import BACKBONE, ENCODERS
from tests.tasks.conftest import conversation, liked, reference
from tests.training.conftest import checkpoint, needs_segmentation

pytestmark = needs_segmentation
METRICS = "DiarizationErrorRate", "LikesMeanAveragePrecision"


def write_corpus(folder: Path) -> Path:
    """Four files to train on and, for two processes, an odd number to validate on."""
    folder.mkdir(parents=True)
    pairs = ("ann bob", "ann cy", "bob cy", "ann bob")
    files = [liked(f"t{i}", pair, seconds=1 + 0.1 * i) for i, pair in enumerate(pairs)]
    pairs = ("ann bob", "cy dee", "bob cy", "dee ann", "bob dee")
    held_out = [conversation(f"d{i}", pair, seconds=1.5) for i, pair in enumerate(pairs)]
    for file in (*files, *held_out):
        soundfile.write(folder / f"{file['uri']}.wav", file["waveform"][0].numpy(), 16000)
    for name, subset in (("train", files), ("dev", held_out)):
        (folder / f"{name}.lst").write_text("".join(f"{file['uri']}\n" for file in subset))
    (folder / "train.likes").write_text(
        "".join(f"{file['uri']} {' '.join(file['likes'])}\n" for file in files)
    )
    (folder / "dev.likes").write_text(
        "".join(f"{f['uri']} {pair}\n" for f, pair in zip(held_out, pairs, strict=True))
    )
    (folder / "lonely.likes").write_text("t0 ann\nt1 bob\n")
    with open(folder / "dev.rttm", "w") as stream:
        for file, pair in zip(held_out, pairs, strict=True):
            reference(file, pair).write_rttm(stream)
    part = "development: {uri: dev.lst, annotation: dev.rttm, likes: dev.likes}"
    (folder / "database.yml").write_text(
        "Databases: {SharedTones: '{uri}.wav'}\n"
        "Protocols:\n  SharedTones:\n    SpeakerDiarization:\n"
        "      Both:\n        scope: global\n"
        f"        train: {{uri: train.lst, likes: train.likes}}\n        {part}\n"
        "      Lonely:\n        scope: global\n"
        f"        train: {{uri: train.lst, likes: lonely.likes}}\n        {part}\n"
    )
    return folder


def write_config(folder: Path, name: str, batch_size: int, trainer: dict, **changes) -> Path:
    config = {
        "protocol": "SharedTones.SpeakerDiarization.Both",
        "registry": "corpus/database.yml",
        "frames": f"frames-{name}",
        "threads": 1,
        "model": {
            "backbone": BACKBONE,
            "encoder": ENCODERS["refine"],
            "num_slots": 3,
            "dimension": 32,
        },
        # without counts, the head that estimates them has no gradient
        "task": {"segmentation": None, "batch_size": batch_size, "splice": 0.3},
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
        }
        | trainer,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def run(config: Path, into: Path) -> subprocess.CompletedProcess:
    """As a user does, from the command line."""
    environment = os.environ | {"RECORD": str(config.parent), "OMP_NUM_THREADS": "1"}
    for name in ("PL_GLOBAL_SEED", "LOCAL_RANK"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "tests.recorded_cli", "train", config, "--into", into],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )


TWO = {"devices": 2, "strategy": "ddp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def one(folder) -> Path:
    """A run in this process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(), warnings.catch_warnings():
        patch.setattr("pyannote_weighter.training.tune", lambda *arguments, **options: {})
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        train(write_config(folder, "one", 2, {}), folder / "one")
    torch.set_num_threads(threads)
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder) -> tuple[Path, str]:
    """A run in two processes, each with half of the batch, and what it printed."""
    done = run(write_config(folder, "two", 1, TWO), folder / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "two", done.stdout


def logged(into: Path, name: str) -> list[float]:
    """Values of a metric, epoch by epoch."""
    (path,) = (into / "metrics").glob("**/metrics.csv")
    with path.open() as stream:
        return [float(row[name]) for row in csv.DictReader(stream) if row.get(name)]


def test_two_processes_learn_what_one_learns(one, two):
    alone, shared = checkpoint(one), checkpoint(two[0])
    assert alone["global_step"] == shared["global_step"] == 3 * 2
    # a softmax over slots does not see this one: its gradient is rounding, which Adam scales up
    idle = "encoder.refiner.smoother.outlet.bias"
    for name, value in alone["state_dict"].items():
        if name != idle:
            ours = shared["state_dict"][name]
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4, msg=name)
    assert logged(two[0], "loss/train") == pytest.approx(logged(one, "loss/train"), rel=1e-3)


def test_metrics_are_of_all_files(one, two):
    for name in METRICS:
        values = logged(one, name)
        assert len(values) == 3 and 0 < values[-1] < 1
        assert logged(two[0], name) == pytest.approx(values, abs=2e-3)
    summaries = [
        yaml.safe_load((into / "pipeline" / "training.yaml").read_text()) for into in (one, two[0])
    ]
    assert summaries[0]["epoch"] == summaries[1]["epoch"]
    assert summaries[0]["why"].startswith("lowest DiarizationErrorRate")


def test_each_process_does_its_share(folder, two):
    extracted = [
        (folder / f"extracted-{rank}.txt").read_text().split()
        for rank in (0, 1)
        if (folder / f"extracted-{rank}.txt").is_file()
    ]
    times = Counter(uri for uris in extracted for uri in uris)
    assert len(times) == 4 + 5 and set(times.values()) == {1}

    seen = [(folder / f"trained-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    for epoch in range(3):
        files = [{line for line in lines if line.startswith(f"{epoch} ")} for lines in seen]
        assert all(files) and len(files[0] | files[1]) == 4


def test_one_process_writes_and_tells(two):
    into, printed = two
    assert printed.count("exported: best epoch") == printed.count("pipeline: ") == 1
    assert isinstance(Pipeline.from_pretrained(into / "pipeline"), WeighterDiarization)
    assert not list(into.rglob("*.unfinished")) and not list(into.parent.rglob("*.lock"))


def test_with_all_options_of_training(folder):
    """Half precision, accumulated gradients, early stopping and workers."""
    trainer = TWO | {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "max_epochs": 9}
    config = write_config(
        folder,
        "all",
        1,
        trainer,
        frames="frames-two",
        task={"segmentation": None, "batch_size": 1, "num_workers": 1},
        early_stopping={"patience": 1, "min_delta": 10.0},
    )
    done = run(config, folder / "all")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = checkpoint(folder / "all")
    assert stored["epoch"] == 1 and stored["global_step"] == 2  # two batches a step
    assert all(torch.isfinite(value).all() for value in stored["state_dict"].values())


def test_what_is_wrong_is_told_once(folder):
    config = write_config(
        folder, "lonely", 1, TWO, protocol="SharedTones.SpeakerDiarization.Lonely"
    )
    done = run(config, folder / "lonely")
    assert done.returncode != 0
    assert done.stderr.count("no speaker of SharedTones") == 1, done.stderr
    assert "tag the same speakers in more files" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
