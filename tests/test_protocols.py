"""Definitions of protocols that are broken, and what is said of them."""

import unicodedata

import pytest
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database import protocol as protocol_module
from pyannote.database import registry as global_registry
from pyannote.database.protocol.protocol import Protocol
from pyannote.database.registry import Registry

from pyannote_weighter.protocols import (
    _asked_in_place_of_the_global,
    add_audio,
    find_protocol,
    load_registry,
    protocol_files,
    reference_digest,
)

HEAD = "Databases: {Broken: 'nowhere/{uri}.wav'}\nProtocols:\n  Broken:"
NAME = "Broken.SpeakerDiarization.Own"


def written(folder, text):
    path = folder / "database.yml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Protocols: [unclosed", "is no YAML: (?s:.*)line 1"),
        ("", "expected the keys Databases and Protocols"),
        ("- a\n- b", "expected the keys Databases and Protocols"),
        (f"{HEAD} hello", "Protocols.Broken is 'hello': expected a mapping of tasks"),
        (f"{HEAD}", "Protocols.Broken is None: expected a mapping of tasks"),
        (
            f"{HEAD} {{SpeakerDiarization: [a]}}",
            r"Protocols.Broken.SpeakerDiarization is \['a'\]: expected a mapping of protocols",
        ),
        (
            f"{HEAD} {{SpeakerDiarization: {{Own: x.lst}}}}",
            f"Protocols.{NAME} is 'x.lst': expected a mapping of subsets",
        ),
        (
            f"{HEAD} {{SpeakerDiarization: {{Own: {{scope: file, test: x.lst}}}}}}",
            f"Protocols.{NAME}.test is 'x.lst': expected a mapping of entries",
        ),
        (
            f"{HEAD} {{SpeakerDiarization: {{Own: {{scope: file, test: {{uri: 5}}}}}}}}",
            f"Protocols.{NAME}.test.uri is 5: expected the path of a list",
        ),
        *(
            (
                f"{HEAD} {{SpeakerDiarization: {{Own: {{test: {{uri: u.lst, {entry}}}}}}}}}",
                f"Protocols.{NAME}.test.{told}: expected the path of a file",
            )
            for entry, told in [
                ("annotation:", "annotation is None"),
                ("annotation: ''", "annotation is ''"),
                ("annotated: [a.uem, b.uem]", r"annotated is \['a.uem', 'b.uem'\]"),
                ("likes: 5", "likes is 5"),
                ("trial: 5", "trial is 5"),
                ("other:", "other is None"),
            ]
        ),
        (
            "Protocols: {X: {SpeakerDiarization: {Both: {test: {A.B.C: train}}}}}",
            "Protocols.X.SpeakerDiarization.Both.test.A.B.C is 'train': expected a list of subs",
        ),
        ("Requirements:", "Requirements holds None: name files"),
        ("Requirements: [5]", "Requirements holds 5: name files"),
        ("Databases: [a]", "is no definition of databases and protocols"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"database.yml:? {message}"):
        load_registry(written(tmp_path, text))


def test_files_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="database.yml: no such database.yml"):
        load_registry(tmp_path / "database.yml")
    path = written(tmp_path, "Requirements: gone.yml")
    with pytest.raises(FileNotFoundError, match="database.yml requires .*gone.yml, which does"):
        load_registry(path)
    (tmp_path / "a.yml").write_text("Requirements: [b.yml, database.yml]")
    (tmp_path / "b.yml").write_text("Requirements: [database.yml, a.yml]")  # in a circle
    with pytest.raises(FileNotFoundError, match="database.yml requires .*gone.yml, which does"):
        load_registry(tmp_path / "a.yml")
    path = written(tmp_path, f"{HEAD} hello")
    with pytest.raises(ValueError, match="database.yml: Protocols.Broken is 'hello'"):
        load_registry(tmp_path / "a.yml")
    path = written(tmp_path, f"{HEAD} {{SpeakerDiarization: {{Own: {{test: {{uri: u.lst}}}}}}}}")
    with pytest.raises(FileNotFoundError, match=f"^{path}: {NAME}, test: .*u.lst"):
        list(protocol_files(NAME, path, "test"))


def test_a_registry_of_ones_own(tmp_path):
    (tmp_path / "u.lst").write_text("one\n")
    entries = f"{{uri: {tmp_path / 'u.lst'}}}"
    path = written(
        tmp_path, f"{HEAD} {{SpeakerDiarization: {{Own: {{scope: file, test: {entries}}}}}}}"
    )
    registry = Registry()
    assert load_registry(path, registry) is registry
    protocol = find_protocol(NAME, path, registry)
    assert [file["uri"] for file in protocol.test()] == ["one"]
    with pytest.raises(ValueError, match="database.yml defines no protocol 'Broken.Speaker.Own'"):
        find_protocol("Broken.Speaker.Own", path, registry)
    with pytest.raises(ValueError, match="database.yml defines no protocol 'Own'"):
        find_protocol("Own", path, registry)


LEGAL = """
Protocols:
  Legal:
    Collection:
      All: {uri: u.lst}
    ObjectDetection:
      Boxes: {train: {uri: u.lst, boxes: [1, 2]}}
    Segmentation:
      Music: {classes: [speech, music], train: {uri: u.lst}}
    SpeakerDiarization:
      Own:
        scope: global
        description: of my own
        test: {uri: u.lst, number: 5}
    SpeakerVerification:
      Own:
        scope: global
        test: {uri: u.lst}
        test_trial: {uri: u.lst}
"""


def test_what_pyannote_takes_is_taken(tmp_path):
    (tmp_path / "u.lst").write_text("one\n")
    with pytest.warns(UserWarning, match="Own.description"):  # of pyannote
        registry = load_registry(written(tmp_path, LEGAL))
    collection = registry.get_protocol("Legal.Collection.All")
    assert [file["uri"] for file in collection.files()] == ["one"]
    (file,) = registry.get_protocol("Legal.SpeakerDiarization.Own").test()
    assert file["number"] == 5
    path = written(tmp_path, LEGAL.replace("test_trial: {uri: u.lst}", "test_trial: u.lst"))
    with pytest.raises(ValueError, match="Own.test_trial is 'u.lst': expected a mapping of entr"):
        load_registry(path)


def own(folder, entries="uri: u.lst", uris="one\n", head=HEAD):
    """Path of a definition of one protocol with a test subset."""
    (folder / "u.lst").write_text(uris, encoding="utf-8")
    return written(
        folder, f"{head} {{SpeakerDiarization: {{Own: {{scope: file, test: {{{entries}}}}}}}}}"
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("uri: u.lst, likes: '{uri}.txt'", "No loader for files with '.txt' suffix"),
        ("annotated: u.uem", "Missing mandatory 'uri' entry"),
        ("uri: latin.lst", ".*codec"),
    ],
)
def test_subsets_that_cannot_be_listed(tmp_path, entries, message):
    (tmp_path / "latin.lst").write_bytes(b"\xe9\n")
    path = own(tmp_path, entries)
    with pytest.raises(ValueError, match=f"^{path}: {NAME}, test: {message}"):
        list(protocol_files(NAME, path, "test"))


def test_entries_that_nothing_reads(tmp_path):
    (tmp_path / "likes.txt").touch()
    path = own(tmp_path, "uri: u.lst, likes: likes.txt")
    with pytest.raises(ValueError, match=f"database.yml: {NAME}, test: No loader for .*'.txt'"):
        list(protocol_files(NAME, path, "test"))


@pytest.mark.parametrize(
    ("uris", "hint"),
    [
        ("one\n", "wav$"),
        ("\none\n", ".lst of Broken, test: the list has an empty line: remove it"),
        ("\ufeffone\n", ".lst of Broken, test: the list starts with a byte order mark: save"),
        ("# mine\none\n", ".lst of Broken, test: the list has a comment, which is read as a uri"),
    ],
)
def test_audio_that_is_not_there(tmp_path, uris, hint):
    file = next(protocol_files(NAME, own(tmp_path, uris=uris), "test"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"(?s)database.yml: Could not find.*{hint}"):
            file["audio"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace("Broken:", "Other:", 1), "database Broken is not under `Databases`: add"),
        (HEAD.replace("uri", "name"), "no key {name} for the paths of database Broken: use {uri}"),
        (
            HEAD.replace("uri", ""),
            r"Broken is malformed \(Replacement index 0 out of .*: use {uri}",
        ),
        (HEAD.replace("uri}", "uri"), r"Broken is malformed \(expected '}'.*: use {uri}"),
        (HEAD.replace("uri}", "uri.wav}"), r"Broken is malformed \('str' object.*: use {uri}"),
    ],
)
def test_audio_that_is_not_defined(tmp_path, head, message):
    file = next(protocol_files(NAME, own(tmp_path, head=head), "test"))
    with pytest.raises(ValueError, match=f"database.yml: one: .*{message}"):
        file["audio"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_audio_whose_accents_are_encoded_otherwise(tmp_path, form):
    on_disk = unicodedata.normalize(form, "caf\u00e9")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / f"{on_disk}.wav").touch()
    for other in ("NFC", "NFD"):
        uri = unicodedata.normalize(other, "caf\u00e9")
        (file,) = protocol_files(NAME, own(tmp_path, uris=f"{uri}\n"), "test")
        assert file["uri"] == uri and file["audio"].is_file()


class Listed(Protocol):
    """Training files that a program lists."""

    def __init__(self, *files):
        super().__init__()
        self.listed = files

    def train_iter(self):
        return iter(self.listed)


def test_audio_that_files_have(tmp_path):
    """It comes before that of the registry, wherever it is in the list."""
    path = own(tmp_path, head=HEAD.replace("nowhere", "audio"))
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "one.wav").touch()
    one = {"uri": "one", "database": "Broken"}
    waveform = {"waveform": [0.0], "sample_rate": 8000}
    protocol = Listed(one, one | {"audio": "mine.wav"}, one | waveform, {"uri": "one"})
    add_audio(protocol, path, load_registry(path))
    *files, homeless = protocol.train()
    assert [file["audio"] for file in files] == [tmp_path / "audio" / "one.wav", "mine.wav", None]
    with pytest.raises(
        ValueError, match="one: .* neither `audio` nor `database`: add one of them"
    ):
        homeless["audio"]
    with pytest.raises(ValueError, match="database.yml: Listed lists no files in train"):
        add_audio(Listed(), path, load_registry(path))


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "N/A"])
def test_names_that_read_as_missing(tmp_path, name):
    """They are told of when the reference is read: other files are as good as before."""
    row = "SPEAKER {} 1 0.0 2.0 <NA> <NA> {} <NA> <NA>\n"
    (tmp_path / "r.rttm").write_text(row.format("one", name) + row.format("two", "ann"))
    path = own(tmp_path, "uri: u.lst, annotation: r.rttm", "one\ntwo\n")
    one, two = protocol_files(NAME, path, "test")
    for _ in range(2):
        with pytest.raises(ValueError, match="database.yml: one: .* name reads as a missing val"):
            reference_digest(one)
    assert two["annotation"].labels() == ["ann"]
    with pytest.raises(ValueError, match="one: the reference .* rename it in the RTTM"):
        reference_digest(referenced("one", float("nan")))
    assert reference_digest(referenced("one", 3)) == reference_digest(referenced("one", "3"))


def test_likes_protocols_are_known(tmp_path, monkeypatch):
    monkeypatch.delattr(protocol_module, "SpeakerLikesProtocol", raising=False)
    path = own(tmp_path)
    path.write_text(path.read_text().replace("Diarization", "Likes").replace("file", "global"))
    files = protocol_files(NAME.replace("Diarization", "Likes"), path, "test")
    assert [file["uri"] for file in files] == ["one"]
    other = type("SpeakerLikesProtocol", (), {})
    monkeypatch.setattr(protocol_module, "SpeakerLikesProtocol", other)
    with pytest.raises(ValueError, match="database.yml: pyannote.database already has a Speaker"):
        load_registry(path)
    load_registry(own(tmp_path))  # which has none


META = """
Databases: {Radio: 'audio/{uri}.wav'}
Protocols:
  Radio:
    SpeakerDiarization:
      Own:
        scope: global
        train: {uri: train.lst}
        test: {uri: test.lst}
  X:
    SpeakerDiarization:
      Both:
        test: {Radio.SpeakerDiarization.Own: [train, test]}
"""
BOTH = "X.SpeakerDiarization.Both"


def meta(folder, text=META):
    """Folder with a meta-protocol; its files are named after it."""
    (folder / "audio").mkdir(parents=True)
    for subset in ("train", "test"):
        uri = f"{folder.name}-{subset}"
        (folder / f"{subset}.lst").write_text(f"{uri}\n")
        (folder / "audio" / f"{uri}.wav").touch()
    return written(folder, text)


def test_meta_protocols(tmp_path):
    """Of the file that is asked for, though pyannote looks into the global registry."""
    paths = {name: meta(tmp_path / name) for name in ("a", "b")}
    before = dict(vars(global_registry))
    iterators = {name: protocol_files(BOTH, path, "test") for name, path in paths.items()}
    for name in ("a", "b", "a"):
        files = list(protocol_files(BOTH, paths[name], "test"))
        assert [file["uri"] for file in files] == [f"{name}-train", f"{name}-test"]
        assert [file["audio"].parent.parent.name for file in files] == [name] * 2
    for _ in range(2):  # one after the other
        assert [next(files)["uri"][0] for files in iterators.values()] == ["a", "b"]
    assert vars(global_registry) == before
    assert all(vars(global_registry)[key] is value for key, value in before.items())


@pytest.mark.parametrize(
    ("subset", "reason"),
    [("trian", "no attribute 'trian_iter'"), ("development", "made of lacks what it names")],
)
def test_meta_protocols_of_subsets_that_are_not_there(tmp_path, subset, reason):
    path = meta(tmp_path, META.replace("[train, test]", f"[{subset}]"))
    with pytest.raises(ValueError, match=f"{BOTH} has no subset test: .*{reason}"):
        list(protocol_files(BOTH, path, "test"))


def test_meta_protocols_within_each_other(tmp_path):
    """One lists its files while another one is asked; afterwards all is as before."""
    first, second = meta(tmp_path / "first"), meta(tmp_path / "second")
    loaded = load_registry(first)
    with _asked_in_place_of_the_global(first, loaded):
        ours = vars(global_registry)["get_protocol"]
        assert len(list(protocol_files(BOTH, second, "test"))) == 2
        assert vars(global_registry)["get_protocol"] is ours
    assert "get_protocol" not in vars(global_registry)


def test_meta_protocols_of_what_another_file_defines(tmp_path):
    first = meta(tmp_path / "first")
    other = meta(tmp_path / "other", META.replace("      Own:", "      Other:"))
    assert len(list(protocol_files(BOTH, first, "test"))) == 2
    with pytest.raises(ValueError, match="other.database.yml defines no protocol 'Radio.*Own'"):
        list(protocol_files(BOTH, other, "test"))
    none = meta(tmp_path / "none", META.replace("  Radio:\n", "  Television:\n"))
    with pytest.raises(ValueError, match="none.database.yml defines no protocol 'Radio.*Own'"):
        list(protocol_files(BOTH, none, "test"))
    assert len(list(protocol_files(BOTH, first, "test"))) == 2  # after what went wrong


def referenced(uri: str, who: str, end: float = 2.0, **more) -> dict:
    annotation = Annotation(uri=uri)
    annotation[Segment(0.5, end)] = who
    return {"uri": uri, "annotation": annotation, **more}


def test_digests_of_references():
    assert reference_digest(referenced("one", "ann")) == "bb25f35f081f5427"  # as in results
    files = [
        referenced("one", "ann"),
        referenced("one", "ann", 2.5),
        referenced("one", "ann", annotated=Timeline([Segment(0, 1)])),
        referenced("one", "ann lee"),
        referenced("one", "ann lee", 2.5),
        referenced("one", "bob lee"),
        {"uri": "one", "annotation": Annotation(uri="one")},
    ]
    assert len({reference_digest(file) for file in files}) == len(files)
    spaced = [referenced("my file", "ann", end) for end in (2.0, 2.0, 2.5)]
    first, again, other = map(reference_digest, spaced)
    assert first == again != other
    with pytest.raises(ValueError, match="one: no reference"):
        reference_digest({"uri": "one"})
