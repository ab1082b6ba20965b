"""Files of models trained on simulated vectors, and the plain encoder that is one of them."""

import pytest
import torch
from safetensors.torch import save_file

from pyannote_weighter.models.encoders.markov import MarkovRefiner
from pyannote_weighter.models.encoders.message import MessageRefiner
from pyannote_weighter.simulation.core import load_core, save_core
from pyannote_weighter.simulation.learning import Conditions, frame_loss, train
from pyannote_weighter.simulation.plain import PlainEncoder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MarkovRefiner, {"num_rounds": 2, "dwell": (5.0, 50.0), "num_phases": 3}),
        (MessageRefiner, {"num_rounds": 2, "num_phases": 2}),
        (PlainEncoder, {"dimension": 8, "num_slots": 2, "width": 32, "num_layers": 1}),
    ],
)
def test_what_was_saved_gives_the_same_again(tmp_path, kind, options):
    model = kind(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_core(model, tmp_path / "core.safetensors", options, {"seed": 3})
    again = load_core(tmp_path / "core.safetensors")
    assert type(again) is kind and not again.training
    frames = torch.randn(2, 50, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            again(frames, 2).weightings[-1], model(frames, 2).weightings[-1]
        )


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=f"{name}.safetensors.*train.py"):
            load_core(tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError):
        load_core(tmp_path / "absent.safetensors")


def test_plain_encoder_learns_and_refuses_another_number_of_slots():
    torch.manual_seed(0)
    model = PlainEncoder(4, 2, width=32, num_layers=1)
    conditions = Conditions(
        dimensions=(4,), speakers=(2,), lengths=(40,), scales=(8.0, 8.0), noise=(0.05, 0.1)
    )
    losses = list(train(model, frame_loss, conditions, num_steps=60, learning_rate=3e-3))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    with pytest.raises(ValueError, match="2 slots"):
        model(torch.zeros(1, 10, 4), 3)
