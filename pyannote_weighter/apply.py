"""Diarizing files into a folder, one after the other, whatever happens to one of them."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import soundfile
from pyannote.audio import Pipeline
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pyannote_weighter.audio import in_memory
from pyannote_weighter.output import (
    annotation_of,
    confidences,
    to_json,
    write_audacity,
    write_csv,
    write_json,
    write_rttm,
    write_webvtt,
)
from pyannote_weighter.pipelines import WeighterDiarization

LARGEST = 2**28  # bytes of a file that is read into memory: 70 min of one channel at 16 kHz
SAMPLE_SIZE = 4

FORMATS = {
    "rttm": "rttm",
    "json": "json",
    "csv": "csv",
    "audacity": "txt",
    "webvtt": "vtt",
    "png": "png",
}
"""Formats that can be written, and how the names of their files end."""


def apply_to_files(
    pipeline: Pipeline,
    files: Sequence[str | Path],
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
    files : sequence of path
    into : path
        Folder, made if missing. Results of an earlier run are replaced.
    formats : sequence of {"rttm", "json", "csv", "audacity", "webvtt", "png"}
        Files end in the same, but for "audacity" (label track: .txt) and "webvtt" (.vtt).
    options : dict, optional
        `num_speakers`, `min_speakers`, `max_speakers`: the same for all files.
    console : Console, optional
        Where progress and failures are shown.
    resume : bool, optional
        Leave files alone whose results are there in all formats, and no older than they are.
        Whether this pipeline made them is not asked.
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
        For an unknown format, two files whose results would have the same name, or likes of none
        of the files; nothing has been done then.
    """
    into, console = Path(into), console or Console(stderr=True)
    files = list(dict.fromkeys(Path(file) for file in files))
    check_formats(formats)
    check_names(files)
    likes = check_likes(files, likes)
    others = len(likes.keys() - {file.stem for file in files})
    if others:
        console.print(f"{others} recordings with likes are not among the files", highlight=False)
    if resume:
        every = len(files)
        files = [file for file in files if not _is_done(file, into, formats)]
        console.print(f"{every - len(files)} of {every} files are done", highlight=False)
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

            try:
                audio = reading.result()
                bounds = at_least(len(set(likes.get(file.stem) or ())), options or {})
                output = pipeline(dict(audio), hook=hook, **bounds)
                _write(output, audio, into, file.stem, formats)
            except Exception as error:  # a file that fails does not keep the others from it
                failures[file] = f"{type(error).__name__}: {error}"
                console.print(f"failed {file}: {failures[file]}", markup=False, highlight=False)
            progress.remove_task(step)
            progress.advance(whole)
    return failures


def _read_ahead(files: Sequence[Path], by_pieces: bool) -> Iterator[tuple[Path, Future]]:
    """Yield each file with its audio, which a thread reads: never more than one file ahead."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = [reader.submit(_read, file, by_pieces) for file in files[:1]]
        for file, following in zip(files, [*files[1:], None], strict=True):
            if following is not None:
                reading.append(reader.submit(_read, following, by_pieces))
            yield file, reading.pop(0)


def _read(file: Path, by_pieces: bool) -> dict:
    """Audio in memory, or where it is if it is long and the pipeline can read it by pieces."""
    if by_pieces and file.is_file():
        try:
            info = soundfile.info(file)
        except soundfile.LibsndfileError:
            return in_memory(file)  # which knows other decoders, and what to say
        if info.frames * info.channels * SAMPLE_SIZE > LARGEST:
            return {"audio": file, "uri": file.stem}
    return in_memory(file)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that cannot be written."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(
            f"unknown format {', '.join(unknown) or '(none)'}: choose from {', '.join(FORMATS)}"
        )


def check_names(files: Sequence[Path]) -> None:
    """Refuse files whose results would overwrite each other."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(file.stem.casefold(), []).append(file)
    for same in by_name.values():
        if len(same) > 1:
            raise ValueError(
                f"results of {' and '.join(map(str, same))} would have the same name "
                f"({same[0].stem}): rename one, or apply to them one at a time with another --into"
            )


def check_likes(
    files: Sequence[Path], likes: Mapping[str, Sequence[str]] | None, where: str = "the likes"
) -> Mapping[str, Sequence[str]]:
    """Refuse likes of other recordings alone; `where` says in the message where they are from."""
    if likes is None:
        return {}
    for name, names in likes.items():
        if isinstance(names, str):
            raise ValueError(f"likes of {name} are one text, {names!r}: give a list of names")
    if files and not any(file.stem in likes for file in files):
        some = ", ".join(list(likes)[:3]) + ", ..." * (len(likes) > 3)
        raise ValueError(
            f"none of the files is listed in {where} (there: {some or 'nothing'}): list a "
            "recording by the name of its file without the ending (talk for talk.wav)"
        )
    return likes


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
    """Whether all results of a file are there, and none is older than the file."""
    paths = _result_paths(into, file.stem, formats).values()
    try:
        changed = file.stat().st_mtime
        return all(path.stat().st_mtime >= changed for path in paths)
    except FileNotFoundError:
        return False


def _write(output, audio: Mapping, into: Path, name: str, formats: Sequence[str]) -> None:
    diarization = annotation_of(output)
    paths = _result_paths(into, name, formats)
    if "rttm" in paths:
        write_rttm(diarization, paths["rttm"])
    if "json" in paths:
        write_json(to_json(output, uri=name), paths["json"])
    if "csv" in paths:
        write_csv(output, paths["csv"])
    if "audacity" in paths:
        write_audacity(output, paths["audacity"])
    if "webvtt" in paths:
        write_webvtt(output, paths["webvtt"])
    if "png" in paths:
        from pyannote_weighter.plots import plot_diarization

        if "waveform" not in audio:
            audio = in_memory(audio["audio"])
        plot_diarization(
            paths["png"],
            audio["waveform"].numpy(),
            audio["sample_rate"],
            diarization,
            weightings=getattr(output, "weightings", None),
            confidence=confidences(output),
            title=name,
        )
