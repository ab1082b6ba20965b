"""Train the Weighter from likes in many ways, each judged on the same unseen voices: tables."""

import argparse
import itertools
import json
import os
import zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import track
from tables import TABLES, Run
from vectors import pretrain

from pyannote_weighter.audio import in_memory
from pyannote_weighter.database import corrupt_likes, drop_likes, write_likes
from pyannote_weighter.impostors import USUAL
from pyannote_weighter.linking import PARAMETERS
from pyannote_weighter.models import Weighter
from pyannote_weighter.output import atomic
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.protocols import protocol_files, reference_digest
from pyannote_weighter.scoring import Score, bootstrap, pool, score
from pyannote_weighter.tasks.identity import audio_id
from pyannote_weighter.tasks.metrics import LikesMeanAveragePrecision
from pyannote_weighter.tasks.samples import discretize
from pyannote_weighter.training import train

PROTOCOL = "Study.SpeakerDiarization.Likes"
CONSOLE = Console(stderr=True)
LATER = {
    "subset": "train",
    "after": None,
    "vectors": None,
}  # options that runs of earlier versions did not have
REVISION = 1  # raise it where frames or counts change: features of others are not used


@dataclass
class Study:
    """Training files, files to judge by, and where results are kept."""

    protocol: str
    registry: Path
    frames: Path
    into: Path
    num_files: int
    num_steps: int
    batch_size: int
    first: int
    judged: int
    subset: str

    def __post_init__(self):
        self.digests: dict[str, int] = {}
        files = list(protocol_files(self.protocol, self.registry, self.subset))
        self.files = files[self.first : self.first + self.judged]
        self.into.mkdir(parents=True, exist_ok=True)

    def folder(self, run: Run, seed: int) -> Path:
        """Folder of a run: other options, other folder."""
        about = {k: v for k, v in asdict(run).items() if v != LATER.get(k, ...)}
        options = [about, self.num_files, self.num_steps, self.batch_size]
        options += [self.trained_on(run.subset)]
        if run.epochs == 0:
            options += [USUAL]  # all that there is to it
        elif run.task.get("voices", True):
            options += ["voices"]  # folders of earlier versions have other trainings
        digest = zlib.crc32(json.dumps(options, sort_keys=True).encode())
        return self.into / f"{run.name.replace(' ', '-')}-{digest:08x}-seed{seed}"

    def path(self, run: Run, seed: int) -> Path:
        """Where its errors are kept, on these files."""
        name = f"{self.subset}-{self.first}-{len(self.files)}-{self.judged_by:08x}.json"
        return self.folder(run, seed) / name

    def contents(self, files: list) -> int:
        """Digest of what files are called and sound like, of their likes and references."""
        of = [
            [
                file["uri"],
                file["likes"],
                reference_digest(file),
                audio_id(file, self.into / "audio"),
            ]
            for file in files
        ]
        return zlib.crc32(json.dumps(of).encode())

    @cached_property
    def judged_by(self) -> int:
        """Digest of the files to judge by."""
        return self.contents(self.files)

    def trained_on(self, subset: str) -> int:
        """Digest of all files of a subset, of which runs take the first."""
        if subset not in self.digests:
            files = protocol_files(self.protocol, self.registry, subset)
            self.digests[subset] = self.contents(list(files))
        return self.digests[subset]

    def result(self, run: Run, seed: int) -> dict:
        """Train and judge, or read what was found before."""
        folder, path = self.folder(run, seed), self.path(run, seed)
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        CONSOLE.print(f"{run.name}, seed {seed}")
        if not (folder / "seconds.json").exists():  # the last thing that is written
            self.train(run, seed, folder)
        result = self.judge(load_pipeline(folder / "pipeline", "cpu"))
        result |= {"run": asdict(run), "seed": seed}
        result["seconds"] = json.loads((folder / "seconds.json").read_text())
        with atomic(path) as unfinished:
            unfinished.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
        return result

    def train(self, run: Run, seed: int, folder: Path) -> None:
        """Train in the usual way, from likes that were thinned or made wrong."""
        began = time.process_time()
        folder.mkdir(parents=True, exist_ok=True)
        if run.epochs == 0:
            torch.manual_seed(seed)
            model = Weighter(**run.model)
            if run.vectors is not None:
                pretrain(model.encoder.refiner, run.vectors, seed)
            model.specifications = Weighter.default_specifications(model.hparams.duration)
            export_pipeline(
                model,
                folder / "pipeline",
                {"segmentation": {"min_duration_off": 0.0}, "weighter": dict(PARAMETERS)},
                cosine_offset=USUAL,  # nothing has moved people apart
            )
        else:
            files = list(protocol_files(self.protocol, self.registry, run.subset))
            files = files[: run.files or self.num_files]
            registry = self.write_protocol(run, seed, folder, files)
            steps = -(-len(files) // self.batch_size)
            config = {
                "protocol": PROTOCOL,
                "registry": registry.name,
                "frames": str(self.frames.resolve()),
                "seed": seed,
                "threads": 1,
                "export": "last",
                **self.beginning(run, seed),
                # runs wait only where they say so
                "task": {"batch_size": self.batch_size, "encoder_start": 0.0, **run.task},
                "trainer": {
                    "max_epochs": run.epochs or max(1, round(self.num_steps / steps)),
                    "accelerator": "cpu",
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                },
            }
            path = folder / "train.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            for old in (folder / "checkpoints").glob("*.ckpt"):  # of a run that was stopped
                old.unlink()
            train(path, folder)
        (folder / "seconds.json").write_text(json.dumps(time.process_time() - began))

    def beginning(self, run: Run, seed: int) -> dict:
        """Where the weights come from: options of the training."""
        if run.after is None:
            return {"model": run.model}
        folder = self.folder(run.after, seed)
        if not (folder / "seconds.json").exists():
            CONSOLE.print(f"{run.after.name}, seed {seed}")
            self.train(run.after, seed, folder)
        return {"init": str((folder / "pipeline").resolve())}

    def write_protocol(self, run: Run, seed: int, folder: Path, files: list) -> Path:
        """Write a registry of training files with the likes of a run."""
        present = {file["uri"]: file["likes"] for file in files}
        likes = corrupt_likes(drop_likes(present, run.kept, seed), run.wrong, seed, present)
        (folder / "train.lst").write_text("".join(f"{uri}\n" for uri in likes))
        write_likes(folder / "train.likes", likes)
        with (folder / "train.rttm").open("w") as rttm, (folder / "train.uem").open("w") as uem:
            for file in files:
                file["annotation"].write_rttm(rttm)
                file["annotated"].write_uem(uem)
        audio = self.folder_of_audio(files)
        entries = {"uri": "train.lst", "likes": "train.likes", "annotation": "train.rttm"}
        definition = {
            "Databases": {PROTOCOL.partition(".")[0]: audio},
            "Protocols": {
                "Study": {
                    "SpeakerDiarization": {
                        "Likes": {
                            "scope": "global",
                            "train": entries | {"annotated": "train.uem"},
                        }
                    }
                }
            },
        }
        path = folder / "database.yml"
        path.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
        return path

    @staticmethod
    def folder_of_audio(files: list) -> list[str]:
        """Templates of the paths of files."""
        paths = [Path(file["audio"]).resolve() for file in files]
        return sorted({str(path.parent / ("{uri}" + path.suffix)) for path in paths})

    def judge(self, pipeline: WeighterDiarization) -> dict:
        """Diarize the files and compare with their references."""
        pipeline.instantiate(pipeline.default_parameters())
        precision = LikesMeanAveragePrecision()
        scores, calibration = [], []
        for file, (count, frames, local) in self.features(pipeline):
            output = pipeline.assign(frames, count, local, uri=file["uri"])
            annotated = file.get("annotated")
            scores.append(score(file["annotation"], output.speaker_diarization, annotated))
            calibration += held(output, file["annotation"])
            slots = torch.zeros(1, 32, pipeline._weighter.hparams.dimension)
            confidence = torch.zeros(1, 32)
            found = min(32, len(output.confidence))
            slots[0, :found] = torch.from_numpy(output.speaker_embeddings[:found])
            confidence[0, :found] = torch.tensor(list(output.confidence.values())[:found])
            precision.update(slots, confidence, [file["likes"]])
        return {
            "uris": [file["uri"] for file in self.files],
            "scores": [s.to_dict() for s in scores],
            "calibration": calibration,
            "precision": float(precision.compute()),
        }

    def features(self, pipeline: WeighterDiarization) -> Iterator[tuple]:
        """Files with what does not depend on the Weighter, which is computed once and kept."""
        kept = self.into / "features"
        kept.mkdir(exist_ok=True)
        for file in track(self.files, "slots", console=CONSOLE, transient=True):
            step = pipeline._segmentation.step
            about = [audio_id(file, self.into / "audio"), step, REVISION]
            path = kept / f"{file['uri']}-{zlib.crc32(json.dumps(about).encode()):08x}.pt"
            if not path.exists():
                audio = {k: v for k, v in in_memory(file).items() if k != "annotation"}
                count, frames, local = pipeline.compute(audio, lambda *args, **options: None)
                with atomic(path) as unfinished:
                    torch.save(
                        {"count": count, "frames": frames[:].half(), "local": local}, unfinished
                    )
            known = torch.load(path, weights_only=False)
            yield file, (known["count"], known["frames"].float(), known["local"])


def held(output: WeighterOutput, reference) -> list[tuple[float, float, float]]:
    """Confidence of each speaker, share of the weighting that one person has, seconds.

    C = sum X^2 / sum X is the share that is to be expected if X are probabilities.
    """
    if output.weightings is None or not len(output.confidence):
        return []
    x, frames = output.weightings.data, output.weightings.sliding_window  # (S, K)
    turns = [(s.start, s.end, label) for s, _, label in reference.itertracks(yield_label=True)]
    active = discretize(turns, frames, len(x)).numpy().astype(float)  # (S, R)
    total = x.sum(axis=0)  # (K,)
    shares = (x.T @ active).max(axis=1) / np.maximum(total, 1e-9)
    confidences = output.confidence.values()
    return [
        (round(float(c), 5), round(float(p), 5), round(float(t) * frames.step, 3))
        for c, p, t in zip(confidences, shares, total, strict=True)
    ]


def average(results: list[dict]) -> list[Score]:
    """Mean errors of each file over seeds, so that intervals are over files."""
    columns = zip(*([Score(**s) for s in r["scores"]] for r in results), strict=True)
    fields = ("missed", "false_alarm", "confusion")
    return [
        Score(
            total=scores[0].total,
            reference_speakers=scores[0].reference_speakers,
            speakers=0,
            **{name: float(np.mean([getattr(s, name) for s in scores])) for name in fields},
        )
        for scores in columns
    ]


def row(name: str, results: list[dict], against: list[dict] | None) -> str:
    """Line of the table."""
    every = [pool([Score(**s) for s in result["scores"]]) for result in results]
    mean = {part: 100 * np.mean([pooled[part] for pooled in every]) for part in every[0]}
    seeds = average(results)
    low, high = (100 * v for v in bootstrap(seeds, "confusion"))
    difference = ""
    if against is not None:
        rest = average(against)
        less, more = (100 * v for v in bootstrap(seeds, "confusion", rest))
        total = sum(s.total for s in seeds)
        gap = 100 * (sum(s.confusion for s in seeds) - sum(s.confusion for s in rest)) / total
        difference = f"{gap:+.1f} [{less:+.1f}, {more:+.1f}]"
    off = np.mean([s["speakers"] - s["reference_speakers"] for r in results for s in r["scores"]])
    c, p, t = np.array([v for r in results for v in r["calibration"]]).reshape(-1, 3).T
    if t.sum():
        errors = np.average(abs(c - p), weights=t), np.average(c - p, weights=t)
    else:
        errors = np.nan, np.nan  # nobody was found anywhere
    spread = f"{100 * min(e['confusion'] for e in every):.1f} to "
    spread += f"{100 * max(e['confusion'] for e in every):.1f}"
    cells = [
        name, str(len(results)), f"{mean['error']:.1f}", f"{mean['confusion']:.1f}",
        f"[{low:.1f}, {high:.1f}]", spread, difference, f"{mean['right_count']:.0f}",
        f"{off:+.1f}", f"{100 * np.mean([r['precision'] for r in results]):.0f}",
        f"{100 * errors[0]:.1f}",
        f"{100 * errors[1]:+.1f}",
        f"{np.mean([r['seconds'] for r in results]):.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| | seeds | DER | confusion | interval | of seeds | less the first row's | right count "
    "| speakers too many | mAP of likes | calibration error | confidence too high by | CPU s |"
)


def seen_by(run: Run) -> set[str]:
    """Subsets whose files a run has seen, itself or in the trainings before it."""
    seen = set() if run.epochs == 0 else {run.subset}
    return seen if run.after is None else seen | seen_by(run.after)


def main() -> None:
    """Read the command line, do what is missing of a table, print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES, nargs="+")
    parser.add_argument("--protocol", default="Simulated.SpeakerDiarization.Conversations")
    parser.add_argument("--registry", type=Path, required=True, help="its database.yml")
    parser.add_argument("--frames", type=Path, required=True, help="folder of cached frames")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="rows of the table, by name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--files", type=int, default=200, help="to train on")
    parser.add_argument("--steps", type=int, default=150, help="of training, about")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--subset", default="test", help="to judge by")
    parser.add_argument("--first", type=int, default=0, help="file of it")
    parser.add_argument("--judged", type=int, default=100, help="number of files")
    parser.add_argument("--report", action="store_true", help="print what there is, train nothing")
    arguments = parser.parse_args()
    runs = {
        table: [r for r in TABLES[table] if not arguments.only or r.name in arguments.only]
        for table in arguments.table
    }
    if not any(runs.values()):
        rows = ", ".join(repr(r.name) for table in arguments.table for r in TABLES[table])
        parser.error(f"--only names no row; there are {rows}")
    seen = [r.name for some in runs.values() for r in some if arguments.subset in seen_by(r)]
    if seen:
        parser.error(
            f"training uses {arguments.subset} in {', '.join(map(repr, dict.fromkeys(seen)))}: "
            "judge by another --subset, or choose others with --only"
        )
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    study = Study(
        arguments.protocol,
        arguments.registry,
        arguments.frames,
        arguments.into,
        arguments.files,
        arguments.steps,
        arguments.batch_size,
        arguments.first,
        arguments.judged,
        arguments.subset,
    )
    for table, some in runs.items():
        results: dict[str, list[dict]] = {run.name: [] for run in some}
        for seed, run in itertools.product(arguments.seeds, some):
            if arguments.report and not study.path(run, seed).exists():
                continue
            results[run.name].append(study.result(run, seed))
        print(f"{table}\n\n{HEAD}\n" + "|---" * (HEAD.count("|") - 1) + "|")
        first = next((found for found in results.values() if found), None)
        for name, found in results.items():
            if found:
                same = found is first or len(found) != len(first)
                print(row(name, found, None if same else first))


if __name__ == "__main__":
    main()
