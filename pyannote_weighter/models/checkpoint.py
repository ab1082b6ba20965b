"""Saving a model for pyannote's `Model.from_pretrained`, and telling weights apart."""

import hashlib
from pathlib import Path

import lightning
import torch
from pyannote.audio import Model

from pyannote_weighter.output import atomic


def save_checkpoint(model: Model, path: str | Path) -> Path:
    """Write a checkpoint that `pyannote.audio.Model.from_pretrained(path)` loads.

    It holds what Lightning would store of the model alone: no optimizer, no training state.
    A model leaves parts of itself out by its `on_save_checkpoint`. The file is complete or absent:
    it is written under another name in the same folder and renamed.

    Parameters
    ----------
    model : pyannote.audio.Model
        With its specifications. It must be of an importable class, not of a script.
    path : str or Path
        `pytorch_model.bin` is the name that `from_pretrained` looks for in a folder. Folders
        are created.

    Returns
    -------
    path : Path

    Raises
    ------
    ValueError
        If the class of the model was defined in a script: nothing could load the checkpoint.
    """
    if type(model).__module__ == "__main__":
        raise ValueError(
            f"{type(model).__name__} is defined in a script, where no other program finds it: "
            "move it into a module that can be imported"
        )
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {name: value.cpu() for name, value in model.state_dict().items()},
        model.CHECKPOINT_HYPER_PARAMS_KEY: dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)

    path = Path(path)
    with atomic(path) as unfinished, unfinished.open("wb") as file:
        torch.save(checkpoint, file)
    return path


def fingerprint(model: torch.nn.Module) -> str:
    """Short hash of the weights of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # as bytes: NumPy has no bfloat16
        values = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:12]
