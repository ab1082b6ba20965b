import json
import os

import pytest

from pyannote_weighter.results import place_of, read_results


def broken(what: str) -> str:
    content = {
        "uri": "x",
        "speakers": [
            {"speaker": "a", "duration": 1.0, "embedding": [1.0, 2.0]},
            {"speaker": "b", "duration": 1.0, "embedding": [2.0, 1.0]},
        ],
        "diarization": [{"start": 0.0, "end": 1.0, "speaker": "a"}],
    }
    first = content["speakers"][0]
    if what == "no uri":
        del content["uri"]
    elif what == "uri":
        content["uri"] = None
    elif what == "no turns":
        del content["diarization"]
    elif what == "stranger":
        content["diarization"][0]["speaker"] = "c"
    elif what == "one label":
        first["speaker"] = "b"
    elif what == "no embedding":
        del first["embedding"]
    elif what == "null":
        first["embedding"][0] = None
    elif what == "NaN":
        first["embedding"][0] = float("nan")
    elif what == "ragged":
        first["embedding"].append(1.0)
    elif what == "text":
        first["embedding"] = "text"
    elif what == "empty":
        for entry in content["speakers"]:
            entry["embedding"] = []
    elif what == "speakers":
        content |= {"speakers": {}, "diarization": []}
    elif what == "turns":
        content["diarization"] = {}
    elif what == "backwards":
        content["diarization"][0]["start"] = 1.5
    elif what == "never":
        content["diarization"][0]["end"] = float("inf")
    elif what == "constant":
        first["confidence"] = float("nan")
    elif what == "number":
        first["confidence"] = 0.5
        return json.dumps(content).replace("0.5", "1e999")
    elif what == "long":
        first["duration"] = 10**400
    elif what == "late":
        content["diarization"][0]["end"] = 10**400
    elif what == "id":
        content["embedding_id"] = ["x"]
    elif what == "short":
        first["duration"] = -1.0
    elif what == "quoted":
        first["embedding"] = ["1.0", "2.0"]
    elif what == "quoted time":
        first["duration"] = "1.0"
    elif what == "true":
        first["embedding"] = [True, True]
    elif what == "label":
        first["speaker"] = content["diarization"][0]["speaker"] = 7
    elif what == "was":
        first["was"] = 7
    elif what == "was null":
        first["was"] = None
    elif what == "no object":
        content["speakers"][0] = "a"
    elif what == "half a letter":
        first["speaker"] = content["diarization"][0]["speaker"] = "\ud800"
    elif what == "half a letter of uri":
        content["uri"] = "x\ud800"
    elif what == "half a letter elsewhere":
        content["audio"] = {"path": "\ud800"}
    elif what == "words":
        content["diarization"][0] |= {"start": "zero", "end": "one"}
    return json.dumps(content)


@pytest.mark.parametrize(
    "what",
    ["no uri", "uri", "no turns", "stranger", "one label", "no embedding", "null", "NaN",
     "ragged", "text", "empty", "speakers", "turns", "backwards", "never", "words", "constant",
     "number", "long", "late", "id", "short", "quoted", "quoted time", "true", "label", "was",
     "was null", "no object", "half a letter", "half a letter of uri", "half a letter elsewhere"],
)  # fmt: skip
def test_what_is_no_result_is_named(tmp_path, what):
    path = tmp_path / "bad.json"
    path.write_text(broken("nothing"))
    assert read_results([path])[0].uri == "x"
    path.write_text(broken(what))
    with pytest.raises(ValueError, match=r"bad\.json: no result with embeddings"):
        read_results([path])


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "[" * 100_000, "\udce9" + "a" * 2000])
def test_what_is_no_json_of_a_result_is_named(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"bad\.json: no result with embeddings") as error:
        read_results([path])
    assert len(str(error.value)) < 1000  # and not all that is there


def test_a_byte_order_mark_is_left_out(tmp_path):
    path = tmp_path / "edited.json"
    path.write_text(broken("nothing"), encoding="utf-8-sig")
    assert read_results([path])[0].uri == "x"


def test_places_are_one_however_windows_writes_them(monkeypatch):
    assert place_of("/audio/a.wav") != place_of("/Audio/a.wav")
    monkeypatch.setattr(os.path, "normcase", str.lower)
    assert place_of("/audio/a.wav") == place_of("/Audio/a.wav")


def test_a_turn_without_length_is_one(tmp_path):
    """Times are rounded."""
    content = json.loads(broken("nothing"))
    content["diarization"][0]["end"] = 0.0
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_results([tmp_path / "a.json"])[0].content["diarization"] == content["diarization"]
