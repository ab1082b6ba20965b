"""The scripts that train from likes, and judge what was learned."""

import inspect
import itertools
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature

from pyannote_weighter.losses import any_slot
from pyannote_weighter.models import Weighter
from pyannote_weighter.models.encoders.refine import SlotRefiner
from pyannote_weighter.pipelines.answer import WeighterOutput
from pyannote_weighter.simulation.learning import Conditions
from pyannote_weighter.tasks import SpeakerLikes

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "likes"
if not RECIPES.is_dir():
    pytest.skip(f"no recipes at {RECIPES}: run from a checkout", allow_module_level=True)

PEOPLE = ("ann", "bob", "cy", "dee", "eve")


@pytest.fixture
def recipe(monkeypatch):
    """A function that runs one of the scripts, but for its main function."""
    for variable in ("OMP_NUM_THREADS", "PYANNOTE_METRICS_ENABLED"):
        monkeypatch.setenv(variable, "1" if variable.startswith("OMP") else "0")
    monkeypatch.syspath_prepend(RECIPES)  # scripts import one another
    for module in ("identify", "tables", "vectors"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return lambda name: runpy.run_path(str(RECIPES / f"{name}.py"))


# -- find.py --------------------------------------------------------------------------------------


@pytest.fixture
def slots() -> list[dict]:
    """Slots of 20 files with three of five people each, and a slot of noise."""
    generator = torch.Generator().manual_seed(0)
    voices, _ = torch.linalg.qr(torch.randn(256, 256, generator=generator))
    files = []
    for number in range(20):
        who = torch.randperm(len(PEOPLE), generator=generator)[:3]
        noise = 0.02 * torch.randn(4, 256, generator=generator)
        embeddings = torch.cat([voices[who], 0.3 * voices[6 + number : 7 + number]]) + noise
        files.append(
            {
                "uri": f"file{number}",
                "likes": sorted(PEOPLE[k] for k in who),
                "slots": embeddings,
                "share": torch.tensor([0.4, 0.3, 0.25, 0.05]),
                "owner": [*(PEOPLE[k] for k in who), "nobody"],
            }
        )
    return files


def test_all_likes_are_found(recipe, slots):
    likes = {file["uri"]: file["likes"] for file in slots}
    confirmed, right, missing = recipe("find")["find"](slots, likes)
    assert confirmed.all() and right.all() and len(right) == 60
    assert not any(missing.values())


def test_a_like_that_was_left_out_is_found_again(recipe, slots):
    likes = {file["uri"]: list(file["likes"]) for file in slots}
    gone = likes["file3"].pop()
    confirmed, right, missing = recipe("find")["find"](slots, likes)
    assert confirmed.all() and right.all() and len(right) == 59
    assert {uri: names for uri, names in missing.items() if names} == {"file3": [gone]}


def test_a_wrong_like_is_not_confirmed(recipe, slots):
    likes = {file["uri"]: list(file["likes"]) for file in slots}
    (wrong,) = sorted(set(PEOPLE) - set(likes["file3"]))[:1]
    position = 3 * 3  # three likes a file
    likes["file3"][0] = wrong
    confirmed, right, _ = recipe("find")["find"](slots, likes)
    assert not confirmed[position] and not right[position]
    assert confirmed.sum() == right.sum() == 59


# -- identify.py ----------------------------------------------------------------------------------


def test_claims_and_cosines(recipe):
    """By hand, slot by slot; slots with less than half a second are of nobody."""
    torch.manual_seed(0)
    model = Weighter(backbone={"name": "campplus", "pretrained": False}).eval()
    # somebody who talks long, two who hardly do, and silence
    who = torch.tensor([0] * 700 + [1] * 30 + [2] * 20 + [3] * 50)
    frames = 5 * torch.randn(4, model.backbone.frame_dimension)[who]
    frames, count = frames + torch.randn_like(frames), (who < 3).float()
    prototypes = torch.randn(7, model.hparams.dimension)
    script = recipe("identify")
    claim, cosine = script["compare"](model, prototypes, frames, count)
    assert claim.shape == cosine.shape == (7,)
    with torch.inference_mode():
        weighed = model.weigh(frames[None], count=count[None])
    heard = weighed.weightings[0].sum(dim=0) * 0.02 > 0.5
    assert 0 < heard.sum() < len(heard)
    best, posteriors = np.full(7, -1.0), []
    for slot, is_heard in zip(weighed.embeddings[0], heard, strict=True):
        against = F.cosine_similarity(slot[None], prototypes)
        posteriors.append((against / script["TEMPERATURE"]).softmax(dim=0))
        if is_heard:
            best = np.maximum(best, against.numpy())
    np.testing.assert_allclose(cosine, best, atol=1e-5)
    expected = any_slot(weighed.confidence, torch.stack(posteriors)[None].log())[0]
    np.testing.assert_allclose(claim, expected, atol=1e-5)


# -- confidence.py --------------------------------------------------------------------------------


def test_what_slots_have_of_people(recipe):
    """Slot by slot and person by person."""
    torch.manual_seed(0)
    model = Weighter(backbone={"name": "campplus", "pretrained": False}).eval()
    who = torch.tensor([0] * 300 + [1] * 200 + [2] * 25)
    frames = 5 * torch.randn(3, model.backbone.frame_dimension)[who]
    frames, count = frames + torch.randn_like(frames), torch.ones(len(who))
    active = F.one_hot(who, 3).float()[:-10]  # references may end before the recording
    held = recipe("confidence")["hold"](model, frames, count, active)
    with torch.inference_mode():
        weighed = model.weigh(frames[None], count=count[None])
    expected = []
    for slot, confidence in enumerate(weighed.confidence[0]):
        x = weighed.weightings[0, :, slot]
        seconds = x.sum() * 0.02
        common = [(x[:-10] * active[:, person]).sum() for person in range(3)]
        best = int(np.argmax(common))
        row = confidence, common[best] / x.sum(), common[best] / active[:, best].sum(), seconds
        if seconds >= 0.5:
            expected.append(torch.stack(row).numpy())
    assert 1 <= len(expected) < model.hparams.num_slots
    np.testing.assert_allclose(held, expected, rtol=1e-4)


def test_pictures_of_confidence(recipe, tmp_path):
    script = recipe("confidence")
    held = np.array([[0.9, 1.0, 0.8, 10.0], [0.5, 0.7, 0.2, 5.0], [0.7, 0.95, 0.6, 5.0]])
    script["draw"]({"one": held, "two": held[:1]}, tmp_path / "confidence.png")
    assert (tmp_path / "confidence.png").read_bytes().startswith(b"\x89PNG")
    # 15 of 20 seconds are in slots of one person; confidence and reach have the same order
    assert script["row"]("one", *held.T) == "| one | 3 | 0.75 | 0.91 | 75 % | 0.60 | +1.00 |"


# -- rates.py -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Folder of a training: five people speak in two files, three of them are tagged."""
    lines = [
        f"SPEAKER {uri} 1 {start:.1f} 1.0 <NA> <NA> {name} <NA> <NA>\n"
        for uri, names in {"a": "ann bob cy", "b": "ann dee"}.items()
        for start, name in enumerate(names.split())
    ]
    (tmp_path / "train.rttm").write_text("".join(lines))
    (tmp_path / "train.likes").write_text("a ann bob eve\nb dee\n")  # eve does not speak
    metrics = tmp_path / "metrics" / "version_0"
    metrics.mkdir(parents=True)
    table = "epoch,loss/train,train/lambda\n0,3.0,\n0,,0.1\n1,2.0,0.75\n"
    (metrics / "metrics.csv").write_text(table)
    return tmp_path


def test_true_rates(recipe, run):
    true_rates = recipe("rates")["true_rates"]
    assert true_rates(run) == (3 / 5, 3 / 5)
    (run / "missing.likes").write_text("b ann bob\n")  # one is right
    assert true_rates(run) == (3 / 5, 4 / 5)


def test_estimates_and_what_they_did(recipe, run):
    script = recipe("rates")
    assert script["last_estimate"](run) == 0.75
    scores = [
        {"speakers": 3, "reference_speakers": 4},
        {"speakers": 2, "reference_speakers": 2},
    ]
    held = {"scores": scores, "calibration": [[0.9, 1.0, 30.0], [0.7, 0.6, 10.0]]}
    (run / "test-0-2.json").write_text(json.dumps(held))
    assert script["what_it_did"](run / "test-0-2.json") == "-0.5 | 0.85 | -5.0"


# -- study.py and its tables ----------------------------------------------------------------------


def test_tables_name_options_that_exist(recipe):
    tables = recipe("tables")["TABLES"]
    options = {
        "task": inspect.signature(SpeakerLikes).parameters,
        "model": inspect.signature(Weighter).parameters,
    }
    for name, runs in tables.items():
        names = [run.name for run in runs]
        assert len(set(names)) == len(names), name  # rows are told apart by name
        for run, (kind, known) in itertools.product(runs, options.items()):
            assert set(getattr(run, kind)) <= set(known), (name, run.name)


def test_confidence_is_compared_with_the_share_of_one_person(recipe):
    """Two speakers, half of the second one's weighting on somebody else."""
    held = recipe("study")["held"]
    x = np.zeros((100, 2), dtype=np.float32)
    x[:50, 0], x[50:, 1] = 0.8, 1.0
    steps = SlidingWindow(start=0.0, step=0.1, duration=0.1)
    output = WeighterOutput(
        speaker_diarization=Annotation(),
        exclusive_speaker_diarization=Annotation(),
        confidence={"A": 0.8, "B": 1.0},
        weightings=SlidingWindowFeature(x, steps),
    )
    reference = Annotation()
    reference[Segment(0.0, 7.5)] = "ann"
    reference[Segment(7.5, 10.0)] = "bob"
    (one, two) = held(output, reference)
    np.testing.assert_allclose(one, (0.8, 1.0, 4.0), atol=1e-3)
    np.testing.assert_allclose(two, (1.0, 0.5, 5.0), atol=1e-3)


@pytest.mark.parametrize("supervision", ["labels", "likes"])
def test_an_encoder_learns_from_vectors(recipe, supervision):
    pretrain = recipe("vectors")["pretrain"]
    small = Conditions(dimensions=(24,), speakers=(2,), lengths=(60,), scales=(20.0, 20.0))
    pretrain.__globals__.update(STEPS=3, conditions=lambda dimension: small)
    trained = []
    for _ in range(2):
        torch.manual_seed(0)
        refiner = SlotRefiner(in_dimension=24, num_slots=4)
        before = refiner.log_temperature.clone()
        pretrain(refiner, supervision, seed=1)
        assert not torch.equal(refiner.log_temperature, before)
        trained.append(torch.cat([p.detach().flatten() for p in refiner.parameters()]))
    assert torch.equal(*trained) and trained[0].isfinite().all()


# -- what scripts refuse --------------------------------------------------------------------------


def run_main(main, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    main()


def test_find_counts_the_files_that_there_are(recipe, slots, monkeypatch, capsys):
    script = recipe("find")
    known = script["main"].__globals__
    monkeypatch.setitem(known, "protocol_files", lambda *args: slots)
    monkeypatch.setitem(known, "weigh", lambda files, folder: files)
    monkeypatch.setitem(known, "CONDITIONS", ((1.0, 0.0),))
    arguments = ("--registry", "database.yml", "--frames", "frames", "--files")
    with pytest.raises(SystemExit):
        run_main(script["main"], monkeypatch, *arguments, "10", "21")
    message = " ".join(capsys.readouterr().err.split())
    assert "database.yml has 20 training files, not 21: choose --files that there are" in message
    run_main(script["main"], monkeypatch, *arguments, "20", "1")
    whole, one = capsys.readouterr().out.splitlines()[2:]
    assert whole == "| 20 | 100% | 0% | 60 | 100 | 100 |  | 0 | 0 | 0 |"
    # nothing recurs in a single file: none of its likes is confirmed
    assert one.startswith("| 1 | 100% | 0% | 3 | 0 |  | ") and "nan" not in one


def test_study_does_not_judge_by_what_it_trains_on(recipe, monkeypatch, tmp_path, capsys):
    script = recipe("study")
    tables = script["TABLES"]
    reached = []
    monkeypatch.setitem(script["main"].__globals__, "Study", lambda *args: reached.append(args))
    monkeypatch.setitem(tables, "one", tables["curriculum"][4:5])  # after OTHER_VOICES
    arguments = ["--registry", "database.yml", "--frames", "frames", "--into", str(tmp_path)]
    for table, subset in (("curriculum", "development"), ("one", "development"), ("one", "train")):
        with pytest.raises(SystemExit):
            run_main(script["main"], monkeypatch, table, *arguments, "--subset", subset)
        message = " ".join(capsys.readouterr().err.split())
        assert f"training uses {subset} in '" in message and "judge by another" in message
        assert "'likes, after references of other voices'" in message
        assert "'untrained'" not in message
    assert not reached
    seen_by = script["seen_by"]
    assert seen_by(tables["one"][0]) == {"train", "development"}
    assert seen_by(tables["curriculum"][0]) == set()
    only = ("curriculum", *arguments, "--subset", "development", "--seeds", "0", "--only")
    monkeypatch.setitem(script["main"].__globals__, "Study", lambda *args: pytest.fail("reached"))
    with pytest.raises(pytest.fail.Exception, match="reached"):
        run_main(script["main"], monkeypatch, *only, "untrained", "likes")
