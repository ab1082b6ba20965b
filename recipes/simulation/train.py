"""Train a Weighter core on simulated vectors and write it to a file of a few kilobytes."""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")

import torch
from rich.progress import track

from pyannote_weighter.models.encoders.markov import MarkovRefiner
from pyannote_weighter.models.encoders.message import MessageRefiner
from pyannote_weighter.simulation.core import save_core
from pyannote_weighter.simulation.learning import Conditions, LikesLoss, frame_loss, train
from pyannote_weighter.simulation.plain import PlainEncoder

LOSSES = {
    "frames": frame_loss,
    "likes": LikesLoss(),
    "likes-half": LikesLoss(missing=0.5),
    "likes-published": LikesLoss(alignment=0.0),
}
CORES = {"message": MessageRefiner, "markov": MarkovRefiner}
RATES = {"message": 0.005, "markov": 0.015}  # it begins where theory puts it, and stays near
# one dimension and one number of speakers, from easy to the noise that k-means just withstands
PLAIN = Conditions(
    dimensions=(64,),
    speakers=(2,),
    lengths=(300,),
    scales=(30.0, 30.0),
    noise=(0.05, 0.75),
    batch_size=16,
)


def main() -> None:
    """Read the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("supervision", choices=["none", *LOSSES, "plain"])
    parser.add_argument("--core", choices=CORES, default="message", help="how rounds are made")
    parser.add_argument("--into", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    plain = arguments.supervision == "plain"
    options = {"dimension": 64, "num_slots": 2} if plain else {}
    model = PlainEncoder(**options) if plain else CORES[arguments.core]()
    began, losses = time.process_time(), []
    if arguments.supervision != "none":
        steps = train(
            model,
            LOSSES.get(arguments.supervision, frame_loss),
            PLAIN if plain else Conditions(),
            arguments.steps,
            learning_rate=1e-3 if plain else RATES[arguments.core],
            seed=arguments.seed,
        )
        losses = list(track(steps, arguments.supervision, total=arguments.steps))
    about = {
        "supervision": arguments.supervision,
        "seed": arguments.seed,
        "steps": len(losses),
        "cpu_seconds": round(time.process_time() - began),
    }
    save_core(model, arguments.into, options, about)
    print(f"{arguments.into}: {about}")


if __name__ == "__main__":
    main()
