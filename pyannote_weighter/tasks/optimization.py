"""AdamW with a rate of its own for what only training needs, warm-up, and cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn

TABLE = ".table"  # of `pyannote_weighter.losses.ROLE`
PROCEDURE, ACTIVITY = "encoder.", "encoder.activity."  # the second one only counts
ENOUGH = 0.9  # share of the speech that likes account for, from which the encoder need not wait
LATE = 0.5, 4e-4  # when it starts otherwise, and its rate: see recipes/likes


def warm_up_and_decay(step: int, total: int) -> float:
    """Factor of the learning rate: linear warm-up over at most 100 steps, cosine decay to zero."""
    warm_up = max(1, min(100, total // 10))
    progress = min(1.0, max(0.0, (step - warm_up) / max(1, total - warm_up)))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def encoder_schedule(
    start: float | str, rate: float | None, usual: float, explained: float
) -> tuple[float, float | None]:
    """When the encoder starts to learn, and at what rate.

    Parameters
    ----------
    start : float or "auto"
        Share of the training; "auto" waits where likes leave many people untagged.
    rate : float or None
        None is the usual one, and a lower one where "auto" waits.
    usual : float
        Rate of the rest of the model.
    explained : float
        Share of the speech that likes account for.

    Returns
    -------
    encoder_start, encoder_learning_rate : float, float or None
        See `optimize`.
    """
    if start != "auto":
        return start, rate
    start, highest = (0.0, usual) if explained >= ENOUGH else LATE
    # a rate in any case: a training that goes on has the same groups of parameters
    return start, highest if rate is None else rate


def optimize(
    model: nn.Module,
    total: int,
    learning_rate: float,
    classifier_learning_rate: float,
    encoder_learning_rate: float | None = None,
    encoder_start: float = 0.0,
) -> dict:
    """Optimiser and schedule, as Lightning's `configure_optimizers` returns them.

    Parameters
    ----------
    model : Module
        What is under its `loss_func`, if anything, has a rate of its own and no weight decay;
        labels of files, which `ROLE` learns, are ten times as fast as the rest of the model.
    total : int
        Steps of the whole training.
    learning_rate, classifier_learning_rate : float
        Before `warm_up_and_decay`, which all rates have in common.
    encoder_learning_rate : float, optional
        Of the encoder, its activity head left out. Defaults to that of the rest. Whoever starts in
        the middle starts at about half of it, as the rates have decayed until then.
    encoder_start : float, optional
        Share of the steps before which the encoder stands still.
    """
    training_only = list(model.named_parameters()) if hasattr(model, "loss_func") else []
    training_only = [(name, p) for name, p in training_only if name.startswith("loss_func.")]
    known = {id(p) for _, p in training_only}
    classifier = [p for name, p in training_only if not name.endswith(TABLE)]
    tables = [p for name, p in training_only if name.endswith(TABLE)]
    encoder = []
    if encoder_learning_rate is not None or encoder_start > 0:
        encoder = [
            p
            for name, p in model.named_parameters()
            if p.requires_grad and name.startswith(PROCEDURE) and not name.startswith(ACTIVITY)
        ]
        known |= {id(p) for p in encoder}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": rest, "lr": learning_rate, "weight_decay": 1e-4}]
    if classifier:
        groups.append({"params": classifier, "lr": classifier_learning_rate, "weight_decay": 0.0})
    if tables:
        groups.append({"params": tables, "lr": 10 * learning_rate, "weight_decay": 0.0})
    if encoder:
        rate = learning_rate if encoder_learning_rate is None else encoder_learning_rate
        groups.append({"params": encoder, "lr": rate, "weight_decay": 1e-4})

    def usual(step: int) -> float:
        return warm_up_and_decay(step, max(1, total))

    def late(step: int) -> float:
        return usual(step) if step >= encoder_start * total else 0.0

    factors = [usual] * (len(groups) - bool(encoder)) + [late] * bool(encoder)
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
