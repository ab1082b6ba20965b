"""Saving and loading what was trained on simulated vectors."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pyannote_weighter.models.encoders.markov import MarkovRefiner
from pyannote_weighter.models.encoders.message import MessageRefiner
from pyannote_weighter.output import atomic
from pyannote_weighter.simulation.plain import PlainEncoder

KINDS: dict[str, type[nn.Module]] = {
    "message": MessageRefiner,
    "markov": MarkovRefiner,
    "plain": PlainEncoder,
}


def save_core(
    model: nn.Module, path: str | Path, options: dict, about: dict | None = None
) -> None:
    """Write a model to a safetensors file.

    Parameters
    ----------
    model : MessageRefiner, MarkovRefiner or PlainEncoder
    path : str or Path
    options : dict
        What the model was made with.
    about : dict, optional
        What else to keep with it, such as how it was trained.
    """
    kind = next(name for name, known in KINDS.items() if type(model) is known)
    core = json.dumps({"kind": kind, "options": options, "about": about or {}}, sort_keys=True)
    with atomic(Path(path)) as unfinished:
        save_file(
            {name: value.detach().contiguous() for name, value in model.state_dict().items()},
            unfinished,
            metadata={"core": core},
        )


def load_core(path: str | Path) -> nn.Module:
    """Load what `save_core` wrote, ready for inference.

    Raises
    ------
    ValueError
        Where the file is no such model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            core = json.loads((file.metadata() or {})["core"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        model = KINDS[core["kind"]](**core["options"])
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path}: no model for simulated vectors ({error}): train one with "
            "recipes/simulation/train.py"
        ) from error
    return model.eval()
