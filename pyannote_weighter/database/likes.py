r"""The ``.likes`` format: which speakers somebody tagged in which file.

::

    # one file a line: uri, then the names of its likes
    episode-1   Alice "Anna Lee" Bob\ Ray
    episode-2                    # known to have no likes
    "my file"   O'Brien

- Items are separated by white space. An item that holds white space stands in double
  quotes, or has a backslash before each space. Single quotes are ordinary characters.
- A backslash makes the next character ordinary (``\"``, ``\\``, ``\ ``, ``\#``); inside
  and outside quotes ``\n`` and ``\r`` are line breaks only within quotes.
- A uri that holds a comma or semicolon, or ends with a colon, is read, but with a warning unless
  it is quoted or they have a backslash: it looks like CSV.
- ``#`` at the start of an item begins a comment. Blank lines are skipped.
- UTF-8, with or without a byte order mark (several where files were put together).
- A uri is the same however its accents are encoded (NFC or NFD): file names copied from macOS have
  them apart from their letters, keyboards do not. Names of people are compared as they are.
- A listed file without names is known to have no likes; about a file that is not listed
  nothing is known.
- Byte order marks and NUL characters stand nowhere but in quotes and behind a backslash.
"""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pyannote_weighter.messages import some_of
from pyannote_weighter.output import atomic

Value = TypeVar("Value")

_LINE_BREAKS = {"n": "\n", "r": "\r"}
_WRITTEN = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_CURLY = "\u201c\u201d\u201e"  # what word processors make of a double quote
# first items, unquoted, in which a comma, semicolon or final colon has no backslash
_LIKE_CSV = re.compile(r'\s*(?!")(?:[^\s\\,;]|\\.)*(?:[,;]|:(?!\S))')
_STRAY = {"\ufeff": "a byte order mark", "\0": "a NUL character"}  # nobody sees them


def composed(uri: str) -> str:
    """A uri in the Unicode form (NFC) in which uris are compared."""
    return unicodedata.normalize("NFC", uri)


def by_recording(likes: Mapping[str, Value]) -> dict[str, Value]:
    """Likes by `composed` uri.

    Raises
    ------
    ValueError
        If a uri is there twice, in two Unicode forms.
    """
    found: dict[str, Value] = {}
    for uri, names in likes.items():
        if composed(uri) in found:
            raise ValueError(f"likes list {uri!r} twice, in two Unicode forms. Keep one of them.")
        found[composed(uri)] = names
    return found


def read_likes(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
    """Read a ``.likes`` file.

    Parameters
    ----------
    path : path-like
        A UTF-8 text file; the format is described in this module.

    Returns
    -------
    likes : dict
        Names of the likes for each uri, in the order of the file. A name repeated within a
        line counts once. Listed files without names map to ``()``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A line cannot be read, or a uri is listed twice; the message starts with ``path:line``.

    Warns
    -----
    UserWarning
        A line looks as if other characters than spaces separated its items.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such .likes file. Check the path, or create the file with one line "
            "'uri name name ...' for each recording."
        ) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8. Save the file as UTF-8 text.") from None

    likes: dict[str, tuple[str, ...]] = {}
    listed: dict[str, int] = {}
    # not splitlines(): that would also split at U+2028 and other rare separators
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            items = split_items(line.lstrip("\ufeff"))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if not items:
            continue
        uri, *names = items
        if _LIKE_CSV.match(line.lstrip("\ufeff")):
            warnings.warn(
                f"{path}:{number}: {uri!r} is read as a uri, but looks like CSV: separate items "
                "by spaces, or put the uri in double quotes.",
                stacklevel=2,
            )
        if (known := composed(uri)) in listed:
            raise ValueError(
                f"{path}:{number}: {uri!r} is already listed in line {listed[known]}. "
                "Put all names of a file on one line."
            )
        listed[known] = number
        likes[uri] = tuple(dict.fromkeys(names))
    _check_forms(path, likes)
    return likes


def _check_forms(path: str | os.PathLike, likes: Mapping[str, Iterable[str]]) -> None:
    """Warn of names that look alike: nobody sees how their accents are encoded."""
    known: dict[str, str] = {}
    twice: dict[str, str] = {}
    for name in dict.fromkeys(name for names in likes.values() for name in names):
        if known.setdefault(composed(name), name) != name:
            twice[composed(name)] = name
    if twice:
        pairs = [f"{name} ({ascii(known[name])}, {ascii(twice[name])})" for name in twice]
        warnings.warn(
            f"{path}: accents of one name are encoded in two ways, which makes two people of it: "
            f"{some_of(pairs)}. Write it in one way.",
            stacklevel=3,
        )


def write_likes(path: str | os.PathLike, likes: Mapping[str, Iterable[str] | None]) -> None:
    """Write a ``.likes`` file, whole or not at all.

    Parameters
    ----------
    path : path-like
        File to write; one that exists is replaced. Missing parent folders are created.
    likes : mapping
        Names of the likes for each uri. Empty means known to have none; files with
        ``None`` (unknown) are left out. Repeated names are written once.

    Raises
    ------
    ValueError
        A uri or name is empty, no text, or cannot be encoded; the names of a uri are one string
        or anything else instead of a sequence of strings; or a uri is there twice, in two Unicode
        forms.
    """
    lines = []
    for uri, names in likes.items():
        if names is None:
            continue
        if isinstance(names, str):
            raise ValueError(f"likes of {uri!r} are one string, {names!r}. Pass a tuple of names.")
        try:
            unique = dict.fromkeys(names)
        except TypeError:
            raise ValueError(f"likes of {uri!r} are {names!r}. Pass a tuple of names.") from None
        lines.append(" ".join(quote_item(item) for item in (uri, *unique)) + "\n")
    by_recording({uri: names for uri, names in likes.items() if names is not None})

    with atomic(path) as unfinished:
        unfinished.write_bytes("".join(lines).encode("utf-8"))


def quote_item(item: str) -> str:
    """One uri or name as it stands in a ``.likes`` file, in quotes where it needs them."""
    if not isinstance(item, str) or not item:
        raise ValueError(f"{item!r} cannot be a uri or name. Use text of at least one character.")
    try:
        item.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{item!r} holds a lone surrogate, which UTF-8 cannot encode.") from None
    # isprintable() is False for every separator but the plain space, and for marks
    # that nobody sees, such as a byte order mark
    plain = item.isprintable() and not any(character in ' "\\' for character in item)
    if plain and item[0] not in "#" + _CURLY and not _LIKE_CSV.match(item):
        return item
    return '"' + item.translate(_WRITTEN) + '"'


def split_items(line: str) -> list[str]:
    r"""Items of one line, without quotes, escapes and comment.

    Raises
    ------
    ValueError
        The quotes or backslashes of the line are wrong; the message has no file and line.
    """
    items = []
    position = 0
    while True:
        while position < len(line) and line[position].isspace():
            position += 1
        if position == len(line) or line[position] == "#":
            return items
        if line[position] in _CURLY:
            raise ValueError(
                f'curly quote {line[position]}. Use straight double quotes (") around names '
                'with spaces; write "' + line[position] + '..." if the name begins with it.'
            )
        quoted = line[position] == '"'
        item, position = _read_item(line, position + quoted, quoted)
        if not item:
            raise ValueError('empty name "". Remove it, or write the name between the quotes.')
        items.append(item)


def _read_item(line: str, position: int, quoted: bool) -> tuple[str, int]:
    """Read one item from ``position`` on; returns it with the position behind it."""
    characters = []
    while position < len(line):
        character = line[position]
        position += 1
        if character == "\\":
            following = line[position : position + 1]
            position += 1
            if quoted and following in _LINE_BREAKS:
                following = _LINE_BREAKS[following]
            elif not following or following.isalnum():
                place = repr(following) if following else "the end of the line"
                raise ValueError(
                    f"backslash before {place}. Write \\\\ for a "
                    "backslash that belongs to the name."
                )
            characters.append(following)
        elif quoted and character == '"':
            if position < len(line) and not line[position].isspace():
                raise ValueError(
                    f"{line[position]!r} follows a closing double quote. Put a space behind the "
                    'quote, or write \\" for one that belongs to the name.'
                )
            return "".join(characters), position
        elif not quoted and character == '"':
            raise ValueError(
                f"double quote behind {''.join(characters)!r}. Put a space before the quote, or "
                'write \\" for one that belongs to the name.'
            )
        elif not quoted and character in _STRAY:
            raise ValueError(
                f"{_STRAY[character]}, which nobody sees, stands in an item. Remove it, or save "
                "the file anew as UTF-8 text."
            )
        elif not quoted and character.isspace():
            break
        else:
            characters.append(character)
    if quoted:
        raise ValueError('a double quote is never closed. Close it, or write \\" for a quote.')
    return "".join(characters), position


def listed(likes: Mapping[str, Value]) -> dict[str, Value]:
    """Likes by `composed` name of the recording; names that are one text are refused."""
    for name, names in likes.items():
        if isinstance(names, str):
            raise ValueError(f"likes of {name} are one text, {names!r}: give a list of names")
    return by_recording(likes)
