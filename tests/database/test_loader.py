"""LikesLoader on its own, and found by pyannote.database."""

import importlib.metadata
import os
import pickle

import pytest

from pyannote_weighter.database import LikesLoader, write_likes


def test_one_file(tmp_path):
    write_likes(tmp_path / "train.likes", {"ep1": ["Anna Lee", "Bob"], "ep2": []})
    loader = LikesLoader(tmp_path / "train.likes")
    assert loader({"uri": "ep1"}) == ("Anna Lee", "Bob")
    assert loader({"uri": "ep2"}) == ()  # known to have none
    assert loader({"uri": "ep3"}) is None  # unknown


@pytest.mark.parametrize("listed, uri", [("Caf\u00e9", "Cafe\u0301"), ("Cafe\u0301", "Caf\u00e9")])
def test_other_unicode_forms_of_a_uri(tmp_path, listed, uri):
    write_likes(tmp_path / "train.likes", {listed: ["Rene\u0301"]})
    loader = LikesLoader(tmp_path / "train.likes")
    assert loader({"uri": uri}) == ("Rene\u0301",) == loader({"uri": listed})  # as it is typed


def test_reads_nothing_before_the_first_call(tmp_path):
    loader = LikesLoader(tmp_path / "later.likes")
    with pytest.raises(FileNotFoundError, match="later.likes"):
        loader({"uri": "ep1"})
    write_likes(tmp_path / "later.likes", {"ep1": ["Bob"]})
    assert loader({"uri": "ep1"}) == ("Bob",)


def test_reads_an_edited_file_again(tmp_path):
    path = tmp_path / "train.likes"
    loader = LikesLoader(path)
    write_likes(path, {"ep1": ["Bob"]})
    assert loader({"uri": "ep1"}) == ("Bob",)
    write_likes(path, {"ep1": ["Ann"]})
    os.utime(path, ns=(1, 1))  # whatever the resolution of the clock
    assert loader({"uri": "ep1"}) == ("Ann",)


def test_template(tmp_path):
    (tmp_path / "train").mkdir()
    write_likes(tmp_path / "train" / "ep1.likes", {"ep1": ["Bob"]})
    (tmp_path / "train" / "ep2.likes").write_text("# not tagged yet\n")
    loader = LikesLoader(f"{tmp_path}/{{subset}}/{{uri}}.likes")
    assert loader({"uri": "ep1", "subset": "train"}) == ("Bob",)
    assert loader({"uri": "ep2", "subset": "train"}) is None
    with pytest.raises(FileNotFoundError, match="ep3.likes"):
        loader({"uri": "ep3", "subset": "train"})
    with pytest.raises(ValueError, match="'subset'"):
        loader({"uri": "ep1"})


def test_braces_without_their_pair(tmp_path):
    loader = LikesLoader(f"{tmp_path}/likes{{1/{{uri}}.likes")
    with pytest.raises(ValueError, match=r"likes{1/{uri}.likes: no such file, and no template"):
        loader({"uri": "ep1"})


def test_braces_in_the_name_of_a_file(tmp_path):
    path = tmp_path / "a{b}c.likes"
    write_likes(path, {"ep1": ["Bob"]})
    assert LikesLoader(path)({"uri": "ep1"}) == ("Bob",)


def test_pickles(tmp_path):
    write_likes(tmp_path / "train.likes", {"ep1": ["Bob"]})
    loader = pickle.loads(pickle.dumps(LikesLoader(tmp_path / "train.likes")))
    assert loader({"uri": "ep1"}) == ("Bob",)


def test_entry_point():
    found = importlib.metadata.entry_points(group="pyannote.database.loader", name=".likes")
    if not found:
        pytest.skip("pyannote-weighter is not installed: pip install -e . to test its entry point")
    assert {entry.load() for entry in found} == {LikesLoader}
