"""Reading audio files without FFmpeg.

`soundfile` comes first: it brings its own decoders (wav, flac, ogg, opus, mp3), so samples are the
same whether or not FFmpeg is installed. What it cannot read is handed to pyannote.audio, whose
decoder (torchcodec) needs FFmpeg's shared libraries. Headers that are wrong about the length of a
file are corrected (mp3) or told of (wav), and so are files that were cut off.
"""

import math
import operator
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import IOBase
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
from pyannote.audio import Audio
from pyannote.audio.core.io import AudioFile
from scipy.signal import resample_poly
from torch import Tensor

from pyannote_weighter.mp3 import TOLERANCE, corrected

AUDIO_KEYS = ("audio", "waveform", "sample_rate", "channel", "uri")
MAX_PHASES = 2000  # of torchaudio's resampling; 44100 and 11025 Hz take 441 and 640
OGG_PAGE = 2**16  # bytes, at most
NO_FILE = "File does not exist"  # libsndfile on mp3 files that it finds no frame in
ENDLESS = 2**40  # samples: a header that claims as many does not know
STREAMED = (2**31, 2**32)  # bytes, about: what wav files have for a size that was not known
LOWEST_RATE = 100  # Hz: what is below is an error in a header, or no audio
CUT_DATA = re.compile(r"(?:SSND|Data Size) *: (\d+) \(should be (\d+)\)")  # aiff, au


def in_memory(file: AudioFile) -> dict:
    """Read a file into memory, in a form that pyannote takes everywhere.

    Parameters
    ----------
    file : path-like, binary file object or Mapping
        Path, or mapping with the key "audio" (a path or file object) or the keys "waveform", a
        (channel, time) tensor or array, and "sample_rate", in Hz. A file of a pyannote protocol
        is such a mapping. "channel", counted from 0, keeps one channel alone.

    Returns
    -------
    file : dict
        With "waveform", a (channel, time) float32 tensor, "sample_rate" and "uri" (the one that
        was given, else the name of the file without suffix, else "waveform"). Other keys are
        kept, but for "channel", which is done; lazy values of a protocol file are computed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read, is empty, or has samples that are not finite (or whose mean
        over channels is not), or if audio, waveform, sample rate or channel cannot be what they
        say.
    """
    if isinstance(file, str | os.PathLike | IOBase):
        file = {"audio": file}
    elif not isinstance(file, Mapping):
        raise ValueError(
            f"cannot read audio from a {type(file).__name__}: give a path, or a mapping with "
            '"audio", or with "waveform" and "sample_rate"'
        )
    loaded = {key: file[key] for key in file}

    path = loaded.get("audio")
    path = Path(path) if isinstance(path, str | os.PathLike) else None
    name = str(path or loaded.get("uri") or "waveform")

    if "waveform" in loaded:
        if "sample_rate" not in loaded:
            raise ValueError(f'{name}: "waveform" without "sample_rate": add it, in Hz')
        waveform = _tensor(loaded["waveform"], name)
        sample_rate = _sample_rate(loaded["sample_rate"], name)
    elif "audio" in loaded:
        if path is None and not hasattr(loaded["audio"], "read"):
            raise ValueError(
                f"{name}: audio is {loaded['audio']!r}: give a path or a binary file object"
            )
        waveform, sample_rate = _read(loaded["audio"] if path is None else path)
    else:
        raise ValueError(
            f"no audio in a file with the keys {', '.join(map(str, loaded)) or '(none)'}: "
            'add "audio", a path, or "waveform" and "sample_rate"'
        )
    channel = loaded.pop("channel", None)
    if channel is not None:
        channel = checked_channel(channel, waveform.shape[0], name)
        waveform = waveform[channel : channel + 1]

    if waveform.numel() == 0:
        raise ValueError(f"{name}: no samples: remove the file or replace it")
    check_finite(waveform[0] if len(waveform) == 1 else waveform.mean(dim=0), name)

    loaded["waveform"], loaded["sample_rate"] = waveform, sample_rate
    if not loaded.get("uri"):
        loaded["uri"] = "waveform" if path is None else path.stem
    return loaded


def load_waveform(file: AudioFile, sample_rate: int = 16000) -> Tensor:
    """Read a file, mix its channels down, resample it.

    Parameters
    ----------
    file : str, Path or Mapping
        See `in_memory`, whose errors are raised here too.
    sample_rate : int, optional
        In Hz. Defaults to 16000.

    Returns
    -------
    waveform : (1, samples) torch.Tensor
        float32.
    """
    if isinstance(file, Mapping):  # other keys of a protocol file may be costly, or fail
        file = {key: file[key] for key in AUDIO_KEYS if key in file}
    loaded = in_memory(file)
    waveform = loaded["waveform"].mean(dim=0, keepdim=True)
    if loaded["sample_rate"] == sample_rate:
        return waveform
    return _resample(waveform, loaded["sample_rate"], sample_rate)


def _resample(waveform: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """(1, samples) at another rate.

    torchaudio makes one filter for each phase: gigabytes of them for rates that have hardly a
    common divisor, such as 44099 Hz. scipy makes one in all.
    """
    divisor = math.gcd(old_rate, new_rate)
    up, down = new_rate // divisor, old_rate // divisor
    if max(up, down) <= MAX_PHASES:
        return torchaudio.functional.resample(waveform, old_rate, new_rate)
    resampled = resample_poly(waveform.detach().cpu().numpy(), up, down, axis=1)
    return torch.from_numpy(resampled).to(waveform)


def checked_channel(channel, num_channels: int, name: str) -> int:
    """Refuse what is no channel of a file, with a ValueError."""
    try:
        index = operator.index(channel)
    except TypeError:
        raise ValueError(
            f"{name}: channel is {channel!r}: give a whole number, counted from 0"
        ) from None
    if not 0 <= index < num_channels:
        raise ValueError(f"{name}: no channel {index}: it has {num_channels}, counted from 0")
    return index


def check_finite(mixed: Tensor, name: str) -> None:
    """Refuse samples of a file, mixed down, of which some are NaN or infinite."""
    if not torch.isfinite(mixed).all():
        raise ValueError(f"{name}: some samples are NaN or infinite: repair or convert the file")


def check_path(path: Path) -> None:
    """Refuse what is no file: ValueError for a folder, FileNotFoundError for nothing at all."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder: give the audio file itself")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file: check the path")


def open_sound(source: Path | IOBase) -> soundfile.SoundFile:
    """Open a file with soundfile, with its true length where its header is wrong about it.

    Parameters
    ----------
    source : Path or binary file object

    Returns
    -------
    sound : soundfile.SoundFile
        An mp3 file whose header is wrong is held in memory, compressed.

    Raises
    ------
    soundfile.LibsndfileError
        If soundfile does not know the format.
    ValueError
        If only the first part of an mp3 file can be read, or the sample rate is none of audio.

    Warns
    -----
    UserWarning
        If only the first part of a wav file can be read, or a file ends too early (mp3, wav, ogg,
        aiff, au).
    """
    file = source
    if isinstance(source, Path) and os.name == "posix":
        file = os.fsencode(source)  # soundfile knows names in UTF-8 alone, but takes bytes
    sound = soundfile.SoundFile(file)
    try:
        if sound.samplerate < LOWEST_RATE:
            raise ValueError(
                f"{source}: its header says {sound.samplerate} Hz, which is no sample rate of "
                "audio: repair the header, or convert the file"
            )
        if isinstance(source, Path) and not source.is_file():
            return sound  # a pipe: what has been read is gone
        if sound.subtype == "MPEG_LAYER_III":
            with _content(source) as content:
                stream = corrected(content, str(source), sound)
            if stream is not None:
                sound.close()
                sound = soundfile.SoundFile(stream)
        elif sound.format in ("WAV", "WAVEX"):
            _check_data_size(source, sound)
        else:
            _check_end(source, sound)
    except BaseException:
        sound.close()
        raise
    return sound


def knows_its_length(sound: soundfile.SoundFile, source: Path | IOBase) -> bool:
    """Whether a file that soundfile has opened ends where soundfile expects it to.

    Copies of radio streams and ogg files that were joined do not: libsndfile knows no length, or
    that of the first of them.
    """
    if sound.frames >= ENDLESS:
        return False
    is_ogg = sound.format == "OGG" and isinstance(source, Path) and source.is_file()
    return not (is_ogg and _is_joined(source))


def damaged(
    name: object, second: float, reason: str = "it ends there, but for its header"
) -> ValueError:
    """The error for a file that can be read in part: says up to where, and why."""
    return ValueError(
        f"{name}: cannot be read beyond {second:.1f} s: {reason}: repair or convert the file"
    )


@contextmanager
def _opened(source: Path | IOBase) -> Iterator[IOBase]:
    """A file to look around in; a stream is left where it was, as soundfile goes on there."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
        return
    position = source.tell()
    yield source
    source.seek(position)


@contextmanager
def _content(source: Path | IOBase) -> Iterator[bytes | mmap]:
    """All bytes of a file; one on disk is not read before they are asked for."""
    with _opened(source) as file:
        if file is source:
            file.seek(0)
            yield file.read()
            return
        try:
            content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError:  # some network drives cannot
            yield file.read()
            return
        with content:
            yield content


def _is_joined(path: Path) -> bool:
    """Whether an ogg file ends with another stream than those that it starts with."""
    with path.open("rb") as file:
        head = file.read(OGG_PAGE)
        file.seek(max(0, path.stat().st_size - OGG_PAGE))
        tail = file.read()
    # a page: OggS, version, flags (2: the first of a stream), position (8 bytes), stream (4)
    firsts, position = set(), 0
    while head[position : position + 4] == b"OggS" and head[position + 5] & 2:
        firsts.add(head[position + 14 : position + 18])
        position = head.find(b"OggS", position + 4)
    last = tail.rfind(b"OggS", 0, len(tail) - 14)
    return bool(firsts) and last >= 0 and tail[last + 14 : last + 18] not in firsts


def _check_end(source: Path | IOBase, sound: soundfile.SoundFile) -> None:
    """Warn if a file ends too early, where libsndfile notes that."""
    notes = sound.extra_info
    if "lacks an end-of-stream bit" in notes:
        warnings.warn(
            f"{source}: the end of its ogg stream is missing: was it copied or downloaded to the "
            "end? (Copies of live streams never have one.)",
            stacklevel=2,
        )
    elif cut := CUT_DATA.search(notes):
        _warn_of_cut(source, sound.frames / sound.samplerate, *map(int, cut.groups()))


def _warn_of_cut(name: object, seconds: float, declared: int, held: int) -> None:
    """Warn if a header tells of more bytes of samples than the file holds."""
    expected = seconds * declared / max(1, held)
    streamed = any(abs(declared - size) <= 2**16 for size in STREAMED)
    if expected - seconds > TOLERANCE and not streamed:
        warnings.warn(
            f"{name}: its header says {expected:.1f} s, but the file holds {seconds:.1f} s: was "
            "it copied or downloaded to the end?",
            stacklevel=2,
        )


def _check_data_size(source: Path | IOBase, sound: soundfile.SoundFile) -> None:
    """Warn if a wav file goes on after the samples that its header tells of, or was cut off.

    Recorders write the header again and again, or at the end: if they crash, it is an old one.
    libsndfile notes sizes too, but no more than 2048 characters, of which tags may take all.
    """
    seconds = sound.frames / sound.samplerate
    rate, has_samples = 0, False  # bytes in a second
    with _opened(source) as file:
        file.seek(0, os.SEEK_END)
        position, end = 12, file.tell()  # of a chunk, of the file
        while position + 8 <= end:
            file.seek(position)
            name, length, start = struct.unpack("<4sI12s", file.read(20).ljust(20, b"\0"))
            if not (name.isascii() and name.decode().isprintable()) or position + length + 8 > end:
                if name == b"data" and not has_samples:
                    _warn_of_cut(source, seconds, length, end - position - 8)
                break
            position += 8 + length + length % 2
            rate = int.from_bytes(start[8:], "little") if name == b"fmt " else rate
            has_samples |= name == b"data"
    if not has_samples or rate == 0:
        return
    rest = (end - position) / rate  # what is no chunk
    if rest > TOLERANCE:
        warnings.warn(
            f"{source}: {seconds:.1f} s are read, as its header says, but the file seems to hold "
            f"{seconds + rest:.1f} s: repair the header, or convert the file as headerless audio",
            stacklevel=2,
        )


def _read(source: Path | IOBase) -> tuple[Tensor, int]:
    if isinstance(source, Path):
        check_path(source)
    try:
        with open_sound(source) as sound:
            if knows_its_length(sound, source):
                return _decode(sound, source), sound.samplerate
        reason = "Its length is not known."
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        if _is_empty(source):
            raise ValueError(
                f"{source}: the file is empty: was it copied or downloaded to the end?"
            ) from error
        if reason.startswith(NO_FILE) and (isinstance(source, IOBase) or source.is_file()):
            reason = "It is cut short or damaged."
    finally:
        if isinstance(source, IOBase):
            source.seek(0)  # soundfile has read some of it
    return _read_with_pyannote(source, reason)


def _is_empty(source: Path | IOBase) -> bool:
    """Whether there is not a byte in a file or stream."""
    if isinstance(source, Path):
        return source.is_file() and not source.stat().st_size
    return source.seek(0, os.SEEK_END) == 0


def _decode(sound: soundfile.SoundFile, source: Path | IOBase) -> Tensor:
    """All samples, (channel, time)."""
    # (time, channel); some formats cannot be asked for all that is left
    samples = sound.read(sound.frames, dtype="float32", always_2d=True)
    if sound.frames - len(samples) > TOLERANCE * sound.samplerate:
        raise damaged(source, len(samples) / sound.samplerate)
    return torch.from_numpy(samples.T.copy())


def _read_with_pyannote(source: Path | IOBase, reason: str) -> tuple[Tensor, int]:
    """Read with FFmpeg what soundfile cannot read, for a reason that the error tells."""
    try:
        return Audio()(source)
    except Exception as error:  # torchcodec raises whatever its missing libraries raise
        raise ValueError(
            f"{source}: cannot be read: {reason} Convert it to wav or flac, or "
            "install FFmpeg (with its shared libraries) so that pyannote.audio can decode it"
        ) from error
    finally:
        if isinstance(source, IOBase):
            source.seek(0)


def as_tensor(waveform) -> Tensor:
    """Tensor of an array, not copied but where its bytes or samples are in reverse order."""
    if isinstance(waveform, np.ndarray):
        waveform = waveform.astype(
            waveform.dtype.newbyteorder("="), copy=min(waveform.strides, default=0) < 0
        )
    return torch.as_tensor(waveform)


def _tensor(waveform, name: str) -> Tensor:
    """(channel, time) float32 tensor; a (time,) waveform gets its channel."""
    try:
        waveform = as_tensor(waveform)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: waveform is no array of numbers, but {type(waveform).__name__}: give a "
            "(channel, time) tensor or array of float32"
        ) from error
    if waveform.ndim == 1:
        waveform = waveform.unsqueeze(0)
    swapped = waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1] > 0
    if waveform.ndim != 2 or (swapped and waveform.shape != (2, 1)):  # stereo may be that short
        raise ValueError(
            f"{name}: waveform is {tuple(waveform.shape)}, not (channel, time): transpose it"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"{name}: waveform holds {waveform.dtype}: convert it to float32 in [-1, 1]"
        )
    return waveform.float()


def _sample_rate(value, name: str) -> int:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not (rate >= LOWEST_RATE and rate.is_integer()):
        raise ValueError(
            f"{name}: sample_rate is {value!r}: give a whole number of at least {LOWEST_RATE}, in "
            "Hz, that the waveform was sampled at"
        )
    return int(rate)
