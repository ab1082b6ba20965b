"""Diarizing files into a folder, one after the other, whatever happens to one of them."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import soundfile
from pyannote.audio import Pipeline
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pyannote_weighter.audio import in_memory, open_sound
from pyannote_weighter.database.likes import composed, listed
from pyannote_weighter.messages import some_of
from pyannote_weighter.output import (
    TURNS,
    annotation_of,
    check_folder,
    check_formats,
    confidences,
    encodable,
    to_json,
    write_json,
    write_rttm,
)
from pyannote_weighter.pipelines import WeighterDiarization
from pyannote_weighter.recording import open_recording
from pyannote_weighter.results import (
    audio_of,
    is_same_audio,
    is_same_place,
    place_of,
    read_content,
)

LARGEST = 2**28  # bytes of a file that is read into memory: 70 min of one channel at 16 kHz
SAMPLE_SIZE = 4
NAME_MAX = 255  # bytes of a name, where the file system does not tell
PIECES, PIECE_SIZE = 16, 4096  # of a file, with its size they tell whether it is another one
AS_IT_IS = {"markup": False, "highlight": False, "soft_wrap": True}  # names and lines stay whole
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # for the next file too

FORMATS = {
    "rttm": "rttm",
    "json": "json",
    **{form: ending for form, (ending, _) in TURNS.items()},
    "png": "png",
}
"""Formats that can be written, and how the names of their files end."""


def apply_to_files(
    pipeline: Pipeline,
    files: str | Path | Sequence[str | Path],
    into: str | Path,
    formats: Sequence[str] = ("rttm", "json"),
    options: Mapping[str, int] | None = None,
    console: Console | None = None,
    resume: bool = False,
    likes: Mapping[str, Sequence[str]] | None = None,
) -> dict[Path, str]:
    """Diarize files; write their results to ``<into>/<name of the file>.<ending of the format>``.

    While one file is diarized, the next is read into memory. `WeighterDiarization` is given long
    files by name instead, and reads them itself.

    Parameters
    ----------
    pipeline : Pipeline
        Diarization pipeline.
    files : path or sequence of path
    into : path
        Folder, made if missing. Results of an earlier run are replaced. Of which recording they
        are is told by JSON: files in other formats alone are replaced, whatever they are of.
    formats : sequence of {"rttm", "json", "csv", "audacity", "webvtt", "png"}
        Files end in the same, but for "audacity" (label track: .txt) and "webvtt" (.vtt).
    options : dict, optional
        `num_speakers`, `min_speakers`, `max_speakers`: the same for all files.
    console : Console, optional
        Where progress and failures are shown.
    resume : bool, optional
        Leave files alone whose results are there in all formats, and no older than they are. JSON
        among them must be of the same audio, wherever that was. Whether this pipeline made them
        is not asked.
    likes : dict, optional
        Names of recordings to likes, see `pyannote_weighter.database.read_likes`: a recording has
        at least as many speakers, as far as `num_speakers` or `max_speakers` allow. A recording
        is called as its file is, without the ending.

    Returns
    -------
    failures : dict
        Files that failed to the reason why. Empty when all went well.

    Raises
    ------
    ValueError
        For an unknown format, two files whose results would have the same name, a name that is
        too long, results of another recording or other JSON in their place, or likes of none of
        the files; nothing has been done then.
    OSError
        If the folder cannot be written to: before anything is done, or after the file that found
        no room there any more.
    """
    into, console = Path(into), console or Console(stderr=True)
    files = [files] if isinstance(files, str | Path) else files
    files = distinct(files)
    check_formats(formats, FORMATS)
    check_names(files, into)
    likes = check_likes(files, likes)
    check_recordings(files, into, formats)
    check_folder(into)
    names = {composed(file.stem) for file in files}
    if others := [name for name in likes if name not in names]:
        told = f"{len(others)} recordings with likes are not among the files ({some_of(others)})"
        console.print(told, **AS_IT_IS)
    if resume:
        every = len(files)
        files = [file for file in files if not _is_done(file, into, formats)]
        console.print(f"{every - len(files)} of {every} files are done", **AS_IT_IS)
    if not files:
        return {}

    by_pieces = isinstance(pipeline, WeighterDiarization)
    failures: dict[Path, str] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("files", total=len(files))
        for file, reading in _read_ahead(files, by_pieces):
            step = progress.add_task(file.name, total=None)

            def hook(name, artifact, file=None, total=None, completed=None, step=step):
                progress.update(step, description=name, total=total, completed=completed or 0)

            writing = False
            try:
                audio, source = reading.result(), _source(file)
                bounds = at_least(len(set(likes.get(composed(file.stem)) or ())), options or {})
                output = pipeline(dict(audio), hook=hook, **bounds)
                writing = True
                _write(output, audio, source, into, file.stem, formats)
            except Exception as error:  # a file that fails does not keep the others from it
                if writing and _is_unwritable(into, getattr(error, "errno", None)):
                    raise OSError(
                        error.errno,
                        f"stopped at {file}, since {into} cannot be written to any more: "
                        f"{error.strerror}. Make room or choose another folder; --resume leaves "
                        "out what is done",
                    ) from error
                failures[file] = f"{type(error).__name__}: {error}"
                console.print(f"failed {file}: {failures[file]}", **AS_IT_IS)
            progress.remove_task(step)
            progress.advance(whole)
    return failures


def _is_unwritable(into: Path, number: int | None) -> bool:
    """Whether a folder takes no files any more, after this error of one file.

    On Windows a file that is open in another program gives the error of a folder without
    permission.
    """
    if number != errno.EACCES:
        return number in UNWRITABLE
    try:
        check_folder(into)
    except OSError:
        return True
    return False


def _read_ahead(files: Sequence[Path], by_pieces: bool) -> Iterator[tuple[Path, Future]]:
    """Yield each file with its audio, which a thread reads: never more than one file ahead."""
    reading = [_start_reading(file, by_pieces) for file in files[:1]]
    for file, following in zip(files, [*files[1:], None], strict=True):
        if following is not None:
            reading.append(_start_reading(following, by_pieces))
        yield file, reading.pop(0)


def _start_reading(file: Path, by_pieces: bool) -> Future:
    """Read in a thread that keeps nobody waiting who stops meanwhile, as pools of threads do."""
    future: Future = Future()

    def read() -> None:
        try:
            future.set_result(_read(file, by_pieces))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=read, daemon=True).start()
    return future


def _read(file: Path, by_pieces: bool) -> dict:
    """Audio in memory, or where it is if it is long and the pipeline can read it by pieces."""
    if by_pieces and file.is_file():
        try:
            with open_sound(file) as sound:
                size = sound.frames * sound.channels * SAMPLE_SIZE
        except soundfile.LibsndfileError:
            return in_memory(file)  # which knows other decoders, and what to say
        if size > LARGEST:
            return {"audio": file, "uri": file.stem}
    return in_memory(file)


def distinct(files: Iterable[str | Path]) -> list[Path]:
    """Paths of files, each file once; of two paths of one file the first."""
    return list({os.path.abspath(file): Path(file) for file in reversed([*files])}.values())[::-1]


def check_names(files: Sequence[Path], into: Path) -> None:
    """Refuse files whose results would overwrite each other, or have too long a name."""
    most = _name_max(into) - max(len(f".{ending}") for ending in FORMATS.values())
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(composed(file.stem.casefold()), []).append(file)
        length = len(os.fsencode(file.stem) if os.name == "posix" else file.stem)
        if length > most:
            raise ValueError(
                f"{file}: a name of {length} bytes is too long for its results, which may have "
                f"{most} and an ending in {into}: rename the file"
            )
    for same in by_name.values():
        if len(same) > 1:
            raise ValueError(
                f"results of {' and '.join(map(str, same))} would have the same name "
                f"({same[0].stem}): rename one, or apply to them one at a time with another --into"
            )


def _name_max(folder: Path) -> int:
    """Bytes that the name of a file may have in a folder, which may not be there yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # there is none on Windows
        return NAME_MAX


def check_recordings(files: Sequence[Path], into: Path, formats: Sequence[str]) -> None:
    """Refuse files in the place of whose results there are those of another recording.

    A file that was moved has the same content, one that was edited the same place. JSON that is
    no result is not replaced either.
    """
    for file in files:
        path = _result_paths(into, file.stem, ["json"])["json"]
        try:
            if not path.is_file():
                continue
            source = _source(file)
        except OSError:  # reading or writing will say so, and the others are done
            continue
        try:
            known = audio_of(read_content(path))
        except (OSError, ValueError) as error:
            if "json" not in formats:
                continue
            raise ValueError(
                f"results of {file} would replace {path}, which is no result of this program "
                f"({error}): choose another --into, rename one of them, or remove it"
            ) from None
        if known is None or is_same_audio(known, source) or is_same_place(known, source):
            continue
        raise ValueError(
            f"results of {file} would replace those of another recording, {known['path']} "
            f"({path}): choose another --into, rename one of the recordings, or, if it is the "
            "same and was edited, remove the old results"
        )


def check_likes(
    files: Sequence[Path], likes: Mapping[str, Sequence[str]] | None, where: str = "the likes"
) -> Mapping[str, Sequence[str]]:
    """Refuse likes of other recordings alone; `where` says in the message where they are from."""
    if likes is None:
        return {}
    likes = listed(likes)
    if files and not any(composed(file.stem) in likes for file in files):
        some = ", ".join(list(likes)[:3]) + ", ..." * (len(likes) > 3)
        raise ValueError(
            f"none of the files is listed in {where} (there: {some or 'nothing'}): list a "
            "recording by the name of its file without the ending (talk for talk.wav)"
        )
    return likes


def check_bounds(options: Mapping[str, int | None]) -> None:
    """Refuse numbers of speakers that contradict each other."""
    told = {name: value for name, value in options.items() if value is not None}
    for least, most in (
        ("min_speakers", "max_speakers"),
        ("min_speakers", "num_speakers"),
        ("num_speakers", "max_speakers"),
    ):
        if least in told and most in told and told[least] > told[most]:
            one, other = (f"--{name.replace('_', '-')} {told[name]}" for name in (least, most))
            raise ValueError(f"{one} is more than {other}: leave out or change one of them")


def at_least(num_likes: int, options: Mapping[str, int | None]) -> dict[str, int]:
    """Bounds on the number of speakers of a recording that has so many likes."""
    told = {name: value for name, value in options.items() if value is not None}
    if num_likes < 2 or "num_speakers" in told:
        return told
    least = min(num_likes, told.get("max_speakers", num_likes))
    return {**told, "min_speakers": max(least, told.get("min_speakers", 1))}


def _result_paths(into: Path, name: str, formats: Sequence[str]) -> dict[str, Path]:
    return {form: into / f"{name}.{FORMATS[form]}" for form in formats}


def _is_done(file: Path, into: Path, formats: Sequence[str]) -> bool:
    """Whether all results of a file are there, none older than the file or of another one."""
    paths = _result_paths(into, file.stem, formats)
    try:
        changed = file.stat().st_mtime
        if any(path.stat().st_mtime < changed for path in paths.values()):
            return False
        known = audio_of(read_content(paths["json"])) if "json" in paths else None
        return known is None or is_same_audio(known, _source(file))
    except (OSError, ValueError):  # mostly a result that is not there
        return False


def _source(file: Path) -> dict[str, Any]:
    """What tells an audio file from others of its name.

    The digest is of pieces alone: an archive is looked through without reading all of it. Sizes
    are not enough, as recorders make many files of one length.
    """
    size, digest = file.stat().st_size, hashlib.sha256()
    if file.is_file():
        with file.open("rb") as stream:
            for piece in range(PIECES):
                stream.seek(size * piece // PIECES)
                digest.update(stream.read(PIECE_SIZE))
    told = {"path": encodable(str(file)), "place": place_of(file)}
    return {**told, "bytes": size, "digest": digest.hexdigest()[:16]}


def _write(
    output,
    audio: Mapping,
    source: Mapping[str, Any],
    into: Path,
    name: str,
    formats: Sequence[str],
) -> None:
    diarization = annotation_of(output)
    paths = _result_paths(into, name, formats)
    if "rttm" in paths:
        write_rttm(diarization, paths["rttm"])
    if "json" in paths:
        write_json(to_json(output, name, source), paths["json"])
    for form, (_, write) in TURNS.items():
        if form in paths:
            write(output, paths[form])
    if "png" in paths:
        from pyannote_weighter.plots import envelope, plot_diarization

        if "waveform" in audio:
            waveform, sample_rate = audio["waveform"].numpy(), audio["sample_rate"]
        else:
            with open_sound(Path(audio["audio"])) as sound:
                sample_rate = sound.samplerate
            with open_recording(audio, sample_rate) as recording:
                waveform = envelope(recording)
        plot_diarization(
            paths["png"],
            waveform,
            sample_rate,
            diarization,
            weightings=getattr(output, "weightings", None),
            confidence=confidences(output),
            title=encodable(name),
        )
