"""The scripts that judge how likes are found, and who is recognized."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyannote_weighter.losses import any_slot
from pyannote_weighter.models import Weighter

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "likes"
if not RECIPES.is_dir():
    pytest.skip(f"no recipes at {RECIPES}: run from a checkout", allow_module_level=True)

PEOPLE = ("ann", "bob", "cy", "dee", "eve")


@pytest.fixture
def recipe(monkeypatch):
    """A function that runs one of the scripts, but for its main function."""
    for variable in ("OMP_NUM_THREADS", "PYANNOTE_METRICS_ENABLED"):
        monkeypatch.setenv(variable, "1" if variable.startswith("OMP") else "0")
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
