"""The Weighter against what there is to beat, on one protocol, segmentation and backbone.

Results of every file are kept in `benchmark.json`, which is written after every file: a run that
was stopped goes on where it was, and tables can be made again without computing anything.
"""

import hashlib
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pyannote_weighter import __version__
from pyannote_weighter.audio import in_memory
from pyannote_weighter.benchmark_report import SHARED, markdown, silent, summarize
from pyannote_weighter.output import annotation_of, atomic, write_json
from pyannote_weighter.pipelines.baselines import (
    MIN_CLUSTER_SIZE,
    REVISION,
    THRESHOLD,
    VBX_PARAMETERS,
    ClusteredDiarization,
    load_baselines,
)
from pyannote_weighter.pipelines.folders import fingerprint, load_pipeline, name_pipelines
from pyannote_weighter.pretrained import DEFAULT_PIPELINE, PLDA_FOLDER
from pyannote_weighter.protocols import protocol_files, reference_digest
from pyannote_weighter.scoring import Score, pool, score
from pyannote_weighter.tasks.identity import audio_id
from pyannote_weighter.timing import StepTimer

# parameters of clusterings to choose from
GRIDS = {
    "stock": {
        "threshold": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
        "min_cluster_size": (1, 3, 6),
    },
    "VBx": {
        "threshold": (0.6, 0.65, 0.7, 0.75),
        "Fa": (0.03, 0.07, 0.15, 0.4),
        "Fb": (0.1, 0.25, 0.8, 2.0, 4.0),
    },
}

# steps whose result a baseline finds in the file when another one has run before it
CACHED = {
    "stock": ("segmentation", "embeddings"),
    "VBx": ("segmentation", "embeddings"),
    "oracle": ("segmentation",),
    "frame by frame": ("segmentation", "embeddings", "frames"),
    "frame by frame, over-split": ("segmentation", "embeddings", "frames"),
}

UNLISTED = (
    "empty reference: list it in the RTTM or, where nobody speaks in it, list what is to be "
    "scored in a UEM (`annotated` in database.yml)"
)


def benchmark(
    protocol: str,
    registry: str | Path,
    into: str | Path,
    subset: str = "test",
    pipelines: Sequence[str | Path] = (DEFAULT_PIPELINE,),
    development: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    share_frames: bool = False,
    rivals: bool = True,
    console: Console | None = None,
) -> dict:
    """Run pipelines and baselines on a subset of a protocol; write JSON and Markdown.

    Parameters
    ----------
    protocol : str
        For instance "Simulated.SpeakerDiarization.Conversations". Files need a reference, and a
        uri of their own.
    registry : path
        The `database.yml` that defines the protocol.
    into : path
        Folder of `benchmark.json` and `benchmark.md`. What a `benchmark.json` there holds already
        is not computed again, unless audio, reference, pipeline, version of this package or, of
        baselines, parameters or `REVISION` have changed.
    subset : {"train", "development", "test"}
    pipelines : sequence of path
        Folders for pyannote's `Pipeline.from_pretrained`; each becomes a row.
    development : {"train", "development", "test"}, optional
        Subset on which to choose the parameters of the clusterings (`GRIDS`). Defaults to the
        values that were best on other voices.
    device : str
    threads : int
        CPU threads of torch.
    share_frames : bool
        Let the baselines compute the frames of a window once for all its speakers. The errors
        are the same in two fifths of the time; there is then no table of costs.
    rivals : bool
        Run the baselines too (default). They take most of the time.
    console : Console, optional
        Where progress and failures are shown.

    Returns
    -------
    results : dict
        What is in `benchmark.json`; `results["failures"]` is empty when all went well.
    """
    into, console = Path(into), console or Console(stderr=True)
    if development is not None and not rivals:
        raise ValueError(
            "development chooses parameters of rivals, and none are run: leave it out"
        )
    if development == subset:
        raise ValueError(
            f"development is {subset}, as is subset: rivals would be tuned on what they are "
            "judged by; choose another one"
        )
    torch.set_num_threads(threads)
    files = _files(protocol, registry, subset)
    results = _open(into / "benchmark.json", protocol, subset)
    results["environment"] = {
        "pyannote-weighter": __version__,
        "pyannote.audio": version("pyannote.audio"),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": device,
        "threads": threads,
    }
    if share_frames and rivals:
        results["environment"]["baselines"] = SHARED

    def save():
        write_json(results, into / "benchmark.json")

    named = name_pipelines(pipelines)
    parameters = {
        "stock": {"threshold": THRESHOLD, "min_cluster_size": MIN_CLUSTER_SIZE},
        "VBx": VBX_PARAMETERS,
    }
    baselines = load_baselines(device=device, share_frames=share_frames) if rivals else {}
    if development is not None:
        tuning_files = _files(protocol, registry, development)
        parameters = tune(baselines, tuning_files, results, development, save, console)
        for name in baselines:
            if chosen := baseline_parameters(name, parameters):
                baselines[name].set_clustering(**chosen)
    else:
        results["tuning"] = None

    results["systems"] = {
        **{
            name: {"parameters": baseline_parameters(name, parameters), "revision": REVISION}
            | ({"plda": plda_digest()} if name == "VBx" else {})
            | ({"frames": SHARED} if share_frames else {})
            for name in baselines
        },
        **{
            name: {"sha256": fingerprint(path), "version": __version__}
            for name, path in named.items()
        },
    }
    loaded = {name: load_pipeline(path, device) for name, path in named.items()}
    results["failures"] = {}
    with _progress(console) as progress:
        task = progress.add_task(f"{protocol} {subset}", total=len(files))
        for file in files:
            _run_file(file, baselines, loaded, results, console)
            save()
            progress.advance(task)

    done, order = results["files"], [f["uri"] for f in files]
    results["order"] = order
    if uris := silent(results):
        reason = "empty reference, scored as silence; is it in the RTTM?"
        console.print(Text.assemble(("warning", "yellow"), f" {', '.join(uris)}: {reason}"))
    if any(set(results["systems"]) <= set(done.get(uri, {}).get("results", {})) for uri in order):
        results["summary"] = summarize(results)
        with atomic(into / "benchmark.md") as unfinished:
            unfinished.write_text(markdown(results), encoding="utf-8")
    else:  # those of an earlier run would be taken for its results
        results.pop("summary", None)
        (into / "benchmark.md").unlink(missing_ok=True)
    save()
    return results


def _files(protocol: str, registry: str | Path, subset: str) -> list:
    """Files of a subset; ValueError where none has a reference, or two of them have one uri."""
    files = list(protocol_files(protocol, registry, subset))
    if not any(map(_has_reference, files)):
        raise ValueError(
            f"{registry}: {protocol} {subset} has no references: name an RTTM (`annotation`), or "
            "choose another subset"
        )
    twice = [uri for uri, times in Counter(f["uri"] for f in files).items() if times > 1]
    if twice:
        raise ValueError(
            f"{registry}: {protocol} {subset} lists {', '.join(map(repr, twice))} more than once, "
            "and results are kept by uri: give each file its own, or run the protocols of a "
            "meta-protocol one by one"
        )
    return files


def _has_reference(file) -> bool:
    """Whether a file has a reference, be it one that cannot be read."""
    try:
        return file.get("annotation") is not None
    except ValueError:
        return True


def tune(
    baselines: dict[str, ClusteredDiarization],
    files: Sequence,
    results: dict,
    subset: str,
    save: Callable[[], None],
    console: Console,
) -> dict[str, dict[str, float]]:
    """Choose the parameters of the clusterings by DER on a subset; keep scores in `results`.

    Parameters
    ----------
    baselines : dict
        Pipelines of the clusterings that are in `GRIDS`, by name.
    files : sequence of ProtocolFile
        Files of the subset, with references.
    results : dict
        Content of `benchmark.json`; what is there for a file and a PLDA is not computed again.
    subset : str
        Its name.
    save : callable
        Called after every file.
    console : Console

    Returns
    -------
    parameters : dict
        The best point of the grid, for each of `GRIDS`.

    Raises
    ------
    ValueError
        If nothing tells whether a file without reference speech is silent.
    """
    if unlisted := [file["uri"] for file in files if _is_unlisted(file)]:
        raise ValueError(f"{subset}, {', '.join(unlisted)}: {UNLISTED}")
    tuning = results.get("tuning") or {}
    plda = plda_digest()
    about = {"subset": subset, "plda": plda, "revision": REVISION}
    if any(tuning.get(key) != value for key, value in about.items()):
        tuning = about | {"files": {}}
    results["tuning"] = tuning

    grids = {
        name: [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        for name, grid in GRIDS.items()
    }
    wanted = {_key(name, point) for name, grid in grids.items() for point in grid}
    with _progress(console) as progress:
        task = progress.add_task(f"tuning on {subset}", total=len(files))
        for file in files:
            digests = _digests(file)
            entry = tuning["files"].get(file["uri"], {})
            if not (digests.items() <= entry.items() and wanted <= set(entry.get("scores", ()))):
                audio = _unlabelled(in_memory(file))
                scores = {}
                for name, grid in grids.items():
                    for point in grid:
                        baselines[name].set_clustering(**point)
                        hypothesis = annotation_of(baselines[name](audio))
                        scores[_key(name, point)] = score(
                            file["annotation"], hypothesis, file.get("annotated")
                        ).to_dict()
                tuning["files"][file["uri"]] = digests | {"scores": scores}
                save()
            progress.advance(task)

    done = [tuning["files"][file["uri"]]["scores"] for file in files]
    der = {key: pool([Score(**scores[key]) for scores in done])["error"] for key in sorted(wanted)}
    chosen = {
        name: min(grid, key=lambda point, name=name: der[_key(name, point)])
        for name, grid in grids.items()
    }
    tuning.update(der=der, chosen=chosen)
    save()
    return chosen


def _key(name: str, parameters: dict) -> str:
    return " / ".join([name, *(f"{value:g}" for value in parameters.values())])


def _digests(file) -> dict[str, str]:
    """Digests of the reference and the audio, if that is there: results of others are stale."""
    digests = {"reference": reference_digest(file)}
    with tempfile.TemporaryDirectory() as notes, suppress(OSError):
        digests["audio"] = audio_id(file, Path(notes))
    return digests


def _is_unlisted(file) -> bool:
    """Whether a reference is empty and no scored region tells that the file is silent.

    To pyannote.database, a file that an RTTM does not list is one in which nobody speaks.
    """
    reference = file.get("annotation")
    return reference is not None and not reference and not file.get("annotated")


def _run_file(file, baselines: dict, pipelines: dict, results: dict, console: Console) -> None:
    """Run what is missing for one file; failures are recorded and shown, not raised."""
    uri = file["uri"]
    try:
        digests = _digests(file)
        if _is_unlisted(file):
            results["files"].pop(uri, None)  # earlier versions scored it
            raise ValueError(UNLISTED)
        entry = results["files"].setdefault(uri, {})
        if not digests.items() <= entry.items():
            entry.clear()
            entry.update(digests, results={})
        fresh = {
            name: record
            for name, record in entry["results"].items()
            if record["system"] == results["systems"].get(name, record["system"])
        }
        entry["results"] = fresh
        missing = [name for name in results["systems"] if name not in fresh]
        if not missing:
            return
        audio = in_memory(file)
        entry["duration"] = audio["waveform"].shape[1] / audio["sample_rate"]
    except Exception as error:  # whatever is wrong with this file, the others are still run
        _failed(results, uri, "reading", error, console)
        return

    shared, cached_seconds = _unlabelled(audio), {}
    for name in missing:
        try:
            timer = StepTimer()
            if name in baselines:
                if name == "oracle":
                    labelled = {**shared, "annotation": file["annotation"]}
                    output = baselines[name](labelled, hook=timer)
                    shared.update(_caches(labelled))
                else:
                    output = baselines[name](shared, hook=timer)
                timer.finish("annotation")
                for step in CACHED[name]:
                    # what it would have taken, had it not been there already
                    cached_seconds.setdefault(step, timer.seconds.get(step, 0.0))
                    timer.seconds[step] = cached_seconds[step]
            else:
                output = pipelines[name](_unlabelled(audio), hook=timer)
                timer.finish("annotation")
            parts = score(file["annotation"], annotation_of(output), file.get("annotated"))
        except Exception as error:
            _failed(results, uri, name, error, console)
            continue
        fresh[name] = {
            "system": results["systems"][name],
            "score": parts.to_dict(),
            "device": results["environment"]["device"],
            "threads": results["environment"]["threads"],
            "seconds": {step: round(value, 4) for step, value in timer.seconds.items()},
        }


def _failed(results: dict, uri: str, where: str, error: Exception, console: Console) -> None:
    reason = f"{type(error).__name__}: {error}"
    results["failures"].setdefault(uri, {})[where] = reason
    console.print(Text.assemble(("failed", "red"), f" {uri} ({where}): {reason}"))


def _unlabelled(audio: dict) -> dict:
    """What a pipeline may see: no reference, so nothing of it can leak into the output."""
    return {key: audio[key] for key in ("uri", "waveform", "sample_rate")}


def _caches(file: dict) -> dict:
    return {key: value for key, value in file.items() if key.startswith("training_cache/")}


def baseline_parameters(name: str, parameters: dict[str, dict]) -> dict:
    """Parameters that a baseline runs with, as far as they can differ between runs."""
    return dict(parameters.get("stock" if name == "frame by frame" else name, {}))


def plda_digest() -> str:
    """Sha256 of the PLDA of VBx."""
    digest = hashlib.sha256()
    for path in sorted(PLDA_FOLDER.glob("*.npz")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _open(path: Path, protocol: str, subset: str) -> dict:
    """Results so far, or none."""
    if not path.is_file():
        return {"protocol": protocol, "subset": subset, "files": {}}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = results["protocol"], results["subset"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a benchmark ({error}); delete it or choose another folder (--into)"
        ) from error
    if found != (protocol, subset):
        raise ValueError(
            f"{path} holds {found[0]} {found[1]}, not {protocol} {subset}: choose another "
            "folder (--into)"
        )
    return results


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
