"""What training files know: likes, references, how many speakers they have, or nothing."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable

from pyannote_weighter.messages import some_of
from pyannote_weighter.tasks.samples import check_likes, several_databases, turns_of, who

SUPERVISION = ("likes", "references", "both")


def training_entry(file, supervision: str = "likes", several: bool = False) -> dict:
    """What training needs of a file, in a form that JSON can hold.

    Parameters
    ----------
    file : ProtocolFile
        May have "likes", "annotation" (with "annotated"), and "num_speakers".
    supervision : {"likes", "references", "both"}
        What is made use of; the other is left out, as if it were not known.
    several : bool, optional
        Whether training files come from several databases: where names are those of a database,
        they are told with it.

    Returns
    -------
    entry : dict
        "uri"; "likes", sorted names, or None where they are not known (an empty list: known to
        have none); "turns", lists of start, end and speaker, or None where there is no reference;
        "annotated", lists of start and end outside of which the reference says nothing, or None
        for the whole file; "num_speakers", or None. Times are in seconds.

    Raises
    ------
    ValueError
        If "num_speakers" is no whole number of at least 0, or likes are one text.
    """
    entry = {"uri": file["uri"], "likes": None, "turns": None, "annotated": None}
    entry["num_speakers"] = _num_speakers(file)
    if supervision != "references" and file.get("likes") is not None:
        if isinstance(file["likes"], str):
            raise ValueError(f"{file['uri']}: likes are the text {file['likes']!r}: give a list")
        entry["likes"] = sorted(who(file, name, several) for name in set(file["likes"]))
    if supervision == "likes":
        return entry
    annotation, annotated = file.get("annotation"), file.get("annotated")
    # RTTM cannot tell a file without speech from one that it does not list
    if annotation and (annotated is None or annotated):
        # the same name may be another person elsewhere
        turns = turns_of(annotation)
        entry["turns"] = [[s, e, who(file, name, several)] for s, e, name in turns]
        if annotated is not None:
            entry["annotated"] = [[segment.start, segment.end] for segment in annotated]
    return entry


def _num_speakers(file) -> int | None:
    value = file.get("num_speakers")
    try:
        empty = value is None or bool(value != value)  # an empty cell of a table is NaN, or
    except TypeError:  # pandas.NA, which is neither equal nor unequal
        empty = True
    if empty:
        return None
    try:
        number = int(value)
        if not isinstance(value, bool) and number == float(value) and number >= 0:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"{file['uri']}: num_speakers is {value!r}: give a whole number of at least 0, or leave "
        "the file out where it is not known"
    )


def unnamed(entry: dict) -> float:
    """Largest number of speakers who may be in a file with likes without being named.

    None where no likes means that nobody who is known is there; else as many as a known number of
    speakers leaves.
    """
    if not entry["likes"]:
        return 0
    if entry["num_speakers"] is None:
        return math.inf
    return max(0, entry["num_speakers"] - len(entry["likes"]))


def knows(entry: dict) -> tuple[bool, bool]:
    """Whether likes are known, and whether there is a reference."""
    return entry["likes"] is not None, entry["turns"] is not None


def training_files(
    name: str, files: Iterable, supervision: str, counted: bool
) -> tuple[list, list[dict]]:
    """Files that teach something, and what they know.

    Parameters
    ----------
    name : str
        Name of the protocol, for messages.
    files : iterable of ProtocolFile
    supervision : {"likes", "references", "both"}
    counted : bool
        Whether files about which nothing is known teach something, as speakers of their frames
        are counted.

    Returns
    -------
    files : list of ProtocolFile
    entries : list of dict
        See `training_entry`.

    Raises
    ------
    ValueError
        If no file has what `supervision` asks for, a file is listed twice, or the likes can teach
        nothing (`check_likes`).
    """
    files, kept, entries = list(files), [], []
    several = several_databases(files)
    for file in files:
        entry = training_entry(file, supervision, several)
        if counted or any(knows(entry)) or entry["num_speakers"] is not None:
            kept.append(file)
            entries.append(entry)
    with_likes = [f for f, entry in zip(kept, entries, strict=True) if entry["likes"] is not None]
    with_reference = [entry for entry in entries if entry["turns"] is not None]
    if supervision == "likes" or (supervision == "both" and with_likes):
        check_likes(name, with_likes)
    elif not with_reference:
        raise ValueError(
            f"no training file of {name} has a reference: name its RTTM file in the protocol "
            "under `annotation:`, or choose supervision: likes"
        )
    elif len(with_reference) < len(entries):
        without = [entry["uri"] for entry in entries if entry["turns"] is None]
        warnings.warn(
            f"references of {len(without)} of {len(entries)} training files of {name} are empty, "
            "or not in the RTTM: these teach no more than how many people talk: "
            f"{some_of(without)}",
            stacklevel=2,
        )
    for uri, times in Counter(entry["uri"] for entry in entries).items():
        if times > 1:
            raise ValueError(f"{name} lists {uri!r} more than once in its training files")
    return kept, entries
