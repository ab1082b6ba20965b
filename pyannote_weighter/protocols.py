"""Protocols of pyannote.database: found, with messages for people, and read."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Number
from pathlib import Path
from threading import RLock
from typing import Any

import yaml
from pyannote.database import FileFinder, ProtocolFile
from pyannote.database import protocol as protocol_module
from pyannote.database import registry as global_registry
from pyannote.database.protocol.protocol import Protocol
from pyannote.database.registry import Registry

from pyannote_weighter.database import register
from pyannote_weighter.references import References, again, check_names, forms

_LOCK = RLock()
LEVELS = ("databases", "tasks", "protocols", "subsets", "entries")  # below `Protocols`
SUBSETS = ("train", "development", "test")
PATHS = ("uri", "uris", "trial", "likes", "annotation", "annotated")  # entries that are no numbers
NO_URIS = {
    "": "the list has an empty line: remove it",
    "\ufeff": "the list starts with a byte order mark: save it as UTF-8 without one",
    "#": "the list has a comment, which is read as a uri: remove it",
}  # first characters of lines that a .lst should not have


def load_registry(path: str | Path, registry: Registry | None = None) -> Registry:
    """Load a database.yml, and those that it requires.

    Parameters
    ----------
    path : path
    registry : Registry, optional
        To load it into. Defaults to a new one.

    Raises
    ------
    FileNotFoundError
        If it, or one that it requires, does not exist.
    ValueError
        If it is no YAML, or no definition of databases and protocols, or if it has a task
        SpeakerLikes and another package has one of this name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such database.yml (--registry)")
    _check_definition(path, set())
    registry = Registry() if registry is None else registry
    try:
        with warnings.catch_warnings():  # pyannote loads the one of the working folder by itself
            warnings.filterwarnings("ignore", "Replacing existing")
            registry.load_database(path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no definition of databases and protocols, see the documentation of "
            f"pyannote.database: {error}"
        ) from error
    return registry


def _check_definition(path: Path, seen: set[Path]) -> None:
    """Check a database.yml, and those that it requires, as far as mistakes are known."""
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        defined = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(defined, dict):
        raise ValueError(f"{path}: expected the keys Databases and Protocols, as a mapping")
    _check_mappings(defined.get("Protocols", {}), path, ("Protocols",))
    required = defined.get("Requirements", [])
    for name in required if isinstance(required, list) else [required]:
        if not isinstance(name, str):
            raise ValueError(
                f"{path}: Requirements holds {name!r}: name files, or leave Requirements out"
            )
        other = path.parent / name
        if not other.is_file():
            raise FileNotFoundError(
                f"{path} requires {other}, which does not exist: mend its Requirements"
            )
        _check_definition(other, seen)


def _check_mappings(value: Any, path: Path, keys: tuple) -> None:
    """Protocols are mappings of databases of tasks of protocols of subsets of entries.

    What else a protocol has beside its subsets, Collections, and tasks that pyannote does not know
    are left to it. It is made to know SpeakerLikes.
    """
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: {'.'.join(map(str, keys))} is {value!r}: expected a mapping of "
            f"{LEVELS[len(keys) - 1]}"
        )
    if len(keys) == 3 and keys[-1] == "SpeakerLikes":
        try:
            register()
        except RuntimeError as error:
            raise ValueError(f"{path}: {error}") from error
    if len(keys) == 3 and (keys[-1] == "Collection" or not _is_task(keys[-1])):
        return
    for key, below in value.items():
        if len(keys) == len(LEVELS):
            _check_entry(below, path, (*keys, key))
        elif len(keys) < 4 or str(key).removesuffix("_trial") in SUBSETS:
            _check_mappings(below, path, (*keys, key))


def _is_task(name: Any) -> bool:
    """Whether pyannote has a class for the protocols of a task; it ignores those of others."""
    return name == "Protocol" or hasattr(protocol_module, f"{name}Protocol")


def _check_entry(value: Any, path: Path, keys: tuple) -> None:
    """Entries are paths; under keys that pyannote does not know, they may be numbers too.

    Those of a meta-protocol are lists of the subsets of a protocol.
    """
    if keys[1] == "X":
        expected = "a list of subsets, such as [train]"
        right = isinstance(value, list) and all(isinstance(subset, str) for subset in value)
    else:
        expected = "the path of a " + ("list of uris (.lst)" if keys[-1] == "uri" else "file")
        right = isinstance(value, str) and value != ""
        right |= keys[-1] not in PATHS and isinstance(value, Number)
    if not right:
        raise ValueError(f"{path}: {'.'.join(map(str, keys))} is {value!r}: expected {expected}")


def find_protocol(name: str, path: str | Path, registry: Registry, **options) -> Protocol:
    """Find a protocol by name; names in references that it loads are checked when they are read.

    Parameters
    ----------
    name : str
    path : path
        What the registry was loaded from, for messages.
    registry : Registry
    options
        See `Registry.get_protocol`.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    try:
        protocol = registry.get_protocol(name, **options)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} defines no protocol {name!r}: {error}") from error
    protocol.preprocess = partial(_preprocess, protocol, References(path))
    return protocol


def _preprocess(
    protocol: Protocol, references: References, file: ProtocolFile | dict
) -> ProtocolFile:
    if isinstance(file, ProtocolFile):
        file = references.find(file)
    return references.check(type(protocol).preprocess(protocol, file))


@contextmanager
def _asked_in_place_of_the_global(path: str | Path, registry: Registry) -> Iterator[None]:
    """Let the global registry answer with the protocols of another one for a while.

    A meta-protocol looks its protocols up there, whatever registry it was loaded into. To load
    them there for good would mix them with those of other files.
    """
    ours = partial(find_protocol, path=path, registry=registry)
    with _LOCK:
        before = vars(global_registry).get("get_protocol")
        global_registry.get_protocol = ours
        try:
            yield
        finally:
            del global_registry.get_protocol
            if before is not None:  # one of these within another
                global_registry.get_protocol = before


def protocol_files(protocol: str, registry: str | Path, subset: str) -> Iterator:
    """Files of a subset, with `audio` (path) from the registry.

    Meta-protocols (`X.SpeakerDiarization.Both`) are made of protocols of this registry.

    Raises
    ------
    FileNotFoundError
        If there is no such registry, or no file of those that it names.
    ValueError
        If it defines no such protocol or subset.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset must be train, development or test, not {subset!r}")
    loaded = load_registry(registry)
    audio = {"audio": partial(_find_audio, FileFinder(loaded), registry)}
    found = find_protocol(protocol, registry, loaded, preprocessors=audio)
    with _asked_in_place_of_the_global(registry, loaded), _listing(registry, protocol, subset):
        files = list(getattr(found, subset)())
    yield from files


def add_audio(protocol: Protocol, path: str | Path, registry: Registry) -> None:
    """Give those files of a protocol that have no audio `audio` (path) from the registry.

    If the first one has audio, so should all: nothing is done.

    Parameters
    ----------
    protocol : Protocol
    path : path
        What the registry was loaded from, for messages.
    registry : Registry

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no training files, or no audio for the first one.
    """
    name = getattr(protocol, "name", type(protocol).__name__)
    with _listing(path, name, "train"):
        file = next(protocol.train(), None)
    if file is None:
        raise ValueError(f"{path}: {name} lists no files in train: fill its .lst")
    if "audio" not in file and "waveform" not in file:
        find = partial(_find_audio, FileFinder(registry), path)
        find(file)
        protocol.preprocessors["audio"] = find


@contextmanager
def _listing(path: str | Path, protocol: str, subset: str) -> Iterator[None]:
    """Say where something is wrong if a subset cannot be listed."""
    try:
        yield
    except (TypeError, ValueError, FileNotFoundError) as error:
        if str(error).startswith(str(path)):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{path}: {protocol}, {subset}: {error}") from error
    except (AttributeError, NotImplementedError) as error:
        reason = str(error) or "a protocol that it is made of lacks what it names"
        raise ValueError(f"{path}: {protocol} has no subset {subset}: {reason}") from error


def _find_audio(finder: FileFinder, path: str | Path, file: ProtocolFile) -> Path | None:
    """Audio of a file: its own, None beside a waveform, or else the path from the registry."""
    own = abs(file)
    if "audio" in own or "waveform" in own:
        return own.get("audio")
    with again(file, "audio"):
        return _search_audio(finder, path, file)


def _search_audio(finder: FileFinder, path: str | Path, file: ProtocolFile) -> Path:
    """Path of the audio of a file; errors say what may be wrong with the definition."""
    uri, database = file["uri"], file.get("database")
    if database is None:
        raise ValueError(
            f"{path}: {uri}: no path of audio, as the file has neither `audio` nor `database`: "
            "add one of them"
        )
    try:
        return _find_in_any_form(finder, file)
    except FileNotFoundError as error:
        hint = NO_URIS.get(uri[:1])
        hint = f"\n.lst of {database}, {file.get('subset')}: {hint}" if hint else ""
        raise FileNotFoundError(f"{path}: {error}{hint}") from error
    except KeyError as error:
        if database not in finder.registry.sources:
            raise ValueError(
                f"{path}: {uri}: no path of audio, as database {database} is not under "
                "`Databases`: add it there"
            ) from error
        raise ValueError(
            f"{path}: {uri}: there is no key {{{error.args[0]}}} for the paths of database "
            f"{database}: use {{uri}} and {{database}} under `Databases`"
        ) from error
    except (AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: {uri}: a path of audio of database {database} is malformed ({error}): use "
            "{uri} and {database}, in pairs of braces, under `Databases`"
        ) from error


def _find_in_any_form(finder: FileFinder, file: ProtocolFile) -> Path:
    """Path of a file, whose accents may be encoded otherwise on the disk."""
    try:
        return finder(file)
    except FileNotFoundError:
        for uri in forms(file["uri"]):
            with suppress(FileNotFoundError):
                return finder({"uri": uri, "database": file["database"]})
        raise


def reference_digest(file) -> str:
    """Digest of reference and scored region: another one means results are stale.

    Raises
    ------
    ValueError
        If the file has no reference, or one whose names are no text.
    """
    reference = file.get("annotation")
    if reference is None:
        raise ValueError(f"{file['uri']}: no reference (`annotation` in database.yml)")
    check_names(reference, file["uri"])
    try:
        text = reference.to_rttm() if reference else ""
    except ValueError:  # RTTM has no spaces in names
        tracks = reference.itertracks(yield_label=True)
        text = [(turn.start, turn.end, str(speaker)) for turn, _, speaker in tracks]
    annotated = file.get("annotated")
    scored = [(s.start, s.end) for s in annotated] if annotated is not None else None
    return hashlib.sha256(json.dumps([text, scored]).encode()).hexdigest()[:16]
