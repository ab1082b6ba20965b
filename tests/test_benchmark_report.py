"""Tests of the tables of a benchmark."""

import pytest

from pyannote_weighter.benchmark_report import by_column, markdown, summarize
from pyannote_weighter.scoring import Score


def record(confusion: float, speakers: int = 2, **seconds: float) -> dict:
    parts = Score(100.0, 2.0, 1.0, confusion, 2, speakers)
    return {"system": {}, "score": parts.to_dict(), "seconds": seconds}


@pytest.fixture
def results() -> dict:
    stock = {"segmentation": 3.0, "embeddings": 40.0, "clustering": 1.0, "annotation": 0.5}
    ours = {"segmentation": 3.0, "embeddings": 2.0, "weightings": 1.0, "other": 1.0}
    entry = {
        "duration": 1800.0,
        "results": {
            "stock": record(10.0, 3, **stock),
            "VBx": record(9.0),
            "oracle": record(4.0),
            "Weighter (seed1)": record(6.0, **ours),
            "Weighter (seed2)": record(8.0, **ours),
        },
    }
    incomplete = {"duration": 1800.0, "results": {"stock": record(50.0)}}
    return {
        "protocol": "A.SpeakerDiarization.B",
        "subset": "test",
        "order": ["a", "b", "c"],
        "systems": {
            "stock": {"parameters": {"threshold": 0.75, "min_cluster_size": 3}},
            "VBx": {"parameters": {"threshold": 0.7, "Fa": 0.05, "Fb": 0.25}},
            "oracle": {"parameters": {}},
            "Weighter (seed1)": {"sha256": ""},
            "Weighter (seed2)": {"sha256": ""},
        },
        "environment": {"torch": "2"},
        "tuning": None,
        "files": {"a": entry, "b": entry, "c": incomplete},
    }


def test_no_times_of_a_gpu(results):
    results["summary"] = summarize(results)
    assert "CPU seconds" in markdown(results)
    results["environment"]["device"] = "cuda"
    page = markdown(results)
    assert "CPU seconds" not in page and "no times given" in page


def test_times_of_unknown_origin(results):
    """Records of earlier versions do not tell their device; those of other threads differ."""
    results["summary"] = summarize(results)
    results["environment"] |= {"device": "cpu", "threads": 1}
    assert "CPU seconds" not in markdown(results) and "no times given" in markdown(results)
    for record in results["files"]["a"]["results"].values():
        record |= {"device": "cpu", "threads": 1}
    assert "CPU seconds" in markdown(results)
    record["threads"] = 2
    assert "CPU seconds" not in markdown(results)


def test_summary_pools_files_that_all_systems_have_done(results):
    summary = summarize(results)
    assert summary["files"] == ["a", "b"]
    assert summary["hours"] == 1.0
    stock, ours = summary["systems"]["stock"], summary["systems"]["Weighter (seed1)"]
    assert stock["error"] == pytest.approx(0.13)
    assert ours["difference"]["confusion"]["value"] == pytest.approx(-0.04)
    assert ours["difference"]["confusion"]["interval"] == pytest.approx([-0.04, -0.04])
    assert (stock["right_count"], ours["right_count"]) == (0, 1)
    assert stock["seconds"]["embeddings"] == 80.0  # per hour


def test_columns_lose_no_time():
    seconds = {"segmentation": 1, "speaker_counting": 2, "frames": 4, "unheard of": 8}
    columns = by_column(seconds)
    assert columns["segmentation"] == 3
    assert columns["embedding"] == 4
    assert columns["assignment"] == 8
    assert sum(columns.values()) == sum(seconds.values())


def test_page(results):
    results["summary"] = summarize(results)
    page = markdown(results)
    assert "| stock | 13.0 [13.0, 13.0] | 2.0 | 1.0 | 10.0 [10.0, 10.0] | 0 |  |  |" in page
    assert "| Weighter (seed1) | 9.0 [9.0, 9.0] |" in page and "-4.0 [-4.0, -4.0] |" in page
    assert "DER 10.00 ± 1.41" in page and "confusion 7.00 ± 1.41" in page
    # embedding + assignment: (4 + 4) / (80 + 2)
    assert "| Weighter (seed1) | 6.0 | 4.0 | 4.0 | 0.0 | 14.0 | 0.098 |" in page
    assert "1 files left out" in page
    assert (
        "- Weighter (seed2), confusion less that of others: stock -2.0 [-2.0, -2.0], "
        "VBx -1.0 [-1.0, -1.0], oracle +4.0 [+4.0, +4.0], Weighter (seed1) +2.0 [+2.0, +2.0]\n"
    ) in page
    assert "- stock, confusion less" not in page
    assert "- VBx: threshold 0.7, Fa 0.05, Fb 0.25, chosen on other voices\n" in page
    assert "- stock, frame by frame: centroid linkage, threshold 0.75" in page
    assert "- stock, right count by number of speakers: 2 to 4: 0 % of 2" in page


def test_page_without_rivals(results):
    for name in ("stock", "VBx", "oracle"):
        del results["systems"][name]
    results["summary"] = summarize(results)
    page = markdown(results)
    assert "| | DER | missed | false alarm | confusion | right count |\n" in page
    assert "| Weighter (seed1) | 9.0 [9.0, 9.0] | 2.0 | 1.0 | 6.0 [6.0, 6.0] | 100 |\n" in page
    assert "| Weighter (seed1) | 6.0 | 4.0 | 4.0 | 0.0 | 14.0 |\n" in page
    assert not any(word in page for word in ("linkage", "stock", "VBx"))
