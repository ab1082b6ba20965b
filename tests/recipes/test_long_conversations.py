"""Options of the recipe of long conversations."""

import runpy
import sys
from pathlib import Path

import pytest

from pyannote_weighter.simulation import Acoustics

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "length" / "conversations.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)


@pytest.mark.parametrize(
    ("options", "turns", "speakers", "acoustics"),
    [
        ([], "development", (4, 4), Acoustics()),
        (["--turns", "train"], "train", (3, 4), Acoustics()),
        (
            ["--stay", "40", "150"],
            "development",
            (4, 4),
            Acoustics(stay=(40.0, 150.0), room_share=1.0, direct_ratio=(-6.0, 10.0)),
        ),
    ],
)
def test_options(monkeypatch, tmp_path, options, turns, speakers, acoustics):
    main = runpy.run_path(str(RECIPE))["main"]
    written = []
    monkeypatch.setitem(
        main.__globals__,
        "read_subset",
        lambda folder, subset: (f"voices {subset}", f"turns {subset}"),
    )
    monkeypatch.setitem(
        main.__globals__, "write_corpus", lambda *args, **given: written.append((args, given))
    )
    command = ["--voices", "voices", "--into", str(tmp_path), "--subset", "development"]
    monkeypatch.setattr(sys, "argv", ["conversations.py", *command, *options])
    main()
    (((_, *data), given),) = written
    assert data == ["voices development", f"turns {turns}"]
    assert given["speakers"] == speakers and given["acoustics"] == acoustics
