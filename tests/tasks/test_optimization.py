"""Which parameters learn at which rate, and when."""

import pytest
import torch
from torch import nn

from pyannote_weighter.tasks.optimization import (
    ENOUGH,
    encoder_schedule,
    optimize,
    warm_up_and_decay,
)


class Model(nn.Module):
    """Parameters with the names of those of a Weighter in training."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"refiner": nn.Linear(2, 2), "activity": nn.Linear(2, 2)})
        self.project = nn.Linear(2, 2)
        self.backbone = nn.Linear(2, 2).requires_grad_(False)
        self.loss_func = nn.Linear(2, 2)


def rates(model: Model, steps: int, **options) -> list[dict[str, float]]:
    """Rate of each module that learns, step by step."""
    found = optimize(model, steps, 1e-3, 1e-2, **options)
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    names = {id(p): n.rpartition(".")[0] for n, p in model.named_parameters()}
    history = []
    for _ in range(steps):
        history.append(
            {
                names[id(p)]: group["lr"]
                for group in optimizer.param_groups
                for p in group["params"]
            }
        )
        optimizer.step()
        schedule.step()
    return history


def test_by_default_all_but_the_classifier_learn_alike():
    history = rates(Model(), 20)
    assert set(history[0]) == {"encoder.refiner", "encoder.activity", "project", "loss_func"}
    for step, rate in enumerate(history):
        factor = warm_up_and_decay(step, 20)
        assert rate.pop("loss_func") == pytest.approx(1e-2 * factor)
        assert all(value == pytest.approx(1e-3 * factor) for value in rate.values())


def test_encoder_has_a_rate_of_its_own_from_its_start_on():
    history = rates(Model(), 20, encoder_learning_rate=2e-4, encoder_start=0.5)
    assert len(history) == 20
    for step, rate in enumerate(history):
        factor = warm_up_and_decay(step, 20)
        late = 2e-4 * factor if step >= 10 else 0.0
        assert rate["encoder.refiner"] == pytest.approx(late)
        assert rate["encoder.activity"] == rate["project"] == pytest.approx(1e-3 * factor)


def test_encoder_that_starts_late_has_the_usual_rate_then():
    history = rates(Model(), 10, encoder_start=0.5)
    assert history[4]["encoder.refiner"] == 0.0
    assert history[5]["encoder.refiner"] == history[5]["project"] > 0


def test_encoder_stands_still_before_its_start():
    model = Model()
    found = optimize(model, 10, 0.1, 0.1, encoder_start=0.5)
    before = [p.clone() for p in model.encoder["refiner"].parameters()]
    projection = model.project.weight.clone()
    for _ in range(5):
        for group in found["optimizer"].param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    for old, new in zip(before, model.encoder["refiner"].parameters(), strict=True):
        assert (old == new).all()
    assert (projection != model.project.weight).all()


@pytest.mark.parametrize(
    "start, rate, explained, expected",
    [
        ("auto", None, 0.95, (0.0, 2e-3)),
        ("auto", None, ENOUGH, (0.0, 2e-3)),
        ("auto", None, 0.8, (0.5, 4e-4)),
        ("auto", 1e-3, 0.8, (0.5, 1e-3)),
        ("auto", 1e-3, 0.95, (0.0, 1e-3)),
        (0.0, None, 0.1, (0.0, None)),
        (0.7, 1e-3, 1.0, (0.7, 1e-3)),
    ],
)
def test_encoder_waits_where_likes_are_few(start, rate, explained, expected):
    assert encoder_schedule(start, rate, 2e-3, explained) == expected
