"""Loader of ``.likes`` files for pyannote.database."""

import os
import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from .likes import by_recording, composed, read_likes


class LikesLoader:
    """Give the likes of a protocol file, from one ``.likes`` file or one per recording.

    pyannote.database finds this class by the suffix ``.likes`` (entry point group
    ``pyannote.database.loader``); it also serves as a preprocessor.

    Parameters
    ----------
    path : path-like
        A ``.likes`` file, or a template with keys of the protocol file in braces, such as
        ``likes/{uri}.likes``. Nothing is read before the first call.

    Usage
    -----
    >>> loader = LikesLoader("train.likes")
    >>> loader({"uri": "episode-1"})
    ('Alice', 'Anna Lee')
    """

    def __init__(self, path: str | os.PathLike):
        self.path = str(path)

    def __call__(self, file: Mapping) -> tuple[str, ...] | None:
        """Likes of one file.

        Parameters
        ----------
        file : mapping
            Protocol file, with a ``uri``.

        Returns
        -------
        likes : tuple of str or None
            Names of the likes; ``()`` where the file is listed without names (known to have
            none); None where it is not listed (unknown).

        Raises
        ------
        FileNotFoundError
            There is no ``.likes`` file, also not for this one file of a template.
        ValueError
            A line of it cannot be read, or ``file`` lacks a key of the template.
        """
        path = self._resolve(file)
        try:
            state = path.stat()
        except FileNotFoundError:
            return read_likes(path)[file["uri"]]  # raises the error that says what to do
        return _read_cached(path, state.st_mtime_ns, state.st_size).get(composed(file["uri"]))

    def _resolve(self, file: Mapping) -> Path:
        """Path of the ``.likes`` file for ``file``, templates filled in."""
        # pyannote hands over paths that are filled in already; those may hold braces
        if "{" not in self.path or Path(self.path).is_file():
            return Path(self.path)
        try:
            fields = list(string.Formatter().parse(self.path))
        except ValueError as error:
            raise ValueError(
                f"{self.path}: no such file, and no template ({error}). Pair its braces."
            ) from None
        keys = {key for _, key, _, _ in fields if key is not None}
        missing = sorted(key for key in keys if key not in file)
        if missing:
            raise ValueError(
                f"{self.path}: the file has no {', '.join(map(repr, missing))}. Use keys of "
                "the protocol file in braces, such as {uri}."
            )
        return Path(self.path.format(**{key: file[key] for key in keys}))


# pyannote makes a new loader for every pass over a protocol, and for a template even one for
# every file; the state of the file is part of the key, so an edited file is read again
@lru_cache(maxsize=8)
def _read_cached(path: Path, modified: int, size: int) -> dict[str, tuple[str, ...]]:
    return by_recording(read_likes(path))
