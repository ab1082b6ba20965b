import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyannote_weighter.database import read_likes
from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.simulation import SAMPLE_RATE

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "conversations" / "make.py"


def test_recipe_divides_speakers(tmp_path, monkeypatch):
    if not SCRIPT.is_file():  # the installed package comes without recipes
        pytest.skip(f"no recipe at {SCRIPT}: run from a checkout")
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE)
    for corpus in ("an4", "librispeech", "speechocean"):
        for speaker in range(40):
            (tmp_path / corpus / f"s{speaker}").mkdir(parents=True)
            soundfile.write(tmp_path / corpus / f"s{speaker}" / "a.flac", tone, SAMPLE_RATE)
    # stretches of 120 s with two speakers, three, ... six
    speakers = [turn % size for size in range(2, 7) for turn in range(30)]
    for source in ("voxconverse-dev", "ami-train"):
        (tmp_path / "turns" / source).mkdir(parents=True)
        for number in range(10):
            uri = f"{source}{number}"
            lines = [
                f"SPEAKER {uri} 1 {4 * turn} 3.5 <NA> <NA> {speaker} <NA> <NA>\n"
                for turn, speaker in enumerate(speakers)
            ]
            (tmp_path / "turns" / source / f"{number}.rttm").write_text("".join(lines))
    arguments = ["--voices", str(tmp_path), "--into", str(tmp_path / "out"), "--train", "6"]
    arguments += ["--development", "3", "--test", "3", "--likes-kept", "0.5"]
    arguments += ["--speakers", "2", "6"]
    monkeypatch.setattr(sys, "argv", ["make.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    present = {}
    for subset in ("train", "development", "test"):
        rttm = (tmp_path / "out" / f"{subset}.rttm").read_text()
        present[subset] = {line.split()[7] for line in rttm.splitlines()}
        likes = read_likes(tmp_path / "out" / f"{subset}.likes")
        named = {name for names in likes.values() for name in names}
        assert named < present[subset] if subset == "train" else named == present[subset]
    assert not present["train"] & present["development"]
    assert not present["train"] & present["test"]
    assert not present["development"] & present["test"]

    registry = tmp_path / "out" / "database.yml"
    arguments = [str(registry), "--by", "4", "--into", str(tmp_path / "joined")]
    monkeypatch.setattr(sys, "argv", ["join.py", *arguments])
    runpy.run_path(str(SCRIPT.with_name("join.py")), run_name="__main__")
    name = "Simulated.SpeakerDiarization.Conversations"
    short = list(protocol_files(name, registry, "train"))
    long = list(protocol_files(name, tmp_path / "joined" / "database.yml", "train"))
    assert [file["uri"] for file in long] == [f"{short[first]['uri']}-by4" for first in (0, 4)]
    for file, parts in zip(long, (short[:4], short[4:]), strict=True):
        assert set(file["likes"]) == {who for part in parts for who in part["likes"]}
        lengths = [soundfile.info(part["audio"]).duration for part in parts]
        assert soundfile.info(file["audio"]).duration == pytest.approx(sum(lengths))
        last, offset = parts[-1]["annotation"], sum(lengths[:-1])
        for label in last.labels():
            (*_, turn) = file["annotation"].label_timeline(label)
            (*_, expected) = last.label_timeline(label)
            assert turn.end == pytest.approx(expected.end + offset, abs=2e-3)
    judged = list(protocol_files(name, tmp_path / "joined" / "database.yml", "test"))
    assert len(judged) == 3 and all(Path(file["audio"]).is_file() for file in judged)

    monkeypatch.setattr(sys, "argv", ["join.py", *arguments[:-1], str(tmp_path / "more")])
    sys.argv += ["--subset", "test"]
    runpy.run_path(str(SCRIPT.with_name("join.py")), run_name="__main__")
    more = tmp_path / "more" / "database.yml"
    (whole,) = protocol_files(name, more, "test")
    assert set(whole["annotation"].labels()) == {
        w for f in judged for w in f["annotation"].labels()
    }
    for subset in ("train", "development"):  # the others are as they were
        others = list(protocol_files(name, more, subset))
        known = list(protocol_files(name, registry, subset))
        assert [Path(f["audio"]).resolve() for f in others] == [
            Path(f["audio"]).resolve() for f in known
        ]
