"""Development files: who is active, against what linking says; what is measured on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyannote.core import Annotation, Segment, Timeline

from pyannote_weighter.likeness import Likeness
from pyannote_weighter.linking import PARAMETERS
from pyannote_weighter.tasks import validation
from pyannote_weighter.tasks.metrics import choose_metric
from pyannote_weighter.tasks.samples import discretize, reference_entry
from pyannote_weighter.tasks.validation import active_speakers
from tests.tasks.conftest import conversation, liked, reference

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
    assert sample["annotated"].all()
    assert trained.val__getitem__(3)["reference"] is None  # RTTM may not list it


@pytest.mark.parametrize("num_others", [0, 1])
def test_what_is_not_annotated_is_not_judged(tones, task, fit, monkeypatch, num_others):
    """Someone who is right everywhere makes no error, wherever the reference ends."""
    referenced = conversation("dev", "ann bob", seconds=4.0)
    whole = reference(referenced, "ann bob")
    region = Timeline([Segment(1.0, 3.0)])
    referenced |= {"annotation": whole.crop(region), "annotated": region}
    unlisted = conversation("unlisted", "ann", seconds=2.0)
    unlisted |= {"annotation": Annotation(uri="unlisted"), "annotated": Timeline()}
    trained = task(development=[referenced, *[unlisted] * num_others, tones[0]])
    turns = [[s.start, s.end, who] for s, _, who in whole.itertracks(yield_label=True)]

    def right(weighted, index, num_frames, count, step):
        return discretize(turns, trained.model.frames, num_frames).numpy()

    monkeypatch.setattr(validation, "active_speakers", right)
    trainer = fit(trained, max_epochs=1)
    assert trainer.callback_metrics["DiarizationErrorRate"] == 0.0
    sample = trained.val__getitem__(0)
    assert len(sample["annotated"]) == len(sample["frames"]) == len(sample["reference"])
    assert sample["annotated"].float().mean().item() == pytest.approx(0.5, abs=0.02)
    wrong = ~discretize(turns, trained.model.frames, len(sample["frames"])).numpy()
    monkeypatch.setattr(validation, "active_speakers", lambda *args: wrong[:, :1])
    trainer = fit(trained, max_epochs=1)
    assert trainer.callback_metrics["DiarizationErrorRate"] == pytest.approx(0.5, abs=0.02)


def test_what_judges_epochs_is_measured(tones, task, fit):
    """A reference without speech is none, for all who ask."""
    silent = liked("silent", "ann") | {"annotation": Annotation(uri="silent")}
    files = [*tones, silent]
    trained = task(development=files)
    trainer = fit(trained, max_epochs=1)
    assert choose_metric([reference_entry(file) for file in files]) == trained.val_monitor
    assert trained.val_monitor == ("LikesMeanAveragePrecision", "max")
    assert "DiarizationErrorRate" not in trainer.callback_metrics


def test_without_development_files(task, fit):
    trained = task()
    assert not trained.has_validation
    trainer = fit(trained, max_epochs=1)
    assert "LikesMeanAveragePrecision" not in trainer.callback_metrics
