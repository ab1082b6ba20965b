"""What the command line tells of what goes wrong before it begins; more in `test_cli`."""

import os
import subprocess
import sys

import pytest

from pyannote_weighter.terminal import of_own_definition


@pytest.mark.parametrize("text", ["a: [\n", "Protocols:\n - A\n"])
def test_a_broken_definition_in_the_working_folder(tmp_path, text):
    """It is read when pyannote is imported, whatever is asked for."""
    (tmp_path / "database.yml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pyannote_weighter.cli", "demo", "--into", "out"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYANNOTE_WEIGHTER_TRACEBACK"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: pyannote reads the database.yml of the working folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["database.yml"]


def test_other_errors_are_not_of_it():
    try:
        int("three")
    except ValueError as error:
        assert not of_own_definition(error)
