"""The boxes of ISO base media (ISO/IEC 14496-12), in which HEIC, AVIF and most videos lie."""

from __future__ import annotations

import os
from typing import BinaryIO

_OF_PICTURES = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"idat", b"uuid")


def brands(head: bytes) -> bytes:
    """The brands by which video, HEIC and AVIF tell themselves apart, from a file's first bytes; else nothing."""
    return head[8 : max(12, min(int.from_bytes(head[:4], "big"), 256))] if head[4:8] == b"ftyp" else b""


def end(file: BinaryIO) -> int:
    """Where a picture's boxes say that they end, which may be beyond the file; what others put behind is left out."""
    size, begin = file.seek(0, os.SEEK_END), 0
    while begin < size:
        file.seek(begin)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind not in _OF_PICTURES:
            break
        if length == 0:  # to the end, wherever that is
            return size
        begin += max(int.from_bytes(header[8:16], "big") if length == 1 else length, 8)
    return begin
