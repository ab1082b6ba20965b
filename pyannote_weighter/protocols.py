"""Protocols of pyannote.database: found, with messages for people, and read."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import yaml
from pyannote.database import FileFinder
from pyannote.database import registry as global_registry
from pyannote.database.protocol.protocol import Protocol
from pyannote.database.registry import Registry

_LOCK = RLock()
LEVELS = ("databases", "tasks", "protocols", "subsets", "entries")  # below `Protocols`
SUBSETS = ("train", "development", "test")


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
        If it is no YAML, or no definition of databases and protocols.
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

    What else a protocol has beside its subsets, and Collections, are left to pyannote.
    """
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: {'.'.join(map(str, keys))} is {value!r}: expected a mapping of "
            f"{LEVELS[len(keys) - 1]}"
        )
    if len(keys) == len(LEVELS) and not isinstance(value.get("uri", ""), str):
        raise ValueError(
            f"{path}: {'.'.join(map(str, keys))}.uri is {value['uri']!r}: expected the path of a "
            "list of uris (.lst)"
        )
    if len(keys) == len(LEVELS) or (len(keys) == 3 and keys[-1] == "Collection"):
        return
    for key, below in value.items():
        if len(keys) < 4 or str(key).removesuffix("_trial") in SUBSETS:
            _check_mappings(below, path, (*keys, key))


def find_protocol(name: str, path: str | Path, registry: Registry, **options) -> Protocol:
    """Find a protocol by name.

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
        return registry.get_protocol(name, **options)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} defines no protocol {name!r}: {error}") from error


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
    audio = {"audio": FileFinder(loaded)}
    found = find_protocol(protocol, registry, loaded, preprocessors=audio)
    try:
        with _asked_in_place_of_the_global(registry, loaded):
            files = list(getattr(found, subset)())
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(f"{registry}: {protocol} has no subset {subset}") from error
    yield from files


def reference_digest(file) -> str:
    """Digest of reference and scored region: another one means results are stale.

    Raises
    ------
    ValueError
        If the file has no reference.
    """
    reference = file.get("annotation")
    if reference is None:
        raise ValueError(f"{file['uri']}: no reference (`annotation` in database.yml)")
    try:
        text = reference.to_rttm() if reference else ""
    except ValueError:  # RTTM has no spaces in names
        tracks = reference.itertracks(yield_label=True)
        text = [(turn.start, turn.end, str(speaker)) for turn, _, speaker in tracks]
    annotated = file.get("annotated")
    scored = [(s.start, s.end) for s in annotated] if annotated is not None else None
    return hashlib.sha256(json.dumps([text, scored]).encode()).hexdigest()[:16]
