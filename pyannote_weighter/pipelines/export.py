"""A trained Weighter as a folder that pyannote's `Pipeline.from_pretrained` takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from pyannote.audio import __version__ as pyannote_audio_version

from pyannote_weighter import __version__
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.checkpoint import save_checkpoint
from pyannote_weighter.output import atomic


def export_pipeline(
    model: Weighter,
    folder: str | Path,
    parameters: dict,
    segmentation: str | Path = "segmentation-3.0",
    **options,
) -> Path:
    """Write `config.yaml` and `weighter/pytorch_model.bin`.

    Parameters
    ----------
    model : Weighter
    folder : path
        Created if need be; what it holds is replaced file by file.
    parameters : dict
        Hyper-parameters of `WeighterDiarization`.
    segmentation : str or Path, optional
        Segmentation that the pipeline loads.
    **options
        Further options of `WeighterDiarization`, such as `cosine_offset`.

    Returns
    -------
    folder : Path

    Raises
    ------
    yaml.YAMLError
        If an option is something that a file cannot hold, such as a model: nothing is written.
    """
    folder = Path(folder)
    config = {
        "dependencies": {
            "pyannote.audio": pyannote_audio_version,
            "pyannote-weighter": __version__,
        },
        "pipeline": {
            "name": "pyannote_weighter.pipelines.WeighterDiarization",
            "params": {"segmentation": segmentation, "weighter": "$model/weighter", **options},
        },
        "params": parameters,
    }
    text = yaml.safe_dump(_plain(config), sort_keys=False)
    save_checkpoint(model, folder / "weighter" / "pytorch_model.bin")
    with atomic(folder / "config.yaml") as path:
        path.write_text(text, encoding="utf-8")
    return folder


def _plain(value):
    """Same, in types that YAML knows."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
