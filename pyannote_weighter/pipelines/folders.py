"""Pipelines in folders: loading them, naming them, telling whether one has changed."""

import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from pyannote.audio import Pipeline
from pyannote.audio.utils.dependencies import MissingDependency, WrongDependencyVersion

from pyannote_weighter import __version__
from pyannote_weighter.pretrained import DEFAULT_PIPELINE


def load_pipeline(pipeline: str | Path, device: str) -> Pipeline:
    """Load a pipeline with pyannote, onto a device.

    Parameters
    ----------
    pipeline : str or Path
        Folder with a `config.yaml`, the file itself, or a name on the Hub ("owner/name").
    device : str

    Raises
    ------
    FileNotFoundError
        If there is no such folder, and it cannot be a name on the Hub.
    OSError, ValueError, ImportError
        If it cannot be loaded: what is damaged or foreign may raise anything upstream.
    """
    path = Path(pipeline)
    is_hub_name = isinstance(pipeline, str) and pipeline.count("/") == 1 and not path.exists()
    if not is_hub_name and not (path.is_file() or (path / "config.yaml").is_file()):
        raise FileNotFoundError(f"{path}: no pipeline there: give a folder with a config.yaml")
    try:
        loaded = Pipeline.from_pretrained(pipeline)
    except OSError as error:
        if not is_hub_name:
            raise
        raise FileNotFoundError(
            f"{pipeline}: no such folder here, and not to be had from the Hub: {error}"
        ) from error
    except ImportError:
        raise
    except Exception as error:
        told = isinstance(error, ValueError | MissingDependency | WrongDependencyVersion)
        clear = told and not isinstance(error, UnicodeError)
        reason = str(error) if clear else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{pipeline}: cannot be loaded: {textwrap.shorten(reason, 400)}"
        ) from error
    if loaded is None:
        raise FileNotFoundError(f"{pipeline}: no such folder, and the Hub does not give it out")
    return loaded.to(torch.device(device))


def name_pipelines(pipelines: Sequence[str | Path]) -> dict[str, str | Path]:
    """Name each pipeline after its folder; a name that two would share gets the parent's too."""
    named: dict[str, str | Path] = {}
    for pipeline in pipelines:
        path = Path(pipeline).resolve()
        folder = path if path.suffix not in (".yml", ".yaml") else path.parent
        is_default = folder == DEFAULT_PIPELINE.resolve()
        # training writes RUN/pipeline: the run is what tells one from another
        own = folder.parent.name if folder.name == "pipeline" else folder.name
        name = "Weighter (default)" if is_default else f"Weighter ({own})"
        if name in named:
            name = f"Weighter ({folder.parent.name}/{folder.name})"
        if name in named:
            raise ValueError(f"two pipelines have the same name: {name}; rename a folder")
        named[name] = pipeline
    return named


def fingerprint(path: str | Path) -> str:
    """Digest of all files of a pipeline's folder: another one means results are stale.

    Files whose names begin with a dot, as those of systems and version control do, are left out.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such pipeline (a folder with a config.yaml)")
    digest = hashlib.sha256(__version__.encode())
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.parts):  # the same on every system
        if not any(part == "__pycache__" or part.startswith(".") for part in file.parts):
            digest.update(file.as_posix().encode())
            digest.update((folder / file).read_bytes())
    return digest.hexdigest()
