"""Definitions of protocols that are broken, and what is said of them."""

import pytest
from pyannote.database.registry import Registry

from pyannote_weighter.protocols import find_protocol, load_registry, protocol_files

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
    with pytest.raises(FileNotFoundError, match="u.lst"):
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
