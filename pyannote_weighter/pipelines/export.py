"""A trained Weighter as a folder that pyannote's `Pipeline.from_pretrained` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from pyannote.audio import __version__ as pyannote_audio_version

from pyannote_weighter import __version__
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.output import atomic
from pyannote_weighter.pipelines.hyperparameters import BOUNDS, USUAL, check_parameters
from pyannote_weighter.segmentation import PRETRAINED


def export_pipeline(
    model: Weighter,
    folder: str | Path,
    parameters: dict,
    segmentation: str | Path = PRETRAINED,
    **options,
) -> Path:
    """Write `config.yaml` and `weighter/pytorch_model.bin`.

    Parameters
    ----------
    model : Weighter
    folder : path
        Created if need be; what it holds is replaced file by file.
    parameters : dict
        Hyper-parameters of `WeighterDiarization`; the usual ones are written with them.
    segmentation : str or Path, optional
        Segmentation that the pipeline loads; a Path is written absolute.
    **options
        Further options of `WeighterDiarization`, such as `cosine_offset`.

    Returns
    -------
    folder : Path

    Raises
    ------
    ValueError
        If hyper-parameters cannot be: nothing is written.
    yaml.YAMLError
        If an option is something that a file cannot hold, such as a model: nothing is written.
    """
    folder = Path(folder)
    check_parameters(parameters, USUAL if segmentation == PRETRAINED else BOUNDS)
    complete = {part: usual | parameters.get(part, {}) for part, usual in USUAL.items()}
    config = {
        "dependencies": {
            "pyannote.audio": pyannote_audio_version,
            "pyannote-weighter": __version__,
        },
        "pipeline": {
            "name": "pyannote_weighter.pipelines.WeighterDiarization",
            "params": {"segmentation": segmentation, "weighter": "$model/weighter", **options},
        },
        "params": complete,
    }
    text = yaml.safe_dump(_plain(config), sort_keys=False)
    weights, described = folder / "weighter" / "pytorch_model.bin", folder / "config.yaml"
    with atomic(described) as config_path, atomic(weights) as weights_path:
        config_path.write_text(text, encoding="utf-8")
        save_checkpoint(model, weights_path)
        described.unlink(missing_ok=True)  # never is the old one with the new weights
    return folder


def _plain(value):
    """Same, in types that YAML knows."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return os.path.abspath(value)
    return value.item() if isinstance(value, np.generic) else value
