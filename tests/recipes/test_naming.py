"""The script that counts right names."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from pyannote.core import Annotation, Segment

from pyannote_weighter.naming import Speakers
from pyannote_weighter.output import to_json
from pyannote_weighter.results import Result

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "naming" / "score.py"
if not RECIPE.is_file():
    pytest.skip(f"no recipe at {RECIPE}: run from a checkout", allow_module_level=True)

PEOPLE = ("ann", "bob", "cy", "dee", "eve", "fay")


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # which the script would set for good
    return runpy.run_path(str(RECIPE))


@pytest.fixture
def archive() -> tuple[list[Result], dict]:
    """24 files, each of two of six people who talk for 2 s and 1 s, and their references."""
    rng = np.random.default_rng(0)
    voices = np.linalg.qr(rng.normal(size=(32, 32)))[0][: len(PEOPLE)]
    results, references = [], {}
    for number in range(24):
        uri = f"file{number:02d}"
        who = rng.permutation(len(PEOPLE))[:2]
        reference, found = Annotation(uri), Annotation(uri)
        for start, end, position in ((0.0, 2.0, 0), (2.0, 3.0, 1)):
            reference[Segment(start, end)] = PEOPLE[who[position]]
            found[Segment(start, end)] = f"SPEAKER_{position:02d}"
        embeddings = voices[who] + rng.normal(scale=0.02, size=(2, 32))
        speakers = Speakers(found.labels(), embeddings.astype(np.float32), np.array([2.0, 1.0]))
        names = {label: label for label in found.labels()}
        results.append(Result(Path(f"{uri}.json"), to_json(found), names, speakers))
        references[uri] = reference, sorted(PEOPLE[k] for k in who)
    return results, references


def test_everybody_gets_the_right_name(recipe, archive):
    tagged, voices, there, others = recipe["judge"](*archive, 1.0, 1.0, 0.0, 0)
    assert (tagged, voices) == (12, 6)
    for some in (there, others):
        assert (some.right, some.wrong, some.known) == (24, 0, 24)
        assert (some.seconds_right, some.seconds_wrong) == (36.0, 0.0) and some.seconds == 36.0
        assert str(some) == "24 | 0 | 100 | 100.0 | 100 | 0.0"


def test_wrong_names_are_counted_with_their_speech(recipe, archive):
    results, references = archive
    uri = recipe["shuffled"](results, 1.0, 0)[0][-1].uri
    reference, likes = references[uri]
    references[uri] = reference.rename_labels({likes[0]: "gus"}), ["gus", likes[1]]
    others = recipe["judge"](results, references, 1.0, 1.0, 0.0, 0)[3]
    (turn,) = reference.label_timeline(likes[0])
    assert (others.right, others.wrong, others.known) == (23, 1, 23)
    assert others.seconds_wrong == turn.duration


def test_who_is_in_a_file(recipe, archive):
    assert recipe["identify"](*archive, 0) == "| 6 | 0.00 | 0.00 | 0.00 | 100.00 |"
    results, references = archive
    silent = Speakers([], np.zeros((0, 32), dtype=np.float32), np.zeros(0))
    last = recipe["shuffled"](results, 1.0, 0)[0][-1]
    results = [r._replace(speakers=silent) if r.uri == last.uri else r for r in results]
    line = recipe["identify"](results, references, 0).strip("| ").split(" | ")
    missed, many, right = map(float, line[2:])
    assert missed == pytest.approx(100 * 2 / 24, abs=0.01)
    assert many == 0 and right == pytest.approx(100 * 11 / 12, abs=0.01)


def test_errors_of_the_diarization(recipe, archive):
    results, references = archive
    files = {uri: {"annotation": reference} for uri, (reference, _) in references.items()}
    head, _, cells = recipe["diarization"](results, files).splitlines()
    assert head == "| DER | confusion | right count | 2 to 4 speakers |"
    assert cells == "| 0.0 | 0.00 [0.0, 0.0] | 100 | 100 |"
    # somebody else from 1 s on in one file of 24: a second of 72, and one speaker too few
    reference = files["file03"]["annotation"] = Annotation("file03")
    reference[Segment(0, 1)], reference[Segment(1, 2)], reference[Segment(2, 3)] = "abc"
    cells = recipe["diarization"](results, files).splitlines()[-1]
    assert cells.startswith("| 1.4 | 1.39 [0.0, ") and cells.endswith("] | 96 | 96 |")


def test_a_part_of_the_tagged_half(recipe, archive):
    whole, half = recipe["shuffled"](archive[0], 1.0, 3)
    part, few = recipe["shuffled"](archive[0], 0.25, 3)
    assert (half, few, len(part)) == (12, 3, 15)
    assert part[:3] == whole[:3] and part[3:] == whole[12:]


def test_conditions_with_too_few_tags_are_dashes(recipe, archive, monkeypatch, capsys):
    results, references = archive
    main = recipe["main"]
    known = main.__globals__
    few = results[:8]  # a tenth of those that are tagged is no file at all
    files = [
        {"uri": uri, "annotation": reference, "likes": likes}
        for uri, (reference, likes) in references.items()
    ]
    monkeypatch.setitem(known, "protocol_files", lambda *args: files)
    monkeypatch.setitem(known, "read_results", lambda paths: few)
    monkeypatch.setattr(sys, "argv", ["score.py", "results", "--registry", "database.yml"])
    main()
    table, _, others, _, diarization = capsys.readouterr().out.strip().split("\n\n")
    rows = table.splitlines()
    assert len(rows) == 2 + len(recipe["CONDITIONS"])
    assert rows[-1] == "| 0 | 100% | 0% |" + " - |" * 13
    assert rows[2].startswith("| 4 | 100% | 0% |") and " - |" not in rows[2]
    assert len({row.count("|") for row in rows}) == 1
    assert len(others.splitlines()) == 5
    assert diarization.splitlines()[-1] == "| 0.0 | 0.00 [0.0, 0.0] | 100 | 100 |"
    nobody = {uri: (reference, []) for uri, (reference, _) in references.items()}
    assert recipe["identify"](few, nobody, 0) == "| - | - | - | - | - |"
