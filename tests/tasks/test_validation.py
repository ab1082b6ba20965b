"""Development files: who is active, against what linking says; what is measured on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyannote.core import Annotation

from pyannote_weighter.likeness import Likeness
from pyannote_weighter.linking import PARAMETERS
from pyannote_weighter.tasks.validation import active_speakers
from tests.tasks.conftest import conversation, reference

STEP = 0.02


def weighted_by(cosine: float, seconds: float) -> SimpleNamespace:
    """One file of two slots, one after the other."""
    length = round(seconds / STEP)
    x = torch.zeros(1, 2 * length + 50, 2)  # the last frames are padding
    x[0, :length, 0] = x[0, length : 2 * length, 1] = 1.0
    embeddings = torch.tensor([[[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]]])
    return SimpleNamespace(weightings=x, embeddings=embeddings, confidence=torch.ones(1, 2))


@pytest.mark.parametrize("cosine", [0.35, 0.6])
def test_slots_are_one_person_by_probability(cosine):
    """A cosine of 0.35 is above `merge`, and yet these are probably two people."""
    length = round(10.0 / STEP)
    active = active_speakers(weighted_by(cosine, 10.0), 0, 2 * length, None, STEP)
    probability = Likeness()(cosine, 0.0, 0.0, 10.0, 10.0, False)
    assert cosine > PARAMETERS["merge"]
    expected = 1 if probability >= PARAMETERS["merge"] else 2
    assert expected == (2 if cosine < 0.5 else 1)
    assert active.shape == (2 * length, expected) and active.any(axis=1).all()


def test_as_many_as_are_counted():
    length = round(10.0 / STEP)
    count = torch.ones(2 * length + 50, dtype=torch.uint8)
    count[:100] = 0
    active = active_speakers(weighted_by(0.1, 10.0), 0, 2 * length, count, STEP)
    np.testing.assert_array_equal(active.sum(axis=1), count[: 2 * length].numpy())


def test_metrics_need_references(tones, task, fit):
    trained = task(development=[tones[0], tones[1], conversation("unknown", "ann")])
    trainer = fit(trained, max_epochs=1)
    assert 0 <= trainer.callback_metrics["LikesMeanAveragePrecision"] <= 1
    assert "DiarizationErrorRate" not in trainer.callback_metrics
    assert trained.val_monitor == ("LikesMeanAveragePrecision", "max")
    assert {"loss/likes", "loss/train"} <= set(trainer.callback_metrics)


def test_metrics_with_references(tones, task, fit):
    referenced = conversation("dev", "ann bob", seconds=3.0)
    referenced["annotation"] = reference(referenced, "ann bob")
    silent = conversation("silent", "ann") | {"annotation": Annotation(uri="silent")}
    development = [tones[0], tones[1], referenced, silent]
    trained = task(development=development)
    trainer = fit(trained, max_epochs=1)
    assert trainer.callback_metrics["DiarizationErrorRate"] > 0
    assert "LikesMeanAveragePrecision" in trainer.callback_metrics
    assert trained.val_monitor == ("DiarizationErrorRate", "min")

    sample = trained.val__getitem__(2)
    assert sample["names"] is None and len(sample["frames"]) == len(sample["reference"])
    assert sample["reference"].sum(dim=1).float().mean() == pytest.approx(1.0, abs=0.05)
    assert sample["reference"].float().mean(dim=0).tolist() == pytest.approx([0.5] * 2, abs=0.05)
    assert trained.val__getitem__(3)["reference"].shape[1] == 0


def test_without_development_files(task, fit):
    trained = task()
    assert not trained.has_validation
    trainer = fit(trained, max_epochs=1)
    assert "LikesMeanAveragePrecision" not in trainer.callback_metrics
