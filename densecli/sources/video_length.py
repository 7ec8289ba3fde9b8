"""What a video file says of its own length in words that OpenCV does not pass on: MP4's edit lists."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_MP4_BEGINS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def mp4_seconds(path: str) -> tuple[float, float] | None:
    """For how long a local MP4 or MOV shows pictures, and for how long it has them: an edit list may hide some.

    None for other files, and where the file does not say.
    """
    try:
        with open(path, "rb") as file:
            return _mp4_seconds(file, file.seek(0, os.SEEK_END))
    except (OSError, struct.error, ZeroDivisionError):
        return None


def counts_frames(path: str) -> bool:
    """Whether a local file is of a kind that counts its frames; of others, FFmpeg guesses by their length and rate."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] in _MP4_BEGINS or (head[:4], head[8:]) == (b"RIFF", b"AVI ")


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
