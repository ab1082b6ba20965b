"""Files of a pyannote.database protocol, with their references."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pyannote.database import FileFinder
from pyannote.database.registry import Registry


def protocol_files(protocol: str, registry: str | Path, subset: str) -> Iterator:
    """Files of a subset, with `audio` (path) from the registry.

    Raises
    ------
    FileNotFoundError
        If there is no such registry.
    ValueError
        If it defines no such protocol or subset.
    """
    registry = Path(registry)
    if not registry.is_file():
        raise FileNotFoundError(f"{registry}: no such database.yml (--registry)")
    if subset not in ("train", "development", "test"):
        raise ValueError(f"subset must be train, development or test, not {subset!r}")
    loaded = Registry()
    loaded.load_database(registry)
    try:
        found = loaded.get_protocol(protocol, preprocessors={"audio": FileFinder(loaded)})
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{registry} defines no protocol {protocol!r}: {error}") from error
    try:
        yield from getattr(found, subset)()
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(f"{registry}: {protocol} has no subset {subset}") from error


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
    text = reference.to_rttm() if reference else ""
    annotated = file.get("annotated")
    scored = [(s.start, s.end) for s in annotated] if annotated is not None else None
    return hashlib.sha256(json.dumps([text, scored]).encode()).hexdigest()[:16]
