"""Tests of the command line."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typer.main import get_command
from typer.testing import CliRunner

import pyannote_weighter
from pyannote_weighter.apply import FORMATS
from pyannote_weighter.cli import app, main
from tests.dummy_pipeline import HalfAndHalf, write_pipeline

runner = CliRunner()


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "talk.wav", np.zeros(8000), 8000)
    return tmp_path / "talk.wav"


@pytest.mark.parametrize("command", ["demo", "apply", "benchmark", "train", "name"])
def test_help(command):
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--into" in result.output


def test_version():
    result = runner.invoke(app, ["--version"])
    assert result.output == f"pyannote-weighter {pyannote_weighter.__version__}\n"


def test_help_imports_nothing_heavy_and_telemetry_is_off():
    code = (
        "import sys, os, pyannote_weighter.cli; "
        "print(sorted({'torch', 'numpy', 'pyannote.audio', 'matplotlib'} & set(sys.modules)), "
        "os.environ['PYANNOTE_METRICS_ENABLED'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYANNOTE_METRICS_ENABLED"}
    for given, expected in (({}, "[] 0\n"), ({"PYANNOTE_METRICS_ENABLED": "1"}, "[] 1\n")):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | given,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == expected


def test_apply(tmp_path, audio):
    arguments = ["apply", str(audio), "--into", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--pipeline", str(write_pipeline(tmp_path / "pipeline")), "--format", "rttm"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["talk.rttm"]
    result = runner.invoke(app, [*arguments[:-1], "csv, audacity,webvtt"])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"talk.rttm", "talk.csv", "talk.txt", "talk.vtt"}

    result = runner.invoke(app, [*arguments, str(tmp_path / "missing.wav")])
    assert result.exit_code == 1
    assert "1 of 2 files failed" in result.output
    assert "no such audio file" in " ".join(result.output.split())


def test_apply_with_likes(tmp_path, audio, monkeypatch):
    likes = tmp_path / "archive.likes"
    likes.write_text("talk ann bob cy\n")
    given = []
    run = HalfAndHalf.apply

    def remember(self, file, min_speakers=None, **options):
        given.append(min_speakers)
        return run(self, file, **options)

    monkeypatch.setattr(HalfAndHalf, "apply", remember)
    arguments = ["apply", str(audio), "--into", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--pipeline", str(write_pipeline(tmp_path / "pipeline")), "--likes", str(likes)]
    assert runner.invoke(app, arguments).exit_code == 0
    assert given == [3]
    likes.write_text("talk.wav ann bob\n")
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1 and f"{likes} (there: talk.wav)" in str(result.exception)
    assert given == [3]


def test_threads_of_apply(tmp_path, audio, monkeypatch):
    before, given = torch.get_num_threads(), []
    run = HalfAndHalf.apply

    def remember(self, file, **options):
        given.append(torch.get_num_threads())
        return run(self, file, **options)

    monkeypatch.setattr(HalfAndHalf, "apply", remember)
    arguments = ["apply", str(audio), "--into", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--pipeline", str(write_pipeline(tmp_path / "pipeline"))]
    try:
        for more in ([], ["--threads", "3"]):
            result = runner.invoke(app, [*arguments, *more])
            assert result.exit_code == 0, result.output
    finally:
        torch.set_num_threads(before)
    assert given == [before, 3]
    assert runner.invoke(app, [*arguments, "--threads", "0"]).exit_code == 2


@pytest.mark.parametrize("name", ["foo", "cuda:99", "meta", "hpu", "privateuseone", ""])
def test_devices_that_are_not_there_are_refused(tmp_path, audio, name):
    arguments = ["apply", str(audio), "--into", str(tmp_path / "out"), "--device", name]
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, ValueError)
    assert f"--device {name} cannot be used here" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_cannot_be_used_is_left_alone(tmp_path, audio, monkeypatch):
    """It is there, but full, or of a kind that this PyTorch was not built for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    zeros = torch.zeros

    def full(*size, device="cpu", **options):
        if str(device) == "cuda":
            raise RuntimeError("CUDA error: out of memory")
        return zeros(*size, device=device, **options)

    monkeypatch.setattr(torch, "zeros", full)
    arguments = ["apply", str(audio), "--into", str(tmp_path / "out")]
    arguments += ["--pipeline", str(write_pipeline(tmp_path / "pipeline"))]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "the GPU cannot be used (CUDA error: out of memory)" in result.output


def test_bad_folders_and_names_are_refused_before_the_models_are_loaded(tmp_path, audio):
    other = tmp_path / "other" / "talk.wav"
    other.parent.mkdir()
    soundfile.write(other, np.ones(9000), 8000)
    pipeline = ["--device", "cpu", "--pipeline", str(write_pipeline(tmp_path / "pipeline"))]
    done = runner.invoke(app, ["apply", str(audio), "--into", str(tmp_path / "out"), *pipeline])
    assert done.exit_code == 0

    def refused(*arguments):
        result = runner.invoke(app, ["apply", *map(str, arguments), "--pipeline", "none"])
        return str(result.exception)

    assert "to this folder: there is a file" in refused(audio, "--into", audio)
    assert "those of another recording" in refused(other, "--into", tmp_path / "out")
    many = ["--min-speakers", "5", "--max-speakers", "2"]
    into = ["--into", tmp_path / "out"]
    assert "--min-speakers 5 is more than --max-speakers 2" in refused(audio, *into, *many)
    long = tmp_path / ("a" * 251 + ".wav")
    assert "too long for its results" in refused(long, "--into", tmp_path / "out")


def test_help_of_apply_names_all_formats():
    options = get_command(app).commands["apply"].params
    (option,) = [option for option in options if option.name == "formats"]
    assert all(name in option.help for name in FORMATS)


def test_errors_are_told_without_a_traceback(tmp_path, audio, monkeypatch, capsys):
    arguments = ["apply", str(audio), "--into", str(tmp_path), "--format", "srt,csv"]
    monkeypatch.setattr(sys, "argv", ["pyannote-weighter", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    known = "rttm, json, csv, audacity, webvtt, png"
    assert f"error: unknown format srt: choose from {known}\n" in capsys.readouterr().err
    monkeypatch.setenv("PYANNOTE_WEIGHTER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown format"):
        main()


def test_a_file_that_ends_too_early_is_told_of(tmp_path, audio, monkeypatch, capsys):
    """Typer takes such an error for Ctrl-D, and says no more than that it stops."""

    def load(*_):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("pyannote_weighter.pipelines.folders.load_pipeline", load)
    command = ["pyannote-weighter", "apply", str(audio), "--into", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "error: a file ends too early" in capsys.readouterr().err


def test_benchmark_names_a_missing_registry(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyannote.audio")
    monkeypatch.setattr(
        sys,
        "argv",
        ["pyannote-weighter", "benchmark", "A.SpeakerDiarization.B", "--registry"]
        + [str(tmp_path / "database.yml"), "--into", str(tmp_path)],
    )
    with pytest.raises(SystemExit):
        main()
    assert "no such database.yml" in capsys.readouterr().err


def interrupted_by_lightning(*_):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.fixture
def interruptible():
    """Ctrl-C as usual: who runs tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_where_nobody_sees_it(*_):
    """As in the end of a data loader; its workers have got the signal, too."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")


def interrupted(*_):
    raise KeyboardInterrupt


def terminated(*_):
    raise SIGTERMException


@pytest.mark.parametrize(
    "stop, code",
    [
        (interrupted, 130),
        (interrupted_by_lightning, 130),
        (interrupted_where_nobody_sees_it, 130),
        (terminated, 143),
    ],
)
def test_who_stops_a_training_is_told_how_to_go_on(
    tmp_path, monkeypatch, interruptible, stop, code
):
    config = tmp_path / "train.yaml"
    config.write_text("protocol: P\nregistry: r\n")
    monkeypatch.setattr("pyannote_weighter.training.train", stop)
    command = ["train", str(config), "--into", str(tmp_path / "run")]
    result = runner.invoke(app, command)
    assert result.exit_code == code and "--resume" not in result.output
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    result = runner.invoke(app, command)
    assert result.exit_code == code and "--resume goes on" in result.output


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_an_error_that_is_no_interruption_stays_as_it_is(
    tmp_path, monkeypatch, interruptible, before
):
    def wrong(*_):
        raise EOFError("half a frame")

    signal.signal(signal.SIGINT, before)
    monkeypatch.setattr("pyannote_weighter.training.train", wrong)
    result = runner.invoke(app, ["train", "train.yaml", "--into", str(tmp_path / "run")])
    assert "a file ends too early" in str(result.exception)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_exit_of_a_training_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("pyannote_weighter.training.train", lambda *_: sys.exit(3))
    result = runner.invoke(app, ["train", "train.yaml", "--into", str(tmp_path / "run")])
    assert result.exit_code == 3


def test_warnings_are_shown_without_a_place_in_the_code(tmp_path):
    """Of ours one line, of Lightning's nothing."""
    code = (
        "import sys, warnings\n"
        "from pyannote_weighter import cli, terminal\n"
        "def said():\n"
        "    terminal.quiet_lightning()\n"
        "    from lightning.pytorch.utilities.warnings import PossibleUserWarning\n"
        "    warnings.warn('of Lightning', PossibleUserWarning)\n"
        "    warnings.warn('of ours')\n"
        "cli.app = said\n"
        "cli.main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "warning: of ours\n"
