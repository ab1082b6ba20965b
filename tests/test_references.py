"""References are found however RTTM and UEM write the uri of a file."""

import unicodedata

import pytest
from pyannote.core import Segment

from pyannote_weighter.protocols import protocol_files
from pyannote_weighter.references import forms, spellings

ROW = "SPEAKER {} 1 0.0 2.0 <NA> <NA> ann <NA> <NA>\n"
NAME = "Broken.SpeakerDiarization.Own"
APART, TOGETHER = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFD", "NFC"))


@pytest.fixture
def files(tmp_path):
    """Files of a protocol with these uris, and what its RTTM and UEM list."""

    def make(uris, rttm, uem=None, template=False) -> dict:
        (tmp_path / "u.lst").write_text("".join(f"{uri}\n" for uri in uris))
        entries = "uri: u.lst, annotation: '" + ("{uri}.rttm'" if template else "r.rttm'")
        if template:
            for uri, listed in zip(uris, rttm, strict=True):
                (tmp_path / f"{uri}.rttm").write_text(ROW.format(listed))
        else:
            (tmp_path / "r.rttm").write_text("".join(map(ROW.format, rttm)))
        if uem is not None:
            (tmp_path / "u.uem").write_text("".join(f"{uri} 1 0.0 1.0\n" for uri in uem))
            entries += ", annotated: u.uem"
        path = tmp_path / "database.yml"
        path.write_text(
            "Databases: {Broken: 'nowhere/{uri}.wav'}\nProtocols:\n  Broken:\n"
            f"    SpeakerDiarization: {{Own: {{scope: file, test: {{{entries}}}}}}}"
        )
        return {file["uri"]: file for file in protocol_files(NAME, path, "test")}

    return make


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(
    ("uri", "listed"),
    [
        ("one", "one"),
        ("my file", "my_file"),
        (APART, TOGETHER),
        (TOGETHER, APART),
        (f"a {APART}", f"a_{TOGETHER}"),
        (f"a {APART}", f"a_{APART}"),
    ],
)
def test_spellings(files, uri, listed, template):
    (file,) = files([uri], [listed], [listed], template).values()
    assert file["annotation"].uri == uri and file["annotation"].labels() == ["ann"]
    assert file["annotated"].uri == uri and list(file["annotated"]) == [Segment(0, 1)]
    assert file["annotation"] is file["annotation"]  # read once


def test_other_spellings_are_no_others():
    assert spellings("one") == forms("one") == []
    assert forms(TOGETHER) == [APART] and forms(APART) == [TOGETHER]
    assert spellings("my file") == ["my_file"]
    assert len(spellings(f"a {APART}")) == 3


def test_who_is_not_listed_has_none(files):
    listed, other = files(["my file", "other"], ["my_file"]).values()
    assert listed["annotation"] and not other["annotation"]
    assert other["annotation"].uri == "other"


@pytest.mark.parametrize("uris", [["my file", "my_file"], ["my_file", "my file"]])
def test_uris_that_are_one_in_rttm(files, uris):
    with pytest.raises(ValueError, match="'my.file' and 'my.file' are both 'my_file' in `annot"):
        files(uris, ["my_file"])


def test_uris_that_have_an_rttm_each(files, tmp_path):
    one, two = "my file", "my_file"
    files([one], ["my_file"], template=True)
    (tmp_path / "u.lst").write_text(f"{one}\n{two}\n")
    (tmp_path / f"{two}.rttm").write_text(ROW.format("my_file").replace("ann", "bob"))
    found = protocol_files(NAME, tmp_path / "database.yml", "test")
    assert [file["annotation"].labels() for file in found] == [["ann"], ["bob"]]


def test_a_reference_of_which_nothing_counts(files):
    one, two = files(["one", "two"], ["one"], ["other"]).values()
    assert not two["annotated"]  # nor is there a reference
    for _ in range(2):
        with pytest.raises(ValueError, match="yml: one has a reference of which .* in the UEM"):
            one["annotated"]
        with pytest.raises(ValueError, match="one has a reference of which nothing counts"):
            one["annotation"]
