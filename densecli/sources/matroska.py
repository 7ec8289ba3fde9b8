"""What a Matroska or WebM file says of itself in words that OpenCV does not pass on: its size, and its pictures."""

from __future__ import annotations

import os
from typing import BinaryIO

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067
_TRACKS, _TRACK, _TRACK_NUMBER, _TRACK_TYPE = 0x1654AE6B, 0xAE, 0xD7, 0x83
_CLUSTER, _GROUP, _BLOCKS = 0x1F43B675, 0xA0, (0xA1, 0xA3)
_ENTERED = frozenset([_SEGMENT, _TRACKS, _TRACK, _CLUSTER, _GROUP])
_INVISIBLE = 0x08
_PICTURES = 1


def is_whole_matroska(path: str) -> bool | None:
    """Whether a local Matroska or WebM file is as long as it says; None for other files, and where it does not say."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if _id(file) != _HEADER or (header := _size(file)) is None:
                return None
            file.seek(header, os.SEEK_CUR)
            if _id(file) != _SEGMENT or (size := _size(file)) is None:
                return None
            return file.tell() + size <= length
    except (OSError, IndexError):
        return None


def pictures_in_matroska(path: str) -> int | None:
    """How many pictures the first video of a local Matroska or WebM file has; None where that cannot be told.

    Looks at each block's first bytes: a file says nowhere how many there are.
    """
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            return _pictures(file, length) if _id(file) == _HEADER and file.seek(0) == 0 else None
    except (OSError, IndexError):
        return None


def _pictures(file: BinaryIO, length: int) -> int | None:
    # Elements in which others lie are entered rather than measured: some have no size.
    count, track, video = 0, None, None
    while file.tell() < length:
        kind, size = _id(file), _size(file)
        if kind in _ENTERED:
            continue
        if kind == 0 or size is None:
            return None
        after = file.tell() + size
        if kind == _TRACK_NUMBER:
            track = int.from_bytes(file.read(size), "big")
        elif kind == _TRACK_TYPE and int.from_bytes(file.read(size), "big") == _PICTURES and video is None:
            video = track
        elif kind in _BLOCKS and _size(file) == video:
            count += not file.read(3)[2] & _INVISIBLE
        file.seek(after)
    return count if video is not None else None


def _id(file: BinaryIO) -> int:
    """What an element is; 0 where there is none."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    return int.from_bytes(bytes([first]) + file.read(more), "big") if more < 4 else 0


def _size(file: BinaryIO) -> int | None:
    """A number whose leading zero bits say how many bytes it has; all ones: unknown."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(more), "big") - (1 << 7 * (more + 1))
    return value if first and value < (1 << 7 * (more + 1)) - 1 else None
