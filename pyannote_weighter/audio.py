"""Reading audio files without FFmpeg.

`soundfile` comes first: it brings its own decoders (wav, flac, ogg, opus, mp3), so samples are the
same whether or not FFmpeg is installed. What it cannot read is handed to pyannote.audio, whose
decoder (torchcodec) needs FFmpeg's shared libraries.
"""

from collections.abc import Mapping
from io import IOBase
from math import gcd
from pathlib import Path

import soundfile
import torch
import torchaudio.functional
from pyannote.audio import Audio
from pyannote.audio.core.io import AudioFile
from scipy.signal import resample_poly
from torch import Tensor

AUDIO_KEYS = ("audio", "waveform", "sample_rate", "channel", "uri")
MAX_PHASES = 2000  # of torchaudio's resampling; 44100 and 11025 Hz take 441 and 640


def in_memory(file: AudioFile) -> dict:
    """Read a file into memory, in a form that pyannote takes everywhere.

    Parameters
    ----------
    file : str, Path, binary file object or Mapping
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
        If the file cannot be read, is empty, or has samples that are not finite.
    """
    if isinstance(file, str | Path | IOBase):
        file = {"audio": file}
    elif not isinstance(file, Mapping):
        raise ValueError(
            f"cannot read audio from a {type(file).__name__}: give a path, or a mapping with "
            '"audio", or with "waveform" and "sample_rate"'
        )
    loaded = {key: file[key] for key in file}

    path = loaded.get("audio")
    path = Path(path) if isinstance(path, str | Path) else None
    name = str(path or loaded.get("uri") or "waveform")

    if "waveform" in loaded:
        if "sample_rate" not in loaded:
            raise ValueError(f'{name}: "waveform" without "sample_rate": add it, in Hz')
        waveform, sample_rate = _tensor(loaded["waveform"], name), int(loaded["sample_rate"])
    elif "audio" in loaded:
        waveform, sample_rate = _read(loaded["audio"] if path is None else path)
    else:
        raise ValueError(
            f"no audio in a file with the keys {', '.join(map(str, loaded)) or '(none)'}: "
            'add "audio", a path, or "waveform" and "sample_rate"'
        )
    channel = loaded.pop("channel", None)
    if channel is not None:
        if not 0 <= channel < waveform.shape[0]:
            raise ValueError(
                f"{name}: no channel {channel}: it has {waveform.shape[0]}, counted from 0"
            )
        waveform = waveform[channel : channel + 1]

    if waveform.shape[-1] == 0:
        raise ValueError(f"{name}: no samples: remove the file or replace it")
    if not torch.isfinite(waveform).all():
        raise ValueError(f"{name}: some samples are NaN or infinite: repair or convert the file")

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
    divisor = gcd(old_rate, new_rate)
    up, down = new_rate // divisor, old_rate // divisor
    if max(up, down) <= MAX_PHASES:
        return torchaudio.functional.resample(waveform, old_rate, new_rate)
    return torch.from_numpy(resample_poly(waveform.cpu().numpy(), up, down, axis=1)).to(waveform)


def check_path(path: Path) -> None:
    """Refuse what is no file: ValueError for a folder, FileNotFoundError for nothing at all."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder: give the audio file itself")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such audio file: check the path")


def _read(source: Path | IOBase) -> tuple[Tensor, int]:
    if isinstance(source, Path):
        check_path(source)
    try:
        samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
        # (time, channel)
        return torch.from_numpy(samples.T.copy()), sample_rate
    except soundfile.LibsndfileError as error:
        try:
            if isinstance(source, IOBase):
                source.seek(0)  # soundfile has read some of it
            return Audio()(source)
        except Exception as second:  # torchcodec raises whatever its missing libraries raise
            raise ValueError(
                f"{source}: cannot be read: {error.error_string} Convert it to wav or flac, or "
                "install FFmpeg (with its shared libraries) so that pyannote.audio can decode it"
            ) from second
    finally:
        if isinstance(source, IOBase):
            source.seek(0)


def _tensor(waveform, name: str) -> Tensor:
    """(channel, time) float32 tensor; a (time,) waveform gets its channel."""
    waveform = torch.as_tensor(waveform)
    if waveform.ndim == 1:
        waveform = waveform.unsqueeze(0)
    if waveform.ndim != 2 or waveform.shape[0] > waveform.shape[1] > 0:
        raise ValueError(
            f"{name}: waveform is {tuple(waveform.shape)}, not (channel, time): transpose it"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"{name}: waveform holds {waveform.dtype}: convert it to float32 in [-1, 1]"
        )
    return waveform.float()
