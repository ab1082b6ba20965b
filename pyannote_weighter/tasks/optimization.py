"""AdamW with a rate of its own for what only training needs, warm-up, and cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn

TABLE = ".table"  # of `pyannote_weighter.losses.ROLE`


def warm_up_and_decay(step: int, total: int) -> float:
    """Factor of the learning rate: linear warm-up over at most 100 steps, cosine decay to zero."""
    warm_up = max(1, min(100, total // 10))
    progress = min(1.0, max(0.0, (step - warm_up) / max(1, total - warm_up)))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def optimize(
    model: nn.Module, total: int, learning_rate: float, classifier_learning_rate: float
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
        Highest rates.
    """
    training_only = list(model.named_parameters()) if hasattr(model, "loss_func") else []
    training_only = [(name, p) for name, p in training_only if name.startswith("loss_func.")]
    known = {id(p) for _, p in training_only}
    classifier = [p for name, p in training_only if not name.endswith(TABLE)]
    tables = [p for name, p in training_only if name.endswith(TABLE)]
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": rest, "lr": learning_rate, "weight_decay": 1e-4}]
    if classifier:
        groups.append({"params": classifier, "lr": classifier_learning_rate, "weight_decay": 0.0})
    if tables:
        groups.append({"params": tables, "lr": 10 * learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_up_and_decay(step, max(1, total))
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
