"""Pictures whose end never came, though their file has one: decoders make pixels out of what lies there instead.

Some downloaders make room for the whole file first, and some file systems leave zeros after a crash; of HEIC, whose
tiles are pictures of their own, even those are left out that the file is too short for.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from densecli.sources import iso_boxes

# A block of a file system. No compressed picture holds so many in a row; what lies behind its end may.
_ZEROS = 4096
_END_OF_PNG = b"IEND\xaeB`\x82"


def lacks_its_end(file: BinaryIO, format: str | None) -> bool:
    """Whether a picture is cut off, or goes on in zeros. format: as Pillow names it. The place in the file stays."""
    position = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        if format == "HEIF" and iso_boxes.end(file) > size:
            return True
        return _zeros_before(file, size) and _zeros_before(file, min(size, _end(file, size, format)))
    finally:
        file.seek(position)


def _zeros_before(file: BinaryIO, end: int) -> bool:
    file.seek(max(0, end - _ZEROS))
    return end >= _ZEROS and not file.read(_ZEROS).strip(b"\0")


def _end(file: BinaryIO, size: int, format: str | None) -> int:
    """Where the picture ends by what the file says; 0 for formats of which zeros may be the last bytes."""
    file.seek(0)
    if format == "WEBP":
        return 8 + int.from_bytes(file.read(8)[4:], "little")
    if format in ("AVIF", "HEIF"):
        return iso_boxes.end(file)
    if format == "PNG":
        found = file.read().rfind(_END_OF_PNG)
    elif format in ("JPEG", "MPO"):
        found = _end_of_jpeg(file.read())
    else:
        return 0
    return size if found < 0 else found


def _end_of_jpeg(data: bytes) -> int:
    """Where its end is marked; below 0 where that is nowhere. Segments may hold a preview, with an end of its own."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"", b"\xda"):
        fill = data[at + 1] == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at)  # in pixels, 0xFF is followed by 0 or a restart's number
