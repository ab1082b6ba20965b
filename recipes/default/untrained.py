"""Pipeline of a Weighter that was never trained, tuned where there are development files."""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import lightning
import torch
from pyannote.database import registry

from pyannote_weighter.configuration import read_config
from pyannote_weighter.impostors import USUAL
from pyannote_weighter.models import Weighter
from pyannote_weighter.pipelines.export import export_pipeline
from pyannote_weighter.protocols import find_protocol, load_registry
from pyannote_weighter.tasks import SpeakerLikes
from pyannote_weighter.training import segmentation_options
from pyannote_weighter.tuning import tune


def main() -> None:
    """Read the command line, tune, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    config = read_config(arguments.config)
    torch.set_num_threads(config.get("threads", 1))
    lightning.seed_everything(config.get("seed", 0))
    load_registry(config["registry"], registry)
    protocol = find_protocol(config["protocol"], config["registry"], registry)
    model = Weighter(**config.get("model", {}))
    model.task = SpeakerLikes(protocol, frames=config["frames"], **config.get("task", {}))
    model.prepare_data()
    model.task.setup()
    task, model.task = model.task, None
    model.specifications = Weighter.default_specifications(model.hparams.duration)
    # nothing has moved people apart
    options = {"cosine_offset": USUAL} | segmentation_options(task)
    development = list(protocol.development()) if task.has_validation else []
    parameters = tune(model, task, development, **options)
    print(export_pipeline(model, arguments.into / "pipeline", parameters, **options))


if __name__ == "__main__":
    main()
