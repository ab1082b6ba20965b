"""A trained Weighter as a folder that pyannote's `Pipeline.from_pretrained` takes."""

from __future__ import annotations

from pathlib import Path

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
    segmentation: str = "segmentation-3.0",
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
    segmentation : str, optional
        Segmentation that the pipeline loads.
    **options
        Further options of `WeighterDiarization`, such as `cosine_offset`.

    Returns
    -------
    folder : Path
    """
    folder = Path(folder)
    save_checkpoint(model, folder / "weighter" / "pytorch_model.bin")
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
    with atomic(folder / "config.yaml") as path:
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder
