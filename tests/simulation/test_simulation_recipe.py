"""The scripts of recipes/simulation on a grid that is done in seconds."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyannote_weighter.models.encoders.markov import MarkovRefiner
from pyannote_weighter.simulation import TurnTaking
from pyannote_weighter.simulation.core import save_core
from pyannote_weighter.simulation.scoring import LADDER
from pyannote_weighter.simulation.vectors import dominance

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "simulation"


def load(name: str):
    """Import a script of the recipe."""
    if not FOLDER.is_dir():  # the installed package comes without recipes
        pytest.skip(f"no recipe at {FOLDER}: run from a checkout")
    specification = importlib.util.spec_from_file_location(f"recipe_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evaluate():
    return load("evaluate")


@pytest.fixture(scope="module")
def report():
    return load("report")


@pytest.fixture(scope="module")
def walk():
    return load("walk")


def run(script, monkeypatch, *arguments):
    """Run the script's command line; its exit code."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    try:
        script.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_both_sets_share_sequences(evaluate):
    cell = evaluate.Cell(scale=60.0, num_frames=200)
    active, balanced = evaluate.draw_speakers(cell, 20, "0")
    assert len(balanced) == 20
    assert (dominance(active[balanced]) <= 0.8).all()
    # without selection: as drawn, most of them uneven at this scale
    drawn = cell.recipe(1.0).draw_active(20, cell.generator("speakers 0"))
    assert torch.equal(active[:20], drawn)
    even = dominance(drawn) <= 0.8
    assert 0 < even.sum() < 15
    assert balanced[: even.sum()] == even.nonzero().flatten().tolist()  # those are used twice
    assert len(active) == 40 - even.sum()
    with pytest.raises(ValueError, match="longer ones"):
        evaluate.draw_speakers(evaluate.Cell(scale=1e6, num_frames=10), 5, "0")


def test_noise_differs_by_its_factor_alone(evaluate, monkeypatch):
    cell = evaluate.Cell(dimension=16, num_frames=50)
    active, _ = evaluate.draw_speakers(cell, 6, "0")
    monkeypatch.setattr(evaluate, "NUMBERS", 16 * 50 * 4)  # blocks of four
    recipes = (cell.recipe(sigma) for sigma in (1.0, 3.0))
    weak, strong = ([*evaluate.draw(recipe, active, cell, "0")] for recipe in recipes)
    assert len(weak[0].frames) == 4 and sum(len(block.frames) for block in weak) == len(active)
    for one, three in zip(weak, strong, strict=True):
        clean = one.active.float() @ one.vectors
        assert torch.equal(one.vectors, three.vectors)
        torch.testing.assert_close(3 * (one.frames - clean), three.frames - clean)
    assert not torch.equal(weak[0].vectors[:2], weak[1].vectors[:2])


def test_end_to_end(evaluate, report, monkeypatch, tmp_path, capsys):
    names = ["k-means", "known means", "known means, HMM", "known means, walk"]
    command = ["--into", tmp_path, "--grid", "none", "--sequences", 10, "--methods", *names]
    command += ["--cell", "d=16,T=100,scale=15", "--cell", "K=3,d=16,T=100,scale=15"]
    assert run(evaluate, monkeypatch, *command) == 0
    paths = sorted(tmp_path.glob("*/*.json"))
    assert len(paths) == 8

    # nothing is computed twice; a point that is missing is computed again, and is the same
    asked = []
    measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", lambda *a: asked.append(a[3]) or measure(*a))
    before = {path: path.read_text() for path in paths}
    lost = json.loads(before[paths[0]])
    step, _ = lost["points"].popitem()
    paths[0].write_text(json.dumps(lost))
    assert run(evaluate, monkeypatch, *command) == 0
    assert asked == [int(step)]
    assert {path: json.loads(path.read_text())["points"] for path in paths[1:]} == {
        path: json.loads(before[path])["points"] for path in paths[1:]
    }
    again = json.loads(paths[0].read_text())["points"][step]["accuracy"]
    assert again == json.loads(before[paths[0]])["points"][step]["accuracy"]

    assert run(evaluate, monkeypatch, *command, "--seed", 1) == 1  # other sequences: refused
    assert run(evaluate, monkeypatch, *command, "--methods", "k-means", "magic") == 2
    assert "no method magic" in capsys.readouterr().err

    assert run(report, monkeypatch, tmp_path) == 0
    page = (tmp_path / "results.md").read_text()
    for speakers in (2, 3):
        for chosen in ("balanced", "all"):
            assert f"## K = {speakers}, {chosen}" in page
    assert "Above the ceiling, outside the paired interval: none" in page
    sigma = {
        n: r.sigma
        for n, r in report.results(report.read(tmp_path), "balanced")[
            "K2-d16-scale15-T100"
        ].items()
    }
    assert sigma["k-means"] < sigma["known means, HMM"]
    assert sigma["known means"] == pytest.approx(2.1, rel=0.1)  # Student's t, see limits
    assert (tmp_path / "cells.png").stat().st_size > 1000
    assert not (tmp_path / "figure.png").exists()  # no reference cell


def test_methods_are_told_how_many_speak(evaluate, monkeypatch):
    """As many as do in each sequence, but for limits, which know the recipe."""
    told = []

    def rival(frames, number, seed=0, **options):
        told.append((len(frames), number))
        return torch.zeros(frames.shape[:2], dtype=torch.int64)

    monkeypatch.setattr(evaluate.rivals, "k_means", rival)
    cell = evaluate.Cell(num_speakers=5, dimension=4, scale=100.0, num_frames=60)
    active, balanced = evaluate.draw_speakers(cell, 12, "0")
    active = active[balanced]
    evaluate.measure(evaluate.methods()["k-means"], cell, active, 0, "0", "cpu")
    present = active.any(1).sum(1)
    assert sorted(told) == [(int((present == k).sum()), k) for k in present.unique().tolist()]
    assert max(k for _, k in told) < 5


def test_weighter_is_a_method(evaluate, monkeypatch, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    torch.manual_seed(0)
    save_core(MarkovRefiner(), checkpoint, {})  # untrained: a procedure by itself
    command = ["--into", tmp_path, "--grid", "none", "--sequences", 5, "--methods", "mine"]
    command += ["--cell", "d=64,T=80,scale=15", "--weighter", f"mine={checkpoint}"]
    assert run(evaluate, monkeypatch, *command) == 0
    results = json.loads((tmp_path / "K2-d64-scale15-T80" / "mine.json").read_text())
    assert results["kind"] == "weighter"
    means = {p["sigma"]: np.mean(p["accuracy"]) for p in results["points"].values()}
    assert max(means) > 2  # chance would have led to the other end of the ladder
    assert max(means.values()) > 0.9
    save_core(MarkovRefiner(), checkpoint, {}, about={"other": "weights"})
    assert run(evaluate, monkeypatch, *command) == 1  # what others did is not its own result


def curve(sigma, offsets):
    """Points of a method that crosses 90 % at sigma, for sequences with offsets."""
    steps = range(-4, 24)
    return {
        str(s): {
            "sigma": LADDER**s,
            "accuracy": list(0.9 - 0.1 * np.log2(LADDER**s / sigma) + offsets),
            "seconds": 0.001,
            "device": "cpu",
        }
        for s in steps
    }


def test_report_tells_who_is_above_whom(report, monkeypatch, tmp_path):
    offsets = np.random.default_rng(0).normal(0, 0.02, size=30)
    offsets -= offsets[10:].mean()  # of the balanced ones
    sigmas = {
        "k-means": ("rival", 4.0),
        "smoothed k-means": ("rival", 11.0),
        "sticky HMM": ("rival", 13.0),
        "frames-seed0": ("weighter", 14.0),
        "frames-seed1": ("weighter", 16.0),
        "likes-seed0": ("weighter", 12.0),
        "likes-seed1": ("weighter", 15.0),
        "known means, walk": ("limit", 20.0),
        "unknown means, walk": ("limit", 15.5),
    }
    cell = {"num_speakers": 2, "dimension": 64, "scale": 30.0, "num_frames": 1000}
    (tmp_path / "cell").mkdir()
    for name, (kind, sigma) in sigmas.items():
        content = {"method": name, "kind": kind, "cell": cell, "count": 20, "seed": 0}
        content |= {"balanced": list(range(10, 30)), "versions": {"torch": "2"}}
        content["points"] = curve(sigma, offsets)
        (tmp_path / "cell" / f"{name}.json").write_text(json.dumps(content))
    assert run(report, monkeypatch, tmp_path) == 0
    assert (tmp_path / "figure.png").stat().st_size > 1000
    page = (tmp_path / "results.md").read_text().split("## K = 2, all")[0].split("\n")

    where = "K2-d64-scale30-T1000"
    (gains,) = [page[i + 4] for i, line in enumerate(page) if line.startswith("Gain")]
    cells = [text.strip() for text in gains.strip("|").split("|")]
    assert cells[0] == where
    assert cells[1].startswith("2.75 [2.75, 2.75]")  # the same offsets: paired
    assert cells[-1] == "unknown means"  # 15.5 / 4 is below 4, 20 / 4 is not
    efficiencies = [page[i + 4] for i, line in enumerate(page) if line.startswith("Efficiency")]
    assert "| 0.8 [0.8, 0.8] |" in efficiencies[0]  # frames-seed1: 16 / 20
    (spread,) = [page[i + 4] for i, line in enumerate(page) if line.startswith("sigma90 over")]
    assert spread == f"| {where} | 15 ± 1.4 | 13.5 ± 2.1 |"
    (ratio,) = [
        page[i + 4]
        for i, line in enumerate(page)
        if line.startswith("sigma90 / sigma90 of the one")
    ]
    assert ratio == f"| {where} | 0.9 [0.9, 0.9] |"
    assert f"Cells where likes is below 0.95: 1: {where}" in page
    sections = "\n".join(page).split("Cells where ")
    (likes,) = [s for s in sections if s.startswith("likes-seed0 is")]
    outside = "outside the paired interval (of 1 that have both)"
    assert f"not above smoothed k-means, {outside}: none" in likes
    assert f"not above sticky HMM, {outside}: 1: {where}" in likes
    assert "VBx" not in likes  # nobody has looked
    assert "below G = 4" not in likes  # a limit is below it, too, in the only cell
    assert f"below eta = 0.9 (of 1 that have both): 1: {where}" in likes


def test_report_without_results(report, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="run evaluate.py"):
        run(report, monkeypatch, tmp_path)


def test_floor_goes_to_who_speaks_alone(walk):
    turns = TurnTaking(
        "file",
        starts=np.array([1.0, 3.0, 3.5, 6.0, 7.0]),
        ends=np.array([2.0, 5.0, 4.5, 7.0, 8.0]),
        speakers=np.array([0, 1, 0, 1, 0]),
    )
    # silence and overlap are those of who had the floor, the silence at the start is left out
    expected = [0] * 4 + [1] * 8 + [0] * 2
    assert walk.floor(turns, 0.5).tolist() == expected
    assert walk.lengths(np.array(expected)).tolist() == [4, 8, 2]


def test_statistics_tell_clock_from_chance_from_walk(walk):
    clock = np.arange(20000) // 50 % 2
    count, median, mean, ratio, burstiness = walk.statistics(clock, step=0.1)
    assert (count, median, mean, ratio, burstiness) == (400, 5.0, 5.0, 1.0, -1.0)
    chance = walk.pure_random(clock, np.random.default_rng(0))
    count, _, _, ratio, burstiness = walk.statistics(chance, 0.1)
    assert count == 400
    assert ratio == pytest.approx(np.log(2), abs=0.06)
    assert burstiness == pytest.approx(0, abs=0.06)
    walks = walk.walks(clock, 5, torch.Generator().manual_seed(0))
    rows = np.array([walk.statistics(w, 0.1) for w in walks])
    assert rows[:, 0].mean() == pytest.approx(400, rel=0.2)  # the fitted rate of switches
    assert (rows[:, 4] > 0.4).all()


def test_walk_end_to_end(walk, monkeypatch, tmp_path, capsys):
    lines = [
        f"SPEAKER {uri} 1 {2 * turn} {1.5 + turn % 3 / 4} <NA> <NA> {turn % speakers} <NA> <NA>\n"
        for uri, speakers in (("two", 2), ("three", 3))
        for turn in range(40)
    ]
    (tmp_path / "turns").mkdir()
    (tmp_path / "turns" / "file.rttm").write_text("".join(lines))
    command = ["--into", tmp_path / "out", "--turns", tmp_path / "turns"]
    assert run(walk, monkeypatch, *command) == 0
    assert (tmp_path / "out" / "walk.png").stat().st_size > 1000
    page = (tmp_path / "out" / "walk.md").read_text()
    assert page == capsys.readouterr().out
    assert "| recording | 9 |" in page and "| pure random | 9 |" in page
    assert "turns, files of two speakers:" in page
    assert "turns, files of more: who speaks most, against all others:" in page
    with pytest.raises(ValueError, match="name longer ones"):
        walk.compare([TurnTaking("f", np.array([0.0]), np.array([1.0]), np.array([0]))], 0.1)
