"""MP3 files whose header is wrong about their length, or which have none.

An MP3 file is a row of frames, each with a header that says how long it is. Only a first frame
without sound (Xing, Info or VBRI) may say how many there are. libsndfile believes it, or goes by
the size of the first frames, and stops there: copies of radio streams, files that were cut or
joined and interrupted downloads have another length. Here, frames are counted.
"""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from mmap import mmap
from typing import NamedTuple

from soundfile import SoundFile

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz
BITRATES = {  # kbit/s; the first index means any, the last is invalid
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # 2 and 2.5
}
START = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|ID3")  # of a layer III frame, of a tag
TAGS = b"Xing", b"Info"  # names of headers of files
VBRI_TAG = 36  # where one more name is, whatever the kind
IN_A_ROW = 4  # frames that are no coincidence
DECODER_DELAY = 529  # samples that decoders leave out on top of the delay in the header
TOLERANCE = 0.5  # seconds by which lengths may differ: half a frame at the end, or a tag


class Kind(NamedTuple):
    """What all frames of a stream have in common."""

    version: int  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    rate: int  # index
    mono: bool

    @property
    def samplerate(self) -> int:
        """In Hz."""
        return RATES[self.version][self.rate]

    @property
    def samples(self) -> int:
        """In one frame."""
        return 1152 if self.version == 3 else 576

    @property
    def channels(self) -> int:
        """One or two."""
        return 1 if self.mono else 2

    @property
    def tag(self) -> int:
        """Where the header of a file has its name, in its frame."""
        side_info = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
        return 4 + side_info[self.version == 3, self.mono]

    def __str__(self):
        return f"{self.samplerate} Hz {'mono' if self.mono else 'stereo'}"


def _kind(header: bytes) -> tuple[Kind, int] | None:
    """What the four bytes in front of a frame say, and its size in bytes; None if they cannot."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, rate = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version == 1 or rate == 3:
        return None
    bitrate = BITRATES[version == 3][header[2] >> 4]
    if bitrate == 0:
        return None
    kind = Kind(version, rate, header[3] >> 6 == 3)
    return kind, kind.samples * bitrate * 125 // kind.samplerate + (header[2] >> 1 & 1)


class _Sizes(dict):
    """Sizes of frames by their headers, worked out once; 0 for what is no frame of a kind."""

    def __init__(self, kind: Kind):
        super().__init__()
        self.kind = kind

    def __missing__(self, header: bytes) -> int:
        kind, size = _kind(header) or (None, 0)
        self[header] = size if kind == self.kind else 0
        return self[header]


class Stream(NamedTuple):
    """The frames of a file.

    Attributes
    ----------
    kind : Kind
    segments : list of (int, int)
        First byte and the one after the last of frames in a row, without headers of files.
    frames : int
        Their number.
    declared : int
        Number of frames by the header of the file, 0 if it does not say.
    delay : int, optional
        Samples of silence at the start that the header tells decoders to leave out.
    """

    kind: Kind
    segments: list[tuple[int, int]]
    frames: int
    declared: int
    delay: int | None

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames * self.kind.samples / self.kind.samplerate


def corrected(data: bytes | mmap, name: str, sound: SoundFile) -> BytesIO | None:
    """The file with a header that is right about its length, or None if it has one.

    Parameters
    ----------
    data : bytes or mmap
        Content of the file.
    name : str
        Of the file, for errors.
    sound : soundfile.SoundFile
        The file, as libsndfile sees it.

    Raises
    ------
    ValueError
        If sample rate or channels change: libsndfile reads up to there.

    Warns
    -----
    UserWarning
        If the file holds less than its header says.
    """
    stream = _stream(data, name, sound)
    if stream is None:  # nothing that is known here: leave it to libsndfile
        return None
    expected = sound.frames
    if stream.declared:  # libsndfile leaves out the delay, and what fills the last frame
        expected = stream.declared * stream.kind.samples
    longer = stream.frames * stream.kind.samples - expected
    # two headers of files, or something else in between, can hide behind the right length
    if 0 <= longer <= TOLERANCE * stream.kind.samplerate and len(stream.segments) == 1:
        return None
    if stream.declared and -longer > TOLERANCE * stream.kind.samplerate:
        warnings.warn(
            f"{name}: its header says {expected / stream.kind.samplerate:.1f} s, but the file "
            f"holds {stream.seconds:.1f} s: was it copied or downloaded to the end?",
            stacklevel=2,
        )
    file = BytesIO()
    file.write(_header(stream))
    for start, stop in stream.segments:
        # views, for hours take hundreds of megabytes; closed, for `data` cannot be closed before
        with memoryview(data) as view, view[start:stop] as part:
            file.write(part)
    file.seek(0)
    return file


def _stream(data: bytes | mmap, name: str, sound: SoundFile) -> Stream | None:
    """Frames of the whole file; None if there are none, or if libsndfile sees others."""
    stream = None
    position = 0
    while (position := _find_frames(data, position)) is not None:
        kind, _ = _kind(data[position : position + 4])
        if stream is None:
            if (kind.samplerate, kind.channels) != (sound.samplerate, sound.channels):
                return None
            stream = Stream(kind, [], 0, *_declared(data, position, kind))
        elif kind != stream.kind:
            raise ValueError(
                f"{name}: holds {stream.seconds:.1f} s of {stream.kind}, then {kind}: convert it "
                "to wav or flac, for example with FFmpeg"
            )
        position, segments, frames = _walk(data, position, kind)
        stream.segments.extend(segments)
        stream = stream._replace(frames=stream.frames + frames)
    return stream if stream is not None and stream.frames else None


def _find_frames(data: bytes | mmap, position: int) -> int | None:
    """Where the next frames in a row start, if any do."""
    while (position := _search(data, position)) is not None:
        if data[position : position + 3] == b"ID3":
            position += _id3_size(data[position : position + 10], len(data) - position)
        elif _walk_few(data, position):
            return position
        else:
            position += 1
    return None


def _search(data: bytes | mmap, position: int) -> int | None:
    match = START.search(data, position)
    return match and match.start()  # a match that lives on would not let `data` be closed


def _id3_size(tag: bytes, rest: int) -> int:
    """Bytes to skip: an ID3v2 tag, which may hold pictures; one byte if it is none."""
    if len(tag) < 10 or max(tag[6:]) > 127:
        return 1
    size = 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    size += 10 * (tag[5] >> 4 & 1)  # footer
    return size if size <= rest else 1


def _walk_few(data: bytes | mmap, position: int) -> bool:
    """Whether enough frames of one kind follow each other."""
    kind, _ = _kind(data[position : position + 4]) or (None, 0)
    if kind is None:
        return False
    sizes = _Sizes(kind)
    for _ in range(IN_A_ROW):
        size = sizes[data[position : position + 4]]
        position += size
        if size == 0 or position > len(data):
            return False
    return True


def _walk(data: bytes | mmap, position: int, kind: Kind) -> tuple[int, list[tuple[int, int]], int]:
    """Where frames in a row end, the segments without headers of files, the number of frames."""
    sizes, end, frames = _Sizes(kind), len(data), 0
    segments = []
    start = position
    tag = kind.tag
    # the only loop over all frames, some 140000 in an hour
    while (size := sizes[data[position : position + 4]]) and position + size <= end:
        if data[position + tag : position + tag + 4] in TAGS or (
            data[position + VBRI_TAG : position + VBRI_TAG + 4] == b"VBRI"
        ):
            if start < position:
                segments.append((start, position))
            start = position + size
        else:
            frames += 1
        position += size
    if start < position:
        segments.append((start, position))
    return position, segments, frames


def _declared(data: bytes | mmap, position: int, kind: Kind) -> tuple[int, int | None]:
    """Number of frames and delay by the header of the file, 0 and None if there is none."""
    frame = data[position : position + kind.tag + 160]
    if frame[VBRI_TAG : VBRI_TAG + 4] == b"VBRI":
        return int.from_bytes(frame[VBRI_TAG + 14 : VBRI_TAG + 18]), None
    frame = frame[kind.tag :]
    if frame[:4] not in TAGS:
        return 0, None
    flags = int.from_bytes(frame[4:8])
    lame = 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    delay = None
    if frame[lame : lame + 1] > b"\0":  # name of the encoder
        delay = int.from_bytes(frame[lame + 21 : lame + 24]) >> 12
    return int.from_bytes(frame[8:12]) if flags & 1 else 0, delay


def _header(stream: Stream) -> bytes:
    """A frame without sound that says how many follow, and what to leave out at the start."""
    kind = stream.kind
    mode = 0xC0 if kind.mono else 0
    start = bytes([0xFF, 0xE3 | kind.version << 3, 0x80 | kind.rate << 2, mode])
    frame = start.ljust(kind.tag, b"\0") + b"Xing" + (1).to_bytes(4) + stream.frames.to_bytes(4)
    if stream.delay is not None:
        frame += b"LAME".ljust(21, b"\0") + (stream.delay << 12 | DECODER_DELAY).to_bytes(3)
    return frame.ljust(_kind(start)[1], b"\0")
