"""References of a protocol, and what of them counts: read as they are meant, or refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pyannote.core import Annotation, Timeline
from pyannote.database import ProtocolFile

from pyannote_weighter.output import one_field

READ = "annotation", "annotated"  # of RTTM and UEM, unless a protocol says otherwise


class References:
    """Reads references, and what of them is scored, of the files of a protocol.

    Parameters
    ----------
    path : path
        Registry that the protocol comes from, for messages.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self._known: dict[tuple, tuple] = {}  # whose is what an RTTM calls so, and its turns

    def find(self, file: ProtocolFile) -> ProtocolFile:
        """The same file, whose RTTM and UEM may write its uri otherwise."""
        for key in READ:
            load = file.lazy.get(key)
            if load is not None and not isinstance(load, partial):  # else it is no loader
                file.lazy[key] = partial(self._find, key, load)
        return file

    def _find(self, key: str, load: Callable, file: ProtocolFile) -> Any:
        """What is read of a file, or of another spelling of its uri where there is nothing."""
        with again(file, key):
            found, uri = load(file), file["uri"]
            if not isinstance(found, Annotation | Timeline):
                return found
            spelled = uri
            for other in [] if found else spellings(uri):
                if part := load(_Spelled(file, other)):
                    found, spelled = part.copy(), other
                    found.uri = uri
                    break
            if key == "annotation" and found:
                self._check_owner(file, spelled, found)
            return found

    def _check_owner(self, file: ProtocolFile, spelled: str, reference: Annotation) -> None:
        """Refuse to give one reference to two files; where each has its RTTM, turns differ."""
        where, uri = (file.get("database"), file.get("subset"), spelled), file["uri"]
        turns = hash(tuple(reference.itertracks(yield_label=True)))
        owner, known = self._known.setdefault(where, (uri, turns))
        if owner != uri and known == turns:
            raise ValueError(
                f"{self.path}: {owner!r} and {uri!r} are both {spelled!r} in `annotation`, which "
                "holds no spaces and one encoding of accents: rename one"
            )

    def check(self, file: ProtocolFile) -> ProtocolFile:
        """The same file, whose reference is refused when it is read, if it cannot be used."""
        given = abs(file)  # pyannote crops references by what is scored
        scored = given.get("annotated")
        lost = isinstance(scored, Timeline) and not scored and bool(given.get("annotation"))
        for key in READ:
            if key in file.lazy:
                file.lazy[key] = partial(self._read, key, file.lazy[key], lost)
        return file

    def _read(self, key: str, load: Callable, lost: bool, file: ProtocolFile) -> Any:
        with again(file, key):
            if lost:
                raise ValueError(
                    f"{self.path}: {file['uri']} has a reference of which nothing counts: list it "
                    "in the UEM (`annotated`), too, or leave `annotated` out"
                )
            found = load(file)
            check_names(found, f"{self.path}: {file['uri']}")
        return found


def forms(uri: str) -> list[str]:
    """How else the accents of a uri may be encoded."""
    both = dict.fromkeys(unicodedata.normalize(form, uri) for form in ("NFC", "NFD"))
    return [form for form in both if form != uri]


def spellings(uri: str) -> list[str]:
    """How else RTTM and UEM may write a uri: with other accents, and without spaces."""
    ways = [uri, *forms(uri)]
    return [way for way in dict.fromkeys([*ways, *map(one_field, ways)]) if way != uri]


class _Spelled(ProtocolFile):
    """A file whose uri is spelled otherwise, but in paths."""

    def __init__(self, file: ProtocolFile, uri: str):
        super().__init__({**abs(file), "uri": uri})
        self._file = file

    def __abs__(self):
        return abs(self._file)


@contextmanager
def again(file: ProtocolFile, key: str) -> Iterator[None]:
    """Let what cannot be read raise whenever it is asked for.

    After an error, pyannote goes on as if the key were still being evaluated, and takes what it
    was before, unchecked.
    """
    try:
        yield
    except Exception:
        file.evaluating_[key] = 0
        raise


def check_names(reference: Any, file: str) -> None:
    """Refuse names that pyannote has read as NaN: two people of such names become one."""
    names = reference.labels() if isinstance(reference, Annotation) else ()
    if any(name is None or name != name for name in names):
        raise ValueError(
            f"{file}: the reference has a speaker whose name reads as a missing value (NA, None, "
            "null, ...): rename it in the RTTM"
        )
