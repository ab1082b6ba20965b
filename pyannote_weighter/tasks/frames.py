"""Frames of frozen backbones, kept on disk between epochs and runs."""

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

_VERSION = 2
_ARRAY_NAME = re.compile(r"(?P<stem>.+)\.[0-9a-f]{32}(\.(frames|count)\.npy|\.tmp)")
_LEFT_BEHIND = 24 * 3600.0  # seconds after which a file that no entry names is litter


class FrameCache:
    """Frame features on disk: half precision, memory-mapped, safe with several processes.

    An entry is a small JSON file that names its ``.npy`` files. These are written first,
    under names never used before; then the JSON file is moved into place. So an entry is
    whole or absent whenever the process is killed, any number of processes may write (the
    last one wins), and who reads while an entry is replaced gets the old or the new one.

    Nothing here looks at audio: give whatever makes frames outdated a part in `Extractor.id`
    (backbone, weights, window) or in the key (the audio, see
    `pyannote_weighter.tasks.identity`; a uri alone may mean another file in another corpus).

    Parameters
    ----------
    directory : path-like
        Root of the cache; made when something is put.
    extractor_id : str
        Names what computed the frames. Each one has a subfolder of its own.

    Usage
    -----
    >>> cache = FrameCache("frames", "campplus")
    >>> if "episode-1" not in cache:
    ...     cache.put("episode-1", frames, count)
    >>> frames, count = cache.get("episode-1")
    """

    def __init__(self, directory: str | os.PathLike, extractor_id: str):
        self.extractor_id = extractor_id
        self.folder = Path(directory) / safe_name(extractor_id)
        self._swept = False

    def __repr__(self) -> str:
        """Folder of the entries."""
        return f"FrameCache({str(self.folder)!r})"

    def put(
        self,
        key: str,
        frames: np.ndarray,
        count: np.ndarray | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the frames of a file; an entry that exists is replaced.

        Parameters
        ----------
        key : str
            Any text.
        frames : (T, C) array-like
            Kept as float16. T may be 0.
        count : (T,) array-like, optional
            Number of speakers in each frame, whole numbers from 0 to 255.
        metadata : mapping, optional
            Anything that JSON can hold, for `metadata`.

        Raises
        ------
        ValueError
            Wrong shapes, NaN, infinite or above 65504 (the range of float16), or a count
            that is no whole number from 0 to 255.
        """
        arrays = {"frames": self._checked_frames(key, frames)}
        if count is not None:
            arrays["count"] = self._checked_count(key, count, len(arrays["frames"]))

        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._sweep()
            self._swept = True
        entry_path = self._entry_path(key)
        entry = {
            "version": _VERSION,
            "key": key,
            "extractor": self.extractor_id,
            "metadata": dict(metadata or {}),
            "arrays": {},
        }
        token = uuid.uuid4().hex
        written = []
        temporary = self.folder / f"{entry_path.stem}.{token}.tmp"
        try:
            for kind, array in arrays.items():
                path = self.folder / f"{entry_path.stem}.{token}.{kind}.npy"
                written.append(path)
                with open(path, "xb") as stream:
                    np.save(stream, array, allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())
                entry["arrays"][kind] = {"file": path.name, "bytes": path.stat().st_size}
            temporary.write_text(json.dumps(entry), encoding="utf-8")
            outdated = self._files_of(key)
            os.replace(temporary, entry_path)
        except BaseException:
            for path in (temporary, *written):
                path.unlink(missing_ok=True)
            raise
        for path in outdated:
            with suppress(OSError):  # still read: cannot be removed on Windows; swept later
                path.unlink(missing_ok=True)

    def get(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames and speaker count of a file, memory-mapped and read-only.

        Returns
        -------
        frames : (T, C) float16 memory map
        count : (T,) uint8 memory map or None

        Raises
        ------
        KeyError
            There is no entry for this key.
        ValueError
            The entry is damaged, or no entry of this cache; `in` is False for such ones,
            and `put` replaces them.
        """
        entry = self._read_entry(key)
        while True:
            try:
                return self._open(entry, "frames"), self._open(entry, "count")
            except FileNotFoundError as error:
                missing = error.filename
            except (ValueError, EOFError, OSError) as error:
                raise self._damaged(key, str(error)) from None
            # replaced by another process in between, however often; if not, it is damaged
            read, entry = entry, self._read_entry(key)
            if entry == read:
                raise self._damaged(key, f"{missing} is missing")

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the block may compute the frames of a file, as nobody else is computing them.

        A claim ends with the block or, as the operating system holds it, with the process,
        however that ends: nothing has to be cleaned up or waited for. It keeps work from being
        done twice; `put` and `get` are safe without it.

        Usage
        -----
        >>> with cache.claim("episode-1") as free:
        ...     if free and "episode-1" not in cache:
        ...         cache.put("episode-1", *compute())
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._entry_path(key).with_suffix(".lock"), blocking=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):  # still open: cannot be removed on Windows
                os.unlink(lock.lock_file)
            lock.release()

    def metadata(self, key: str) -> dict[str, Any]:
        """What was given to `put` as ``metadata``; errors as in `get`."""
        return self._read_entry(key)["metadata"]

    def __contains__(self, key: str) -> bool:
        """Whether `get` will find a whole entry; reads no array."""
        try:
            entry = self._read_entry(key)
        except (KeyError, ValueError):
            return False
        return self._is_whole(entry)

    def __iter__(self) -> Iterator[str]:
        """The keys of all whole entries."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                key = json.loads(path.read_bytes())["key"]
            except (ValueError, KeyError, TypeError, FileNotFoundError):
                continue
            if isinstance(key, str) and self._entry_path(key) == path and key in self:
                yield key

    def __len__(self) -> int:
        """Count the whole entries."""
        return sum(1 for _ in self)

    def _entry_path(self, key: str) -> Path:
        return self.folder / f"{safe_name(key)}.json"

    def _read_entry(self, key: str) -> dict[str, Any]:
        """Read and check the JSON file of an entry."""
        path = self._entry_path(key)
        try:
            entry = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise KeyError(f"no frames of {key!r} in {self.folder}. Put them first.") from None
        except ValueError as error:
            raise self._damaged(key, f"no JSON ({error})") from None
        expected = {"version": _VERSION, "key": key, "extractor": self.extractor_id}
        if not isinstance(entry, dict) or any(entry.get(k) != v for k, v in expected.items()):
            raise self._damaged(key, f"expected an entry with {expected}")
        arrays = entry.get("arrays")
        if (
            not isinstance(entry.get("metadata"), dict)
            or not isinstance(arrays, dict)
            or not arrays.keys() <= {"frames", "count"}
            or "frames" not in arrays
            or not all(self._is_reference(path.stem, array) for array in arrays.values())
        ):
            raise self._damaged(key, "does not name its frames")
        return entry

    @staticmethod
    def _is_reference(stem: str, array: Any) -> bool:
        """Whether this names an array file of the entry, and none elsewhere."""
        if not isinstance(array, dict) or not isinstance(array.get("bytes"), int):
            return False
        name = _ARRAY_NAME.fullmatch(str(array.get("file")))
        return name is not None and name["stem"] == stem

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        try:
            sizes = [(self.folder / a["file"]).stat().st_size for a in entry["arrays"].values()]
        except OSError:
            return False
        return sizes == [array["bytes"] for array in entry["arrays"].values()]

    def _open(self, entry: dict[str, Any], kind: str) -> np.ndarray | None:
        """Memory map of one array of an entry."""
        if kind not in entry["arrays"]:
            return None
        path = self.folder / entry["arrays"][kind]["file"]
        size, expected = path.stat().st_size, entry["arrays"][kind]["bytes"]
        if size != expected:
            raise ValueError(f"{path.name} has {size} bytes instead of {expected}")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if (kind, array.ndim, array.dtype) not in (
            ("frames", 2, np.float16),
            ("count", 1, np.uint8),
        ):
            raise ValueError(f"{path.name} holds {array.dtype} of shape {array.shape}")
        return array

    def _files_of(self, key: str) -> list[Path]:
        """List the array files that the present entry names, if there is one."""
        try:
            entry = self._read_entry(key)
        except (KeyError, ValueError):
            return []
        return [self.folder / array["file"] for array in entry["arrays"].values()]

    def _sweep(self) -> None:
        """Remove what killed processes left behind: old array files that no entry names."""
        before = time.time() - _LEFT_BEHIND
        for path in list(self.folder.iterdir()):
            name = _ARRAY_NAME.fullmatch(path.name)
            try:
                if name is None or path.stat().st_mtime > before:
                    continue
                named = path.name in (self.folder / f"{name['stem']}.json").read_text("utf-8")
            except FileNotFoundError:
                named = False
            if not named:
                with suppress(OSError):  # still read: cannot be removed on Windows
                    path.unlink(missing_ok=True)

    def _damaged(self, key: str, reason: str) -> ValueError:
        return ValueError(
            f"{self._entry_path(key)}: damaged or foreign entry for {key!r}: {reason}. Delete "
            "that file, or put the frames again."
        )

    @staticmethod
    def _checked_frames(key: str, frames) -> np.ndarray:
        with np.errstate(over="ignore"):  # to infinity, which is caught below
            frames = np.asarray(frames).astype(np.float16)  # (T, C)
        if frames.ndim != 2:
            raise ValueError(f"frames of {key!r} have shape {frames.shape}; expected (T, C).")
        if not np.isfinite(frames).all():
            raise ValueError(
                f"frames of {key!r} hold NaN, infinite or values above 65504. Check the audio, "
                "or scale the frames."
            )
        return frames

    @staticmethod
    def _checked_count(key: str, count, num_frames: int) -> np.ndarray:
        given = np.asarray(count)
        if given.shape != (num_frames,):
            raise ValueError(
                f"count of {key!r} has shape {given.shape}; expected ({num_frames},), "
                "one number a frame."
            )
        if not np.all((given >= 0) & (given <= 255) & (given == np.floor(given))):
            raise ValueError(f"count of {key!r} must hold whole numbers from 0 to 255.")
        return given.astype(np.uint8)


def safe_name(text: str) -> str:
    """File name for any text: the same on every machine, different for different texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40].strip("-")
    return f"{readable}-{digest}" if readable else digest
