"""Protocol cards: their configurations are read, their commands are understood."""

import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
import yaml
from pyannote.core import Annotation, Segment

from pyannote_weighter.cli import app
from pyannote_weighter.protocols import protocol_files

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "recipes" / "benchmark"
if not CARDS.is_dir():
    pytest.skip(f"no recipes at {CARDS}: run from a checkout", allow_module_level=True)

COMMANDS = [
    shlex.split(line)[1:]
    for line in (CARDS / "README.md").read_text(encoding="utf-8").splitlines()
    if line.strip().startswith("pyannote-weighter ")
]
REGISTRIES = sorted(CARDS.glob("*/database.yml"))


def parsed(command: list[str]) -> tuple[str, dict]:
    """Name and options of a command, as the command line understands them."""
    name, *arguments = command
    click_command = typer.main.get_command(app).commands[name]
    return name, click_command.make_context(name, list(arguments)).params


def protocols(registry: Path) -> list[tuple[str, str, dict]]:
    """(protocol, subset, entries) of all that a registry defines."""
    defined = yaml.safe_load(registry.read_text(encoding="utf-8"))["Protocols"]
    return [
        (f"{database}.SpeakerDiarization.{name}", subset, entries)
        for database, tasks in defined.items()
        for name, subsets in tasks["SpeakerDiarization"].items()
        for subset, entries in subsets.items()
        if subset != "scope"
    ]


def put_stand_ins(folder: Path, entries: dict, uris: list[str]) -> None:
    """Write list and references of a subset where a registry in that folder looks for them."""

    def write(path: str, text: str) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    write(entries["uri"], "\n".join(uris) + "\n")
    turn = "SPEAKER {} 1 0.25 0.5 <NA> <NA> {} <NA> <NA>\n"
    lines = {uri: turn.format(uri, f"who-{uri}") for uri in uris}
    if "{uri}" in entries["annotation"]:
        for uri, line in lines.items():
            write(entries["annotation"].format(uri=uri), line)
    else:  # one file for all; other subsets may share it
        before = folder / entries["annotation"]
        before = before.read_text() if before.is_file() else ""
        write(entries["annotation"], before + "".join(lines.values()))
    if "annotated" in entries:
        for uri in uris:
            write(entries["annotated"].format(uri=uri), f"{uri} 1 0.000 1.000\n")


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda path: path.parent.name)
def test_registry_is_read(registry, tmp_path):
    copied = shutil.copy(registry, tmp_path / "database.yml")
    found = protocols(registry)
    lists = sorted({entries["uri"] for _, _, entries in found})
    uris = {path: [f"00{i}1", f"00{i}2"] for i, path in enumerate(lists)}  # numbers are names too
    for entries in {entries["uri"]: entries for _, _, entries in found}.values():
        put_stand_ins(tmp_path, entries, uris[entries["uri"]])

    databases = yaml.safe_load(registry.read_text(encoding="utf-8"))["Databases"]
    for paths in databases.values():
        # where there are several places, a file is in one of them: here the last
        path = paths if isinstance(paths, str) else paths[-1]
        for uri in sum(uris.values(), []):
            audio = tmp_path / path.format(uri=uri)
            audio.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(audio, np.zeros(16000), 16000)

    for protocol, subset, entries in found:
        files = list(protocol_files(protocol, copied, subset))
        assert [file["uri"] for file in files] == uris[entries["uri"]]
        for file in files:
            assert Path(file["audio"]).is_file()
            assert list(file["annotation"].labels()) == [f"who-{file['uri']}"]
            assert ("annotated" in entries) == (file.get("annotated") is not None)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_is_understood(command):
    name, options = parsed(command)
    if name != "benchmark":
        return
    registry = ROOT / options["registry"]
    if not registry.is_relative_to(CARDS):  # made by another recipe
        assert (ROOT / "recipes" / registry.relative_to(ROOT / "recipes").parts[0]).is_dir()
        return
    subsets = {
        subset for protocol, subset, _ in protocols(registry) if protocol == options["protocol"]
    }
    assert {options["subset"], options["development"]} - {None} <= subsets


def test_every_card_has_its_command_and_its_own_results():
    benchmarks = [options for name, options in map(parsed, COMMANDS) if name == "benchmark"]
    registries = {ROOT / options["registry"] for options in benchmarks}
    assert len(REGISTRIES) == 5 and set(REGISTRIES) <= registries
    folders = [options["into"] for options in benchmarks]
    assert len(set(folders)) == len(folders)
    for registry in REGISTRIES:
        tested = {
            options["protocol"] for options in benchmarks if ROOT / options["registry"] == registry
        }
        assert tested == {
            protocol for protocol, subset, _ in protocols(registry) if subset == "test"
        }


def test_links_of_the_readme_lead_somewhere():
    text = (CARDS / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (CARDS / target).is_file()


def test_right_counts_by_how_long_everybody_talks_alone():
    recipe = runpy.run_path(str(CARDS / "counts.py"))
    reference = Annotation(uri="a")
    for track, (start, end, who) in enumerate(
        [(0, 3, "x"), (2, 5, "y"), (2.5, 2.75, "z"), (4, 4.5, "y"), (8, 9, "x")]
    ):
        reference[Segment(start, end), track] = who
    assert recipe["seconds_alone"](reference) == {"x": 3.0, "y": 2.0, "z": 0.0}
    assert recipe["seconds_alone"](Annotation()) == {}

    def results(**speakers):
        scores = {
            n: {"reference_speakers": 3 + few, "speakers": k} for n, (few, k) in speakers.items()
        }
        return {"results": {name: {"score": score} for name, score in scores.items()}}

    files = {
        "a": results(stock=(0, 2), Weighter=(0, 3)),
        "b": results(stock=(2, 5), Weighter=(2, 5)),
        "c": results(stock=(2, 4)),  # the Weighter failed
        "d": results(stock=(0, 3), Weighter=(0, 3)),
        "e": results(stock=(-3, 0), Weighter=(-3, 1)),  # nobody speaks
        "f": results(stock=(0, 3), other=(0, 3)),  # of an earlier run
    }
    systems = dict.fromkeys(("stock", "Weighter"))
    stored = {"files": files, "systems": systems, "summary": {"files": list("abde")}}
    lines = recipe["table"](stored, {"a": 0.5, "b": 1.0, "d": 2.0}).splitlines()
    assert lines[2:] == [
        "| stock | 67 (of 3) | 100 (of 2) | 100 (of 1) | 100 (of 1) | 0 (of 1) |",
        "| Weighter | 100 (of 3) | 100 (of 2) | 100 (of 1) | 100 (of 1) | 100 (of 1) |",
    ]
