"""What a video file says of its own length in words that OpenCV does not pass on: MP4's edit lists, Matroska's size."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"


def mp4_seconds(path: str) -> tuple[float, float] | None:
    """For how long a local MP4 or MOV shows pictures, and for how long it has them: an edit list may hide some.

    None for other files, and where the file does not say.
    """
    try:
        with open(path, "rb") as file:
            return _mp4_seconds(file, file.seek(0, os.SEEK_END))
    except (OSError, struct.error, ZeroDivisionError):
        return None


def is_whole_matroska(path: str) -> bool | None:
    """Whether a local Matroska or WebM file is as long as it says; None for other files, and where it does not say."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if file.read(4) != b"\x1a\x45\xdf\xa3":
                return None
            header = _ebml_size(file)
            if header is None:
                return None
            file.seek(header, os.SEEK_CUR)
            if file.read(4) != _SEGMENT or (size := _ebml_size(file)) is None:
                return None
            return file.tell() + size <= length
    except (OSError, IndexError):
        return None


def _ebml_size(file: BinaryIO) -> int | None:
    """A number whose leading zero bits say how many bytes it has; all ones: unknown."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(more), "big") - (1 << 7 * (more + 1))
    return value if first and value < (1 << 7 * (more + 1)) - 1 else None


def _mp4_seconds(file: BinaryIO, length: int) -> tuple[float, float] | None:
    moov = _box(file, 0, length, b"moov")
    if moov is None or (mvhd := _box(file, *moov, b"mvhd")) is None:
        return None
    scale, _ = _scale_and_duration(file, mvhd[0])
    for kind, *trak in _boxes(file, *moov):
        if kind != b"trak" or (mdia := _box(file, trak[0], trak[1], b"mdia")) is None:
            continue
        hdlr, mdhd = _box(file, *mdia, b"hdlr"), _box(file, *mdia, b"mdhd")
        if hdlr is None or mdhd is None or _read(file, hdlr[0] + 8, 4) != b"vide":
            continue
        own_scale, duration = _scale_and_duration(file, mdhd[0])
        stored = duration / own_scale
        edts = _box(file, trak[0], trak[1], b"edts")
        elst = edts and _box(file, *edts, b"elst")
        shown = _edited(file, elst[0]) / scale if elst else stored
        return (shown, stored) if shown > 0 and stored > 0 else None
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of what is in each box between two places."""
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", _read(file, start, 8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", _read(file, start + 8, 8))[0], 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size


def _box(file: BinaryIO, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    return next(((begin, stop) for kind, begin, stop in _boxes(file, start, end) if kind == wanted), None)


def _scale_and_duration(file: BinaryIO, at: int) -> tuple[int, int]:
    skipped, form = (20, ">IQ") if _read(file, at, 1) == b"\1" else (12, ">II")
    scale, duration = struct.unpack(form, _read(file, at + skipped, struct.calcsize(form)))
    return scale, duration


def _edited(file: BinaryIO, at: int) -> int:
    """Sum of the parts of an edit list in which something is shown."""
    form = ">Qqi" if _read(file, at, 1) == b"\1" else ">Iii"
    count = struct.unpack(">I", _read(file, at + 4, 4))[0]
    entries = _read(file, at + 8, min(count, 100_000) * struct.calcsize(form))
    return sum(duration for duration, begin, _ in struct.iter_unpack(form, entries) if begin >= 0)


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
